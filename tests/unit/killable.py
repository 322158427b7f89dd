# SPDX-License-Identifier: Apache-2.0
"""The process that the kill matrix kills: antipode with its databases, locks and threads; clouds
and vault are the test's, over a socket.

Started once (it imports once) and given jobs on stdin: each is done by a fork, whose process id and
exit code it prints. The first job of its kind that is not to be killed is done by this process
itself: queries are compiled and mappers are configured then for all forks.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import secrets
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Client, Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import taskflow.engines
from sqlalchemy import Engine
from taskflow import states

from antipode import config, processes
from antipode.cloud import site as cloud_site
from antipode.cloud import watch
from antipode.cloud.api import Api, Reply
from antipode.cloud.image_bytes import Content
from antipode.cloud.site import Site
from antipode.engine import deployment, execution, flows, parts
from antipode.engine import watch as run_watch
from antipode.engine.timeline import Unobserved
from antipode.errors import Aborted, DnsRecordChanged
from antipode.freezes import reaper
from antipode.model.dns import RecordSet, RecordType
from antipode.model.plan_file import PlanFile
from antipode.model.runbook import RunbookStep
from antipode.mover import lock
from antipode.mover.child import Turn
from antipode.mover.job import Outcome, VolumeJob
from antipode.operations import (
    abort,
    commit,
    dns,
    drill,
    expiry,
    failover,
    fence,
    migrate,
    plans,
    precheck,
    protect,
    recovery_points,
    reprotect,
    resume,
    standing,
    undo,
)
from antipode.protect.quiesced_snapshot import window
from antipode.protect.server_snapshot import image_booted, member
from antipode.recover import fencing, rollback, switching
from antipode.recover import standing as standing_volumes
from antipode.recover.dns import DnsProvider
from antipode.runs import failover_checks, kind_of, old_copy_removal, orphans, runbook
from antipode.runs import fence as fence_run
from antipode.runs import reprotect as reprotect_run
from antipode.runs.actions import Occasion
from antipode.runs.failover_checks import Accepted
from antipode.store import database
from antipode.store.questions import Questions
from antipode.store.runs import Runs
from antipode.store.tables import QuestionRow
from antipode.transfer import replication
from antipode.vault import Vault
from tests.unit import fakestorage, twosites
from tests.unit.unstarted import answered_here


def settings(folder: Path, *, has_mover: bool = False) -> config.Config:
    """The configuration of a deployment whose files are in a folder: as data, since all that a file
    would add is the time to read it.

    Args:
        has_mover: whether there is a backup store, and volumes are written at site-b from it, by
            `AskedMover`.
    """
    storages: dict[str, Any] = {
        "mirror": {"driver": fakestorage.DRIVER, "sites": {"site-a": {}, "site-b": {}}}
    }
    for storage, name in (("pg", "records"), ("kv", "log")):
        there = {"commands": {v: [str(folder / f"{name}-command")] for v in twosites.VERBS}}
        sites = {"site-a": there, "site-b": there}
        storages[storage] = {"driver": "command", "sites": sites}
    return config.Config.model_validate(
        {
            "sites": {
                "site-a": {"cloud": "a"},
                "site-b": {"cloud": "b", **({"mover": {}} if has_mover else {})},
            },
            "vault": {"directory": str(folder)},
            "database": f"sqlite:///{folder / 'antipode.db'}",
            "storages": storages,
            **({"backup_store": {"cloud": "c", "container": "backups"}} if has_mover else {}),
        }
    )


_of_thread = threading.local()
_connections: list[Connection] = []
_address = ""


def ask(*question: Any) -> Any:
    """Ask the test's process; it may kill this one instead of answering."""
    if not hasattr(_of_thread, "connection"):
        _of_thread.connection = Client(_address)
        _connections.append(_of_thread.connection)
    _of_thread.connection.send(question)
    answer = _of_thread.connection.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


class AskedVault(Vault):
    place = "the test's vault"

    def put(self, name: str, document: bytes) -> None:
        ask("vault", "put", name, document)

    def create(self, name: str, document: bytes) -> bool:
        return bool(ask("vault", "create", name, document))

    def get(self, name: str) -> bytes:
        return bytes(ask("vault", "get", name))

    def list(self, prefix: str) -> list[str]:
        return list(ask("vault", "list", prefix))

    def delete(self, name: str) -> None:
        ask("vault", "delete", name)


class AskedStore:
    """A backup store that holds the same digests for every backup."""

    def under(self, _go_on: object) -> AskedStore:
        return self

    def get(self, container: str, name: str) -> bytes:
        if name.endswith("_metadata"):
            return json.dumps({"objects": [{name.replace("_metadata", "-00001"): {}}]}).encode()
        assert name.endswith("_sha256file"), name
        return json.dumps({"chunk_size": 1 << 29, "sha256s": ["0" * 64] * 2}).encode()

    def listing(self, container: str, prefix: str = "") -> list[Any]:
        of = prefix.removesuffix("_metadata")
        names = (f"{of}-00001", f"{of}_metadata", f"{of}_sha256file")
        return [SimpleNamespace(name=n, bytes=1, etag="") for n in names if n.startswith(prefix)]


class AskedMover:
    """A mover that has the test's process note what each volume holds."""

    missing = ""

    def __init__(self, locks: Path) -> None:
        self.locks = locks

    @contextmanager
    def turn(self, volumes: int) -> Iterator[Turn]:
        yield self

    def carry(
        self, claim: str, volumes: list[VolumeJob], go_on: Callable[[], None]
    ) -> dict[str, Outcome]:
        assert lock.take(self.locks / claim)
        for job in volumes:
            about = job.chain[-1].volume_id
            ask("write", job.volume, about, None)
            ask("write", job.volume, about, job.wanted)
        return {job.volume: Outcome(volume=job.volume, data=1) for job in volumes}


class AskedStreams:
    """The bytes of images as bodies of calls; see `CalledStreams` of the cloud double."""

    def __init__(self, api: Api) -> None:
        self._api = api

    @contextmanager
    def read(self, image_id: str, begin: int = 0) -> Iterator[Iterator[bytes]]:
        yield iter([self._api.call("GET", f"/images/{image_id}/file", params={"begin": begin})])

    def write(self, image_id: str, content: Content) -> None:
        whole = b"".join(content)
        self._api.call("PUT", f"/images/{image_id}/file", {"content": whole})


class AskedZone(DnsProvider):
    """A zone of the test's process."""

    place = "the test's zone"

    def __init__(self) -> None:
        zone = {"rfc2136": {"server": "192.0.2.53", "zone": "vnf.example", "key_file": "/k"}}
        settings = {
            "sites": {"a": {"cloud": "a"}},
            "vault": {"directory": "/v"},
            "dns": {"core": zone},
        }
        super().__init__("core", config.Config.model_validate(settings))

    def read(self, name: str, kind: RecordType) -> RecordSet | None:
        found: RecordSet | None = ask("dns", "get", f"{name} {kind}")
        return found

    def replace(self, old: RecordSet | None, new: RecordSet | None) -> None:
        subject = new or old
        assert subject is not None
        if not ask("dns", "replace", subject.key, old, new):
            raise DnsRecordChanged(subject.key)

    def try_rights(self, present: RecordSet | None, wanted: RecordSet) -> str:
        return "it may be changed"


def connect(name: str, cloud: str) -> Site:
    def service(which: str, newest: tuple[int, int] | None) -> Api:
        def send(
            method: str,
            path: str,
            *,
            json: Any,
            params: Any,
            microversion: str | None,
            timeout: float | None,
        ) -> Reply:
            return Reply(*ask("call", name, which, method, path, json, params))

        return Api(name, which, send, newest)

    ask("connect", name)
    site = Site(
        name,
        project_id="project-1",
        user_id="user-1",
        roles=["admin"],
        compute=service("compute", (2, 96)),
        volume=service("volume", (3, 70)),
        network=service("network", None),
    )
    site._image = image = service("image", None)
    site._image_streams = lambda gate: AskedStreams(image.behind(gate))
    return site


def load_with_points(*arguments: Any, **options: Any) -> Any:
    """Tell of each task of the flow when it begins, when it is done, and when its result is
    kept.
    """
    for task, _ in arguments[0].iter_nodes():

        def execute(do: Any = task.execute, name: str = task.name, **given: Any) -> Any:
            ask("point", f"task {name} begins")
            result = do(**given)
            ask("point", f"task {name} is done")
            return result

        task.execute = execute
    engine = load(*arguments, **options)
    engine.atom_notifier.register(
        states.SUCCESS, lambda _state, details: ask("point", f"task {details['task_name']} is kept")
    )
    return engine


def with_points(owner: Any, method: str) -> None:
    """Tell when a method begins and when it is done."""
    do = getattr(owner, method)

    def tell_and_do(*arguments: Any, **options: Any) -> Any:
        ask("point", f"{method} begins")
        result = do(*arguments, **options)
        ask("point", f"{method} is done")
        return result

    setattr(owner, method, tell_and_do)


def unsynced(connection: Any, _record: object) -> None:
    for pragma in (
        "journal_mode = WAL",
        "busy_timeout = 30000",
        "synchronous = OFF",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def with_one_cache(make: Any) -> Any:
    """What makes engines, so that each has the compiled queries of the first."""
    first: list[Engine] = []

    def engine(*arguments: Any, **options: Any) -> Engine:
        made: Engine = make(*arguments, **options)
        first[:] = first or [made]
        made.dialect = made.pool._dialect = first[0].dialect
        made._compiled_cache = first[0]._compiled_cache
        return made

    return engine


def answered(questions: Questions, question: QuestionRow) -> QuestionRow:
    """Ask, and have an operator say yes at once."""
    asked = put(questions, question)
    ask("point", "question is asked")
    if asked.answered_at is None:
        asked = questions.answer(asked.run, asked.step, "yes", "alice@host")
    ask("point", "question is answered")
    return asked


def a_plan(vnf: str) -> plans.Source:
    """A plan with steps before and after its only group."""
    steps = [
        {"name": "first", "before": "all", "command": ["true"]},
        {"name": "then", "after": "g", "wait": 0.01},
    ]
    fields = {"plan": "p", "to": "site-b", "groups": [{"name": "g", "vnfs": [vnf]}], "steps": steps}
    return plans.Source(PlanFile.model_validate(fields), "from a test")


def of_data(words: Sequence[str], request: bytes, *rest: Any, **more: Any) -> Any:
    """The command of an application's data answers; tell of what changes it."""
    asked = json.loads(request)
    changes = asked["verb"] in ("point", "promote", "demote", "resync")
    point = f"{asked['verb']} at {asked['site']}"
    if changes:
        ask("point", point)
    found = answered_here(words, request, *rest, **more)
    if changes:
        ask("point", f"{point}, not answered")
    return found


def done_with_points(occasion: Occasion, step: RunbookStep) -> None:
    """Do a step of a runbook; tell when it begins and when it is done, and not yet kept."""
    ask("point", f"step {step.name} begins")
    do_step(occasion, step)
    ask("point", f"step {step.name} is done")


put = Questions.ask
do_step = runbook.do
load = taskflow.engines.load
LATE = (
    "sqlalchemy.dialects.sqlite",
    "taskflow.engines.action_engine.engine",
    "antipode.recover.sources.backup",
    "antipode.recover.sources.image",
    "antipode.recover.sources.replicated",
    "antipode.recover.sources.proof",
)
"""What antipode's modules import only while they work; imported once for all forks."""


def prepare() -> None:
    """Short pauses, the test's clouds, and points to be killed at."""
    window.POLL_S = rollback.POLL_S = member.POLL_S = 0.005
    image_booted.POLL_S = fencing.POLL_S = switching.POLL_S = parts.LOOK_S = 0.005
    fence_run.POLL_S = reprotect_run.POLL_S = 0.005
    member.NOVA_LOOKS_S = member.UPDATED_EVERY_S = 0.0
    run_watch.LOOK_S = abort.LOOK_S = 0.05
    reaper.EVERY_S = 0.1
    old_copy_removal.must_be_replaced = lambda standing: None
    secrets.token_hex = lambda _bytes: "1a2b3c"  # type: ignore[assignment,misc]
    for wait in (watch.Watch.wait_for, watch.Watch.wait_gone):
        assert wait.__kwdefaults__ is not None
        wait.__kwdefaults__["interval_s"] = 0.005
    # a killed process loses nothing that the kernel has; only a power cut would need the disk
    database._prepare_sqlite = flows._prepare_sqlite = unsynced
    database._connected = with_one_cache(database._connected)
    flows.create_engine = with_one_cache(flows.create_engine)  # type: ignore[attr-defined]
    cloud_site.connect = connect  # type: ignore[assignment]
    deployment.Deployment.dns = lambda *_: AskedZone()  # type: ignore[method-assign]
    deployment.Deployment._open = lambda *_: AskedVault()  # type: ignore[method-assign]
    taskflow.engines.load = load_with_points
    replication.LOOK_S = 0.005
    processes.ask = of_data  # type: ignore[assignment]
    fakestorage.install(lambda *question: ask("storage", *question))
    runbook.do = done_with_points
    Questions.ask = answered  # type: ignore[method-assign,assignment]
    for method in ("create", "claim", "begin_ending", "end"):
        with_points(Runs, method)
    with_points(flows.Flows, "forget")


def do(job: dict[str, Any]) -> None:
    with ExitStack() as patches:
        for owner, name, value in patched(job):
            patches.enter_context(mock.patch.object(owner, name, value))
        do_as_patched(job)


def patched(job: dict[str, Any]) -> Iterator[tuple[Any, str, Any]]:
    """What else the test replaces for one job."""
    if job["stands"]:
        yield deployment.Deployment, "store", lambda *_: AskedStore()
        yield deployment.Deployment, "store_of", lambda *_: AskedStore()
        locks = Path(job["folder"]) / "locks"
        yield deployment.Deployment, "mover", lambda *_, **__: AskedMover(locks)
        yield standing_volumes, "new_claim", lambda: uuid.uuid4().hex
    compares = ("verify", "drill", "plan drill", "plan-drill")
    if job["what"].startswith(compares) or job.get("run", "").startswith(compares):
        yield deployment.Deployment, "store", lambda *_: AskedStore()
        yield deployment.Deployment, "store_of", lambda *_: AskedStore()
        yield config.Config, "site_of_store", lambda *_: None
        yield failover_checks, "store_warnings", lambda *_: []
        yield config.Config, "store_name", lambda *_: "backups"


def do_as_patched(job: dict[str, Any]) -> None:
    here = deployment.Deployment(settings(Path(job["folder"]), has_mover=job["stands"]))
    match what := job["what"]:
        case "standing apply" | "standing apply of the first":
            made = [n for n in here.vault.list(f"{job['vnf']}/") if n.count("/") == 1]
            first = None if what == "standing apply" else Path(min(made)).stem
            row = standing.request(here, job["vnf"], "site-b", first)
            standing.apply(here, row, Unobserved())
        case "standing removal":
            standing.remove(here, job["vnf"], "site-b")
        case (
            "protect"
            | "protect by replication"
            | "protect with data"
            | "protect of the standby"
            | "protect of a volume group"
        ):
            protect.protect(here, job["vnf"], Unobserved())
        case "protect by server-snapshot" | "protect by server-snapshot, from an image":
            protect.protect(here, job["vnf"], Unobserved(), option="server-snapshot")
        case (
            "failover"
            | "failover from states"
            | "failover with a runbook"
            | "failover with data"
            | "failover to clones"
        ):
            prepared = failover.prepare(here, job["vnf"], "site-b", None)
            failover.failover(here, prepared, Unobserved())
        case "failover from heads":
            taken = Accepted(newest_heads=True)
            prepared = failover.prepare(here, job["vnf"], "site-b", None, taken)
            failover.failover(here, prepared, Unobserved())
        case "failover that fences":
            prepared = failover.prepare(here, job["vnf"], "site-b", None)
            row = failover.request(prepared, "required")
            failover.failover(here, prepared, Unobserved(), row)
        case "expire":
            expiry.expire(here, job["vnf"], Unobserved())
        case "verify":
            row = recovery_points.deep_request(here, job["vnf"], None)
            recovery_points.verify_deep(here, row, Unobserved())
        case "drill" | "drill that is kept":
            row = drill.request(drill.prepare(here, job["vnf"]), None if what == "drill" else 3600)
            drill.drill(here, row, Unobserved())
        case "drill cleanup":
            site, rows = drill.uncleaned(here, job["vnf"])
            row = drill.cleanup_request(job["vnf"], site, [r.id for r in rows])
            drill.cleanup(here, row, Unobserved())
        case "precheck":
            precheck.precheck(here, precheck.request(here, job["vnf"]), Unobserved())
        case "fence":
            fence.fence(
                here, fence.request(fence.prepare(here, job["vnf"], "site-a")), Unobserved()
            )
        case "old copy removal":
            old = fence_run.must_be_old(here, job["vnf"], "site-a")
            row = old_copy_removal.requested(old.state, "site-a")
            with here.claims.begin(row) as claim:
                execution.execute(here, old_copy_removal.KIND, claim, Unobserved())
        case "migrate":
            migrate.migrate(here, migrate.request(migrate.prepare(here, job["vnf"])), Unobserved())
        case _ if what.startswith("plan "):
            verb = what.removeprefix("plan ")
            prepared_plan = plans.prepare(here, a_plan(job["vnf"]), verb)
            assert not prepared_plan.in_the_way, prepared_plan.in_the_way
            row = plans.request(prepared_plan)
            plans.carry_out(here, prepared_plan.kind, row, Unobserved())
        case "dns switch":
            dns.switch(here, dns.request(dns.prepare(here, job["vnf"])), Unobserved())
        case "reprotect":
            row = reprotect.request(reprotect.prepare(here, job["vnf"], "remove"))
            reprotect.reprotect(here, row, Unobserved())
        case "failover that can be undone" | "failover, then fence":
            prepared = failover.prepare(here, job["vnf"], "site-b", None)
            within_s = 86400.0 if "undone" in what else None
            row = failover.request(prepared, undo_within_s=within_s)
            failover.failover(here, prepared, Unobserved(), row)
            fenced = fence.prepare(here, job["vnf"], "site-a")
            fence.fence(here, fence.request(fenced), Unobserved())
        case "undo":
            undo.undo(here, undo.request(undo.prepare(here, job["vnf"])), Unobserved())
        case "commit":
            row = commit.request(commit.prepare(here, job["vnf"]))
            commit.commit(here, row, Unobserved())
        case "resume":
            resume.resume(here, job["run"], Unobserved())
        case "abort":
            abort.abort(here, job["run"], Unobserved())
        case "conduct":
            with here.claims.take(job["run"]) as claim:
                kind = kind_of(here.runs.get(job["run"]).kind)
                execution.execute(here, kind, claim, Unobserved())
        case "clean up":
            orphans.collect(here)


def attempt(job: dict[str, Any]) -> int:
    """Do a job; the exit code."""
    global _address, _of_thread
    _address, _of_thread = job["address"], threading.local()
    os.environ["NOTES"] = job["folder"]
    try:
        do(job)
    except Aborted:
        return 3
    except BaseException:
        Path(job["errors"]).write_text(traceback.format_exc())
        return 1
    return 0


def forked(job: dict[str, Any]) -> None:
    if (pid := os.fork()) == 0:
        os._exit(attempt(job))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def in_this_process(job: dict[str, Any]) -> None:
    print(os.getpid(), flush=True)
    code = attempt(job)
    for thread in threading.enumerate()[1:]:  # a run does not wait for those of its pools
        thread.join(60)
    while _connections:
        _connections.pop().close()
    alive = [thread.name for thread in threading.enumerate()[1:]]
    print(code if not alive else f"{alive} have not ended", flush=True)


def main() -> None:
    for module in LATE:
        importlib.import_module(module)
    prepare()
    gc.freeze()  # what is there by now need not be looked through in each fork
    known: set[str] = set()
    for line in sys.stdin:
        job = json.loads(line)
        kind = f"{job['what']} {job.get('run', '').partition('-')[0]}"
        if job["is_killed"] or kind in known:
            forked(job)
        else:
            in_this_process(job)
            known.add(kind)
            gc.freeze()


if __name__ == "__main__":
    main()

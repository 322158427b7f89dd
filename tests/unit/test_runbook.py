# SPDX-License-Identifier: Apache-2.0
"""The runbook: its steps are done in their places, once, by the verbs that they are for; a run that
asks an operator waits for the answer, in whichever process.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from antipode import config, identity, processes
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.run import WAITING, new_run, state_of
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    Aborted,
    AntipodeError,
    Busy,
    Halted,
    InvalidInput,
    NotFound,
    PreflightFailed,
    StepFailed,
)
from antipode.model.point_v2 import misfits
from antipode.model.runbook import RunbookStep
from antipode.model.vnf import Vnf
from antipode.operations import drill as drilling
from antipode.operations import failover as failing
from antipode.operations import migrate as migrating
from antipode.operations.abort import abort
from antipode.operations.answer import answer, open_step
from antipode.operations.resume import resume
from antipode.recover import switching
from antipode.runs import actions, kind_of, runbook
from antipode.service.conductor import Conductor
from antipode.store.tables import QuestionRow, RunRow
from antipode.vault import generations, points
from tests.unit import samples
from tests.unit.test_durable_runs import VNF, InBackground, World, until, world

__all__ = ["world"]
Json = dict[str, Any]
ASK = {"name": "power", "after": "all", "prompt": "Is the power back?"}


def step(name: str, **fields: Any) -> Json:
    """A step that is a command, if it is nothing else."""
    if not {"wait", "prompt", "command", "http", "script"} & fields.keys():
        fields["command"] = [name]
    return {"name": name, **fields}


def with_runbook(*steps: Json, vnf: Vnf = VNF) -> Vnf:
    return Vnf.model_validate(vnf.model_dump(mode="json") | {"steps": list(steps)})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "LOOK_S", 0.01)
    monkeypatch.setattr(runbook, "RETRY_S", 0.01)
    monkeypatch.setattr(switching, "POLL_S", 0.005)


class Commands:
    """Commands that are played: what they were, among the events of the backup site."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.environments: list[Json] = []
        self.codes: dict[str, list[int | None]] = {}
        """by command: its exit codes, one after another; 0 when there are no more"""

    def run(self, argv: list[str], within_s: float, **more: Any) -> processes.Ended:
        self._world.b.events.append("run " + " ".join(argv))
        self.environments.append(more["environment"])
        codes = self.codes.get(argv[0])
        return processes.Ended(codes.pop(0) if codes else 0, "")


@pytest.fixture
def commands(world: World, monkeypatch: pytest.MonkeyPatch) -> Commands:
    played = Commands(world)
    monkeypatch.setattr(processes, "run", played.run)
    return played


def place_of(world: World, event: str) -> int:
    return world.b.events.index(event)


def ran(world: World, command: str) -> int:
    return world.b.events.count(f"run {command}")


def newest(world: World, kind: str = "failover") -> RunRow:
    return next(r for r in world.here.runs.all("v") if r.kind == kind)


def asks(world: World) -> QuestionRow:
    """The question that is open, once there is one."""
    until(world.here.questions.open)
    return world.here.questions.open()[0]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"after": "all"}, "give one of"),
        ({"after": "all", "wait": 1, "command": ["x"]}, "give one of"),
        ({"wait": 1}, "before or after"),
        ({"wait": 1, "before": "all", "after": "all"}, "before or after"),
        ({"wait": 1, "before": "all", "within": 3}, "time limit"),
        ({"wait": 1, "before": "all", "on": "protect"}, "drill"),
        ({"wait": 1, "before": "all", "on": []}, "at least 1"),
        ({"wait": 0, "before": "all"}, "greater than 0"),
        ({"command": ["x"], "before": "all", "on_error": "retry(0)"}, "retry"),
        ({"command": ["x"], "before": "all", "on_error": "shrug"}, "retry"),
        ({"prompt": " ", "before": "all"}, "at least 1"),
    ],
)
def test_a_step_that_is_not_whole_is_refused(wrong: Json, word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        RunbookStep.model_validate({"name": "s", **wrong})


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ([step("a", before="all"), step("a", after="all")], "twice"),
        ([step("a", before=["nothing"])], "not a member"),
        ([step("a", before="all", to="site-z")], "not a site"),
        # front waits for db, and db for front by these
        ([step("a", after=["front"], on="drill"), step("b", before=["db"])], None),
        ([{"name": "a", "after": ["db", "front"], "wait": 1}], "cycle"),
    ],
)
def test_steps_that_do_not_fit_their_vnf_are_refused(wrong: list[Json], word: str | None) -> None:
    third = {"server": "third", "boot_after": ["db"], "boot_before": ["front"]}
    vnf = VNF.model_dump(mode="json")
    vnf["members"] = [*vnf["members"], third]
    if word is None:
        Vnf.model_validate({**vnf, "steps": wrong})
        return
    with pytest.raises(ValidationError, match=word):
        Vnf.model_validate({**vnf, "steps": wrong})


def test_steps_are_done_in_their_places(world: World, commands: Commands) -> None:
    world.here.vnfs.put(
        with_runbook(
            step("last-1", after="all"),
            step("last-2", after="all"),
            step("first-1", before="all"),
            step("first-2", before="all"),
            step("db-is-there", after="db"),
            step("before-front", before=["front"]),
            step("again-before-front", before=["front"]),
        )
    )
    world.failover()
    made = [e for e in world.b.events if e.startswith(("restore", "boot", "port", "run"))]
    assert made[:2] == ["run first-1", "run first-2"]
    assert made[-2:] == ["run last-1", "run last-2"]
    assert place_of(world, "boot db") < place_of(world, "run db-is-there")
    assert place_of(world, "run db-is-there") < place_of(world, "boot front")
    assert place_of(world, "boot db") < place_of(world, "run before-front")
    assert place_of(world, "run before-front") < place_of(world, "run again-before-front")
    assert place_of(world, "run again-before-front") < place_of(world, "boot front")


def test_a_drill_does_only_the_steps_that_are_for_drills(world: World, commands: Commands) -> None:
    world.here.vnfs.put(
        with_runbook(
            step("by-default", before="all"),
            step("drill-only", after="db", on=["drill"]),
            step("elsewhere", after="all", on=["drill"], to="site-a"),
        )
    )
    prepared = drilling.prepare(world.here, "v")
    assert [p.step.name for p in prepared.plan.steps] == ["drill-only"]
    drilling.drill(world.here, drilling.request(prepared), Unobserved())
    assert [e for e in world.b.events if e.startswith("run")] == ["run drill-only"]
    assert commands.environments[0]["ANTIPODE_VERB"] == "drill"


def test_a_command_gets_the_occasion_in_words_and_variables_and_one_key_for_each_attempt(
    world: World, commands: Commands
) -> None:
    words = ["check", "{vnf}@{site}", "{verb}", "{}", "$HOME"]
    commands.codes["check"] = [1]
    world.here.vnfs.put(
        with_runbook(step("check", after="all", command=words, on_error="retry(1)"))
    )
    record = world.failover()
    assert ran(world, "check v@site-b failover {} $HOME") == 2
    first, second = commands.environments
    assert first == second
    assert first["ANTIPODE_KEY"] == f"{record['run']}/check"
    assert first["ANTIPODE_RECOVERY_POINT"] == record["recovery_point"]


def test_a_failing_step_stops_the_run_and_a_resume_does_it_again_and_none_that_was_done(
    world: World, commands: Commands
) -> None:
    commands.codes["bad"] = [1]
    world.here.vnfs.put(with_runbook(step("good", before="all"), step("bad", after="db")))
    with pytest.raises(StepFailed) as failed:
        world.failover()
    assert failed.value.code == "runbook-step-failed"
    assert "boot front" not in world.b.events
    resume(world.process(), newest(world).id, Unobserved())
    assert (ran(world, "good"), ran(world, "bad")) == (1, 2)
    assert newest(world).state == "succeeded"


def test_a_step_that_was_done_is_not_done_again_where_the_flow_database_is_lost(
    world: World, commands: Commands
) -> None:
    world.here.vnfs.put(with_runbook(step("once", before="all"), step("bad", after="all")))
    commands.codes["bad"] = [1]
    with pytest.raises(StepFailed):
        world.failover()
    for file in world.folder.glob("flows.db*"):
        file.unlink()
    resume(world.process(), newest(world).id, Unobserved())
    assert (ran(world, "once"), ran(world, "bad")) == (1, 2)


def test_no_step_is_done_by_a_failover_in_whose_place_another_was_begun(
    world: World, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm = generations.confirm

    def lost_after_the_boot(*claim: Any) -> None:
        if "boot db" in world.b.events:
            raise Busy("another failover has the generation")
        confirm(*claim)

    monkeypatch.setattr(generations, "confirm", lost_after_the_boot)
    world.here.vnfs.put(with_runbook(step("first", before="all"), step("traffic", after="db")))
    with pytest.raises(Busy):
        world.failover()
    assert (ran(world, "first"), ran(world, "traffic")) == (1, 0)


def test_an_error_is_ignored_or_tried_again_as_the_step_says(
    world: World, commands: Commands
) -> None:
    commands.codes |= {"never": [1, 1, 1], "later": [1, None]}
    world.here.vnfs.put(
        with_runbook(
            step("never", before="all", on_error="ignore"),
            step("later", before="all", on_error="retry(2)"),
        )
    )
    world.failover()
    assert (ran(world, "never"), ran(world, "later")) == (1, 3)
    commands.codes["later"] = [1, 1]
    steps = [s.state for s in world.here.runs.steps(newest(world).id) if s.resource == "later"]
    assert steps == ["failed", "failed", "succeeded"]


def test_a_command_that_does_not_end_in_time_is_killed_with_what_it_has_started() -> None:
    script = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '600'])"
    assert processes.run([sys.executable, "-c", script], 0.5).code is None


def test_a_command_is_killed_when_its_run_is_aborted(world: World) -> None:
    pid = world.folder / "pid"
    command = ["sh", "-c", f"echo $$ > {pid}.part; mv {pid}.part {pid}; exec sleep 600"]
    world.here.vnfs.put(with_runbook(step("slow", before="all", command=command, within="10m")))
    running = InBackground(lambda: world.failover(world.process()))
    until(pid.exists)
    abort(world.here, newest(world).id, Unobserved())
    running.join()
    assert isinstance(running.error, Aborted)
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_a_wait_counts_from_its_first_begin_also_in_another_process(
    world: World, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.here.vnfs.put(with_runbook(step("settle", before="all", wait=86400)))
    here, halt = world.process(), threading.Event()
    row = failing.request(failing.prepare(here, "v", "site-b", None))

    def until_halted() -> None:
        with here.claims.begin(row) as claim:
            execute(here, kind_of("failover"), claim, Unobserved(), halt)

    run = row.id
    waiting = InBackground(until_halted)
    until(lambda: any(s.resource == "settle" for s in world.here.runs.steps(run)))
    halt.set()
    waiting.join()
    assert isinstance(waiting.error, Halted)
    a_day_later = time.time() + 86400
    monkeypatch.setattr(actions, "time", Clock(a_day_later))
    resume(world.process(), newest(world).id, Unobserved())
    assert newest(world).state == "succeeded"


class Clock:
    def __init__(self, now: float) -> None:
        self._ahead_s = now - time.time()
        self.sleep, self.monotonic = time.sleep, time.monotonic

    def time(self) -> float:
        return time.time() + self._ahead_s


def test_a_clock_that_was_set_back_makes_no_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = SimpleNamespace(started_at=time.time() + 86400)
    monkeypatch.setattr(actions, "kept_of", lambda *_: [begun])
    patience = iter(range(3))
    occasion: Any = SimpleNamespace(run=SimpleNamespace(go_on=lambda: next(patience)))
    under_way: Any = SimpleNamespace(waits_for=lambda _: None)
    actions._wait(
        occasion, RunbookStep.model_validate(step("settle", before="all", wait=0.01)), under_way
    )


def test_a_run_waits_for_an_answer_that_may_come_from_another_process(world: World) -> None:
    world.here.vnfs.put(with_runbook(ASK))
    recovering = InBackground(lambda: world.failover(world.process()))
    question = asks(world)
    run = newest(world)
    assert (question.run, question.step, question.wants) == (run.id, "power", "yes-no")
    assert state_of(run, world.here) == WAITING
    assert open_step(world.here, run.id) == "power"
    record = answer(world.process(), run.id, "power", True)
    recovering.join()
    assert recovering.error is None
    assert (record["answer"], record["answered_by"]) == ("yes", identity.current())
    [done] = [s for s in world.here.runs.steps(run.id) if s.resource == "power"]
    assert done.result == {"answer": "yes", "by": identity.current()}
    assert newest(world).state == "succeeded"


def test_a_no_stops_the_run_whatever_the_step_says_of_errors_and_a_resume_asks_again(
    world: World,
) -> None:
    world.here.vnfs.put(with_runbook({**ASK, "on_error": "ignore"}))
    recovering = InBackground(lambda: world.failover(world.process()))
    run = asks(world).run
    answer(world.here, run, "power", False)
    recovering.join()
    assert isinstance(recovering.error, StepFailed)
    assert newest(world).state == "failed"
    again = InBackground(lambda: resume(world.process(), run, Unobserved()))
    assert asks(world).attempt == 2
    answer(world.here, run, "power", True)
    again.join()
    assert newest(world).state == "succeeded"


def test_a_question_that_is_not_answered_in_time_is_a_failure_and_takes_no_answer_any_more(
    world: World,
) -> None:
    world.here.vnfs.put(with_runbook({**ASK, "within": 0.2, "on_error": "retry(1)"}))
    with pytest.raises(StepFailed):
        world.failover()
    asked = world.here.questions.of(newest(world).id)
    assert [q.attempt for q in asked] == [1, 2]
    with pytest.raises(InvalidInput):
        answer(world.here, newest(world).id, "power", True)


def test_an_abort_ends_a_wait_for_an_answer_and_removes_what_was_made(world: World) -> None:
    world.here.vnfs.put(with_runbook(ASK))
    recovering = InBackground(lambda: world.failover(world.process()))
    run = asks(world).run
    abort(world.here, run, Unobserved())
    recovering.join()
    assert isinstance(recovering.error, Aborted)
    assert (world.b.servers, world.b.volumes, world.b.ports) == ({}, {}, {})
    assert world.here.questions.open() == []
    with pytest.raises(InvalidInput):
        answer(world.here, run, "power", True)


def test_a_question_survives_its_process_and_is_asked_once(world: World) -> None:
    world.here.vnfs.put(with_runbook(ASK))
    here, halt = world.process(), threading.Event()
    row = failing.request(failing.prepare(here, "v", "site-b", None))

    def until_halted() -> None:
        with here.claims.begin(row) as claim:
            execute(here, kind_of("failover"), claim, Unobserved(), halt)

    waiting = InBackground(until_halted)
    run = asks(world).run
    halt.set()
    waiting.join()
    assert isinstance(waiting.error, Halted)
    record = answer(world.process(), run, "power", True)  # no process has the run
    assert record["state"] == "lost"
    resume(world.process(), run, Unobserved())
    assert [q.attempt for q in world.here.questions.of(run)] == [1]
    assert newest(world).state == "succeeded"


def test_an_answer_is_of_the_kind_that_is_wanted_and_the_first_one_stands(world: World) -> None:
    ticket = {"message": "Which ticket?", "answer": "text"}
    world.here.vnfs.put(with_runbook(step("ticket", after="all", prompt=ticket)))
    recovering = InBackground(lambda: world.failover(world.process()))
    run = asks(world).run
    for wrong in (True, False, "", " ", "x" * 5000):
        with pytest.raises(InvalidInput):
            answer(world.here, run, "ticket", wrong)
    with pytest.raises(NotFound):
        answer(world.here, run, "other", "words")
    answer(world.here, run, "ticket", "INC-4711")
    with pytest.raises(InvalidInput, match="INC-4711"):
        answer(world.here, run, "ticket", "INC-4712")
    recovering.join()
    assert recovering.error is None


def test_a_migration_asks_before_it_changes_anything_and_its_parts_ask_in_its_name(
    world: World,
) -> None:
    world.here.vnfs.put(
        with_runbook(
            step("may-begin", before="all", prompt="Begin?", on="migrate"),
            step("may-end", after="all", prompt="Does it serve?", on="migrate"),
            step("not-for-it", after="all", prompt="Why?", on=["failover", "failback", "drill"]),
        )
    )
    before = list(world.a.events)
    prepared = migrating.prepare(world.here, "v")
    assert [p.step.name for p in prepared.steps] == ["may-begin", "may-end"]
    here = world.process()
    moving = InBackground(
        lambda: migrating.migrate(here, migrating.request(prepared), Unobserved())
    )
    assert asks(world).step == "may-begin"
    assert world.a.events == before and world.b.events == []
    whole = newest(world, "migrate").id
    answer(world.here, whole, "may-begin", True)
    until(lambda: "boot front" in world.b.events)
    question = asks(world)
    assert (question.step, question.whole) == ("may-end", whole)
    assert question.run != whole
    assert state_of(newest(world, "migrate"), world.here) == WAITING
    answer(world.here, whole, "may-end", True)
    moving.join()
    assert moving.error is None
    assert newest(world, "migrate").state == "succeeded"


def test_a_no_in_the_end_of_a_migration_leaves_the_vnf_where_it_was(world: World) -> None:
    world.here.vnfs.put(with_runbook({**ASK, "on": "migrate"}))
    here = world.process()
    prepared = migrating.prepare(here, "v")
    moving = InBackground(
        lambda: migrating.migrate(here, migrating.request(prepared), Unobserved())
    )
    asks(world)
    answer(world.here, newest(world, "migrate").id, "power", False)
    moving.join()
    assert isinstance(moving.error, AntipodeError)
    assert {s["status"] for s in world.a.servers.values()} == {"ACTIVE"}
    assert world.b.servers == {}


SECRET = "the words of an operator"


def steps_of(point: Any) -> list[str]:
    return [s.name for s in point.vnf.steps]


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(config.load(str(samples.write_config(tmp_path))))


def test_a_point_carries_the_runbook_encrypted_and_requires_a_reader_that_knows_it(
    deployment: Deployment, tmp_path: Path
) -> None:
    steps = [
        step("say", after=["db"], command=["say", SECRET], within=5, to="site-b"),
        step("ask", before="all", prompt={"message": SECRET, "answer": "text"}, on="drill"),
        step("wait", after="all", wait=3, on_error="retry(2)"),
    ]
    vnf = with_runbook(*steps, vnf=samples.vnf())
    assert list(misfits(vnf)) == []
    points.commit(deployment.vault, samples.point(vnf=vnf))
    read = points.read(deployment.vault, "hlr")
    assert read.vnf == vnf
    stored = b"".join(
        p.read_bytes() for p in (Path(deployment.config.state_dir) / "vault").rglob("*.json")
    )
    envelope = json.loads(
        next(
            p for p in Path(deployment.config.state_dir, "vault", "hlr").glob("2*.json")
        ).read_text()
    )

    manifest = base64.b64decode(envelope["payload"])
    assert SECRET.encode() not in stored + manifest
    assert "Secret.steps" in json.loads(manifest)["requires"]


def test_a_point_without_a_runbook_requires_nothing_new(deployment: Deployment) -> None:
    points.commit(deployment.vault, samples.point())
    assert steps_of(points.read(deployment.vault, "hlr")) == []


def test_a_run_that_waits_for_an_answer_takes_no_place_in_its_lane(
    deployment: Deployment,
) -> None:
    conductor = Conductor(deployment)
    conductor._most = 1
    kind = kind_of("failover")
    row = new_run(kind, "hlr", {})
    run = row.id
    deployment.runs.create(row)
    conductor._at_work[run] = (kind, threading.current_thread())
    conductor.look()
    assert not conductor._has_room(kind)
    now = time.time()
    deployment.questions.ask(
        QuestionRow(
            run=run, step="s", whole=run, message="?", wants="yes-no", asked_at=now,
            expires_at=now + 60,
        )
    )  # fmt: skip
    conductor.look()
    assert conductor._has_room(kind)
    deployment.questions.answer(run, "s", "yes", "alice@host")
    conductor.look()
    assert not conductor._has_room(kind)


# Calls and scripts.


class Service:
    """A web service of the operator; what it got."""

    def __init__(self) -> None:
        service = self
        self.got: list[tuple[str, str, dict[str, str], str]] = []
        self.statuses: list[int] = []
        self.release = threading.Event()
        self.waits = False

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
                service.got.append((self.command, self.path, dict(self.headers), body))
                if service.waits:
                    service.release.wait(60)
                self.send_response(service.statuses.pop(0) if service.statuses else 200)
                self.send_header("Location", f"{service.url}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_PUT = do_POST

            def log_message(self, *_: Any) -> None:
                """Nothing: the test sees what came."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


def test_a_call_sends_what_the_step_says_and_secrets_that_only_this_host_has(
    world: World, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = world.folder / "token"
    token.write_text("of-a-file\nanother line\n")
    monkeypatch.setenv("NOC_TOKEN", "of-a-variable")
    call = {
        "url": f"{service.url}/vnfs/{{vnf}}",
        "method": "PUT",
        "headers": {
            "Authorization": {"file": str(token), "prefix": "Bearer "},
            "X-Token": {"env": "NOC_TOKEN"},
            "Content-Type": "application/json",
        },
        "body": '{"site": "{site}"}',
    }
    world.here.vnfs.put(with_runbook(step("noc", after="all", http=call)))
    record = world.failover()
    [(method, path, headers, body)] = service.got
    assert (method, path, body) == ("PUT", "/vnfs/v", '{"site": "site-b"}')
    assert headers["Authorization"] == "Bearer of-a-file"
    assert headers["X-Token"] == "of-a-variable"
    assert headers["Idempotency-Key"] == f"{record['run']}/noc"
    row = world.here.runs.get(record["run"])
    kept = [row.request, row.result, *(s.result for s in world.here.runs.steps(row.id))]
    assert "of-a-file" not in json.dumps(kept) and "of-a-variable" not in json.dumps(kept)


def test_a_secret_to_this_host_does_not_pass_a_proxy(
    world: World, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Service()
    try:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "elsewhere.example")
        monkeypatch.setenv("NOC_TOKEN", "of-a-variable")
        call = {"url": service.url, "headers": {"X-Token": {"env": "NOC_TOKEN"}}}
        world.here.vnfs.put(with_runbook(step("noc", after="all", http=call)))
        world.failover()
    finally:
        proxy.close()
    assert (len(service.got), proxy.got) == (1, [])


@pytest.mark.parametrize(
    ("statuses", "more", "calls", "ends"),
    [
        ([500, 202], {"on_error": "retry(1)"}, 2, "succeeded"),
        ([302], {}, 1, "failed"),
        ([404], {"on_error": "ignore"}, 1, "succeeded"),
    ],
)
def test_a_call_counts_when_its_status_is_expected(
    world: World, service: Service, statuses: list[int], more: Json, calls: int, ends: str
) -> None:
    service.statuses = list(statuses)
    call = step("noc", after="all", http={"url": service.url}, **more)
    world.here.vnfs.put(with_runbook(call))
    with suppress(StepFailed):
        world.failover()
    assert (len(service.got), newest(world).state) == (calls, ends)


def test_a_call_without_an_answer_ends_in_time_or_with_its_run(
    world: World, service: Service
) -> None:
    service.waits = True
    call = step("noc", before="all", http={"url": service.url}, within=0.2)
    world.here.vnfs.put(with_runbook(call))
    with pytest.raises(StepFailed):
        world.failover()
    abort(world.here, newest(world).id, Unobserved())
    world.here.vnfs.put(with_runbook({**call, "within": 3600}))
    calling = InBackground(lambda: world.failover(world.process()))
    until(lambda: len(service.got) == 2)
    abort(world.here, newest(world).id, Unobserved())
    calling.join()
    assert isinstance(calling.error, Aborted)


def test_a_secret_that_this_host_lacks_is_a_failure_that_names_its_place(
    world: World, service: Service
) -> None:
    for place in ({"file": "/nowhere/token"}, {"env": "NOT_SET_HERE"}):
        [named] = place.values()
        call = {"url": service.url, "headers": {"X-Token": place}}
        world.here.vnfs.put(with_runbook(step("noc", before="all", http=call)))
        with pytest.raises(StepFailed, match=named):
            world.failover()
        abort(world.here, newest(world).id, Unobserved())
    assert service.got == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://noc.example"},
        {"url": "https://user:password@noc.example"},
        {"url": "https://noc.example/a b"},
        {"url": "http://noc.example", "headers": {"X": {"env": "TOKEN"}}},
        {"url": "https://noc.example", "headers": {"X": {"env": "TOKEN", "file": "/t"}}},
        {"url": "https://noc.example", "headers": {"X": {"file": "relative"}}},
        {"url": "https://noc.example", "headers": {"X": "a\r\nY: b"}},
        {"url": "https://noc.example", "headers": {"X Y": "a"}},
        {"url": "https://noc.example", "expect": 42},
        {"url": "https://noc.example", "method": "CONNECT"},
    ],
)
def test_a_call_that_makes_no_sense_is_refused(wrong: Json) -> None:
    with pytest.raises(ValidationError):
        RunbookStep.model_validate(step("noc", after="all", http=wrong))


RUNNERS = """\
runners:
  jump: {ssh: {host: jump.example, user: ops, port: 2222, identity: /k, known_hosts: /h}}
  box: {podman: {image: "tools:1", volumes: ["/srv:/srv:ro"]}}
"""


def test_a_script_is_run_by_its_runner(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.config.write_text(world.config.read_text() + RUNNERS)
    lines: list[list[str]] = []

    def run(argv: list[str], *_: Any, **__: Any) -> processes.Ended:
        lines.append(argv)
        return processes.Ended(0, "")

    monkeypatch.setattr(processes, "run", run)
    script = ["check", "{vnf} $HOME; rm -rf /", "{site}"]
    world.here.vnfs.put(
        with_runbook(
            step("far", before="all", script={"runner": "jump", "command": script}, within=30),
            step("boxed", before="all", script={"runner": "box", "command": script}),
        )
    )
    failover(world.process())
    far, boxed = lines
    key = f"ANTIPODE_KEY={newest(world).id}/far"
    assert far[0] == "ssh" and far[-2] == "jump.example" and far[-3] == "--"
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "UserKnownHostsFile=/h"} <= set(far)
    # a shell at the other end sees the words as they are
    remote = shlex.split(far[-1])
    assert remote[0] == "env" and key in remote
    assert remote[-7:] == ["timeout", "-k", "5", "30", "check", "v $HOME; rm -rf /", "site-b"]
    assert boxed[:2] == ["podman", "run"] and boxed[-4:-2] == ["tools:1", "check"]
    assert boxed[boxed.index("--network") + 1] == "none"
    assert "/srv:/srv:ro" in boxed and "--replace" in boxed


def failover(here: Deployment) -> Json:
    return failing.failover(here, failing.prepare(here, "v", "site-b", None), Unobserved())


def test_a_runner_that_this_host_lacks_is_known_before_anything_begins(world: World) -> None:
    script = {"runner": "jump", "command": ["check"]}
    every = step("far", after="all", script=script, on=["failover", "migrate", "drill"])
    vnf = with_runbook(every)
    world.here.vnfs.put(vnf)
    for prepare in (
        lambda: failing.prepare(world.here, "v", "site-b", None),
        lambda: drilling.prepare(world.here, "v"),
        lambda: migrating.prepare(world.here, "v"),
    ):
        with pytest.raises(PreflightFailed, match="jump"):
            prepare()


@pytest.mark.parametrize(
    "wrong",
    [
        {"ssh": {"host": "-oProxyCommand=x"}},
        {"ssh": {"host": "h", "user": "-l"}},
        {"ssh": {"host": "h", "identity": "relative"}},
        {"podman": {"image": "--privileged"}},
        {"podman": {"image": "i", "volumes": ["relative:/x"]}},
        {"podman": {"image": "i"}, "ssh": {"host": "h"}},
        {},
    ],
)
def test_a_runner_that_makes_no_sense_is_refused(wrong: Json) -> None:
    with pytest.raises(ValidationError):
        config.Runner.model_validate(wrong)

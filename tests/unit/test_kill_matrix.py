# SPDX-License-Identifier: Apache-2.0
"""A process may be killed at any moment: the process that resumes its run ends where an
undisturbed run ends.

A real process is really killed (SIGKILL): before each task of each flow, in it before and after
every call that changes something, at its end, when its result is kept, and around every write about
the run. The tasks are those of the flow itself: a new one is covered by itself.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import pytest

from antipode.engine.deployment import Deployment
from antipode.engine.execution import forget_what_has_ended
from antipode.engine.flows import Flows
from antipode.engine.parts import part_of
from antipode.errors import NotFound
from antipode.model.dns import RecordSet
from antipode.model.marks import made_by
from antipode.model.point import RecoveryPoint
from antipode.model.standing import Standing, read_standing
from antipode.model.vnf import Vnf
from antipode.store.tables import RunRow
from antipode.vault import PROBE, generations, reserve, sealing
from antipode.vault.keys import NO_KEYS
from antipode.vault.swift import SwiftVault
from antipode.vault.withdrawals import WITHDRAWN
from tests.unit import storages, twosites
from tests.unit.fakecloud import FakeCloud
from tests.unit.fakestorage import Pools
from tests.unit.killable import settings

SHARDS = 4
"""The points of each matrix are dealt to so many tests, for as many workers."""
DEALT = [pytest.param(n, marks=pytest.mark.rest if n else ()) for n in range(SHARDS)]
"""These tests; the proof of a landing has the first of them, and so every fourth point."""
VNF = Vnf.model_validate(
    {
        "vnf": "v",
        "primary": "site-a",
        "backup": "site-b",
        "store_at_active_site": "accepted",
        "map": {"networks": {"net": "net-b"}, "volume_types": {"fast": "standard"}},
        # of the window's timeout nothing is to be seen, however busy the machine is
        "protections": [
            {"option": "quiesced-snapshot", "quiesce": {"timeout": "5m"}},
            {"option": "server-snapshot", "quiesce": {"timeout": "5m"}},
        ],
        "members": [
            {"server": "db", "role": "active"},
            {"server": "front", "role": "standby", "boot_after": ["db"]},
        ],
    }
)

LED = Vnf.model_validate(
    {
        **VNF.model_dump(mode="json"),
        "dns": [
            {"name": "v.vnf.example", "members": "front"},
            {
                "name": "www.vnf.example",
                "type": "CNAME",
                "targets": {"site-a": "a.example", "site-b": "b.example"},
            },
        ],
    }
)
"""The same with records in DNS that lead to it."""


def primary() -> FakeCloud:
    """Two servers, three volumes, and something of all that a recovery has to bring back."""
    cloud = FakeCloud("site-a", empty=True)
    cloud.looks_until_available = 1
    for index, name in enumerate(("db", "front")):
        cloud.add_server(name, index)
    del cloud.volumes["front-data"]
    cloud.attachments["id-front"] = [
        a for a in cloud.attachments["id-front"] if a["volumeId"] != "front-data"
    ]
    cloud.attachments["id-db"][0]["delete_on_termination"] = True
    cloud.ports["port-id-db"]["tags"] = ["voice"]
    cloud.server_groups = [
        {"id": "g", "name": "apart", "policy": "anti-affinity", "members": ["id-db"]}
    ]
    cloud.servers["id-db"]["tags"] = ["core"]
    return cloud


def backup_site() -> FakeCloud:
    cloud = FakeCloud("site-b", empty=True)
    cloud.networks = [{"id": "net-2", "name": "net-b"}]
    cloud.subnets = [{"id": "subnet-2", "name": "s", "network_id": "net-2", "cidr": "10.0.0.0/24"}]
    cloud.types = [{"id": "type-2", "name": "standard"}]
    cloud.keypairs = {}
    return cloud


def zone() -> dict[str, RecordSet]:
    """The DNS records of the VNF while it is active at the primary."""
    records = (
        RecordSet(name="v.vnf.example", type="A", ttl=300, values=("10.0.0.11",)),
        RecordSet(name="www.vnf.example", type="CNAME", ttl=60, values=("a.example",)),
    )
    return {record.key: record for record in records}


def with_policy(retention: Any) -> Vnf:
    """The VNF with a retention, and chains of two backups."""
    protection = {
        "option": "quiesced-snapshot",
        "quiesce": {"timeout": "5m"},
        "retention": retention,
        "full_every": 2,
    }
    return Vnf.model_validate(LED.model_dump(mode="json") | {"protections": [protection]})


CHANGES = ("call", "vault", "dns")
"""Questions of the process that may change something."""


class Killed(Exception):
    """The process that asked is dead."""


class Stage:
    """Two clouds, a vault, and a folder for the databases; kills whom it plays for at a point, if
    it is told to.
    """

    def __init__(self, folder: Path, templates: Path, process: subprocess.Popen[str]) -> None:
        # the sockets are of the other one, and what a database says of its journal is read again
        shutil.copytree(templates, folder, ignore=shutil.ignore_patterns("s", "err", "*-shm"))
        self.folder = folder
        self.clouds = {"site-a": primary(), "site-b": backup_site()}
        self.vault: dict[str, bytes] = {}
        self.zone = zone()
        self.connected: list[str] = []
        self.points: list[str] = []
        self.late: tuple[Any, ...] | None = None
        """the request in the middle of which the process was killed, before it took effect: it may
        still take effect
        """
        self.begins_with = ""
        """what has been done once the points are there"""
        self.earlier = ""
        """the run of it"""
        self.kind = "%"
        """of the run that is killed and resumed; others are parts of it"""
        self.has_moved = False
        """whether the VNF has failed over once its points are there"""
        self.stands = False
        """whether volumes may stand at the backup site, and the backup store has fingerprints"""
        self.contents: dict[str, str | None] = {}
        """volume -> the backup that a mover has written to its end; None: in the midst of one"""
        self.when = "never"
        """when it does, see WHEN"""
        self._seen = 0
        self._kill_at: str | None = None
        self._pid = 0
        self._of_call = threading.local()
        self._lock = threading.Lock()
        self._process = process
        self._threads: list[threading.Thread] = []
        for cloud in self.clouds.values():
            cloud.before = self._before
        self.pools = Pools(self.clouds)
        self.listener = Listener(str(folder / "s"), "AF_UNIX", backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def copied(self, folder: Path) -> Stage:
        """One that begins where this one is, and shares nothing with it."""
        stage = Stage(folder, self.folder, self._process)
        for site, cloud in stage.clouds.items():
            cloud.becomes(self.clouds[site])
        stage.pools.replicated = set(self.pools.replicated)
        stage.vault, stage.zone = dict(self.vault), dict(self.zone)
        stage.begins_with, stage.earlier = self.begins_with, self.earlier
        stage.kind, stage.has_moved = self.kind, self.has_moved
        stage.stands, stage.contents = self.stands, dict(self.contents)
        return stage

    def play(
        self, what: str, kill_at: str | None = None, *, surely: bool = True, **job: Any
    ) -> int:
        """Have a process do something; its exit code. The points that it came by are in `points`,
        made unique by a count.

        Not `surely`: it may come by the point where it is to be killed, or not.
        """
        self.points, self._kill_at, self._pid = [], kill_at, 0
        self._counts: Counter[str] = Counter()
        job |= {
            "what": what,
            "vnf": "v",
            "folder": str(self.folder),
            "address": str(self.folder / "s"),
            "errors": str(self.folder / "err"),
            "is_killed": kill_at is not None,
            "stands": self.stands,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            self._pid = int(self._process.stdout.readline())
        code = int(self._process.stdout.readline())
        self._let_what_was_asked_be_answered()
        if kill_at is not None and surely:
            assert code == -signal.SIGKILL, (
                f"it was to be killed at {kill_at!r} and ended with {code}: {self.errors()}"
            )
        return code

    def _let_what_was_asked_be_answered(self) -> None:
        """What a process that is dead has asked last may still be waiting to be taken: it is no
        request of the next process's time.
        """
        with Client(str(self.folder / "s")) as last:  # taken after all that came before it
            last.send(("connect", "nobody"))
            last.recv()
        self.connected.remove("nobody")
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a connection of a process that is dead has not ended"
        self._threads.clear()

    def errors(self) -> str:
        path = self.folder / "err"
        return path.read_text()[-3000:] if path.exists() else "no error"

    def run(self) -> tuple[str, str] | None:
        """Id and state of the newest run, but for the one that the stage began with."""
        with closing(sqlite3.connect(self.folder / "antipode.db")) as database:
            row: tuple[str, str] | None = database.execute(
                "SELECT id, state FROM runs WHERE id != ? AND kind LIKE ? ORDER BY started_at DESC",
                [self.earlier, self.kind],
            ).fetchone()
        return row

    def run_id(self) -> str:
        found = self.run()
        assert found is not None
        return found[0]

    def close(self) -> None:
        self.listener.close()
        shutil.rmtree(self.folder)

    def _accept(self) -> None:
        while True:
            try:
                connection = self.listener.accept()
            except OSError:
                return
            self._threads.append(
                threading.Thread(target=self._serve, args=(connection,), daemon=True)
            )
            self._threads[-1].start()

    def _serve(self, connection: Connection) -> None:
        while True:
            try:
                question = connection.recv()
                self._late_before(question)
                try:
                    answer = self._answer(*question)
                except NotFound as error:
                    answer = error
                except Killed:
                    if question[0] in CHANGES and not str(self._kill_at).endswith("not answered"):
                        self.late = question
                    raise
                self._late_after(question)
                connection.send(answer)
            except (EOFError, OSError, Killed):
                connection.close()
                return

    def _late_before(self, question: tuple[Any, ...]) -> None:
        with self._lock:
            mutates = (
                question[0] in CHANGES
                and question[1] not in ("get", "list")
                and question[3:4] != ("GET",)
            )
            its_own = self.late is not None and same(question, self.late)
            due = (self.when == "before" and its_own) or (
                self.when == "settled" and self._seen > 1 and mutates
            )
        if due:
            self.comes_through()

    def _late_after(self, question: tuple[Any, ...]) -> None:
        with self._lock:
            its_own = self.late is not None and same(question, self.late)
            if its_own or (self._seen and question[3:4] == ("GET",)):
                self._seen += 1
            due = self.when == "after" and its_own
        if due:
            self.comes_through()

    def comes_through(self) -> None:
        """The request whose sender is dead takes effect after all, if it still can; nobody hears
        the answer.
        """
        with self._lock:
            late, self.late = self.late, None
        if late is not None:
            with suppress(NotFound, KeyError):  # what it is about may be gone
                self._answer(*late)

    def _answer(self, what: str, *about: Any) -> Any:
        match what:
            case "connect":
                self.connected.append(about[0])
                return None
            case "point":
                self.at(about[0])
                return None
            case "vault":
                return self._of_vault(*about)
            case "write":
                self._write(*about)
                return None
            case "storage":
                self._of_call.event = None
                found = self.pools.ask(*about)
                if self._of_call.event is not None:
                    self.at(f"{self._of_call.event}, not answered")
                return found
            case "dns":
                return self._of_zone(*about)
        site, service, method, path, body, params = about
        cloud = self.clouds[site]
        assert cloud.site._image is not None
        api = {
            "compute": cloud.site.compute._api,
            "volume": cloud.site.volumes._api,
            "network": cloud.site.networks._api,
            "image": cloud.site._image,
        }[service]
        self._of_call.event = None
        reply = api._send(method, path, json=body, params=params, microversion=None, timeout=None)
        if self._of_call.event is not None:
            self.at(f"{self._of_call.event}, not answered")
        return tuple(reply)

    def _before(self, event: str) -> None:
        self._of_call.event = event
        self.at(event)

    def _of_vault(self, what: str, name: str, document: bytes = b"") -> Any:
        if what == "list":
            return sorted(n for n in self.vault if n.startswith(name))
        if what == "get":
            if name not in self.vault:
                raise NotFound(name)
            return self.vault[name]
        label = f"vault {what} {re.sub('[0-9a-fTZ-]{16,}', '…', name)}"
        self.at(label)
        new = name not in self.vault
        if what == "put" or (what == "create" and new):
            self.vault[name] = document
        elif what == "delete":
            self.vault.pop(name, None)
        self.at(f"{label}, not answered")
        return new

    def _write(self, volume: str, label: str, backup: str | None) -> None:
        """What a mover does to a volume: it begins (None), and has brought it to a backup."""
        self.at(f"write {label} {'begins' if backup is None else 'ends'}")
        self.contents[volume] = backup
        self.at(f"write {label} {'has begun' if backup is None else 'has ended'}")

    def _of_zone(
        self,
        what: str,
        key: str,
        old: RecordSet | None = None,
        new: RecordSet | None = None,
    ) -> Any:
        if what == "get":
            return self.zone.get(key)
        self.at(f"dns {key}")
        there = self.zone.get(key)
        may = (there and there.values) == (old and old.values)
        if may and new is not None:
            self.zone[key] = new
        self.at(f"dns {key}, not answered")
        return may

    def at(self, point: str) -> None:
        with self._lock:
            self._counts[point] += 1
            if (count := self._counts[point]) > 1:
                point = f"{point} #{count}"
            self.points.append(point)
        if point == self._kill_at:
            os.kill(self._pid, signal.SIGKILL)
            raise Killed


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two requests ask for the same; a manifest has the moment in it when it was made."""
    return one[:3] == other[:3] if one[0] == "vault" else one == other


@pytest.fixture(scope="module")
def killable() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.unit.killable"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Databases as they are before the first run, and the VNF in them."""
    folder = tmp_path_factory.mktemp("templates")
    deployment = Deployment(settings(folder))
    deployment.vnfs.put(LED)
    deployment.database.dispose()
    assert Flows(settings(folder)).books() == []
    return folder


@pytest.fixture(scope="module")
def stages(
    tmp_path_factory: pytest.TempPathFactory, templates: Path, killable: subprocess.Popen[str]
) -> Callable[[], Stage]:
    numbers = itertools.count()
    folder = tmp_path_factory.mktemp("k")
    return lambda: Stage(folder / str(next(numbers)), templates, killable)


@pytest.fixture(scope="module")
def protected(stages: Callable[[], Stage]) -> Stage:
    """A primary with two recovery points, the second of increments, and of one full backup: both
    ways of restoring are in the matrix.
    """
    stage = stages()
    assert stage.play("protect") == 0, stage.errors()
    there = stage.clouds["site-a"].backups
    for lost in [b for b, fields in there.items() if fields["volume_id"] == "db-data"]:
        del there[lost]
    assert stage.play("protect") == 0, stage.errors()
    return stage


@pytest.fixture(scope="module")
def protected_by_states(stages: Callable[[], Stage]) -> Stage:
    """A primary with a recovery point of states in replicated storage."""
    stage = replicated(stages())
    assert stage.play(REPLICATED) == 0, stage.errors()
    return stage


@pytest.fixture(scope="module")
def protected_in_part(stages: Callable[[], Stage]) -> Stage:
    """A primary with two recovery points of the standby member."""
    stage = in_part(stages())
    for _ in range(2):
        assert stage.play(PARTIAL) == 0, stage.errors()
    return stage


@pytest.fixture(scope="module")
def protected_long(stages: Callable[[], Stage]) -> Stage:
    """A primary with three recovery points: the second of increments, the third of full backups."""
    stage = with_vnf(stages(), with_policy("all"))
    for _ in range(3):
        assert stage.play("protect") == 0, stage.errors()
    return stage


def with_vnf(stage: Stage, vnf: Vnf) -> Stage:
    """Have a stage know another definition of the VNF."""
    deployment = Deployment(settings(stage.folder))
    deployment.vnfs.put(vnf)
    deployment.database.dispose()
    return stage


def from_image(stage: Stage) -> Stage:
    """Have the active member boot from an image, with a data volume beside its root disk."""
    stage.clouds["site-a"].boots_from_image("id-db", b"the root disk of db")
    protection = {
        "option": "server-snapshot",
        "quiesce": {"timeout": "5m", "required": False},
    }
    return with_vnf(
        stage, Vnf.model_validate(LED.model_dump(mode="json") | {"protections": [protection]})
    )


def in_part(stage: Stage) -> Stage:
    """Have only the standby member be captured; the active one comes back as its clone."""
    cloud = stage.clouds["site-a"]
    del cloud.volumes["db-data"]
    cloud.attachments["id-db"] = [
        a for a in cloud.attachments["id-db"] if a["volumeId"] != "db-data"
    ]
    changes = {"capture": "standby"}
    return with_vnf(stage, Vnf.model_validate(VNF.model_dump(mode="json") | changes))


def in_group(stage: Stage) -> Stage:
    """Have all volumes be in a group that the storage snapshots at one moment."""
    cloud = stage.clouds["site-a"]
    cloud.snapshots_groups_at_once = True
    specs = {"consistent_group_snapshot_enabled": "<is> True"}
    cloud.group_types["t"] = {"id": "t", "name": "together", "group_specs": specs}
    group = {"id": "vg", "name": "v", "status": "available", "group_type": "t"}
    cloud.volume_groups["vg"] = group
    for volume in cloud.volumes.values():
        volume["group_id"] = "vg"
    return stage


def moved(stage: Stage) -> Stage:
    """Have the VNF be active at the backup site, by a failover of another host."""
    stage.has_moved = True
    return stage


def moving(stage: Stage) -> Stage:
    """Have a migration be what is killed, whose parts are runs, too."""
    stage.kind = "migrate"
    return stage


def planned(stage: Stage, what: str) -> Stage:
    """Have a plan be what is killed, whose VNFs are runs, too."""
    stage.kind = what.replace(" ", "-")
    return stage


def led_elsewhere(stage: Stage) -> Stage:
    """Have the DNS records lead to neither site."""
    stage.zone = {
        key: record.model_copy(update={"values": (value,)})
        for (key, record), value in zip(zone().items(), ("192.0.2.1", "x.example"), strict=True)
    }
    return stage


def reprotecting(stage: Stage) -> Stage:
    """Have the VNF have failed over, and a reprotection be what is killed, with its parts."""
    stage.begins_with, stage.kind = "failover", "reprotect"
    return stage


def undoing(stage: Stage) -> Stage:
    """Have the VNF have failed over, its old copy be fenced, and that be undone."""
    stage.begins_with, stage.kind = "failover that can be undone", "undo"
    return stage


def failing_back(stage: Stage) -> Stage:
    """Have the VNF have failed over, its old copy be fenced, and a plan bring it back."""
    stage.begins_with, stage.kind = "failover, then fence", "plan-failback"
    stage.clouds["site-a"].hosts.append("compute-2")  # as the server group wants
    return stage


def committing(stage: Stage) -> Stage:
    """The same, and that be given up."""
    undoing(stage).kind = "commit"
    return stage


def replicated(stage: Stage) -> Stage:
    """Have the storage replicate the VNF by itself."""
    changes = {
        "datastores": {"disks": {"storage": "mirror"}},
        "protections": [{"option": "replication", "quiesce": {"timeout": "5m"}}],
    }
    return with_vnf(stage, Vnf.model_validate(VNF.model_dump(mode="json") | changes))


def fenced(stage: Stage) -> Stage:
    """Have the VNF be active at the backup site, and its old copy fenced."""
    stage.begins_with = "fence"
    return moved(stage)


def drilled(stage: Stage) -> Stage:
    """Have a drill be kept at the backup site."""
    stage.begins_with = "drill that is kept"
    return stage


def after_protects(stage: Stage, protected: Stage) -> Stage:
    """Have a stage begin where two protections have ended."""
    there, then = stage.clouds["site-a"], protected.clouds["site-a"]
    there.backups = {b: dict(fields) for b, fields in then.backups.items()}
    there.snapshots = {s: dict(fields) for s, fields in then.snapshots.items()}
    there.clock, there.ids = itertools.count(1000), itertools.count(1000)
    stage.vault = dict(protected.vault)
    if stage.has_moved:
        held: Any = storages.MemoryObjects()
        held.held = stage.vault
        vault = SwiftVault(held, "c", "site-b")
        now = generations.present(vault, VNF.vnf, "site-a")
        claim = generations.claim(vault, now, "site-b", "failover-of-another-host")
        generations.complete(vault, claim)
    if stage.begins_with:
        assert stage.play(stage.begins_with) == 0, stage.errors()
        if stage.kind == "%":  # else that run is of another kind
            found = stage.run()
            assert found is not None
            stage.earlier = found[0]
        for cloud in stage.clouds.values():
            cloud.events.clear()
    return stage


def picture(stage: Stage) -> dict[str, Any]:
    """What there is in the end at both sites, in the vault and in the database, without what
    differs from run to run by its nature.
    """
    found = stage.run()
    assert found is not None
    deployment = Deployment(settings(stage.folder))
    run = deployment.runs.get(found[0])
    shown = clouds(stage) | {"points": points(stage, run.id)}
    held: Any = storages.MemoryObjects()
    held.held = stage.vault
    state = generations.present(SwiftVault(held, "c", "site-b"), VNF.vnf, "site-a")
    shown["dns"] = {key: str(record) for key, record in stage.zone.items()}
    shown["active"] = [state.active_site, state.state]
    shown["run"] = {
        "state": run.state,
        "reason": run.reason,
        "slot": run.slot,
        "result": sorted(run.result),
        "left": sorted(run.result.get("left", [])),
        "steps done": sorted(
            {
                (s.name, s.resource)
                for s in deployment.runs.steps(run.id)
                if s.state == "succeeded" and not NOT_REPEATED.match(s.name)
            }
        ),
        "steps under way": [s.name for s in deployment.runs.steps(run.id) if s.state == "running"],
        "ledger": [row.server for row in deployment.freezes.left_by(run.id)],
        "flows": deployment.flows.books(),
        "probes": [n for n in stage.vault if n.startswith(PROBE) and n != reserve.NAME],
    }
    names = {run.id: "RUN", run.id.partition("-")[2]: "POINT"}
    every = sorted(deployment.runs.all(VNF.vnf), key=lambda r: r.started_at)
    names |= {r.id: f"EARLIER {n}" for n, r in enumerate(every) if r.started_at < run.started_at}
    mine = parts_within(every, run.id)
    for number, part in enumerate(mine):
        names |= {part.id: f"PART {number}", part.id.partition("-")[2]: f"POINT {number}"}
    deployment.database.dispose()
    if mine:  # what is made from a point that is new has other names each time
        shown = json.loads(
            re.sub(r"antipode:key=\w{32}|(?<=\"backup_id\": )\"[\w-]+\"", "0", json.dumps(shown))
        )
    return renamed(shown, names)


def parts_within(runs: Sequence[RunRow], whole: str) -> list[RunRow]:
    """The parts of a run, and theirs, of runs in the order in which they began."""
    wholes, found = {whole}, []
    for run in runs:
        if part_of(run) in wholes:
            wholes.add(run.id)
            found.append(run)
    return found


def clouds(stage: Stage) -> dict[str, Any]:
    """What there is at both sites, ids replaced by names."""
    names: dict[str, str] = {}
    shown: dict[str, Any] = {}
    for site, cloud in stage.clouds.items():
        names |= {f'"{i}"': f'"server {s["name"]}"' for i, s in cloud.servers.items()}
        names |= {f'"{i}"': f'"volume {v["name"]}"' for i, v in cloud.volumes.items()}
        names |= {f'"{i}"': f'"port {p["mac_address"]}"' for i, p in cloud.ports.items()}
        names |= {f'"{g["id"]}"': f'"group {g["name"]}"' for g in cloud.server_groups}
        shown[site] = {
            "servers": {
                n: {"locked": False, **s, "updated": ""}
                for n, s in by(cloud.servers, "name").items()
            },
            "volumes": {n: v | {"created_at": ""} for n, v in by(cloud.volumes, "name").items()},
            "ports": {
                mac: {"admin_state_up": True, "tags": [], **port}
                for mac, port in by(cloud.ports, "mac_address").items()
            },
            "networks": [n["name"] for n in cloud.networks],
            "subnets": [s["name"] for s in cloud.subnets],
            "attachments": cloud.attachments,
            "groups": cloud.server_groups,
            "keypairs": cloud.keypairs,
            "frozen": sorted(cloud.all_frozen),
            "snapshots": sorted(
                [named(cloud, s["volume_id"]), s["status"], made_by(s)]
                for s in cloud.snapshots.values()
            ),
            "clones": cloud.clones,
            "images": sorted(map(without_ids, cloud.images.values()), key=lambda i: i["name"]),
            "backups": sorted(
                [named(cloud, b["volume_id"]), b["parent_id"] is None, b["status"]]
                for b in cloud.backups.values()
            ),
        }
    return renamed(shown, names)


def named(cloud: FakeCloud, volume: str) -> str:
    """The name of a volume; its id where it is not there."""
    return str(cloud.volumes[volume]["name"]) if volume in cloud.volumes else volume


def without_ids(image: dict[str, Any]) -> dict[str, Any]:
    """An image without its id, and that of the image of which it is a copy."""
    return {
        k: str(v) if k == "content" else v
        for k, v in image.items()
        if k not in ("id", "antipode:key")
    }


def points(stage: Stage, run: str = "") -> list[dict[str, Any]]:
    """The recovery points in the vault."""
    return [
        {
            "chains": {
                named(stage.clouds[point.site], v): len(point.chain(v)) for v in point.sources
            },
            "made_by": point.run if point.run == run else "another",
            "consistency": point.consistency,
            "stored": set(point.backups) <= set(stage.clouds["site-a"].backups),
            "states": set(point.states) <= set(stage.clouds["site-a"].snapshots),
        }
        for point in (opened(stage, name) for name in sorted(stage.vault) if counts(stage, name))
    ]


def opened(stage: Stage, name: str) -> RecoveryPoint:
    """The recovery point of a manifest in the vault."""
    vnf, _, point = name.removesuffix(sealing.MANIFEST).partition("/")
    records = stage.vault
    return sealing.unseal(
        records[name], vnf, point, NO_KEYS, lambda name, _: records[name], sealing.Trust.SIGNED
    ).point


def counts(stage: Stage, name: str) -> bool:
    """Whether a document of the vault is a recovery point: neither a withdrawn one nor a probe."""
    return (
        name.endswith(sealing.MANIFEST)
        and not name.startswith(sealing.RECORDS)
        and f"{name.removesuffix(sealing.MANIFEST)}{WITHDRAWN}" not in stage.vault
    )


def renamed(shown: Any, names: dict[str, str]) -> Any:
    text = json.dumps(shown, sort_keys=True)
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return json.loads(text)


NOT_REPEATED = re.compile("volume from snapshot|remove |VNF of the plan")
"""Steps that are not done again when what they were to do is found done."""


def by(resources: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    assert len({r[name] for r in resources.values()}) == len(resources), (
        f"there is something twice: {resources}"
    )
    return {r[name]: r for r in resources.values()}


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            d
            for k in sorted(one.keys() | other.keys())
            for d in differences(one.get(k), other.get(k), f"{where}/{k}")
        ]
    return [] if one == other else [f"{where}: {one!r} and not {other!r}"]


ONCE = (
    "restore",
    "clone",
    "manage",
    "import",
    "boot",
    "port",
    "group",
    "keypair",
    "network",
    "subnet",
    "security",
)
"""What must happen once and never again, whatever is killed."""


def done_twice(stage: Stage) -> list[str]:
    events = Counter(
        e for cloud in stage.clouds.values() for e in cloud.events if e.split()[0] in ONCE
    )
    return [f"{event} happened {times} times" for event, times in events.items() if times > 1]


class Matrix:
    """One command, killed at each of its points in turn."""

    def __init__(
        self,
        stages: Callable[[], Stage],
        protected: Stage,
        what: str,
        *,
        is_copied: bool = False,
    ) -> None:
        """
        Args:
            is_copied: whether each stage is a copy of the first, and not played again up to there:
                nothing in it may know its folder.
        """
        self.what = what
        self._stage = lambda: after_protects(stages(), protected)
        if is_copied:
            first, numbers = self._stage(), itertools.count()
            self._stage = lambda: first.copied(
                first.folder.with_name(f"{first.folder.name}-{next(numbers)}")
            )
        stage = self._stage()
        self.before = clouds(stage) | {"points": points(stage)}
        assert stage.play(what) == 0, stage.errors()
        self.points = stage.points
        self.undisturbed = picture(stage)
        self.events = [e for cloud in stage.clouds.values() for e in cloud.events]
        stage.close()

    def killed_at(self, point: str) -> Stage:
        stage = self._stage()
        stage.play(self.what, kill_at=point)
        return stage

    def go_on(self, stage: Stage, kill_at: str | None = None) -> int:
        """Resume; where there is no run yet, or it has ended already, give the command again, or
        nothing.
        """
        run = stage.run()
        if run is None:
            return stage.play(self.what, kill_at)
        run_id, state = run
        if state == "succeeded":
            # as the next command does
            forget_what_has_ended(Deployment(settings(stage.folder)))
            return 0
        # how far several threads had come when their process was killed differs from time to time
        return stage.play("resume", kill_at, surely=False, run=run_id)

    def wrong_after(self, point: str, stage: Stage, expected: dict[str, Any]) -> list[str]:
        wrong = [*differences(picture(stage), expected), *done_twice(stage)]
        if self.what in AT_THE_BACKUP_SITE and "site-a" in stage.connected:
            wrong.append("the primary was connected to")
        return [f"killed at {point!r}: {w}" for w in wrong]


@pytest.fixture(scope="module")
def matrices(
    stages: Callable[[], Stage], protected: Stage, request: pytest.FixtureRequest
) -> Callable[[str], Matrix]:
    made: dict[str, Matrix] = {}

    def expiring() -> Stage:
        return with_vnf(stages(), with_policy({"last": 1}))

    def matrix(what: str) -> Matrix:
        if what not in made:
            begins = {
                "expire": "protected_long",
                FROM_STATES: "protected_by_states",
                TO_CLONES: "protected_in_part",
            }
            made[what] = Matrix(
                {
                    "expire": expiring,
                    IMAGED: lambda: from_image(stages()),
                    REPLICATED: lambda: replicated(stages()),
                    FROM_STATES: lambda: replicated(stages()),
                    GROUPED: lambda: in_group(stages()),
                    PARTIAL: lambda: in_part(stages()),
                    TO_CLONES: lambda: in_part(stages()),
                    "fence": lambda: moved(stages()),
                    "drill cleanup": lambda: drilled(stages()),
                    "migrate": lambda: moving(stages()),
                    "reprotect": lambda: reprotecting(stages()),
                    "undo": lambda: undoing(stages()),
                    "commit": lambda: committing(stages()),
                    **{verb: lambda: planned(stages(), what) for verb in PLANS},
                    "plan failback": lambda: failing_back(stages()),
                    "old copy removal": lambda: fenced(stages()),
                    "dns switch": lambda: led_elsewhere(stages()),
                }.get(what, stages),
                request.getfixturevalue(begins[what]) if what in begins else protected,
                what,
                is_copied=True,
            )
        return made[what]

    return matrix


REPLICATED, FROM_STATES = "protect by replication", "failover from states"
FROM_HEADS = "failover from heads"
IMAGED = "protect by server-snapshot, from an image"
GROUPED = "protect of a volume group"
PARTIAL, TO_CLONES = "protect of the standby", "failover to clones"
PLANS = ("plan failover", "plan drill", "plan migrate", "plan precheck")
COMMANDS = (
    "protect",
    "protect by server-snapshot",
    IMAGED,
    REPLICATED,
    "failover",
    FROM_STATES,
    "expire",
    "verify",
    "precheck",
    "fence",
    "drill",
    "drill cleanup",
    "migrate",
    "old copy removal",
    "dns switch",
    "reprotect",
    "failover that fences",
    "undo",
    *PLANS,
    "plan failback",
    PARTIAL,
    TO_CLONES,
    GROUPED,
    "commit",
)
SPARSE = {
    "migrate": 5,
    "reprotect": 5,
    "failover that fences": 5,
    "undo": 5,
    "plan failover": 5,
    "plan drill": 7,
    "plan migrate": 11,
    "plan failback": 11,
    FROM_STATES: 3,
    PARTIAL: 3,
    TO_CLONES: 3,
    GROUPED: 2,
}
"""Of whose points only every so many are in a matrix: its parts, or most of its tasks, have
matrices of their own.
"""
AT_THE_BACKUP_SITE = (
    *(
        "failover",
        FROM_STATES,
        FROM_HEADS,
        TO_CLONES,
        "verify",
        "precheck",
        "drill",
        "drill cleanup",
        "plan failover",
        "plan drill",
        "plan precheck",
    ),
    "dns switch",  # at no site
)


@pytest.mark.parametrize("what", COMMANDS)
def test_the_points_cover_every_task_and_every_change(
    matrices: Callable[[str], Matrix], what: str
) -> None:
    matrix = matrices(what)
    tasks = {
        p.removeprefix("task ").removesuffix(" begins")
        for p in matrix.points
        if p.startswith("task ") and p.endswith(" begins")
    }
    counts = (
        9,
        10,
        10,
        9,
        10,
        9,
        3,
        7,
        0,
        0,
        15,
        0,
        19,
        0,
        0,
        9,
        10,
        0,
        10,
        15,
        19,
        0,
        19,
        9,
        9,
        9,
        0,
    )
    assert len(tasks) == dict(zip(COMMANDS, counts, strict=True))[what]
    for task in tasks:
        assert {f"task {task} is done", f"task {task} is kept"} <= set(matrix.points)
    for event in set(matrix.events):
        assert {event, f"{event}, not answered"} <= set(matrix.points)


@pytest.mark.parametrize("shard", DEALT)
@pytest.mark.parametrize("what", COMMANDS)
def test_a_run_that_is_killed_anywhere_and_resumed_ends_as_if_nothing_had_happened(
    matrices: Callable[[str], Matrix], what: str, shard: int
) -> None:
    matrix, wrong = matrices(what), list[str]()
    for point in matrix.points[:: SPARSE.get(what, 1)][shard::SHARDS]:
        stage = matrix.killed_at(point)
        if matrix.go_on(stage) != 0:
            wrong.append(f"killed at {point!r}, it cannot be resumed: {stage.errors()}")
        else:
            wrong += matrix.wrong_after(point, stage, matrix.undisturbed)
        stage.close()
    assert not wrong, "\n".join(wrong)


def with_runbook(stage: Stage) -> Stage:
    """Have the VNF have a runbook: its command notes that it is done."""
    note = ["sh", "-c", f'echo "$ANTIPODE_KEY" >> {stage.folder}/done']
    steps = [
        {"name": "note", "after": ["db"], "command": note},
        {"name": "pause", "before": "all", "wait": 0.01},
        {"name": "sure", "after": "all", "prompt": "Does it serve?"},
    ]
    return with_vnf(stage, Vnf.model_validate(VNF.model_dump(mode="json") | {"steps": steps}))


def test_a_runbook_step_that_was_done_is_not_done_again_wherever_its_run_is_killed(
    stages: Callable[[], Stage], protected: Stage
) -> None:
    what = "failover with a runbook"
    matrix, wrong = Matrix(lambda: with_runbook(stages()), protected, what), list[str]()
    points = [p for p in matrix.points if "DoStep" in p or p.startswith("question")]
    assert len(points) == 3 * 3 + 2
    for point in points:
        stage = matrix.killed_at(point)
        assert matrix.go_on(stage) == 0, stage.errors()
        wrong += matrix.wrong_after(point, stage, matrix.undisturbed)
        notes = (stage.folder / "done").read_text().split()
        # killed after the command and before the step was noted, it is done again, with its key
        twice = point == "task DoStep note is done"
        if len(notes) not in ((1, 2) if twice else (1,)) or len(set(notes)) != 1:
            wrong.append(f"killed at {point!r}, the command was done as {notes}")
        asked = Deployment(settings(stage.folder)).questions.of(stage.run_id())
        if [(q.attempt, q.answer) for q in asked] != [(1, "yes")]:
            wrong.append(f"killed at {point!r}, it asked {len(asked)} times")
        stage.close()
    assert not wrong, "\n".join(wrong)


def with_steps_of(what: str, stage: Stage) -> Stage:
    """Have a verb that boots no members have a step before it, and a question after it."""
    note = ["sh", "-c", 'echo "$ANTIPODE_KEY" >> "$NOTES/done"']
    steps = [
        {"name": "note", "on": what, "before": "all", "command": note, "variables": "NOTES"},
        {"name": "sure", "on": what, "after": "all", "prompt": "Does it serve?"},
    ]
    return with_vnf(stage, Vnf.model_validate(VNF.model_dump(mode="json") | {"steps": steps}))


BEGINNINGS = {"undo": undoing, "fence": moved, "reprotect": reprotecting}


@pytest.mark.parametrize("what", BEGINNINGS)
def test_a_step_around_a_verb_is_done_wherever_its_run_is_killed_and_not_once_more(
    stages: Callable[[], Stage], protected: Stage, what: str
) -> None:
    def begun() -> Stage:
        return BEGINNINGS[what](with_steps_of(what, stages()))

    matrix, wrong = Matrix(begun, protected, what, is_copied=True), list[str]()
    points = [p for p in matrix.points if p.startswith(("step ", "question "))]
    assert points == [
        "step note begins",
        "step note is done",
        "step sure begins",
        *("question is asked", "question is answered"),
        "step sure is done",
    ]
    for point in points:
        stage = matrix.killed_at(point)
        assert matrix.go_on(stage) == 0, (point, stage.errors())
        wrong += matrix.wrong_after(point, stage, matrix.undisturbed)
        notes = (stage.folder / "done").read_text().split()
        twice = point == "step note is done"  # killed before that was kept
        if len(notes) not in ((1, 2) if twice else (1,)) or len(set(notes)) != 1:
            wrong.append(f"killed at {point!r}, the command was done as {notes}")
        asked = Deployment(settings(stage.folder)).questions.of(stage.run_id())
        if [(q.attempt, q.answer) for q in asked] != [(1, "yes")]:
            wrong.append(f"killed at {point!r}, it asked {len(asked)} times")
        stage.close()
    assert not wrong, "\n".join(wrong)


def sharing(stage: Stage) -> Stage:
    """Have both members have a volume."""
    stage.clouds["site-a"].share("db-data", "id-front")
    stage.clouds["site-b"].types[0]["extra_specs"] = {"multiattach": "<is> True"}
    return stage


def test_a_volume_of_two_members_is_restored_once_wherever_the_run_is_killed(
    stages: Callable[[], Stage],
) -> None:
    stage = sharing(stages())
    assert stage.play("protect") == 0, stage.errors()
    matrix, wrong = Matrix(lambda: sharing(stages()), stage, "failover"), list[str]()
    words = ("volume", "Volumes", "restore", "boot", "Boot")
    points = [p for p in matrix.points if any(word in p for word in words)]
    assert len(points) > 20
    for point in points:
        stage = matrix.killed_at(point)
        assert matrix.go_on(stage) == 0, (point, stage.errors())
        wrong += matrix.wrong_after(point, stage, matrix.undisturbed)
        there = stage.clouds["site-b"]
        of_servers = [{a["volumeId"] for a in of} for of in there.attachments.values()]
        if len(set.intersection(*of_servers)) != 1 or len(set.union(*of_servers)) != 3:
            wrong.append(f"killed at {point!r}, the servers have {of_servers}")
        stage.close()
    assert not wrong, "\n".join(wrong)


def with_spare(stage: Stage) -> Stage:
    """Have the VNF have a volume that no server has."""
    volumes = stage.clouds["site-a"].volumes
    own = {"id": "vol-spare", "name": "spare", "status": "available"}
    volumes["vol-spare"] = {**volumes["db-data"], **own}
    return with_vnf(stage, Vnf.model_validate(VNF.model_dump(mode="json") | {"volumes": ["spare"]}))


@pytest.mark.parametrize(("what", "least"), [("failover", 7), ("drill", 7)])
def test_a_volume_of_no_server_is_there_once_wherever_the_run_is_killed(
    stages: Callable[[], Stage], what: str, least: int
) -> None:
    stage = with_spare(stages())
    assert stage.play("protect") == 0, stage.errors()
    matrix, wrong = Matrix(lambda: with_spare(stages()), stage, what), list[str]()
    points = [p for p in matrix.points if "spare" in p or "Unattached" in p]
    assert len(points) >= least, points
    for point in points:
        stage = matrix.killed_at(point)
        assert matrix.go_on(stage) == 0, (point, stage.errors())
        wrong += matrix.wrong_after(point, stage, matrix.undisturbed)
        named = [v for v in stage.clouds["site-b"].volumes.values() if "spare" in v["name"]]
        if len(named) != (what == "failover"):
            wrong.append(f"killed at {point!r}, there are {named}")
        stage.close()
    assert not wrong, "\n".join(wrong)


def with_data(stage: Stage, position: int = 1) -> Stage:
    """Have the application of the VNF keep two kinds of data at both sites by itself."""
    for name in ("records", "log"):
        data = twosites.Application(stage.folder, name)
        data.is_at("site-a", position=position)
        data.is_at("site-b", position=position)
    stores = {
        "records": {"storage": "pg", "kind": "application"},
        "log": {"storage": "kv", "kind": "application"},
    }
    changes = {"datastores": stores, "protections": [VNF.model_dump(mode="json")["protections"][0]]}
    return with_vnf(stage, Vnf.model_validate(VNF.model_dump(mode="json") | changes))


def data_of(stage: Stage) -> dict[str, Any]:
    """Each kind of data of a stage as both sites have it, and which changes it was asked for."""
    found = {}
    for name in ("records", "log"):
        state = json.loads((stage.folder / f"{name}.json").read_text())
        calls = Counter(c for c in state["calls"] if c.startswith(("promote", "demote")))
        health = {site: there["health"] for site, there in state["sites"].items()}
        found[name] = {"health": health, "calls": dict(calls)}
    return found


@pytest.fixture(scope="module")
def protected_with_data(stages: Callable[[], Stage]) -> Stage:
    stage = with_data(stages())
    assert stage.play("protect with data") == 0, stage.errors()
    return stage


@pytest.fixture(scope="module")
def of_data(stages: Callable[[], Stage], protected_with_data: Stage) -> Matrix:
    return Matrix(lambda: with_data(stages(), 2), protected_with_data, "failover with data")


def test_a_point_of_data_is_whole_wherever_its_run_is_killed(
    stages: Callable[[], Stage], protected_with_data: Stage
) -> None:
    what, wrong = "protect with data", list[str]()
    matrix = Matrix(lambda: with_data(stages(), 2), protected_with_data, what)
    points = [p for p in matrix.points if p.startswith("point at")]
    points += [f"task TransferCaptures {when}" for when in ("begins", "is done", "is kept")]
    assert len(points) == 2 * 2 + 3
    for point in points:
        stage = matrix.killed_at(point)
        assert matrix.go_on(stage) == 0, stage.errors()
        wrong += matrix.wrong_after(point, stage, matrix.undisturbed)
        newest = opened(stage, max(n for n in stage.vault if counts(stage, n)))
        for name in ("records", "log"):
            there = json.loads((stage.folder / f"{name}.json").read_text())["sites"]["site-b"]
            position = int(newest.datastores[name].position)
            if not 2 < position <= there["position"]:
                wrong.append(f"killed at {point!r}, {name} has {position} and {there}")
        stage.close()
    assert not wrong, "\n".join(wrong)


def test_data_is_promoted_once_wherever_the_run_is_killed(of_data: Matrix) -> None:
    wrong = list[str]()
    points = [p for p in of_data.points if "PromoteData" in p or p.startswith("promote")]
    assert len(points) == 3 + 2 * 2
    points += ["boot db", "boot db, not answered", "task CompleteGeneration is done"]
    for point in points:
        stage = of_data.killed_at(point)
        before = data_of(stage)
        assert of_data.go_on(stage) == 0, stage.errors()
        wrong += of_data.wrong_after(point, stage, of_data.undisturbed)
        for name, found in data_of(stage).items():
            was_promoted = before[name]["health"]["site-b"] == "writable"
            again = found["calls"].get("promote at site-b", 0) - before[name]["calls"].get(
                "promote at site-b", 0
            )
            if found["health"]["site-b"] != "writable" or again != (0 if was_promoted else 1):
                wrong.append(f"killed at {point!r}, {name} was {before[name]} and is {found}")
        stage.close()
    assert not wrong, "\n".join(wrong)


def test_a_reprotection_has_all_data_follow_wherever_it_is_killed(
    stages: Callable[[], Stage], protected_with_data: Stage
) -> None:
    def demoted() -> Stage:
        stage = reprotecting(with_data(stages(), 2))
        for name in ("records", "log"):
            place = stage.folder / f"{name}.json"
            state = json.loads(place.read_text())
            state["sites"]["site-a"]["health"] = "stopped"
            place.write_text(json.dumps(state))
        return stage

    matrix, wrong = Matrix(demoted, protected_with_data, "reprotect"), list[str]()
    points = [p for p in matrix.points if p.startswith("resync")]
    assert len(points) == 2 * 2
    for point in points:
        stage = matrix.killed_at(point)
        assert matrix.go_on(stage) == 0, stage.errors()
        wrong += matrix.wrong_after(point, stage, matrix.undisturbed)
        for name, found in data_of(stage).items():
            if found["health"] != {"site-a": "replicating", "site-b": "writable"}:
                wrong.append(f"killed at {point!r}, {name} is {found}")
        stage.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "first", ["promote at site-b", "promote at site-b, not answered", "boot front, not answered"]
)
def test_an_abort_leaves_no_data_promoted_and_can_be_killed_anywhere(
    of_data: Matrix, first: str
) -> None:
    stage = of_data.killed_at(first)
    abort(stage)
    points = [p for p in stage.points if p.startswith("demote")] + stage.points[::9]
    aborted = rolled_back(stage, "failover")
    assert aborted["run"]["state"] == "aborted"
    assert "writable" not in {found["health"]["site-b"] for found in data_of(stage).values()}
    stage.close()
    for point in points:
        stage = of_data.killed_at(first)
        abort(stage, kill_at=point)
        abort(stage)
        found = data_of(stage)
        assert "writable" not in {one["health"]["site-b"] for one in found.values()}, point
        # what is left to be done about data is said by the process that demoted it
        again = rolled_back(stage, "failover")
        assert again["run"]["state"] == "aborted", point
        assert again["site-b"] == aborted["site-b"], point
        stage.close()


@pytest.fixture(scope="module")
def of_heads(stages: Callable[[], Stage], protected_by_states: Stage) -> Matrix:
    return Matrix(lambda: replicated(stages()), protected_by_states, FROM_HEADS)


def heads_of(stage: Stage) -> dict[str, Any]:
    """Which replicas of a stage are promoted, and what is kept of them."""
    kept = {image: states for image, states in stage.pools.heads.items() if states}
    return {"promoted": stage.pools.promoted, "kept": kept}


def test_replicas_are_promoted_once_and_none_stays_so_wherever_the_run_is_killed(
    of_heads: Matrix,
) -> None:
    wrong = list[str]()
    changes = ("promote", "keep head", "drop head", "demote")
    points = [p for p in of_heads.points if p.startswith(changes) and "db-root" in p]
    assert len(points) == 4 * 2
    points += [p for p in of_heads.points if "PromoteHeads" in p]
    assert len(points) == 4 * 2 + 3
    for point in points:
        stage = of_heads.killed_at(point)
        assert of_heads.go_on(stage) == 0, stage.errors()
        wrong += of_heads.wrong_after(point, stage, of_heads.undisturbed)
        if heads_of(stage) != {"promoted": set(), "kept": {}}:
            wrong.append(f"killed at {point!r}, there are {heads_of(stage)}")
        stage.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "first", ["promote volume-db-root, not answered", "clone volume-db-root, not answered"]
)
def test_an_abort_leaves_no_replica_promoted_and_can_be_killed(
    of_heads: Matrix, first: str
) -> None:
    for point in (None, "demote volume-db-root", "demote volume-db-root, not answered"):
        stage = of_heads.killed_at(first)
        if point is not None:
            abort(stage, kill_at=point)
        abort(stage)
        assert heads_of(stage) == {"promoted": set(), "kept": {}}, point
        assert stage.clouds["site-b"].volumes == {}, point
        stage.close()


@pytest.mark.parametrize(
    ("what", "first"),
    [
        ("protect", "snapshot db-data, not answered"),
        ("protect by server-snapshot", "image db, not answered"),
        (IMAGED, "upload antipode root disk of db, not answered"),
        ("failover", "restore db-root, not answered"),
        (FROM_STATES, "manage db-root, not answered"),
        ("expire", "delete backup of db-data, not answered"),
        ("verify", "full backup db-root, not answered"),
        ("fence", "os-stop db, not answered"),
        ("drill", "restore db-root, not answered"),
    ],
)
def test_a_resume_that_is_killed_in_its_turn_can_be_resumed(
    matrices: Callable[[str], Matrix], what: str, first: str
) -> None:
    matrix, wrong = matrices(what), list[str]()
    stage = matrix.killed_at(first)
    assert matrix.go_on(stage) == 0, stage.errors()
    points = stage.points
    stage.close()
    for point in points[::6]:  # the places are those of the test above
        stage = matrix.killed_at(first)
        matrix.go_on(stage, kill_at=point)
        if matrix.go_on(stage) != 0:
            wrong.append(f"resumed and killed at {point!r}, it cannot be resumed: {stage.errors()}")
        else:
            wrong += matrix.wrong_after(point, stage, matrix.undisturbed)
        stage.close()
    assert not wrong, "\n".join(wrong)


ABORTED = (
    ("protect", "snapshot db-data, not answered"),
    ("protect", "incremental backup front-root, not answered"),
    ("protect by server-snapshot", "snapshot db-data"),
    ("protect by server-snapshot", "incremental backup front-root, not answered"),
    (IMAGED, "upload antipode root disk of db, not answered"),
    (REPLICATED, "snapshot db-data, not answered"),
    ("failover", "boot front, not answered"),
    (FROM_STATES, "clone volume-db-root, not answered"),
    (FROM_STATES, "boot front, not answered"),
    ("verify", "restore db-root, not answered"),
    ("verify", "full backup db-root, not answered"),
    ("drill", "network net-b drill-1a2b3c, not answered"),
    ("drill", "boot db-drill-1a2b3c, not answered"),
    ("plan failover", "boot front, not answered"),
)


@pytest.mark.parametrize(("what", "first"), ABORTED)
def test_an_abort_takes_back_what_the_run_has_made_and_can_be_killed_anywhere_and_repeated(
    matrices: Callable[[str], Matrix], what: str, first: str
) -> None:
    matrix, wrong = matrices(what), list[str]()
    stage = matrix.killed_at(first)
    abort(stage)
    points, aborted = stage.points, rolled_back(stage, what)
    assert aborted["run"]["state"] == "aborted"
    there, elsewhere = ("site-b", "site-a") if what in AT_THE_BACKUP_SITE else ("site-a", "site-b")
    assert aborted[elsewhere] == matrix.before[elsewhere]
    kept = aborted[there] | (
        {"backups": [], "keypairs": {}, "groups": []} if what in AT_THE_BACKUP_SITE else {}
    )
    assert kept == matrix.before[there]
    assert aborted["points"] == matrix.before["points"]
    has_imported = "failover" in what and first.startswith("boot")
    assert has_imported == bool(aborted["run"]["left"]), "a keypair and a group, which others use"
    stage.close()
    for point in points[:: SPARSE.get(what, 1)]:
        stage = matrix.killed_at(first)
        abort(stage, kill_at=point)
        abort(stage)
        wrong += [
            f"killed at {first!r}, then {point!r}: {d}"
            for d in differences(rolled_back(stage, what), aborted)
        ]
        stage.close()
    assert not wrong, "\n".join(wrong)


def rolled_back(stage: Stage, what: str) -> dict[str, Any]:
    """What there is after an abort; how far several threads had come when their process was killed
    differs from time to time. A drill makes networks while it imports records, which stay.
    """
    shown = picture(stage)
    del shown["run"]["steps done"]
    if what == "drill":
        imported = shown["site-a"]["backups"]
        shown["site-b"]["backups"] = [b for b in shown["site-b"]["backups"] if b not in imported]
    return shown


def abort(stage: Stage, kill_at: str | None = None) -> None:
    found = stage.run()
    assert found is not None
    code = stage.play("abort", kill_at, surely=False, run=found[0])
    assert code == 0 or (kill_at is not None and code == -signal.SIGKILL), stage.errors()


@pytest.mark.parametrize(
    "first",
    ["os-stop db", "os-stop db, not answered", "restore db-root, not answered", "boot front"],
)
def test_an_aborted_migration_leaves_the_vnf_running_where_it_was_however_often_it_is_killed(
    matrices: Callable[[str], Matrix], first: str
) -> None:
    matrix, wrong = matrices("migrate"), list[str]()
    stage = matrix.killed_at(first)
    abort(stage)
    points = stage.points
    wrong += not_as_before(stage, matrix.before)
    stage.close()
    for point in points[::3]:
        stage = matrix.killed_at(first)
        abort(stage, kill_at=point)
        abort(stage)
        wrong += [
            f"killed at {first!r}, then {point!r}: {w}" for w in not_as_before(stage, matrix.before)
        ]
        stage.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "first", ["lock front", "quiesce db, not answered", "full backup db-root, not answered"]
)
def test_an_aborted_reprotection_leaves_the_active_copy_at_work_and_both_copies_whole(
    matrices: Callable[[str], Matrix], first: str
) -> None:
    matrix, wrong = matrices("reprotect"), list[str]()
    stage = matrix.killed_at(first)
    abort(stage)
    passed = stage.points
    wrong += not_whole(stage, matrix.before)
    stage.close()
    for point in passed[::3]:
        stage = matrix.killed_at(first)
        abort(stage, kill_at=point)
        abort(stage)
        wrong += [
            f"killed at {first!r}, then {point!r}: {w}" for w in not_whole(stage, matrix.before)
        ]
        stage.close()
    assert not wrong, "\n".join(wrong)


def of_any_run(shown: Any) -> Any:
    """What is shown, without the ids of runs: those before differ from stage to stage."""
    return json.loads(re.sub(r"[a-z-]+-\d{8}T\d{6}Z-\w{6}", "RUN", json.dumps(shown)))


def not_whole(stage: Stage, before: dict[str, Any]) -> list[str]:
    """What an aborted reprotection has changed beside the state of the old copy."""
    shown = clouds(stage)
    old: dict[str, Any] = {"servers": {}, "ports": {}}
    kept = {name: len(shown["site-a"][name]) for name in old}
    were = {name: len(before["site-a"][name]) for name in old}
    return [
        *differences(shown["site-a"] | old, before["site-a"] | old, "site-a"),
        *differences(of_any_run(shown["site-b"]), of_any_run(before["site-b"]), "site-b"),
        *differences(kept, were, "site-a"),
        *differences(points(stage), before["points"], "points"),
    ]


@pytest.mark.parametrize(
    "first",
    ["mark db", "os-stop db, not answered", "lock front", "boot front, not answered"],
)
def test_an_aborted_failover_that_has_fenced_leaves_the_vnf_running_as_before(
    matrices: Callable[[str], Matrix], first: str
) -> None:
    matrix, wrong = matrices("failover that fences"), list[str]()
    stage = matrix.killed_at(first)
    abort(stage)
    passed = stage.points
    wrong += not_as_before(stage, matrix.before)
    stage.close()
    for point in passed[::3]:
        stage = matrix.killed_at(first)
        abort(stage, kill_at=point)
        abort(stage)
        wrong += [
            f"killed at {first!r}, then {point!r}: {w}" for w in not_as_before(stage, matrix.before)
        ]
        stage.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("first", ["os-stop db, not answered", "lock front"])
def test_an_aborted_undo_leaves_the_new_copy_running(
    matrices: Callable[[str], Matrix], first: str
) -> None:
    matrix, wrong = matrices("undo"), list[str]()
    stage = matrix.killed_at(first)
    abort(stage)
    passed = stage.points
    wrong += not_as_before(stage, matrix.before)
    stage.close()
    for point in passed[::3]:
        stage = matrix.killed_at(first)
        abort(stage, kill_at=point)
        abort(stage)
        wrong += [
            f"killed at {first!r}, then {point!r}: {w}" for w in not_as_before(stage, matrix.before)
        ]
        stage.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("first", ["os-stop db, not answered", "lock front"])
def test_an_aborted_fence_undoes_nothing_and_the_next_one_completes_it(
    matrices: Callable[[str], Matrix], first: str
) -> None:
    stage = matrices("fence").killed_at(first)
    before = clouds(stage)
    abort(stage)
    assert clouds(stage) == before
    assert stage.play("fence") == 0, stage.errors()
    old = stage.clouds["site-a"]
    assert {(s["status"], s["locked"]) for s in old.servers.values()} == {("SHUTOFF", True)}
    assert {p["admin_state_up"] for p in old.ports.values() if p["device_id"]} == {False}
    stage.close()


def not_as_before(stage: Stage, before: dict[str, Any]) -> list[str]:
    """What an aborted migration has changed, but for the points that it has made."""
    shown = clouds(stage)
    any_of_these: dict[str, Any] = {"backups": [], "keypairs": {}, "groups": []}
    return [
        d
        for site in stage.clouds
        for d in differences(
            of_any_run(shown[site] | any_of_these), of_any_run(before[site] | any_of_these), site
        )
    ]


def standing(stage: Stage, begins_with: str = "") -> Stage:
    """Have volumes stand at the backup site."""
    stage.stands, stage.begins_with = True, begins_with
    return stage


@pytest.fixture(scope="module")
def protected_with_store(stages: Callable[[], Stage]) -> Stage:
    """A primary with two recovery points, of which the backup store has the objects."""
    stage = standing(stages())
    for _ in range(2):
        assert stage.play("protect") == 0, stage.errors()
    return stage


def newest_backups(stage: Stage) -> dict[str, str]:
    """The backup of each volume in the newest recovery point."""
    point = opened(stage, max(n for n in stage.vault if counts(stage, n)))
    return {volume: point.chain(volume)[-1].id for volume in point.sources}


def standing_volumes(stage: Stage) -> list[Standing]:
    cloud = stage.clouds["site-b"]
    found = (read_standing(cloud._shown(v), VNF.vnf) for v in cloud.volumes.values())
    return [standing for standing in found if standing is not None]


def untrue(stage: Stage) -> list[str]:
    """The standing volumes that are said to hold what they do not hold."""
    there = standing_volumes(stage)
    return [
        f"{s.id} is said to hold {s.holds}, and holds {stage.contents.get(s.id)}"
        for s in there
        if s.is_at_rest and stage.contents.get(s.id) != s.holds
    ]


APPLIED_BEFORE = ("", "standing apply of the first")


@pytest.mark.parametrize("before", APPLIED_BEFORE, ids=["first copy", "increment"])
def test_standing_volumes_hold_what_is_said_of_them_wherever_their_run_is_killed(
    stages: Callable[[], Stage], protected_with_store: Stage, before: str
) -> None:
    def begun() -> Stage:
        return standing(stages(), before)

    matrix = Matrix(begun, protected_with_store, "standing apply", is_copied=True)
    wanted, wrong = newest_backups(protected_with_store), list[str]()
    assert {p for p in matrix.points if p.startswith("write")}
    for point in matrix.points:
        stage = matrix.killed_at(point)
        wrong += [f"killed at {point!r}: {u}" for u in untrue(stage)]
        assert matrix.go_on(stage) == 0, (point, stage.errors())
        found = {s.source: s.holds for s in standing_volumes(stage)}
        left = len(stage.clouds["site-b"].volumes) - len(wanted)
        wrong += [
            f"killed at {point!r}: {w}"
            for w in (
                *untrue(stage),
                *differences(found, wanted),
                *differences(left, 0, "other volumes"),
                *differences(stage.clouds["site-b"].snapshots, {}, "snapshots"),
            )
        ]
        if "site-a" in stage.connected:
            wrong.append(f"killed at {point!r}: the primary was connected to")
        stage.close()
    assert not wrong, "\n".join(wrong)


def test_a_removal_of_standing_volumes_leaves_none_wherever_it_is_killed(
    stages: Callable[[], Stage], protected_with_store: Stage
) -> None:
    def begun() -> Stage:
        return standing(stages(), "standing apply")

    matrix = Matrix(begun, protected_with_store, "standing removal", is_copied=True)
    for point in matrix.points:
        stage = matrix.killed_at(point)
        assert matrix.go_on(stage) == 0, (point, stage.errors())
        cloud = stage.clouds["site-b"]
        going = [v for v in cloud.volumes.values() if v["status"] != "deleting"]
        assert (going, cloud.snapshots) == ([], {}), point
        stage.close()


@pytest.fixture(scope="module")
def onto_standing(stages: Callable[[], Stage], protected_with_store: Stage) -> Matrix:
    def begun() -> Stage:
        return standing(stages(), "standing apply")

    return Matrix(begun, protected_with_store, "failover", is_copied=True)


def test_a_failover_takes_what_stands_wherever_it_is_killed(onto_standing: Matrix) -> None:
    wrong = list[str]()
    assert not [e for e in onto_standing.events if e.startswith(("restore", "import", "volume"))]
    for point in onto_standing.points[::3]:
        stage = onto_standing.killed_at(point)
        assert onto_standing.go_on(stage) == 0, (point, stage.errors())
        wrong += onto_standing.wrong_after(point, stage, onto_standing.undisturbed)
        used = {a["volumeId"] for of in stage.clouds["site-b"].attachments.values() for a in of}
        held = {stage.contents.get(volume) for volume in used}
        if held != set(newest_backups(stage).values()):
            wrong.append(f"killed at {point!r}: servers have {held}")
        stage.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("first", ["boot db", "boot front, not answered"])
def test_an_aborted_failover_gives_standing_volumes_back_wherever_it_is_killed(
    onto_standing: Matrix, first: str
) -> None:
    stage = onto_standing.killed_at(first)
    abort(stage)
    passed = stage.points
    stage.close()
    for point in (None, *passed[::3]):
        stage = onto_standing.killed_at(first)
        if point is not None:
            abort(stage, kill_at=point)
        abort(stage)
        there = {s.source: s.holds for s in standing_volumes(stage)}
        assert there == dict.fromkeys(newest_backups(stage)), point
        assert len(stage.clouds["site-b"].volumes) == len(there), point
        assert stage.clouds["site-b"].servers == {}, point
        stage.close()


WHEN = ("before", "after", "settled", "ended")
"""When a request takes effect whose sender was killed in the middle of it: before the one that its
successor makes in its place, after it, when what that one has made is there, or when the run has
ended.
"""
MAKES = re.compile(
    "restore|volume|boot|import|port|network|subnet|(security )?group|keypair|(new )?image"
    "|upload|snapshot|full|incremental"
)


def late_requests(matrix: Matrix) -> list[tuple[str, str]]:
    """Every change, and when it may come through late.

    A late quiesce is thawed by the add-on, when its timeout is over.
    """
    changes = [
        p
        for p in matrix.points
        if f"{p}, not answered" in matrix.points and not p.startswith("quiesce")
    ]
    return [
        (change, when)
        for change in changes
        for when in (WHEN if MAKES.match(change) else WHEN[-1:])
    ]


def dealt(requests: Sequence[tuple[str, str]], shard: int) -> Iterator[tuple[str, str]]:
    """Those of a shard: of each change one moment, and not the same of all."""
    for number, request in enumerate(requests):
        if (number + number // len(WHEN)) % SHARDS == shard:
            yield request


@pytest.mark.parametrize("shard", DEALT)
@pytest.mark.parametrize("what", [c for c in COMMANDS if c not in SPARSE])
def test_a_request_that_takes_effect_after_its_sender_was_killed_leaves_nothing_twice(
    matrices: Callable[[str], Matrix], what: str, shard: int
) -> None:
    matrix, wrong = matrices(what), list[str]()
    for point, when in dealt(late_requests(matrix), shard):
        stage = matrix.killed_at(point)
        stage.when = when
        if matrix.go_on(stage) != 0:
            wrong.append(f"{point!r}, late ({when}): it cannot be resumed: {stage.errors()}")
        elif when in ("settled", "ended"):
            stage.comes_through()
            assert stage.play("clean up") == 0, stage.errors()
        if point.startswith("group"):
            forget_empty_twins(stage)
        wrong += [
            f"{point!r}, late ({when}): {d}"
            for d in differences(picture(stage), matrix.undisturbed)
        ]
        stage.close()
    assert not wrong, "\n".join(wrong)


def forget_empty_twins(stage: Stage) -> None:
    """Of server groups of one name those without a server: they carry no mark, so nobody may say
    that they are ours and remove them.
    """
    cloud = stage.clouds["site-b"]
    used = {server["hints"].get("group") for server in cloud.servers.values()}
    cloud.server_groups = [g for g in cloud.server_groups if g["id"] in used]


@pytest.mark.parametrize("what", [c for c in COMMANDS if c not in SPARSE])
def test_a_request_that_takes_effect_when_its_run_was_aborted_is_cleaned_up(
    matrices: Callable[[str], Matrix], what: str
) -> None:
    matrix, wrong = matrices(what), list[str]()
    for point, when in late_requests(matrix):
        if when != "ended" or not re.match(
            "restore|volume|boot|port|network|(new )?image|upload|snapshot|full|incremental"
            "|vault put",
            point,
        ):
            continue
        stage = matrix.killed_at(point)
        if stage.run() is None:
            continue
        abort(stage)
        stage.comes_through()
        assert stage.play("clean up") == 0, stage.errors()
        site = "site-b" if what in AT_THE_BACKUP_SITE else "site-a"
        shown = clouds(stage)[site] | {"backups": [], "keypairs": {}, "groups": []}
        before = matrix.before[site] | {"backups": [], "keypairs": {}, "groups": []}
        wrong += [f"{point!r}, late: {d}" for d in differences(shown, before)]
        other = "site-a" if site == "site-b" else "site-b"
        wrong += [
            f"{point!r}, late: {d}"
            for d in differences(clouds(stage)[other]["images"], matrix.before[other]["images"])
        ]
        wrong += [
            f"{point!r}, late: {d}" for d in differences(points(stage), matrix.before["points"])
        ]
        if what not in AT_THE_BACKUP_SITE:
            wrong += [
                f"{point!r}, late: {d}"
                for d in differences(clouds(stage)[site]["backups"], matrix.before[site]["backups"])
            ]
        stage.close()
    assert not wrong, "\n".join(wrong)


def test_a_volume_that_went_with_a_server_in_error_whose_remover_was_killed_is_restored_again(
    matrices: Callable[[str], Matrix],
) -> None:
    matrix = matrices("failover")
    stage = matrix.killed_at("boot db")
    volumes = stage.clouds["site-b"].volumes
    del volumes[next(v for v in volumes if volumes[v]["name"] == "db-data")]
    assert matrix.go_on(stage) == 0, stage.errors()
    assert differences(picture(stage), matrix.undisturbed) == []
    stage.close()

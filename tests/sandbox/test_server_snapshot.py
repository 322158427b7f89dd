# SPDX-License-Identifier: Apache-2.0
"""Option 2 on embedded sites: an active and a standby member are captured one after another while
the other one works, and each comes back whole.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antipode.sandbox import answer, canary, desk, records
from antipode.sandbox.creation import Creation
from antipode.sandbox.guests import records_of
from antipode.sandbox.members import HTTP_PORT, PAIR, Member
from antipode.sandbox.site import IMAGE
from antipode.sandbox.supervision import Sandbox
from tests.sandbox.conftest import BACKUP, LATENCY, PRIMARY, World, await_thaw, until

pytestmark = pytest.mark.sandbox
ACTIVE, STANDBY = PAIR
SNAPSHOTS = r"^snapshot\.create$"
OPTION = "server-snapshot"


class Pair(World):
    """The two members at the primary, and an operator who protects them by option 2."""

    def know(self, **quiesce: Any) -> None:
        """Give antipode the VNF's file."""
        self.tell_of(
            [
                {"option": OPTION, "quiesce": {"timeout": "120s", **quiesce}},
                {"option": "quiesced-snapshot", "quiesce": {"timeout": "120s"}},
            ]
        )

    def tell_of(
        self,
        protections: list[dict[str, Any]],
        capture: str | None = None,
        **of_member: dict[str, Any],
    ) -> None:
        """Give antipode a file of the VNF.

        Args:
            capture: of which members only a part is captured.
            of_member: what it says beside the usual of a member, by the name of its role.
        """
        program = [sys.executable, "-m", "antipode.sandbox.answer"]
        asks = [*program, str(self.sandbox.directory.resolve()), "{site}", "{address}"]
        members = [
            {
                "server": member.server,
                "role": str(member.name),
                "answers": {"command": [*asks, str(HTTP_PORT)], "within": "180s"},
                **of_member.get(str(member.name), {}),
            }
            for member in PAIR
        ]
        file = {**desk.vnf(self.sandbox), "members": members, "protections": protections}
        file |= {"capture": capture} if capture else {}
        path = self.sandbox.directory / "pair.yaml"
        YAML().dump(file, path)
        self.operator.tell("vnf", "add", str(path))

    def durable(self, member: Member, site: str = PRIMARY) -> int:
        url = self.sandbox.settings(site).url
        said = json.loads(answer.ask(url, member.address, HTTP_PORT, timeout_s=60))
        return int(said["durable"])

    def works(self, member: Member, site: str = PRIMARY) -> None:
        """Return when a member has made records since now."""
        before = self.durable(member, site)
        until(lambda: self.durable(member, site) > before + 2, f"{member.server} works")

    def records_on(self, site: str) -> dict[str, bytes]:
        """The records on the members' data volumes now, read behind OpenStack's back."""
        found, compute = {}, self.cloud(site).compute
        for server in compute.servers():
            for attached in compute.volume_attachments(server):
                if attached.device == "/dev/vdb":
                    path = canary.path_of_volume(self.sandbox, site, attached.volume_id)
                    found[server.name] = records_of(path)
        return found

    def images(self) -> list[str]:
        images = self.cloud(PRIMARY).image.images()
        return [i.name for i in images if i.name.startswith("antipode ")]

    @contextmanager
    def holding(self, operation: str = SNAPSHOTS) -> Iterator[str]:
        """While it is entered, what has this name does not come to its end."""
        rule = self.fault(PRIMARY, operation, "stuck", times=None)
        try:
            yield rule
        finally:
            self.sandbox.ask(PRIMARY, "DELETE", f"/faults/{rule}")

    def expect_the_next_one_to_be_good(self) -> None:
        self.sandbox.ask(PRIMARY, "DELETE", "/faults")
        until(lambda: not self.frozen(), "no member is frozen")
        result = self.protect()
        assert result["consistency"] == "member"
        assert result["recovery_point"] in self.points()
        assert self.snapshots() == []
        assert self.images() == []
        assert self.frozen() == set()


@contextmanager
def _at_work(directory: Path) -> Iterator[Pair]:
    sandbox = Sandbox(directory)
    sandbox.up(latency=LATENCY)
    try:
        desk.write(sandbox)
        Creation(
            canary.connect(sandbox, f"{PRIMARY}-tenant"),
            PRIMARY,
            IMAGE,
            canary.PERIOD_MS,
            lambda server: None,
            canary.PATIENCE_S,
            interval_s=0.1,
            members=PAIR,
        ).run()
        yield Pair(sandbox)
    finally:
        sandbox.down()


@pytest.fixture(scope="module")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with _at_work(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def pair(shared_pair: Pair) -> Iterator[Pair]:
    shared_pair.mend()
    shared_pair.know()
    for member in PAIR:
        until(partial(_answers, shared_pair, member), f"{member.server} answers")
    yield shared_pair
    shared_pair.mend()


@pytest.fixture
def own_pair(tmp_path: Path) -> Iterator[Pair]:
    """Sites of a test's own, which it may destroy."""
    with _at_work(tmp_path / "own") as pair:
        pair.know()
        for member in PAIR:
            until(partial(_answers, pair, member), f"{member.server} answers")
        yield pair


def _answers(pair: Pair, member: Member) -> bool:
    try:
        return pair.durable(member) > 0
    except OSError:
        return False


def test_a_snapshot_that_stays_creating_leaves_no_member_frozen(pair: Pair) -> None:
    pair.know(timeout="5s")
    with pair.holding(), pair.meanwhile("protect", "canary") as end:
        until(lambda: pair.frozen() == {STANDBY.server}, "the standby member is frozen")
        await_thaw(pair, 60)
        pair.works(STANDBY)
        # Cinder never deletes a snapshot that it never made; healed before the run has given up.
        pair.sandbox.ask(PRIMARY, "DELETE", "/faults")
        done = end()
    assert done.returncode == 1, done.stderr
    pair.know()
    pair.expect_the_next_one_to_be_good()


def test_an_agent_that_hangs_leaves_no_member_frozen_whenever_it_answers(pair: Pair) -> None:
    pair.know(timeout="3s")
    with pair.holding(r"^server\.quiesce$"), pair.meanwhile("protect", "canary") as end:
        until(lambda: pair.struck(PRIMARY), "the agent is asked to freeze")
        before = _unquiesces(pair)
        until(lambda: _unquiesces(pair) > before, "antipode unquiesces")
        pair.sandbox.ask(PRIMARY, "DELETE", "/faults")  # the agent answers: it freezes now
        done = end()
    assert done.returncode != 0, done.stderr
    pair.know()
    pair.expect_the_next_one_to_be_good()


def _unquiesces(pair: Pair) -> int:
    """How often the primary was asked to unquiesce a server."""
    calls = pair.sandbox.ask(PRIMARY, "GET", "/calls")
    return int(calls.get("compute POST /v2.1/servers/{item}/action unquiesce", 0))


@pytest.mark.rest
def test_a_quota_that_is_short_for_the_second_volume_leaves_nothing(pair: Pair) -> None:
    storage = pair.cloud(f"{PRIMARY}-admin").block_storage
    project = pair.cloud(PRIMARY).current_project_id
    # The check finds a short quota; this one becomes short while the first member is captured.
    with pair.holding(), pair.meanwhile("protect", "canary") as end:
        until(lambda: pair.frozen() == {STANDBY.server}, "the standby member is frozen")
        storage.put(f"/os-quota-sets/{project}", json={"quota_set": {"snapshots_fast": 1}})
        pair.sandbox.ask(PRIMARY, "DELETE", "/faults")
        done = end()
    storage.put(f"/os-quota-sets/{project}", json={"quota_set": {"snapshots_fast": -1}})
    assert done.returncode == 1, done.stderr
    assert pair.snapshots() == []
    assert pair.images() == []
    pair.expect_the_next_one_to_be_good()


def test_a_process_that_is_killed_while_a_member_is_frozen_leaves_nothing(pair: Pair) -> None:
    pair.know(timeout="5s")
    with pair.holding():
        process = pair.operator.begin("protect", "canary")
        until(lambda: pair.frozen() == {STANDBY.server}, "the standby member is frozen")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert pair.frozen() == {STANDBY.server}
        until(lambda: _is_reaped(pair), "another process of antipode unquiesces it")
    run = pair.newest_run()["run"]
    pair.know()
    assert pair.operator.run("run", "resume", run).returncode == 0
    pair.expect_the_next_one_to_be_good()


def _is_reaped(pair: Pair) -> bool:
    """After the deadline in the ledger any command that looks at the site ends the freeze."""
    pair.operator.run("vnf", "show", "canary")
    return not pair.frozen()


@pytest.mark.rest
def test_a_vnf_that_changes_its_option_keeps_its_chains(pair: Pair) -> None:
    pair.protect()
    changed = pair.operator.ask("protect", "canary", "--option", "quiesced-snapshot")
    again = pair.protect()
    assert (changed["incremental"], again["incremental"]) == (True, True)
    pair.verify()


def test_the_pair_stays_up_is_recovered_and_each_member_has_its_own_records_whole(
    own_pair: Pair,
) -> None:
    pair = own_pair
    pair.protect()
    frozen: dict[str, bytes] = {}
    with pair.meanwhile("protect", "canary") as end:
        first = pair.fault(PRIMARY, SNAPSHOTS, "stuck", times=None)
        until(lambda: pair.frozen(), "a member is frozen")
        assert pair.frozen() == {STANDBY.server}, "the standby is captured first, alone"
        frozen[STANDBY.server] = pair.records_on(PRIMARY)[STANDBY.server]
        pair.works(ACTIVE)
        second = pair.fault(PRIMARY, SNAPSHOTS, "stuck", times=None)
        pair.sandbox.ask(PRIMARY, "DELETE", f"/faults/{first}")
        until(lambda: pair.frozen() == {ACTIVE.server}, "the active member is frozen")
        frozen[ACTIVE.server] = pair.records_on(PRIMARY)[ACTIVE.server]
        pair.works(STANDBY)
        pair.sandbox.ask(PRIMARY, "DELETE", f"/faults/{second}")
        done = end()
    assert done.returncode == 0, done.stderr
    assert len(pair.points()) == 2
    assert (pair.snapshots(), pair.images()) == ([], [])
    pair.verify()
    for member in PAIR:
        pair.works(member)

    pair.sandbox.kill(PRIMARY)
    recovered = pair.operator.ask("failover", "canary", "--to", BACKUP, "--yes")
    assert sorted(recovered["servers"]) == sorted(m.server for m in PAIR)
    for member in PAIR:
        pair.works(member, BACKUP)
    for name, content in pair.records_on(BACKUP).items():
        alone = records.check_alone("db", content)
        assert alone.is_whole, (name, alone)
        captured = records.check_alone("db", frozen[name])
        boots = sorted(alone.last_of_boot)
        assert alone.last_of_boot[boots[-2]] == captured.last, "what it held when it was captured"
        assert len(boots) > len(captured.last_of_boot), "and it has gone on since"


def test_the_active_member_never_pauses_and_comes_back_as_a_clone_of_the_standby_one(
    own_pair: Pair,
) -> None:
    pair = own_pair
    quiesced = {"option": "quiesced-snapshot", "quiesce": {"timeout": "120s"}}
    pair.tell_of([quiesced], capture="standby")
    before = {s.id for s in pair.cloud(PRIMARY).block_storage.backups(details=True)}
    with pair.holding(), pair.meanwhile("protect", "canary") as end:
        until(lambda: pair.frozen(), "the standby member is frozen")
        assert pair.frozen() == {STANDBY.server}
        captured = pair.records_on(PRIMARY)[STANDBY.server]
        pair.works(ACTIVE)
        pair.sandbox.ask(PRIMARY, "DELETE", "/faults")
        done = end()
    assert done.returncode == 0, done.stderr
    volumes = {a.volume_id for a in _attachments(pair, ACTIVE.server)}
    made = pair.cloud(PRIMARY).block_storage.backups(details=True)
    assert not [b for b in made if b.id not in before and b.volume_id in volumes]
    newest = pair.operator.ask("recovery-point", "show", "canary")
    assert newest["consistency"] == "member"
    assert newest["not_captured"] == {ACTIVE.server: f"a clone of {STANDBY.server}"}
    pair.verify()

    pair.sandbox.kill(PRIMARY)
    recovered = pair.operator.ask("failover", "canary", "--to", BACKUP, "--yes")
    assert sorted(recovered["servers"]) == sorted(m.server for m in PAIR)
    for member in PAIR:
        pair.works(member, BACKUP)  # at its own address
    last = records.check_alone("db", captured).last
    for name, content in pair.records_on(BACKUP).items():
        alone = records.check_alone("db", content)
        assert alone.is_whole, (name, alone)
        boots = sorted(alone.last_of_boot)
        assert alone.last_of_boot[boots[-2]] == last, "what the captured one held"


def _attachments(pair: Pair, name: str) -> list[Any]:
    compute = pair.cloud(PRIMARY).compute
    (server,) = (s for s in compute.servers() if s.name == name)
    return list(compute.volume_attachments(server))

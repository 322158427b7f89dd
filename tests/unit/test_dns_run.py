# SPDX-License-Identifier: Apache-2.0
"""DNS records are switched once a VNF has been recovered, and only then: what goes wrong with them
undoes nothing, is named, and is finished by one command.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from antipode.engine import activity
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    Busy,
    DnsFailed,
    DnsUnreachable,
    InvalidInput,
    NotFound,
    ResourceFailed,
)
from antipode.model.dns import RecordSet
from antipode.model.steps import Steps
from antipode.operations import drill as drilling
from antipode.operations.abort import abort
from antipode.operations.dns import prepare, request, show, switch
from antipode.operations.failover import failover
from antipode.operations.failover import prepare as prepare_failover
from antipode.operations.migrate import migrate
from antipode.operations.migrate import prepare as prepare_migrate
from antipode.operations.migrate import request as request_migrate
from antipode.operations.precheck import precheck
from antipode.operations.precheck import request as request_precheck
from antipode.operations.resume import resume
from antipode.operations.shown.dns import changes
from antipode.recover import switching
from antipode.recover.dns import switching as records
from antipode.recover.dns.switching import Switched
from antipode.vault import generations
from tests.unit.nameserver import ZONE, FakeZone, serves
from tests.unit.test_durable_runs import VNF, World, world

__all__ = ["world"]

KEY = f"v.{ZONE} A"
ALIAS = f"www.{ZONE} CNAME"
MOVED = {"10.0.0.0/24": "10.8.0.0/24"}


def record(*values: str, ttl: int = 60) -> RecordSet:
    return RecordSet(name=f"v.{ZONE}", type="A", ttl=ttl, values=values)


def alias(target: str) -> RecordSet:
    return RecordSet(name=f"www.{ZONE}", type="CNAME", ttl=60, values=(target,))


OLD, NEW = record("10.0.0.11", ttl=300), record("10.8.0.11")
THEIRS = record("192.0.2.77")


@pytest.fixture
def zone(world: World, monkeypatch: pytest.MonkeyPatch) -> FakeZone:
    """A VNF with two records, which lead to its primary; its addresses are others at the backup
    site.
    """
    monkeypatch.setattr(switching, "POLL_S", 0.005)
    world.b.subnets[0]["cidr"] = "10.8.0.0/24"
    targets = {"site-a": "a.example", "site-b": "b.example"}
    dns = [
        {"name": f"v.{ZONE}", "members": "front"},
        {"name": f"www.{ZONE}", "type": "CNAME", "targets": targets},
    ]
    fields = VNF.model_dump(mode="json")
    fields["map"]["addresses"] = MOVED
    world.here.vnfs.put(type(VNF).model_validate(fields | {"dns": dns}))
    zone = serves(FakeZone(), monkeypatch)
    zone.records = {KEY: OLD, ALIAS: alias("a.example")}
    return zone


def states(world: World, run: str) -> dict[str, str]:
    """Record -> the state of the newest step that has switched it."""
    steps = world.here.runs.steps(run)
    return {s.resource: s.state for s in steps if s.name == Steps.SWITCH_DNS.words}


def switched(world: World, **options: Any) -> dict[str, Any]:
    here = world.process()
    return switch(here, request(prepare(here, "v", **options)), Unobserved())


def test_a_failover_switches_the_records_and_keeps_old_and_new(
    world: World, zone: FakeZone
) -> None:
    result = world.failover()
    assert zone.records == {KEY: NEW, ALIAS: alias("b.example")}
    dns = result["dns"]
    assert [(r["done"], r["changed"]) for r in dns["records"]] == [(True, True)] * 2
    assert dns["records"][0]["old"] == OLD.model_dump(mode="json")
    assert (dns["problems"], dns["resolvers_keep_old_s"]) == ([], 300)
    assert states(world, result["run"]) == {KEY: "succeeded", ALIAS: "succeeded"}


def test_they_are_switched_after_all_members_answer_and_the_vnf_is_active_there(
    world: World, zone: FakeZone
) -> None:
    run = world.failover()["run"]
    steps = world.here.runs.steps(run)
    began = [s.started_at for s in steps if s.name == Steps.SWITCH_DNS.words]
    complete = [s.ended_at for s in steps if s.name == Steps.COMPLETE_GENERATION.words]
    assert complete[0] is not None and complete[0] <= min(began)


def test_a_failover_that_fails_before_touches_no_record(world: World, zone: FakeZone) -> None:
    def before(happens: str) -> None:
        if happens == "boot front":
            raise ResourceFailed("no host")

    world.b.before = before
    with pytest.raises(ResourceFailed):
        world.failover()
    world.b.before = lambda happens: None
    run = world.here.runs.all("v")[0].id
    abort(world.process(), run, Unobserved())
    assert zone.records == {KEY: OLD, ALIAS: alias("a.example")}
    assert not [a for a in zone.asked if a.startswith("replace")]


@pytest.mark.parametrize("fails", [DnsUnreachable("dead"), DnsFailed("broken")])
def test_a_dns_server_that_fails_undoes_no_recovery_and_the_command_that_finishes_is_named(
    world: World, zone: FakeZone, fails: Exception
) -> None:
    here = world.process()
    prepared = prepare_failover(here, "v", "site-b", None)
    zone.fails = fails
    result = failover(here, prepared, Unobserved())
    assert here.runs.get(result["run"]).state == "succeeded"
    assert len(result["dns"]["problems"]) == 2
    point = result["recovery_point"]
    assert result["dns"]["finish"] == f"antipode dns switch v --recovery-point {point}"
    assert set(states(world, result["run"]).values()) == {"failed"}
    zone.fails = None
    assert switched(world, point=point)["dns"]["problems"] == []
    assert zone.records == {KEY: NEW, ALIAS: alias("b.example")}


def test_a_server_that_does_not_answer_holds_up_no_plan_and_its_records_are_switched_all_the_same(
    world: World, zone: FakeZone
) -> None:
    zone.fails = DnsUnreachable("dead")
    here = world.process()
    prepared = prepare_failover(here, "v", "site-b", None)
    assert [c.is_known for c in prepared.plan.dns] == [False, False]
    assert any("dead" in w for w in prepared.warnings)
    assert len([a for a in zone.asked if a.startswith("read")]) == 1
    zone.fails = None
    assert failover(here, prepared, Unobserved())["dns"]["problems"] == []
    assert zone.records == {KEY: NEW, ALIAS: alias("b.example")}


def test_a_record_that_somebody_changed_after_the_plan_is_left_alone(
    world: World, zone: FakeZone
) -> None:
    here = world.process()
    prepared = prepare_failover(here, "v", "site-b", None)
    zone.records[KEY] = THEIRS
    result = failover(here, prepared, Unobserved())
    assert zone.records == {KEY: THEIRS, ALIAS: alias("b.example")}
    [problem] = result["dns"]["problems"]
    assert "192.0.2.77" in problem


def test_a_record_that_leads_elsewhere_when_it_is_planned_is_told_and_changed(
    world: World, zone: FakeZone
) -> None:
    zone.records[KEY] = THEIRS
    here = world.process()
    prepared = prepare_failover(here, "v", "site-b", None)
    assert any("192.0.2.77" in w for w in prepared.warnings)
    failover(here, prepared, Unobserved())
    assert zone.records[KEY] == NEW


def test_a_provider_that_the_host_does_not_have_holds_up_no_recovery(world: World) -> None:
    dns = [{"name": f"v.{ZONE}", "members": "front", "provider": "core"}]
    fields = VNF.model_dump(mode="json") | {"dns": dns}
    world.here.vnfs.put(type(VNF).model_validate(fields))
    here = world.process()
    prepared = prepare_failover(here, "v", "site-b", None)
    assert prepared.plan.dns == [] and any("core" in w for w in prepared.warnings)
    failover(here, prepared, Unobserved())


def test_a_migration_leads_users_there(world: World, zone: FakeZone) -> None:
    here = world.process()
    result = migrate(here, request_migrate(prepare_migrate(here, "v")), Unobserved())
    assert zone.records == {KEY: NEW, ALIAS: alias("b.example")}
    assert result["dns"]["problems"] == []


def test_the_plan_shows_old_and_new_and_for_how_long_resolvers_keep_the_old(
    world: World, zone: FakeZone
) -> None:
    plan = prepare_failover(world.process(), "v", "site-b", None).plan
    address, name = map(str, plan.dns)
    assert "10.0.0.11" in address and "10.8.0.11" in address and "300 s" in address
    assert address in plan.words()
    assert "a.example" in name and "b.example" in name
    [first, _] = changes(plan.dns)
    assert (first["old"]["ttl"], first["new"]["values"]) == (300, ["10.8.0.11"])


def test_a_drill_never_asks_or_changes_a_zone(world: World, zone: FakeZone) -> None:
    here = world.process()
    drilling.drill(here, drilling.request(drilling.prepare(here, "v"), None), Unobserved())
    assert zone.asked == []


def test_a_precheck_says_whether_the_records_could_be_switched_and_changes_none(
    world: World, zone: FakeZone
) -> None:
    def found() -> tuple[str, set[str]]:
        here = world.process()
        result = precheck(here, request_precheck(here, "v"), Unobserved())
        return result["verdict"], {f["level"] for f in result["findings"] if f["check"] == "dns"}

    assert found() == ("yellow", {"green", "yellow"})  # resolvers keep the old one for 300 s
    zone.records[KEY] = OLD.model_copy(update={"ttl": 60})
    assert found()[1] == {"green"}
    zone.denies = True
    assert found() == ("yellow", {"yellow"})
    zone.denies, zone.fails = False, DnsUnreachable("dead")
    assert found() == ("yellow", {"yellow"})
    assert not [a for a in zone.asked if a.startswith("replace")]


def test_records_are_shown_as_they_are_and_as_they_should_be(world: World, zone: FakeZone) -> None:
    here = world.process()
    [first, second] = show(here, prepare(here, "v"))
    assert (first["leads_here"], second["leads_here"]) == (True, True)
    zone.records[KEY], zone.lagging = THEIRS, ["192.0.2.54 has another"]
    first = show(here, prepare(here, "v"))[0]
    assert (first["leads_here"], first["behind"]) == (False, zone.lagging)
    del zone.records[KEY]
    assert show(here, prepare(here, "v"))[0]["present"] == "none"


def test_a_switch_by_hand_sets_what_it_has_shown_and_the_ttl(world: World, zone: FakeZone) -> None:
    zone.records[KEY] = THEIRS
    assert switched(world)["dns"]["problems"] == []
    assert zone.records[KEY] == record("10.0.0.11")
    zone.records[KEY] = OLD
    switched(world)
    assert zone.records[KEY].ttl == 60


def test_a_switch_that_fails_can_be_resumed(world: World, zone: FakeZone) -> None:
    zone.records[KEY] = THEIRS
    here = world.process()
    row = request(prepare(here, "v"))
    run = row.id
    zone.fails = DnsUnreachable("dead")
    with pytest.raises(DnsFailed):
        switch(here, row, Unobserved())
    zone.fails = None
    resume(world.process(), run, Unobserved())
    assert zone.records[KEY] == record("10.0.0.11")


def test_a_switch_that_is_aborted_puts_back_what_is_still_its_own(
    world: World, zone: FakeZone
) -> None:
    zone.records[KEY] = THEIRS
    zone.lagging = ["192.0.2.54 has another"]
    here = world.process()
    row = request(prepare(here, "v"))
    run = row.id
    with pytest.raises(DnsFailed):
        switch(here, row, Unobserved())
    assert zone.records[KEY] == record("10.0.0.11")
    zone.records[ALIAS] = alias("elsewhere.example")
    abort(world.process(), run, Unobserved())
    assert zone.records == {KEY: THEIRS, ALIAS: alias("elsewhere.example")}


def test_nothing_is_switched_while_the_vnf_is_failing_over_or_has_moved(
    world: World, zone: FakeZone
) -> None:
    here = world.process()
    row = request(prepare(here, "v"))
    world.failover()
    with pytest.raises(Busy):
        switch(here, row, Unobserved())
    assert zone.records[KEY] == NEW


class WaitedFor(FakeZone):
    """A zone whose first change waits for something that happens elsewhere."""

    meanwhile: Callable[[], object] | None = None

    def replace(self, old: RecordSet | None, new: RecordSet | None) -> None:
        if (happens := self.meanwhile) is not None:
            type(self).meanwhile = None  # a run has a view of it
            happens()
        super().replace(old, new)


@pytest.fixture
def waited_for(world: World, zone: FakeZone, monkeypatch: pytest.MonkeyPatch) -> FakeZone:
    late = WaitedFor()
    late.records = zone.records
    return serves(late, monkeypatch)


class Mute(FakeZone):
    """A zone whose answers to changes are lost."""

    def replace(self, old: RecordSet | None, new: RecordSet | None) -> None:
        super().replace(old, new)
        raise DnsUnreachable("no answer")


def test_a_change_whose_answer_is_lost_counts_for_resolvers(
    world: World, zone: FakeZone, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = Mute()
    mute.records = zone.records
    mute.within_s = 5.0
    serves(mute, monkeypatch)
    monkeypatch.setattr(records, "POLL_S", 0.005)
    dns = world.failover()["dns"]
    assert zone.records == {KEY: NEW, ALIAS: alias("b.example")}
    assert [(r["done"], r["changed"]) for r in dns["records"]] == [(True, True)] * 2
    assert (dns["problems"], dns["resolvers_keep_old_s"]) == ([], 300)


def test_a_change_that_an_earlier_process_has_made_counts_for_resolvers() -> None:
    made = Switched(record=KEY, provider="core", old=OLD, new=NEW, done=True)
    assert records.kept_by_resolvers([made]) == 300
    assert records.kept_by_resolvers([made.model_copy(update={"old": NEW})]) == 0


def moves_to(world: World, site: str) -> None:
    """Another host moves the VNF, and leads its users there."""
    here = world.process()
    state = activity.decided(here, "v").state
    generations.complete(here.vaults(), generations.claim(here.vaults(), state, site, "failover-x"))


def test_a_switch_that_was_overtaken_by_a_move_leads_nobody_to_the_old_site(
    world: World, waited_for: FakeZone
) -> None:
    waited_for.records[KEY] = THEIRS
    here = world.process()
    row = request(prepare(here, "v"))
    WaitedFor.meanwhile = partial(moves_to, world, "site-b")
    with pytest.raises(DnsFailed):
        switch(here, row, Unobserved())
    assert waited_for.records[KEY] == THEIRS


def test_a_failover_that_was_overtaken_by_another_move_leads_nobody_to_its_site(
    world: World, waited_for: FakeZone
) -> None:
    WaitedFor.meanwhile = partial(moves_to, world, "site-a")
    result = world.failover()
    assert world.here.runs.get(result["run"]).state == "succeeded"
    assert len(result["dns"]["problems"]) == 2
    assert waited_for.records == {KEY: OLD, ALIAS: alias("a.example")}


def test_a_vnf_without_records_or_that_nothing_is_known_of_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    serves(FakeZone(), monkeypatch)
    with pytest.raises(InvalidInput):
        prepare(world.process(), "v")
    with pytest.raises(NotFound):
        prepare(world.process(), "nobody")

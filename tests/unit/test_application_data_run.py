# SPDX-License-Identifier: Apache-2.0
"""Protections and recoveries of a VNF whose application replicates its data by itself: positions in
recovery points, promotion before any member boots, and what undoes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from antipode import processes
from antipode.datastores import arrival
from antipode.datastores.command import ByCommands
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    AntipodeError,
    Busy,
    PreflightFailed,
    QuiesceFailed,
    ResourceFailed,
    SiteUnreachable,
)
from antipode.model.datastore import Health, StorageAt
from antipode.model.state import Claim
from antipode.model.vnf import Vnf
from antipode.operations import datastores, drill, failover, migrate, precheck, reprotect, undo
from antipode.operations.abort import abort
from antipode.operations.failover import prepare
from antipode.operations.resume import resume
from antipode.protect import application_data
from antipode.recover import application_data as recovering
from antipode.runs import failover_checks, replicating
from antipode.vault import generations, points
from tests.unit import parts, twosites
from tests.unit.test_durable_runs import World, world
from tests.unit.test_kill_matrix import VNF
from tests.unit.unstarted import answered_here

__all__ = ["world"]


class Kept:
    """A world whose VNF has data that its application keeps at both sites."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.records = twosites.Application(world.folder)
        self.log = twosites.Application(world.folder, "log")
        text = world.config.read_text()
        storages = self.records.configuration("pg") + self.log.configuration("kv")
        world.config.write_text(f"{text}storages:\n{storages}")
        world.here = world.process()
        self.define()

    def define(self, stores: Any = None, members: Any = None, **protection: Any) -> None:
        stores = stores or {"records": {"storage": "pg", "kind": "application"}}
        fields = VNF.model_dump(mode="json") | {"datastores": stores}
        if members is not None:
            fields["members"] = members
        settings = {"option": "quiesced-snapshot", "quiesce": {"timeout": "5m"}, **protection}
        fields["protections"] = [settings]
        self.world.here.vnfs.put(Vnf.model_validate(fields))

    def define_both(self) -> None:
        self.define(
            {
                "records": {"storage": "pg", "kind": "application"},
                "log": {"storage": "kv", "kind": "application"},
            }
        )

    def newest(self) -> Any:
        return points.newest_or_none(self.world.here.vault, "v")

    def run(self) -> str:
        return str(self.world.here.runs.all()[0].id)

    def left(self) -> str:
        return "\n".join((self.world.here.runs.all()[0].result or {}).get("left", []))


@pytest.fixture
def kept(world: World, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setattr(processes, "ask", answered_here)
    monkeypatch.setattr(application_data, "LOOK_S", 0.01)
    monkeypatch.setattr(arrival, "LOOK_S", 0.01)
    return Kept(world)


# Points.


def test_a_point_has_a_position_that_was_made_while_the_members_were_quiesced(kept: Kept) -> None:
    seen: list[set[str]] = []
    answered = processes.ask

    def ask(words: Any, request: bytes, *rest: Any, **more: Any) -> Any:
        if b'"verb": "point"' in request:
            seen.append(set(kept.world.a.all_frozen))
        return answered(words, request, *rest, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "ask", ask)
        kept.world.protect()
    assert seen == [{"id-db", "id-front"}]
    found = kept.newest().datastores["records"]
    assert (found.storage, found.position, found.sites) == ("pg", "2", ["site-b"])
    assert found.references == {
        "site-a": "db.site-a.example:5432",
        "site-b": "db.site-b.example:5432",
    }
    assert kept.world.a.all_frozen == set()


@pytest.mark.parametrize("option", ["server-snapshot", "quiesced-snapshot"])
def test_without_a_point_in_a_window_the_position_is_asked_for_after_it(
    kept: Kept, option: str
) -> None:
    verbs = [v for v in twosites.VERBS if v != "point" or option == "server-snapshot"]
    text = kept.world.config.read_text().replace(
        kept.records.configuration("pg"), kept.records.configuration("pg", verbs)
    )
    kept.world.config.write_text(text)
    kept.world.here = kept.world.process()
    kept.define(option=option)
    kept.world.protect()
    assert kept.newest().datastores["records"].position == ("2" if "point" in verbs else "1")


def test_a_position_that_is_not_reached_in_time_makes_no_point_and_leaves_nothing(
    kept: Kept,
) -> None:
    before = kept.newest().id
    kept.define({"records": {"storage": "pg", "kind": "application", "arrives_within": "50ms"}})
    kept.records.change(lambda state: state.update(replicates=False))
    with pytest.raises(ResourceFailed, match="records"):
        kept.world.protect()
    assert kept.newest().id == before
    assert kept.world.a.snapshots == {}
    assert kept.world.a.all_frozen == set()


def test_a_position_that_arrives_late_is_waited_for(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.records.change(lambda state: state.update(replicates=False))
    looks = iter(range(3))

    def pause(_seconds: float) -> None:
        if next(looks, None) is None:
            kept.records.is_at("site-b", position=2)

    monkeypatch.setattr(time, "sleep", pause)
    kept.world.protect()
    assert kept.newest().datastores["records"].position == "2"


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"code": 1, "error": "disk full"}, ResourceFailed),
        ({"code": 75}, SiteUnreachable),
        ({"hangs": True}, SiteUnreachable),
        ({"raw": "no json"}, AntipodeError),
        ({"raw": '{"version": 1}'}, AntipodeError),
    ],
)
def test_a_point_that_fails_ends_the_window_and_no_member_stays_frozen(
    kept: Kept, how: dict[str, Any], error: type[AntipodeError]
) -> None:
    before = kept.newest().id
    kept.records.says("point at site-a", **how)
    with pytest.raises(error) as caught:
        kept.world.protect()
    assert not isinstance(caught.value, QuiesceFailed)
    assert kept.world.a.all_frozen == set()
    assert kept.world.a.snapshots == {}
    assert kept.newest().id == before


@pytest.mark.parametrize("health", [h for h in Health if h is not Health.REPLICATING])
def test_data_that_is_not_replicated_is_found_before_anything_is_frozen(
    kept: Kept, health: Health
) -> None:
    kept.records.is_at("site-b", health=health.value)
    began = len(kept.world.a.events)
    with pytest.raises(PreflightFailed, match="records"):
        kept.world.protect()
    assert not [e for e in kept.world.a.events[began:] if e.startswith("quiesce")]


@pytest.mark.parametrize("health", ["stopped", "replicating"])
def test_data_whose_original_is_not_in_use_is_not_protected(kept: Kept, health: str) -> None:
    kept.records.is_at("site-a", health=health)
    with pytest.raises(PreflightFailed, match="records"):
        kept.world.protect()


def test_a_storage_that_is_not_configured_is_named(kept: Kept) -> None:
    kept.define({"records": {"storage": "another", "kind": "application"}})
    with pytest.raises(PreflightFailed, match="another"):
        kept.world.protect()


def test_one_of_two_backup_sites_may_be_silent(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "SILENCE_S", 0.0)
    records = {"storage": "pg", "kind": "application", "arrives_within": "100ms"}
    vnf = Vnf.model_validate(
        {
            **VNF.model_dump(mode="json"),
            "backup": ["site-b", "site-c"],
            "datastores": {"records": records},
        }
    )
    third = {"health": "replicating", "position": 1}
    kept.records.change(lambda state: state["sites"].update({"site-c": third}))
    there = {"pg": StorageAt("pg", "command", kept.records.settings())}
    p = parts.protecting(kept.world.a, vnf, "run", storages_at=lambda site: there)
    assert list(application_data.problems(p)) == []
    kept.records.says("status at site-c", code=75)
    assert list(application_data.problems(p)) == []
    found = application_data.arrived(p, {"records": "1"})["records"]
    assert (found.sites, set(found.references)) == (["site-b"], {"site-a", "site-b"})
    kept.records.says("status at site-b", code=75)
    assert len(list(application_data.problems(p))) == 2
    with pytest.raises(SiteUnreachable):
        application_data.arrived(p, {"records": "1"})


def test_a_copy_that_follows_another_site_is_not_protected(kept: Kept) -> None:
    kept.records.is_at("site-b", origin="db.site-a.example:5432")
    kept.world.protect()
    kept.records.is_at("site-b", origin="db.site-c.example:5432")
    before, began = kept.newest().id, len(kept.world.a.events)
    with pytest.raises(PreflightFailed, match=r"records.*site-b follows db\.site-c"):
        kept.world.protect()
    assert not [e for e in kept.world.a.events[began:] if e.startswith("quiesce")]
    assert kept.newest().id == before
    found = datastores.status(kept.world.here, "v")
    assert [(f.site, f.is_well) for f in found] == [("site-a", True), ("site-b", False)]
    prepared = datastores.prepare(kept.world.here, "v", awaits=False, tell=lambda what: None)
    assert all(f.is_well for f in prepared)
    kept.world.protect()


@pytest.mark.parametrize(
    "how", [{"code": 75}, {"code": 1, "error": "it restarts"}, {"raw": "no json"}]
)
def test_a_look_that_fails_does_not_end_the_wait_for_a_position(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    made = application_data.arrived

    def arrived(*arguments: Any) -> Any:
        kept.records.says("status at site-b", **how)
        return made(*arguments)

    looks = iter(range(3))

    def pause(_seconds: float) -> None:
        if next(looks, None) is None:
            kept.records.says("status at site-b")

    monkeypatch.setattr(application_data, "arrived", arrived)
    monkeypatch.setattr(time, "sleep", pause)
    kept.world.protect()
    assert kept.newest().datastores["records"].sites == ["site-b"]


def test_a_copy_that_fails_until_the_limit_makes_no_point(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept.newest().id
    made = application_data.arrived

    def arrived(*arguments: Any) -> Any:
        kept.records.says("status at site-b", code=1, error="disk full")
        return made(*arguments)

    monkeypatch.setattr(application_data, "arrived", arrived)
    kept.define({"records": {"storage": "pg", "kind": "application", "arrives_within": "50ms"}})
    with pytest.raises(ResourceFailed, match="disk full"):
        kept.world.protect()
    assert kept.newest().id == before


def test_positions_of_all_data_are_asked_for_at_once(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.define_both()
    both = threading.Barrier(2, timeout=60)
    answered = processes.ask

    def ask(words: Any, request: bytes, *rest: Any, **more: Any) -> Any:
        if b'"verb": "point"' in request:
            both.wait()  # breaks where one is asked for after the other
        return answered(words, request, *rest, **more)

    monkeypatch.setattr(processes, "ask", ask)
    kept.world.protect()
    assert set(kept.newest().datastores) == {"records", "log"}


def test_drivers_are_made_ready_before_any_member_is_quiesced(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(driver: ByCommands) -> None:
        raise ResourceFailed(f"{driver.label} cannot be made ready")

    monkeypatch.setattr(ByCommands, "be_ready", fails)
    began = len(kept.world.a.events)
    with pytest.raises(ResourceFailed, match="ready"):
        kept.world.protect()
    assert not [e for e in kept.world.a.events[began:] if e.startswith("quiesce")]


@pytest.mark.parametrize("health", ["stopped", "absent"])
def test_a_preparation_does_not_wait_for_what_does_not_begin(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, health: str
) -> None:
    monkeypatch.setattr(datastores, "LOOK_S", 0.01)
    monkeypatch.setattr(replicating, "BEGINS_S", 0.0)
    kept.records.is_at("site-b", health=health)
    kept.records.says("resync at site-b", does_nothing=True, raw='{"version": 1}')
    with pytest.raises(ResourceFailed, match="does not begin"):
        datastores.prepare(kept.world.here, "v", awaits=True, tell=lambda what: None)


# Recovery.


def failing_boot(event: str) -> None:
    if event.startswith("boot"):
        raise ResourceFailed("no room")


def test_data_is_promoted_before_any_member_boots_and_members_learn_its_reference(
    kept: Kept,
) -> None:
    world = kept.world
    world.protect()
    kept.records.says("status at site-a", code=75)
    at_boot: list[str] = []

    def look(event: str) -> None:
        if event.startswith("boot"):
            at_boot.append(kept.records.health["site-b"])

    world.b.before = look
    asked = len(kept.records.calls())
    world.failover()
    assert at_boot == ["writable", "writable"]
    assert not [c for c in kept.records.calls()[asked:] if c.endswith("site-a")]
    for server in world.b.servers.values():
        assert server["metadata"]["antipode:datastore:records"] == "db.site-b.example:5432"


def test_a_probe_learns_the_reference_of_the_data(kept: Kept) -> None:
    said = kept.world.folder / "said"
    command = ["sh", "-c", f'printf %s "$ANTIPODE_DATASTORE_RECORDS" > {said}']
    members = VNF.model_dump(mode="json")["members"]
    members[0]["answers"] = {"command": command, "within": "60s"}
    kept.define(members=members)
    kept.world.protect()
    kept.world.failover()
    assert said.read_text() == "db.site-b.example:5432"


def test_data_that_is_promoted_already_is_not_promoted_again(kept: Kept) -> None:
    kept.world.protect()
    kept.records.is_at("site-b", health="writable")
    prepared = prepare(kept.world.here, "v", "site-b", None)
    assert [w for w in prepared.warnings if "writable" in w]
    kept.world.failover()
    assert kept.records.calls("promote") == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: kept.records.is_at("site-b", position=1),
        lambda kept: kept.records.is_at("site-b", health="broken"),
        lambda kept: kept.records.is_at("site-b", health="first-sync"),
        lambda kept: kept.records.is_at("site-b", health="absent"),
        lambda kept: kept.records.says("status at site-b", code=75),
        lambda kept: kept.records.says("status at site-b", raw="no json"),
        lambda kept: kept.records.says("reference at site-b", code=1),
        lambda kept: kept.records.program.unlink(),
    ],
)
def test_data_that_lacks_what_the_point_has_is_no_plan(
    kept: Kept, spoil: Callable[[Kept], None]
) -> None:
    kept.world.protect()
    spoil(kept)
    began = len(kept.world.b.events)
    with pytest.raises(PreflightFailed, match="records"):
        kept.world.failover()
    assert kept.world.b.events[began:] == []
    assert kept.records.calls("promote") == []


def test_data_that_is_not_replicated_now_is_a_warning_and_a_yellow_precheck(kept: Kept) -> None:
    kept.world.protect()
    kept.records.is_at("site-b", health="stopped")
    assert [w for w in prepare(kept.world.here, "v", "site-b", None).warnings if "records" in w]
    row = precheck.request(kept.world.here, "v")
    found = precheck.precheck(kept.world.here, row, Unobserved())
    about = [f for f in found["findings"] if "datastore records" in f["detail"]]
    assert [f["level"] for f in about] == ["yellow"]
    kept.records.is_at("site-b", health="broken")
    row = precheck.request(kept.world.here, "v")
    assert precheck.precheck(kept.world.here, row, Unobserved())["verdict"] == "red"


def test_what_fails_before_the_promotion_has_left_the_replication_as_it_was(kept: Kept) -> None:
    kept.world.protect()

    def fails(event: str) -> None:
        if event.startswith(("restore", "create port")):
            raise ResourceFailed("no more")

    kept.world.b.before = fails
    with pytest.raises(AntipodeError):
        kept.world.failover()
    assert kept.records.calls("promote") == []
    kept.world.b.before = lambda event: None
    abort(kept.world.here, kept.run(), Unobserved())
    assert kept.records.health["site-b"] == "replicating"
    assert "datastore records" not in kept.left()


def test_one_of_two_that_is_not_promoted_holds_back_every_member_and_both_are_named(
    kept: Kept,
) -> None:
    kept.define_both()
    kept.world.protect()
    kept.log.says("promote at site-b", code=1, error="no licence")
    with pytest.raises(ResourceFailed, match=r"log.*no licence.*Ready: records"):
        kept.world.failover()
    assert kept.world.b.servers == {}
    kept.log.says("promote at site-b")
    resume(kept.world.here, kept.run(), Unobserved())
    assert len(kept.world.b.servers) == 2
    assert len(kept.records.calls("promote")) == 1


@pytest.mark.parametrize(
    ("call", "how"),
    [
        ("promote at site-b", {"hangs": True}),
        ("promote at site-b", {"raw": "promoted"}),
        ("promote at site-b", {"does_nothing": True, "raw": '{"version": 1}'}),
    ],
)
def test_a_promotion_that_is_not_known_to_be_done_boots_nothing(
    kept: Kept, call: str, how: dict[str, Any]
) -> None:
    kept.world.protect()
    kept.records.says(call, **how)
    with pytest.raises(ResourceFailed, match="records"):
        kept.world.failover()
    assert kept.world.b.servers == {}
    kept.records.says(call)
    resume(kept.world.here, kept.run(), Unobserved())
    assert kept.records.health["site-b"] == "writable"
    assert len(kept.world.b.servers) == 2


def test_none_of_two_is_promoted_where_one_is_not_fit(kept: Kept) -> None:
    kept.define_both()
    kept.world.protect()

    def fails(event: str) -> None:
        if event.startswith("restore"):
            kept.log.is_at("site-b", health="broken")

    kept.world.b.before = fails
    with pytest.raises(ResourceFailed, match=r"log.*broken"):
        kept.world.failover()
    assert kept.records.calls("promote") == []
    assert kept.records.health["site-b"] == "replicating"


@pytest.mark.parametrize("health", ["stopped", "broken"])
def test_a_resume_boots_no_member_on_data_that_is_promoted_no_longer(
    kept: Kept, health: str
) -> None:
    kept.world.protect()
    kept.world.b.before = failing_boot
    with pytest.raises(ResourceFailed):
        kept.world.failover()
    kept.world.b.before = lambda event: None
    kept.records.is_at("site-b", health=health)
    if health == "broken":
        with pytest.raises(ResourceFailed, match="broken"):
            resume(kept.world.here, kept.run(), Unobserved())
        assert kept.world.b.servers == {}
        return
    resume(kept.world.here, kept.run(), Unobserved())
    assert kept.records.health["site-b"] == "writable"
    assert len(kept.world.b.servers) == 2


def test_a_run_that_has_lost_its_claim_while_it_looked_promotes_nothing(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.world.protect()
    world, looks = kept.world, len(kept.records.calls("status at site-b"))
    answered = processes.ask

    def ask(words: Any, request: bytes, *rest: Any, **more: Any) -> Any:
        found = answered(words, request, *rest, **more)
        # one look for the plan, one before anything is promoted, one before this is
        if len(kept.records.calls("status at site-b")) == looks + 3:
            claim = generations.claim_of(world.here.vault, "v", kept.run())
            assert claim is not None
            generations.release(world.here.vault, claim[0])
        return found

    monkeypatch.setattr(processes, "ask", ask)
    with pytest.raises(Busy):
        world.failover()
    assert kept.records.calls("promote") == []
    assert world.b.servers == {}


def test_an_abort_awaits_a_promotion_whose_process_was_killed(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.world.protect()
    # The command of a process that was killed runs on, and holds its lock.
    kept.records.says("promote at site-b", does_nothing=True, hangs=True)
    with pytest.raises(ResourceFailed):
        kept.world.failover()
    answered = processes.ask

    def ask(words: Any, request: bytes, *rest: Any, **more: Any) -> Any:
        if b'"verb": "demote"' in request:
            kept.records.is_at("site-b", health="writable")
        return answered(words, request, *rest, **more)

    monkeypatch.setattr(processes, "ask", ask)
    abort(kept.world.here, kept.run(), Unobserved())
    assert kept.records.calls("demote") == ["demote at site-b"]
    assert kept.records.health["site-b"] == "stopped"


def test_an_aborted_failover_demotes_what_it_promoted_and_says_how_it_follows_again(
    kept: Kept,
) -> None:
    kept.world.protect()
    kept.world.b.before = failing_boot
    with pytest.raises(ResourceFailed):
        kept.world.failover()
    assert kept.records.health["site-b"] == "writable"
    kept.world.b.before = lambda event: None
    abort(kept.world.here, kept.run(), Unobserved())
    assert kept.records.health["site-b"] == "stopped"
    assert "datastore prepare v" in kept.left()
    datastores.prepare(kept.world.here, "v", awaits=False, tell=lambda what: None)
    assert kept.records.health == {"site-a": "writable", "site-b": "replicating"}
    kept.world.protect()


@pytest.mark.parametrize(
    "how", [{"code": 1}, {"does_nothing": True, "raw": '{"version": 1}'}, {"hangs": True}]
)
def test_an_abort_whose_demotion_fails_ends_and_says_so(kept: Kept, how: dict[str, Any]) -> None:
    kept.world.protect()
    kept.world.b.before = failing_boot
    with pytest.raises(ResourceFailed):
        kept.world.failover()
    kept.world.b.before = lambda event: None
    kept.records.says("demote at site-b", **{"does_nothing": True, **how})
    abort(kept.world.here, kept.run(), Unobserved())
    assert kept.world.here.runs.all()[0].state == "aborted"
    assert "records may be writable at site-b" in kept.left()


def test_data_that_is_writable_at_each_site_is_never_promoted(kept: Kept) -> None:
    verbs = [v for v in twosites.VERBS if v not in ("promote", "demote", "resync")]
    text = kept.world.config.read_text().replace(
        kept.records.configuration("pg"), kept.records.configuration("pg", verbs)
    )
    kept.world.config.write_text(text)
    kept.world.here = kept.world.process()
    kept.define()
    kept.world.protect()
    kept.records.is_at("site-b", health="stopped")  # as the other site is gone
    kept.world.failover()
    assert kept.records.calls("promote") == []
    assert len(kept.world.b.servers) == 2


def test_a_drill_promotes_nothing_and_says_so(kept: Kept) -> None:
    kept.world.protect()
    prepared = drill.prepare(kept.world.here, "v")
    assert [w for w in prepared.plan.warnings if "records" in w and "not promoted" in w]
    asked = len(kept.records.calls())
    drill.drill(kept.world.here, drill.request(prepared), Unobserved())
    assert not [c for c in kept.records.calls()[asked:] if not c.startswith("status")]
    assert kept.records.health["site-b"] == "replicating"


def test_data_that_a_lost_failover_may_have_promoted_elsewhere_is_named() -> None:
    lost = Claim(
        vnf="v",
        generation=2,
        site="site-b",
        former_site="site-a",
        run="run-lost",
        host="h",
        since="2026-01-01T00:00:00Z",
    )

    def about(to: str, *names: str) -> list[str]:
        found = failover_checks.lost_warnings(lost, {}, to, names)
        return [w for w in found if "datastore records" in w]

    [warning] = about("site-c", "records")
    assert "run-lost" in warning and "site-b" in warning
    assert about("site-b", "records") == about("site-c") == []


def test_an_undo_is_refused_as_it_brings_no_data_back(kept: Kept) -> None:
    here = kept.world.here
    kept.world.protect()
    prepared = prepare(here, "v", "site-b", None)
    failover.failover(
        here, prepared, Unobserved(), failover.request(prepared, undo_within_s=86400.0)
    )
    with pytest.raises(PreflightFailed, match="datastore records"):
        undo.prepare(here, "v")
    assert kept.records.health == {"site-a": "writable", "site-b": "writable"}


def test_an_undo_asks_data_that_is_in_use_at_both_sites_whether_it_is(kept: Kept) -> None:
    verbs = [v for v in twosites.VERBS if v not in ("promote", "demote", "resync")]
    text = kept.world.config.read_text().replace(
        kept.records.configuration("pg"), kept.records.configuration("pg", verbs)
    )
    kept.world.config.write_text(text)
    here = kept.world.here = kept.world.process()
    kept.define()
    kept.world.protect()
    point, site = kept.newest(), here.site("site-a")
    assert list(recovering.cannot_be_undone(point, site)) == []
    kept.records.is_at("site-a", health="broken")
    [problem] = recovering.cannot_be_undone(point, site)
    assert "broken" in problem and "promoted" not in problem


def test_the_storage_of_data_is_that_of_the_vnf_file(kept: Kept) -> None:
    kept.world.protect()
    text = kept.world.config.read_text()
    kept.world.config.write_text(text.replace("  pg:\n", "  postgres:\n"))
    kept.world.here = kept.world.process()
    kept.define({"records": {"storage": "postgres", "kind": "application"}})
    assert kept.newest().datastores["records"].storage == "pg"
    plan = prepare(kept.world.here, "v", "site-b", None).plan
    assert [d.storage for d in plan.datastores] == ["postgres"]
    kept.world.failover()
    assert kept.records.health["site-b"] == "writable"


def test_old_data_that_is_writable_after_a_failover_is_named(kept: Kept) -> None:
    kept.world.protect()
    vnf, storages = kept.world.here.vnfs.get("v"), kept.world.here.storages_at("site-a")
    [named] = recovering.writable(vnf, "site-a", storages)
    assert "datastore records" in named and "--overwrite site-a" in named
    kept.records.is_at("site-a", health="stopped")
    assert list(recovering.writable(vnf, "site-a", storages)) == []
    kept.records.says("status at site-a", code=75)
    [unknown] = recovering.writable(vnf, "site-a", storages)
    assert "may be writable" in unknown


# Migration.


def move(kept: Kept) -> Any:
    row = migrate.request(migrate.prepare(kept.world.here, "v"))
    return migrate.migrate(kept.world.here, row, Unobserved())


def test_a_migration_demotes_promotes_and_the_data_follows_the_other_way_round(kept: Kept) -> None:
    kept.world.protect()
    move(kept)
    assert kept.records.health == {"site-a": "stopped", "site-b": "writable"}
    order = [c for c in kept.records.calls() if c.startswith(("demote", "promote"))]
    assert order == ["demote at site-a", "promote at site-b"]
    datastores.prepare(kept.world.here, "v", awaits=False, tell=lambda what: None)
    assert kept.records.health == {"site-a": "replicating", "site-b": "writable"}


def test_a_migration_that_fails_leaves_the_data_writable_where_it_was(kept: Kept) -> None:
    kept.world.protect()
    kept.world.b.before = failing_boot
    with pytest.raises(AntipodeError):
        move(kept)
    assert kept.records.health == {"site-a": "writable", "site-b": "stopped"}
    assert {s["status"] for s in kept.world.a.servers.values()} == {"ACTIVE"}
    assert "datastore prepare v" in kept.left()


@pytest.mark.parametrize(
    "how", [{"code": 1}, {"does_nothing": True, "raw": '{"version": 1}'}, {"hangs": True}]
)
def test_a_migration_that_cannot_demote_at_the_other_site_makes_no_second_original(
    kept: Kept, how: dict[str, Any]
) -> None:
    kept.world.protect()
    kept.world.b.before = failing_boot
    kept.records.says("demote at site-b", **{"does_nothing": True, **how})
    with pytest.raises(AntipodeError):
        move(kept)
    assert kept.records.health == {"site-a": "stopped", "site-b": "writable"}
    [moved] = [row for row in kept.world.here.runs.all() if row.kind == "migrate"]
    assert "records is writable at site-b" in "\n".join((moved.result or {})["left"])


def test_a_migration_that_fails_promotes_data_again_that_follows_the_other_site_by_now(
    kept: Kept,
) -> None:
    kept.world.protect()

    def fails(event: str) -> None:
        if event.startswith("boot"):
            kept.records.is_at("site-a", health="replicating")
        failing_boot(event)

    kept.world.b.before = fails
    with pytest.raises(AntipodeError):
        move(kept)
    assert kept.records.health == {"site-a": "writable", "site-b": "stopped"}


def test_a_migration_that_fails_awaits_a_demotion_whose_process_was_killed(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.world.protect()
    kept.records.says("demote at site-a", does_nothing=True, hangs=True)
    answered = processes.ask

    def ask(words: Any, request: bytes, *rest: Any, **more: Any) -> Any:
        if b'"verb": "promote"' in request and b'"site-a"' in request:
            kept.records.is_at("site-a", health="stopped")
        return answered(words, request, *rest, **more)

    monkeypatch.setattr(processes, "ask", ask)
    with pytest.raises(AntipodeError):
        move(kept)
    assert kept.records.calls("promote") == ["promote at site-a"]
    assert kept.records.health["site-a"] == "writable"


def test_a_migration_that_cannot_demote_at_the_old_site_switches_nothing_off(kept: Kept) -> None:
    verbs = [v for v in twosites.VERBS if v != "demote"]
    text = kept.world.config.read_text().replace(
        kept.records.configuration("pg"), kept.records.configuration("pg", verbs)
    )
    kept.world.config.write_text(text)
    kept.world.here = kept.world.process()
    kept.define()
    with pytest.raises(PreflightFailed, match="demote"):
        move(kept)
    assert kept.records.health == {"site-a": "writable", "site-b": "replicating"}
    assert {s["status"] for s in kept.world.a.servers.values()} == {"ACTIVE"}


def test_a_migration_whose_data_stays_writable_goes_nowhere(kept: Kept) -> None:
    kept.world.protect()
    kept.records.says("demote at site-a", does_nothing=True, raw='{"version": 1}')
    with pytest.raises(AntipodeError, match="writable"):
        move(kept)
    assert kept.records.health == {"site-a": "writable", "site-b": "replicating"}
    assert kept.world.b.servers == {}
    assert {s["status"] for s in kept.world.a.servers.values()} == {"ACTIVE"}


def test_a_migration_whose_last_writes_do_not_arrive_promotes_nothing(kept: Kept) -> None:
    kept.world.protect()
    kept.define({"records": {"storage": "pg", "kind": "application", "arrives_within": "1s"}})
    kept.records.says("demote at site-a", raw='{"version": 1, "position": "99"}')
    with pytest.raises(AntipodeError, match="99"):
        move(kept)
    assert [c for c in kept.records.calls("promote") if c.endswith("site-b")] == []
    assert kept.records.health == {"site-a": "writable", "site-b": "replicating"}
    assert {s["status"] for s in kept.world.a.servers.values()} == {"ACTIVE"}


# Datastores.


def test_the_status_of_data_is_shown_at_both_sites(kept: Kept) -> None:
    kept.world.protect()
    here, there = datastores.status(kept.world.here, "v")
    assert (here.site, here.is_well, here.replica and here.replica.health) == (
        "site-a",
        True,
        "writable",
    )
    assert (there.site, there.is_well, there.position) == ("site-b", True, "2")
    assert there.reference == "db.site-b.example:5432"
    assert there.point == kept.newest().id
    kept.records.is_at("site-b", health="stopped")
    assert [s.is_well for s in datastores.status(kept.world.here, "v")] == [True, False]
    kept.records.says("status at site-a", code=75, error="connection refused")
    silent, _ = datastores.status(kept.world.here, "v")
    assert not silent.is_well and "connection refused" in str(silent.trouble)


def test_writable_data_is_overwritten_only_if_the_operator_says_so(kept: Kept) -> None:
    kept.records.is_at("site-b", health="writable", position=77)

    def prepared(*overwrite: str) -> Any:
        return datastores.prepare(
            kept.world.here, "v", awaits=True, tell=lambda what: None, overwrite=overwrite
        )

    with pytest.raises(ResourceFailed, match="--overwrite site-b"):
        prepared()
    assert kept.records.calls("resync") == []
    assert all(s.is_well for s in prepared("site-b"))
    assert kept.records.calls("resync") == ["resync at site-b"]


def test_nothing_is_overwritten_while_a_failover_may_need_it(kept: Kept) -> None:
    kept.world.protect()
    kept.world.b.before = failing_boot
    with pytest.raises(ResourceFailed):
        kept.world.failover()
    with pytest.raises(Busy):
        datastores.prepare(
            kept.world.here, "v", awaits=False, tell=lambda what: None, overwrite=["site-b"]
        )
    assert kept.records.calls("resync") == []
    assert kept.records.health["site-b"] == "writable"


@pytest.mark.parametrize(
    ("original", "copy"), [("stopped", "stopped"), ("replicating", "writable")]
)
def test_nothing_is_made_to_follow_data_that_is_no_original(
    kept: Kept, original: str, copy: str
) -> None:
    kept.records.is_at("site-b", health=copy)
    kept.records.is_at("site-a", health=original)
    assert not datastores.status(kept.world.here, "v")[0].is_well
    with pytest.raises(ResourceFailed, match="site-a"):
        datastores.prepare(
            kept.world.here, "v", awaits=False, tell=lambda what: None, overwrite=["site-b"]
        )
    assert kept.records.calls("resync") == []


# The other way round.


def reprotected(kept: Kept) -> dict[str, Any]:
    here = kept.world.here
    row = reprotect.request(reprotect.prepare(here, "v", "keep"))
    return reprotect.reprotect(here, row, Unobserved())


def test_a_reprotection_has_the_data_follow_the_other_way_round(kept: Kept) -> None:
    kept.world.protect()
    move(kept)
    assert kept.records.health["site-a"] == "stopped"
    record = reprotected(kept)
    assert kept.records.health == {"site-a": "replicating", "site-b": "writable"}
    assert kept.newest().id == record["recovery_point"]
    assert kept.newest().datastores["records"].sites == ["site-a"]
    assert "not_replicated" not in record


def test_a_reprotection_overwrites_no_data_that_is_writable_and_is_resumed(kept: Kept) -> None:
    kept.world.protect()
    kept.world.failover()
    assert kept.records.health == {"site-a": "writable", "site-b": "writable"}
    with pytest.raises(PreflightFailed, match="records"):
        reprotected(kept)
    assert kept.records.health["site-a"] == "writable"
    assert kept.records.calls("resync") == []
    [row] = [r for r in kept.world.here.runs.all() if r.kind == "reprotect"]
    [said] = (row.result or {})["not_replicated"]
    assert "--overwrite site-a" in said
    datastores.prepare(
        kept.world.here, "v", awaits=False, tell=lambda what: None, overwrite=["site-a"]
    )
    resume(kept.world.here, row.id, Unobserved())
    assert kept.newest().datastores["records"].sites == ["site-a"]


def test_a_reprotection_waits_for_the_first_synchronisation(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.world.protect()
    move(kept)
    answered = processes.ask

    def ask(words: Any, request: bytes, *rest: Any, **more: Any) -> Any:
        found = answered(words, request, *rest, **more)
        if b'"verb": "resync"' in request:
            kept.records.is_at("site-a", health="first-sync")
        return found

    looks = iter(range(3))

    def pause(_seconds: float) -> None:
        if kept.records.health["site-a"] == "first-sync" and next(looks, None) is None:
            kept.records.is_at("site-a", health="replicating")

    monkeypatch.setattr(processes, "ask", ask)
    monkeypatch.setattr(time, "sleep", pause)
    reprotected(kept)
    assert kept.newest().datastores["records"].sites == ["site-a"]


@pytest.mark.parametrize("health", ["broken", "writable"])
def test_a_reprotection_does_not_wait_for_a_copy_that_will_not_follow(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, health: str
) -> None:
    """Such as one that is promoted by hand meanwhile."""
    kept.world.protect()
    move(kept)
    answered = processes.ask

    def ask(words: Any, request: bytes, *rest: Any, **more: Any) -> Any:
        found = answered(words, request, *rest, **more)
        if b'"verb": "resync"' in request:
            kept.records.is_at("site-a", health=health)
        return found

    looks = iter(range(100))

    def pause(_seconds: float) -> None:
        assert next(looks, None) is not None, "it waits for ever"

    monkeypatch.setattr(processes, "ask", ask)
    monkeypatch.setattr(time, "sleep", pause)
    with pytest.raises(PreflightFailed, match=f"records.*{health}"):
        reprotected(kept)

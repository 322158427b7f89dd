# SPDX-License-Identifier: Apache-2.0
"""The adviser: each option speaks for itself, by what was measured."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from antipode.cloud import site as cloud_site
from antipode.engine.run import new_run
from antipode.errors import NotFound, SiteUnreachable
from antipode.model.advice import Facts, Weight
from antipode.model.schedule import Schedule
from antipode.operations import advice
from antipode.operations.advice import Advice, Advised, advise
from antipode.operations.advice import _of_what_it_captures as of_captured
from antipode.protect.option import OPTIONS
from antipode.runs import kind_of
from tests.unit.test_accepted_consistency import accepting
from tests.unit.test_drill_run import drilled
from tests.unit.test_durable_runs import VNF, World, world

__all__ = ["world"]
USUAL = Facts(
    members=3,
    without_agent=0,
    root_disks=0,
    has_roles=False,
    volumes=5,
    gib=100,
    has_add_on=True,
    replicated=0,
    application_data=False,
    bytes_per_hour=1e9,
    carried_per_s=1e8,
    rpo_s=1800.0,
    rto_s=3600.0,
    restores_in_s=600.0,
)


def weights(option: str, **changes: object) -> list[Weight]:
    facts = replace(USUAL, **changes)  # type: ignore[arg-type]
    return [remark.weight for remark in OPTIONS.get(option).advise(facts)]


def rank(option: str, **changes: object) -> int:
    found = weights(option, **changes)
    if Weight.RULES_OUT in found:
        return -1000
    return found.count(Weight.FOR) - found.count(Weight.AGAINST)


def best(**changes: object) -> str:
    return max(OPTIONS.names, key=lambda option: rank(option, **changes))


def test_several_members_with_agents_that_change_little_are_quiesced_together() -> None:
    assert best() == "quiesced-snapshot"


def test_a_single_member_with_roles_or_a_root_disk_on_a_hypervisor_is_snapshotted_by_nova() -> None:
    assert best(members=1, has_roles=True) == "server-snapshot"
    assert best(root_disks=2) == "server-snapshot"
    assert best(has_add_on=False) == "server-snapshot"


def test_much_change_and_a_short_rpo_on_replicated_storage_are_replicated() -> None:
    short = {"rpo_s": 60.0, "bytes_per_hour": 1e12, "restores_in_s": 9000.0}
    assert best(**short, replicated=5) == "replication"
    assert best(**short) != "replication"  # without such a storage it is ruled out


def test_an_option_without_what_it_needs_is_ruled_out() -> None:
    for changes in ({"has_add_on": False}, {"root_disks": 1}):
        assert Weight.RULES_OUT in weights("quiesced-snapshot", **changes)
        assert Weight.RULES_OUT in weights("replication", replicated=5, **changes)
        assert Weight.RULES_OUT not in weights("server-snapshot", **changes)


def test_members_without_agents_are_not_quiesced_by_any_option() -> None:
    for option in ("quiesced-snapshot", "replication"):
        bare = {"without_agent": 1, "replicated": 5}
        assert Weight.RULES_OUT in weights(option, **bare)
        assert Weight.RULES_OUT not in weights(option, **bare, accepts_running=True)
        assert Weight.AGAINST in weights(option, **bare, accepts_running=True)
    assert Weight.AGAINST in weights("server-snapshot", members=1, without_agent=1)


def test_volumes_that_several_members_have_are_captured_in_one_window_only() -> None:
    for option in ("server-snapshot", "replication"):
        assert Weight.RULES_OUT in weights(option, shared=1, replicated=5)
    assert Weight.RULES_OUT not in weights("quiesced-snapshot", shared=1)


def test_what_protect_refuses_is_not_advised(world: World) -> None:
    """Members that are left out, and volumes of no server."""
    kept = replace(USUAL, replicated=5)
    captures_none = {o for o in OPTIONS.names if not OPTIONS.get(o).captures_unattached}
    captures_all = {o for o in OPTIONS.names if not OPTIONS.get(o).captures_a_part}
    for facts, cannot in (
        (replace(kept, unattached=1), captures_none),
        (replace(kept, left_out=1), captures_all),
    ):
        ruled_out = {
            name
            for name in OPTIONS.names
            if any(r.weight is Weight.RULES_OUT for r in of_captured(OPTIONS.get(name), facts))
        }
        assert ruled_out == cannot != set()
    world.here.vnfs.put(accepting(None, capture="standby"))
    found = advise(world.here, "v")
    assert found.facts.left_out == 1
    refused = of(found, "replication")
    assert any("leaves 1 out" in remark.words for remark in refused.remarks)


def test_what_is_not_known_speaks_neither_for_nor_against() -> None:
    unknown = {"has_add_on": None, "bytes_per_hour": None, "rto_s": None, "rpo_s": None}
    assert weights("quiesced-snapshot", **unknown).count(Weight.AGAINST) == 0
    assert Weight.RULES_OUT not in weights("quiesced-snapshot", **unknown)


@pytest.mark.parametrize(
    ("changes", "weight"),
    [
        ({"bytes_per_hour": 1e12}, Weight.AGAINST),  # more than can be brought away
        ({"restores_in_s": 9000.0}, Weight.AGAINST),
        ({"restores_in_s": 60.0}, Weight.FOR),
    ],
)
def test_what_backups_take_is_compared_with_what_is_wanted(
    changes: dict[str, float], weight: Weight
) -> None:
    without = {"bytes_per_hour": None, "restores_in_s": None}
    for option in ("quiesced-snapshot", "server-snapshot"):
        before = weights(option, **without).count(weight)
        assert weights(option, **{**without, **changes}).count(weight) == before + 1


def test_a_vnf_that_is_scaled_often_fits_backups_less(world: World) -> None:
    for option, against in (("quiesced-snapshot", 1), ("server-snapshot", 1), ("replication", 0)):
        rarely = weights(option, points=50, scaled=5)
        often = weights(option, points=50, scaled=6)
        assert often.count(Weight.AGAINST) - rarely.count(Weight.AGAINST) == against
    row = new_run(kind_of("protect"), "v", {})
    row.state, row.slot, row.ended_at = "succeeded", None, row.started_at
    row.result = {"members_added": ["v-7"], "members_removed": []}
    world.here.runs.create(row)
    facts = advise(world.here, "v").facts
    assert (facts.scaled, facts.points) == (1, 2)


def of(found: Advised, option: str) -> Advice:
    return next(one for one in found.options if one.option == option)


def test_a_vnf_is_measured_where_it_runs_and_by_what_it_has_done(world: World) -> None:
    world.here.vnfs.put(VNF.model_copy(update={"rpo": 1800.0, "rto": 3600.0}))
    world.protect()
    drilled(world)
    before = list(world.a.events)
    found = advise(world.here, "v")
    assert world.a.events == before  # nothing is changed
    assert (found.facts.members, found.facts.volumes) == (2, 3)
    assert found.facts.has_add_on is True
    assert found.facts.restores_in_s is not None
    assert found.facts.rpo_s == 1800
    assert of(found, "quiesced-snapshot").in_use and not of(found, "replication").in_use
    assert of(found, "replication").verdict == "does not fit"
    assert [one.verdict for one in found.options].count("fits best") >= 1
    # of 96 points a day at half of the RPO, each with so many calls
    assert of(found, "quiesced-snapshot").calls_per_day == 96 * (2 * 2 + 3 * 3)


def test_the_cost_of_a_cron_expression_is_that_of_its_slots(world: World) -> None:
    protection = VNF.protections[0].model_copy(update={"schedule": Schedule(cron="0 */6 * * *")})
    world.here.vnfs.put(VNF.model_copy(update={"rpo": 1800.0, "protections": [protection]}))
    calls = of(advise(world.here, "v"), "quiesced-snapshot").calls_per_day
    assert calls == pytest.approx(4 * (2 * 2 + 3 * 3))


def test_change_is_measured_between_backups_of_the_vnf_however_many_others_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, "MOST_RUNS", 3)
    begin = datetime(2026, 11, 1, tzinfo=UTC)

    def protects(minutes: int, vnf: str = "v", **result: Any) -> None:
        row, at = new_run(kind_of("protect"), vnf, {}), begin + timedelta(minutes=minutes)
        row.started_at = row.ended_at = at.timestamp() + 10**8
        row.state, row.slot = "succeeded", None
        row.result = {"consistent_at": at.isoformat(), **result}
        world.here.runs.create(row)

    protects(0, stored_bytes=10**9, incremental=False)
    protects(59, stored_bytes=0, incremental=False)  # of an option that stores nothing
    protects(60, stored_bytes=3600, incremental=True)
    for number in range(130):
        protects(61 + number, "another", stored_bytes=1, incremental=True)
    assert advise(world.here, "v").facts.bytes_per_hour == 3600


def test_with_the_active_site_dead_it_goes_by_the_newest_point(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(name: str, cloud: str) -> object:
        if name == "site-a":
            raise SiteUnreachable("site-a: black hole")
        return world.b.site

    monkeypatch.setattr(cloud_site, "connect", connect)
    found = advise(world.process(), "v")
    assert found.facts.has_add_on is None
    assert found.facts.members == 2
    assert "site-a" in found.source or "point" in found.source


def test_a_vnf_that_is_not_known_is_an_error(world: World) -> None:
    with pytest.raises(NotFound):
        advise(world.here, "nothing")

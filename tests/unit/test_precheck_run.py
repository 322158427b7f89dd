# SPDX-License-Identifier: Apache-2.0
"""A precheck: an obstacle to a recovery is red, a loss is yellow; it changes
nothing, and needs nothing of the active site.
"""

from __future__ import annotations

from typing import Any

import pytest

from antipode.cloud import site as cloud_site
from antipode.engine.timeline import Unobserved
from antipode.errors import InvalidInput, NotFound, SiteUnreachable
from antipode.model.vnf import Vnf
from antipode.operations.precheck import precheck, request
from antipode.runs.looks import PrecheckSteps
from antipode.vault import points, sealing
from tests.unit.test_durable_runs import VNF, World, world

__all__ = ["world"]


def checked(world: World, vnf: str = "v", to: str | None = None) -> dict[str, Any]:
    here = world.process()
    return precheck(here, request(here, vnf, to), Unobserved())


def levels(record: dict[str, Any], check: str) -> set[str]:
    return {f["level"] for f in record["findings"] if f["check"] == check}


def test_a_vnf_that_could_be_recovered_is_not_red_and_nothing_changes(world: World) -> None:
    before = (list(world.a.events), list(world.b.events))
    record = checked(world)
    assert record["verdict"] == "yellow"  # no content was ever proven
    assert levels(record, "proof") == {"yellow"}
    for check in ("state", "recovery point", "vaults", "keys", "definition", "quotas"):
        assert levels(record, check) == {"green"}, check
    assert "red" not in {f["level"] for f in record["findings"]}
    assert record["recovery_point"] == points.read(world.here.vault, "v").id
    assert (world.a.events, world.b.events) == before


def test_it_is_kept_as_a_run_with_its_findings(world: World) -> None:
    record = checked(world)
    row = world.here.runs.get(record["run"])
    assert (row.kind, row.state, row.result["verdict"]) == ("precheck", "succeeded", "yellow")
    assert row.result["findings"] == record["findings"]
    steps = world.here.runs.steps(row.id)
    assert {s.state for s in steps if s.name == PrecheckSteps.LOOK.words} == {"succeeded"}


def test_the_active_site_is_not_called(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def connect(name: str, cloud: str) -> Any:
        called.append(name)
        if name == "site-a":
            raise SiteUnreachable("site-a: black hole")
        return world.b.site

    monkeypatch.setattr(cloud_site, "connect", connect)
    assert checked(world)["verdict"] == "yellow"
    assert called == ["site-b"]


def test_what_the_backup_site_lacks_is_red_and_all_of_it_is_named(world: World) -> None:
    world.b.flavors = []
    world.b.types = []
    record = checked(world)
    assert record["verdict"] == "red"
    assert levels(record, "plan") == {"red"}
    assert len([f for f in record["findings"] if f["check"] == "plan"]) >= 2


def test_a_quota_that_is_short_is_red_and_one_that_is_nearly_used_up_is_yellow(
    world: World,
) -> None:
    world.b.quotas["volumes"] = {"limit": 3}
    record = checked(world)
    assert levels(record, "quotas") == {"yellow", "green"}
    world.b.quotas["volumes"] = {"limit": 2}
    assert levels(checked(world), "plan") == {"red"}


def test_a_backup_site_that_is_down_is_red_and_the_point_is_looked_at_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(name: str, cloud: str) -> Any:
        raise SiteUnreachable(f"{name}: black hole")

    monkeypatch.setattr(cloud_site, "connect", connect)
    record = checked(world)
    assert levels(record, "site") == {"red"}
    assert levels(record, "recovery point") == {"green"}


def test_a_newest_point_that_is_damaged_is_yellow_and_the_valid_one_is_named(world: World) -> None:
    older = points.read(world.here.vault, "v").id
    world.protect()
    newest = points.read(world.here.vault, "v").id
    vault = world.here.vault
    name = sealing.manifest_name("v", newest)
    vault.delete(name)
    vault.put(name, b"{}")
    record = checked(world)
    assert "yellow" in levels(record, "recovery point")
    assert record["recovery_point"] == older


def test_without_a_point_it_is_red(world: World) -> None:
    vault = world.here.vault
    for name in vault.list("v/"):
        vault.delete(name)
    record = checked(world)
    assert (record["verdict"], levels(record, "recovery point")) == ("red", {"red"})


def test_a_service_that_is_down_at_the_backup_site_is_red(world: World) -> None:
    world.b.backup_state = "down"
    assert "red" in levels(checked(world), "site")


def test_a_vnf_that_is_active_at_the_site_is_red(world: World) -> None:
    world.failover()
    assert levels(checked(world, to="site-b"), "state") == {"red"}


def test_wrong_names_are_refused_and_leave_no_run(world: World) -> None:
    runs = len(world.here.runs.all())
    with pytest.raises(NotFound):
        checked(world, to="site-x")
    with pytest.raises(InvalidInput):
        checked(world, vnf="unknown")
    assert len(world.here.runs.all()) == runs


def test_a_runner_that_this_host_lacks_for_the_runbook_is_red(world: World) -> None:
    script = {"runner": "jump", "command": ["check"]}
    step = {"name": "far", "after": "all", "script": script}
    for on, is_red in (("failover", True), ("drill", False)):
        steps = {"steps": [{**step, "on": on}]}
        world.here.vnfs.put(Vnf.model_validate(VNF.model_dump(mode="json") | steps))
        # the file differs from that of the point
        assert ("red" in levels(checked(world), "definition")) == is_red

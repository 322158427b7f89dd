# SPDX-License-Identifier: Apache-2.0
"""Members that a VNF file selects: found at each protection, and known in a disaster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from antipode.engine.timeline import Unobserved
from antipode.errors import InvalidInput, NotFound, PreflightFailed, ResourceFailed
from antipode.model import marks, point_v2
from antipode.model.capture import Transferred
from antipode.model.point import RecoveryPoint
from antipode.model.source import backup_chain
from antipode.model.topology import Server, Topology
from antipode.model.vnf import Selector, Vnf
from antipode.operations.protect import protect
from antipode.recover.plan import make_plan
from antipode.runs import protect as protect_flow
from antipode.runs.preparation import definition_of
from antipode.topology import discovery
from antipode.topology.discovery import discover, resolve
from antipode.topology.members import select_members
from antipode.transfer.cinder_backup import CinderBackup
from antipode.vault import points
from antipode.vault.sealing import Opened
from tests.unit import samples
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_protect_run import world
from tests.unit.test_recovery import point, there

__all__ = ["point", "there", "world"]

NO_PROJECTS: Any = SimpleNamespace(is_same_project=lambda earlier, now: earlier == now)
FRONTS: dict[str, Any] = {
    "name": "fronts",
    "select": {"tag": "front"},
    "boot_after": ["db"],
    "user_data": "keep",
}


def vnf(*entries: dict[str, Any], **changes: Any) -> Vnf:
    members = [{"server": "db"}, *(entries or [FRONTS])]
    return Vnf.model_validate(
        {
            "vnf": "v",
            "primary": "site-a",
            "backup": "site-b",
            "members": members,
            **changes,
        }
    )


@pytest.fixture
def cloud() -> FakeCloud:
    found = FakeCloud()
    found.servers["id-front"]["tags"] = ["front"]
    found.servers["id-app"] |= {"tags": ["front", "more"], "metadata": {"part": "web", "no": "1"}}
    found.servers["id-db"] |= {"tags": ["front"], "metadata": {"part": "web"}}
    found.server_groups = [
        {"id": "g", "name": "apart", "policy": "anti-affinity", "members": ["id-app", "id-db"]}
    ]
    return found


def test_a_tag_selects_servers_in_the_order_of_their_names_but_for_those_named(
    cloud: FakeCloud,
) -> None:
    assert select_members(vnf(), cloud.site) == {"fronts": ["id-app", "id-front"]}
    found = resolve(vnf(), cloud.site)
    assert [m.server for m in found.members] == ["db", "id-app", "id-front"]
    assert [s.name for s in discover(found, cloud.site).servers] == ["db", "app", "front"]
    assert found.boot_waves() == [["db"], ["id-app", "id-front"]]
    assert {m.user_data for m in found.members[1:]} == {"keep"}


def test_a_member_has_the_hints_that_it_was_created_with_but_for_its_group(
    cloud: FakeCloud,
) -> None:
    cloud.servers["id-db"]["scheduler_hints"] = {"group": ["g"], "rack": ["second"]}
    db, app, _ = discover(resolve(vnf(), cloud.site), cloud.site).servers
    assert (db.scheduler_hints, app.scheduler_hints) == ({"rack": ["second"]}, {})


def test_the_note_of_cinder_that_a_volume_was_restored_is_none_of_its_owners(
    cloud: FakeCloud,
) -> None:
    cloud.volumes["db-data"]["metadata"] = {"src_backup_id": "b", "kept": "yes"}
    db = discover(resolve(vnf(), cloud.site), cloud.site).servers[0]
    assert [v.metadata for v in db.volumes if v.id == "db-data"] == [{"kept": "yes"}]


def test_the_servers_of_a_drill_are_selected_by_nothing_and_those_of_a_failover_are(
    cloud: FakeCloud,
) -> None:
    drill, failover = "drill-20261122T160501Z-1a2b3c", "failover-20261122T160501Z-1a2b3c"
    cloud.servers["id-app"]["metadata"] |= marks.marks(drill, f"{drill}/id-front")
    cloud.servers["id-front"]["metadata"] |= marks.marks(failover, "20261122T150000Z-aabbcc/s")
    assert select_members(vnf(), cloud.site) == {"fronts": ["id-front"]}


@pytest.mark.parametrize(
    "select", [{"metadata": {"part": "web", "no": "1"}}, {"server_group": "apart"}]
)
def test_metadata_and_server_groups_select_too(cloud: FakeCloud, select: dict[str, Any]) -> None:
    members = {"name": "some", "select": select}
    cloud.server_groups[0]["members"] = ["id-app", "id-db"]
    found = select_members(vnf(members), FakeGroups(cloud))  # type: ignore[arg-type]
    assert found == {"some": ["id-app"]}


def test_two_server_groups_of_one_name_select_nothing(cloud: FakeCloud) -> None:
    members = {"name": "some", "select": {"server_group": "apart"}}
    cloud.server_groups.append({**cloud.server_groups[0], "id": "late", "members": []})
    found = select_members(vnf(members), FakeGroups(cloud))  # type: ignore[arg-type]
    assert found == {"some": ["id-app"]}
    cloud.server_groups[1]["members"] = ["id-front"]
    with pytest.raises(InvalidInput):
        select_members(vnf(members), FakeGroups(cloud))  # type: ignore[arg-type]


class FakeGroups:
    """A site whose groups have the members that a test gives them."""

    def __init__(self, cloud: FakeCloud) -> None:
        self.name = cloud.site.name
        self.compute = SimpleNamespace(
            servers=cloud.site.compute.servers, server_groups=lambda: cloud.server_groups
        )


def test_a_boot_order_that_names_a_selection_names_all_of_it(cloud: FakeCloud) -> None:
    first = {**FRONTS, "boot_after": [], "boot_before": ["db"]}
    assert resolve(vnf(first), cloud.site).boot_waves() == [["id-app", "id-front"], ["db"]]
    entries = ({"server": "x", "boot_after": ["fronts"]}, {**FRONTS, "boot_after": []})
    waves = vnf(*entries).with_selected({"fronts": ["a", "b"]}).boot_waves()
    assert waves == [["db", "a", "b"], ["x"]]


def test_the_name_of_a_group_is_translated_where_the_vnf_is_active_elsewhere(
    cloud: FakeCloud,
) -> None:
    there = FakeCloud("site-b")
    there.server_groups = [{"id": "g", "name": "apart-b", "members": ["id-app"]}]
    members = {"name": "some", "select": {"server_group": "apart"}}
    mapped = vnf(members, map={"server_groups": {"apart": "apart-b"}})
    found = select_members(mapped, FakeGroups(there))  # type: ignore[arg-type]
    assert found == {"some": ["id-app"]}


# ---- stacks ----

HLR = {"name": "hlr", "select": {"stack": "hlr"}}


class FakeStack:
    """A site with one stack of Heat."""

    def __init__(self, cloud: FakeCloud, status: str = "CREATE_COMPLETE", **servers: str) -> None:
        """`servers`: name of a resource -> the id of its server, of the type of servers."""
        self.name = cloud.site.name
        self.compute = cloud.site.compute
        self.resources = [
            {
                "resource_name": name,
                "resource_type": "OS::Nova::Server",
                "resource_status": "CREATE_COMPLETE",
                "physical_resource_id": server_id,
            }
            for name, server_id in servers.items()
        ]
        stack = {"id": "stack-1", "stack_name": "hlr", "stack_status": status}
        self.stacks = SimpleNamespace(
            find=lambda name: stack if name in ("hlr", "stack-1") else None,
            resources=lambda _: self.resources,
        )

    def select(self, *entries: dict[str, Any]) -> dict[str, list[str]]:
        return select_members(vnf(*entries), self)  # type: ignore[arg-type]


def test_a_stack_selects_what_nova_knows_as_a_server_whatever_heat_calls_it(
    cloud: FakeCloud,
) -> None:
    site = FakeStack(cloud, one="id-app")
    site.resources += [
        {
            "resource_name": name,
            "resource_type": kind,
            "resource_status": "CREATE_COMPLETE",
            "physical_resource_id": physical,
        }
        for name, kind, physical in (
            ("two", "Operators::Own::Server", "id-front"),
            ("nic", "OS::Neutron::Port", "port-1"),
            ("unmade", "OS::Cinder::Volume", ""),
        )
    ]
    assert site.select(HLR) == {"hlr": ["id-app", "id-front"]}
    by_id = {"name": "hlr", "select": {"stack": "stack-1"}}
    assert site.select(by_id) == {"hlr": ["id-app", "id-front"]}


@pytest.mark.parametrize("status", ["UPDATE_IN_PROGRESS", "CREATE_IN_PROGRESS"])
def test_a_stack_that_changes_leaves_the_set_unknown(cloud: FakeCloud, status: str) -> None:
    with pytest.raises(ResourceFailed):
        FakeStack(cloud, status, one="id-app").select(HLR)


def test_a_stack_that_has_failed_at_something_is_taken_as_it_is(cloud: FakeCloud) -> None:
    assert FakeStack(cloud, "UPDATE_FAILED", one="id-app").select(HLR) == {"hlr": ["id-app"]}


@pytest.mark.parametrize("physical", ["id-gone", ""])
def test_a_server_that_only_heat_knows_fails_the_selection(cloud: FakeCloud, physical: str) -> None:
    with pytest.raises(ResourceFailed):
        FakeStack(cloud, one="id-app", two=physical).select(HLR)


def test_a_stack_that_is_not_there_or_has_no_server_selects_nothing(cloud: FakeCloud) -> None:
    with pytest.raises(NotFound):
        FakeStack(cloud, one="id-app").select({"name": "hlr", "select": {"stack": "other"}})
    with pytest.raises(NotFound):
        FakeStack(cloud, "DELETE_COMPLETE", one="id-app").select(HLR)
    with pytest.raises(NotFound):
        FakeStack(cloud).select(HLR)


def test_recovered_servers_are_those_of_their_stack_and_not_what_heat_has_of_a_drill(
    cloud: FakeCloud,
) -> None:
    drill, failover = "drill-20261122T160501Z-1a2b3c", "failover-20261122T160501Z-1a2b3c"
    of_stack = {marks.STACK: "hlr"}
    cloud.servers["id-front"]["metadata"] |= of_stack | marks.marks(drill, f"{drill}/id-app")
    site = FakeStack(cloud, one="id-front")
    with pytest.raises(NotFound):  # Heat is asked, and a server of a drill is none of its members
        site.select(HLR)
    cloud.servers["id-app"]["metadata"] |= of_stack | marks.marks(failover, "20261122T150000Z/s")
    assert site.select(HLR) == {"hlr": ["id-app"]}


FAILOVER = "failover-20261122T160501Z-1a2b3c"


def recovered(cloud: FakeCloud, server: str, of: str) -> None:
    """Have a server be one that a failover has made of a member of the stack."""
    key = f"20261122T150000Z/{of}"
    cloud.servers[server]["metadata"] |= {marks.STACK: "hlr"} | marks.marks(FAILOVER, key)


def test_a_mark_of_somebody_does_not_take_the_place_of_a_stack(cloud: FakeCloud) -> None:
    cloud.servers["id-front"]["metadata"] |= {marks.STACK: "hlr"}
    assert FakeStack(cloud, one="id-app").select(HLR) == {"hlr": ["id-app"]}


def test_a_server_that_is_added_to_recovered_ones_is_a_member_by_the_mark(
    cloud: FakeCloud,
) -> None:
    recovered(cloud, "id-app", "s")
    cloud.servers["id-front"]["metadata"] |= {marks.STACK: "hlr"}
    assert FakeStack(cloud).select(HLR) == {"hlr": ["id-app", "id-front"]}


def test_a_copy_of_a_recovered_server_with_all_its_marks_is_refused(cloud: FakeCloud) -> None:
    recovered(cloud, "id-app", "s")
    recovered(cloud, "id-front", "s")
    with pytest.raises(ResourceFailed, match="copy"):
        FakeStack(cloud).select(HLR)


def test_servers_that_heat_made_beside_recovered_ones_are_not_passed_over(
    cloud: FakeCloud,
) -> None:
    recovered(cloud, "id-app", "s")
    with pytest.raises(ResourceFailed, match="id-front"):
        FakeStack(cloud, one="id-front").select(HLR)
    cloud.servers["id-front"]["metadata"][marks.FENCED] = "fence-1"  # the old copy
    assert FakeStack(cloud, one="id-front", two="id-gone").select(HLR) == {"hlr": ["id-app"]}


def test_a_group_that_is_scaled_within_a_stack_leaves_the_set_unknown(cloud: FakeCloud) -> None:
    site = FakeStack(cloud, one="id-app")
    site.resources[0]["resource_status"] = "DELETE_IN_PROGRESS"
    with pytest.raises(ResourceFailed, match="DELETE_IN_PROGRESS"):
        site.select(HLR)


def test_recovered_servers_are_found_where_there_is_no_heat(cloud: FakeCloud) -> None:
    recovered(cloud, "id-app", "s")

    class Without:
        name, compute = cloud.site.name, cloud.site.compute

        @property
        def stacks(self) -> Any:
            raise PreflightFailed("The work with site-a", ["its catalog has no orchestration"])

    assert select_members(vnf(HLR), Without()) == {"hlr": ["id-app"]}  # type: ignore[arg-type]


def test_a_site_without_heat_says_so(cloud: FakeCloud) -> None:
    class Without:
        name, compute = cloud.site.name, cloud.site.compute

        @property
        def stacks(self) -> Any:
            raise PreflightFailed("The work with site-a", ["its catalog has no orchestration"])

    with pytest.raises(PreflightFailed):
        select_members(vnf(HLR), Without())  # type: ignore[arg-type]


def test_a_member_of_a_stack_is_recovered_with_the_name_of_the_stack(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    first, *others = point.vnf.members
    of_stack = first.model_copy(update={"name": "hlr", "select": Selector(stack="hlr")})
    changed = point.vnf.model_copy(update={"members": [of_stack, *others]})
    plan = make_plan(point.model_copy(update={"vnf": changed}), there.site)
    marked = [s.metadata.get(marks.STACK) for s in plan.servers]
    assert marked == ["hlr", *([None] * len(others))]


def test_a_selection_of_nothing_or_of_the_same_server_twice_is_refused(cloud: FakeCloud) -> None:
    with pytest.raises(NotFound):
        select_members(vnf({"name": "none", "select": {"tag": "nobody"}}), cloud.site)
    again = {"name": "again", "select": {"tag": "more"}}
    with pytest.raises(NotFound):
        select_members(vnf(FRONTS, again), cloud.site)


def test_a_cell_that_does_not_answer_leaves_the_set_unknown(cloud: FakeCloud) -> None:
    cloud.servers["id-x"] = {"id": "id-x", "status": "UNKNOWN"}
    with pytest.raises(ResourceFailed):
        select_members(vnf(), cloud.site)


@pytest.mark.parametrize(
    "entry",
    [
        {"select": {"tag": "x"}},
        {"name": "x", "server": "y"},
        {"name": "x"},
        {},
        {"name": "x", "select": {}},
        {"name": "x", "select": {"tag": "x", "server_group": "y"}},
        {"name": "x", "select": {"tag": "x", "stack": "y"}},
        {"name": "x", "select": {"stack": "a/../b"}},
        {"name": "db", "select": {"tag": "x"}},
        {"name": "x", "select": {"tag": "x"}, "boot_after": ["nobody"]},
    ],
)
def test_an_entry_that_says_too_little_or_too_much_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        vnf(entry)


# ---- protections and recoveries ----


def scaled(*names: str) -> Topology:
    """The topology of the example with its second server under these names."""
    known = samples.topology()
    front = known.server("front")

    def named(name: str) -> Server:
        attached = [
            a.model_copy(update={"volume": a.volume.model_copy(update={"id": f"vol-{name}"})})
            for a in front.attachments
        ]
        ports = [p.model_copy(update={"id": f"port-{name}"}) for p in front.ports]
        changes = {"id": f"srv-{name}", "name": name, "attachments": attached, "ports": ports}
        return front.model_copy(update=changes)

    return known.model_copy(update={"servers": [known.server("db"), *map(named, names)]})


def play(world: Any, *names: str) -> None:
    """Have the site of a deployment have these servers beside `db`."""
    world.plays(protect_flow, "select_members", lambda: {"fronts": [f"srv-{n}" for n in names]})
    world.plays(discovery, "discover", lambda: scaled(*names))
    world.plays(protect_flow, "must_be_as_discovered", lambda: None)
    sources = {
        f"vol-{n}": samples.chain(samples.record(f"b-{n}-{len(names)}", f"vol-{n}"))
        for n in ("db", *names)
    }
    world.plays(CinderBackup, "transfer", lambda: Transferred(sources=sources))


def test_members_are_found_at_each_protection_and_their_changes_are_reported(world: Any) -> None:
    world.deployment.vnfs.put(samples.vnf(members=[{"server": "db"}, FRONTS]))
    play(world, "one", "two")
    first = protect(world.deployment, "hlr", Unobserved())
    assert first["members"] == ["db", "one", "two"]
    assert "members_added" not in first
    play(world, "two", "three")
    second = protect(world.deployment, "hlr", Unobserved())
    assert (second["members_added"], second["members_removed"]) == (["three"], ["one"])
    made = points.newest_or_none(world.deployment.vault, "hlr")
    assert made is not None
    assert [m.server for m in made.vnf.members] == ["db", "srv-two", "srv-three"]
    assert made.vnf.selected == {"fronts": ["srv-two", "srv-three"]}
    assert made.vnf.boot_waves() == [["db"], ["srv-two", "srv-three"]]


def point_of(*names: str) -> RecoveryPoint:
    selected = [f"srv-{n}" for n in names]
    definition = samples.vnf(members=[{"server": "db"}, FRONTS]).with_selected({"fronts": selected})
    sources = {
        f"vol-{n}": samples.chain(samples.record(f"b-{n}", f"vol-{n}")) for n in ("db", *names)
    }
    return samples.point(vnf=definition, topology=scaled(*names), sources=sources)


def opened(point: RecoveryPoint) -> Opened:
    return SimpleNamespace(point=point, signed_by="x" * 64)  # type: ignore[return-value]


def test_the_file_of_a_host_holds_for_the_members_of_the_point(world: Any) -> None:
    point = point_of("one", "two")
    file = samples.vnf(
        members=[{"server": "db"}, {**FRONTS, "user_data": "drop"}],
        map={"networks": {"net": "net-b"}},
    )
    found, _ = definition_of(opened(point), file, NO_PROJECTS)
    assert [(m.server, m.user_data) for m in found.members] == [
        ("db", None),
        ("srv-one", "drop"),
        ("srv-two", "drop"),
    ]
    assert found.map.networks == {"net": "net-b"}
    other = samples.vnf(members=[{"server": "db"}, {**FRONTS, "name": "others"}])
    with pytest.raises(InvalidInput):
        definition_of(opened(point), other, NO_PROJECTS)


def test_a_point_keeps_which_members_were_selected_and_how() -> None:
    point = point_of("one", "two")
    manifest = point_v2.manifest_of(point, {}, "")
    again = point_v2.read_manifest(point_v2.dumped(manifest), "x")
    records = {v: backup_chain(s) for v, s in point.sources.items()}
    chains = {v: point_v2.records_of("hlr", len(r), r, None).records for v, r in records.items()}
    found = point_v2.point_of(again, chains, point_v2.secret_of(point)).vnf
    assert found.selected == point.vnf.selected
    assert found.members == point.vnf.members

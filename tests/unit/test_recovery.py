# SPDX-License-Identifier: Apache-2.0
"""The plan of a recovery and its steps: all problems at once, nothing created before, nothing
created twice.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from antipode.cloud.backups import NO_VOLUME
from antipode.errors import PreflightFailed, ResourceFailed
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.topology import Keypair, ServerGroup
from antipode.model.vnf import Answers, Mapping, Member, Vnf
from antipode.recover.existing import Found
from antipode.recover.plan import make_plan
from antipode.recover.ports import create_ports
from antipode.recover.probes import await_answer
from antipode.recover.servers import boot
from antipode.recover.sources.backup import restore_volumes
from antipode.recover.sources.records import import_chains
from tests.unit import parts
from tests.unit.fakecloud import A_BACKUP, A_PORT, A_SERVER, FakeCloud, refuse
from tests.unit.test_protect_steps import last, protect

VNF = Vnf(
    vnf="v",
    primary="site-a",
    backup=["site-b"],
    map=Mapping(networks={"net": "net-b"}, volume_types={"fast": "standard"}),
    members=[
        Member(server="db"),
        Member(server="app", boot_after=["db"]),
        Member(server="front", boot_after=["app"]),
    ],
)
PLAN = RecoveryPlan(recovery_point="two", vnf="v", site="site-b", servers=[])


@pytest.fixture(scope="module")
def point() -> RecoveryPoint:
    cloud = FakeCloud()
    return protect(cloud, "two", protect(cloud, "one")).model_copy(update={"vnf": VNF})


@pytest.fixture
def there() -> FakeCloud:
    cloud = FakeCloud("site-b", empty=True)
    cloud.networks = [{"id": "net-2", "name": "net-b"}]
    cloud.subnets = [
        {"id": "subnet-other", "name": "o", "network_id": "net-2", "cidr": "10.9.0.0/24"},
        {"id": "subnet-2", "name": "s", "network_id": "net-2", "cidr": "10.0.0.0/24"},
    ]
    cloud.types = [{"id": "type-2", "name": "standard"}]
    return cloud


class OneSlot(threading.Semaphore):
    """Slots for one volume at once."""

    def at(self, _place: int) -> OneSlot:
        return self

    def hold(self) -> OneSlot:
        return self


def imported(cloud: FakeCloud, point: RecoveryPoint, server: str) -> None:
    volumes = [v.id for v in point.topology.server(server).volumes]
    import_chains(parts.recovery(cloud, point, PLAN), server, volumes)


def restored(
    cloud: FakeCloud, point: RecoveryPoint, plan: RecoveryPlan, server: str, **changes: Any
) -> dict[str, str]:
    recovery = parts.recovery(cloud, point, plan, **changes)
    return restore_volumes(recovery, server, plan.server(server).volumes)


def recover(cloud: FakeCloud, point: RecoveryPoint, plan: RecoveryPlan, server: str) -> str:
    ports = create_ports(parts.recovery(cloud, point, plan), server)
    imported(cloud, point, server)
    volumes = restored(cloud, point, plan, server)
    return boot(parts.recovery(cloud, point, plan), server, volumes, ports)


def of(cloud: FakeCloud, action: str) -> list[str]:
    return [e.removeprefix(f"{action} ") for e in cloud.events if e.startswith(f"{action} ")]


# The plan.


def test_names_are_translated_and_addresses_find_their_subnet(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    app = plan.server("app")
    assert (app.flavor_id, app.after) == ("flavor-1", ["db"])
    assert [v.volume_type for v in app.volumes] == ["standard"] * 2
    assert [v.source_reference for v in app.volumes] == [
        last(point, "app-root"),
        last(point, "app-data"),
    ]
    assert (app.ports[0].network_id, app.ports[0].fixed) == ("net-2", {"10.0.0.11": "subnet-2"})
    assert RecoveryPlan.model_validate(plan.model_dump(mode="json")) == plan


def test_all_that_is_missing_is_told_at_once_and_nothing_is_created(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.flavors, there.types, there.groups, there.zones = [], [], [], ["other"]
    there.networks[0]["name"] = "net-c"
    there.backup_state = "down"
    there.servers["x"] = {**A_SERVER, "id": "x", "name": "db"}
    there.quotas = {
        "instances": {"limit": 2},
        "ram": {"limit": 100},
        "gigabytes": {"limit": 5},
        "port": {"limit": 3, "used": 1},
    }
    there.quotas["volumes_standard"] = {"limit": 3}
    with pytest.raises(PreflightFailed) as failure:
        make_plan(point, there.site)
    found = "\n".join(failure.value.problems)
    for words in (
        "there is no flavor small, needed for server db (1 VCPUs, 128 MiB",
        "there is no volume type standard, needed for volume db-root",
        "there is no network net-b, needed for server db; create it, or map the name in the "
        "VNF's file (there are: net-c)",
        "there is no security group default",
        "Cinder has no availability zone nova",
        "cinder-backup is not up at site-b",
        "there is a server db already (x)",
        "quota instances of the project: 3 more are needed, 2 of 2 are free",
        "quota ram of the project: 384 more are needed, 100 of 100 are free",
        "quota gigabytes of the project: 6 more are needed, 5 of 5 are free",
        "quota port of the project: 3 more are needed, 2 of 3 are free",
    ):
        assert words in found
    assert not there.events


def test_an_old_copy_in_the_way_is_named_with_its_maker_and_the_command_that_removes_it(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.servers["x"] = {
        **A_SERVER,
        "id": "x",
        "name": "db",
        "metadata": {"antipode:run": "failover-old", "antipode:key": "of another point"},
    }
    with pytest.raises(PreflightFailed) as failure:
        make_plan(point, there.site)
    (found,) = failure.value.problems
    assert "failover-old" in found
    assert f"antipode reprotect {VNF.vnf} --old-copy remove" in found


def test_addresses_and_macs_in_use_and_a_missing_subnet_are_found_before(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.subnets[1]["cidr"] = "10.0.0.10/31"
    there.ports = {
        "p1": {
            **A_PORT,
            "id": "p1",
            "network_id": "net-2",
            "mac_address": "aa:aa:aa:aa:aa:aa",
            "fixed_ips": [{"ip_address": "10.0.0.10", "subnet_id": "subnet-2"}],
        },
        "p2": {
            **A_PORT,
            "id": "p2",
            "network_id": "net-2",
            "mac_address": "FA:16:3E:00:00:01",
            "fixed_ips": [],
            "device_owner": "compute:nova",
        },
    }
    with pytest.raises(PreflightFailed) as failure:
        make_plan(point, there.site)
    assert failure.value.problems == [
        "address 10.0.0.10 of server db is in use on network net-b by port p1 (not plugged)",
        "MAC address fa:16:3e:00:00:01 of server app is in use on network net-b by port p2 "
        "(compute:nova)",
        "network net-b has no subnet with address 10.0.0.12 of server front (its subnets: "
        "10.9.0.0/24, 10.0.0.10/31)",
    ]


def test_a_backup_of_that_id_but_another_volume_is_a_problem(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    record = next(iter(point.backups.values()))
    there.backups[record.id] = {**A_BACKUP, "id": record.id, "volume_id": "another"}
    with pytest.raises(PreflightFailed, match=record.id):
        make_plan(point, there.site)


NEVER_IMPORTED = {
    "volume_id": NO_VOLUME,
    "status": "error",
    "parent_id": None,
    "container": None,
}
"""What the failed import of a record leaves that was not known at the site before."""


@pytest.mark.parametrize("number", [1, 2])
def test_what_a_failed_import_has_left_is_removed_and_the_record_is_imported_again(
    point: RecoveryPoint, there: FakeCloud, number: int
) -> None:
    failed = {**A_BACKUP, **NEVER_IMPORTED}
    records = [r for r in point.backups.values() if r.volume_id == "db-root"][:number]
    for record in records:
        there.backups[record.id] = {**failed, "id": record.id}
    make_plan(point, there.site)
    imported(there, point, "db")
    assert {r.id for r in records} <= set(of(there, "import"))
    assert {there.backups[r.id]["volume_id"] for r in records} == {"db-root"}


@pytest.mark.parametrize("same", [True, False])
def test_another_backup_driver_is_in_the_plan_where_the_site_has_backups_of_its_own(
    point: RecoveryPoint, there: FakeCloud, same: bool
) -> None:
    there.backups["own"] = {**A_BACKUP, "id": "own", "volume_id": "other", "parent_id": None}
    others = {
        id_: record.model_copy(update={"service": "cinder.backup.drivers.posix.PosixBackupDriver"})
        for id_, record in point.backups.items()
    }
    chains = {
        volume: source.model_copy(
            update={"backups": [r if same else others[r.id] for r in point.chain(volume)]}
        )
        for volume, source in point.sources.items()
    }
    plan = make_plan(point.model_copy(update={"sources": chains}), there.site)
    assert bool([w for w in plan.warnings if "PosixBackupDriver" in w]) is not same


def test_a_failed_import_on_which_imported_increments_rest_is_in_the_plan(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    base, increment = [r for r in point.backups.values() if r.volume_id == "db-root"][:2]
    failed = {"volume_id": NO_VOLUME, "status": "error", "has_dependent_backups": True}
    never = {"parent_id": None, "container": None}
    there.backups[base.id] = {**A_BACKUP, **never, **failed, "id": base.id}
    there.backups[increment.id] = {
        **A_BACKUP,
        "id": increment.id,
        "volume_id": "db-root",
        "parent_id": base.id,
    }
    with pytest.raises(PreflightFailed, match=base.id):
        make_plan(point, there.site)
    with pytest.raises(ResourceFailed, match="another chain"):
        imported(there, point, "db")
    assert {base.id, increment.id} <= set(there.backups)


def test_a_backup_in_error_that_was_imported_before_is_not_removed(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    record = next(r for r in point.backups.values() if r.volume_id == "db-root")
    known = {**A_BACKUP, "id": record.id, "volume_id": "db-root", "status": "error"}
    there.backups[record.id] = known
    with pytest.raises(PreflightFailed, match=record.id):
        make_plan(point, there.site)
    with pytest.raises(ResourceFailed):
        imported(there, point, "db")
    assert there.backups[record.id] is known


def test_what_is_left_of_a_record_that_was_known_there_before_is_not_removed(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    record = next(r for r in point.backups.values() if r.volume_id == "db-root")
    # Cinder revives its row, with its container and prefix: a deletion would take the data
    revived = {**A_BACKUP, **NEVER_IMPORTED, "id": record.id, "container": "backups"}
    there.backups[record.id] = revived
    with pytest.raises(PreflightFailed, match=record.id):
        make_plan(point, there.site)
    with pytest.raises(ResourceFailed):
        imported(there, point, "db")
    assert there.backups[record.id] is revived


def test_a_record_whose_import_is_under_way_is_of_no_volume_yet_and_no_problem(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    record = next(r for r in point.backups.values() if r.volume_id == "db-root")
    importing = {
        **A_BACKUP,
        "id": record.id,
        "volume_id": "00000000-0000-0000-0000-000000000000",
        "status": "creating",
        "looks": 2,
        "parent_id": None,
    }
    there.backups[record.id] = importing
    make_plan(point, there.site)
    real = there._age

    def over(resources: dict[str, Any]) -> None:
        real(resources)
        if importing["status"] == "available":
            importing["volume_id"] = record.volume_id

    there._age = over  # type: ignore[method-assign]
    imported(there, point, "db")
    assert record.id not in of(there, "import")


def test_what_takes_an_address_names_the_run_that_made_it_and_how_to_have_it_removed(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    recover(there, point, make_plan(point, there.site), "db")
    later = point.model_copy(update={"id": "three"})
    for server in list(there.servers):
        del there.servers[server]
    with pytest.raises(PreflightFailed) as failure:
        make_plan(later, there.site)
    ours = [said for said in failure.value.problems if "made by run" in said]
    assert ours
    for said in ours:
        assert "antipode run abort run" in said
        assert f"antipode reprotect {point.vnf.vnf} --old-copy remove" in said


@pytest.mark.parametrize(("generation", "may_be_old"), [(1, False), (2, True)])
def test_what_may_be_of_an_old_copy_names_the_command_that_removes_one(
    point: RecoveryPoint, there: FakeCloud, generation: int, may_be_old: bool
) -> None:
    """The first copy carries no mark of a run."""
    there.servers["x"] = {**A_SERVER, "id": "x", "name": "db", "metadata": {}}
    address = point.topology.server("db").ports[0].fixed[0].address
    taken = {"network_id": "net-2", "fixed_ips": [{"ip_address": address, "subnet_id": "subnet-2"}]}
    there.ports["p"] = {**A_PORT, "id": "p", "mac_address": "aa:aa:aa:aa:aa:ab", **taken}
    with pytest.raises(PreflightFailed) as failure:
        make_plan(point.model_copy(update={"generation": generation}), there.site)
    said = [p for p in failure.value.problems if "(x)" in p or "port p " in p]
    assert len(said) > 1
    assert {"--old-copy remove" in p for p in said} == {may_be_old}


def test_what_an_earlier_attempt_has_created_is_neither_a_problem_nor_counted_twice(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    recover(there, point, make_plan(point, there.site), "db")
    plan = make_plan(point, there.site)
    assert plan.already_there == ["db"]
    needed = {q.resource: q.needed for q in plan.quotas}
    assert (needed["instances"], needed["volumes"], needed["port"], needed["backups"]) == (
        2,
        4,
        2,
        8,
    )


# The steps.


def test_records_are_imported_base_first(point: RecoveryPoint, there: FakeCloud) -> None:
    imported(there, point, "db")
    order = of(there, "import")
    assert len(order) == 4
    for record in point.backups.values():
        if record.volume_id.startswith("db") and record.parent_id:
            assert order.index(record.parent_id) < order.index(record.id)


def test_records_that_are_known_are_not_imported_again_but_must_be_of_the_same_volume(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    imported(there, point, "db")
    imported(there, point, "db")
    assert len(of(there, "import")) == 4
    there.backups[last(point, "db-root")]["volume_id"] = "another"
    with pytest.raises(ResourceFailed, match="another"):
        imported(there, point, "db")


def test_a_server_comes_back_with_its_volumes_in_order_its_port_and_all_that_it_had(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    server_id = recover(there, point, make_plan(point, there.site), "app")
    server = there.servers[server_id]
    by_name = {v["name"]: v for v in there.volumes.values()}
    devices = server["block_device_mapping_v2"]
    assert [d["uuid"] for d in devices] == [by_name["app-root"]["id"], by_name["app-data"]["id"]]
    assert [d["boot_index"] for d in devices] == [0, -1]
    assert {v["backup_id"] for v in by_name.values()} == {
        last(point, "app-root"),
        last(point, "app-data"),
    }
    port = there.ports[server["networks"][0]["port"]]
    assert (port["mac_address"], port["fixed_ips"]) == (
        "fa:16:3e:00:00:01",
        [{"ip_address": "10.0.0.11", "subnet_id": "subnet-2"}],
    )
    assert port["security_groups"] == ["group-1"]
    assert (server["user_data"], server["config_drive"], server["key_name"]) == (
        "cm9sZQ==",
        True,
        "key",
    )
    assert server["metadata"] == {
        "role": "app",
        "antipode:run": "run",
        "antipode:key": "two/id-app",
        "antipode:member": "v/app",
    }


def test_the_root_volume_is_made_bootable_and_gets_its_image_metadata_when_the_restore_did_not(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    recover(there, point, make_plan(point, there.site), "app")
    assert of(there, "os-set_bootable") == ["app-root"]
    assert of(there, "os-set_image_metadata") == ["app-root"]


def test_restored_volumes_have_their_own_metadata_back_and_our_marks(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    recover(there, point, make_plan(point, there.site), "app")
    data = next(v for v in there.volumes.values() if v["name"] == "app-data")
    assert data["metadata"] == {
        "kind": "data",
        "antipode:run": "run",
        "antipode:key": "two/app-data",
        "antipode:volume": data["id"],
    }
    assert data["description"] == ""


def test_a_second_attempt_creates_nothing_twice(point: RecoveryPoint, there: FakeCloud) -> None:
    plan = make_plan(point, there.site)
    first = recover(there, point, plan, "app")
    events = len(there.events)
    assert recover(there, point, plan, "app") == first
    assert not [
        e for e in there.events[events:] if e.split()[0] in ("import", "restore", "boot", "port")
    ]


def test_a_volume_whose_restore_was_under_way_is_found_despite_the_metadata_of_the_backup(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    imported(there, point, "app")
    there.before = lambda event: refuse(500, "killed") if event == "restore app-data" else None
    with pytest.raises(ResourceFailed):
        restored(there, point, plan, "app")
    root = next(v for v in there.volumes.values() if v["name"] == "app-root")
    root["metadata"], root["description"] = (
        {"src_backup_id": root["backup_id"]},
        "antipode:key=two/app-root antipode:run=run",
    )
    there.before = lambda event: None
    found = restored(there, point, plan, "app")
    assert found["app-root"] == root["id"]
    assert of(there, "restore").count("app-root") == 1


def test_no_more_volumes_are_restored_at_once_than_there_are_slots(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    imported(there, point, "app")

    def look(event: str) -> None:
        assert not [v for v in there.volumes.values() if v["status"] == "restoring-backup"]

    there.before = look
    restored(there, point, plan, "app", slots=OneSlot())
    assert len(of(there, "restore")) == 2


def test_a_mac_address_that_somebody_took_meanwhile_is_named(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    there.ports["p"] = {
        **A_PORT,
        "id": "p",
        "network_id": "net-2",
        "mac_address": "fa:16:3e:00:00:01",
        "fixed_ips": [],
        "description": "",
    }
    with pytest.raises(ResourceFailed, match=r"fa:16:3e:00:00:01.*net-b.*port p"):
        create_ports(parts.recovery(there, point, plan), "app")


def test_a_missing_keypair_is_imported(point: RecoveryPoint, there: FakeCloud) -> None:
    there.keypairs.clear()
    plan = make_plan(point, there.site)
    assert [k.name for k in plan.keypairs_to_import] == ["key"]
    recover(there, point, plan, "app")
    assert there.keypairs["key"]["public_key"] == "ssh-ed25519 AAAA me"


def of_two_users(point: RecoveryPoint) -> RecoveryPoint:
    """Two members whose keypairs have one name."""
    keys = {"app": "ssh-ed25519 AAAA alice", "db": "ssh-ed25519 BBBB bob"}
    servers = [
        s.model_copy(update={"keypair": Keypair(name="ops", public_key=keys[s.name])})
        if s.name in keys
        else s
        for s in point.topology.servers
    ]
    topology = point.topology.model_copy(update={"servers": servers})
    return point.model_copy(update={"topology": topology})


@pytest.mark.parametrize("imported_before", [[], ["app"], ["db"]])
def test_members_of_different_users_with_keypairs_of_one_name_keep_their_keys(
    point: RecoveryPoint, there: FakeCloud, imported_before: list[str]
) -> None:
    there.keypairs.clear()
    two = of_two_users(point)
    for name in imported_before:
        keypair = two.topology.server(name).keypair
        assert keypair is not None
        there.keypairs["ops"] = keypair.model_dump()
    plan = make_plan(two, there.site)
    assert len({k.name for k in plan.keypairs_to_import} | set(there.keypairs)) == 3
    assert [w for w in plan.warnings if "keypair" in w and "ops" in w]
    for name in ("db", "app"):
        recover(there, two, plan, name)
    for server in there.servers.values():
        asked = two.topology.server(server["name"]).keypair
        assert asked is not None
        assert there.keypairs[server["key_name"]]["public_key"] == asked.public_key


def test_no_server_boots_with_another_keypair_of_the_name_that_was_planned(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.keypairs.clear()
    plan = make_plan(point, there.site)
    there.keypairs["key"] = {"name": "key", "public_key": "ssh-ed25519 BBBB other"}
    with pytest.raises(ResourceFailed, match="keypair"):
        recover(there, point, plan, "app")


def test_a_keypair_of_the_same_name_but_another_key_does_not_stop_a_recovery(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.keypairs["key"] = {"name": "key", "public_key": "ssh-ed25519 BBBB other"}
    plan = make_plan(point, there.site)
    [imported] = plan.keypairs_to_import
    assert imported.name.startswith("key-")
    assert [w for w in plan.warnings if "another keypair key here" in w]
    recover(there, point, plan, "app")
    assert there.keypairs["key"]["public_key"] == "ssh-ed25519 BBBB other"
    assert there.keypairs[imported.name]["public_key"] == "ssh-ed25519 AAAA me"
    assert make_plan(point, there.site).keypairs_to_import == []


def test_a_network_of_another_project_with_the_same_name_is_not_taken_for_ours(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.networks.insert(0, {"id": "net-theirs", "name": "net-b", "project_id": "theirs"})
    there.networks[1]["project_id"] = there.site.project_id
    assert make_plan(point, there.site).server("app").ports[0].network_id == "net-2"


def test_a_server_in_error_from_an_earlier_attempt_is_named_and_not_counted_as_there(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    server = recover(there, point, make_plan(point, there.site), "db")
    there.servers[server] |= {"status": "ERROR", "fault": {"message": "No valid host was found"}}
    plan = make_plan(point, there.site)
    assert plan.already_there == []
    assert [
        w
        for w in plan.warnings
        if server in w and "No valid host was found" in w and "made again" in w
    ]


def test_a_volume_that_is_still_being_restored_is_not_counted_against_the_quota_again(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    recover(there, point, make_plan(point, there.site), "db")
    for volume in (
        there.volumes.values()
    ):  # a restore shows the metadata of the backup until it is over, but our description
        volume |= {"description": volume["metadata"]["antipode:key"], "metadata": {}}
    there.quotas = {"volumes": {"limit": 4}}
    assert [q.needed for q in make_plan(point, there.site).quotas if q.resource == "volumes"] == [4]


def test_a_member_answers_when_its_command_succeeds_and_its_words_are_filled_in(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    def ask(server: str, code: str, within: float) -> None:
        command = [sys.executable, "-c", code, "{site}", "{server}", "{address}"]
        answers = Answers(command=command, within=within)
        plan = make_plan(point, there.site)
        servers = [
            s.model_copy(update={"answers": answers}) if s.name == "app" else s
            for s in plan.servers
        ]
        asked = plan.model_copy(update={"servers": servers})
        await_answer(parts.recovery(there, point, asked), server, "srv")

    right = (
        "import sys; {'braces': 'of its own'}; sys.exit(sys.argv[1:] != ['site-b', 'app', "
        "'10.0.0.11'])"
    )
    ask("app", right, 20)
    ask("db", "raise SystemExit(1)", 0)
    with pytest.raises(ResourceFailed, match=r"app.*3: not yet"):
        ask("app", "import sys; print('not yet', file=sys.stderr); sys.exit(3)", 0)


# Requests that come through late: their sender is dead, and its successor has looked and found
# nothing.


def comes_through_before(cloud: FakeCloud, service: str, method: str, path: str) -> None:
    """Have the first request of this kind arrive twice: that of a process that died just before its
    successor's.
    """
    api = {
        "compute": cloud.site.compute._api,
        "volume": cloud.site.volumes._api,
        "network": cloud.site.networks._api,
    }[service]
    real, late = api._send, [True]

    def send(this: str, where: str, **request: Any) -> Any:
        if (this, where) == (method, path) and late:
            late.clear()
            real(this, where, **request)
        return real(this, where, **request)

    for each in (api, cloud.site.backups._api) if service == "volume" else (api,):
        each._send = send  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("service", "path", "once"),
    [
        ("network", "/ports", "port"),
        ("compute", "/servers", "boot"),
        ("compute", "/os-keypairs", "keypair"),
        ("volume", "/backups/import_record", "import"),
    ],
)
def test_what_a_late_request_has_made_is_taken_where_the_site_refuses_to_make_it_twice(
    point: RecoveryPoint, there: FakeCloud, service: str, path: str, once: str
) -> None:
    there.keypairs.clear()
    comes_through_before(there, service, "POST", path)
    recover(there, point, make_plan(point, there.site), "app")
    assert len(of(there, once)) == len(set(of(there, once))) > 0


def test_a_refusal_without_such_a_late_request_is_told(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    there.before = lambda event: (
        refuse(400, "no more of these") if event.startswith("boot") else None
    )
    with pytest.raises(ResourceFailed, match=r"app.*no more of these"):
        recover(there, point, plan, "app")


def test_of_a_volume_that_is_there_twice_every_try_takes_the_same(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    comes_through_before(there, "volume", "POST", "/volumes")
    plan = make_plan(point, there.site)
    server = recover(there, point, plan, "app")
    volumes = {d["uuid"] for d in there.servers[server]["block_device_mapping_v2"]}
    assert len(there.volumes) == 3
    again = restored(there, point, plan, "app")
    assert set(again.values()) == volumes
    for volume in there.volumes.values():
        volume["status"] = "available"  # nothing is attached: the older is taken
    there.volumes = dict(sorted(there.volumes.items(), reverse=True))
    again = restored(there, point, plan, "app")
    assert all(
        there.volumes[v]["created_at"]
        == min(
            w["created_at"] for w in there.volumes.values() if w["name"] == there.volumes[v]["name"]
        )
        for v in again.values()
    )


def test_a_server_boots_in_the_server_group_that_has_members_when_there_are_two_of_its_name(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    server = point.topology.server("app").model_copy(
        update={"server_group": ServerGroup(name="apart", policy="anti-affinity")}
    )
    servers = [server if s.name == "app" else s for s in point.topology.servers]
    grouped = point.model_copy(
        update={"topology": point.topology.model_copy(update={"servers": servers})}
    )
    there.server_groups = [
        {"id": g, "name": "apart", "policy": "anti-affinity", "members": m}
        for g, m in (("late", []), ("ours", ["db"]))
    ]
    there.hosts = ["compute-1", "compute-2"]
    booted = recover(there, grouped, make_plan(grouped, there.site), "app")
    assert there.servers[booted]["hints"] == {"group": "ours"}


def test_all_servers_of_a_recovery_share_one_listing(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    asked: list[str] = []

    def noting(send: Callable[..., Any]) -> Callable[..., Any]:
        def noted(method: str, path: str, **request: Any) -> Any:
            asked.append(f"{method} {path}")
            return send(method, path, **request)

        return noted

    for api in (there.site.compute._api, there.site.volumes._api):
        api._send = noting(api._send)
    found = Found(there.site)
    for key in ("a", "b"):
        found.servers(key), found.volumes(key), found.backup(key)
    assert sorted(asked) == ["GET /backups/detail", "GET /servers/detail", "GET /volumes/detail"]

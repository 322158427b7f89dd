# SPDX-License-Identifier: Apache-2.0
"""The main job on two real sites: protected twice, then recovered at site-b while site-a is a black
hole, every record counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from antipode.sandbox.members import MEMBERS, TENANTS
from antipode.sandbox.story import recovered_last
from lab import canary, wan
from lab.checker import check
from lab.desk import EXAMPLE, Desk
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import SITES, Site
from tests.lab.awaited import AwaitedWitness
from tests.lab.holdings import what_is_there

pytestmark = pytest.mark.lab
VNF = "canary"
VAULT = f"antipode-test-{time.time_ns()}"


@dataclass
class Protected:
    """The canary with two recovery points, and what the witness saw when the second one was
    made.
    """

    desk: Desk
    servers: dict[str, str]
    first: dict[str, Any]
    second: dict[str, Any]
    frozen_last: dict[str, int]
    boots: dict[str, int]
    shown: list[dict[str, Any]]


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Protected:
    site_a, site_b = SITES["site-a"], SITES["site-b"]
    canary.remove(site_b)
    canary.remove(site_a)
    servers = canary.create(site_a)
    desk = Desk(tmp_path_factory.mktemp("desk"), VAULT)
    desk.tell("vnf", "add", str(EXAMPLE))
    canary.wait_for_records(site_a, 20)
    first = desk.ask("protect", VNF)
    canary.wait_for_records(site_a, 20)
    with AwaitedWitness(site_a, servers) as witness:
        second = desk.ask("protect", VNF)
    assert witness.sightings and not witness.disagreements
    boots = {role: member["boot"] for role, member in canary.state(site_a).items()}
    canary.wait_for_records(site_a, 20)
    return Protected(desk, servers, first, second, witness.frozen_last, boots, as_shown_at(site_a))


def another_desk(desk: Desk, folder: Path) -> Desk:
    """A desk that has never seen the VNF, and has the recovery kit of another one."""
    kit = folder / "kit"
    desk.tell("key", "export", str(kit))
    another = Desk(folder / "desk", VAULT)
    another.tell("key", "import", str(kit))
    return another


def as_shown_at(site: Site) -> list[dict[str, Any]]:
    """What an operator would compare of the servers at both sites, asked of OpenStack and not of
    antipode.
    """
    cloud = identity.connect(site, "antipode", PROJECT)
    server_groups = list(cloud.compute.server_groups())
    shown = []
    for member in MEMBERS:
        server = cloud.compute.get_server(
            cloud.compute.find_server(member.server, ignore_missing=False)
        )
        ports = list(cloud.network.ports(device_id=server.id))
        groups = {
            cloud.network.get_security_group(g).name for p in ports for g in p.security_group_ids
        }
        attachments = sorted(cloud.compute.volume_attachments(server), key=lambda a: a.device)
        volumes = [cloud.block_storage.get_volume(a.volume_id) for a in attachments]
        shown.append(
            {
                "name": server.name,
                "status": server.status,
                "metadata": {
                    k: v for k, v in server.metadata.items() if not k.startswith("antipode")
                },
                "flavor": server.flavor["original_name"],
                "key_name": server.key_name,
                "server_groups": [
                    (g.name, g.policy) for g in server_groups if server.id in g.member_ids
                ],
                "user_data": server.user_data,
                "config_drive": bool(server.has_config_drive),
                "addresses": [(p.mac_address, f["ip_address"]) for p in ports for f in p.fixed_ips],
                "security_groups": sorted(groups),
                "volumes": [(v.name, v.size, v.is_bootable) for v in volumes],
                "agent": volumes[0].volume_image_metadata.get("hw_qemu_guest_agent"),
            }
        )
    return shown


def test_the_second_recovery_point_is_incremental_and_both_tell_the_truth_about_themselves(
    protected: Protected,
) -> None:
    assert (protected.first["incremental"], protected.second["incremental"]) == (False, True)
    listed = protected.desk.ask("recovery-point", "list", VNF)
    assert {p["id"] for p in listed} == {
        protected.first["recovery_point"],
        protected.second["recovery_point"],
    }
    assert {p["consistency"] for p in listed} == {"application"}
    assert set(protected.second["quiesce_window_per_member_s"]) == {m.server for m in MEMBERS}


def test_protect_leaves_no_snapshot_behind_and_nobody_frozen(
    protected: Protected, site_a: Site
) -> None:
    cloud = identity.connect(site_a, "antipode", PROJECT)
    volumes = {
        v
        for s in protected.servers.values()
        for v in (a.volume_id for a in cloud.compute.volume_attachments(s))
    }
    assert not [s for s in cloud.block_storage.snapshots() if s.volume_id in volumes]
    canary.wait_for_records(site_a, 5)


def test_a_recovery_point_verifies_until_an_object_of_it_is_missing(
    protected: Protected, site_b: Site
) -> None:
    point = protected.second["recovery_point"]
    assert protected.desk.run("recovery-point", "verify", VNF, point).returncode == 0
    store = identity.connect(site_b, "backup", "backup").object_store
    volumes = protected.desk.ask("recovery-point", "show", VNF, point)["volumes"]
    base = next(v["chain"][0] for v in volumes if v["volume"] == "canary-db-data")
    name = next(
        o.name
        for o in store.objects("volumebackups")
        if f"backup_{base}" in o.name and o.name.endswith("-00001")
    )
    content = store.download_object(name, "volumebackups")
    store.delete_object(name, container="volumebackups")
    try:
        broken = protected.desk.run("recovery-point", "verify", VNF, point, "-f", "json")
    finally:
        store.upload_object("volumebackups", name, data=content, generate_checksums=False)
    assert broken.returncode == 1
    assert name in broken.stdout
    assert protected.desk.run("recovery-point", "verify", VNF, point).returncode == 0


def test_what_site_b_lacks_is_said_all_at_once_before_anything_is_created(
    protected: Protected, site_b: Site, vnf_file: Callable[..., Path], tmp_path: Path
) -> None:
    desk = another_desk(protected.desk, tmp_path)
    wrong = {
        "networks": {TENANTS["site-a"].network: "no-such-network"},
        "flavors": {"tiny": "no-such-flavor"},
    }
    desk.tell("vnf", "add", str(vnf_file(map=wrong)))
    before = what_is_there(site_b)
    refused = desk.run("failover", VNF, "--to", site_b.name, "--yes")
    assert refused.returncode == 3
    for missing in ("no-such-network", "no-such-flavor", "fast"):
        assert missing in refused.stderr
    assert what_is_there(site_b) == before


def test_a_quota_that_is_too_small_at_site_b_is_said_before_anything_is_created(
    protected: Protected, site_b: Site
) -> None:
    admin = identity.connect(site_b)
    project = admin.identity.find_project(PROJECT, ignore_missing=False).id
    old = admin.compute.get(f"/os-quota-sets/{project}").json()["quota_set"]["instances"]
    admin.compute.put(
        f"/os-quota-sets/{project}", json={"quota_set": {"instances": 2}}
    ).raise_for_status()
    before = what_is_there(site_b)
    try:
        refused = protected.desk.run("failover", VNF, "--to", site_b.name, "--yes")
    finally:
        admin.compute.put(
            f"/os-quota-sets/{project}", json={"quota_set": {"instances": old}}
        ).raise_for_status()
    assert refused.returncode == 3
    assert "instances" in refused.stderr
    assert what_is_there(site_b) == before


def test_a_mistyped_confirmation_changes_nothing(protected: Protected, site_b: Site) -> None:
    before = what_is_there(site_b)
    refused = protected.desk.run("failover", VNF, "--to", site_b.name)  # nothing is typed
    assert refused.returncode == 4
    assert what_is_there(site_b) == before


@pytest.fixture(scope="module")
def recovered(
    protected: Protected, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Any], int]]:
    """The failover, at a desk that has nothing but the recovery kit, with site-a a black hole; and
    how many calls went to site-a.
    """
    site_a, site_b = SITES["site-a"], SITES["site-b"]
    desk = another_desk(protected.desk, tmp_path_factory.mktemp("another"))
    wan.isolate(site_a)
    try:
        before = wan.calls_to(site_a)
        result = desk.ask("failover", VNF, "--to", site_b.name, "--yes")
        yield result, wan.calls_to(site_a) - before
    finally:
        wan.rejoin(site_a)


def test_with_site_a_isolated_the_failover_sends_it_nothing_and_waits_for_nothing(
    recovered: tuple[dict[str, Any], int],
) -> None:
    result, calls = recovered
    assert calls == 0
    assert set(result["rto_breakdown_s"]) >= {"import", "restore", "ports", "boot", "answers"}


def test_every_record_that_was_durable_when_frozen_is_there_and_nothing_later(
    protected: Protected, recovered: tuple[dict[str, Any], int], site_b: Site
) -> None:
    canary.wait_for_records(site_b, 5)  # the members work together again
    report = check(canary.records(site_b))
    assert report.consistent, json.dumps(report.as_json(), indent=1)
    assert recovered_last(report, protected.boots) == protected.frozen_last


def test_the_servers_at_site_b_are_those_of_site_a_in_all_that_an_operator_sees(
    protected: Protected, recovered: tuple[dict[str, Any], int], site_b: Site
) -> None:
    assert as_shown_at(site_b) == protected.shown


def test_a_failover_that_is_ordered_again_is_refused_and_changes_nothing(
    protected: Protected, recovered: tuple[dict[str, Any], int], site_b: Site
) -> None:
    before = what_is_there(site_b)
    point = protected.second["recovery_point"]
    again = protected.desk.run(
        "failover", VNF, "--to", site_b.name, "--yes", "--recovery-point", point
    )
    assert again.returncode == 2
    assert what_is_there(site_b) == before


def test_the_timeline_names_every_step_of_the_mission(protected: Protected) -> None:
    shown = protected.desk.ask("run", "show", protected.second["run"])
    numbers = {step["number"] for step in shown["steps"]}
    assert {"1.1", "1.2", "1.3", "1.4", "1.6"} <= numbers

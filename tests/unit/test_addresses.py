# SPDX-License-Identifier: Apache-2.0
"""Addresses that change between sites, by rule per subnet."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from antipode.errors import PreflightFailed, VaultCorrupt
from antipode.model import point_v2
from antipode.model.addresses import moved_within, translated, translated_range
from antipode.model.plan import PortPlan
from antipode.model.point import RecoveryPoint
from antipode.model.probe import Probe, Reach
from antipode.model.vnf import Mapping
from antipode.recover import probes
from antipode.recover.plan import make_plan
from antipode.topology import answering
from tests.unit import parts, samples
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_created_networks import here, point_of, recover, there

__all__ = ["here", "there"]

RULES = {
    "10.0.0.0/24": "10.9.1.0/24",
    "10.0.0.7/32": "192.0.2.1/32",
    "fd00:1::/64": "fd00:2::/64",
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("10.0.0.5", "10.9.1.5"),
        ("10.0.0.255", "10.9.1.255"),
        ("10.0.0.7", "192.0.2.1"),
        ("10.0.1.5", "10.0.1.5"),
        ("fd00:1::f816:3eff:fe00:1", "fd00:2::f816:3eff:fe00:1"),
    ],
)
def test_an_address_keeps_its_host_part_and_the_narrowest_rule_counts(
    before: str, after: str
) -> None:
    assert translated(before, RULES) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("10.0.0.0/24", "10.9.1.0/24"),
        ("10.0.0.128/25", "10.9.1.128/25"),
        ("10.0.0.5/24", "10.9.1.5/24"),
        ("10.0.0.5", "10.9.1.5"),
        ("10.0.0.0/16", "10.0.0.0/16"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_a_range_moves_only_where_a_rule_covers_all_of_it(before: str, after: str) -> None:
    assert translated_range(before, RULES) == after


def test_a_range_that_is_moved_in_part_is_known() -> None:
    assert list(moved_within("10.0.0.0/16", RULES)) == ["10.0.0.0/24", "10.0.0.7/32"]
    assert list(moved_within("10.0.0.0/24", RULES)) == []
    assert list(moved_within("10.7.0.0/16", RULES)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"10.0.0.0/24": "10.9.0.0/25"},
        {"10.0.0.0/24": "fd00::/24"},
        {"10.0.0.1/24": "10.9.0.0/24"},
        {"oam": "10.9.0.0/24"},
        {"10.0.0.0/24": "10.9.0.0/24", "10.1.0.0/24": "10.9.0.0/24"},
    ],
)
def test_rules_that_say_no_place_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Mapping(addresses=wrong)


def test_the_way_back_is_the_same_rule_the_other_way_round() -> None:
    back = Mapping(addresses=RULES).reversed()
    for address in ("10.0.0.5", "10.0.0.7", "fd00:1::9"):
        assert back.address(Mapping(addresses=RULES).address(address)) == address


def moving(cloud: FakeCloud, **more: Any) -> RecoveryPoint:
    mapping = {"volume_types": {"fast": "standard"}, "addresses": {"10.0.0.0/24": "10.9.1.0/24"}}
    return point_of(cloud, map=mapping, **more)


def test_a_network_that_is_created_has_the_new_range_and_its_ports_the_new_addresses(
    here: FakeCloud, there: FakeCloud
) -> None:
    more: dict[str, Any] = {
        "gateway_ip": "10.0.0.1",
        "allocation_pools": [{"start": "10.0.0.2", "end": "10.0.0.99"}],
        "host_routes": [{"destination": "10.0.0.128/25", "nexthop": "10.0.0.3"}],
    }
    here.subnets[0] |= more
    here.ports["port-id-db"]["allowed_address_pairs"] = [{"ip_address": "10.0.0.200"}]
    rules = here.groups[2]["security_group_rules"]
    rules[1]["remote_ip_prefix"] = "10.0.0.5/24"
    rules.append({**rules[1], "id": "r3", "protocol": "udp", "remote_ip_prefix": "10.0.0.0/16"})
    point = moving(here)
    plan = make_plan(point, there.site)
    was = point.topology.server("db").ports[0].fixed[0].address
    new = was.replace("10.0.0.", "10.9.1.")
    assert plan.server("db").ports[0].former == {new: was}
    assert [w for w in plan.warnings if "10.0.0.0/16" in w]
    assert [w for w in plan.warnings if "map.addresses" in w and "db" in w]
    (port,) = recover(there, point)
    (subnet,) = there.subnets
    assert {k: subnet[k] for k in ("cidr", "gateway_ip", "allocation_pools", "host_routes")} == {
        "cidr": "10.9.1.0/24",
        "gateway_ip": "10.9.1.1",
        "allocation_pools": [{"start": "10.9.1.2", "end": "10.9.1.99"}],
        "host_routes": [{"destination": "10.9.1.128/25", "nexthop": "10.9.1.3"}],
    }
    made = there.ports[port]
    assert made["fixed_ips"] == [{"ip_address": new, "subnet_id": subnet["id"]}]
    assert made["allowed_address_pairs"] == [{"ip_address": "10.9.1.200"}]
    (web,) = [g for g in there.groups if g["name"] == "web"]
    prefixes = {r.get("protocol"): r.get("remote_ip_prefix") for r in web["security_group_rules"]}
    assert (prefixes["tcp"], prefixes["udp"]) == ("10.9.1.5/24", "10.0.0.0/16")


def test_a_network_that_is_mapped_must_have_a_subnet_for_the_new_address(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.networks = [{"id": "net-b", "name": "net"}]
    there.subnets = [{"id": "sub-b", "name": "s", "network_id": "net-b", "cidr": "10.9.1.0/24"}]
    point = moving(here)
    plan = make_plan(point, there.site)
    assert set(plan.server("db").ports[0].fixed.values()) == {"sub-b"}
    taken = next(iter(plan.server("db").ports[0].fixed))
    there.ports["other"] = {
        "id": "other",
        "name": "",
        "network_id": "net-b",
        "device_id": "x",
        "mac_address": "fa:16:3e:77:77:77",
        "fixed_ips": [{"ip_address": taken, "subnet_id": "sub-b"}],
    }
    with pytest.raises(PreflightFailed) as failure:
        make_plan(point, there.site)
    assert any(taken in p for p in failure.value.problems)


def test_a_probe_asks_the_new_address_which_no_other_copy_has(
    here: FakeCloud, there: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [{"server": s} for s in ("db", "app", "front")]
    members[0]["answers"] = {"tcp": 80}  # type: ignore[assignment]
    point = moving(here, members=members)
    recovery = parts.recovery(there, point, make_plan(point, there.site))
    asked: list[Probe] = []

    def ask(probe: Probe, *_: object) -> None:
        asked.append(probe)

    monkeypatch.setattr(answering, "_ask", ask)
    probes.await_answer(recovery, "db", "id")
    was = point.topology.server("db").ports[0].fixed[0].address
    assert [(p.address, p.reaches) for p in asked] == [
        (was.replace("10.0.0.", "10.9.1."), Reach.THIS_SITE)
    ]


def test_a_point_says_that_addresses_change_to_readers_that_would_not_know() -> None:
    plain = point_v2.manifest_of(samples.point(), {}, "")
    assert plain.requires == []
    vnf = samples.vnf(maps={"site-b": {"addresses": {"10.0.0.0/24": "10.9.1.0/24"}}})
    moved = point_v2.manifest_of(samples.point(vnf=vnf), {}, "")
    assert moved.requires == ["Names.addresses"]
    again = point_v2.read_manifest(point_v2.dumped(moved), "x")
    assert again.plan.maps["site-b"].addresses == {"10.0.0.0/24": "10.9.1.0/24"}
    unknown = moved.model_copy(update={"requires": ["Names.addresses", "more"]})
    with pytest.raises(VaultCorrupt):
        point_v2.read_manifest(point_v2.dumped(unknown), "x")


def test_a_port_in_a_plan_of_before_has_no_former_addresses() -> None:
    port = samples.plan().servers[0].ports[0].model_dump()
    del port["former"]
    assert PortPlan.model_validate(port).former == {}

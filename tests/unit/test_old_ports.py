# SPDX-License-Identifier: Apache-2.0
"""Ports of no server that an old copy has: they go with it, as their addresses are in the way of a
recovery, and none goes that something else may use.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from antipode.cloud.site import Site
from antipode.model import marks
from antipode.model.vnf import Vnf
from antipode.runs import fence, old_copy_removal
from antipode.vault import generations, old_copies, points
from antipode.vault.old_copies import OldCopy
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_durable_runs import World, world
from tests.unit.test_migrate_run import migrated
from tests.unit.test_port_fidelity import vip
from tests.unit.test_protect_steps import VNF

__all__ = ["world"]
COPY = OldCopy("site-a", {}, {"failover-2"}, set(), {"failover-3"}, vnf="v", ports={"p": "vip"})


def found(cloud: FakeCloud, *others: Vnf) -> tuple[list[str], list[str]]:
    here: Any = SimpleNamespace(vnfs=SimpleNamespace(all=lambda: list(others)))
    site: Site = cloud.site
    of_servers = [i for i, p in cloud.ports.items() if p["device_id"]]
    free, kept = old_copy_removal._ports_of_no_server(here, COPY, site, of_servers)
    return [p["id"] for p in free], kept


def with_port(**more: Any) -> FakeCloud:
    """A cloud with port `p` of no server, which points of the old copy name."""
    cloud = FakeCloud()
    port = vip(cloud, **more)
    del cloud.ports[port["id"]]
    cloud.ports["p"] = {**port, "id": "p"}
    return cloud


def test_one_that_points_name_or_the_failover_has_made_is_of_it_and_no_other() -> None:
    cloud = with_port()
    like = cloud.ports["p"]
    for name, run in (("made", "failover-2"), ("later", "failover-3"), ("foreign", "failover-9")):
        cloud.ports[name] = {**like, "id": name, "tags": marks.as_tags(run, name)}
    drilled = [*marks.as_tags("failover-2", "x"), marks.THROW_AWAY]
    cloud.ports["drilled"] = {**like, "id": "drilled", "tags": drilled}
    cloud.ports["stranger"] = {**like, "id": "stranger"}
    assert found(cloud) == (["p", "made"], [])


@pytest.mark.parametrize("owner", ["network:dhcp", "trunk:subport"])
def test_one_that_neutron_uses_stays(owner: str) -> None:
    assert found(with_port(device_owner=owner)) == ([], [])
    assert found(with_port(device_id="a-load-balancer")) == ([], [])


def test_one_that_has_another_name_or_another_user_by_now_is_left_and_said() -> None:
    assert [len(each) for each in found(with_port(name="other"))] == [0, 1]
    other = VNF.model_copy(update={"vnf": "w", "ports": ["vip"]})
    assert [len(each) for each in found(with_port(), other)] == [0, 1]
    assert [len(each) for each in found(with_port(), VNF.model_copy(update={"vnf": "w"}))] == [1, 0]


@pytest.mark.parametrize("width", ["", "/32", "/29"])
def test_one_whose_address_a_port_of_another_server_may_use_is_left(width: str) -> None:
    cloud = with_port()
    pairs = [{"ip_address": cloud.ports["p"]["fixed_ips"][0]["ip_address"] + width}]
    theirs = {**cloud.ports["p"], "id": "theirs", "device_id": "", "allowed_address_pairs": pairs}
    cloud.ports["theirs"] = {**theirs, "network_id": "net-of-others"}
    assert found(cloud) == (["p"], [])
    cloud.ports["theirs"] = theirs
    assert [len(each) for each in found(cloud)] == [0, 1]
    cloud.ports["theirs"]["allowed_address_pairs"] = [{"ip_address": "0.0.0.0/0"}]  # a router's
    assert found(cloud) == (["p"], [])


def test_they_are_removed_with_the_old_copy_and_the_plan_names_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    vip(world.a)
    world.a.ports["port-id-db"]["allowed_address_pairs"] = [{"ip_address": "10.0.0.200"}]
    world.protect()
    migrated(world)
    assert "port-vip" in world.a.ports
    monkeypatch.setattr(old_copy_removal, "must_be_replaced", lambda standing: None)
    here = world.process()
    standing = fence.must_be_old(here, "v", "site-a")
    holdings = old_copy_removal.holdings(here, standing, here.site("site-a", "v"))
    assert holdings.ports["port-vip"] == "vip"
    there = set(world.b.ports)
    migrated(world, back=True)
    assert "port-vip" not in world.a.ports
    assert "10.0.0.200" in {f["ip_address"] for p in world.a.ports.values() for f in p["fixed_ips"]}
    assert set(world.b.ports) == there


def test_those_of_the_present_generation_are_not_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [{"id": "p", "name": "vip"}, {"id": "q", "name": "vip"}]

    def point(*ids: str) -> Any:
        topology = SimpleNamespace(
            servers=[],
            unattached=[],
            volumes=[],
            vip_ports=[SimpleNamespace(**p) for p in ports if p["id"] in ids],
        )
        return SimpleNamespace(topology=topology)

    read = {"old": point("p", "q"), "new": point("q")}
    summaries = [
        ("old", SimpleNamespace(generation=1, site="site-a")),
        ("new", SimpleNamespace(generation=3, site="site-a")),
    ]
    claim = SimpleNamespace(generation=2, site="site-a", run="failover-2", former_site="site-b")
    active = SimpleNamespace(outcome="active")
    monkeypatch.setattr(generations, "history", lambda vault, vnf: [(claim, active)])
    monkeypatch.setattr(points, "list_points", lambda vault, vnf: summaries)
    monkeypatch.setattr(old_copies, "_read", lambda vault, vnf, name: read[name])
    copy = old_copies.find(None, "v", "site-a", 3)  # type: ignore[arg-type]
    assert copy.ports == {"p": "vip"}

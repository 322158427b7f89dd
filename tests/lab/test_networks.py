# SPDX-License-Identifier: Apache-2.0
"""A VNF with trunks, QoS, floating IPs, DNS names and all else that Neutron can give it, carried
from one real site to the other while the former is a black hole, and compared field by field.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab import canary, extras, wan
from lab.desk import Desk
from lab.errors import LabError
from lab.services import identity, tenant
from lab.site import SITES, Site
from lab.waiting import wait_until
from lab.witness import is_frozen
from tests import created_networks
from tests.lab import with_extra
from tests.messy import (
    MAP,
    SECOND,
    SERVER,
    Cloud,
    Json,
    closed,
    furnish,
    messy,
    open_gap,
    second,
    seen,
    unsaid,
)

pytestmark = pytest.mark.lab
VNF, SUFFIX = "messy", "-b"
INSIDE = {
    "provider:network_type": "vlan",
    "provider:physical_network": "public",
    "provider:segmentation_id": 150,
}
"""What only an administrator gives the network `inside`."""
NETWORKS = ("signalling", "vlan", "bare")
PUBLIC = {"203.0.113.7": "203.0.113.70", "203.0.113.8": "203.0.113.80"}
CREATED = ("vlan", "bare", "inside", "twin")
"""The networks that are created where the VNF file says so and the backup site has none."""
PATIENCE_S = 600


@pytest.fixture(scope="module", autouse=True)
def networks(sites: None) -> None:
    with_extra.add(extras.NETWORK)


class LabCloud(Cloud):
    """One site of the lab."""

    def __init__(self, site: Site) -> None:
        member = identity.connect(site, tenant.USER, tenant.PROJECT)
        super().__init__(identity.connect(site, "antipode", tenant.PROJECT), member)
        self.site = site

    def remove(self) -> None:
        """Remove what of the VNF, and of its surroundings, is there."""
        self._unplug()
        for floating in self.network("GET", "/floatingips")["floatingips"]:
            for forwarding in floating.get("port_forwardings", []):
                path = f"/floatingips/{floating['id']}/port_forwardings/{forwarding['id']}"
                self.network("DELETE", path)
        for path, key in (
            ("/floatingips", "floatingips"),
            ("/trunks", "trunks"),
        ):
            for row in self.network("GET", path)[key]:
                self.network("DELETE", f"{path}/{row['id']}")
        for router in self.network("GET", "/routers")["routers"]:
            inner = self.network("GET", f"/ports?device_id={router['id']}")["ports"]
            for port in inner:
                if port["device_owner"] == "network:router_interface":
                    path = f"/routers/{router['id']}/remove_router_interface"
                    self.network("PUT", path, {"port_id": port["id"]})
            self.network("DELETE", f"/routers/{router['id']}")
        names = {"public", "inside", "twin", *NETWORKS, *(f"{name}{SUFFIX}" for name in NETWORKS)}
        for network in self.network("GET", "/networks")["networks"]:
            if network["name"] in names:
                self.remove_network(network["id"])
        for group in self.network("GET", "/security-groups")["security_groups"]:
            if group["name"] in ("peers", "web", "twice", f"twice{SUFFIX}"):
                self.network("DELETE", f"/security-groups/{group['id']}")
        for policy in self.network("GET", "/qos/policies")["policies"]:
            self.network("DELETE", f"/qos/policies/{policy['id']}")
        self._remove_of_compute()

    def _unplug(self) -> None:
        """Delete the server and its volumes."""
        servers = self.ask("compute", "GET", "/servers")["servers"]
        for server in (s for s in servers if s["name"] in (SERVER, SECOND)):
            path = f"/servers/{server['id']}"
            attached = self.ask("compute", "GET", f"{path}/os-volume_attachments")
            self.ask("compute", "DELETE", path)
            wait_until(partial(self._is_gone, path), "the server is gone", PATIENCE_S, 1)
            for one in attached["volumeAttachments"]:
                if not one["delete_on_termination"]:
                    self.ask("volume", "DELETE", f"/volumes/{one['volumeId']}")
        for volume in self.ask("volume", "GET", "/volumes/detail")["volumes"]:
            if (volume["name"] or "").startswith(VNF) and volume["status"] == "available":
                self.ask("volume", "DELETE", f"/volumes/{volume['id']}")

    def _is_gone(self, path: str) -> bool:
        return path.rpartition("/")[2] not in {
            s["id"] for s in self.ask("compute", "GET", "/servers")["servers"]
        }

    def remove_network(self, network: str) -> None:
        for port in self.network("GET", f"/ports?network_id={network}")["ports"]:
            if not port["device_owner"].startswith("network:"):
                self.network("DELETE", f"/ports/{port['id']}")
        self.network("DELETE", f"/networks/{network}")

    def _remove_of_compute(self) -> None:
        for user in (self, self.member):
            for pair in user.ask("compute", "GET", "/os-keypairs")["keypairs"]:
                if (name := pair["keypair"]["name"]).startswith(VNF):
                    user.ask("compute", "DELETE", f"/os-keypairs/{name}")
        for group in self.ask("compute", "GET", "/os-server-groups")["server_groups"]:
            if group["name"] == "apart":
                self.ask("compute", "DELETE", f"/os-server-groups/{group['id']}")
        for flavor in self.ask("compute", "GET", "/flavors")["flavors"]:
            if flavor["name"] in (VNF, f"{VNF}{SUFFIX}"):
                self.ask("compute", "DELETE", f"/flavors/{flavor['id']}")
        for kind in self.ask("volume", "GET", "/types")["volume_types"]:
            if kind["name"] in ("radio", f"radio{SUFFIX}"):
                self._remove_type(kind)

    def _remove_type(self, kind: Json) -> None:
        """Remove a volume type once its volumes are gone; one that others have stays."""

        def of_it() -> list[str]:
            rows = self.ask("volume", "GET", "/volumes/detail")["volumes"]
            return [v["status"] for v in rows if v["volume_type"] == kind["name"]]

        wait_until(lambda: "deleting" not in of_it(), "its volumes are gone", PATIENCE_S, 1)
        if not of_it():
            self.ask("volume", "DELETE", f"/types/{kind['id']}")


@pytest.fixture
def clouds() -> Iterator[tuple[LabCloud, LabCloud]]:
    found = [LabCloud(site) for site in SITES.values()]
    for cloud in found:
        canary.remove(cloud.site)
        cloud.remove()
    yield found[0], found[1]
    for cloud in found:
        cloud.remove()


def desk_of(
    folder: Path,
    vnf_file: Callable[..., Path],
    mapped: Iterable[str],
    *others: str,
    **changes: Any,
) -> Desk:
    """A desk that knows the VNF.

    Args:
        mapped: the networks that have another name at the backup site.
        others: servers that are members, too.
        changes: other values of the VNF file.
    """
    desk = Desk(folder / "desk", f"antipode-test-{time.time_ns()}")
    mapping = {
        **MAP,
        "networks": {name: f"{name}{SUFFIX}" for name in mapped},
        "floating_ips": PUBLIC,
    }
    members = [{"server": SERVER, "user_data": "keep"}, *({"server": o} for o in others)]
    file = vnf_file(vnf=VNF, members=members, map=mapping, timeout_s=120, **changes)
    desk.tell("vnf", "add", str(file))
    return desk


def await_agent(site: Site, server: str) -> None:
    """Return when the guest agent of a server answers, and its guest is not frozen."""

    def answers() -> bool:
        try:
            return not is_frozen(site, server)
        except LabError:  # it starts: asked again until the time is over
            return False

    wait_until(answers, "the guest agent answers", PATIENCE_S, interval=1)


def reserve(cloud: Cloud, public: str) -> Json:
    """Floating IPs that the backup site keeps for the VNF: address -> id."""
    wanted: dict[str, Any] = {"floating_network_id": public}
    return {
        address: cloud.make("floatingip", "/floatingips", **wanted, floating_ip_address=address)[
            "id"
        ]
        for address in PUBLIC.values()
    }


def leads(cloud: Cloud) -> dict[str, str]:
    """id of each floating IP -> the address to which it leads."""
    rows = cloud.network("GET", "/floatingips")["floatingips"]
    return {row["id"]: row["fixed_ip_address"] for row in rows}


def await_guests(cloud: LabCloud) -> None:
    """Return when the guest agent of each server of the VNF answers."""
    for server in cloud.ask("compute", "GET", "/servers")["servers"]:
        await_agent(cloud.site, server["id"])


def test_trunks_policies_floating_ips_and_dns_names_come_back_as_they_were(
    clouds: tuple[LabCloud, LabCloud], tmp_path: Path, vnf_file: Callable[..., Path]
) -> None:
    here, there = clouds
    desk = desk_of(tmp_path, vnf_file, NETWORKS, SECOND)
    had = furnish(here)
    messy(here, had, policy="soft-anti-affinity")
    second(here, had)
    reserved = reserve(there, furnish(there, SUFFIX)["public"])
    await_guests(here)
    open_gap(here)
    before = seen(here)
    devices = [v["device"] for v in before["servers"][SERVER]["volumes"]]
    assert devices == ["/dev/vda", "/dev/vdc", "/dev/vdd"]  # the swap of its flavor is vdb
    assert unsaid(here, desk.ask("vnf", "show", VNF)["warnings"]) == []
    desk.ask("protect", VNF)
    assert seen(here) == before

    wan.isolate(here.site)
    try:
        planned = desk.ask("failover", VNF, "--to", there.site.name, "--plan")
        assert unsaid(there, planned["warnings"]) == []
        assert [w for w in planned["warnings"] if "different keypairs messy" in w]
        assert there.ask("compute", "GET", "/servers")["servers"] == []
        desk.ask("failover", VNF, "--to", there.site.name, "--yes")
    finally:
        wan.rejoin(here.site)
    assert seen(there, SUFFIX) == closed(before)
    assert leads(there) == {
        reserved[PUBLIC["203.0.113.7"]]: "10.8.0.12",
        reserved[PUBLIC["203.0.113.8"]]: "10.8.0.100",
    }


def test_networks_that_the_backup_site_lacks_are_created_there_as_they_were(
    clouds: tuple[LabCloud, LabCloud], tmp_path: Path, vnf_file: Callable[..., Path]
) -> None:
    here, there = clouds
    desk = desk_of(
        tmp_path, vnf_file, ["signalling"], networks="create", provider_attributes="keep"
    )
    had = furnish(here)
    member = furnish_here(here, had)
    messy(here, had, member, *created_networks.furnish_twins(here))
    reserved = reserve(there, furnish_without(there, "vlan", "bare"))
    await_guests(here)
    before, around = seen(here), created_networks.seen(here, CREATED)
    desk.ask("protect", VNF)
    assert (seen(here), created_networks.seen(here, CREATED)) == (before, around)

    wan.isolate(here.site)
    try:
        planned = desk.ask("failover", VNF, "--to", there.site.name, "--plan")
        hows = {n["former"]: n["how"] for n in planned["networks"]}
        assert hows == {"signalling": "mapped", **dict.fromkeys(CREATED, "created")}
        groups = {g["former"]: g["how"] for g in planned["security_groups"]}
        assert groups == {
            **dict.fromkeys(("canary", "default", "twice"), "mapped"),
            **dict.fromkeys(("peers", "web"), "created"),
        }
        (vlan,) = [n for n in planned["networks"] if n["former"] == "vlan"]
        assert [change for change in vlan["changes"] if "router" in change]
        assert created_networks.seen(there, CREATED) == {"networks": [], "groups": {}}
        desk.ask("failover", VNF, "--to", there.site.name, "--yes")
    finally:
        wan.rejoin(here.site)
    assert seen(there, SUFFIX) == before
    assert created_networks.seen(there, CREATED) == around
    assert inside_of(there, SUFFIX) == inside_of(here)
    assert leads(there) == {
        reserved[PUBLIC["203.0.113.7"]]: "10.8.0.12",
        reserved[PUBLIC["203.0.113.8"]]: "10.8.0.100",
    }
    await_guests(there)


def furnish_here(cloud: Cloud, had: Mapping[str, str]) -> Json:
    """What the backup site has nothing like, besides: a network with a policy, a VLAN of its own
    and a subnet whose addresses DHCP gives by IPv6; a router of the network `vlan`. A port of the
    former.
    """
    member = created_networks.furnish_inside(cloud, qos_policy_id=had["gold"], **INSIDE)
    network = {"id": member["network_id"]}
    modes = {"ipv6_address_mode": "dhcpv6-stateful", "ipv6_ra_mode": "dhcpv6-stateful"}
    managed = cloud.make_subnet(network, "fd00:21::/64", name="managed", **modes)
    wanted = [
        {"subnet_id": f["subnet_id"], "ip_address": f["ip_address"]} for f in member["fixed_ips"]
    ]
    wanted.append({"subnet_id": managed["id"], "ip_address": "fd00:21::1:100"})
    body = {"port": {"fixed_ips": wanted}}
    port: Json = cloud.network("PUT", f"/ports/{member['id']}", body)["port"]
    router = cloud.make("router", "/routers", name="of-vlan")
    path = f"/routers/{router['id']}/add_router_interface"
    cloud.network("PUT", path, {"subnet_id": had["vlan-subnet"]})
    return port


def furnish_without(cloud: LabCloud, *names: str) -> str:
    """Furnish a backup site, which lacks the networks of these names; the id of `public`."""
    had = furnish(cloud, SUFFIX)
    for name in names:
        cloud.remove_network(had[name])
    return had["public"]


def inside_of(cloud: Cloud, suffix: str = "") -> Json:
    """What `tests.created_networks` does not see of the network `inside`: its policy, and what
    only an administrator gives it.
    """
    policies = cloud.names("/qos/policies", "policies")
    (row,) = [n for n in cloud.network("GET", "/networks")["networks"] if n["name"] == "inside"]
    policy = policies[row["qos_policy_id"]].removesuffix(suffix)
    return {"policy": policy, **{name: row[name] for name in INSIDE}}

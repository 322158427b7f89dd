# SPDX-License-Identifier: Apache-2.0
"""A VNF with all that Nova and Neutron can give it: made at a site, embedded or the lab's, and seen
there field by field.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from typing import Any

from antipode.sandbox import canary
from antipode.sandbox.creation import FLAVOR, KEY
from antipode.sandbox.members import NAME

Json = dict[str, Any]
SERVER = "messy-ünï"
PATIENCE_S = 600
"""for one resource to become usable"""


class Cloud:
    """One site as its operator sees it, an administrator in the project."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def image(self, name: str) -> str:
        """The id of an image."""
        rows = self._connection.image.get("/images").json()["images"]
        return next(str(row["id"]) for row in rows if row["name"] == name)

    def ask(self, service: str, method: str, path: str, body: Json | None = None) -> Json:
        proxy = {
            "network": self._connection.network,
            "compute": self._connection.compute,
            "volume": self._connection.block_storage,
        }[service]
        version = {"compute": "2.96", "volume": "3.70"}.get(service)
        answer = proxy.request(path, method, json=body, microversion=version)
        assert answer.ok, (method, path, answer.text)
        found: Json = answer.json() if answer.content else {}
        return found

    def network(self, method: str, path: str, body: Json | None = None) -> Json:
        return self.ask("network", method, path, body)

    def make(self, kind: str, path: str, **wanted: Any) -> Json:
        """A resource of Neutron, with its tags."""
        tags = wanted.pop("tags", None)
        made: Json = self.network("POST", path, {kind: wanted})[kind]
        if tags:
            self.network("PUT", f"{path}/{made['id']}/tags", {"tags": tags})
        return made

    def make_subnet(self, network: Json, cidr: str, **wanted: Any) -> Json:
        """A subnet of a network, of the version of IP that its addresses have."""
        version = ipaddress.ip_network(cidr).version
        return self.make(
            "subnet", "/subnets", network_id=network["id"], cidr=cidr, ip_version=version, **wanted
        )

    def names(self, path: str, key: str) -> dict[str, str]:
        """id -> name of the resources of a listing."""
        return {row["id"]: row["name"] for row in self.network("GET", path)[key]}

    def id_of(self, path: str, key: str, name: str) -> str:
        return next(i for i, n in self.names(path, key).items() if n == name)

    def id_of_flavor(self, name: str) -> str:
        rows = self.ask("compute", "GET", "/flavors")["flavors"]
        return next(str(row["id"]) for row in rows if row["name"] == name)

    def volume(self, **wanted: Any) -> str:
        answer = self.ask("volume", "POST", "/volumes", {"volume": {"size": 1, **wanted}})
        volume_id = str(answer["volume"]["id"])
        canary.await_that(
            lambda: self.status("volume", "/volumes", volume_id) == "available",
            "a volume",
            PATIENCE_S,
        )
        return volume_id

    def status(self, service: str, path: str, item: str) -> str:
        found = self.ask(service, "GET", f"{path}/{item}")
        return str(next(iter(found.values()))["status"])


def furnish(cloud: Cloud, suffix: str = "") -> dict[str, str]:
    """What a backup site must have: networks, a QoS policy, a way to the public. The ids by name.

    Args:
        suffix: of the names at this site.
    """
    made: dict[str, str] = {}
    for name, cidr in (("signalling", "10.8.0.0/24"), ("vlan", "10.9.0.0/24")):
        network = cloud.make("network", "/networks", name=f"{name}{suffix}")
        # where Neutron may choose: away from the addresses that are wanted
        first = cidr.removesuffix("0/24")
        pool = {"start": f"{first}200", "end": f"{first}250"}
        subnet = cloud.make_subnet(network, cidr, allocation_pools=[pool])
        made |= {name: network["id"], f"{name}-subnet": subnet["id"]}
    bare = bare_network(cloud, suffix)
    policy = cloud.make("policy", "/qos/policies", name=f"gold{suffix}")
    cloud.network(
        "POST",
        f"/qos/policies/{policy['id']}/bandwidth_limit_rules",
        {"bandwidth_limit_rule": {"max_kbps": 1000}},
    )
    public = cloud.make("network", "/networks", name="public", **{"router:external": True})
    pool = {"start": "203.0.113.200", "end": "203.0.113.250"}
    cloud.make_subnet(public, "203.0.113.0/24", allocation_pools=[pool], enable_dhcp=False)
    router = cloud.make(
        "router", "/routers", name="way-out", external_gateway_info={"network_id": public["id"]}
    )
    cloud.network(
        "PUT",
        f"/routers/{router['id']}/add_router_interface",
        {"subnet_id": made["signalling-subnet"]},
    )
    return {**made, "bare": bare["id"], "gold": policy["id"], "public": public["id"]}


def bare_network(cloud: Cloud, suffix: str = "") -> Json:
    """A network without subnets and port security."""
    return cloud.make("network", "/networks", name=f"bare{suffix}", port_security_enabled=False)


def bare_port(cloud: Cloud, network_id: str, mac: str, **wanted: Any) -> Json:
    """A port of a bare network, which has no address."""
    return cloud.make(
        "port",
        "/ports",
        network_id=network_id,
        name="bare",
        mac_address=mac,
        fixed_ips=[],
        port_security_enabled=False,
        **wanted,
    )


def messy(cloud: Cloud, there: Mapping[str, str], *others: Json) -> None:
    """A server with all that Nova and Neutron can give it, and the ports around it.

    Args:
        others: ports that it has besides, as its last interfaces.
    """
    group = cloud.id_of("/security-groups", "security_groups", "canary")
    vip = "10.8.0.100"
    first = cloud.make(
        "port",
        "/ports",
        network_id=there["signalling"],
        name="first",
        description="of the signalling network, für alle",
        mac_address="fa:16:3e:77:00:01",
        fixed_ips=[{"ip_address": "10.8.0.11"}, {"ip_address": "10.8.0.12"}],
        security_groups=[group],
        allowed_address_pairs=[{"ip_address": vip}],
        extra_dhcp_opts=[{"opt_name": "tftp-server", "opt_value": "10.8.0.9"}],
        dns_domain="vnf.example.",
        qos_policy_id=there["gold"],
        numa_affinity_policy="preferred",
        tags=["blue", "first"],
    )
    bare = bare_port(cloud, there["bare"], "fa:16:3e:77:00:02", admin_state_up=False)
    third = cloud.make(
        "port",
        "/ports",
        network_id=there["signalling"],
        name="third",
        mac_address="fa:16:3e:77:00:03",
        fixed_ips=[{"ip_address": "10.8.0.13"}],
        security_groups=[],
    )
    below = [
        cloud.make(
            "port",
            "/ports",
            network_id=there["vlan"],
            name=f"vlan-{number}",
            description=f"VLAN {number}",
            mac_address=f"fa:16:3e:77:01:{number - 90}",
            fixed_ips=[{"ip_address": f"10.9.0.{number}"}],
            tags=["vlan"],
        )
        for number in (100, 101)
    ]
    cloud.make(
        "trunk",
        "/trunks",
        port_id=third["id"],
        name="third-trunk",
        description="to the radio",
        sub_ports=[
            {"port_id": p["id"], "segmentation_type": "vlan", "segmentation_id": n}
            for p, n in zip(below, (100, 101), strict=True)
        ],
        tags=["radio"],
    )
    address = cloud.make(
        "port",
        "/ports",
        network_id=there["signalling"],
        name="hlr-vip",
        description="the address of the service",
        fixed_ips=[{"ip_address": vip}],
        device_owner="vip:hlr",
        tags=["vip"],
    )
    for wanted, port, fixed in (
        ("203.0.113.7", first["id"], "10.8.0.12"),
        ("203.0.113.8", address["id"], vip),
        ("203.0.113.9", third["id"], "10.8.0.13"),
    ):
        cloud.make(
            "floatingip",
            "/floatingips",
            floating_network_id=there["public"],
            floating_ip_address=wanted,
            port_id=port,
            fixed_ip_address=fixed,
        )
    boot(cloud, SERVER, [first, bare, third, *others])
    # Nova has given each port the name of the server; Neutron takes another one afterwards only
    cloud.network("PUT", f"/ports/{third['id']}", {"port": {"dns_name": "radio"}})


def boot(cloud: Cloud, name: str, ports: list[Json]) -> None:
    image = cloud.image(NAME)
    cloud.ask("compute", "POST", "/os-keypairs", {"keypair": {"name": "messy", "public_key": KEY}})
    group = cloud.ask(
        "compute",
        "POST",
        "/os-server-groups",
        {"server_group": {"name": "apart", "policy": "anti-affinity"}},
    )["server_group"]["id"]
    disks = [
        cloud.volume(name="messy-root", imageRef=image, description="boots"),
        cloud.volume(name="messy-data", volume_type="fast", metadata={"kind": "dätä"}),
        cloud.volume(name="", volume_type="fast"),
    ]
    server = {
        "name": name,
        "hostname": "messy",
        "description": "a 'messy' server: ünïcode",
        "flavorRef": cloud.id_of_flavor(FLAVOR),
        "metadata": {"role": "messy", "long": "x" * 255},
        "tags": ["one", "zwölf"],
        "key_name": "messy",
        "config_drive": True,
        "user_data": base64.b64encode(b"nothing=here\n" * 3000).decode(),
        "networks": [{"port": p["id"], "tag": p["name"]} for p in ports],
        "block_device_mapping_v2": [
            {
                "uuid": volume,
                "source_type": "volume",
                "destination_type": "volume",
                "boot_index": 0 if index == 0 else -1,
                "delete_on_termination": index == 2,
                "tag": f"disk{index}",
            }
            for index, volume in enumerate(disks)
        ],
    }
    hints = {"group": group}
    made = cloud.ask(
        "compute", "POST", "/servers", {"server": server, "os:scheduler_hints": hints}
    )["server"]["id"]
    canary.await_that(
        lambda: cloud.status("compute", "/servers", made) == "ACTIVE", "the server runs", PATIENCE_S
    )


def seen(cloud: Cloud, suffix: str = "") -> Json:
    """All of the VNF at a site that an owner has given it; names as they are at the primary."""
    names = {
        key: {i: n.removesuffix(suffix) for i, n in cloud.names(path, key).items()}
        for path, key in (
            ("/networks", "networks"),
            ("/security-groups", "security_groups"),
            ("/qos/policies", "policies"),
        )
    }
    rows = {p["id"]: p for p in cloud.network("GET", "/ports")["ports"]}
    trunks = {t["port_id"]: t for t in cloud.network("GET", "/trunks")["trunks"]}

    def port(row: Json) -> Json:
        kept = (
            "name",
            "description",
            "mac_address",
            "admin_state_up",
            "allowed_address_pairs",
            "extra_dhcp_opts",
            "dns_domain",
            "dns_name",
            "numa_affinity_policy",
            "propagate_uplink_status",
            "port_security_enabled",
            "binding:vnic_type",
        )
        found = {name: row[name] for name in kept}
        found["tags"] = sorted(t for t in row["tags"] if not t.startswith("antipode:"))
        found["fixed"] = [f["ip_address"] for f in row["fixed_ips"]]
        found["network"] = names["networks"][row["network_id"]]
        found["groups"] = [names["security_groups"][g] for g in row["security_groups"]]
        found["qos"] = names["policies"].get(row["qos_policy_id"])
        if trunk := trunks.get(row["id"]):
            found["trunk"] = {
                **{name: trunk[name] for name in ("name", "description", "tags", "admin_state_up")},
                "below": [
                    (s["segmentation_type"], s["segmentation_id"], port(rows[s["port_id"]]))
                    for s in trunk["sub_ports"]
                ],
            }
        return found

    (server,) = cloud.ask("compute", "GET", "/servers/detail")["servers"]
    (group,) = cloud.ask("compute", "GET", "/os-server-groups")["server_groups"]
    by_mac = {p["mac_address"]: p for p in rows.values()}
    nics = cloud.ask("compute", "GET", f"/servers/{server['id']}/diagnostics")["nic_details"]
    attached = cloud.ask("compute", "GET", f"/servers/{server['id']}/os-volume_attachments")
    plugged = cloud.ask("compute", "GET", f"/servers/{server['id']}/os-interface")
    kept = (
        "name",
        "description",
        "tags",
        "config_drive",
        "key_name",
        "status",
        "locked",
        "OS-EXT-SRV-ATTR:hostname",
        "OS-EXT-SRV-ATTR:user_data",
    )
    return {
        **{name: server[name] for name in kept},
        "metadata": own(server["metadata"]),
        "flavor": server["flavor"]["original_name"],
        "group": (group["name"], group["policy"], server["id"] in group["members"]),
        "nics": [port(by_mac[nic["mac_address"]]) for nic in nics],
        "nic_tags": {rows[i["port_id"]]["name"]: i["tag"] for i in plugged["interfaceAttachments"]},
        "volumes": [volume(cloud, a) for a in sorted(attached["volumeAttachments"], key=by_device)],
        "vips": [port(p) for p in rows.values() if p["device_owner"] == "vip:hlr"],
    }


def own(metadata: Json) -> Json:
    return {k: v for k, v in metadata.items() if not k.startswith("antipode:")}


def by_device(attachment: Json) -> str:
    return str(attachment["device"])


def volume(cloud: Cloud, attachment: Json) -> Json:
    found = cloud.ask("volume", "GET", f"/volumes/{attachment['volumeId']}")["volume"]
    return {
        **{name: found[name] for name in ("size", "bootable")},
        **{name: found[name] or "" for name in ("name", "description")},
        "metadata": own({k: v for k, v in found["metadata"].items() if k != "src_backup_id"}),
        "image": found.get("volume_image_metadata"),
        "ends": attachment["delete_on_termination"],
        "tag": attachment["tag"],
        "device": attachment["device"],
    }

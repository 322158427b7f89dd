# SPDX-License-Identifier: Apache-2.0
"""A VNF with all that Nova and Neutron can give it: made at a site, embedded or the lab's, and seen
there field by field.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from antipode.sandbox import canary
from antipode.sandbox.creation import FLAVOR, KEY
from antipode.sandbox.members import NAME

Json = dict[str, Any]
SERVER, SECOND = "messy-ünï", "messy-two"
OTHER_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGFudGlwb2RlLXNhbmRib3gtc2Vjb25kLW5vLXNlY3IB second"
)
"""A public key like `KEY`, of another user."""
LOST, FORWARDS = "203.0.113.9", "203.0.113.10"
"""Floating IPs: one that leads to the server and none takes its place, one that forwards ports."""
STRANGER = "10.8.0.150"
"""The address of a port of no server that does not come back."""
PATIENCE_S = 600
"""for one resource to become usable"""
ZONE = "nova"
"""of Nova and of Cinder, at both sites"""
TYPES = {"fast": "standard", "radio": "radio-b"}
"""Volume types of the VNF, and what takes their place."""
MAP = {
    "volume_types": TYPES,
    "flavors": {"messy": "messy-b"},
    "server_zones": {ZONE: ZONE},
    "volume_zones": {ZONE: ZONE},
    "qos_policies": {"gold": "gold-b"},
    "security_groups": {"twice": "twice-b"},
}
"""How names translate in the VNF file, but for networks and floating IPs."""
SPECS = {"hw_rng:allowed": "True", "vnf:line": "gold"}
"""Extra specs of the flavor that each Nova takes and no filter of its scheduler asks about."""
FORMER_BACKUP = "0b6f8a5e-3c11-4c4e-9c39-5b7a2f1d9e02"
"""Of which Cinder has once restored a volume of the VNF, as its note in the metadata says."""


class Kinds(NamedTuple):
    """The flavor of a server, the type of its first data volume, and the policy of its group."""

    flavor: str = FLAVOR
    volume_type: str = "fast"
    policy: str = "anti-affinity"


PLAIN = Kinds()


class Cloud:
    """One site as its operator sees it, an administrator in the project."""

    def __init__(self, connection: Any, member: Any = None) -> None:
        """`member`: a connection of another user of the project, who is no administrator."""
        self._connection = connection
        self._member = member

    @property
    def member(self) -> Cloud:
        """The site as another user of the project sees it."""
        assert self._member is not None
        return Cloud(self._member)

    @property
    def project(self) -> str:
        """The id of the project."""
        return str(self._connection.current_project_id)

    @property
    def forwards_ports(self) -> bool:
        """Whether floating IPs can forward single ports."""
        extensions = self.network("GET", "/extensions")["extensions"]
        return "floating-ip-port-forwarding" in {one["alias"] for one in extensions}

    def hints(self, server: str) -> Json:
        """The scheduler hints of a server but for its group; none where Nova does not tell them."""
        path = f"/servers/{server}"
        answer = self._connection.compute.request(path, method="GET", microversion="2.100")
        if answer.status_code == 406:
            return {}
        assert answer.ok, answer.text
        hints: Json = answer.json()["server"]["scheduler_hints"]
        return {name: words for name, words in hints.items() if name != "group"}

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

    def make_flavor(self, name: str, **wanted: int) -> None:
        """A flavor with extra specs, if it is not there."""
        if name in {f["name"] for f in self.ask("compute", "GET", "/flavors")["flavors"]}:
            return
        body = {"flavor": {"name": name, "vcpus": 1, "ram": 192, "disk": 0, **wanted}}
        made = self.ask("compute", "POST", "/flavors", body)["flavor"]["id"]
        specs = {"extra_specs": SPECS}
        self.ask("compute", "POST", f"/flavors/{made}/os-extra_specs", specs)

    def make_volume_type(self, name: str) -> None:
        """A volume type of the backend of the VNF's others, if it is not there."""
        kinds = self.ask("volume", "GET", "/types")["volume_types"]
        if name not in {kind["name"] for kind in kinds}:
            key = "volume_backend_name"
            others = {*TYPES, *TYPES.values()}
            backend = next(k["extra_specs"][key] for k in kinds if k["name"] in others)
            body = {"volume_type": {"name": name, "extra_specs": {key: backend}}}
            self.ask("volume", "POST", "/types", body)

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
    cloud.make_flavor(f"messy{suffix}", swap=16)
    cloud.make_volume_type(f"radio{suffix}")
    made: dict[str, str] = {}
    for name, cidr in (("signalling", "10.8.0.0/24"), ("vlan", "10.9.0.0/24")):
        network = cloud.make("network", "/networks", name=f"{name}{suffix}")
        # where Neutron may choose: away from the addresses that are wanted
        first = cidr.removesuffix("0/24")
        pool = {"start": f"{first}200", "end": f"{first}250"}
        subnet = cloud.make_subnet(network, cidr, allocation_pools=[pool])
        made |= {name: network["id"], f"{name}-subnet": subnet["id"]}
    bare = bare_network(cloud, suffix)
    twice = cloud.make("security_group", "/security-groups", name=f"twice{suffix}")
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
    of_others = {"twice": twice["id"], "gold": policy["id"], "public": public["id"]}
    return {**made, "bare": bare["id"], **of_others}


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


def messy(
    cloud: Cloud, there: Mapping[str, str], *others: Json, policy: str = "anti-affinity"
) -> None:
    """A server with all that Nova and Neutron can give it, and the ports around it.

    Args:
        others: ports that it has besides, as its last interfaces.
        policy: of its server group.
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
        security_groups=[group, there["twice"]],
        allowed_address_pairs=[{"ip_address": vip}, {"ip_address": "10.8.0.96/30"}],
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
        # as a router's: the whole subnet
        allowed_address_pairs=[{"ip_address": "10.8.0.0/24"}],
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
            allowed_address_pairs=[{"ip_address": "10.9.0.50/32"}],
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
    free = (
        ("hlr-range", "signalling", "10.8.0.97", "vip:hlr"),
        ("hlr-vlan", "vlan", "10.9.0.50", "vip:hlr"),
        ("stranger", "signalling", STRANGER, ""),
    )
    for name, network, fixed, owner in free:
        cloud.make(
            "port",
            "/ports",
            network_id=there[network],
            name=name,
            fixed_ips=[{"ip_address": fixed}],
            device_owner=owner,
        )
    for wanted, port, fixed in (
        ("203.0.113.7", first["id"], "10.8.0.12"),
        ("203.0.113.8", address["id"], vip),
        (LOST, third["id"], "10.8.0.13"),
    ):
        cloud.make(
            "floatingip",
            "/floatingips",
            floating_network_id=there["public"],
            floating_ip_address=wanted,
            port_id=port,
            fixed_ip_address=fixed,
        )
    boot(cloud, SERVER, [first, bare, third, *others], Kinds("messy", "radio", policy))
    # Nova has given each port the name of the server; Neutron takes another one afterwards only
    cloud.network("PUT", f"/ports/{third['id']}", {"port": {"dns_name": "radio"}})


def boot(cloud: Cloud, name: str, ports: list[Json], kinds: Kinds = PLAIN) -> None:
    image = cloud.image(NAME)
    cloud.ask("compute", "POST", "/os-keypairs", {"keypair": {"name": "messy", "public_key": KEY}})
    group = cloud.ask(
        "compute",
        "POST",
        "/os-server-groups",
        {"server_group": {"name": "apart", "policy": kinds.policy}},
    )["server_group"]["id"]
    disks = [
        cloud.volume(name="messy-root", imageRef=image, description="boots"),
        cloud.volume(
            name="messy-data",
            volume_type=kinds.volume_type,
            availability_zone=ZONE,
            metadata={"kind": "dätä", "src_backup_id": FORMER_BACKUP},
        ),
        cloud.volume(name="", volume_type="fast"),
    ]
    server = {
        "name": name,
        "hostname": "messy",
        "description": "a 'messy' server: ünïcode",
        "flavorRef": cloud.id_of_flavor(kinds.flavor),
        "availability_zone": ZONE,
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
    hints = {"group": group, "rack": "second"}
    create(cloud, server, hints)


def create(cloud: Cloud, server: Json, hints: Json) -> str:
    """The id of a server that runs."""
    body = {"server": server, "os:scheduler_hints": hints}
    made = str(cloud.ask("compute", "POST", "/servers", body)["server"]["id"])
    canary.await_that(
        lambda: cloud.status("compute", "/servers", made) == "ACTIVE", "the server runs", PATIENCE_S
    )
    return made


def second(cloud: Cloud, there: Mapping[str, str]) -> None:
    """A server of another user beside it, with things that have the names of things of the first:
    a keypair, a server group and a security group. A floating IP forwards to it.

    The groups come back as one: that of the first must be soft, as a site has one host.
    """
    member = cloud.member
    pair = {"name": "messy", "public_key": OTHER_KEY}
    member.ask("compute", "POST", "/os-keypairs", {"keypair": pair})
    wanted = {"name": "apart", "policy": "soft-anti-affinity"}
    made = member.ask("compute", "POST", "/os-server-groups", {"server_group": wanted})
    twice = cloud.make("security_group", "/security-groups", name="twice")
    port = cloud.make(
        "port",
        "/ports",
        network_id=there["signalling"],
        name="second",
        mac_address="fa:16:3e:77:00:04",
        fixed_ips=[{"ip_address": "10.8.0.14"}],
        security_groups=[twice["id"]],
    )
    disks = [
        cloud.volume(name="messy-two-root", imageRef=cloud.image(NAME)),
        cloud.volume(name="messy-two-spare"),
        cloud.volume(name="messy-two-data"),
    ]
    server = {
        "name": SECOND,
        "flavorRef": cloud.id_of_flavor(FLAVOR),
        "key_name": "messy",
        "networks": [{"port": port["id"]}],
        "block_device_mapping_v2": [
            {
                "uuid": volume,
                "source_type": "volume",
                "destination_type": "volume",
                "boot_index": 0 if index == 0 else -1,
            }
            for index, volume in enumerate(disks)
        ],
    }
    create(member, server, {"group": made["server_group"]["id"]})
    if cloud.forwards_ports:
        forward(cloud, there, port)


def forward(cloud: Cloud, there: Mapping[str, str], port: Json) -> None:
    """A floating IP that forwards to a port, and to the port `hlr-range` of no server."""
    of_public = {"floating_network_id": there["public"], "floating_ip_address": FORWARDS}
    floating = cloud.make("floatingip", "/floatingips", **of_public)["id"]
    (free,) = cloud.network("GET", "/ports?name=hlr-range")["ports"]
    for to, protocol, outer, inner in ((port, "tcp", 2022, 22), (free, "udp", 5060, 5060)):
        cloud.make(
            "port_forwarding",
            f"/floatingips/{floating}/port_forwardings",
            protocol=protocol,
            internal_port_id=to["id"],
            internal_ip_address=to["fixed_ips"][0]["ip_address"],
            internal_port=inner,
            external_port=outer,
        )


def open_gap(cloud: Cloud) -> None:
    """Detach the spare volume of the second server, which lies between two others."""
    servers = cloud.ask("compute", "GET", "/servers")["servers"]
    path = f"/servers/{next(s['id'] for s in servers if s['name'] == SECOND)}"
    attached = cloud.ask("compute", "GET", f"{path}/os-volume_attachments")["volumeAttachments"]
    (spare,) = [a["volumeId"] for a in attached if a["device"] == "/dev/vdb"]
    cloud.ask("compute", "DELETE", f"{path}/os-volume_attachments/{spare}")
    canary.await_that(
        lambda: cloud.status("volume", "/volumes", spare) == "available", "it is free", PATIENCE_S
    )
    cloud.ask("volume", "DELETE", f"/volumes/{spare}")


def closed(found: Json) -> Json:
    """What was seen, with no gap between the devices of the second server."""
    expected = deepcopy(found)
    volumes = expected["servers"][SECOND]["volumes"]
    assert [v["device"] for v in volumes] == ["/dev/vda", "/dev/vdc"]
    volumes[1]["device"] = "/dev/vdb"
    return expected


def unsaid(cloud: Cloud, warnings: Sequence[str]) -> list[tuple[str, ...]]:
    """What of the losses of both servers no warning names, and what one should not."""
    spurious = [("no gap", w) for w in warnings if "gaps" in w and SERVER in w]
    return spurious + [
        words for words in _losses(cloud) if not any(all(x in w for x in words) for w in warnings)
    ]


def _losses(cloud: Cloud) -> Iterator[tuple[str, ...]]:
    """The words of each warning about what does not come back."""
    yield LOST, "is lost"
    yield SECOND, "gaps", "/dev/vdc as /dev/vdb"
    yield "do not come back", f"stranger ({STRANGER})"
    yield "2 server groups", "apart"
    if cloud.forwards_ports:
        yield f"{FORWARDS} forwards", "2022/tcp", "10.8.0.14:22", SECOND
        yield f"{FORWARDS} forwards", "5060/udp", "10.8.0.97:5060", "hlr-range"


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
        found["groups"] = sorted(names["security_groups"][g] for g in row["security_groups"])
        found["allowed_address_pairs"].sort(key=lambda p: p["ip_address"])
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

    groups = cloud.ask("compute", "GET", "/os-server-groups")["server_groups"]
    by_mac = {p["mac_address"]: p for p in rows.values()}

    def server(row: Json) -> Json:
        path = f"/servers/{row['id']}"
        nics = cloud.ask("compute", "GET", f"{path}/diagnostics")["nic_details"]
        attached = cloud.ask("compute", "GET", f"{path}/os-volume_attachments")
        plugged = cloud.ask("compute", "GET", f"{path}/os-interface")["interfaceAttachments"]
        kept = (
            "name",
            "description",
            "tags",
            "config_drive",
            "status",
            "locked",
            "pinned_availability_zone",
            "OS-EXT-SRV-ATTR:hostname",
            "OS-EXT-SRV-ATTR:user_data",
        )
        return {
            **{name: row[name] for name in kept},
            "metadata": own(row["metadata"]),
            "key": keypair(cloud, row),
            "flavor": flavor(row["flavor"], suffix),
            "hints": cloud.hints(row["id"]),
            "groups": [(g["name"], g["policy"]) for g in groups if row["id"] in g["members"]],
            "nics": [port(by_mac[nic["mac_address"]]) for nic in nics],
            "nic_tags": {rows[i["port_id"]]["name"]: i["tag"] for i in plugged},
            "volumes": [
                volume(cloud, a, suffix)
                for a in sorted(attached["volumeAttachments"], key=by_device)
            ],
        }

    servers = cloud.ask("compute", "GET", "/servers/detail")["servers"]
    vips = [port(p) for p in rows.values() if p["device_owner"] == "vip:hlr"]
    return {
        "servers": {row["name"]: server(row) for row in servers},
        "vips": sorted(vips, key=lambda p: str(p["name"])),
    }


def keypair(cloud: Cloud, server: Json) -> tuple[str, ...]:
    """Name, type and key of the keypair of a server; the name as its owner gave it, and the key
    without its comment.
    """
    path = f"/os-keypairs/{server['key_name']}?user_id={server['user_id']}"
    found = cloud.ask("compute", "GET", path)["keypair"]
    name = re.sub("-[0-9a-f]{8}$", "", found["name"])
    return name, found["type"], *found["public_key"].split()[:2]


def flavor(found: Json, suffix: str) -> Json:
    """The flavor of a server, as it is with it."""
    kept = ("vcpus", "ram", "disk", "swap", "ephemeral", "extra_specs")
    name = found["original_name"].removesuffix(suffix)
    return {"name": name, **{key: found[key] for key in kept}}


def own(metadata: Json) -> Json:
    return {k: v for k, v in metadata.items() if not k.startswith("antipode:")}


def by_device(attachment: Json) -> str:
    return str(attachment["device"])


def volume(cloud: Cloud, attachment: Json, suffix: str) -> Json:
    found = cloud.ask("volume", "GET", f"/volumes/{attachment['volumeId']}")["volume"]
    former = {there: here for here, there in TYPES.items()} if suffix else {}
    note = found["metadata"].get("src_backup_id")
    assert (note == FORMER_BACKUP) == (not suffix and "kind" in found["metadata"])
    return {
        **{name: found[name] for name in ("size", "bootable", "availability_zone")},
        "type": former.get(found["volume_type"], found["volume_type"]),
        **{name: found[name] or "" for name in ("name", "description")},
        "metadata": own({k: v for k, v in found["metadata"].items() if k != "src_backup_id"}),
        "image": found.get("volume_image_metadata"),
        "ends": attachment["delete_on_termination"],
        "tag": attachment["tag"],
        "device": attachment["device"],
    }

# SPDX-License-Identifier: Apache-2.0
"""The isolation of a drill: a plan whose ports are on networks of its own, and the proof that
nothing but the drill is on these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.errors import NotIsolated
from antipode.model.marks import THROW_AWAY, made_by, neutron_maker
from antipode.model.plan import (
    NetworkPlan,
    PortPlan,
    RecoveryPlan,
    SecurityGroupPlan,
    ServerPlan,
    SubnetPlan,
    stand_in,
)
from antipode.model.vnf import Answers, Vnf
from antipode.recover.network_plans import RULE

OF_NEUTRON = ("network:dhcp", "network:distributed")
"""The owners of ports by which Neutron itself serves the addresses of a network."""
LONGEST_NAME = 255
"""Nova and Neutron take no longer ones."""
_OF_SUBNET = (
    "cidr",
    "ip_version",
    "gateway_ip",
    "dns_nameservers",
    "host_routes",
    "allocation_pools",
    "ipv6_address_mode",
    "ipv6_ra_mode",
)
_OF_RULE = (*RULE, "remote_ip_prefix", "remote_group_id", "remote_address_group_id", "description")
_PUBLISHED = ("dns_domain", "dns_name")
"""Attributes of a port that Neutron may publish in a DNS zone."""


def isolate(plan: RecoveryPlan, vnf: Vnf, site: Site, drill: str) -> RecoveryPlan:
    """The plan of a recovery on networks that are created for a drill, with the addresses and MAC
    addresses of the members.

    Nothing of it is found by a failover, or left by the drill: servers have names of their own,
    there are no floating IPs, no server groups, no keypairs that were not there.

    Args:
        plan: as for a failover.
        vnf: the definition; its members in the order of the plan's servers.
        drill: an id of the drill, a part of all its names and keys.
    """
    networks = [*_copies_of_planned(plan, drill), *_copies_of_existing(plan, site, drill)]
    groups = _groups(plan, site)
    ids = {
        **{former: stand_in(f"{drill}/{former}") for former in _ids_on(plan)},
        **{g.group_id: stand_in(f"{drill}/{g.group_id}") for g in groups},
    }
    warnings = list(plan.warnings)

    def inside(port: PortPlan) -> PortPlan:
        warnings.extend(_lost(port))
        return _inside(port.placed(ids))

    imported = {k.name for k in plan.keypairs_to_import}
    servers = [
        _server(s, [inside(p) for p in s.ports], member.drill, drill, imported)
        for s, member in zip(plan.servers, vnf.members, strict=True)
    ]
    if not site.compute.takes_hostname:
        warnings.append("Nova gives the guests other hostnames in the drill: it is older than 2.90")
    return plan.model_copy(
        update={
            "servers": servers,
            "vip_ports": [inside(p) for p in plan.vip_ports],
            "unattached": [
                v.model_copy(update={"name": named(v.label, drill)}) for v in plan.unattached
            ],
            "networks": networks,
            "security_groups": _copies_of_groups(groups, drill),
            "keypairs_to_import": [],
            "floating_ips": [],
            "already_there": [],
            "warnings": list(dict.fromkeys(warnings)),
        }
    )


def named(name: str, drill: str, between: str = " ") -> str:
    """The name of a copy in a drill; a long one loses its end, not the drill."""
    return f"{name[: LONGEST_NAME - len(between) - len(drill)]}{between}{drill}"


def prove(site: Site, run: str, plan: RecoveryPlan, ids: Iterable[str]) -> Json:
    """See that the networks of a drill are isolated; the facts.

    They are neither shared nor external. Every port on them, and every port of the drill's servers
    and trunks, is the drill's own, on these networks, and used by nothing else: by no router, and
    by no server of others. Neutron's own for DHCP are there beside them. No floating IP leads to
    one.

    Args:
        run: the drill.
        ids: of its networks at the site.

    Raises:
        NotIsolated: something else is there; all of it is named.
    """
    wanted = sorted(ids)
    rows = site.networks.networks(wanted) if wanted else []
    ports, within = _connected(site, run, wanted)
    ours = [
        p
        for p in ports
        if neutron_maker(p) == run and p["network_id"] in wanted and p["id"] in within
    ]
    others = [p for p in ports if p not in ours]
    dhcp = [p for p in others if str(p.get("device_owner")).startswith(OF_NEUTRON)]
    problems = [
        *(f"network {n['name']} ({n['id']}) is not there" for n in _missing(plan, rows, wanted)),
        *_open(rows),
        *(
            f"port {p['id']} of {p.get('device_owner') or 'no owner'} {p['device_id']} is on"
            f" network {p['network_id']}"
            for p in others
            if p not in dhcp
        ),
        *_floating(site, {p["id"] for p in ours}),
    ]
    if problems:
        raise NotIsolated(f"the drill {run} at {site.name} is not isolated: {'; '.join(problems)}")
    return {
        "networks": {n["name"]: n["id"] for n in rows},
        "segments": {n["name"]: segment for n in rows if (segment := _segment(n))},
        "shared": 0,
        "external": 0,
        "routers": 0,
        "floating_ips": 0,
        "ports_of_others": 0,
        "ports_of_the_drill": len(ours),
        "ports_of_dhcp": len(dhcp),
    }


def _segment(network: Json) -> str:
    """What carries a network, where Neutron shows it: to administrators. What a switch connects
    with a VLAN is not known to Neutron.
    """
    fields = ("network_type", "segmentation_id", "physical_network")
    return " ".join(str(v) for f in fields if (v := network.get(f"provider:{f}")) is not None)


def _connected(site: Site, run: str, networks: Sequence[str]) -> tuple[list[Json], set[str]]:
    """The ports on the networks of a drill, and those of its servers and trunks wherever they are;
    and the ids of those that nothing uses but these servers and trunks.
    """
    there = site.networks.ports_on(networks)  # first, so that a server that uses one is listed
    servers = [s["id"] for s in site.compute.servers() if made_by(s) == run]
    there += site.networks.ports_of(servers) if servers else []
    parents = {p["id"] for p in there if p.get("trunk_details") and neutron_maker(p) == run}
    trunks = site.networks.trunks(sorted(parents))
    below = {subport["port_id"] for trunk in trunks for subport in trunk["sub_ports"]}
    there += site.networks.ports(sorted(below))
    free = {p["id"] for p in there if not p["device_id"] or p["device_id"] in servers}
    return list({port["id"]: port for port in there}.values()), free | below


def _missing(plan: RecoveryPlan, rows: Sequence[Json], wanted: Sequence[str]) -> list[Json]:
    there = {n["id"] for n in rows}
    lost = [{"name": "", "id": i} for i in wanted if i not in there]
    if len(wanted) < len(plan.networks):
        lost.append({"name": f"one of {len(plan.networks)}", "id": "not created"})
    return lost


def _open(rows: Sequence[Json]) -> Iterator[str]:
    flags = {"shared": "shared with other projects", "router:external": "external"}
    for row in rows:
        for flag, what in flags.items():
            if row.get(flag):
                yield f"network {row['name']} ({row['id']}) is {what}"


def _floating(site: Site, ports: set[str]) -> Iterator[str]:
    for floating in site.networks.floating_ips(project_id=site.project_id):
        if floating.get("port_id") in ports:
            yield f"floating IP {floating['floating_ip_address']} leads to {floating['port_id']}"


def _ids_on(plan: RecoveryPlan) -> list[str]:
    """The ids of the networks and subnets that the ports of a plan are on."""
    used = [i for p in plan.ports for i in (p.network_id, *p.fixed.values())]
    return list(dict.fromkeys(i for i in used if i))


def _copies_of_planned(plan: RecoveryPlan, drill: str) -> list[NetworkPlan]:
    """Networks that a failover would create; a drill creates them under another key."""
    on = set(_ids_on(plan))
    return [
        n.model_copy(
            update={
                "source_id": f"{drill}/{n.network_id}",
                "name": named(n.name, drill),
                "network_id": stand_in(f"{drill}/{n.network_id}"),
                "attributes": _attributes(named(n.name, drill), n.attributes),
                "subnets": [
                    s.model_copy(update={"subnet_id": stand_in(f"{drill}/{s.subnet_id}")})
                    for s in n.subnets
                ],
            }
        )
        for n in plan.networks
        if n.is_created and n.network_id in on
    ]


def _copies_of_existing(plan: RecoveryPlan, site: Site, drill: str) -> list[NetworkPlan]:
    """Networks of the site that a failover would use; a drill has a copy of each."""
    created = {n.network_id for n in plan.networks if n.is_created}
    used = dict.fromkeys(p.network_id for p in plan.ports)
    wanted = [i for i in used if i and i not in created]
    rows = site.networks.networks(wanted) if wanted else []
    subnets = site.networks.subnets([n["id"] for n in rows])
    return [
        NetworkPlan(
            source_id=f"{drill}/{row['id']}",
            former=row["name"],
            name=named(row["name"], drill),
            network_id=stand_in(f"{drill}/{row['id']}"),
            is_created=True,
            attributes=_attributes(named(row["name"], drill), row),
            subnets=[
                SubnetPlan(
                    subnet_id=stand_in(f"{drill}/{s['id']}"),
                    attributes=_of_subnet(s),
                    serves_addresses=bool(s.get("enable_dhcp", True)),
                )
                for s in subnets
                if s["network_id"] == row["id"]
            ],
        )
        for row in rows
    ]


def _attributes(name: str, row: Json) -> dict[str, Any]:
    """Of a network of a drill: none that would publish it, or lead it out of the cloud."""
    kept = ("port_security_enabled", "mtu", "vlan_transparent")
    return {
        "name": name,
        "admin_state_up": True,
        **{k: row[k] for k in kept if row.get(k) is not None},
    }


def _of_subnet(row: Json) -> dict[str, Any]:
    """As for `POST /subnets`; DHCP is off until the members have their addresses, but for IPv6 with
    a mode, which Neutron takes with DHCP only.
    """
    found = {k: row[k] for k in _OF_SUBNET if row.get(k) not in (None, [], "")}
    has_mode = bool(row.get("ipv6_address_mode") or row.get("ipv6_ra_mode"))
    return {
        "ip_version": 6 if ":" in row["cidr"] else 4,
        "gateway_ip": None,
        **found,
        "name": row["name"],
        "enable_dhcp": bool(row.get("enable_dhcp", True)) and has_mode,
    }


def _groups(plan: RecoveryPlan, site: Site) -> list[SecurityGroupPlan]:
    """The security groups that a drill has copies of: those that a failover would create, and those
    of the project that it would use. In these the drill's ports would let their addresses, and
    those that they may use too, in wherever a rule of the site is about the group.
    """
    created = [g for g in plan.security_groups if g.is_created]
    used = {i for p in plan.ports for i in p.security_group_ids} - {g.group_id for g in created}
    rows = site.networks.security_groups(site.project_id) if used else []
    own = [r for r in rows if r.get("project_id", site.project_id) == site.project_id]
    return [*created, *(_as_created(r) for r in own if r["id"] in used)]


def _as_created(row: Json) -> SecurityGroupPlan:
    """A group of the site as one that is created."""
    return SecurityGroupPlan(
        source_id=row["id"],
        former=row["name"],
        name=row["name"],
        group_id=row["id"],
        is_created=True,
        attributes={} if row.get("stateful", True) else {"stateful": False},
        rules=[
            {k: rule[k] for k in _OF_RULE if rule.get(k) not in (None, "")}
            for rule in row.get("security_group_rules", [])
        ],
    )


def _copies_of_groups(groups: Sequence[SecurityGroupPlan], drill: str) -> list[SecurityGroupPlan]:
    created = {g.group_id for g in groups}

    def renamed(rule: Json) -> Json:
        other = rule.get("remote_group_id")
        copied = {"remote_group_id": stand_in(f"{drill}/{other}")} if other in created else {}
        return {**rule, **copied}

    return [
        g.model_copy(
            update={
                "source_id": f"{drill}/{g.group_id}",
                "name": named(g.name, drill),
                "group_id": stand_in(f"{drill}/{g.group_id}"),
                "attributes": {**g.attributes, "name": named(g.name, drill)},
                "rules": [renamed(rule) for rule in g.rules],
            }
        )
        for g in groups
    ]


def _inside(port: PortPlan) -> PortPlan:
    """A port as it can be on an isolated network."""
    attributes = {
        k: v for k, v in port.attributes.items() if k not in (*_PUBLISHED, "binding:vnic_type")
    }
    trunk = port.trunk and port.trunk.model_copy(
        update={
            "subports": [
                s.model_copy(update={"port": _inside(s.port)}) for s in port.trunk.subports
            ]
        }
    )
    return port.model_copy(
        update={
            "attributes": attributes,
            "tags": [*port.tags, THROW_AWAY],
            "dns_name": "",
            "vnic_type": "normal",
            "binding_profile": {},
            "trunk": trunk,
        }
    )


def _lost(port: PortPlan) -> Iterator[str]:
    for one in port.with_subports:
        if one.vnic_type != "normal":
            yield (
                f"{one.label} is of vnic type {one.vnic_type}, which needs a network of the site's"
                " hardware: in the drill it is a normal one"
            )


def _server(
    server: ServerPlan, ports: list[PortPlan], own: Answers | None, drill: str, imported: set[str]
) -> ServerPlan:
    asked = own or (server.answers if server.answers and server.answers.console else None)
    keypair = server.keypair
    return server.model_copy(
        update={
            "called": named(server.name, drill, "-"),
            "ports": ports,
            "answers": None if server.is_off else asked,
            "keypair": None if keypair is None or keypair.name in imported else keypair,
            "server_group": None,
            "locked": False,
            "volumes": [
                v.model_copy(update={"delete_on_termination": False}) for v in server.volumes
            ],
        }
    )

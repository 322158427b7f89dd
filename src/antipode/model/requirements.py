# SPDX-License-Identifier: Apache-2.0
"""The features that a recovery point of format 2 requires of its reader: each member that is set,
changes how a VNF comes back, and is unknown to the first readers of the format.

An older reader refuses such a point rather than recover a server differently. A new member of these
parts needs no entry here: it is required as soon as a point has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pydantic import BaseModel

FIRST: Mapping[str, frozenset[str]] = {
    part: frozenset(members.split())
    for part, members in {
        "Volume": "id name size_gib volume_type bootable encrypted multiattach availability_zone"
        " description metadata image_metadata backend_host backend_name",
        "Attachment": "volume device is_root delete_on_termination tag",
        "FixedAddress": "address subnet_cidr subnet_name",
        "Port": "id name network mac_address fixed security_groups allowed_address_pairs"
        " port_security_enabled vnic_type device_tag tags",
        "DhcpOption": "name value ip_version",
        "Subport": "port segmentation_type segmentation_id",
        "Trunk": "name description admin_state_up tags subports",
        "FloatingIp": "address fixed_address port description",
        "Network": "id name subnets description tags admin_state_up mtu port_security_enabled"
        " dns_domain qos_policy vlan_transparent shared is_own provider",
        "Subnet": "id name cidr ip_version gateway_ip enable_dhcp dns_nameservers host_routes"
        " allocation_pools ipv6_address_mode ipv6_ra_mode service_types description tags"
        " has_router",
        "SecurityGroup": "id name rules description tags stateful is_own",
        "SecurityGroupRule": "direction ethertype protocol port_range_min port_range_max"
        " remote_ip_prefix remote_group description",
        "Selector": "tag metadata server_group",
        "Flavor": "name vcpus ram_mib disk_gib extra_specs",
        "ServerGroup": "name policy rules",
        "Server": "id name hostname flavor attachments ports metadata tags config_drive description"
        " availability_zone server_group",
        "Found": "discovered_at servers",
        "Probe": "tcp at within",
        "HttpProbe": "port path tls verify host status body",
        "DrillProbe": "console within",
        "Member": "server boot_before boot_after user_data probe",
        "Names": "networks volume_types flavors security_groups availability_zones server_zones"
        " volume_zones server_groups server_group_policies",
        "DnsRecord": "name type provider members port network floating targets ttl",
        "Plan": "primary backup members map maps store",
        "Secret": "servers commands definition",
        "RunbookStep": "name before after on to within on_error wait prompt command",
        "Prompt": "message answer",
        "HttpCall": "url method headers body expect",
        "FromElsewhere": "file env prefix",
        "Script": "runner command",
    }.items()
}
"""The members of each part that are not required by name: those of format 2.0, and of a part that
came later those that it came with, as the member that holds it is required. Never extended for a
part that is here.
"""
NOT_NAMED = frozenset(
    {
        "Member.role",
        "Member.pause",
        "Member.name",
        "Member.select",
        "Member.drill",
        "Member.root",
        "Server.root_disk",
        "Flavor.swap_mib",
        "Flavor.ephemeral_gib",
        "Found.networks",
        "Found.security_groups",
        "Found.not_carried",
        "Port.network_id",
        "Volume.backend",
        "Plan.dns",
        "Plan.capture",
        "Plan.volumes",
        "Secret.variables",
    }
)
"""Those of a member say nothing of how a VNF comes back; a root disk is required as `images` or
`base-images`;
networks and groups count only where they are created, and that is required as `Plan.networks`;
what does not come back is for people to read;
which members are captured is for a protection to know;
volumes of no server are required as `Found.unattached`;
an older antipode gives the command of a probe its whole environment;
what a back end calls a volume counts only
where its source is there, and that has a kind; DNS is changed when all members are there, by hand
where an antipode does not know of it; a flavor is taken by its name, and what it was before is
compared for a remark.
"""


def required_by(part: BaseModel) -> set[str]:
    """The requirements of a part of a manifest and of the parts in it, as `Part.member`."""
    found: set[str] = set()
    for member, value in part:
        name = f"{type(part).__name__}.{member}"
        default = type(part).model_fields[member].get_default(call_default_factory=True)
        if _is_later(type(part), member) and value != default:
            found.add(name)
        for below in _parts_in(value):
            found |= required_by(below)
    return found


def known_to(parts: Iterable[type[BaseModel]]) -> frozenset[str]:
    """All requirements that a reader with these parts can meet."""
    return frozenset(
        f"{part.__name__}.{member}"
        for part in parts
        for member in part.model_fields
        if _is_later(part, member)
    )


def _is_later(part: type[BaseModel], member: str) -> bool:
    first = FIRST.get(part.__name__, frozenset(part.model_fields))
    return member not in first and f"{part.__name__}.{member}" not in NOT_NAMED


def _parts_in(value: object) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _parts_in(item)

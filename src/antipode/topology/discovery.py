# SPDX-License-Identifier: Apache-2.0
"""What a VNF consists of right now: its servers, volumes and ports, read from Nova, Cinder and
Neutron (step 1.1).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

from antipode.cloud.api import ApiError, Json
from antipode.cloud.compute import is_unreadable
from antipode.cloud.site import Site
from antipode.cloud.volumes import users_of
from antipode.errors import NotFound, ResourceFailed
from antipode.model.marks import is_member, is_of_another, is_throw_away, unmarked
from antipode.model.reference import BackendReference
from antipode.model.topology import (
    Attachment,
    Flavor,
    Keypair,
    Server,
    ServerGroup,
    Topology,
    Volume,
)
from antipode.model.vnf import Vnf
from antipode.topology import references
from antipode.topology.members import select_members
from antipode.topology.ports import Interfaces, discover_ports, listed

ROOT_DEVICE = "OS-EXT-SRV-ATTR:root_device_name"
_FIRST_DEVICE = re.compile(r"/dev/(?:vd|sd|xvd|hd)a")
"""Of a server; administrators of the project see it."""
RESTORED_FROM = "src_backup_id"
"""Cinder's note in the metadata of a restored volume: the id of a backup of this site."""


def resolve(vnf: Vnf, site: Site) -> Vnf:
    """The definition of a VNF with the servers that its selectors find at a site now, by id, and
    without members that did not come back there. Those that it names by themselves are not
    selected.

    Raises:
        NotFound: a selector finds no server, or two find the same.
        ResourceFailed: Nova does not tell of some servers, as a cell does not answer.
    """
    known = vnf.with_selected(select_members(vnf, site)) if vnf.selects else vnf
    return known.without(absent_members(known, site))


def absent_members(vnf: Vnf, site: Site) -> list[str]:
    """The members that are not at a site and need not be: a recovery does not bring them back."""
    may_be_gone = [m.server for m in vnf.members if m.recover == "none"]
    if not may_be_gone:
        return []
    listed = site.compute.servers()
    if any(is_unreadable(s) for s in listed):
        return []  # it may be one of those
    there = {name for s in listed for name in (s["name"], s["id"])}
    return [m for m in may_be_gone if m not in there]


def discover(vnf: Vnf, site: Site) -> Topology:
    """Find the members of a VNF at a site, by name or id, and all that is needed to build them
    again.

    Raises:
        NotFound: a member does not exist, or several servers have its name; the message names all
            such members.
        ResourceFailed: a member is in a cell that does not answer, or has a volume that Cinder does
            not list or a port on a network that Neutron does not list.
        UnexpectedAnswer: a service's answer cannot be used.
    """
    servers = find_members(vnf, site)
    ids = [s["id"] for s in servers]
    with ThreadPoolExecutor(4) as pool:
        volumes = pool.submit(lambda: {v["id"]: v for v in site.volumes.volumes()})
        of_servers = list(pool.map(site.compute.attachments, ids))
        tags = pool.map(site.compute.interfaces, ids)
        ports = pool.submit(discover_ports, site, servers, _orders(vnf, servers), vnf.ports)
        keypairs = pool.map(lambda s: _keypair(site, s), servers)
        root_disks = pool.map(lambda s: _root_disk(site, *s), zip(servers, of_servers, strict=True))
        groups = pool.submit(site.compute.server_groups)
        unattached = unattached_volumes(vnf, site, list(volumes.result().values()))
        disks = _Disks(site, volumes.result(), of_servers)
        found = [
            _server(
                server,
                disks.of_server(server, attached),
                _tagged(ports.result().of_server[server["id"]], tagged),
                keypair,
                _server_group(server, groups.result()),
            ).model_copy(update={"root_disk": root_disk})
            for server, attached, tagged, keypair, root_disk in zip(
                servers, disks.attached, tags, keypairs, root_disks, strict=True
            )
        ]
    return Topology(
        vnf=vnf.vnf,
        site=site.name,
        discovered_at=datetime.now(UTC).isoformat(),
        servers=found,
        vip_ports=ports.result().unattached,
        unattached=unattached,
        floating_ips=ports.result().floating_ips,
        networks=ports.result().networks,
        security_groups=ports.result().security_groups,
        not_carried=[
            *ports.result().not_carried,
            *_groups_of_one_name(ids, groups.result()),
        ],
    )


def unattached_volumes(vnf: Vnf, site: Site, volumes: Sequence[Json]) -> list[Volume]:
    """The volumes of no server that the VNF file names, in its order; none of a drill's.

    Raises:
        NotFound: the project has no volume of a name, or several; the message names all such.
        ResourceFailed: one is attached to a server.
    """
    found: list[Json] = []
    missing: list[str] = []
    attached: list[str] = []
    for name in vnf.volumes:
        same = [v for v in volumes if v["name"] == name and not is_throw_away(v)]
        if len(same) > 1:
            ids = ", ".join(v["id"] for v in same)
            missing.append(f"{len(same)} volumes are named {name}, rename the others: {ids}")
        elif not same:
            missing.append(f"there is no volume {name} in the project{_elsewhere(site, name)}")
        elif users := sorted(users_of(same[0])):
            attached.append(f"volume {name} is attached to server {', '.join(users)}")
        else:
            found += same
    if missing:
        raise NotFound(f"VNF {vnf.vnf} at {site.name}: {'; '.join([*missing, *attached])}")
    if attached:
        raise ResourceFailed(
            f"VNF {vnf.vnf} at {site.name}: {'; '.join(attached)}. Detach it, or remove it from"
            " `volumes` of the VNF file: the volumes of its members are protected with these"
        )
    answers = references.ask(site, found) if found else None
    return [
        _volume(v, references.reference(answers, v, None, None))
        for v in found
        if answers is not None
    ]


def _elsewhere(site: Site, name: str) -> str:
    """In which other projects there is a volume of a name, as far as the user is shown them."""
    try:
        others = [v for v in site.volumes.volumes_of_all_projects() if v["name"] == name]
    except ApiError:
        return ""
    return f"; {', '.join(v['id'] for v in others)} is in another one" if others else ""


def _orders(vnf: Vnf, servers: Sequence[Json]) -> dict[str, Sequence[str]]:
    """Server id -> the order of its interfaces, where the VNF file gives it."""
    members = zip(vnf.members, servers, strict=True)
    return {server["id"]: member.interfaces for member, server in members if member.interfaces}


def find_members(vnf: Vnf, site: Site) -> list[Json]:
    """The servers of the members as Nova lists them, in the order of the members.

    Raises:
        NotFound: as for `discover`.
        ResourceFailed: a member is, or may be, in a cell that does not answer.
    """
    listed = site.compute.servers()
    unreadable = [s["id"] for s in listed if is_unreadable(s)]
    found: list[Json] = []
    missing: list[str] = []
    unknown: list[str] = []
    for member in vnf.members:
        named = _candidates(vnf.vnf, member.server, listed)
        if len(named) == 1 and named[0]["id"] in unreadable:
            unknown.append(f"server {member.server} is in a cell that does not answer Nova")
        elif len(named) == 1:
            found += named
        elif named:
            missing.append(
                f"{len(named)} servers are named {member.server}, give the id of one: "
                f"{', '.join(s['id'] for s in named)}"
            )
        elif unreadable:
            unknown.append(
                f"no server {member.server} can be seen, and Nova does not tell the names of "
                f"{', '.join(unreadable)}, whose cell does not answer"
            )
        else:
            missing.append(f"there is no server {member.server}")
    if unknown:
        raise ResourceFailed(f"VNF {vnf.vnf} at {site.name}: {'; '.join([*unknown, *missing])}")
    if missing:
        raise NotFound(f"VNF {vnf.vnf} at {site.name}: {'; '.join(missing)}")
    return found


def _candidates(vnf: str, member: str, listed: Sequence[Json]) -> list[Json]:
    """The servers that may be a member: that which was recovered as it, else those of its name or
    id that were not recovered as one of another VNF.
    """
    ours = [s for s in listed if is_member(s, vnf, member)]
    if len(ours) == 1:
        return ours
    return [s for s in listed if member in (s["name"], s["id"]) and not is_of_another(s, vnf)]


def _server(
    server: Json,
    attachments: list[Attachment],
    interfaces: Interfaces,
    keypair: Keypair | None,
    group: ServerGroup | None,
) -> Server:
    return Server(
        id=server["id"],
        name=server["name"],
        hostname=server.get("OS-EXT-SRV-ATTR:hostname") or server["name"],
        flavor=flavor_of(server),
        attachments=attachments,
        ports=interfaces.ports,
        interfaces_in_order=interfaces.in_order,
        metadata=unmarked(server["metadata"]),
        tags=server.get("tags", []),
        keypair=keypair,
        # deleting a keypair leaves its name with the servers
        keypair_gone=None if keypair else server.get("key_name") or None,
        user_data=server.get("OS-EXT-SRV-ATTR:user_data"),
        config_drive=str(server.get("config_drive")).lower() == "true",
        description=server.get("description"),
        # The zone that was asked for, where Nova tells it (2.96), not the one it happens to run in.
        availability_zone=server.get(
            "pinned_availability_zone", server.get("OS-EXT-AZ:availability_zone")
        )
        or "",
        server_group=group,
        scheduler_hints=_hints(server),
        is_off=server["status"] == "SHUTOFF",
        locked=server.get("locked", False),
        locked_reason=server.get("locked_reason"),
    )


def _hints(server: Json) -> dict[str, list[str]]:
    """The scheduler hints of a server (2.100); its group is known by itself."""
    hints = server.get("scheduler_hints") or {}
    return {name: values for name, values in hints.items() if name != "group"}


def flavor_of(server: Json) -> Flavor:
    """The flavor that a server has now, as Nova tells it with the server (2.47)."""
    flavor = server["flavor"]
    return Flavor(
        name=flavor["original_name"],
        vcpus=flavor["vcpus"],
        ram_mib=flavor["ram"],
        disk_gib=flavor["disk"],
        swap_mib=flavor.get("swap"),
        ephemeral_gib=flavor.get("ephemeral"),
        extra_specs=flavor.get("extra_specs", {}),
    )


class _Disks:
    """The volumes of the servers, and where they really are."""

    def __init__(
        self, site: Site, volumes: Mapping[str, Json], attached: Sequence[list[Json]]
    ) -> None:
        self.attached = attached
        self._site = site
        self._volumes = volumes
        ids = {a["volumeId"] for of_server in attached for a in of_server}
        self._answers = references.ask(site, [volumes[i] for i in sorted(ids & volumes.keys())])

    def of_server(self, server: Json, attached: list[Json]) -> list[Attachment]:
        attachments = [
            Attachment(
                volume=self._volume(server, a),
                device=a.get("device") or "",
                is_root=_is_root(server, a),
                delete_on_termination=a.get("delete_on_termination", False),
                tag=a.get("tag"),
            )
            for a in attached
        ]
        # vdb before vdaa: a longer device name comes later.
        return sorted(attachments, key=lambda a: (not a.is_root, len(a.device), a.device))

    def _volume(self, server: Json, attached: Json) -> Volume:
        label = f"server {server['name']} ({server['id']}) has volume"
        cinder = f"Cinder of {self._site.name}"
        volume = listed(self._volumes, attached["volumeId"], label, cinder)
        attachment = attached.get("attachment_id")
        return _volume(
            volume, references.reference(self._answers, volume, server["id"], attachment)
        )


def _root_disk(site: Site, server: Json, attached: Sequence[Json]) -> Volume | None:
    """The disk on the hypervisor of a server that boots from an image; None for any other. Its
    image properties are those of the image, if that is still there.

    Nova names an image for a server, too, that was booted from the image of a volume-backed server:
    the root disk of such a server is a volume, made from a snapshot that the image names. And for
    one whose creator has named an image beside the volume that it boots from.
    """
    if not server.get("image") or any(_is_root(server, a) for a in attached):
        return None
    image = site.images.image(server["image"]["id"]) or {}
    first = any(_FIRST_DEVICE.match(str(a.get("device") or "")) for a in attached)
    if not server.get(ROOT_DEVICE) and (first or image.get("block_device_mapping")):
        return None  # which of its volumes is the root is known to administrators only
    return Volume(
        id=f"{server['id']}_disk",
        name=f"{server['name']} root disk",
        size_gib=server["flavor"]["disk"],
        volume_type="",
        bootable=True,
        image_metadata={k: v for k, v in image.items() if isinstance(v, str)},
    )


def _is_root(server: Json, attached: Json) -> bool:
    """Whether an attached volume is what a server boots from."""
    return bool(attached.get("device")) and attached.get("device") == server.get(ROOT_DEVICE)


def _volume(volume: Json, backend: BackendReference) -> Volume:
    return Volume(
        id=volume["id"],
        name=volume.get("name") or "",
        size_gib=volume["size"],
        volume_type=volume["volume_type"] or "",
        bootable=str(volume["bootable"]).lower() == "true",
        encrypted=volume.get("encrypted", False),
        multiattach=volume.get("multiattach", False),
        availability_zone=volume.get("availability_zone") or "",
        description=volume.get("description") or "",
        metadata={
            key: value
            for key, value in unmarked(volume.get("metadata", {})).items()
            if key != RESTORED_FROM
        },
        image_metadata=volume.get("volume_image_metadata", {}),
        backend_host=backend.host,
        backend_name=backend.name,
        backend=backend,
    )


def _tagged(interfaces: Interfaces, plugged: list[Json]) -> Interfaces:
    tags = {i["port_id"]: i.get("tag") for i in plugged}
    ports = [p.model_copy(update={"device_tag": tags.get(p.id)}) for p in interfaces.ports]
    return replace(interfaces, ports=ports)


def _keypair(site: Site, server: Json) -> Keypair | None:
    if not server.get("key_name"):
        return None
    keypair = site.compute.keypair(server["key_name"], server["user_id"])
    return (
        Keypair(
            name=keypair["name"], public_key=keypair["public_key"], type=keypair.get("type", "ssh")
        )
        if keypair
        else None
    )


def _groups_of_one_name(servers: Collection[str], groups: Sequence[Json]) -> Iterator[str]:
    """Server groups of members that become one, as groups go by their names."""
    names = Counter(g["name"] for g in groups if set(servers) & set(g["members"]))
    for name in sorted(n for n in names if names[n] > 1):
        yield (
            f"{names[name]} server groups of members are named {name}: they come back as one, with"
            " the policy of one of them. Make their servers in groups of different names"
        )


def _server_group(server: Json, groups: list[Json]) -> ServerGroup | None:
    """The group that has the server as a member: Nova's listing of servers does not tell."""
    group = next((g for g in groups if server["id"] in g["members"]), None)
    return (
        ServerGroup(
            name=group["name"],
            policy=group.get("policy") or (group.get("policies") or ["anti-affinity"])[0],
            rules=group.get("rules") or {},
        )
        if group
        else None
    )

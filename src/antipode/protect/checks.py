# SPDX-License-Identifier: Apache-2.0
"""Whether the servers and volumes of a VNF can be protected at all, by any option."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.cloud.volumes import users_of
from antipode.logs import adopt, current_run
from antipode.model.probe import asked_address, cannot_connect
from antipode.model.topology import Server, Topology, Volume
from antipode.model.vnf import Vnf
from antipode.protect.base_images import rebuilt
from antipode.protect.option import OPTIONS
from antipode.topology.discovery import find_members

USABLE = ("in-use", "available")
"""In any other state a volume is being changed, or has failed: Cinder would refuse to snapshot
most.
"""

VNIC_TYPES = ("normal", "direct", "macvtap", "direct-physical", "virtio-forwarder")


def side_by_side(looks: Sequence[Callable[[], Iterable[str]]]) -> list[str]:
    """What looks find, one after another; all look at once, as most ask a service of their own.

    Raises:
        AntipodeError: what the first of them raises, once all have ended.
    """
    with ThreadPoolExecutor(
        len(looks), "check", initializer=adopt, initargs=(current_run(),)
    ) as pool:
        return list(chain.from_iterable(pool.map(lambda look: list(look()), looks)))


def problems(
    vnf: Vnf,
    topology: Topology,
    site: Site,
    *,
    may_be_off: bool = False,
    may_boot_from_image: bool = False,
    may_be_encrypted: bool = False,
) -> Iterator[str]:
    """One sentence for each problem of the members as they are at their site.

    Args:
        may_be_off: whether a member may be switched off.
        may_be_encrypted: whether the option carries encrypted volumes; their keys are another
            matter.
        may_boot_from_image: whether a member may have its root disk on the hypervisor.
    """
    yield from _servers(vnf, topology, site, ("ACTIVE", "SHUTOFF") if may_be_off else ("ACTIVE",))
    yield from _unreachable(vnf, topology)
    if not may_boot_from_image:
        yield from root_disks_left_out(vnf, topology)
    elif also := rebuilt(vnf, topology):
        names = ", ".join(server.name for server in also)
        yield (
            f"members {names} have `root: rebuild`, and this option captures root disks; leave it"
            " out, or protect the VNF by another option"
        )
    for server in topology.servers if not may_be_encrypted else ():
        for volume in server.volumes:
            yield from _volume(server, volume)
    volumes = site.volumes.volumes()
    yield from _busy_volumes(topology, volumes)
    yield from _volumes_of_others(topology, volumes)


def _unreachable(vnf: Vnf, topology: Topology) -> Iterator[str]:
    """One sentence for each member that no recovery could see answering."""
    backups = [site for site in vnf.sites if site != vnf.primary]
    for member, server in zip(vnf.members, topology.servers, strict=True):
        if member.answers is None or server.is_off:
            continue
        if asked_address([f.address for f in p.fixed] for p in server.ports):
            continue
        if any(member.answers.connects_to(site) for site in backups):
            yield cannot_connect(server.name)


def _servers(vnf: Vnf, topology: Topology, site: Site, statuses: Collection[str]) -> Iterator[str]:
    yield from doubles(topology)
    for found, server in zip(find_members(vnf, site), topology.servers, strict=True):
        name = server.name
        if found["status"] not in statuses:
            yield f"server {name} is {found['status']}; it must be {' or '.join(statuses)}"
        if task := found.get("OS-EXT-STS:task_state"):
            yield f"server {name} is busy ({task}); wait until that is over"
        if found.get("locked") and "admin" not in site.roles:
            yield f"server {name} is locked; unlock it"
        if server.root_disk is None and not any(a.is_root for a in server.attachments):
            yield (
                f"server {name}: its root volume is unknown; root_device_name is visible only "
                "with the admin role in the project"
            )
        image = server.root_disk.image_metadata if server.root_disk else {}
        if beside := [n for n in ("kernel_id", "ramdisk_id") if image.get(n)]:
            yield (
                f"server {name} boots a kernel that lies beside its root disk, in an image of its"
                f" own ({', '.join(beside)} of image {image['id']}), which is not supported"
            )
        if found["flavor"].get("ephemeral"):
            yield (
                f"server {name} has an ephemeral disk (flavor {server.flavor.name}), whose "
                "data cannot be protected"
            )
        yield from port_problems(server)


def doubles(topology: Topology) -> Iterator[str]:
    """One sentence for each name that several members have."""
    for name, times in Counter(s.name for s in topology.servers).items():
        if times > 1:
            yield (
                f"{times} members are named {name}; rename them, a recovery tells its servers "
                "apart by name"
            )


def root_disks_left_out(vnf: Vnf, topology: Topology) -> Iterator[str]:
    """One sentence for each member whose root disk most options do not capture, and which do."""
    able = [name for name in OPTIONS.names if OPTIONS.get(name).captures_root_disks]
    expected = {server.id for server in rebuilt(vnf, topology)}
    for server in topology.servers:
        if server.root_disk is not None and server.id not in expected:
            yield (
                f"server {server.name} boots from an image: its root disk is on the hypervisor,"
                f" which only option {' or '.join(able)} captures; protect the VNF by it, have"
                " the server boot from a volume, or have the disk made again from the image, if"
                " nothing on it is needed: `root: rebuild`"
            )


def port_problems(server: Server) -> Iterator[str]:
    """One sentence for each port that could not be made again."""
    for port in server.ports:
        if port.vnic_type not in VNIC_TYPES:
            yield (
                f"server {server.name}: port {port.id} has vnic type {port.vnic_type}; supported "
                f"are {', '.join(VNIC_TYPES)}"
            )


def _volume(server: Server, volume: Volume) -> Iterator[str]:
    label = f"volume {volume.name or volume.id} of server {server.name}"
    if volume.encrypted:
        yield (
            f"{label} is encrypted, which this option does not support: its key would be missing at"
            f" the backup site. Options that do: {', '.join(_able_to_encrypt())}"
        )


def _able_to_encrypt() -> list[str]:
    return [name for name in OPTIONS.names if OPTIONS.get(name).captures_encrypted]


def shared_volumes(topology: Topology, batches: Sequence[Collection[str]]) -> Iterator[str]:
    """One sentence for each volume of several members that are not captured together.

    Args:
        batches: the members that are captured at once, by the name in the VNF file.
    """
    names = {v.id: v.name or v.id for v in topology.volumes}
    for volume, servers in topology.shared_volumes.items():
        ids = [{s.id, s.name} for s in servers]
        if not any(all(of_one & set(batch) for of_one in ids) for batch in batches):
            each = ", ".join(s.name for s in servers)
            yield (
                f"volume {names[volume]} is attached to {each}, which are not captured together,"
                " so it would be captured while one of them writes; protect the VNF by an option"
                " with one quiesce window, as quiesced-snapshot"
            )


def unattached_volumes(topology: Topology, site: Site, *, are_captured: bool) -> Iterator[str]:
    """One sentence for each problem of the volumes of no server.

    Args:
        are_captured: whether the option captures such volumes.
    """
    if topology.unattached and not are_captured:
        able = [name for name in OPTIONS.names if OPTIONS.get(name).captures_unattached]
        names = ", ".join(v.name for v in topology.unattached)
        yield (
            f"volumes of no server ({names}) are not captured by this option, only by"
            f" {' or '.join(able)}; choose it, or remove them from `volumes` of the VNF file"
        )
    there = {v["id"]: v for v in site.volumes.volumes()} if topology.unattached else {}
    for volume in topology.unattached:
        now = there.get(volume.id, {"status": "gone"})
        if now["status"] != "available" or users_of(now):
            yield f"volume {volume.name} is {now['status']}; it must be available, of no server"
        if volume.encrypted:
            yield f"volume {volume.name} is encrypted, which is not supported"


def _volumes_of_others(topology: Topology, volumes: Sequence[Json]) -> Iterator[str]:
    members = {s.id for s in topology.servers}
    known = {v.id for v in topology.volumes}
    for volume in volumes:
        if volume["id"] in known and (others := sorted(users_of(volume) - members)):
            yield (
                f"volume {volume['name'] or volume['id']} is attached to a server, too, that is not"
                f" captured with the members: {', '.join(others)}; it would write to the volume"
                " meanwhile. Have it captured as a member, or detach the volume from it"
            )


def _busy_volumes(topology: Topology, volumes: Sequence[Json]) -> Iterator[str]:
    status = {v["id"]: v["status"] for v in volumes}
    for server in topology.servers:
        for volume in server.volumes:
            if (now := status.get(volume.id, "gone")) not in USABLE:
                yield (
                    f"volume {volume.name or volume.id} of server {server.name} is {now}; it "
                    "must be in-use to be snapshotted"
                )

# SPDX-License-Identifier: Apache-2.0
"""Whether the servers and volumes of a VNF can be protected at all, by any option."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from antipode.cloud.site import Site
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


def problems(
    vnf: Vnf,
    topology: Topology,
    site: Site,
    *,
    may_be_off: bool = False,
    may_boot_from_image: bool = False,
) -> Iterator[str]:
    """One sentence for each problem of the members as they are at their site.

    Args:
        may_be_off: whether a member may be switched off.
        may_boot_from_image: whether a member may have its root disk on the hypervisor.
    """
    yield from _servers(vnf, topology, site, ("ACTIVE", "SHUTOFF") if may_be_off else ("ACTIVE",))
    if not may_boot_from_image:
        yield from root_disks_left_out(vnf, topology)
    elif also := rebuilt(vnf, topology):
        names = ", ".join(server.name for server in also)
        yield (
            f"members {names} have `root: rebuild`, and this option captures root disks; leave it"
            " out, or protect the VNF by another option"
        )
    for server in topology.servers:
        for volume in server.volumes:
            yield from _volume(server, volume)
    yield from _busy_volumes(topology, site)


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
            f"{label} is encrypted, which is not supported: its key would be missing at the "
            "backup site"
        )
    if volume.multiattach:
        yield f"{label} is multiattach, which is not supported"


def _busy_volumes(topology: Topology, site: Site) -> Iterator[str]:
    status = {v["id"]: v["status"] for v in site.volumes.volumes()}
    for server in topology.servers:
        for volume in server.volumes:
            if (now := status.get(volume.id, "gone")) not in USABLE:
                yield (
                    f"volume {volume.name or volume.id} of server {server.name} is {now}; it "
                    "must be in-use to be snapshotted"
                )

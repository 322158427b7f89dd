# SPDX-License-Identifier: Apache-2.0
"""What of a VNF does not come back as it was, as far as its own site tells: said when it is looked
at and protected, and not first in the disaster.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from string import ascii_lowercase

from antipode.cloud.images import has_no_digest
from antipode.model.topology import Server, Topology
from antipode.model.vnf import Member, Vnf

DEVICE = re.compile("(/dev/(?:xv|v|s|h)d)[a-z]{1,2}$")
BUSES = {
    "virtio": "/dev/vd",
    "scsi": "/dev/sd",
    "sata": "/dev/sd",
    "usb": "/dev/sd",
    "ide": "/dev/hd",
    "xen": "/dev/xvd",
}
"""What the devices of a `hw_disk_bus` are called."""


def losses(vnf: Vnf, topology: Topology) -> Iterator[str]:
    """One sentence for each thing that does not come back, or not as it was."""
    for member, server in zip(vnf.members, topology.servers, strict=True):
        yield from _of_server(member, server)
    yield from _of_ports(vnf, topology)
    yield from _of_names(vnf, topology)
    yield from topology.not_carried
    yield from _left_to_the_site(topology)


def _left_to_the_site(topology: Topology) -> Iterator[str]:
    """One sentence for all servers of which the backup site decides the machine type."""
    if names := [s.name for s in topology.servers if not _boot_image(s).get("hw_machine_type")]:
        yield (
            f"{'servers' if len(names) > 1 else 'server'} {', '.join(names)}: the machine type is"
            " not known and becomes the default of the backup site, as does the firmware where"
            " hw_firmware_type is not set; set hw_machine_type on the image or boot volume"
        )


def _of_names(vnf: Vnf, topology: Topology) -> Iterator[str]:
    """Networks and security groups of one name: at another site each is found by its name."""
    creates = vnf.networks == "create"
    own = {n.id for n in topology.networks if n.is_own and creates}  # they come back by their ids
    maps = (vnf.map, *vnf.maps.values())
    mapped = (
        {name for m in maps for name in m.networks},
        {n for m in maps for n in m.security_groups},
    )
    for what, where, known, ids_of in (
        ("networks", "networks", mapped[0], topology.networks_by_name),
        ("security groups", "security_groups", mapped[1], topology.groups_by_name),
    ):
        for name, ids in sorted(ids_of.items()):
            if len(ids - own) > 1 and name not in known:
                yield (
                    f"ports of the VNF use {len(ids)} {what} that are named {name}, and they go by"
                    f" name: no recovery begins unless one is renamed, or map.{where} in the VNF"
                    " file names what takes the place of all"
                )


def _of_server(member: Member, server: Server) -> Iterator[str]:
    if not server.interfaces_in_order:
        ports = ", ".join(p.name or p.mac_address for p in server.ports)
        yield (
            f"server {server.name}: Nova does not tell the order of its interfaces; they come back "
            f"as {ports}. Give their order: `interfaces` in the VNF file"
        )
    if server.is_off:
        yield (
            f"server {server.name} is off: Nova makes no server that is off, so it boots once at "
            "the recovery, cut off from its networks, and is switched off"
        )
    if member.recover == "none":
        yield f"server {server.name} does not come back where it is not captured (recover: none)"
    if server.root_disk is not None and member.root == "rebuild":
        yield (
            f"server {server.name}: its root disk is made again from the image that it was created"
            " from, and what was written to it since is lost"
        )
    if "rebuild" in (member.root, member.recover) and server.root_disk is not None:
        image = server.root_disk.image_metadata
        if "id" in image and has_no_digest(image):
            yield (
                f"server {server.name}: Glance has no digest of its image"
                f" {image.get('name') or image['id']}, so that of another site is known by its name"
                " alone: their bytes are not compared"
            )
    if (lost := server.without_keypair) is not None:
        yield lost
    for hint in sorted(server.scheduler_hints.keys() - server.hints_elsewhere.keys()):
        yield (
            f"server {server.name}: its scheduler hint {hint} is about hosts or servers of its site"
            " and does not come back; a server group does"
        )
    yield from closed_gaps(server)
    yield from _of_firmware(server)
    if server.user_data is not None and member.user_data is None:
        yield (
            f"server {server.name}: cloud-init runs its user_data again at the recovered server; "
            "choose `user_data: keep` or `drop` in the VNF file"
        )


def closed_gaps(server: Server) -> Iterator[str]:
    """Volumes whose device names change: Nova names the devices of a new server in their order."""
    named = list(filter(None, (DEVICE.match(a.device) for a in server.attachments)))
    if server.root_disk is not None:
        root_bus = BUSES.get(_boot_image(server).get("hw_disk_bus", "virtio"))
    else:
        root_bus = named[0].group(1) if named else None
    if root_bus is None:
        return  # nothing is known of its names
    taken = Counter([root_bus] if server.root_disk is not None else [])
    moved = []
    without_volume = bool(server.flavor.ephemeral_gib) + bool(server.flavor.swap_mib)
    for device, bus in (m.group(0, 1) for m in named):
        if taken[bus] == 1 and bus == root_bus:  # they come after the root disk
            taken[bus] += without_volume
        there = f"{bus}{_letters(taken[bus])}"
        taken[bus] += 1
        if device != there:
            moved.append(f"{device} as {there}")
    if moved:
        yield (
            f"server {server.name}: its device names have gaps, which are closed:"
            f" {', '.join(moved)}; have the guest mount volumes by UUID, label or tag"
        )


def _letters(number: int) -> str:
    """The end of a device's name: a to z, then aa and so on."""
    first, last = divmod(number, 26)
    return (ascii_lowercase[first - 1] if first else "") + ascii_lowercase[last]


def _of_firmware(server: Server) -> Iterator[str]:
    """What a hypervisor keeps beside the disks of a server: no API gives it away."""
    specs = {key.replace(":", "_"): value for key, value in server.flavor.extra_specs.items()}
    said = {**_boot_image(server), **specs}
    if said.get("hw_tpm_version"):
        yield (
            f"server {server.name}: what its virtual TPM holds does not come back; a guest that"
            " unlocks its disks by it does not boot"
        )
    if said.get("hw_firmware_type") == "uefi":
        yield (
            f"server {server.name}: the UEFI variables (NVRAM) do not come back; see that it boots"
            " by the default path of its EFI partition"
        )


def _boot_image(server: Server) -> dict[str, str]:
    """What is said of the image of its root disk."""
    if server.root_disk is not None:
        return server.root_disk.image_metadata
    root = next((a.volume for a in server.attachments if a.is_root), None)
    return root.image_metadata if root is not None else {}


def _of_ports(vnf: Vnf, topology: Topology) -> Iterator[str]:
    labels = {
        p.id: f"server {s.name}"
        for s in topology.servers
        for port in s.ports
        for p in port.with_subports
    }
    for port in topology.ports:
        whose = labels.get(port.id, f"port {port.name or port.id}")
        if port.binding_profile:
            yield (
                f"{whose}: the binding profile of port {port.name or port.id} "
                f"({', '.join(sorted(port.binding_profile))}) comes back only where the policy of "
                "the backup site's Neutron lets antipode write it"
            )
        if port.vnic_type == "direct-physical":
            yield f"{whose}: port {port.name or port.id} gets the MAC address of its new device"
    for floating in topology.floating_ips:
        mapped = [m for m in (vnf.map, *vnf.maps.values()) if floating.address in m.floating_ips]
        if not mapped:
            whose = labels.get(floating.port, "a port of no server")
            yield (
                f"floating IP {floating.address} of {whose} is lost; map.floating_ips in the VNF "
                "file may name one of the backup site in its place"
            )

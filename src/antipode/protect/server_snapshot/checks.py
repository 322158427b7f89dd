# SPDX-License-Identifier: Apache-2.0
"""Whether images of the servers of a VNF can be made, and what the operator should know before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from antipode.cloud.api import Json
from antipode.cloud.images import room_for
from antipode.cloud.site import Site
from antipode.errors import AntipodeError
from antipode.model.capture import Consistency
from antipode.model.topology import Server, Topology
from antipode.model.vnf import Vnf
from antipode.protect import guest_agents, snapshot_quotas, snapshots
from antipode.protect.option import Protecting
from antipode.protect.quiesced_snapshot.checks import timeout_problems
from antipode.protect.server_snapshot.holdings import maker_of_snapshot
from antipode.protect.server_snapshot.order import members_after
from antipode.protect.server_snapshot.settings import Quiesce
from antipode.topology.discovery import flavor_of

REQUIRED = "os_require_quiesce"


def problems(protecting: Protecting, topology: Topology, quiesce: Quiesce) -> Iterator[str]:
    """Check Glance, the guest agents, what the images demand, and the quotas for snapshots. What
    the run has made itself, before it was resumed, is no problem.
    """
    site = protecting.site
    yield from _of_glance(site, topology)
    running = topology.model_copy(
        update={"servers": [s for s in topology.servers if not s.is_off and not s.root_disk]}
    )
    if quiesce.required:
        yield from guest_agents.problems(protecting, running)
        for name in _without_demand(running):
            yield (
                f"server {name} might be captured without being quiesced: image property {REQUIRED}"
                " of its root volume is not yes; set it and boot the server again, or write"
                " quiesce: {required: false} in the VNF file"
            )
    yield from _of_image_booted(protecting, topology, quiesce)
    yield from snapshots_under_way(site, topology.servers, protecting.run)
    yield from snapshot_quotas.problems(topology.volumes, site)


def _of_glance(site: Site, topology: Topology) -> Iterator[str]:
    """Problems that keep the temporary images from being made, one per member: with bytes of those
    that boot from an image.
    """
    disks = [s.root_disk for s in topology.servers if s.root_disk]
    needed = {**(room_for(disks) if disks else {}), "image_count_total": len(topology.servers)}
    try:
        site.images.images()
        shortages = site.images.shortages(needed)
    except AntipodeError as error:
        yield f"images cannot be made at {site.name}: {error}"
        return
    for shortage in shortages:
        yield f"images cannot be made at {site.name}: {shortage}"


def _of_image_booted(protecting: Protecting, topology: Topology, quiesce: Quiesce) -> Iterator[str]:
    """Of members that run and boot from an image: Nova does not say whether it has quiesced them,
    and their volumes need the add-on.
    """
    servers = [s for s in topology.servers if s.root_disk and not s.is_off]
    for server in servers if quiesce.required else ():
        yield (
            f"server {server.name} boots from an image, and Nova does not say whether it quiesces"
            " such a server when it copies its root disk; write quiesce: {required: false} in the"
            " VNF file to have it captured all the same, or switch it off for the capture"
        )
    with_volumes = [s for s in servers if s.volumes]
    if not with_volumes:
        return
    site = protecting.site
    if (support := site.compute.quiesce_support()) is not None:
        yield from timeout_problems(site, support, quiesce.timeout)
    else:
        names = ", ".join(s.name for s in with_volumes)
        yield (
            f"{site.name} has no quiesce add-on, and the volumes of {names} are captured with it,"
            " as createImage of a server that boots from an image leaves them out"
        )
    asked = topology.model_copy(update={"servers": with_volumes})
    yield from guest_agents.problems(protecting, asked)


def _without_demand(topology: Topology) -> list[str]:
    """The names of the servers whose image does not demand that they are quiesced."""
    roots = {s.name: guest_agents.root_of(s) for s in topology.servers}
    return [n for n, root in roots.items() if root and not guest_agents.says_yes(root, REQUIRED)]


def snapshots_under_way(site: Site, servers: Sequence[Server], run: str = "") -> list[str]:
    """The snapshots of these servers that are being created, a sentence each; not those of the
    run.

    Nova may be making an image of the server: it unquiesces the server once more when the last of
    them is made, in the middle of the next quiesce.
    """
    return [
        f"snapshot {snapshot['id']} of volume {volume.name or volume.id} of server {server.name} "
        "is being created; if it stays so, set its status to error and delete it"
        for server, volume, snapshot in snapshots.being_created(site, servers)
        if (maker := maker_of_snapshot(snapshot)) is None or maker.run != run
    ]


def resize_of(known: Server, found: Json) -> str | None:
    """What a server became since it was discovered, in the middle of a sentence; None if it has the
    same flavor. A point has the flavor as it was discovered, which may be long ago by now.
    """
    flavor = flavor_of(found)
    if flavor == known.flavor:
        return None
    return (
        f"was resized after it was discovered, from flavor {known.flavor.name} to {flavor.name}"
        if flavor.name != known.flavor.name
        else f"was resized after it was discovered: flavor {flavor.name} is another one now"
    )


def label(topology: Topology, quiesce: Quiesce) -> Consistency:
    """The best consistency that a point of these members can have."""
    running = [s for s in topology.servers if not s.is_off]
    of_volumes = topology.model_copy(update={"servers": [s for s in running if not s.root_disk]})
    may_be_torn = not quiesce.required and _without_demand(of_volumes)
    return "volume" if may_be_torn or any(s.root_disk for s in running) else "member"


def warnings(site: Site, vnf: Vnf, topology: Topology, quiesce: Quiesce) -> Iterator[str]:
    """What limits the protection and does not keep it from being made."""
    if not site.compute.quiesce_available():
        yield (
            f"{site.name} has no quiesce add-on: the time for which createImage keeps a member "
            "frozen can be neither limited nor seen. Nova unquiesces a member when none of its "
            "snapshots is being created any more"
        )
    for server in topology.servers:
        if server.root_disk and server.volumes and not server.is_off:
            yield (
                f"server {server.name} boots from an image: its root disk is of a later moment than"
                " its volumes, so the consistency is `volume` only"
            )
    of_volumes = [s for s in topology.servers if not s.root_disk and not s.is_off]
    running = topology.model_copy(update={"servers": of_volumes})
    if not quiesce.required and (names := _without_demand(running)):
        yield (
            f"{', '.join(names)}: Nova may snapshot without a quiesce, so the consistency is "
            f"`volume` only; image property {REQUIRED} demands it"
        )
    silent = [
        member.server
        for member, server in zip(vnf.members, topology.servers, strict=True)
        if not (member.answers or server.is_off) and members_after(vnf, member.server)
    ]
    if silent:
        yield (
            f"{', '.join(silent)}: no `answers` in the VNF file of {vnf.vnf}, so whether it is"
            " well after its capture is not seen before the next one is captured"
        )

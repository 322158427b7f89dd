# SPDX-License-Identifier: Apache-2.0
"""Which members of a VNF a protection leaves untouched, and how a recovery point brings these back.

Options and transfers are handed the captured members only. So nothing of them can reach a member
that is not captured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from pydantic import Field

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.errors import PreflightFailed
from antipode.model.base import Model
from antipode.model.capture import Capture, Consistency, at_best
from antipode.model.source import Copy, MadeAgain, VolumeSource
from antipode.model.topology import Server, Topology, Volume
from antipode.model.vnf import Member, Vnf, clone_of
from antipode.protect import base_images, checks
from antipode.protect.option import Option, Protecting
from antipode.topology.discovery import absent_members, find_members

LABEL: Consistency = "member"
"""The strongest label of a point in which not all members were captured."""


class Choice(Model):
    """Which members a protection captures, and how the others come back."""

    untouched: dict[str, str] = Field(default_factory=dict)
    """member that is not captured -> how it comes back: `clone=MEMBER`, `rebuild` or `none`"""
    captured: list[str] = Field(default_factory=list)
    """the others, for people"""
    absent: list[str] = Field(default_factory=list)
    """members that need not come back, and are not at the site, as they did not"""


def choose(vnf: Vnf, site: Site, *, all_captured: bool = False, root_disks: bool = True) -> Choice:
    """See which members of a VNF of which a part is captured that is now.

    Of active and standby members the standby ones are captured. Of a cluster it is the first one,
    in the order of the members, that is ACTIVE and not busy.

    Args:
        all_captured: whether no member is left out whose disks can be captured.
        root_disks: whether those on hypervisors can; a member that is made again from its image
            has no other.

    Raises:
        PreflightFailed: a standby member is not ACTIVE, or no member of a cluster is.
        NotFound, ResourceFailed: as for `find_members`.
    """
    absent = absent_members(vnf, site)
    present = vnf.without(absent)
    untouched = _not_capturable(present, root_disks) if all_captured else _untouched(present, site)
    captured = [m.server for m in present.members if m.server not in untouched]
    return Choice(untouched=untouched, captured=captured, absent=absent)


def _not_capturable(vnf: Vnf, root_disks: bool) -> dict[str, str]:
    made_again = [m for m in vnf.members if m.recover == "rebuild" and m.root is None]
    return {} if root_disks else {m.server: "rebuild" for m in made_again}


def _untouched(vnf: Vnf, site: Site) -> dict[str, str]:
    found = dict(zip((m.server for m in vnf.members), find_members(vnf, site), strict=True))
    untouched: dict[str, str] = {}
    problems: list[str] = []
    for of in vnf.capture:
        members = [m for m in vnf.members if m.role == of]
        ready = [m.server for m in members if _is_ready(found[m.server])]
        if of == "standby":
            problems += [
                f"standby member {m.server} {_state(found[m.server])}, and active members are not"
                " captured: its volumes may be old. Start it, or remove `capture: standby` from the"
                " VNF file to have all members captured"
                for m in members
                if m.server not in ready
            ]
            left = [m for m in vnf.members if m.role == "active"]
        else:
            if not ready:
                states = ", ".join(f"{m.server} {_state(found[m.server])}" for m in members)
                problems.append(
                    f"no member of {of} can be captured ({states}). Start one, or remove"
                    f" `capture: {of}` from the VNF file to have all members captured"
                )
            left = [m for m in members if m.server not in ready[:1]]
        untouched |= {m.server: _way(m, ready[0]) for m in left if ready}
    if problems:
        raise PreflightFailed(f"protection of {vnf.vnf}", problems)
    return untouched


def _is_ready(server: Json) -> bool:
    return server["status"] == "ACTIVE" and not server.get("OS-EXT-STS:task_state")


def _state(server: Json) -> str:
    task = server.get("OS-EXT-STS:task_state")
    return f"is busy ({task})" if task else f"is {server['status']}"


def _way(member: Member, captured: str) -> str:
    if member.recover in (None, "clone"):
        return f"clone={captured}"
    return str(member.recover)


@dataclass(frozen=True)
class Part:
    """The captured part of a VNF, and the rest of it."""

    vnf: Vnf
    """the whole VNF"""
    untouched: Mapping[str, str]
    """member -> how it comes back"""
    switched_off: Collection[str] = ()
    """the ids of members that are off only while the VNF moves"""

    @property
    def captured(self) -> Vnf:
        """The VNF as options and transfers are to know it."""
        return self.vnf.without(self.untouched)

    def of(self, topology: Topology) -> Topology:
        """The topology of the captured members."""
        return self._with(topology, lambda member: member not in self.untouched)

    def label(self, of_captured: Consistency) -> Consistency:
        """The label of a point, by that of what was captured."""
        return at_best(LABEL, of_captured) if self.untouched else of_captured

    def moments(self, taken: Capture, topology: Topology) -> dict[str, str]:
        """The moments of all servers, where these differ: a clone has that of the captured one."""
        servers = self._servers(topology)
        names = {servers[m].name: servers[like].name for m, like in self._clones()}
        moments = dict(taken.moments)
        return moments | {s: moments[like] for s, like in names.items() if like in moments}

    def whole(self, topology: Topology) -> Topology:
        """The topology of a recovery point: a member that does not come back has no disks in it."""
        lost = {s.id for m, s in self._servers(topology).items() if self.untouched.get(m) == "none"}
        servers = [
            s.model_copy(update={"attachments": [], "root_disk": None}) if s.id in lost else s
            for s in topology.servers
        ]
        return topology.model_copy(update={"servers": servers})

    def sources(self, p: Protecting, topology: Topology) -> dict[str, VolumeSource]:
        """The sources of the disks of members that were not captured, by the id of the disk.

        Raises:
            ResourceFailed: the image of one cannot be found again.
        """
        servers = self._servers(topology)
        copies: dict[str, VolumeSource] = {
            own.id: Copy(of=captured.id)
            for member, like in self._clones()
            for own, captured in zip(servers[member].disks, servers[like].disks, strict=True)
        }
        images: Mapping[str, MadeAgain] = base_images.sources(*self._rebuilt(p, topology))
        return {**copies, **images}

    def problems(self, p: Protecting, topology: Topology, option: Option) -> Iterator[str]:
        """Why the members that are not captured could not be brought back, a sentence each."""
        if not self.untouched:
            return
        if not option.captures_a_part:
            yield (
                f"option {option.name} captures all members, and the VNF file has capture:"
                f" {', '.join(self.vnf.capture)}; choose another option, or remove that"
            )
        servers = self._servers(topology)
        yield from checks.doubles(topology)
        for member, way in self.untouched.items():
            if way != "none":
                yield from checks.port_problems(servers[member])
        clones = {servers[member].id for member, _ in self._clones()}
        for volume, having in topology.shared_volumes.items():
            if names := ", ".join(s.name for s in having if s.id in clones):
                yield (
                    f"volume {volume} is attached to several members, of which {names} would be"
                    " recovered as clones; have all of them captured"
                )
        yield from self._off_by_now(servers)
        for member, like in self._clones():
            yield from _unlike(servers[member], servers[like])
        rebuilding, rebuilt = self._rebuilt(p, topology)
        for server in rebuilt.servers:
            if server.root_disk is None or server.volumes:
                yield (
                    f"server {server.name} is to be made again from its image, and it"
                    f" {'has volumes' if server.volumes else 'boots from a volume'}, of which"
                    " nothing is captured; write `recover: clone` or `none`"
                )
        yield from base_images.problems(rebuilding, rebuilt)

    def _off_by_now(self, servers: Mapping[str, Server]) -> Iterator[str]:
        """The captured members that went off since they were chosen in place of others."""
        for m in self.vnf.members:
            server = servers[m.server]
            stands_for_others = m.role in self.vnf.capture and m.server not in self.untouched
            if stands_for_others and server.is_off and server.id not in self.switched_off:
                yield (
                    f"server {server.name}, which is captured for others, is off by now: its"
                    " volumes may be old. Start it and protect the VNF again"
                )

    def _clones(self) -> list[tuple[str, str]]:
        return [(m, like) for m, way in self.untouched.items() if (like := clone_of(way))]

    def _servers(self, topology: Topology) -> dict[str, Server]:
        return dict(zip((m.server for m in self.vnf.members), topology.servers, strict=True))

    def _with(self, topology: Topology, wanted: Callable[[str], bool]) -> Topology:
        servers = [s for m, s in self._servers(topology).items() if wanted(m)]
        return topology.model_copy(update={"servers": servers})

    def _rebuilt(self, p: Protecting, topology: Topology) -> tuple[Protecting, Topology]:
        """The members that are made again from their images, as `base_images` knows such."""
        members = [
            m.model_copy(update={"root": "rebuild"})
            for m in self.vnf.members
            if self.untouched.get(m.server) == "rebuild"
        ]
        vnf = self.vnf.model_copy(update={"members": members})
        part = self._with(topology, lambda member: self.untouched.get(member) == "rebuild")
        return replace(p, vnf=vnf), part


def _unlike(server: Server, captured: Server) -> Iterator[str]:
    """Why a server cannot be a clone of another; a sentence for each reason."""
    what = f"server {server.name} cannot be recovered as a clone of {captured.name}"
    known = server.root_disk is not None or any(a.is_root for a in server.attachments)
    if not known:
        yield f"{what}: its root volume is unknown, which takes the admin role in the project"
    elif (server.root_disk is None) != (captured.root_disk is None):
        yield f"{what}: one of them boots from an image, and the other from a volume"
    elif len(server.volumes) != len(captured.volumes):
        yield (
            f"{what}: it has {len(server.volumes)} volumes, and {captured.name} has"
            f" {len(captured.volumes)}"
        )
    own, other = server.root_disk, captured.root_disk
    if own is not None and other is not None and own.size_gib < other.size_gib:
        yield (
            f"{what}: the root disk of its flavor has {own.size_gib} GiB, and that of"
            f" {captured.name} has {other.size_gib} GiB"
        )
    for whose, owner in (("its", server), (f"{captured.name}'s", captured)):
        for volume in (v for v in owner.volumes if v.encrypted):
            yield f"{what}: {whose} volume {_name(volume)} is encrypted, which is not supported"


def _name(volume: Volume) -> str:
    return volume.name or volume.id

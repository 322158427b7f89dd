# SPDX-License-Identifier: Apache-2.0
"""One volume of a VNF: what the storage really calls it at the active site, what its newest
recovery point says, and what the storage of each backup site holds under that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from antipode.cloud.site import Site
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, NoCounterpart, NotFound
from antipode.model.reference import BackendReference
from antipode.model.topology import Server, Topology, Volume
from antipode.model.vnf import Vnf
from antipode.operations.inspect import Look, look
from antipode.recover.counterparts import BackEnd, Counterpart


@dataclass(frozen=True)
class Elsewhere:
    """What was found, or not, of a volume at a backup site."""

    site: str
    found: list[Counterpart]
    problems: list[str]
    """why there may be more than what was found, or why it must not be used"""


@dataclass(frozen=True)
class VolumeLook:
    """A volume, and what is known of it."""

    look: Look
    server: Server
    volume: Volume
    point: str | None
    """the newest recovery point, if it has the volume"""
    recorded: BackendReference | None
    """its reference there; None in points before 2.2"""
    elsewhere: list[Elsewhere]

    @property
    def reference(self) -> BackendReference:
        return self.volume.backend or self.recorded or BackendReference(missing=[NOT_RECORDED])

    @property
    def warnings(self) -> list[str]:
        now, then = self.volume.backend, self.recorded
        if now is None or then is None or now.name in (None, then.name):
            return []
        return [
            f"the storage calls it {now.name} now, and recovery point {self.point} has"
            f" {then.name}: it was moved since, and its replica may have another name too"
        ]


NOT_RECORDED = "the recovery point was made before references were recorded"


def look_at(deployment: Deployment, vnf: str, wanted: str) -> VolumeLook:
    """Look at a volume of a VNF at its active site, or in its newest recovery point when that site
    does not answer, and for its counterpart at all backup sites. A backup site that does not answer
    is a problem of its own.

    Args:
        wanted: the volume's id, its name, or what the storage calls it.

    Raises:
        NotFound: the VNF is not known, has no such volume, or several of that name.
        SiteUnreachable: the active site does not answer, and there is no recovery point.
    """
    seen = look(deployment, vnf)
    server, volume = _volume(seen.topology, vnf, wanted)
    newest = seen.status.newest
    kept = {v.id: v for v in newest.topology.volumes} if newest else {}
    recorded = kept[volume.id].backend if volume.id in kept else None
    reference = volume.backend or recorded
    places = [s for s in seen.status.vnf.sites if s != seen.status.state.active_site]
    with ThreadPoolExecutor(max(1, len(places))) as pool:
        elsewhere = pool.map(
            lambda site: _elsewhere(deployment, seen.status.vnf, site, reference, volume.size_gib),
            places,
        )
        return VolumeLook(
            look=seen,
            server=server,
            volume=volume,
            point=newest.id if newest and volume.id in kept else None,
            recorded=recorded,
            elsewhere=list(elsewhere),
        )


def _volume(topology: Topology, vnf: str, wanted: str) -> tuple[Server, Volume]:
    """A volume, and a server that has it."""
    every = {v.id: (s, v) for s in topology.servers for v in s.volumes}
    if wanted in every:
        return every[wanted]
    found = [
        (server, volume)
        for server, volume in every.values()
        if wanted == volume.name or (volume.backend and wanted == volume.backend.name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(volume.id for _, volume in found)
        raise NotFound(f"VNF {vnf} has {len(found)} volumes {wanted}; give the id of one: {ids}")
    known = ", ".join(f"{v.name} ({v.id})" if v.name else v.id for _, v in every.values())
    raise NotFound(f"VNF {vnf} has no volume {wanted}; it has {known or 'none'}")


def _elsewhere(
    deployment: Deployment, vnf: Vnf, name: str, reference: BackendReference | None, size_gib: int
) -> Elsewhere:
    if reference is None:
        return Elsewhere(name, [], [NOT_RECORDED])
    try:
        site = deployment.site(name, vnf)
        results = list(_searched(site, reference, size_gib))
    except AntipodeError as error:
        return Elsewhere(name, [], [str(error)])
    return Elsewhere(
        name,
        [r for r in results if isinstance(r, Counterpart)],
        [r for r in results if isinstance(r, str)],
    )


def _searched(
    site: Site, reference: BackendReference, size_gib: int
) -> Iterator[Counterpart | str]:
    """The counterparts in all back ends of a site, and why those there must not be used."""
    for host in sorted({pool["name"].partition("#")[0] for pool in site.backends.pools()}):
        try:
            yield BackEnd(site, host).counterpart(reference, size_gib)
        except NoCounterpart:
            continue
        except AntipodeError as error:
            yield str(error)

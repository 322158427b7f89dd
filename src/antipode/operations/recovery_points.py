# SPDX-License-Identifier: Apache-2.0
"""Listing, reading and verifying the recovery points of a VNF."""

from __future__ import annotations

from collections.abc import Iterator

from antipode.engine.deployment import Deployment
from antipode.errors import VaultCorrupt
from antipode.model.point import RecoveryPoint
from antipode.recover.sources import PROVIDERS
from antipode.vault import points
from antipode.vault.verify import Finding


def recovery_points(
    deployment: Deployment, vnf: str
) -> Iterator[tuple[str, RecoveryPoint | VaultCorrupt]]:
    """Every recovery point of a VNF, oldest first: its id, and the point or its damage.

    Raises:
        VaultError: the vault cannot be read.
    """
    return points.list_points(deployment.vault, vnf)


def recovery_point(deployment: Deployment, vnf: str, point: str | None) -> RecoveryPoint:
    """One recovery point, the newest by default.

    Raises:
        NotFound: there is no such recovery point.
        VaultCorrupt: it is damaged.
    """
    return points.read(deployment.vault, vnf, point)


def verify(deployment: Deployment, vnf: str, point: str | None) -> list[Finding]:
    """Verify a recovery point, the newest by default: a finding for the point as a whole, and
    those about the source of each volume.

    Raises:
        NotFound, VaultCorrupt: as for `recovery_point`.
        SiteUnreachable: a store does not answer.
    """
    found = points.read(deployment.vault, vnf, point)
    whole = Finding(volume=found.id, backup="", ok=True, detail="the point passes its checksum")
    return [whole] + [
        finding
        for volume in found.topology.volumes
        for source in (found.sources[volume.id],)
        for finding in PROVIDERS.get(source.kind).verify(
            volume.name or volume.id, source, deployment.store_of(found.site, found.vnf.store)
        )
    ]


def stored_bytes(point: RecoveryPoint) -> int | None:
    """The bytes of all backups that a point rests on in the store; None when unknown."""
    stored = [b.stored for b in point.backups.values()]
    return None if None in stored else sum(s.bytes for s in stored if s)

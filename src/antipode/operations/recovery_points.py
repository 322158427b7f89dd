# SPDX-License-Identifier: Apache-2.0
"""Listing, reading and verifying the recovery points of a VNF."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Observer
from antipode.errors import RecoveryPointInvalid, VaultCorrupt
from antipode.model.point import RecoveryPoint
from antipode.recover.sources import PROVIDERS
from antipode.runs import verify as run_kind
from antipode.store.tables import RunRow
from antipode.vault import points
from antipode.vault.sealing import Opened, Summary, Trust
from antipode.vault.verify import Finding


def recovery_points(
    deployment: Deployment, vnf: str, last: int | None = None, apart_from: Collection[str] = ()
) -> Iterator[tuple[str, Summary | VaultCorrupt]]:
    """The recovery points of a VNF, oldest first: the id of each, and its summary or its damage.

    Args:
        last: only so many, the last ones; the vault is asked no more often where there are more.
        apart_from: sites whose vaults are not asked if there are others.

    Raises:
        VaultError: the vault cannot be read.
    """
    return points.list_points(deployment.vaults(apart_from=apart_from), vnf, last)


def recovery_point(deployment: Deployment, vnf: str, point: str | None) -> Opened:
    """One recovery point, the newest by default; one of format 1 too, which is not signed.

    Raises:
        NotFound: there is no such recovery point.
        VaultCorrupt: it is damaged, or not to be trusted.
    """
    return points.find(deployment.vault, vnf, point, Trust.UNSIGNED_TOO)


def verify(deployment: Deployment, vnf: str, point: str | None) -> list[Finding]:
    """Verify a recovery point, the newest by default: a finding for the point as a whole, and
    those about the source of each volume.

    Raises:
        NotFound, VaultCorrupt: as for `recovery_point`.
        SiteUnreachable: a store does not answer.
    """
    opened = recovery_point(deployment, vnf, point)
    found, signed_by = opened.point, opened.signed_by
    detail = (
        "not signed: anybody that could write to the vault may have changed it"
        if signed_by is None
        else f"signed by key {signed_by[:16]}, and so is every record that it rests on"
    )
    whole = Finding(volume=found.id, backup="", ok=signed_by is not None, detail=detail)
    return [whole] + [
        finding
        for volume in found.captured_disks
        for source in (found.sources[volume.id],)
        for finding in PROVIDERS.get(source.kind).verify(
            volume.name or volume.id,
            source,
            deployment.store_of(found.site, found.vnf.store),
            partial(deployment.site, of=found.vnf),
        )
    ]


def deep_request(
    deployment: Deployment, vnf: str, point: str | None, site: str | None = None
) -> RunRow:
    """The run that proves the content of a recovery point, the newest by default; neither kept nor
    begun.

    Args:
        site: where the volumes are restored; a backup site of the VNF by default.

    Raises:
        NotFound, VaultCorrupt: as for `recovery_point`; or there is no such site.
        InvalidInput: its content cannot be proven; the message says why.
        Busy: a recovery of the VNF has not ended.
    """
    return run_kind.requested(deployment, points.read(deployment.vault, vnf, point), site)


def verify_deep(deployment: Deployment, row: RunRow, observer: Observer) -> list[Finding]:
    """Restore each volume of a recovery point into a throw-away one and compare every block; a
    finding for each volume.

    Raises:
        Busy: another verification of the VNF, or a recovery of it, is under way.
        AntipodeError: it could not be done; nothing of it is left at the site.
    """
    with deployment.claims.begin(row) as claim:
        run = claim.run
        try:
            execute(deployment, run_kind.KIND, claim, observer)
        except RecoveryPointInvalid:
            if not deployment.runs.get(run).result.get("volumes"):
                raise  # there is nothing to compare with
    found = deployment.runs.get(run).result["volumes"]
    return [Finding.model_validate(finding) for finding in found]


def stored_bytes(point: RecoveryPoint) -> int | None:
    """The bytes of all backups that a point rests on in the store; None when unknown."""
    stored = [b.stored for b in point.backups.values()]
    return None if None in stored else sum(s.bytes for s in stored if s)

# SPDX-License-Identifier: Apache-2.0
"""Makes the backups of a recovery point known to the Cinder of another site: their records are
imported, base first (step 1.7.1).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from antipode.cloud.api import ApiError
from antipode.cloud.backups import has_increments, was_never_imported
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed, UnexpectedAnswer
from antipode.model.point import RecoveryPoint
from antipode.model.source import BackupRecord, VolumeKey
from antipode.model.steps import Steps
from antipode.recover.existing import Found
from antipode.recover.recovery import Recovery
from antipode.recover.sources import encrypted

LOG = logging.getLogger(__name__)
TIMEOUT_S = 600.0
_DRIVERS = "cinder.backup.drivers."
REMEDY = (
    "See that cinder-backup has the same driver and container at both sites, then resume the run:"
    " a record whose import has failed has no data, and is removed and imported again. One that"
    " stays creating as cinder-backup has died: start that and wait a minute first, as it may yet"
    " import the record; if it does not: openstack volume backup set --state error BACKUP"
)
_SHARED = threading.Lock()
"""Held while records are imported that several servers rest on: Cinder may take two requests for
one record at once for two records."""


def remarks(point: RecoveryPoint, site: Site) -> Iterator[str]:
    """That cinder-backup of a site has another driver than the backups of a point, so that it takes
    no record of them; as far as the newest backup tells that the site has of its own.
    """
    wanted = {_driver(record.service): record.service for record in point.backups.values()}
    own = [
        backup
        for backup in site.backups.backups()
        if backup["status"] == "available" and backup["id"] not in point.backups
    ]
    if not wanted or not own:
        return
    newest = max(own, key=lambda backup: str(backup["created_at"]))
    try:
        there, _ = site.backups.export_record(newest["id"])
    except (ApiError, UnexpectedAnswer) as error:
        LOG.info("the backup driver of %s is not known: %s", site.name, error)
        return
    if _driver(there) not in wanted:
        yield (
            f"the newest backup of {site.name} itself ({newest['id']}) was made by backup driver"
            f" {there}, and those of the point by {', '.join(sorted(wanted.values()))}:"
            " cinder-backup imports no record of another driver. See that it has the same one now"
        )


def _driver(service: str) -> str:
    """Of the name of a driver's class, what is the same on every release."""
    return service.removeprefix(_DRIVERS).partition(".")[0]


def import_chains(recovery: Recovery, server: str, volumes: Sequence[str]) -> None:
    """Import the records of all backups that these volumes of a server rest on, and wait until
    they are available.

    A record that the site knows already is used if it is of the same volume.

    Args:
        volumes: ids at the former site.

    Raises:
        ResourceFailed: a known backup is of another volume, or an import failed.
    """
    site, chains = recovery.site, [recovery.point.chain(v) for v in volumes]
    with recovery.timeline.step(Steps.IMPORT_RECORDS, server) as step:
        with _SHARED if recovery.point.clones else nullcontext():
            imported = _import_missing(recovery, chains)
        needed = {r.id: r for chain in chains for r in chain}
        try:
            there = site.backups.watch.wait_for(
                list(needed),
                wanted=("available", "restoring"),
                timeout_s=recovery.imports_within_s,
                tell=step.waits_for,
            )
        except ResourceFailed as error:
            raise ResourceFailed(f"{error}. {REMEDY}") from error
        for record in needed.values():
            # Only now: until its import is over, a backup is of volume 00000000-…
            if (volume := there[record.id]["volume_id"]) != record.volume_id:
                raise ResourceFailed(
                    f"{site.name}: backup {record.id} exists already, and is of another volume: "
                    f"{volume}"
                )
        step.result(imported=imported, known=len(needed) - imported)


def _import_missing(recovery: Recovery, chains: Sequence[Sequence[BackupRecord]]) -> int:
    """Begin to import the records that the site does not know; how many these are."""
    imported = 0
    found = Found(recovery.site) if recovery.point.clones else recovery.found
    keys = encrypted.keys_of(recovery.point)
    # All bases, then all first increments, and so on: a parent precedes its increment.
    for record in (r for depth in _by_depth(chains) for r in depth):
        there = found.backup(record.id)
        if there is not None and was_never_imported(there):
            _remove(recovery.site, record)
            there = None
        if there is None:
            _import(recovery.site, record, keys.get(record.volume_id))
            imported += 1
    return imported


def _remove(site: Site, record: BackupRecord) -> None:
    """Remove what a failed import has left, unless another host has imported it meanwhile."""
    now = Found(site).backup(record.id)
    if now is not None and was_never_imported(now):
        if has_increments(now):
            raise ResourceFailed(cannot_be_imported(site, record))
        site.backups.delete_backup(record.id)
        site.backups.watch.wait_gone([record.id], timeout_s=TIMEOUT_S)


def cannot_be_imported(site: Site, record: BackupRecord) -> str:
    """Why a record whose import has failed stays so, in a sentence."""
    return (
        f"the import of backup {record.id} has failed at {site.name}, and increments that rest on"
        " it were imported: Cinder deletes it no more, and imports no record that it has. Take a"
        " recovery point of another chain, or recover at another site; the next full backup begins"
        " a new chain"
    )


def _import(site: Site, record: BackupRecord, key: VolumeKey | None) -> None:
    # A record with a key of another site cannot be corrected once it is imported.
    url = record.url if key is None else encrypted.url_with_key(site, record, key)
    try:
        site.backups.import_record(record.service, url)
    except ApiError:
        if Found(site).backup(record.id) is None:
            raise
        # The backup is known: the request of a process that died has come through.


def _by_depth(chains: Sequence[Sequence[BackupRecord]]) -> list[list[BackupRecord]]:
    longest = max((len(c) for c in chains), default=0)
    return [[chain[i] for chain in chains if i < len(chain)] for i in range(longest)]

# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes from backups: records get keys of the site that restores them, and a restore
that failed is explained, as Cinder does not.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError
from antipode.cloud.backups import NO_VOLUME, read_record, was_never_imported
from antipode.model.plan import RestoreWay
from antipode.model.point import RecoveryPoint
from antipode.model.source import BackupChain, BackupRecord, VolumeKey, VolumeSource, backup_chain
from antipode.protect import volume_keys

if TYPE_CHECKING:
    from antipode.cloud.site import Site

KEY = "encryption_key_id"
"""In a backup and in its record: the id of its key, in the key manager of its site."""
WAY = RestoreWay(
    sparse=True, why="encrypted: Cinder gives a volume the key of the backup that it is made from"
)
RESTORE_S_PER_GIB = 30
"""How long a restore may take, to have a token that outlives a short one."""
REMARK = (
    "encrypted volumes: a restore that outlasts its token fails at its end unless cinder-backup at"
    " {site} has send_service_user_token (cinder.conf, [barbican]); no API tells that"
)


def key_of(source: VolumeSource) -> VolumeKey | None:
    """The key of the volume that a source is of; None where it is not encrypted."""
    return source.key if isinstance(source, BackupChain) else None


def keys_of(point: RecoveryPoint) -> dict[str, VolumeKey]:
    """Volume id -> key, of the encrypted volumes of a recovery point, and of those of clones that
    are brought back from such.
    """
    found = {volume: key_of(point.source_of(volume)) for volume in point.sources}
    return {volume: key for volume, key in found.items() if key is not None}


def problems(point: RecoveryPoint, site: Site) -> Iterator[str]:
    """One sentence for each thing in the way of encrypted volumes at a site, and of volumes that
    would be taken for encrypted.
    """
    names = point.vnf.map_between(point.site, site.name).volume_types
    wanted = {
        v.id: names.get(v.volume_type, v.volume_type)
        for v in point.topology.volumes
        if v.id in point.sources and backup_chain(point.source_of(v.id))
    }
    keys = keys_of(point)
    yield from _plain_into_encrypted(point, site, wanted, keys)
    if not keys:
        return
    lacking = list(volume_keys.problems_at(site, keys, wanted))
    yield from lacking
    if lacking:
        return
    known = {b["id"]: b for b in site.backups.backups()}
    captured = {d.id for d in point.captured_disks}
    for volume, key in keys.items():
        if volume in captured:
            yield from _missing_keys(point, site, volume, key, known)


def _plain_into_encrypted(
    point: RecoveryPoint, site: Site, wanted: Mapping[str, str], keys: Mapping[str, VolumeKey]
) -> Iterator[str]:
    plain = {v: kind for v, kind in wanted.items() if v not in keys and kind}
    try:
        encrypted = volume_keys.encrypted_types(site, plain.values()) if plain else set()
    except ApiError as error:
        yield f"{error}; a recovery takes a user with the role admin in the project"
        return
    names = {v.id: v.name or v.id for v in point.topology.volumes}
    for volume, kind in plain.items():
        if kind in encrypted:
            yield (
                f"volume {names[volume]} was not encrypted, and {kind} at {site.name} is an"
                " encrypted type: Cinder would leave the volume unencrypted in it, and say nothing."
                " Map it to a type that is not encrypted"
            )


def _missing_keys(
    point: RecoveryPoint,
    site: Site,
    volume: str,
    key: VolumeKey,
    known: Mapping[str, dict[str, object]],
) -> Iterator[str]:
    new = [
        r
        for r in point.chain(volume)
        if (there := known.get(r.id)) is None or was_never_imported(there)
    ]
    if new and not (secret := key.kept.get(site.name)):
        yield (
            f"the key of encrypted volume {volume} is not kept at {site.name}, which did not answer"
            f" when recovery point {point.id} was made; take another point"
        )
    elif new and secret and not site.keys.is_there(secret):
        yield (
            f"the key of encrypted volume {volume} is gone from the key manager of {site.name}"
            f" (secret {secret}); take another recovery point"
        )
    for record in point.chain(volume)[-1:]:
        backup = known.get(record.id)
        # of one whose import is under way, or has failed, nothing is known
        is_known = backup is not None and backup["volume_id"] != NO_VOLUME
        held = str((backup or {}).get(KEY) or "") if is_known else None
        if held is not None and not (held and site.keys.is_there(held)):
            yield (
                f"backup {record.id} is known at {site.name} with a key that its key manager lacks"
                f" ({held or 'none'}): it was imported unchanged, and Cinder corrects no record"
                " that it has. Take another recovery point; the next full backup begins a new chain"
            )


def remarks(point: RecoveryPoint, site: Site) -> Iterator[str]:
    """What may fail and cannot be seen."""
    if keys_of(point):
        yield REMARK.format(site=site.name)


def url_with_key(site: Site, record: BackupRecord, key: VolumeKey) -> str:
    """The URL of a record with a key of its own at a site, which Cinder deletes with the backup.
    Safe to repeat: the key is named after the backup.

    Raises:
        ApiError: the key that is kept there cannot be read, or none can be stored.
    """
    fields = read_record(record.url, f"backup {record.id}")
    payload = site.keys.payload(key.kept[site.name])
    fields[KEY] = site.keys.kept(f"antipode:backup:{record.id}", payload)
    return base64.b64encode(json.dumps(fields).encode()).decode()


def why_not_restored(point: RecoveryPoint, site: Site, volume: str, key: VolumeKey) -> str:
    """Why a restore has failed, as far as it can be seen from outside."""
    try:
        names = point.vnf.map_between(point.site, site.name).volume_types
        wanted = {volume: names.get(key.type_name, key.type_name)}
        known = {b["id"]: b for b in site.backups.backups()}
        found = [
            *volume_keys.problems_at(site, {volume: key}, wanted),
            *_missing_keys(point, site, volume, key, known),
        ]
    except ApiError as error:
        return f"The volume is encrypted; why it failed could not be looked at: {error}"
    if found:
        return f"The volume is encrypted: {'; '.join(found)}"
    return (
        "The volume is encrypted, and its type and keys are as they must be: most likely the token"
        " expired before the restore was over. Set send_service_user_token in [barbican] of"
        f" cinder.conf at {site.name}, then resume the run"
    )

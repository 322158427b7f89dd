# SPDX-License-Identifier: Apache-2.0
"""Where Cinder may skip the zeros of a chain of backups, and where it must write them.

Cinder restores a backup into a volume in two ways. A volume that is *created from* the backup is
new to cinder-backup, which skips pieces of zeros: fast, and the volume stays thin. Releases 2023.1
to 2026.1 skip them for every backup of a chain (cinder/backup/chunkeddriver.py, `_restore_v1`), so
what an increment has zeroed keeps the data of the backup before it. Their Ceph driver misplaces
what follows a skipped piece (cinder/backup/drivers/ceph.py, `_transfer_data`). Into an *existing*
volume every release of every driver writes each byte that it has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from antipode.model.plan import RestoreWay
from antipode.model.source import BackupRecord

_CHUNKED = re.compile(r"cinder\.backup\.drivers\.(swift|s3|posix|nfs|glusterfs|gcs)(\..*)?")
"""The drivers that store objects, as a record's `service` names them."""
AT_ANY_SITE = (
    "full backups are restored sparse; chains with increments are written whole, zeros included,"
    " as Cinder does not tell its release and some skip zeros of increments"
)


def is_chunked(record: BackupRecord) -> bool:
    """Whether a backup consists of objects, with a list and digests beside them."""
    return _CHUNKED.fullmatch(record.service) is not None


def way_of(chain: Sequence[BackupRecord]) -> RestoreWay:
    """How a chain is restored so that the bytes are right on every release of Cinder.

    Args:
        chain: base first.
    """
    others = [r.service for r in chain if not is_chunked(r)]
    if others:
        why = f"backup driver {others[0]} is not known to skip zeros rightly on every release"
        return RestoreWay(sparse=False, why=why)
    if len(chain) == 1:
        return RestoreWay(sparse=True, why="a full backup without increments")
    why = f"{len(chain) - 1} increments, whose zeros some releases of Cinder skip"
    return RestoreWay(sparse=False, why=why)

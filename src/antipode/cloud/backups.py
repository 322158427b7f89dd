# SPDX-License-Identifier: Apache-2.0
"""Cinder's backups at one site, and their records, by which another site's Cinder learns of
them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from antipode.cloud import answers
from antipode.cloud.api import Api, ApiError, Json
from antipode.cloud.watch import Watch
from antipode.errors import UnexpectedAnswer

NO_VOLUME = "00000000-0000-0000-0000-000000000000"
"""What a backup is of until its import is over."""


def was_never_imported(backup: Json) -> bool:
    """Whether the import of a record has failed: what is left has no service, and Cinder deletes
    nothing in the store with it (cinder/backup/manager.py, `delete_backup`).

    A record that was deleted before keeps its service, container and prefix when it is imported
    again (cinder/backup/api.py, `_get_import_backup`): with it Cinder would delete the data. Its
    container tells it from one that was never known there.
    """
    is_failed = backup["volume_id"] == NO_VOLUME and str(backup["status"]).startswith("error")
    return is_failed and not backup["container"]


def has_increments(backup: Json) -> bool:
    """Whether increments of a backup are known, by which Cinder does not delete it."""
    return bool(backup.get("has_dependent_backups"))


class Backups:
    def __init__(self, api: Api) -> None:
        """`api` is Cinder's, its microversion negotiated (by Volumes)."""
        self._api = api
        self.watch = Watch(
            api.site,
            "backup",
            partial(api.pages, "/backups/detail", answers.BACKUPS),
            # `DELETE` sets it before it answers; a driver that fails leaves `error`.
            deleted_in=("deleting",),
        )

    def backups(self) -> list[Json]:
        """All backups of the project, with all details."""
        return self._api.all("/backups/detail", answers.BACKUPS)

    def create_backup(
        self,
        volume_id: str,
        snapshot_id: str | None,
        name: str,
        metadata: Mapping[str, str],
        *,
        incremental: bool,
    ) -> str:
        """Start a backup of a volume, from a snapshot of it if one is given, and return its id."""
        backup: Json = {
            "volume_id": volume_id,
            "name": name,
            "incremental": incremental,
            "force": True,
            "metadata": dict(metadata),
        }
        if snapshot_id is not None:
            backup["snapshot_id"] = snapshot_id
        return str(self._api.post("/backups", {"backup": backup}, answers.MADE_BACKUP)["id"])

    def restore_into(self, backup_id: str, volume_id: str) -> None:
        """Start writing a backup, its zeros included, into a volume that is available.

        Cinder calls the volume restoring-backup before it answers. The backup must be available:
        it is restored into one volume at a time.
        """
        wanted = {"restore": {"volume_id": volume_id}}
        self._api.post(f"/backups/{backup_id}/restore", wanted)

    def delete_backup(self, backup_id: str) -> None:
        """Delete a backup, its objects in the store included.

        Cinder refuses while increments rest on it.
        """
        self._api.delete(f"/backups/{backup_id}")

    def export_record(self, backup_id: str) -> tuple[str, str]:
        """The record of a backup: its service (driver class) and its URL (opaque).

        Administrators only.

        Raises:
            UnexpectedAnswer: it is no record of a backup.
        """
        path = f"/backups/{backup_id}/export_record"
        record = self._api.get(path, answers.EXPORTED_RECORD)
        read_record(record["backup_url"], f"{self._api.site}: backup {backup_id}")
        return record["backup_service"], record["backup_url"]

    def import_record(self, service: str, url: str) -> str:
        """Make a backup that is in the store known to this Cinder and return its id; it is not
        available yet. Administrators only.
        """
        # Raw, because openstacksdk 4.22 posts to the wrong path and with the wrong body.
        record = {"backup-record": {"backup_service": service, "backup_url": url}}
        return str(self._api.post("/backups/import_record", record, answers.MADE_BACKUP)["id"])

    def services_up(self) -> list[str]:
        """The hosts on which cinder-backup is up and enabled. Administrators only."""
        services = self._api.get("/os-services", answers.SERVICES, binary="cinder-backup")
        return [s["host"] for s in services if s["state"] == "up" and s["status"] == "enabled"]

    def may_exchange_records(self) -> bool:
        """Whether we are allowed to export and import records: asked by importing something that is
        no record, which changes nothing.
        """
        try:
            # In base64, as Cinder looks at that before it looks at the account.
            self.import_record("antipode", base64.b64encode(b"not a record").decode())
        except ApiError as error:
            return error.status != 403
        return True


def read_record(url: str, of: str = "a backup") -> dict[str, Any]:
    """What stands in a record's URL: base64 of the JSON of the backup's fields (Cinder:
    objects/backup.py, encode_record). `id` and `volume_id` are there.

    Args:
        of: what it is the record of, for the message.

    Raises:
        UnexpectedAnswer: it cannot be read.
    """
    try:
        fields = json.loads(base64.b64decode(url, validate=True))
    except (ValueError, RecursionError) as error:
        problem = answers.printable(f"{type(error).__name__}: {error}")
        raise UnexpectedAnswer(of, "export_record", problem) from error
    record: dict[str, Any] = answers.RECORD.check(fields, of, "export_record")
    return record

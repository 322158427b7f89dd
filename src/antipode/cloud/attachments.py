# SPDX-License-Identifier: Apache-2.0
"""Cinder's attachments of volumes to this host, without a server. A member of the project may make
them; what connects to the storage needs the storage's own rights beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from antipode.cloud import answers
from antipode.cloud.api import Api, Json


class Attachment(NamedTuple):
    """A volume that is connected to a host; `connection` may hold secrets, and is shown nowhere."""

    id: str
    connection: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Attachment({self.id})"


class Attachments:
    """Since microversion 3.44 (`os-complete`)."""

    def __init__(self, api: Api) -> None:
        """`api` is that of Cinder, its microversion negotiated (`Volumes`)."""
        self._api = api

    def create(self, volume_id: str, connector: Mapping[str, Any]) -> Attachment:
        """Keep an available volume from everybody else, and have its connection for a host (`POST
        /attachments` without a server).

        Args:
            connector: what the host is to the storage, as os-brick has it.

        Raises:
            ApiError: 400, the volume is not available.
        """
        wanted: Json = {"volume_uuid": volume_id, "connector": dict(connector)}
        made = self._api.post("/attachments", {"attachment": wanted}, answers.MADE_ATTACHMENT)
        return Attachment(str(made["id"]), made["connection_info"])

    def complete(self, attachment_id: str) -> None:
        """Say that the host is connected; the volume is in use then."""
        self._api.post(f"/attachments/{attachment_id}/action", {"os-complete": {}})

    def of(self, volume_id: str) -> dict[str, str | None]:
        """The attachments of a volume: id -> the server, None for a host's own."""
        rows = self._api.get("/attachments/detail", answers.VOLUME_ATTACHMENTS, volume_id=volume_id)
        return {r["id"]: r.get("instance") or None for r in rows if r["volume_id"] == volume_id}

    def delete(self, attachment_id: str) -> None:
        """End an attachment; the volume is available when it was the only one. One that is gone is
        fine.
        """
        self._api.delete(f"/attachments/{attachment_id}")

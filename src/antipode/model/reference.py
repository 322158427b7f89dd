# SPDX-License-Identifier: Apache-2.0
"""The real reference of a volume: what the storage of a site calls it, and where it is there.

Cinder keeps it nowhere: a volume that was managed, migrated or retyped may have another name in the
back end than that of its id.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from antipode.model.base import Model

LONGEST = 1024
"""Characters of a part of a reference."""
Line = Annotated[str, Field(max_length=LONGEST)]


class BackendReference(Model):
    """What a back end calls a volume, as far as the APIs of its site tell it to this user.

    It holds no secrets: of the data for a connection only what identifies the volume.
    """

    name: Line | None = None
    """the name in the back end, which Cinder's `manage` takes as `source-name`, such as
    `volume-<real id>`; None when nothing tells it for certain
    """
    driver_volume_type: Line | None = None
    """how it is connected: rbd, iscsi, fibre_channel, nfs …; None when it is not attached"""
    connection: Annotated[dict[Line, Line], Field(max_length=32)] = {}
    """what identifies it in a connection: `name` (RBD: pool/image), `target_iqn` and `target_lun`,
    `target_wwn`, `export` …
    """
    host: Line | None = None
    """os-vol-host-attr:host, `HOST@BACKEND#POOL`"""
    name_id: Line | None = None
    """os-vol-mig-status-attr:name_id: the id in its name, where that is not its own"""
    provider_id: Line | None = None
    """the id that the driver keeps of it"""
    location: Line | None = None
    """location_info of its pool: identifies the storage, for RBD by cluster (fsid) and pool"""
    missing: Annotated[list[Line], Field(max_length=8)] = []
    """what is not known of it, and why; one sentence each"""

    def __str__(self) -> str:
        """The reference on one line, as `HOST/NAME`."""
        name = self.name or self.provider_id or self._endpoint
        return "/".join(part for part in (self.host, name) if part) or "unknown"

    @property
    def _endpoint(self) -> str | None:
        """What stands for a name where a connection has none."""
        return " ".join(f"{k}={v}" for k, v in sorted(self.connection.items())) or None

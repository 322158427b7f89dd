# SPDX-License-Identifier: Apache-2.0
"""Cinder, put together from its parts."""

from __future__ import annotations

from collections.abc import Sequence

from antipode.sandbox.barbican import Barbican
from antipode.sandbox.cinder.attachments import Attachments
from antipode.sandbox.cinder.backups import Backups
from antipode.sandbox.cinder.failing_over import FailingOver
from antipode.sandbox.cinder.groups import Groups
from antipode.sandbox.cinder.managing import Managing
from antipode.sandbox.cinder.snapshots import Snapshots
from antipode.sandbox.cinder.storage import BACKEND, POOL, ZONE, Storage
from antipode.sandbox.cinder.types import Types
from antipode.sandbox.cinder.volumes import NEWEST, Volumes
from antipode.sandbox.database import Database, Json
from antipode.sandbox.glance import Glance
from antipode.sandbox.http import Call, Route, Service, filtered
from antipode.sandbox.store import Store


class Cinder(Service):
    type = "block-storage"
    prefix = "/volume"
    oldest = (3, 0)
    newest = NEWEST

    def __init__(
        self,
        storage: Storage,
        database: Database,
        glance: Glance,
        store: Store,
        keys: Barbican,
    ) -> None:
        self._storage = storage
        self._quotas = storage.quotas
        self.types = Types(storage)
        self.volumes = Volumes(storage, self.types, glance, keys)
        self.snapshots = Snapshots(storage)
        self._backups = Backups(storage, self.volumes, store, keys)
        self._failing_over = FailingOver(storage, database)
        self._groups = Groups(storage, self.types, self.snapshots, database)
        self.parts = [
            self.types,
            self.volumes,
            self.snapshots,
            Managing(storage, self.volumes, self.snapshots),
            Attachments(storage),
            self._backups,
            self._groups,
            self._failing_over,
        ]

    def routes(self) -> Sequence[Route]:
        quotas = "/v3/os-quota-sets/{project}"
        return [
            Route("GET", "/", self._versions, 300, open=True),
            Route("GET", "/v3", self._versions, open=True),
            Route("GET", "/v3/", self._versions, open=True),
            Route("GET", "/v3/os-availability-zone", self._zones),
            Route("GET", "/v3/os-services", self._services, admin=True),
            Route("GET", "/v3/scheduler-stats/get_pools", self._pools, admin=True),
            Route("GET", quotas, self._quota),
            Route("PUT", quotas, self._set_quota, admin=True),
            Route("GET", "/v3/limits", self._limits),
        ]

    def begin_again(self) -> None:
        """Continue or fail the work that was under way when the services were killed."""
        parts = (self._backups, self.snapshots, self.volumes, self._groups, self._failing_over)
        for part in parts:
            part.begin_again()

    async def _versions(self, call: Call) -> Json:
        version: Json = {"id": "v3.0", "status": "CURRENT", "updated": "2023-08-31T00:00:00Z"}
        return {
            "versions": [
                {
                    **version,
                    **self.microversions(),
                    "links": [{"rel": "self", "href": f"{call.base}{self.prefix}/v3/"}],
                    "media-types": [],
                }
            ]
        }

    async def _zones(self, call: Call) -> Json:
        return {"availabilityZoneInfo": [{"zoneName": ZONE, "zoneState": {"available": True}}]}

    async def _services(self, call: Call) -> Json:
        hosts = {
            "cinder-scheduler": f"cinder-{self._storage.site}",
            "cinder-volume": f"cinder-{self._storage.site}@{BACKEND}",
        }
        hosts["cinder-backup"] = f"cinder-{self._storage.site}"
        rows = [
            {
                "binary": binary,
                "host": host,
                "zone": ZONE,
                "status": "enabled",
                "state": "up",
                "updated_at": self._storage.now(),
            }
            for binary, host in hosts.items()
        ]
        for row in rows:
            if row["binary"] == "cinder-volume":
                row |= self._failing_over.service()
        return {"services": filtered(call, rows, "binary", "host")}

    async def _pools(self, call: Call) -> Json:
        pool: Json = {"name": self._storage.host}
        if call.query.get("detail", "").lower() in ("true", "1"):
            cluster = self._storage.cluster
            pool["capabilities"] = {
                "volume_backend_name": BACKEND,
                "storage_protocol": "ceph",
                "vendor_name": "Open Source",
                **self._failing_over.capabilities(),
                **self._of_groups(),
                "location_info": f"ceph:/etc/ceph/ceph.conf:{cluster}:cinder:{POOL}",
            }
        return {"pools": [pool]}

    def _of_groups(self) -> Json:
        """What the back end reports of group snapshots: nothing, as RBD's driver."""
        able = self._storage.conditions.consistent_groups
        return {"consistent_group_snapshot_enabled": True} if able else {}

    async def _quota(self, call: Call, project: str) -> Json:
        self._quotas.refuse_others(call, project, "volume_extension:quotas:show")
        if call.query.get("usage", "").lower() != "true":
            return {"quota_set": {"id": project, **self._quotas.limits_of(project)}}
        rows = {
            name: {**row, "allocated": 0} for name, row in self._quotas.details_of(project).items()
        }
        return {"quota_set": {"id": project, **rows}}

    async def _set_quota(self, call: Call, project: str) -> Json:
        return {"quota_set": self._quotas.change(project, call.part("quota_set"))}

    async def _limits(self, call: Call) -> Json:
        limits, used = (
            self._quotas.limits_of(call.caller.project_id),
            self._quotas.usage_of(call.caller.project_id),
        )
        absolute = {
            "maxTotalVolumes": limits["volumes"],
            "maxTotalVolumeGigabytes": limits["gigabytes"],
            "maxTotalSnapshots": limits["snapshots"],
            "maxTotalBackups": limits["backups"],
            "maxTotalBackupGigabytes": limits["backup_gigabytes"],
            "totalVolumesUsed": used["volumes"],
            "totalGigabytesUsed": used["gigabytes"],
            "totalSnapshotsUsed": used["snapshots"],
            "totalBackupsUsed": used["backups"],
            "totalBackupGigabytesUsed": used["backup_gigabytes"],
        }
        return {"limits": {"rate": [], "absolute": absolute}}

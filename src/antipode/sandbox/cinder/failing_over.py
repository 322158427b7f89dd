# SPDX-License-Identifier: Apache-2.0
"""The back end of an embedded site fails over to a replication target and back, as Cinder's own API
offers it; with the condition `replication_target`, which stands for a `replication_device`.

Only what Cinder knows of it is played: states, and which target serves. The bytes stay where they
are.
"""

from __future__ import annotations

from collections.abc import Sequence

from antipode.sandbox.cinder.storage import Storage
from antipode.sandbox.conditions import OperationFailed
from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Part, Refused, Route

REPLICATED = ("enabled", "failed-over")
DEFAULT = "default"
"""As which target a failback is asked for."""


class FailingOver(Part):
    def __init__(self, storage: Storage, database: Database) -> None:
        self._storage = storage
        self._kept = database.table("volume_service")

    def routes(self) -> Sequence[Route]:
        services = "/v3/os-services"
        return [
            Route("PUT", f"{services}/failover_host", self._fail_over, 202, admin=True),
            Route("PUT", f"{services}/failover", self._fail_over, 202, admin=True),
        ]

    def begin_again(self) -> None:
        """After the services were killed: a failover that was under way has failed."""
        for service in self._kept:
            if service["replication_status"] == "failing-over":
                self._kept.keep(service, replication_status="failover-error", disabled=True)

    def service(self) -> Json:
        """What the volume service says of itself beside its state."""
        service = self._row()
        is_able = self._storage.conditions.replication_target is not None
        status = service["replication_status"]
        return {
            "status": "disabled" if service["disabled"] else "enabled",
            "disabled_reason": service["disabled_reason"],
            "replication_status": status or ("enabled" if is_able else "disabled"),
            "active_backend_id": service["active_backend_id"],
            "frozen": False,
        }

    def capabilities(self) -> Json:
        """What the scheduler says of the pool."""
        target = self._storage.conditions.replication_target
        if target is None:
            return {"replication_enabled": False}
        return {"replication_enabled": True, "replication_targets": [target]}

    def _row(self) -> Json:
        host = self._storage.host.partition("#")[0]
        known = self._kept.get(host)
        return known or {
            "id": host,
            "replication_status": None,
            "active_backend_id": None,
            "disabled": False,
            "disabled_reason": None,
        }

    async def _fail_over(self, call: Call) -> None:
        host, target = str(call.body.get("host")), call.body.get("backend_id")
        service = self._row()
        if host != service["id"]:
            raise Refused(400, f"Invalid input received: Service {host} could not be found.")
        if (now := self.service())["replication_status"] not in REPLICATED:
            raise Refused(
                400,
                "Invalid input received: No service could be changed: replication_status in"
                f" ['{host}'] must be 'enabled' or 'failed-over' and must be up to failover.",
            )
        before = now["replication_status"]
        self._kept.keep(service, replication_status="failing-over")
        self._storage.start(self._changed(service, target, before))

    async def _changed(self, service: Json, target: str | None, before: str) -> None:
        known = self._storage.conditions.replication_target
        replicated = self._replicated()
        if target != DEFAULT:  # before the target is looked at (cinder/volume/manager.py, failover)
            for volume in self._storage.volumes:
                if volume["id"] not in replicated:
                    self._storage.volumes.keep(
                        volume, status="error", replication_status="not-capable"
                    )
        if target not in (None, DEFAULT, known):  # InvalidReplicationTarget
            self._kept.keep(service, replication_status=before)
            return
        try:
            await self._storage.conditions.take("backend.failover")
        except OperationFailed:
            self._kept.keep(
                service,
                replication_status="failover-error",
                disabled=True,
                disabled_reason=None,
            )
            return
        is_back = target == DEFAULT
        status = "enabled" if is_back else "failed-over"
        for volume in map(self._storage.volumes.__getitem__, replicated):
            self._storage.volumes.keep(volume, replication_status=status)
        self._kept.keep(
            service,
            replication_status=status,
            active_backend_id="" if is_back else known,
            disabled=not is_back,
            disabled_reason="" if is_back else "failed-over",
        )

    def _replicated(self) -> list[str]:
        return [v["id"] for v in self._storage.volumes if v["replication_status"] in REPLICATED]

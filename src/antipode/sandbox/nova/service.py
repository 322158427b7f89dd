# SPDX-License-Identifier: Apache-2.0
"""Nova, put together from its parts."""

from __future__ import annotations

from collections.abc import Sequence

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Route, Service, filtered
from antipode.sandbox.nova.actions import Actions
from antipode.sandbox.nova.attachments import Attachments
from antipode.sandbox.nova.booting import ZONE, Booting
from antipode.sandbox.nova.flavors import Flavors
from antipode.sandbox.nova.keypairs import Keypairs
from antipode.sandbox.nova.quiescing import Quiescing
from antipode.sandbox.nova.server_groups import ServerGroups
from antipode.sandbox.nova.server_images import ServerImages
from antipode.sandbox.nova.servers import Infrastructure, Servers
from antipode.sandbox.quotas import Quotas
from antipode.sandbox.work import Work

QUOTAS = {
    "instances": 200,
    "cores": 400,
    "ram": 2_000_000,
    "key_pairs": 100,
    "metadata_items": 128,
    "server_groups": 10,
    "server_group_members": 10,
}


class Nova(Service):
    type = "compute"
    prefix = "/compute"
    oldest = (2, 1)
    newest = (2, 103)

    def __init__(
        self,
        site: str,
        database: Database,
        conditions: Conditions,
        work: Work,
        infrastructure: Infrastructure,
        add_on: bool,
    ) -> None:
        """`add_on`: whether the quiesce add-on is installed."""
        self._site = site
        self._quotas = Quotas(database.table("compute_quota"), lambda: QUOTAS)
        self.flavors = Flavors(database)
        keypairs, groups = Keypairs(database, conditions), ServerGroups(database, self._quotas)
        self.servers = Servers(
            site, database, conditions, work, infrastructure, groups, self._quotas
        )
        booting = Booting(self.servers, self.flavors, keypairs, groups, infrastructure)
        quiescing = [Quiescing(self.servers)] if add_on else []
        actions = Actions(self.servers, ServerImages(self.servers, infrastructure), *quiescing)
        attachments = Attachments(self.servers, infrastructure.storage, infrastructure.neutron)
        self.parts = [
            self.servers,
            booting,
            actions,
            attachments,
            self.flavors,
            keypairs,
            groups,
            *quiescing,
        ]

    def routes(self) -> Sequence[Route]:
        quotas = "/v2.1/os-quota-sets/{project}"
        return [
            Route("GET", "/", self._versions, open=True),
            Route("GET", "/v2.1", self._version, open=True),
            Route("GET", "/v2.1/", self._version, open=True),
            Route("GET", "/v2.1/os-availability-zone", self._zones),
            Route("GET", "/v2.1/os-services", self._services, admin=True),
            Route("GET", quotas, self._quota),
            Route("GET", f"{quotas}/detail", self._quota_details),
            Route("PUT", quotas, self._set_quota, admin=True),
            Route("GET", "/v2.1/limits", self._limits),
        ]

    async def _versions(self, call: Call) -> Json:
        return {"versions": [self._describe(call)]}

    async def _version(self, call: Call) -> Json:
        return {"version": self._describe(call)}

    def _describe(self, call: Call) -> Json:
        links = [{"rel": "self", "href": f"{call.base}{self.prefix}/v2.1/"}]
        return {
            "id": "v2.1",
            "status": "CURRENT",
            "updated": "2013-07-23T11:33:21Z",
            "links": links,
            **self.microversions(),
        }

    async def _zones(self, call: Call) -> Json:
        return {
            "availabilityZoneInfo": [
                {"zoneName": ZONE, "zoneState": {"available": True}, "hosts": None}
            ]
        }

    async def _services(self, call: Call) -> Json:
        binaries = {
            "nova-scheduler": "internal",
            "nova-conductor": "internal",
            "nova-compute": ZONE,
        }
        rows = [
            {
                "id": b,
                "binary": b,
                "host": self._site,
                "zone": z,
                "status": "enabled",
                "state": "up",
            }
            for b, z in binaries.items()
        ]
        return {"services": filtered(call, rows, "binary", "host")}

    async def _quota(self, call: Call, project: str) -> Json:
        self._quotas.refuse_others(call, project, "os_compute_api:os-quota-sets:show")
        return {"quota_set": {"id": project, **self._quotas.limits_of(project)}}

    async def _quota_details(self, call: Call, project: str) -> Json:
        self._quotas.refuse_others(call, project, "os_compute_api:os-quota-sets:show")
        return {"quota_set": {"id": project, **self._quotas.details_of(project)}}

    async def _set_quota(self, call: Call, project: str) -> Json:
        return {"quota_set": self._quotas.change(project, call.part("quota_set"))}

    async def _limits(self, call: Call) -> Json:
        limits, used = (
            self._quotas.limits_of(call.caller.project_id),
            self._quotas.usage_of(call.caller.project_id),
        )
        absolute = {
            "maxTotalInstances": limits["instances"],
            "maxTotalCores": limits["cores"],
            "maxTotalRAMSize": limits["ram"],
        }
        absolute |= {
            "totalInstancesUsed": used["instances"],
            "totalCoresUsed": used["cores"],
            "totalRAMUsed": used["ram"],
        }
        return {"limits": {"rate": [], "absolute": absolute}}

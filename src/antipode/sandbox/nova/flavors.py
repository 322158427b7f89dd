# SPDX-License-Identifier: Apache-2.0
"""Flavors."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Part, Refused, Route, Version, page

EPHEMERAL = "OS-FLV-EXT-DATA:ephemeral"
"""The size of a disk in GiB that ends with its server."""


class Flavors(Part):
    def __init__(self, database: Database) -> None:
        self._flavors = database.table("flavor")

    def routes(self) -> Sequence[Route]:
        flavors = "/v2.1/flavors"
        return [
            Route("GET", flavors, self._list),
            Route("GET", f"{flavors}/detail", self._list),
            Route("POST", flavors, self._create, admin=True),
            Route("GET", f"{flavors}/{{item}}", self._show),
            Route("DELETE", f"{flavors}/{{item}}", self._delete, 202, admin=True),
            Route("GET", f"{flavors}/{{item}}/os-extra_specs", self._specs),
            Route("POST", f"{flavors}/{{item}}/os-extra_specs", self._add_specs, admin=True),
        ]

    def __len__(self) -> int:
        return len(self._flavors)

    def _find(self, flavor_id: str) -> Json:
        flavor = self._flavors.get(flavor_id)
        if flavor is None:
            raise Refused(404, f"Flavor {flavor_id} could not be found.")
        return flavor

    def wanted(self, flavor_id: str) -> Json:
        """The flavor that a new server asks for; refused with 400 when there is none."""
        flavor = self._flavors.get(flavor_id)
        if flavor is None:
            raise Refused(400, f"Flavor {flavor_id} could not be found.")
        return flavor

    def _view(self, flavor: Json, version: Version) -> Json:
        shown = {**flavor, "links": []}
        if version < (2, 61):
            del shown["extra_specs"]
        return shown

    async def _list(self, call: Call) -> Json:
        if call.request.path.endswith("/detail"):
            return page(
                call, "flavors", list(self._flavors)[::-1], lambda f: self._view(f, call.version)
            )
        return page(
            call,
            "flavors",
            list(self._flavors)[::-1],
            lambda f: {"id": f["id"], "name": f["name"], "links": []},
        )

    async def _show(self, call: Call, item: str) -> Json:
        return {"flavor": self._view(self._find(item), call.version)}

    async def _specs(self, call: Call, item: str) -> Json:
        return {"extra_specs": self._find(item)["extra_specs"]}

    async def _add_specs(self, call: Call, item: str) -> Json:
        flavor, wanted = self._find(item), call.part("extra_specs")
        self._flavors.keep(flavor, extra_specs={**flavor["extra_specs"], **wanted})
        return {"extra_specs": wanted}

    async def _create(self, call: Call) -> Json:
        wanted = call.part("flavor")
        if self._flavors.where(lambda f: f["name"] == wanted["name"]):
            raise Refused(409, f"Flavor with name {wanted['name']} already exists.")
        flavor_id = wanted.get("id") if wanted.get("id") not in (None, "auto") else None
        flavor = self.make(
            wanted["name"], int(wanted["vcpus"]), int(wanted["ram"]), int(wanted["disk"]), flavor_id
        )
        disks = {name: int(wanted.get(name) or 0) for name in ("swap", EPHEMERAL)}
        return {"flavor": self._view(self._flavors.keep(flavor, **disks), call.version)}

    def make(
        self, name: str, vcpus: int, ram: int, disk: int, flavor_id: str | None = None
    ) -> Json:
        """A public flavor; `ram` in MiB, `disk` in GiB."""
        flavor: Json = {
            "id": flavor_id or str(uuid.uuid4()),
            "name": name,
            "vcpus": vcpus,
            "ram": ram,
            "disk": disk,
            "swap": 0,
        }
        flavor |= {
            EPHEMERAL: 0,
            "OS-FLV-DISABLED:disabled": False,
            "os-flavor-access:is_public": True,
        }
        return self._flavors.keep(
            {**flavor, "rxtx_factor": 1.0, "description": None, "extra_specs": {}}
        )

    async def _delete(self, call: Call, item: str) -> None:
        self._flavors.drop(self._find(item)["id"])

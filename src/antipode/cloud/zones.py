# SPDX-License-Identifier: Apache-2.0
"""Designate of one place: zones and their record sets, which it brings to name servers after its
answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from antipode.cloud import answers
from antipode.cloud.api import Api, Json

MOST = 1000
"""Items that a listing is asked for: names that begin with an asterisk match many."""


class Zones:
    def __init__(self, api: Api) -> None:
        self._api = api

    def zone(self, name: str) -> Json | None:
        """The zone of a name (with its last dot); None where the project has none."""
        found = self._api.get("/zones", answers.DNS_ZONES, name=name, limit=MOST)
        return next((zone for zone in found if zone["name"] == name), None)

    def record_set(self, zone_id: str, name: str, kind: str) -> Json | None:
        """The records of a name (with its last dot) and type."""
        found = self._api.get(
            f"/zones/{zone_id}/recordsets", answers.RECORD_SETS, name=name, type=kind, limit=MOST
        )
        return next((s for s in found if (s["name"], s["type"]) == (name, kind)), None)

    def create(self, zone_id: str, name: str, kind: str, ttl: int, records: Sequence[str]) -> None:
        """Make the records of a name (`POST /v2/zones/ID/recordsets`).

        Raises:
            ApiError: 409, there are some; or it is refused.
        """
        body = {"name": name, "type": kind, "ttl": ttl, "records": list(records)}
        self._api.post(f"/zones/{zone_id}/recordsets", body)

    def change(self, zone_id: str, set_id: str, ttl: int, records: Sequence[str]) -> None:
        """Replace records (`PUT /v2/zones/ID/recordsets/ID`), whatever they are."""
        body = {"ttl": ttl, "records": list(records)}
        self._api.call("PUT", f"/zones/{zone_id}/recordsets/{set_id}", body)

    def delete(self, zone_id: str, set_id: str) -> None:
        self._api.delete(f"/zones/{zone_id}/recordsets/{set_id}")

# SPDX-License-Identifier: Apache-2.0
"""Records of a zone in Designate.

Its API changes records whatever they are (it ignores If-Match), so they are compared just before.
A change is in its database at once, and at its name servers when its status is ACTIVE.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import connect_zones
from antipode.config import Config
from antipode.errors import DnsRecordChanged, DnsRefused, DnsUnreachable, SiteUnreachable
from antipode.model.dns import RecordSet, RecordType
from antipode.recover.dns import DnsProvider

if TYPE_CHECKING:
    from antipode.cloud.zones import Zones

_PASSES = (429, 500, 502, 503, 504)


class Designate(DnsProvider):
    def __init__(self, name: str, config: Config) -> None:
        super().__init__(name, config)
        settings = config.dns[name].designate
        assert settings is not None  # chosen by it
        self._cloud = settings.cloud or config.site(settings.site or "").cloud
        self._label = settings.site or f"cloud {self._cloud}"
        self._connected: list[Zones] = []
        self._connecting = threading.Lock()

    @property
    def place(self) -> str:
        return f"Designate of {self._label}"

    def read(self, name: str, kind: RecordType) -> RecordSet | None:
        with self._answering(f"the question for {name} {kind}"):
            zone, found = self._found(name, kind)
            if found is not None:
                return _record_set(zone, found)
            if kind != "CNAME" and self._found(name, "CNAME")[1] is not None:
                raise DnsRecordChanged(
                    f"{name} is an alias in zone {self.zone} of {self.place}, and has no {kind}"
                    " records. Remove the CNAME, or write it as such in the VNF file"
                )
            return None

    def replace(self, old: RecordSet | None, new: RecordSet | None) -> None:
        subject = new or old
        assert subject is not None
        with self._answering(f"a change of {subject.key}"):
            zone, found = self._found(subject.name, subject.type)
            present = None if found is None else _record_set(zone, found)
            if (present and present.values) != (old and old.values):
                raise DnsRecordChanged(
                    f"{self.place} has {present or 'none'} for {subject.key} by now"
                )
            self._go_on()
            if new is None:
                assert found is not None  # as it is the old one
                self._zones.delete(zone["id"], found["id"])
            elif found is None:
                self._create(zone, new)
            else:
                self._zones.change(zone["id"], found["id"], new.ttl, _written(new))

    def try_rights(self, present: RecordSet | None, wanted: RecordSet) -> str:
        """Records that exist are made once more, which Designate refuses as doubles after it has
        looked at our rights.
        """
        with self._answering(f"a change of {wanted.key}"):
            zone, _ = self._found(wanted.name, wanted.type)
            if zone["status"] != "ACTIVE":
                raise DnsUnreachable(
                    f"zone {self.zone} of {self.place} is {zone['status']}: its changes come to no"
                    " name server now"
                )
            if present is None:
                return f"{self.place} has the zone; whether it takes new records is not tried"
            self._go_on()
            with suppress(DnsRecordChanged):  # as it should
                self._create(zone, present)
            return f"{self.place} takes changes of it"

    def behind(self, wanted: RecordSet) -> list[str]:
        with self._answering(f"the question for {wanted.key}"):
            _, found = self._found(wanted.name, wanted.type)
        if found is not None and found["status"] != "ACTIVE":
            return [f"{self.place} has it as {found['status']}, and not at its name servers"]
        return super().behind(wanted)

    @property
    def _zones(self) -> Zones:
        with self._connecting:
            if not self._connected:
                there = connect_zones(self.place, self._cloud, api_timeout_s=self._timeout_s)
                self._connected.append(there)
            return self._connected[0]

    def _found(self, name: str, kind: RecordType) -> tuple[Json, Json | None]:
        """The zone, and the records of a name and type in it."""
        zone = self._zones.zone(f"{self.zone}.")
        if zone is None:
            raise DnsRefused(
                f"{self.place} has no zone {self.zone} for the project of cloud {self._cloud}"
            )
        return zone, self._zones.record_set(zone["id"], f"{name}.", kind)

    def _create(self, zone: Json, records: RecordSet) -> None:
        try:
            self._zones.create(
                zone["id"], f"{records.name}.", records.type, records.ttl, _written(records)
            )
        except ApiError as error:
            if error.status == 409:
                raise DnsRecordChanged(
                    f"{self.place} has records for {records.key} by now"
                ) from error
            raise

    @contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        try:
            yield
        except SiteUnreachable as error:
            raise DnsUnreachable(f"{self.place} does not answer: {error}") from error
        except ApiError as error:
            if error.status in _PASSES:
                raise DnsUnreachable(f"{self.place} cannot answer now: {error}") from error
            raise DnsRefused(f"{self.place} refuses {what}: {error}") from error


def _record_set(zone: Json, found: Json) -> RecordSet:
    values = sorted(str(r).lower().removesuffix(".") for r in found["records"])
    ttl = zone["ttl"] if found["ttl"] is None else found["ttl"]
    return RecordSet(name=found["name"], type=found["type"], ttl=ttl, values=tuple(values))


def _written(records: RecordSet) -> list[str]:
    """The values as Designate has them."""
    return [f"{v}." if records.type == "CNAME" else v for v in records.values]

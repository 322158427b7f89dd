# SPDX-License-Identifier: Apache-2.0
"""A zone in memory, in the place of a DNS server: it compares and changes in one step, as one that
takes updates does, and fails where a test wants it to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.errors import DnsRecordChanged, DnsRefused
from antipode.model.dns import RecordSet, RecordType
from antipode.recover.dns import DnsProvider

if TYPE_CHECKING:
    import pytest

ZONE = "vnf.example"
SETTINGS = {"rfc2136": {"server": "192.0.2.53", "zone": ZONE, "key_file": "/k"}, "within": 0.001}
CONFIG = Config.model_validate(
    {"sites": {"a": {"cloud": "a"}}, "vault": {"directory": "/v"}, "dns": {"core": SETTINGS}}
)


class FakeZone(DnsProvider):
    """One zone; `asked` has every call."""

    def __init__(self) -> None:
        super().__init__("core", CONFIG)
        self.records: dict[str, RecordSet] = {}
        self.asked: list[str] = []
        self.fails: Exception | None = None
        self.denies = False
        self.lagging: list[str] = []

    @property
    def place(self) -> str:
        return "the zone of the test"

    def read(self, name: str, kind: RecordType) -> RecordSet | None:
        self._ask(f"read {name} {kind}")
        return self.records.get(f"{name} {kind}")

    def replace(self, old: RecordSet | None, new: RecordSet | None) -> None:
        subject = new or old
        assert subject is not None
        self._go_on()
        self._ask(f"replace {subject.key}")
        if self.denies:
            raise DnsRefused("no right")
        now = self.records.pop(subject.key, None)
        if (now and now.values) != (old and old.values):
            if now is not None:
                self.records[subject.key] = now
            raise DnsRecordChanged(f"{subject.key} is {now}")
        if new is not None:
            self.records[subject.key] = new

    def try_rights(self, present: RecordSet | None, wanted: RecordSet) -> str:
        self._ask(f"try {wanted.key}")
        if self.denies:
            raise DnsRefused("no right")
        return "it may be changed"

    def behind(self, wanted: RecordSet) -> list[str]:
        return self.lagging

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.fails is not None:
            raise self.fails


def serves(zone: FakeZone, patch: pytest.MonkeyPatch) -> FakeZone:
    """Have the zone be the DNS provider of every deployment."""
    patch.setattr(Deployment, "dns", lambda _self, _wanted=None: zone)
    return zone

# SPDX-License-Identifier: Apache-2.0
"""Where records in DNS are switched: one module per kind of provider."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

from antipode.config import Config
from antipode.model.dns import RecordSet, RecordType
from antipode.registry import Registry


class DnsProvider(ABC):
    """One zone. A change names what it replaces, so that it is harmless to repeat it, and what
    somebody else has written stays.
    """

    def __init__(self, name: str, config: Config) -> None:
        """`name`: in the configuration."""
        settings = config.dns[name]
        self.name = name
        self.zone = settings.zone
        self.within_s = settings.within
        self._timeout_s = settings.timeout
        self._secondaries: Sequence[str] = settings.secondaries
        self._go_on: Callable[[], None] = lambda: None

    def under(self, go_on: Callable[[], None]) -> Self:
        """This provider as one run uses it: `go_on` is called before each change, and raises when
        the run must change nothing more.
        """
        view = copy.copy(self)
        view._go_on = go_on
        return view

    @property
    @abstractmethod
    def place(self) -> str:
        """The server, for messages."""

    @abstractmethod
    def read(self, name: str, kind: RecordType) -> RecordSet | None:
        """The records of a name, as their authority has them; None where there are none.

        Raises:
            DnsUnreachable: it does not answer.
            DnsRefused: it does not have the zone, or refuses us.
            DnsRecordChanged: the name is an alias, and an address was asked for.
        """

    @abstractmethod
    def replace(self, old: RecordSet | None, new: RecordSet | None) -> None:
        """Replace the records of one name and type, if they still are the old ones.

        Args:
            old, new: None where there are none before, or none afterwards; one of them is given.

        Raises:
            DnsRecordChanged: they are others now; nothing was changed.
            DnsRefused: it refuses the change.
            DnsUnreachable: no answer came. It may have been done.
        """

    @abstractmethod
    def try_rights(self, present: RecordSet | None, wanted: RecordSet) -> str:
        """Find out whether we may change the records of one name and type, by a request that
        changes nothing; what was found, in words.

        Args:
            present: the records as they are.

        Raises:
            DnsRefused: we may not.
            DnsUnreachable: no answer came.
        """

    def behind(self, wanted: RecordSet) -> list[str]:
        """The servers that do not have these records yet, and what they have.

        Raises:
            DnsFailed: they will never have them.
        """
        from antipode.recover.dns import queries  # with dnspython, which most commands do not need

        there = {s: queries.seen_at(s, wanted, self._timeout_s) for s in self._secondaries}
        return [f"{server} {has}" for server, has in there.items() if has is not None]

    def has(self, name: str) -> bool:
        """Whether a name is in the zone."""
        return name == self.zone or name.endswith(f".{self.zone}")


Make = Callable[[str, Config], DnsProvider]
DNS_PROVIDERS: Registry[Make] = Registry(
    "kind of DNS provider",
    {
        "rfc2136": "antipode.recover.dns.rfc2136:Rfc2136",
        "designate": "antipode.recover.dns.designate:Designate",
    },
)


def connect(name: str, config: Config) -> DnsProvider:
    """A provider of the configuration; nothing is asked yet."""
    return DNS_PROVIDERS.get(config.dns[name].kind)(name, config)

# SPDX-License-Identifier: Apache-2.0
"""Records in DNS that lead users to a VNF: as the VNF file defines them, as they are, and how a
recovery changes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from antipode.model.base import Model, parse_duration

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
RecordType = Literal["A", "AAAA", "CNAME"]


def host_name(text: str) -> str:
    """A name in DNS as names are compared: absolute, in lower case, without the last dot.

    Raises:
        ValueError: it cannot be a name of a host, or of a zone.
    """
    name = text.lower().removesuffix(".")
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} is no name in DNS; write for example hlr.example.com")
    return name


HostName = Annotated[str, AfterValidator(host_name)]
Ttl = Annotated[int, BeforeValidator(parse_duration), Field(ge=0, le=604_800)]
"""Seconds that a resolver may keep a record; in a file also `30s`, `5m`, `1h`."""


def server_address(text: str) -> tuple[str, int]:
    """The address and port of a DNS server, as `192.0.2.53`, `192.0.2.53:5353` or
    `[2001:db8::53]:53`.

    Raises:
        ValueError: it is none.
    """
    with suppress(ValueError):
        return str(ip_address(text)), 53
    address, _, port = text.rpartition(":")
    with suppress(ValueError):
        found = ip_address(address.removeprefix("[").removesuffix("]"))
        if port.isascii() and port.isdigit() and 0 < int(port) < 65536:
            return str(found), int(port)
    raise ValueError(
        f"{text!r} is no address of a server; write for example 192.0.2.53, 192.0.2.53:5353 or"
        " [2001:db8::53]:53"
    )


def _server(text: str) -> str:
    server_address(text)
    return text


ServerAddress = Annotated[str, AfterValidator(_server)]
"""An address, with a port where it is not 53. A name would need the DNS that is to be changed."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class RecordSet(Model):
    """All records of one name and type."""

    name: HostName
    type: RecordType
    ttl: int
    """in seconds"""
    values: tuple[str, ...]
    """addresses, or the one name that it is an alias of; sorted"""

    @property
    def key(self) -> str:
        """Its name and type, as messages have them."""
        return f"{self.name} {self.type}"

    def __str__(self) -> str:
        return f"{', '.join(self.values)} (TTL {self.ttl} s)"


class DnsRecord(Model):
    """Records of one name that lead to the copy of a VNF that is active.

    An A or AAAA record has addresses of members, or of one port of no server; a CNAME has a target
    for each site.
    """

    name: HostName
    type: RecordType = "A"
    provider: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """one of `dns` in antipode.yaml; the only one by default"""
    members: Annotated[list[str], BeforeValidator(_as_list)] = []
    """each gives its first address of the type; one may be written without a list"""
    port: str | None = None
    """name or id of a port that belongs to no server, instead of members"""
    network: str | None = None
    """the one whose addresses are meant, by its name at the primary; by default that of the first
    interface with an address of the type
    """
    floating: bool = False
    """the floating IP that leads to the address, rather than the address itself"""
    targets: dict[str, HostName] = {}
    """site -> the name that a CNAME leads to while the VNF is active there"""
    ttl: Ttl = 60

    @model_validator(mode="after")
    def leads_somewhere(self) -> Self:
        if self.type == "CNAME":
            if self.members or self.port or self.network or self.floating or not self.targets:
                raise ValueError("a CNAME has targets, a name for each site, and nothing else")
            return self
        if self.targets:
            raise ValueError("targets are for a CNAME")
        if bool(self.members) == (self.port is not None):
            raise ValueError("give members, or a port that belongs to no server")
        if self.floating and self.type == "AAAA":
            raise ValueError("floating IPs are IPv4 addresses: an AAAA record has none")
        return self

    @property
    def key(self) -> str:
        """Its name and type, as messages have them."""
        return f"{self.name} {self.type}"

    def with_values(self, values: Iterable[str]) -> RecordSet:
        """The records with these values."""
        return RecordSet(
            name=self.name, type=self.type, ttl=self.ttl, values=tuple(sorted(set(values)))
        )


class DnsChange(Model):
    """How a recovery changes the records of one name and type."""

    provider: str
    new: RecordSet
    old: RecordSet | None = None
    """as they were when the change was planned; None where there were none, or it is not known"""
    is_known: bool = False
    """whether the server said what there was"""
    former: tuple[str, ...] = ()
    """the values that the records have while the VNF is at its former site, as far as known: with
    them they may be changed, though it was not known what there was
    """

    @property
    def key(self) -> str:
        """Name and type, as messages have them."""
        return self.new.key

    def __str__(self) -> str:
        record = f"DNS record {self.key}"
        if self.changes_nothing:
            return f"{record} is {self.new}, and stays so"
        if self.old is not None:
            kept = f"resolvers may keep the old one for {self.old.ttl} s"
            return f"{record} is changed: {self.old} -> {self.new}; {kept}"
        if self.is_known:
            return f"{record} is made: {self.new}"
        former = ", ".join(self.former) or "not known"
        return f"{record} becomes {self.new}, if it is {former}, or missing"

    @property
    def changes_nothing(self) -> bool:
        return self.is_known and self.old == self.new

    def may_replace(self, present: RecordSet | None) -> bool:
        """Whether what there is now is what it was planned for: no record of others is lost."""
        if present is None:
            return not self.is_known or self.old is None
        if present.values == self.new.values:
            return True
        known = self.old.values if self.old else None
        return present.values == (known if self.is_known else self.former)

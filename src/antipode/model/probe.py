# SPDX-License-Identifier: Apache-2.0
"""How one recovered member is asked whether it answers, and which copy of it may answer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from antipode.errors import InvalidInput
from antipode.model.runbook import ALL, Everything
from antipode.model.vnf import Answers, HttpProbe


class Reach(StrEnum):
    """The copies of a member that may answer a probe."""

    THIS_SITE = "this-site"
    """the address leads to the recovering site only, or the copy at the other site has another"""
    EITHER_SITE = "either-site"
    """the fixed address, which the copy at the other site has too"""
    COMMAND = "command"
    """the copy that the operator's command asks"""


_HARMLESS = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]*")
"""No option of a command, and nothing that a shell would take for more than a word."""


@dataclass(frozen=True)
class Probe:
    """A TCP connection to `address`, a GET of it, a command, or a text in the console log."""

    address: str
    port: int | None
    command: tuple[str, ...]
    reaches: Reach
    console: str | None = None
    http: HttpProbe | None = None
    variables: Everything | tuple[str, ...] = ()
    """what the command gets of antipode's environment beside what all programs get"""

    @classmethod
    def of(
        cls,
        answers: Answers,
        site: str,
        server: str,
        fixed_address: str,
        *,
        is_moved: bool = False,
    ) -> Probe:
        """The probe of a server at the site where it is recovered.

        Args:
            fixed_address: the one that is asked, as `asked_address`; empty when it has none.
            is_moved: whether the copy at the other site has another address.

        Raises:
            InvalidInput: a name or an address, which may come from a recovery point, is not
                harmless as a word of a command.
        """
        values = {"{site}": site, "{server}": server, "{address}": fixed_address}
        words = answers.command or []
        for word in words:
            for placeholder, value in values.items():
                if placeholder in word and value and not _HARMLESS.fullmatch(value):
                    raise InvalidInput(
                        f"{value!r} does not become part of a command: it holds more than letters,"
                        f" digits and -._: (the probe of {server} uses {placeholder})"
                    )
        return cls(
            address=answers.at.get(site, fixed_address),
            port=_port(answers.http) if answers.http else answers.tcp,
            command=tuple(_filled_in(word, values) for word in words),
            reaches=Reach.COMMAND
            if words
            else Reach.THIS_SITE
            if site in answers.at or is_moved or answers.console is not None
            else Reach.EITHER_SITE,
            console=answers.console,
            http=answers.http,
            variables=ALL if answers.variables == ALL else tuple(answers.variables),
        )

    def is_in(self, log: str) -> bool:
        """Whether a line of a console log has the text; a `*` in it stands for any text."""
        return _has_line(log, self.console or "")

    def is_body(self, body: str) -> bool:
        """Whether a line of an answer has the text that is expected, if one is."""
        wanted = self.http.body if self.http else None
        return wanted is None or _has_line(body, wanted)

    @property
    def url(self) -> str:
        """What is asked for by a GET."""
        assert self.http is not None and self.port is not None  # the port of a GET is never open
        scheme = "https" if self.http.tls else "http"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{scheme}://{host}:{self.port}{self.http.path}"

    def __str__(self) -> str:
        if self.console is not None:
            return f"{self.console!r} in the console log"
        if self.http is not None:
            name = f" as {self.http.host}" if self.http.host else ""
            status = " or ".join(map(str, self.http.status))
            text = f" and {self.http.body!r}" if self.http.body else ""
            unsafe = "" if self.http.verify else ", whatever its certificate"
            return f"GET {self.url}{name}: {status}{text}{unsafe}"
        if self.port:
            return f"TCP {self.address}:{self.port}"
        known = "the whole environment" if self.variables == ALL else ", ".join(self.variables)
        return shlex.join(self.command) + (f", with {known}" if known else "")


def asked_address(ports: Iterable[Iterable[str]]) -> str:
    """The address that a probe asks: of the first port that has one, IPv4 before IPv6, as
    antipode's host need not have the latter; empty where no port has one.

    Args:
        ports: the fixed addresses of each port of a server, in order.
    """
    for addresses in ports:
        if found := sorted(addresses, key=lambda address: ":" in address):
            return found[0]
    return ""


def cannot_connect(server: str) -> str:
    """That a probe has no address to connect to, in a sentence."""
    return (
        f"server {server} has no fixed address, and its probe connects to one; give `answers` an"
        " address of each site (`at`), a command or a text in the console log"
    )


def _port(http: HttpProbe) -> int:
    return http.port or (443 if http.tls else 80)


def _has_line(text: str, wanted: str) -> bool:
    parts = wanted.split("*")
    return any(_in_order(parts, line) for line in text.splitlines())


def _in_order(parts: Sequence[str], line: str) -> bool:
    at = 0
    for part in parts:
        if (found := line.find(part, at)) < 0:
            return False
        at = found + len(part)
    return True


def _filled_in(word: str, values: dict[str, str]) -> str:
    """Not `str.format`: a command may have braces of its own."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], word)

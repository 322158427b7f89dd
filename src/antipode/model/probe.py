"""How one recovered member is asked whether it answers, and whether the answer is surely its own."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from antipode.model.vnf import Answers


@dataclass(frozen=True)
class Probe:
    """A TCP connection to `address`, or a command.

    `names_site`: whether only the recovering site can answer. The fixed address of a member exists
    at both sites, so that the copy at the other site may answer a connection to it.
    """

    address: str
    port: int | None
    command: tuple[str, ...]
    names_site: bool

    @classmethod
    def of(cls, answers: Answers, site: str, server: str, fixed_address: str) -> Probe:
        """The probe of a server at the site where it is recovered.

        Args:
            fixed_address: the first fixed address of the server; empty when it has none.
        """
        values = {"{site}": site, "{server}": server, "{address}": fixed_address}
        words = answers.command or []
        return cls(
            address=answers.at.get(site, fixed_address),
            port=answers.tcp,
            command=tuple(_filled_in(word, values) for word in words),
            names_site=site in answers.at or any("{site}" in word for word in words),
        )

    def __str__(self) -> str:
        return f"TCP {self.address}:{self.port}" if self.port else shlex.join(self.command)


def _filled_in(word: str, values: dict[str, str]) -> str:
    """Not `str.format`: a command may have braces of its own."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], word)

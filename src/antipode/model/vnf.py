"""The VNF file: what an operator writes about one VNF."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from antipode.model.base import Model, Seconds

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""A name that is safe in resource names, object keys and paths."""


class Answers(Model):
    """How to see that a member answers: a TCP port accepts a connection, or a command exits with 0.

    `tcp` is a port of the first fixed address, which exists at both sites; `at` gives, by site, an
    address that leads to that site only. In `command`, `{site}`, `{server}` and `{address}` are
    replaced; it is run without a shell until it succeeds or `within` is over.
    """

    tcp: Annotated[int, Field(ge=1, le=65535)] | None = None
    at: dict[Name, Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:.-]+$")]] = {}
    command: Annotated[list[str], Field(min_length=1)] | None = None
    within: Seconds = 300.0

    @model_validator(mode="after")
    def exactly_one_way(self) -> Self:
        if (self.tcp is None) == (self.command is None):
            raise ValueError("give either tcp or command")
        if self.at and self.tcp is None:
            raise ValueError("at goes with tcp; a command has {site}")
        return self


class Member(Model):
    """One server of the VNF. The order of the members is the quiesce order."""

    server: str
    boot_before: list[str] = []
    boot_after: list[str] = []
    answers: Answers | None = None


class Quiesce(Model):
    timeout: Annotated[Seconds, Field(gt=0, le=600)] = 30.0
    """The longest time a member may stay frozen; past it the member is thawed whatever happens."""


class Mapping(Model):
    """How names at the primary translate at the backup site; what is not named keeps its name."""

    networks: dict[str, str] = {}
    volume_types: dict[str, str] = {}
    flavors: dict[str, str] = {}
    security_groups: dict[str, str] = {}
    availability_zones: dict[str, str] = {}


class Vnf(Model):
    """The definition of one VNF, as in its file."""

    vnf: Name
    primary: Name
    backup: Name
    option: Literal["quiesced-snapshot"] = "quiesced-snapshot"
    members: Annotated[list[Member], Field(min_length=1)]
    quiesce: Quiesce = Quiesce()
    map: Mapping = Mapping()

    @model_validator(mode="after")
    def is_consistent(self) -> Self:
        if self.primary == self.backup:
            raise ValueError(
                f"primary and backup are both {self.primary}; a VNF is recovered at another site"
            )
        names = [m.server for m in self.members]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"named twice as member: {', '.join(twice)}")
        for member in self.members:
            for other in (*member.boot_before, *member.boot_after):
                if other not in names:
                    raise ValueError(
                        f"boot order of {member.server} names {other}, which is not a member"
                    )
        self.boot_waves()
        return self

    def predecessors(self) -> dict[str, set[str]]:
        """For each member the members that must be there before it is booted."""
        before: dict[str, set[str]] = {m.server: set(m.boot_after) for m in self.members}
        for member in self.members:
            for other in member.boot_before:
                before[other].add(member.server)
        return before

    def boot_waves(self) -> list[list[str]]:
        """Members in waves: those of one wave may be booted at once, after all of the waves before.

        Raises:
            ValueError: the boot order has a cycle.
        """
        before = self.predecessors()
        waves: list[list[str]] = []
        done: set[str] = set()
        while len(done) < len(before):
            wave = [
                m.server for m in self.members if m.server not in done and before[m.server] <= done
            ]
            if not wave:
                raise ValueError(
                    f"boot order has a cycle among {', '.join(sorted(set(before) - done))}"
                )
            waves.append(wave)
            done |= set(wave)
        return waves

    def member(self, server: str) -> Member:
        return next(m for m in self.members if m.server == server)

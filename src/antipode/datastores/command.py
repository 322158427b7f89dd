# SPDX-License-Identifier: Apache-2.0
"""The data of an application by commands of the operator, one for each verb: a request as JSON on
their standard input, an answer as JSON on their standard output.

docs/concepts/application-data.md has the contract.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from antipode import processes
from antipode.datastores.application import Application, Data
from antipode.errors import AntipodeError, ResourceFailed, SiteUnreachable, UnexpectedAnswer
from antipode.model.base import Model, Name, Seconds
from antipode.model.datastore import Line, Standing, Verb

VERSION = 1
"""Of the contract."""
LARGEST_ANSWER = 64 << 10
"""Bytes."""
NO_ANSWER = 75
"""The exit code (EX_TEMPFAIL) of a command that cannot reach what it asks."""
WITHIN_S = {
    Verb.STATUS: 10.0,
    Verb.REFERENCE: 10.0,
    Verb.POINT: 10.0,
    Verb.PROMOTE: 120.0,
    Verb.DEMOTE: 120.0,
    Verb.RESYNC: 6 * 3600.0,
}
"""The time limit of each verb in seconds, where the settings name none."""
CHANGES = (Verb.PROMOTE, Verb.DEMOTE, Verb.RESYNC)
"""The verbs that change data."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Word = Annotated[str, Field(min_length=1, max_length=4096)]
Json = dict[str, Any]


class Settings(Model):
    """The commands for the data at one site."""

    commands: dict[Verb, Annotated[list[Word], Field(min_length=1, max_length=256)]]
    """verb -> the program and its arguments"""
    environment: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")],
        Annotated[str, Field(max_length=4096)],
    ] = Field(default_factory=dict)
    """what the commands get beside PATH and LANG; nothing of antipode's own environment"""
    secrets: dict[Name, Path] = Field(default_factory=dict)
    """files with secrets, whose paths a request has; antipode does not read them"""
    timeouts: dict[Verb, Annotated[Seconds, Field(gt=0, le=7 * 86400)]] = Field(
        default_factory=dict
    )
    """verb -> the seconds that its command may take"""

    @model_validator(mode="after")
    def can_be_used(self) -> Self:
        if missing := [v for v in (Verb.STATUS, Verb.REFERENCE) if v not in self.commands]:
            raise ValueError(f"there is no command for {' and '.join(missing)}")
        for verb, words in self.commands.items():
            if not words[0].startswith("/"):
                raise ValueError(f"the command for {verb} is no absolute path: {words[0]}")
        for name, path in self.secrets.items():
            if not path.is_absolute():
                raise ValueError(f"secret {name} is no absolute path: {path}")
        return self


class _Answer(BaseModel):
    """What every answer has. Members that this antipode does not know are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    version: Literal[1]


class _Status(_Answer, Standing):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _Reference(_Answer):
    reference: Line


class _Position(_Answer):
    position: Line


class _Demoted(_Answer):
    position: Line | None = None


Found = TypeVar("Found", bound=_Answer)


class ByCommands(Application):
    settings = Settings

    def __init__(self, name: str, site: str, settings: Model) -> None:
        super().__init__(name, site, settings)
        assert isinstance(settings, Settings)
        self._settings = settings

    @property
    def verbs(self) -> frozenset[Verb]:
        return frozenset(self._settings.commands)

    def problems(self) -> Iterator[str]:
        for verb, words in self._settings.commands.items():
            if not os.access(words[0], os.X_OK) or not Path(words[0]).is_file():
                yield f"{self.label}: {words[0]}, its command for {verb}, cannot be executed"
        for name, path in self._settings.secrets.items():
            try:
                mode = stat.S_IMODE(path.stat().st_mode)
            except OSError as error:
                yield f"{self.label}: secret {name} ({path}) cannot be used: {error.strerror}"
                continue
            if mode & 0o077:
                yield (
                    f"{self.label}: secret {name} ({path}) has mode {mode:04o}, and others may use"
                    f" it: chmod 600 {path}"
                )

    def status(self, data: Data, position: str | None = None) -> Standing:
        found = self._ask(_Status, Verb.STATUS, data, position=position)
        return Standing(**{field: getattr(found, field) for field in Standing.model_fields})

    def reference(self, data: Data) -> str:
        return self._ask(_Reference, Verb.REFERENCE, data).reference

    def point(self, data: Data, within_s: float) -> str:
        return self._ask(_Position, Verb.POINT, data, within_s=within_s).position

    def promote(self, data: Data, position: str | None = None) -> None:
        self._ask(_Answer, Verb.PROMOTE, data, position=position)

    def demote(self, data: Data) -> str | None:
        return self._ask(_Demoted, Verb.DEMOTE, data).position

    def resync(self, data: Data, origin: str) -> None:
        self._ask(_Answer, Verb.RESYNC, data, origin=origin)

    def peculiarities(self, data: Data, *, may_be_lost: bool) -> Iterator[tuple[str, str | None]]:
        # A command that does not look at the version does what its verb says.
        for verb in sorted(v for v in self.verbs if (v in CHANGES) is may_be_lost):
            yield f"refuses version 0 of the contract: {verb}", self._takes(verb, data, version=0)
        if may_be_lost:
            return
        for verb in (Verb.STATUS, Verb.REFERENCE):
            kind = _Status if verb is Verb.STATUS else _Reference
            what = f"ignores a member of a request that it does not know: {verb}"
            try:
                self._ask(kind, verb, data, of_a_newer_version=[{"a": None}])
                yield what, None
            except AntipodeError as error:
                yield what, str(error)

    def _takes(self, verb: Verb, data: Data, **members: Any) -> str | None:
        """The problem of a command that takes a request that it must refuse."""
        ended = self._run(verb, data, self._within_s(verb), members)
        return "exit code 0" if ended.code == 0 else None

    def _ask(
        self, kind: type[Found], verb: Verb, data: Data, within_s: float | None = None, **about: Any
    ) -> Found:
        limit_s = min(self._within_s(verb), self._within_s(verb) if within_s is None else within_s)
        ended = self._run(verb, data, limit_s, about)
        what = f"{self.label}: {verb} of datastore {data.datastore} of {data.vnf}"
        said = f": {ended.error}" if ended.error else ""
        if ended.is_too_long:
            raise self._unusable(verb, f"it has more than {LARGEST_ANSWER} bytes")
        if ended.code is None:
            raise SiteUnreachable(f"{what} did not end within {limit_s:g} s, and was killed{said}")
        if ended.code == NO_ANSWER:
            raise SiteUnreachable(f"{what}: no answer{said}")
        if ended.code:
            raise ResourceFailed(f"{what} failed with exit code {ended.code}{said}")
        try:
            return kind.model_validate_json(ended.output)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            problem = f"{field}: {first['msg']}" if field else first["msg"]
            raise self._unusable(verb, problem) from error

    def _unusable(self, verb: Verb, problem: str) -> UnexpectedAnswer:
        return UnexpectedAnswer(self.label, f"its command for {verb}", problem)

    def _within_s(self, verb: Verb) -> float:
        return self._settings.timeouts.get(verb, WITHIN_S[verb])

    def _run(self, verb: Verb, data: Data, within_s: float, members: Json) -> processes.Answered:
        """Run the command for a verb.

        Raises:
            ResourceFailed: there is none, or it cannot be started.
        """
        if (words := self._settings.commands.get(verb)) is None:
            raise ResourceFailed(f"{self.label} has no command for {verb} in antipode.yaml")
        request = {
            "version": VERSION,
            "verb": verb,
            "storage": self.name,
            "site": self.site,
            "vnf": data.vnf,
            "datastore": data.datastore,
            "within_s": within_s,
            "secrets": {name: str(path) for name, path in self._settings.secrets.items()},
            **{name: value for name, value in members.items() if value is not None},
        }
        try:
            return processes.ask(
                words,
                json.dumps(request).encode() + b"\n",
                within_s,
                at_most=LARGEST_ANSWER,
                environment={"PATH": PATH, "LANG": "C.UTF-8", **self._settings.environment},
                go_on=data.go_on,
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ResourceFailed(
                f"{self.label}: {words[0]}, its command for {verb}, cannot be started: {why}"
            ) from error

# SPDX-License-Identifier: Apache-2.0
"""The VNF definitions that were added here."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, wraps
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Engine, Select, Text, bindparam, cast, delete, func, select
from sqlalchemy.orm import Session

from antipode import clock
from antipode.errors import InvalidInput, NotFound
from antipode.model.vnf import Vnf, from_first_edition
from antipode.store.rows import removed
from antipode.store.tables import VnfRow

_KNOWN_SINCE = func.coalesce(VnfRow.known_since, VnfRow.added_at)
MOST_REMEMBERED = 4096
"""Definitions that a process keeps as it has understood them."""
LONGEST_REMEMBERED = 32 << 10
"""Characters of a definition that it keeps."""
Read = TypeVar("Read")


class ListedVnf(NamedTuple):
    """A VNF of a list."""

    name: str
    project: str | None
    policy: str | None
    added_at: float
    text: str | None
    """its definition as it is stored"""

    @property
    def definition(self) -> Mapping[str, Any]:
        """The fields of its definition; none where they cannot be read."""
        return _fields(self.text or "null")


class Vnfs:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, vnf: Vnf, policy: str | None = None) -> bool:
        """Store a definition; whether it is new and did not replace one of the same name.

        Args:
            policy: that its protections are of.
        """
        definition = vnf.model_dump(mode="json")
        with Session(self._engine) as session, session.begin():
            # the earlier one is not read, as it may be damaged
            earlier = select(_KNOWN_SINCE).where(VnfRow.name == vnf.vnf)
            known_since, now = session.scalar(earlier), clock.now()
            replaced = session.execute(delete(VnfRow).where(VnfRow.name == vnf.vnf))
            session.add(
                VnfRow(
                    name=vnf.vnf,
                    definition=definition,
                    added_at=now,
                    known_since=now if known_since is None else known_since,
                    project=vnf.project,
                    policy=policy,
                )
            )
            return not replaced.rowcount  # type: ignore[attr-defined]

    def get(self, name: str) -> Vnf:
        """The definition of a VNF.

        Raises:
            NotFound: it was never added here.
            InvalidInput: the stored definition cannot be read.
        """
        if (found := self.stored([name]).get(name)) is None:
            raise NotFound(
                f"VNF {name} is not known here; known: {', '.join(self.names()) or 'none'}. Add it"
                " with: antipode vnf add FILE",
                resource=f"VNF {name}",
            )
        if isinstance(found, InvalidInput):
            raise found
        return found

    def find(self, name: str) -> Vnf | None:
        """The definition of a VNF; None when it was never added here.

        Raises:
            InvalidInput: the stored definition cannot be read.
        """
        try:
            return self.get(name)
        except NotFound:
            return None

    def names(self, projects: Sequence[str] | None = None) -> list[str]:
        """The names of all VNFs, readable or not.

        Args:
            projects: only of these; None: of all, and of none.
        """
        names = select(VnfRow.name).where(*_in(projects)).order_by(VnfRow.name)
        with Session(self._engine) as session:
            return list(session.scalars(names))

    def project_of(self, name: str) -> str | None:
        """The project that a VNF belongs to; None: to none.

        Raises:
            NotFound: it was never added here.
        """
        with self._engine.connect() as connection:
            found = connection.execute(_PROJECT, {"name": name}).first()
        if found is None:
            raise NotFound(f"VNF {name} is not known here", resource=f"VNF {name}")
        project: str | None = found.project
        return project

    def page(
        self, projects: Sequence[str] | None, limit: int, marker: str | None = None
    ) -> list[ListedVnf]:
        """Some VNFs as they are stored, in the order of their names.

        Args:
            projects: only of these; None: of all, and of none.
            marker: the name after which they begin.
        """
        given: dict[str, Any] = {} if marker is None else {"marker": marker}
        if projects is not None:
            # one project, so that an index has them in order
            one = len(projects) == 1
            given |= {"project": projects[0]} if one else {"projects": [*projects]}
        with self._engine.connect() as connection:
            found = connection.execute(_page(frozenset(given)), {**given, "most": limit})
            return list(map(ListedVnf._make, found.all()))

    def listed(self, name: str) -> ListedVnf:
        """A VNF as it is stored.

        Raises:
            NotFound: it was never added here.
        """
        with self._engine.connect() as connection:
            if (row := connection.execute(_LISTED, {"name": name}).first()) is None:
                raise NotFound(f"VNF {name} is not known here", resource=f"VNF {name}")
        return ListedVnf._make(row)

    def count(self, project: str) -> int:
        """How many VNFs a project has."""
        counted = select(func.count()).where(VnfRow.project == project)
        with Session(self._engine) as session:
            return session.scalar(counted) or 0

    def chosen_by(self, policy: str) -> list[str]:
        """The VNFs whose protections were chosen by a policy."""
        chosen = select(VnfRow.name).where(VnfRow.policy == policy).order_by(VnfRow.name)
        with Session(self._engine) as session:
            return list(session.scalars(chosen))

    def versions(self) -> dict[str, float]:
        """When each definition was stored, in seconds since the epoch, by name."""
        with Session(self._engine) as session:
            found = session.execute(select(VnfRow.name, VnfRow.added_at).order_by(VnfRow.name))
            return {row.name: row.added_at for row in found}

    def known_since(self, name: str) -> float:
        """When a VNF was first added, in seconds since the epoch: the file may have been replaced
        since. Now, where it was removed meanwhile.
        """
        wanted = select(_KNOWN_SINCE)
        with Session(self._engine) as session:
            found = session.scalar(wanted.where(VnfRow.name == name))
        return clock.now() if found is None else found

    def stored(self, wanted: Collection[str] | None = None) -> dict[str, Vnf | InvalidInput]:
        """The definition of each VNF by its name, or the reason why it cannot be read.

        Args:
            wanted: only of these; of all by default.
        """
        asked = select(VnfRow.name, cast(VnfRow.definition, Text)).order_by(VnfRow.name)
        if wanted is not None:
            asked = asked.where(VnfRow.name.in_(wanted))
        with Session(self._engine) as session:
            return {name: _read(name, text) for name, text in session.execute(asked)}

    def all(self) -> list[Vnf]:
        """The definitions that can be read."""
        return [vnf for vnf in self.stored().values() if isinstance(vnf, Vnf)]

    def remove(self, name: str) -> bool:
        """Forget a definition, readable or not; whether there was one."""
        return removed(self._engine, VnfRow, name)


def _in(projects: Sequence[str] | None) -> list[ColumnElement[bool]]:
    if projects is None:
        return []
    # one project, so that an index has them in order
    one = len(projects) == 1
    return [VnfRow.project == projects[0] if one else VnfRow.project.in_(projects)]


def _listed() -> Select[str, str | None, str | None, float, str]:
    text = cast(VnfRow.definition, Text)
    return select(VnfRow.name, VnfRow.project, VnfRow.policy, VnfRow.added_at, text)


_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "project": VnfRow.project == bindparam("project"),
    "projects": VnfRow.project.in_(bindparam("projects", expanding=True)),
    "marker": VnfRow.name > bindparam("marker"),
}
# statements are made once, as clients that poll ask for the same all the time
_LISTED = _listed().where(VnfRow.name == bindparam("name"))
_PROJECT = select(VnfRow.project).where(VnfRow.name == bindparam("name"))


@lru_cache
def _page(given: frozenset[str]) -> Select[*tuple[Any, ...]]:
    """The statement for a page of VNFs, of the names of what is wanted."""
    wanted = _listed().where(*(_CONDITIONS[name] for name in sorted(given)))
    return wanted.order_by(VnfRow.name).limit(bindparam("most"))


def _remembered(read: Callable[[str], Read]) -> Callable[[str], Read]:
    """Remember what a function makes of texts, unless they are long: tenants write them."""
    short = lru_cache(maxsize=MOST_REMEMBERED)(read)

    @wraps(read)
    def found(text: str) -> Read:
        return (short if len(text) <= LONGEST_REMEMBERED else read)(text)

    return found


@_remembered
def _fields(text: str) -> Mapping[str, Any]:
    """The fields of a definition, of whatever edition. They are remembered, as most lists have the
    same definitions as the one before.
    """
    try:
        found = json.loads(text)
    except ValueError:  # a damaged one fails where it is used, and hides no others
        found = None
    return MappingProxyType(found if isinstance(found, dict) else {})


def _read(name: str, text: str | None) -> Vnf | InvalidInput:
    """A definition as it is stored. Its text is read here, so that a damaged one fails alone."""
    try:
        return _understood(text or "null")
    except (ValueError, LookupError, TypeError) as error:  # of JSON, or of the model
        reason = " ".join(str(error).split())
        unreadable = InvalidInput(
            f"the stored definition of VNF {name} cannot be read ({reason}). Add its file again"
            f" (antipode vnf add FILE), or remove it: antipode vnf remove {name}",
            resource=f"VNF {name}",
        )
        unreadable.__cause__ = error
        return unreadable


@_remembered
def _understood(text: str) -> Vnf:
    """The definition that a text says. It is remembered, as loops of a service read all of them
    every few seconds, and to check one takes a millisecond; definitions are never changed.
    """
    definition = json.loads(text)
    if not isinstance(definition, dict):
        raise ValueError("it is no mapping")
    return Vnf.model_validate(from_first_edition(definition))

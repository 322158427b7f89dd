# SPDX-License-Identifier: Apache-2.0
"""Named parts of one kind: those that antipode brings along, loaded when first asked for, and
those that a package (by an entry point, or itself) or a test registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from antipode.errors import InvalidInput

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """Parts by name."""

    def __init__(self, what: str, built_in: Mapping[str, str], group: str | None = None) -> None:
        """
        Args:
            what: the kind of the parts, for messages: "option".
            built_in: name -> `module:attribute`.
            group: of the entry points by which packages add parts. None of them replaces one that
                antipode brings along.
        """
        self._what = what
        self._built_in = dict(built_in)
        self._group = group
        self._parts: dict[str, Part] = {}

    @cached_property
    def _places(self) -> dict[str, str]:
        """Name -> `module:attribute`, of all that need not be registered."""
        added = entry_points(group=self._group) if self._group else ()
        return {**{point.name: point.value for point in added}, **self._built_in}

    def register(self, name: str, part: Part) -> None:
        """Add a part; one of the same name is replaced."""
        self._parts[name] = part

    @contextmanager
    def registered(self, name: str, part: Part) -> Iterator[Part]:
        """Add a part while the block runs."""
        self.register(name, part)
        try:
            yield part
        finally:
            del self._parts[name]

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._places, *self._parts})

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self._built_in or name in self._places

    def get(self, name: str) -> Part:
        """The part of this name.

        Raises:
            InvalidInput: there is none.
        """
        if name not in self._parts:
            module, _, attribute = self._place(name).partition(":")
            self._parts[name] = getattr(import_module(module), attribute)
        return self._parts[name]

    def _place(self, name: str) -> str:
        """Where a part is. The entry points of all packages, which take long to read, are looked at
        only for a part that antipode does not bring along.
        """
        if (place := self._built_in.get(name) or self._places.get(name)) is None:
            known = ", ".join(self.names)
            raise InvalidInput(f"{self._what} {name} is unknown to this antipode; known: {known}")
        return place

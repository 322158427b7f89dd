# SPDX-License-Identifier: Apache-2.0
"""Named parts of one kind: those that antipode brings along, loaded when first asked for, and
those that a package or a test registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Generic, TypeVar

from antipode.errors import InvalidInput

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """Parts by name."""

    def __init__(self, what: str, built_in: Mapping[str, str]) -> None:
        """
        Args:
            what: the kind of the parts, for messages: "option".
            built_in: name -> `module:attribute`.
        """
        self._what = what
        self._built_in = dict(built_in)
        self._parts: dict[str, Part] = {}

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
        return sorted({*self._built_in, *self._parts})

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self._built_in

    def get(self, name: str) -> Part:
        """The part of this name.

        Raises:
            InvalidInput: there is none.
        """
        if name not in self._parts:
            if name not in self._built_in:
                known = ", ".join(self.names)
                raise InvalidInput(
                    f"{self._what} {name} is unknown to this antipode; known: {known}"
                )
            module, _, attribute = self._built_in[name].partition(":")
            self._parts[name] = getattr(import_module(module), attribute)
        return self._parts[name]

# SPDX-License-Identifier: Apache-2.0
"""Values laid out for people: each within a width, a part per line or a block per item."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from cliff.columns import FormattableColumn

from antipode.screen import visible

WIDTH = 100
"""Columns of a table that does not go to a terminal."""
LEAST = 20
"""A value is never squeezed into fewer columns."""


class Laid(FormattableColumn):  # type: ignore[misc]
    """A value that is laid out for people, and is itself for programs."""

    def lines(self, width: int) -> Iterator[str]:
        """The value in lines of at most `width` columns."""
        return wrapped(visible(str(self._value)), width)

    def human_readable(self) -> str:
        return "\n".join(self.lines(WIDTH))


class Nested(Laid):
    """A value with parts: a line for each part, a block for each part that has parts itself."""

    def lines(self, width: int) -> Iterator[str]:
        return _lines(self._value, width)


class Short(Laid):
    """Words of any length: their beginning for people, all of them for programs."""

    def lines(self, width: int) -> Iterator[str]:
        words = " ".join(visible(word) for word in (self._value or "").split())
        yield from wrapped(textwrap.shorten(words, 80, placeholder=" …"), width)


def terminal_width(asked: int = 0) -> int:
    """The columns that a table may take: those asked for, or of the terminal, or `WIDTH`."""
    if asked > 0:
        return asked
    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def within(value: object, width: int) -> str:
    """A value as text whose lines have at most `width` columns, and at least `LEAST`."""
    width = max(width, LEAST)
    if isinstance(value, Laid):
        return "\n".join(value.lines(width))
    return "\n".join(wrapped(visible(str(value)), width))


def wrapped(line: str, width: int, indent: int = 0) -> Iterator[str]:
    """A line broken at words; `indent`: how far the lines after the first are indented."""
    yield from textwrap.wrap(
        line, width, subsequent_indent=" " * min(indent, width // 2), break_on_hyphens=False
    ) or [""]


def _lines(value: object, width: int) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _block(value, width)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _item(item, width)
    else:
        yield from wrapped(visible(str(value)), width)


def _item(item: object, width: int) -> Iterator[str]:
    """An item of a list. One with parts begins with its first part, which names it; the others
    are below, indented.
    """
    if isinstance(item, Mapping) and item:
        (_, title), *others = item.items()
        yield from wrapped(visible(str(title)), width)
        yield from (f"  {line}" for line in _block(dict(others), width - 2))
    elif isinstance(item, Sequence) and not isinstance(item, str):
        yield from wrapped(", ".join(visible(str(i)) for i in item), width)
    else:
        yield from wrapped(visible(str(item)), width, indent=2)


def _block(fields: Mapping[str, object], width: int) -> Iterator[str]:
    """A line for each field that has a value, more for one that is long or has parts."""
    shown = {visible(k): v for k, v in fields.items() if v not in (None, "", [], {})}
    beside = max(map(len, shown), default=0) + 2
    for key, value in shown.items():
        label = f"{key}:".ljust(beside)
        for line in _lines(value, max(width - beside, LEAST)):
            yield f"{label}{line}"
            label = " " * beside

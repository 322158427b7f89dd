# SPDX-License-Identifier: Apache-2.0
"""Tables for people: as wide as the terminal, or 100 columns where there is none."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from cliff.formatters.table import TableFormatter

from antipode.cli.layout import LEAST, Laid, terminal_width, within

ENDLESS = 1000
"""Columns of a value that may be as wide as it is."""


class Table(TableFormatter):  # type: ignore[misc]
    """Cliff's table within a width: long values are wrapped at words, and columns that can be
    spared are left out, which a line on stderr says.

    Columns that the operator chose (`-c`) all stay.
    """

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write a table; `parsed_args.spared` names columns to leave out, the first one first."""
        cells = [[_cell(value) for value in row] for row in data]
        if parsed_args.fit_width:
            super().emit_list(column_names, _texts(cells), stdout, parsed_args)
            return
        table = {name: [row[i] for row in cells] for i, name in enumerate(column_names)}
        spared = () if parsed_args.columns else parsed_args.spared
        widths, left_out = fitted(table, terminal_width(parsed_args.max_width), spared)
        rows = [
            [
                v if isinstance(v, int | float) else within(v, width)
                for v, width in zip(row, widths.values(), strict=True)
            ]
            for row in zip(*(table[name] for name in widths), strict=True)
        ]
        parsed_args.max_width = 0
        super().emit_list(list(widths), rows, stdout, parsed_args)
        if left_out:
            print(
                f"Not shown for lack of room: {', '.join(left_out)} (see -f json, --max-width).",
                file=sys.stderr,
            )


def fitted(
    table: Mapping[str, Sequence[Any]], width: int, spared: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    """The columns that are shown, each with its width, and the names of those that are left out.

    Args:
        table: the cells of each column.
        width: the columns of the terminal that all may take, with their borders.
        spared: names of columns that may be left out, the first one first; columns without any
            value go before them.
    """
    wanted = {name: _wanted(name, cells) for name, cells in table.items()}
    least = {name: min(wanted[name], _least(name, cells)) for name, cells in table.items()}
    empty = [name for name, cells in table.items() if name in spared and not any(map(_has, cells))]
    order = [*empty, *(name for name in spared if name in table and name not in empty)]
    left_out = []
    while order and sum(least.values()) > _room(width, len(least)):
        left_out.append(order.pop(0))
        del least[left_out[-1]]
    free = _room(width, len(least)) - sum(least.values())
    for name in sorted(least, key=lambda n: wanted[n] - least[n]):
        more = max(min(wanted[name] - least[name], free), 0)
        least[name] += more
        free -= more
    return least, left_out


def _room(width: int, columns: int) -> int:
    return width - 3 * columns - 1


def _cell(value: Any) -> Any:
    """A value as people read it: nothing for None, moments to the second."""
    if isinstance(value, str) and (moment := _MOMENT.fullmatch(value)):
        return f"{moment[1]}Z"
    return "" if value is None else value


_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)")


def _texts(cells: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [[v if isinstance(v, int | float) else within(v, ENDLESS) for v in row] for row in cells]


def _has(value: Any) -> bool:
    return value not in (None, "")


def _wanted(name: str, cells: Sequence[Any]) -> int:
    lines = [line for value in cells for line in within(value, ENDLESS).splitlines()]
    return max(map(len, [name, *lines]))


def _least(name: str, cells: Sequence[Any]) -> int:
    """The width below which a column is not squeezed: a name stays whole, prose is wrapped."""
    prose = [value for value in cells if isinstance(value, Laid) or " " in str(value)]
    names = [str(value) for value in cells if value not in prose]
    squeezed = [line for value in prose for line in within(value, LEAST).splitlines()]
    return max(map(len, [name, *(squeezed or names)]))

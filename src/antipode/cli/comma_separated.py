# SPDX-License-Identifier: Apache-2.0
"""Output as CSV (RFC 4180): values as they are, those with parts as JSON."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from cliff.columns import FormattableColumn
from cliff.formatters.base import ListFormatter, SingleFormatter


class CommaSeparated(ListFormatter, SingleFormatter):  # type: ignore[misc]
    """A line with the names of the columns, then a line for each row; a single record is one
    row.
    """

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        """It has no options."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        writer = csv.writer(stdout, lineterminator="\n")
        writer.writerow(column_names)
        writer.writerows([_cell(value) for value in row] for row in data)

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        self.emit_list(column_names, [data], stdout, parsed_args)


def _cell(value: Any) -> Any:
    plain = value.machine_readable() if isinstance(value, FormattableColumn) else value
    return json.dumps(plain) if isinstance(plain, dict | list | tuple | bool) else plain

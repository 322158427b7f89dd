# SPDX-License-Identifier: Apache-2.0
"""Errors as the command line writes them, those of its own arguments included."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn, TextIO

from antipode.errors import AntipodeError, InvalidFile, InvalidInput
from antipode.screen import Screen, paragraph

if TYPE_CHECKING:
    from antipode.cli.app import Antipode


def write_error(
    stream: TextIO | Screen, error: AntipodeError, resource: str | None, *, as_json: bool
) -> None:
    """Write an error: a line for people with its code, or an object for programs.

    Args:
        resource: the one in question, if it is known.
    """
    notes = list(getattr(error, "__notes__", ()))
    if as_json:
        record: dict[str, object] = {
            "code": error.code,
            "message": str(error),
            "resource": resource,
            "exit_code": error.exit_code,
            "notes": notes,
        }
        if isinstance(error, InvalidFile):
            record["mistakes"] = [asdict(mistake) for mistake in error.mistakes]
        print(json.dumps({"error": record}), file=stream)
    else:
        message = paragraph("\n".join([str(error), *notes]))
        print(f"antipode: [{error.code}] {message}", file=stream)


def report_errors(parser: argparse.ArgumentParser, app: Antipode) -> None:
    """Have a parser write its errors as all errors are written."""

    def error(message: str) -> NoReturn:
        if not _asks_for_json(app.arguments):
            parser.print_usage(app.stderr)
        report(app, f"{message}; see: {parser.prog} --help")
        parser.exit(InvalidInput.exit_code)

    parser.error = error  # type: ignore[method-assign]


def report(app: Antipode, message: str) -> None:
    """Write an error about the arguments."""
    wanted = _asks_for_json(app.arguments)
    write_error(app.stderr, InvalidInput(message), None, as_json=wanted)


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether arguments that could not be parsed ask for JSON."""
    given = [*arguments, ""]
    return any(
        word in ("-fjson", "-f=json", "--format=json")
        or (word in ("-f", "--format") and following == "json")
        for word, following in itertools.pairwise(given)
    )

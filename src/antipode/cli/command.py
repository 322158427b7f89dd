"""What all commands share: errors become a message and an exit code, records become columns."""

from __future__ import annotations

import argparse
import textwrap
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cliff.columns import FormattableColumn
from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from antipode.errors import AntipodeError, Interrupted


class _Ending:
    """How a command ends: what antipode gives up on is told on stderr without a traceback, and its
    exit code returned.
    """

    app: Any
    exit_code = 0
    """set by a command whose output is complete and that has failed all the same"""

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command; its exit code."""
        try:
            result: int = super().run(parsed_args)  # type: ignore[misc]
        except KeyboardInterrupt:
            return self._tell(Interrupted("interrupted by a signal"))
        except AntipodeError as error:
            return self._tell(error)
        return result or self.exit_code

    def _tell(self, error: AntipodeError) -> int:
        if self.app.options.debug:
            traceback.print_exception(error, file=self.app.stderr)
        else:
            print(
                f"antipode: {error}",
                *getattr(error, "__notes__", ()),
                sep="\n",
                file=self.app.stderr,
            )
        return error.exit_code


class TextCommand(_Ending, Command):  # type: ignore[misc]
    """A command that writes what it has to say by itself; `take_action` returns the exit code."""


class ListCommand(_Ending, Lister):  # type: ignore[misc]
    """A command that shows a table."""


class ShowCommand(_Ending, ShowOne):  # type: ignore[misc]
    """A command that shows one record."""


class Nested(FormattableColumn):  # type: ignore[misc]
    """A value with parts: one line for each part for people, the value itself for programs."""

    def human_readable(self) -> str:
        if isinstance(self._value, Mapping):
            return "\n".join(f"{k}: {v}" for k, v in self._value.items())
        return "\n".join(_line(v) for v in self._value)


class Short(FormattableColumn):  # type: ignore[misc]
    """Words of any length: their beginning for people, all of them for programs."""

    def human_readable(self) -> str:
        return textwrap.shorten(self._value or "", 80, placeholder=" …")


def _line(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items() if v not in (None, "", [], {}))
    return str(value)


def columns(record: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """A record as cliff wants it."""
    values = (Nested(v) if isinstance(v, dict | list) else v for v in record.values())
    return tuple(record), tuple(values)


def moment(seconds: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339, UTC."""
    return (
        None
        if seconds is None
        else datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def span(seconds: float) -> str:
    """A duration for people: `42 s`, `17 min`, `5 h 10 min`, `3 d 4 h`."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 3:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if days < 1 else f"{days} d {hours % 24} h"

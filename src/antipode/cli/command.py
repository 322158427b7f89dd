# SPDX-License-Identifier: Apache-2.0
"""The parts that all commands share: an error becomes a message and an exit code, a record becomes
columns.
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne
from stevedore.extension import Extension

from antipode.cli import usage
from antipode.cli.comma_separated import CommaSeparated
from antipode.cli.layout import Nested, terminal_width, within
from antipode.cli.table import Table
from antipode.errors import AntipodeError, Interrupted, InvalidInput, NotConfirmed, Unexpected
from antipode.screen import visible

SUBJECTS = {"run": "run", "vnf": "VNF", "plan_name": "plan", "site": "site", "file": "file"}
"""The arguments that name the resource of a command, and the kind of resource that each names."""


class _Ending:
    """How a command ends: an error is written to stderr without a traceback, and gives the exit
    code.
    """

    app: Any
    exit_code = 0
    """set by a command whose output is complete and that has failed all the same"""
    examples: Sequence[str] = ()
    """command lines that its help shows"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments of the command, and its help."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)  # type: ignore[misc]
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        usage.report_errors(parser, self.app)
        if self.examples:
            parser.epilog = "\n".join(["examples:", *(f"  {line}" for line in self.examples)])
        return parser

    def get_epilog(self) -> str:
        """None: cliff names the distribution of a command there, and looks through all that are
        installed for it, at each start.
        """
        return ""

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command; its exit code."""
        try:
            result: int = super().run(parsed_args)  # type: ignore[misc]
        except KeyboardInterrupt:
            return self._report(Interrupted("interrupted by a signal"), parsed_args)
        except AntipodeError as error:
            return self._report(error, parsed_args)
        except BrokenPipeError:
            raise
        except Exception as error:
            unexpected = Unexpected(
                f"unexpected {type(error).__name__}: {error}. This is a fault of antipode; run "
                "the command again with --debug and report the traceback"
            )
            unexpected.__cause__ = error
            return self._report(unexpected, parsed_args)
        return result or self.exit_code

    def _report(self, error: AntipodeError, parsed_args: argparse.Namespace) -> int:
        if self.app.options.debug:
            traceback.print_exception(error, file=self.app.stderr)
        resource = error.resource or _subject(parsed_args)
        usage.write_error(self.app.stderr, error, resource, as_json=_form(parsed_args) == "json")
        return error.exit_code


def _form(parsed_args: argparse.Namespace) -> str | None:
    """The form of output that was asked for."""
    return getattr(parsed_args, "formatter", None) or getattr(parsed_args, "format", None)


def _subject(parsed_args: argparse.Namespace) -> str | None:
    """The resource that the command is about, as its arguments name it."""
    given = ((kind, getattr(parsed_args, key, None)) for key, kind in SUBJECTS.items())
    return next((f"{kind} {value}" for kind, value in given if value), None)


class _Shown(_Ending):
    """A command with a result, in the form that the operator chooses."""

    changes = False
    """whether the command changes something: its result is then shown in any case"""

    def _load_formatter_plugins(self) -> Any:
        """Cliff's formatters, with ours for CSV, which cliff has for lists only, and for tables;
        without the one for the shell, which does not quote a name like `$(reboot)`.
        """
        manager = super()._load_formatter_plugins()  # type: ignore[misc]
        ours = {"csv": CommaSeparated, "table": Table}
        others = [e for e in manager.extensions if e.name not in (*ours, "shell")]
        manager.extensions = others + [
            Extension(name, EntryPoint(name, form.__module__, manager.namespace), form, form())
            for name, form in ours.items()
        ]
        return manager

    def _check_columns(self, parsed_args: argparse.Namespace, column_names: Sequence[str]) -> None:
        known = {name.lower() for name in column_names}
        unknown = [c for c in parsed_args.columns if c.lower().strip() not in known]
        if not unknown:
            return
        problem = f"column {', '.join(unknown)} is not known; columns: {', '.join(column_names)}"
        if not self.changes:
            raise InvalidInput(problem)
        print(f"antipode: {visible(problem)}; all are shown", file=self.app.stderr)
        parsed_args.columns = []


class TextCommand(_Ending, Command):  # type: ignore[misc]
    """A command that writes its output by itself; `take_action` returns the exit code."""


class ListCommand(_Shown, Lister):  # type: ignore[misc]
    """A command that shows a table."""

    spared: Sequence[str] = ()
    """columns that a terminal without enough room does not show, the first one first"""

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
    ) -> int:
        """Write the table.

        Raises:
            InvalidInput: a column was asked for that there is not.
        """
        self._check_columns(parsed_args, column_names)
        parsed_args.spared = self.spared
        return int(super().produce_output(parsed_args, column_names, data))


class ShowCommand(_Shown, ShowOne):  # type: ignore[misc]
    """A command that shows one record, within the width of the terminal."""

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Sequence[Any]
    ) -> int:
        """Write the record.

        Raises:
            InvalidInput: a column was asked for that there is not.
        """
        self._check_columns(parsed_args, column_names)
        if parsed_args.formatter == "table":
            beside = max(map(len, column_names), default=0) + len("|  |  |")
            room = terminal_width(parsed_args.max_width) - beside
            data = [within(value, room) for value in data]
        return int(super().produce_output(parsed_args, column_names, data))


def confirm(app: Any, question: str, expected: str) -> None:
    """Ask the operator to type a word.

    Raises:
        NotConfirmed: something else was typed, or nothing.
    """
    print(f"{visible(question)} ", end="", file=app.stderr, flush=True)
    typed = app.stdin.readline().strip()
    if typed != expected:
        raise NotConfirmed(
            f"{typed or 'nothing'!r} was typed instead of {expected!r}; nothing was changed"
        )


def columns(record: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """A record as cliff takes it."""
    values = (Nested(v) if isinstance(v, dict | list) else v for v in record.values())
    return tuple(record), tuple(values)

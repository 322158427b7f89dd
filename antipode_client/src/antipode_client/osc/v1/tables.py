# SPDX-License-Identifier: Apache-2.0
"""What commands show: rows of lists, and one resource, with the columns of the client."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from cliff.columns import FormattableColumn
from osc_lib.cli import format_columns
from osc_lib.command import command

from antipode_client.client import Client
from antipode_client.lines import in_one_line

Json = dict[str, Any]
Table = tuple[Sequence[str], Iterable[Sequence[Any]]]


def client_of(cmd: command.Command) -> Client:
    """The client for a command."""
    # python-openstackclient gives its manager an attribute for each plug-in
    manager: Any = cmd.app.client_manager
    found: Client = manager.disaster_recovery
    return found


def shown(value: Any) -> Any:
    """A value as a cell has it: the text form of a list or mapping for people, all of it in
    JSON.
    """
    if isinstance(value, Mapping):
        return format_columns.DictColumn(value)
    if isinstance(value, str) and not value.isprintable():
        return _Hostile(value)
    if isinstance(value, list):
        if all(isinstance(one, Mapping) for one in value):
            return format_columns.ListDictColumn(value)
        return format_columns.ListColumn(value)
    return value


class _Hostile(FormattableColumn):  # type: ignore[misc]
    """Text that could steer a terminal: for people it is escaped."""

    def human_readable(self) -> str:
        """As cliff calls it."""
        return in_one_line(str(self._value))


def details(resource: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Any]]:
    """One resource, as a command of `ShowOne` returns it. Links are left out."""
    fields = [name for name in resource if name != "links"]
    return fields, [shown(resource[name]) for name in fields]


class List(command.Lister):
    """A command that lists."""

    columns: Sequence[str] = ()
    """fields of an item, in their order"""
    more: Sequence[str] = ()
    """fields that --long adds"""
    has_limit = False
    """whether the list may be long: --limit"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add what all lists have."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        if self.more:
            parser.add_argument("--long", action="store_true", help="List additional fields")
        if self.has_limit:
            parser.add_argument(
                "--limit",
                metavar="<num-items>",
                type=at_least_one,
                help="Return at most so many items (default: all)",
            )
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The items. Each command has its own."""
        raise AssertionError(f"{type(self).__name__} lists nothing")

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        """Ask for the items, and lay them out."""
        names = [*self.columns, *(self.more if getattr(parsed_args, "long", False) else ())]
        found = self.items(client_of(self), parsed_args)
        if (limit := getattr(parsed_args, "limit", None)) is not None:
            found = islice(found, limit)
        return names, ([shown(item.get(name)) for name in names] for item in found)


def at_least_one(text: str) -> int:
    """An argument that counts.

    Raises:
        ArgumentTypeError: it is no whole number above zero.
    """
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no whole number above zero")
    return int(text)

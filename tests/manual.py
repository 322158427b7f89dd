# SPDX-License-Identifier: Apache-2.0
"""The manual page antipode(1), made from the command line's own parsers as docs/commands.md is.

`python -m tests.reference` writes it; tests/unit/test_reference.py compares it with the code.
"""

from __future__ import annotations

import argparse
import os
import re
from unittest import mock

from argparse_manpage.manpage import Manpage

from antipode import __version__
from antipode.cli import app as main
from tests import reference

WIDE = {"COLUMNS": "1000"}
"""man breaks the lines of a usage, not argparse: the page does not depend on a terminal."""
FORMATS = """\
Commands that print a table or a record also take -f (table, json, yaml, csv or value), -c COLUMN
to choose columns, and the other options of OpenStack's own command lines (--max-width,
--sort-column, --noindent). Results go to standard output, progress and messages to standard error.
"""


def manual_page() -> str:
    """docs/antipode.1: the options of `antipode`, each command, and the exit codes."""
    with mock.patch.dict(os.environ, WIDE):
        app = main.Antipode()
        parser: argparse.ArgumentParser = app.parser
        parser.epilog = None
        commands = parser.add_subparsers(title="commands", metavar="COMMAND")
        for name, command in reference.parsers(app):
            commands._name_parser_map[name] = _own(command)
        page = Manpage(
            parser,
            format="single-commands-section",
            _data={
                "project_name": "antipode",
                "version": __version__,
                "manual_title": "User Commands",
                "description": "geo-site disaster recovery for VNFs on OpenStack",
            },
        )
        page.date = ""  # it changes with the commands, and not with the day
        exits, _, errors = main.EXIT_CODES.partition("\n\n")
        page.add_section("OUTPUT", ">", FORMATS)
        page.add_section("EXIT STATUS", ">", _unfilled(exits.partition("\n")[2]))
        page.add_section("ERRORS", ">", errors.strip())
        page.add_section("SEE ALSO", ">", "openstack(1), age(1)")
        text = str(page).replace("…", "...")  # groff reads ASCII
        return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def _own(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """A command without the options that all commands share, its examples below its description."""
    theirs = [g for g in command._action_groups if g.title in reference.FORMATTERS]
    shared = [id(action) for group in theirs for action in group._group_actions]
    command._action_groups = [g for g in command._action_groups if g not in theirs]
    command._actions = [a for a in command._actions if id(a) not in shared]
    if command.epilog:
        command.description = f"{command.description}\n\n{_unfilled(command.epilog)}"
    return command


def _unfilled(text: str) -> str:
    """Text whose lines man keeps as they are."""
    return f".nf\n{text}\n.fi"

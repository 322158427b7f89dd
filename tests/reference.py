# SPDX-License-Identifier: Apache-2.0
"""The reference pages that are made from the code: commands, error codes and the manual page.

`python -m tests.reference` writes them; tests/unit/test_reference.py compares them with the code.
"""

from __future__ import annotations

import argparse
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from antipode import errors
from antipode.cli import app as main
from antipode.model.report import Report

DOCS = Path(__file__).parents[1] / "docs"
FORMATTERS = {"output formatters", "CSV Formatter", "json formatter", "shell formatter"} | {
    "table formatter"
}
"""the groups of options that every command with a table or a record has"""

COMMANDS_HEAD = """\
# Commands

Made from the command line's own parsers by `python -m tests.reference`; a test compares the two.
`antipode help COMMAND` and `antipode COMMAND --help` print the same, and exit codes are in
[errors.md](errors.md).

Commands that print a table or a record also take `-f` with one of the formats that their section
names, `-c COLUMN` to choose columns, and the other options of OpenStack's own command lines
(`--max-width`, `--sort-column`, `--noindent` …). Results go to standard output, progress and
messages to standard error.
"""

ERRORS_HEAD = """\
# Errors and exit codes

Made from `src/antipode/errors.py` by `python -m tests.reference`; a test compares the two. An exit
code says what kind of end a command came to. An error code names the error for programs, and does
not change when a message is reworded.
"""


def commands_page() -> str:
    """docs/commands.md, from the parsers of all commands."""
    app = main.Antipode()
    sections = [COMMANDS_HEAD, "## antipode\n\nOptions that stand before the command:\n"]
    sections.append(_table(_options(app.parser)))
    sections += [_section(name, parser) for name, parser in parsers(app)]
    return "\n".join(sections)


def parsers(app: main.Antipode) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command's name and the parser of its arguments."""
    for name in sorted(main.COMMANDS):
        factory = app.command_manager.commands[name].load()
        yield name, factory(app, None, cmd_name=name).get_parser(f"antipode {name}")


def errors_page() -> str:
    """docs/errors.md, from the tree of errors."""
    exits = main.EXIT_CODES.partition("\n")[2].partition("\n\n")[0]
    codes = [line.split(maxsplit=1) for line in _unfolded(exits)]
    return "\n".join(
        [
            ERRORS_HEAD,
            "## Exit codes\n",
            "| code | meaning |\n|---|---|",
            *(f"| {code} | {meaning} |" for code, meaning in codes),
            "\n## Errors\n",
            "| error | code | exit code | meaning |\n|---|---|---|---|",
            *(_error(error) for error in _tree(errors.AntipodeError)),
            "",
        ]
    )


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    described = " ".join((parser.description or "").split())
    positional = [a for a in parser._actions if not a.option_strings]
    required = [a for a in parser._actions if a.option_strings and a.required]
    words = [*(_spelled(a) for a in required), *(_positional(a) for a in positional)]
    own = _table([*((_positional(a), _help(parser, a)) for a in positional), *_options(parser)])
    parts = [
        f"## antipode {name}\n",
        f"```\nantipode {' '.join([name, *words])}\n```\n",
        textwrap.fill(described, 96) + "\n",
        *([own] if own else []),
    ]
    if parser.epilog:
        parts.append(f"```\n{parser.epilog}\n```\n")
    if formats := _formats(parser):
        parts.append(f"Formats: {', '.join(formats)}.\n")
    return "\n".join(parts)


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for group in parser._action_groups:
        if group.title in FORMATTERS:
            continue
        for action in group._group_actions:
            if action.option_strings and action.dest != "help":
                yield _spelled(action), _help(parser, action)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """The help of an argument as the command prints it, with its default filled in."""
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _formats(parser: argparse.ArgumentParser) -> list[str]:
    return [
        choice
        for group in parser._action_groups
        if group.title in FORMATTERS
        for action in group._group_actions
        if "--format" in action.option_strings
        for choice in sorted(action.choices or ())
    ]


def _spelled(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0:
        choices = "\\|".join(str(c) for c in action.choices or ())
        value = f" {choices or action.metavar or action.dest.upper()}"
    return ", ".join(action.option_strings) + value


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    return {"?": f"[{name}]", "*": f"[{name} …]", "+": f"{name} …"}.get(str(action.nargs), name)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| `{left}` | {' '.join(right.split())} |" for left, right in rows]
    return "\n".join(["| | |\n|---|---|", *lines, ""]) if lines else ""


def _unfolded(text: str) -> list[str]:
    """The lines of a table of the help, its continuation lines joined to those before them."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip() and line.strip().split()[0].isdigit():
            lines.append(line.strip())
        elif line.strip():
            lines[-1] += " " + line.strip()
    return lines


def _tree(error: type[errors.AntipodeError]) -> Iterator[type[errors.AntipodeError]]:
    yield error
    for child in error.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


def _error(error: type[errors.AntipodeError]) -> str:
    code = getattr(error, "code", None)
    first = " ".join((inspect.getdoc(error) or "").split("\n\n")[0].split())
    shown = f"`{code}`" if code else ""
    return f"| {error.__name__} | {shown} | {error.exit_code} | {first} |"


def report_schema() -> str:
    """docs/report.schema.json, from the model of reports."""
    schema = Report.model_json_schema(mode="serialization")
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **schema}, indent=1) + "\n"


def write() -> None:
    """Write the pages."""
    from tests import api_reference, manual  # which reads the parsers of this module

    (DOCS / "commands.md").write_text(commands_page())
    (DOCS / "errors.md").write_text(errors_page())
    (DOCS / "antipode.1").write_text(manual.manual_page())
    (DOCS / "report.schema.json").write_text(report_schema())
    former = DOCS / "openapi.json"
    if former.exists():
        found = api_reference.breaks(json.loads(former.read_text()), api_reference.openapi())
        if found:
            raise SystemExit(f"raise the microversion: {'; '.join(found)}")
    former.write_text(api_reference.openapi_text())
    (DOCS / "api-reference.md").write_text(api_reference.page())
    (DOCS / "policy.yaml").write_text(api_reference.policy_text())


if __name__ == "__main__":
    write()

# SPDX-License-Identifier: Apache-2.0
"""Code that two parts need is written once: a change cannot miss the other copy."""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from antipode.cli import app as main
from antipode.model import marks
from tests import reference

ROOT = Path(__file__).parents[2]
CODE = ("src", "nova_quiesce/src", "antipode_client/src", "lab", "bench", "tests", ".ci")
LONG = 40
"""Nodes of the syntax tree of a function that two places may not have alike: some four lines."""


def _modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            # none is kept: garbage collections go through all nodes that there are
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def _spell(part: object, names: dict[str, str], into: list[object]) -> None:
    """Write a part of a syntax tree down. Arguments and variables have the names that their order
    gives, so that copies are spelled alike; types of arguments are left out.
    """
    match part:
        case ast.Name():
            into += ast.Name, type(part.ctx), names.setdefault(part.id, f"v{len(names)}")
        case ast.arg():
            into += ast.arg, names.setdefault(part.arg, f"v{len(names)}")
        case ast.AST():
            into.append(type(part))
            for field in part._fields:
                _spell(getattr(part, field), names, into)
        case list():
            into.append(len(part))
            for item in part:
                _spell(item, names, into)
        case _:
            into.append(repr(part))


def shape(function: ast.FunctionDef) -> tuple[object, ...] | None:
    """The body of a function without its names and its docstring; None for a short one."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    nodes = (node for part in body for node in ast.walk(part))
    if next(islice(nodes, LONG - 1, None), None) is None:
        return None
    names: dict[str, str] = {}
    spelled: list[object] = []
    _spell(function.args, names, [])
    _spell(body, names, spelled)
    return tuple(spelled)


def copies(modules: Iterator[tuple[Path, ast.Module]]) -> list[list[str]]:
    """The places of functions that do the same in the same way."""
    found = defaultdict(list)
    for path, module in modules:
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef) and (body := shape(node)):
                found[body].append(f"{path}:{node.lineno} {node.name}")
    return [places for places in found.values() if len(places) > 1]


def test_no_function_is_written_twice() -> None:
    assert copies(_modules(*CODE)) == []


def test_a_copy_with_other_names_is_found() -> None:
    text = (
        "def {f}({x}):\n"
        "    '''{f}'''\n"
        "    with opened({x}) as {y}:\n"
        "        for line in {y}:\n"
        "            if line.startswith('#') and len(line) > 3:\n"
        "                yield line.strip().upper(), {x}\n"
    )
    two = text.format(f="f", x="a", y="b") + text.format(f="g", x="c", y="d")
    assert len(copies(iter([(Path("m.py"), ast.parse(two))]))) == 1
    other = text.format(f="f", x="a", y="b") + text.format(f="g", x="c", y="d").replace("3", "4")
    assert copies(iter([(Path("m.py"), ast.parse(other))])) == []


def test_the_names_of_marks_are_written_in_one_module() -> None:
    named = {
        str(path)
        for path, module in _modules("src", "lab", "bench")
        for node in ast.walk(module)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and (marks.RUN in node.value or marks.KEY in node.value)
    }
    assert named == {"src/antipode/model/marks.py"}


def test_records_of_backups_are_decoded_in_one_module() -> None:
    """The embedded sites play Cinder, which decodes them by itself."""
    decoding = {
        str(path)
        for path, module in _modules("src")
        if "sandbox" not in path.parts
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef)
        and {"b64decode", "loads"}
        <= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    }
    assert decoding == {"src/antipode/cloud/backups.py"}


def test_an_option_of_several_commands_takes_the_same_values_in_each() -> None:
    spelled: dict[tuple[str, ...], set[object]] = defaultdict(set)
    for _, parser in reference.parsers(main.Antipode()):
        for action in _own(parser):
            spelled[(*action.option_strings, str(action.metavar))].add(action.type)
    different = {name: kinds for name, kinds in spelled.items() if len(kinds) > 1}
    assert different == {}


def _own(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for group in parser._action_groups:
        if group.title not in reference.FORMATTERS:
            yield from (a for a in group._group_actions if a.dest not in ("help", "formatter"))

# SPDX-License-Identifier: Apache-2.0
"""The reference pages and the manual page say what the command line and the errors say."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from typing import get_args

import pytest

from antipode.cli import app as main
from antipode.model.runbook import Deliberate
from tests import manual, reference

AGAIN = "write it again: python -m tests.reference"


def test_the_command_reference_agrees_with_the_help() -> None:
    assert (reference.DOCS / "commands.md").read_text() == reference.commands_page(), AGAIN


def test_the_table_of_errors_agrees_with_the_code() -> None:
    assert (reference.DOCS / "errors.md").read_text() == reference.errors_page(), AGAIN


def test_the_schema_of_reports_agrees_with_the_code() -> None:
    assert (reference.DOCS / "report.schema.json").read_text() == reference.report_schema(), AGAIN


def test_the_manual_page_agrees_with_the_help() -> None:
    assert (reference.DOCS / "antipode.1").read_text() == manual.manual_page(), AGAIN


def test_the_manual_page_has_every_command_and_option() -> None:
    text = (reference.DOCS / "antipode.1").read_text().replace("\\", "")
    for name, parser in reference.parsers(main.Antipode()):
        assert f".SS fBantipode {name}fR" in text
        section = text.partition(f".SS fBantipode {name}fR")[2].partition(".SS ")[0]
        for option, _ in reference._options(parser):
            assert option.split(",")[-1].split()[0] in section


def test_the_manual_page_is_installed_with_the_distribution() -> None:
    settings = tomllib.loads((reference.DOCS.parent / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["data-files"] == {"share/man/man1": ["docs/antipode.1"]}


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_manual_page_is_typeset_without_a_warning() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", str(reference.DOCS / "antipode.1")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


GUIDE = reference.DOCS / "operator-guide.md"
AT_NIGHT = GUIDE.read_text().partition("## At 3 a.m.\n")[2].partition("\n## ")[0]
PAGES = sorted(set(re.findall(r"\((concepts/[a-z-]+\.md)\)", AT_NIGHT)))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_for_the_night_begins_with_its_commands(page: str) -> None:
    lines = (reference.DOCS / page).read_text().splitlines()
    assert "```console" in lines[:12]
    first = lines[lines.index("```console") + 1]
    assert first.startswith("# antipode "), first


def test_the_table_for_the_night_has_each_verb() -> None:
    named = set(re.findall(r"`antipode ([a-z-]+(?: [a-z]+)?)", AT_NIGHT))
    words = " ".join(named)
    assert [verb for verb in get_args(Deliberate) if verb.replace("-", " ") not in words] == [
        "commit"  # never in a hurry
    ]

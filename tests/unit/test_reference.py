# SPDX-License-Identifier: Apache-2.0
"""The reference pages say what the command line and the errors say."""

from __future__ import annotations

from tests import reference

AGAIN = "write it again: python -m tests.reference"


def test_the_command_reference_agrees_with_the_help() -> None:
    assert (reference.DOCS / "commands.md").read_text() == reference.commands_page(), AGAIN


def test_the_table_of_errors_agrees_with_the_code() -> None:
    assert (reference.DOCS / "errors.md").read_text() == reference.errors_page(), AGAIN

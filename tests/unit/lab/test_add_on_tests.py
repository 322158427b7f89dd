# SPDX-License-Identifier: Apache-2.0
"""Which releases of Nova the quiesce add-on is tested with."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lab import __main__ as command_line
from lab import add_on_tests, packages
from lab.add_on_tests import RELEASES


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the releases whose tests are run."""
    names: list[str] = []

    def failure(release: add_on_tests.Release, progress: object) -> str:
        names.append(release.name)
        return ""

    monkeypatch.setattr(packages, "openstack_is_current", lambda: True)
    monkeypatch.setattr(add_on_tests, "_failure", failure)
    return names


@pytest.mark.parametrize(
    ("asked", "expected"), [([], list(RELEASES)), (["newest"], ["newest"]), (["29", "31"],) * 2]
)
def test_the_releases_that_are_named_are_tested_or_else_all(
    tested: list[str], asked: Sequence[str], expected: Sequence[str]
) -> None:
    arguments = command_line._parser().parse_args(["test-nova-quiesce", *asked])
    assert arguments.run(arguments) == 0
    assert sorted(tested) == sorted(expected)


def test_an_unknown_release_is_refused() -> None:
    with pytest.raises(SystemExit):
        command_line._parser().parse_args(["test-nova-quiesce", "17"])

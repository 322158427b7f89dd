# SPDX-License-Identifier: Apache-2.0
"""What is said of two runs of Tempest, and when that is a failure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import tempest
from lab.tempest import FAILED, PASSED, SKIPPED, Comparison, Run

A, B, C = "tempest.api.A.test_a", "tempest.api.B.test_b", "tempest.api.C.test_c"


def compared(with_add_on: dict[str, str], without: dict[str, str]) -> Comparison:
    return Comparison(Run(with_add_on, 60), Run(without, 90), only_failed=False)


@pytest.mark.parametrize(
    ("without", "code", "only_with"),
    [
        ({A: FAILED, B: PASSED}, 0, []),
        ({A: PASSED, B: PASSED}, 1, [A]),
        ({A: SKIPPED, B: PASSED}, 1, [A]),
        ({B: PASSED}, 1, [A]),  # it was not run: nothing excuses it
    ],
)
def test_a_test_that_fails_with_the_add_on_must_fail_without_it_too(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    without: dict[str, str],
    code: int,
    only_with: list[str],
) -> None:
    found = compared({A: FAILED, B: PASSED, C: SKIPPED}, without)
    monkeypatch.setattr(tempest, "BUILD", tmp_path)
    monkeypatch.setattr(tempest, "compare", lambda *_, **__: found)
    assert tempest.main([]) == code
    assert found.failed_only_with_add_on == only_with


def test_a_test_that_fails_only_without_the_add_on_is_shown_and_no_failure_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempest, "BUILD", tmp_path)
    monkeypatch.setattr(tempest, "compare", lambda *_, **__: compared({A: PASSED}, {A: FAILED}))
    assert tempest.main([]) == 0
    assert A in capsys.readouterr().out


def test_both_runs_are_counted() -> None:
    lines = compared({A: FAILED, B: PASSED, C: SKIPPED}, {A: FAILED, B: FAILED}).render()
    with_add_on, without = (line.split() for line in lines.splitlines()[1:3])
    assert with_add_on[-4:] == ["1", "1", "1", "1.0"]
    assert without[-4:] == ["0", "2", "0", "1.5"]


def test_a_class_whose_fixture_failed_is_run_again_as_a_whole() -> None:
    pattern = re.compile(tempest._naming([A, "setUpClass (tempest.api.B)"]))
    assert [bool(pattern.search(test)) for test in (A, B, C)] == [True, True, False]


def test_every_exclusion_is_a_regular_expression_with_a_reason() -> None:
    for tests, reason in tempest.EXCLUDED.items():
        assert re.compile(tests) and reason

# SPDX-License-Identifier: Apache-2.0
"""The steps of the proof, and what is left out of them."""

from __future__ import annotations

import subprocess
from itertools import chain
from pathlib import Path

import pytest
from lanes import DEFAULT, EVERY, Lane, Selection
from proof import all_steps, tell

from lab.add_on_tests import RELEASES

PROJECT = Path(__file__).parents[3]


def selected(lanes: frozenset[Lane], *, full: bool = False) -> dict[str, list[str]]:
    """The steps that run, with their commands."""
    steps = all_steps(Selection(lanes, "a test"), full=full)
    return {step.name: list(step.command) for step in steps if step.lanes & lanes}


@pytest.mark.parametrize("lane", Lane)
def test_every_lane_has_a_step_of_its_own(lane: Lane) -> None:
    assert selected(frozenset({lane})).keys() - {"environment"}


def test_what_a_step_comes_after_is_declared_before_it() -> None:
    steps = all_steps(Selection(EVERY, "a test"), full=True)
    names = [step.name for step in steps]
    for step in steps:
        assert set(step.after) <= set(names[: names.index(step.name)])


def test_every_step_is_a_target_of_the_makefile() -> None:
    for command in selected(EVERY, full=True).values():
        dry = subprocess.run(["make", "-n", *command[1:]], cwd=PROJECT, capture_output=True)
        assert dry.returncode == 0, dry.stderr


def test_a_change_of_documents_starts_no_lab() -> None:
    assert set(selected(frozenset({Lane.CHECKS}))) == {"environment", "checks"}


def test_the_core_runs_on_the_lab_and_the_rest_after_it_if_everything_is_asked_for() -> None:
    landing, full = selected(DEFAULT), selected(EVERY, full=True)
    assert landing["lab-tests"] == ["make", "test-lab-core"]
    assert landing["lab-contract"] == ["make", "test-contract-lab-core"]
    assert [step for step in full.items() if step[0] in landing] == list(landing.items())
    assert full["lab-tests-rest"] == ["make", "test-lab-rest"]
    assert full["lab-contract-rest"] == ["make", "test-contract-lab-rest"]


@pytest.mark.parametrize("step", ["kill-matrix", "sandbox"])
def test_what_a_landing_leaves_out_follows_if_everything_is_asked_for(step: str) -> None:
    landing, full = selected(DEFAULT), selected(EVERY, full=True)
    assert landing[step] == ["make", f"test-{step}-core"]
    assert full[f"{step}-rest"] == ["make", f"test-{step}-rest"]


def test_older_novas_run_only_when_they_are_selected() -> None:
    assert selected(DEFAULT | {Lane.ADD_ON})["nova-quiesce"][-1] == "NOVAS=newest"
    assert selected(EVERY)["nova-quiesce"][-1] == "NOVAS="
    full = selected(EVERY, full=True)
    novas = [
        full[step][-1].removeprefix("NOVAS=").split() for step in ("nova-quiesce", "older-novas")
    ]
    assert set(chain.from_iterable(novas)) == set(RELEASES)


def test_what_is_skipped_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Selection(frozenset({Lane.CHECKS}), "a reason"), full=False)
    said = capsys.readouterr().out
    assert "a reason" in said
    skipped = {line.split()[0] for line in said.splitlines() if "skipped" in line}
    assert skipped == EVERY - {Lane.CHECKS}

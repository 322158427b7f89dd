# SPDX-License-Identifier: Apache-2.0
"""Steps one after another, and beside each other."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from lanes import EVERY
from steps import Runner, Step, StepFailed

WAITS_FOR = "import pathlib, time\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.01)\n"


def python(name: str, code: str, **more: Any) -> Step:
    return Step(name, f"the step {name}", [sys.executable, "-c", code], EVERY, **more)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "logs", cwd=tmp_path)


def outcomes(runner: Runner) -> dict[str, bool]:
    return {result.name: result.succeeded for result in runner.results}


def test_the_output_of_a_step_is_shown_and_kept(
    runner: Runner, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    runner.run([python("one", "print('hello')")])
    assert b"hello\n" in capfdbinary.readouterr().out
    assert (tmp_path / "logs" / "one.log").read_text() == "hello\n"


def test_a_process_that_a_step_leaves_does_not_hold_it_up(runner: Runner, tmp_path: Path) -> None:
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    leave = f"import subprocess; print(subprocess.Popen({sleeps!r}).pid)"
    runner.run([python("front", leave), python("beside", leave, beside=True)])
    for name in outcomes(runner):
        os.kill(int((tmp_path / "logs" / f"{name}.log").read_text()), signal.SIGKILL)


def test_a_step_beside_another_runs_meanwhile_and_is_shown_in_one_piece(
    runner: Runner, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    there, ended = str(tmp_path / "there"), str(tmp_path / "ended")
    beside = WAITS_FOR.format(there) + f"print('a\\nb'); open({ended!r}, 'w')"
    front = f"print('c'); open({there!r}, 'w')\n" + WAITS_FOR.format(ended) + "print('d')"
    runner.run([python("beside", beside, beside=True), python("front", front)])
    shown = capfdbinary.readouterr().out
    assert b"c\nd\n" in shown
    assert b"a\nb\n" in shown
    assert outcomes(runner) == {"beside": True, "front": True}


def test_a_failure_in_front_ends_the_run_and_nothing_follows(
    runner: Runner, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    with pytest.raises(StepFailed, match="bad"):
        runner.run([python("bad", "raise SystemExit(3)"), python("next", f"open({str(made)!r})")])
    assert outcomes(runner) == {"bad": False}
    assert not made.exists()


def test_a_failure_beside_ends_the_run(
    runner: Runner, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    bad = python("bad", "print('because'); raise SystemExit(3)", beside=True)
    with pytest.raises(StepFailed, match="bad"):
        runner.run([bad, python("front", "pass")])
    assert b"because" in capfdbinary.readouterr().out


def test_a_command_that_does_not_exist_ends_the_run(runner: Runner) -> None:
    with pytest.raises(FileNotFoundError):
        runner.run([Step("bad", "no command", ["/no/such/command"], EVERY, beside=True)])


def test_what_comes_after_a_failed_step_does_not_begin(runner: Runner, tmp_path: Path) -> None:
    made = tmp_path / "made"
    code = f"open({str(made)!r}, 'w')"
    steps = [
        python("bad", "raise SystemExit(3)", beside=True),
        python("beside", code, after=["bad"], beside=True),
        python("front", code, after=["beside"]),
    ]
    with pytest.raises(StepFailed):
        runner.run(steps)
    assert not made.exists()


def test_a_step_waits_for_those_it_comes_after_as_far_as_they_run(
    runner: Runner, tmp_path: Path
) -> None:
    made = str(tmp_path / "made")
    steps = [
        python("first", f"import time; time.sleep(0.1); open({made!r}, 'w')", beside=True),
        python("second", f"open({made!r})", after=["first", "not-selected"], beside=True),
        python("third", f"open({made!r})", after=["second"]),
    ]
    runner.run(steps)
    assert all(outcomes(runner).values())


def test_durations_are_kept_of_steps_and_of_tests(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_one(): pass\n")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    runner.run([Step("tests", "some tests", tests, EVERY)])
    assert ElementTree.parse(tmp_path / "logs" / "tests.xml").find(".//testcase[@time]") is not None
    [kept] = json.loads((tmp_path / "logs" / "durations.json").read_text())
    assert kept["name"] == "tests"
    assert kept["seconds"] > 0
    assert kept["cpu_seconds"] > 0

# SPDX-License-Identifier: Apache-2.0
"""Which lanes a change needs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lanes import DEFAULT, EVERY, RULES, Lane, of_file, select

PROJECT = Path(__file__).parents[3]


def git(project: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True)


def change(project: Path, path: str) -> None:
    file = project / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{file.read_text() if file.exists() else ''}x\n")


def commit(project: Path, *paths: str) -> None:
    for path in paths:
        change(project, path)
    git(project, "add", "--all")
    git(project, "commit", "-m", "a change")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository whose branch is one commit, which changes the documentation, ahead of main."""
    git(tmp_path, "init", "--initial-branch", "work")
    commit(tmp_path, "docs/lab.md", "src/antipode/errors.py")
    git(tmp_path, "update-ref", "refs/remotes/origin/main", "HEAD")
    commit(tmp_path, "docs/lab.md")
    return tmp_path


@pytest.mark.parametrize("path", ["pyproject.toml", "Makefile", ".ci/run", "src/other/x.py", "lab"])
def test_a_file_that_no_rule_names_needs_every_lane_but_the_novas(path: str) -> None:
    assert of_file(path) == EVERY - {Lane.ADD_ON, Lane.OLDER_NOVAS}


def test_the_longest_rule_that_fits_counts() -> None:
    assert Lane.KILL_MATRIX in of_file("src/antipode/vault/manifests.py")
    assert Lane.KILL_MATRIX not in of_file("src/antipode/sandbox/story.py")


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_names_something_and_has_the_checks(rule: str) -> None:
    assert Lane.CHECKS in RULES[rule]
    assert (PROJECT / rule).exists()


@pytest.mark.parametrize("path", ["nova_quiesce/tests/requirements/31.txt", "lab/add_on_tests.py"])
def test_the_older_novas_run_when_the_add_on_or_its_runner_change(path: str) -> None:
    assert {Lane.ADD_ON, Lane.OLDER_NOVAS} <= of_file(path)


def test_a_change_of_antipode_needs_no_nova_of_its_own() -> None:
    lanes = of_file("src/antipode/cli/main.py")
    assert lanes == DEFAULT


def test_a_branch_is_compared_with_the_commit_where_it_left_main(project: Path) -> None:
    assert select(project).lanes == {Lane.CHECKS}


def test_a_base_that_is_given_counts(project: Path) -> None:
    commit(project, "src/antipode/errors.py")
    assert Lane.LAB in select(project).lanes
    assert select(project, "HEAD~2").lanes == select(project).lanes
    change(project, "docs/lab.md")
    assert select(project, "HEAD").lanes == {Lane.CHECKS}


def test_what_is_not_committed_counts(project: Path) -> None:
    change(project, "tests/sandbox/test_new.py")
    assert select(project).lanes == {Lane.CHECKS, Lane.EMBEDDED}
    change(project, "src/antipode/errors.py")
    assert Lane.KILL_MATRIX in select(project).lanes


def test_a_renamed_file_counts_at_its_old_place(project: Path) -> None:
    git(project, "mv", "src/antipode/errors.py", "docs/errors.md")
    assert Lane.KILL_MATRIX in select(project).lanes


def test_a_name_that_is_no_ascii_counts(project: Path) -> None:
    change(project, "tests/sandbox/prüfung.py")
    assert select(project).lanes == {Lane.CHECKS, Lane.EMBEDDED}


def test_without_anything_to_compare_with_every_lane_runs(project: Path) -> None:
    assert select(project, "no-such-commit").lanes == DEFAULT
    assert select(project, "HEAD").lanes == DEFAULT, "nothing has changed"
    git(project, "update-ref", "refs/remotes/origin/main", "HEAD")
    assert select(project).lanes == DEFAULT, "HEAD is in main"
    git(project, "update-ref", "-d", "refs/remotes/origin/main")
    assert select(project).lanes == DEFAULT, "there is no main"


def test_without_a_repository_every_lane_runs(tmp_path: Path) -> None:
    assert select(tmp_path).lanes == DEFAULT


def test_without_git_every_lane_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert select(project).lanes == DEFAULT

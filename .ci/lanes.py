# SPDX-License-Identifier: Apache-2.0
"""Selects the lanes of the proof that a change needs, by the files that it touches.

A lane is a group of steps that prove the same part of the project. A file that no rule names needs
every lane but those of the Novas, which depend on the add-on and its runner alone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Lane(StrEnum):
    """A part of the project that is proved by itself."""

    CHECKS = "checks"
    """unit tests and static checks"""
    DISTRIBUTIONS = "distributions"
    """wheels and source archives, installed where nothing else is"""
    KILL_MATRIX = "kill-matrix"
    """runs killed at every step"""
    DISTRIBUTED = "distributed"
    """several hosts, on real databases and job boards"""
    EMBEDDED = "embedded"
    """demo, contract and command line on embedded sites"""
    LAB = "lab"
    """story, contract and core tests on the two OpenStack sites"""
    ADD_ON = "add-on"
    """the Nova add-on with the tests of the newest Nova; on the lab it runs in one anyway"""
    OLDER_NOVAS = "older-novas"
    """the Nova add-on with every other Nova that it supports"""


EVERY = frozenset(Lane)
DEFAULT = EVERY - {Lane.ADD_ON, Lane.OLDER_NOVAS}
"""What is needed when nothing tells more. It has to fit into the time of a landing."""

_UNIT = {Lane.CHECKS}
_NOVAS = {Lane.ADD_ON, Lane.OLDER_NOVAS}
_ANTIPODE = EVERY - _NOVAS

RULES: Mapping[str, Set[Lane]] = {
    "src/antipode/": _ANTIPODE,
    "src/antipode/sandbox/": _ANTIPODE - {Lane.KILL_MATRIX, Lane.DISTRIBUTED},
    "examples/": {Lane.CHECKS, Lane.EMBEDDED, Lane.LAB},
    "examples/datastores/": {Lane.CHECKS, Lane.DISTRIBUTED},
    "bench/": _UNIT,
    "monitoring/": {Lane.CHECKS, Lane.DISTRIBUTED},
    "docs/": _UNIT,
    "docs/antipode.1": {Lane.CHECKS, Lane.DISTRIBUTIONS},
    "README.md": {Lane.CHECKS, Lane.DISTRIBUTIONS},
    "LICENSE": {Lane.CHECKS, Lane.DISTRIBUTIONS},
    "CHANGELOG.md": _UNIT,
    "CONTRIBUTING.md": _UNIT,
    ".pre-commit-config.yaml": _UNIT,
    "SECURITY.md": _UNIT,
    "antipode_client/": {Lane.CHECKS, Lane.DISTRIBUTIONS, Lane.EMBEDDED},
    "nova_quiesce/": {Lane.CHECKS, Lane.DISTRIBUTIONS, Lane.LAB} | _NOVAS,
    "lab/": {Lane.CHECKS, Lane.LAB},
    "lab/debian.py": {Lane.CHECKS, Lane.LAB, Lane.DISTRIBUTED},
    "lab/add_on_tests.py": {Lane.CHECKS} | _NOVAS,
    "lab/packages.py": {Lane.CHECKS, Lane.LAB} | _NOVAS,
    "lab/requirements.lock": {Lane.CHECKS, Lane.LAB, Lane.ADD_ON},
    "tests/unit/": {Lane.CHECKS, Lane.KILL_MATRIX, Lane.DISTRIBUTED},
    "tests/unit/ci/": _UNIT,
    "tests/unit/lab/": _UNIT,
    "tests/distributed/": {Lane.CHECKS, Lane.DISTRIBUTED},
    "tests/sandbox/": {Lane.CHECKS, Lane.EMBEDDED},
    "tests/console/": {Lane.CHECKS, Lane.EMBEDDED},
    "tests/contract/": {Lane.CHECKS, Lane.EMBEDDED, Lane.LAB},
    "tests/lab/": {Lane.CHECKS, Lane.LAB},
    "tests/created_networks.py": {Lane.CHECKS, Lane.EMBEDDED, Lane.LAB},
    "tests/messy.py": {Lane.CHECKS, Lane.EMBEDDED, Lane.LAB},
}
"""A file, or a folder with all that is below it -> the lanes that it can break. The longest name
that fits a file counts.
"""


@dataclass(frozen=True)
class Selection:
    """The lanes that a change needs, and why."""

    lanes: frozenset[Lane]
    reason: str


class UnknownChange(Exception):
    """Nothing tells what has changed."""


def of_file(path: str) -> frozenset[Lane]:
    """The lanes that a change of this file needs; `DEFAULT` when no rule names the file.

    Args:
        path: relative to the project, with slashes.
    """
    fitting = _rules(path)
    return frozenset(RULES[max(fitting, key=len)]) if fitting else DEFAULT


def _rules(path: str) -> list[str]:
    return [r for r in RULES if path == r or (r.endswith("/") and path.startswith(r))]


def of_files(paths: Iterable[str]) -> frozenset[Lane]:
    """The lanes that a change of all these files needs."""
    return frozenset().union(*(of_file(path) for path in paths))


def select(project: Path, base: str = "") -> Selection:
    """The lanes that the change in a working tree needs.

    Args:
        project: the root of the git repository.
        base: the commit to compare with; where the work left `origin/main` if it is empty.
    """
    try:
        commit = _commit(project, base) if base else _fork(project)
        paths = _changed(project, commit)
    except UnknownChange as e:
        return Selection(DEFAULT, str(e))
    reason = f"{len(paths)} changed since {commit[:10]}"
    if unknown := [path for path in paths if not _rules(path)]:
        reason += f"; no rule names {unknown[0]}"
    return Selection(of_files(paths), reason)


def _fork(project: Path) -> str:
    """The last commit that is in `origin/main`, too."""
    fork = _git(project, "merge-base", "HEAD", "origin/main")
    if fork == _commit(project, "HEAD"):
        raise UnknownChange("HEAD is in origin/main, so there is nothing to compare it with")
    return fork


def _commit(project: Path, revision: str) -> str:
    return _git(project, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")


def _changed(project: Path, commit: str) -> list[str]:
    """What differs from a commit: both names of what was renamed, and files that git does not know
    yet.
    """
    differing = _git(project, "diff", "--name-only", "--no-renames", "-z", commit)
    new = _git(project, "ls-files", "--others", "--exclude-standard", "-z")
    paths = sorted({path for path in f"{differing}\0{new}".split("\0") if path})
    if not paths:
        raise UnknownChange(f"nothing has changed since {commit[:10]}")
    return paths


def _git(project: Path, *arguments: str) -> str:
    """What git prints; raises UnknownChange if it fails or is not installed."""
    command = ["git", "-c", f"safe.directory={project.resolve()}", *arguments]
    try:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as e:
        raise UnknownChange(f"git {arguments[0]} failed: {e.stderr.strip()}") from e
    except FileNotFoundError as e:
        raise UnknownChange("git is not installed") from e
    return done.stdout.strip()

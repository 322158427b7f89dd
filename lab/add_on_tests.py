# SPDX-License-Identifier: Apache-2.0
"""The quiesce add-on's own tests, with the oldest Nova that it supports, a middle one, and the
lab's. They need no running site.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import packages
from lab.errors import LabError
from lab.progress import Progress
from lab.site import CACHE, VENV

ENVIRONMENTS = CACHE / "nova-quiesce-tests"
"""A virtual environment for each release of Nova; they outlive the run that has made them."""

REQUIREMENTS = packages.QUIESCE_ADD_ON / "tests" / "requirements"
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "install")


@dataclass(frozen=True)
class Release:
    """One release of Nova to test with."""

    name: str
    requirements: Path
    beside: Path | None = None
    """a virtual environment that has Nova and what it needs; without one, the requirements name all
    of it
    """

    @property
    def environment(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def python(self) -> str:
        return str(self.environment / "bin" / "python")


RELEASES = {
    release.name: release
    for release in (
        Release("newest", REQUIREMENTS / "newest.txt", beside=VENV),
        Release("31", REQUIREMENTS / "31.txt"),
        Release("29", REQUIREMENTS / "29.txt"),
    )
}


def run(releases: Sequence[Release] = ()) -> int:
    """Run the tests with some releases, all at once, and show the whole output of those that fail.

    Args:
        releases: all of them if none is given.

    Returns:
        the exit code.

    Raises:
        LabError: the virtual environment of the lab is missing or outdated.
    """
    releases = releases or list(RELEASES.values())
    if not packages.openstack_is_current():
        raise LabError(
            f"OpenStack is not installed in {VENV}, or not as {packages.LOCK} says; run: python "
            "-m lab up"
        )
    progress = Progress()
    # all at once, on however few cores: most of their time is waiting
    with ThreadPoolExecutor(len(releases)) as pool:
        outputs = pool.map(lambda release: _failure(release, progress), releases)
        failed = [output for output in outputs if output]
    print("\n".join(failed), end="", file=sys.stderr)
    return 1 if failed else 0


def _failure(release: Release, progress: Progress) -> str:
    """Run the tests with one release; return their whole output if they failed, and nothing if they
    passed.
    """
    began = time.monotonic()
    _prepare(release)
    prepared = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        packages.copy_add_on(Path(folder))
        packages.logged([release.python, *PIP, "--no-deps", "--force-reinstall", folder])
        # not from the sources, so that what is tested is what is installed
        shutil.rmtree(Path(folder) / "src")
        tests = subprocess.run(
            [release.python, "-m", "unittest", "discover", "--start-directory", "tests",
             "--top-level-directory", "."],
            cwd=folder, env=os.environ | {"PYTHONWARNINGS": "ignore"}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    ran = re.findall(r"^Ran (\d+) tests", tests.stdout, re.MULTILINE)
    passed = tests.returncode == 0 and ran
    progress.say(
        f"Nova {_version(release)}: {ran[-1] if ran else 'no'} tests "
        f"{'passed' if passed else 'FAILED'} in "
        f"{time.monotonic() - prepared:.0f} s; its environment took {prepared - began:.0f} s"
    )
    return "" if passed else f"\n=== Nova {_version(release)}\n{tests.stdout}"


def _version(release: Release) -> str:
    command = [
        release.python,
        "-c",
        "from importlib import metadata; print(metadata.version('nova'))",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _prepare(release: Release) -> None:
    """Make the release's virtual environment, unless it is there and as its requirements say."""
    wanted = release.requirements.read_text() + (
        packages.LOCK.read_text() if release.beside else ""
    )
    made = release.environment / ".antipode-requirements"
    if made.exists() and made.read_text() == wanted:
        return
    packages.logged(
        [
            "/usr/bin/python3",
            "-m",
            "venv",
            "--clear",
            *(["--system-site-packages"] if release.beside else []),
            str(release.environment),
        ]
    )
    if release.beside:
        for folder in release.environment.glob("lib/python3*/site-packages"):
            (folder / "beside.pth").write_text(
                f"{release.beside / folder.relative_to(release.environment)}\n"
            )
    # without --no-compile most of the time would go into compiling what is never imported
    options = ["--no-compile", *([] if release.beside else ["--no-deps"])]
    packages.logged([release.python, *PIP, *options, "--requirement", str(release.requirements)])
    made.write_text(wanted)

"""The quiesce add-on's own tests, against the Nova that the lab has installed; they need no running site."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Sequence

from lab import packages
from lab.errors import LabError
from lab.progress import Progress
from lab.site import ROOT, VENV

ENVIRONMENT = ROOT / "add-on-tests"
"""A virtual environment with what the tests need beside OpenStack, so that the services' own environment stays as its lock file says."""

INSTALLED = ENVIRONMENT / ".antipode-requirements"


def run() -> int:
    """Run the tests and return their exit code."""
    if not packages.openstack_is_current():
        raise LabError(f"OpenStack is not installed in {VENV}, or not as {packages.LOCK} says; run: python -m lab up")
    requirements = tomllib.loads((packages.QUIESCE_ADD_ON / "pyproject.toml").read_text())["project"]["optional-dependencies"]["test"]
    if not INSTALLED.exists() or INSTALLED.read_text().splitlines() != requirements:
        Progress().say(f"installing what the tests need into {ENVIRONMENT}")
        _install(requirements)
    environment = os.environ | {"PYTHONPATH": "src", "PYTHONWARNINGS": "ignore"}
    command = [str(ENVIRONMENT / "bin" / "python"), "-m", "unittest", "discover", "-s", "tests", "-t", "."]
    return subprocess.run(command, cwd=packages.QUIESCE_ADD_ON, env=environment).returncode


def _install(requirements: Sequence[str]) -> None:
    packages.logged(["/usr/bin/python3", "-m", "venv", "--clear", "--system-site-packages", str(ENVIRONMENT)])
    for folder in ENVIRONMENT.glob("lib/python3*/site-packages"):
        (folder / "openstack.pth").write_text(f"{VENV / folder.relative_to(ENVIRONMENT)}\n")
    packages.logged([str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "--quiet", "install", *requirements])
    INSTALLED.write_text("\n".join(requirements))

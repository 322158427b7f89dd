# SPDX-License-Identifier: Apache-2.0
"""What is published of the project: built, looked into, and tried where nothing else is installed.

A distribution is a folder with a `pyproject.toml` that names a project.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[1]
BUILT = PROJECT / "build" / "distributions"
LICENSE, MANUAL = "LICENSE", "antipode.1"
CARRIED = {"antipode": (LICENSE, MANUAL)}
"""The files that a distribution carries beside its code; others carry the licence."""


@dataclass(frozen=True)
class Trial:
    """How a distribution shows in an empty environment that it works."""

    extra: str
    """what is installed with it, as in `antipode[sandbox]`"""
    command: Sequence[str]
    """a program of the environment, with its arguments"""


TRIALS = {"antipode": Trial("[sandbox]", ["antipode", "demo"])}
"""By name. Of another distribution every package is imported."""


class Unfit(Exception):
    """A distribution is not as it has to be."""


def main() -> int:
    shutil.rmtree(BUILT, ignore_errors=True)
    for folder in distributions(PROJECT):
        name = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"]
        print(f"{name}: building", flush=True)
        try:
            wheel, source = build(folder, BUILT / name)
            for archive in (wheel, source):
                require(archive, CARRIED.get(name, (LICENSE,)))
            print(f"{name}: trying {wheel.name} in an empty environment", flush=True)
            try_out(name, wheel)
        except (Unfit, subprocess.CalledProcessError) as e:
            print(f"{name}: {e}", file=sys.stderr)
            return 1
    return 0


def distributions(project: Path) -> Iterator[Path]:
    """The folders of the project's distributions: its root, and those right below it."""
    for file in sorted(project.glob("pyproject.toml")) + sorted(project.glob("*/pyproject.toml")):
        if "project" in tomllib.loads(file.read_text()):
            yield file.parent


def build(folder: Path, into: Path) -> tuple[Path, Path]:
    """Build the source archive, and the wheel from it: so the archive has all that is needed.

    Returns:
        the wheel and the source archive.

    Raises:
        Unfit: the build has failed.
    """
    command = [sys.executable, "-m", "build", "--outdir", str(into), str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise Unfit(f"the build failed:\n{done.stdout}")
    [wheel], [source] = into.glob("*.whl"), into.glob("*.tar.gz")
    return wheel, source


def require(archive: Path, files: Iterable[str]) -> None:
    """Raises Unfit if an archive lacks one of the files."""
    missing = {*files} - {Path(name).name for name in contents(archive)}
    if missing:
        raise Unfit(f"{archive.name} does not hold {', '.join(sorted(missing))}")


def contents(archive: Path) -> list[str]:
    """The names of the files in a wheel or a source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.namelist()
    with tarfile.open(archive) as source:
        return source.getnames()


def try_out(name: str, wheel: Path) -> None:
    """Install a wheel with what it depends on, and use it.

    Raises:
        CalledProcessError: it cannot be installed, or does not work.
    """
    with tempfile.TemporaryDirectory(prefix="antipode-distribution-") as empty:
        venv.create(empty, with_pip=True)
        programs = f"{empty}/bin"
        trial = TRIALS.get(name) or Trial("", ["python", "-c", imports(wheel)])
        program, *arguments = trial.command
        pip = [f"{programs}/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        # nothing of the user's, and nothing of the project's folder, stands in for what is missing
        own = os.environ | {
            "XDG_STATE_HOME": f"{empty}/state",
            "XDG_CONFIG_HOME": f"{empty}/config",
        }
        for command, environment in (
            ([*pip, "install", "--no-compile", f"{wheel}{trial.extra}"], None),
            ([*pip, "check"], None),
            ([f"{programs}/{program}", *arguments], own),
        ):
            subprocess.run(command, check=True, cwd=empty, env=environment)


def imports(wheel: Path) -> str:
    """The Python statement that imports every package of a wheel."""
    modules = [Path(name) for name in contents(wheel) if name.endswith(".py")]
    packages = {module.parts[0] for module in modules if len(module.parts) > 1}
    return f"import {', '.join(sorted(packages))}"


if __name__ == "__main__":
    sys.exit(main())

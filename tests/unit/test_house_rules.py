# SPDX-License-Identifier: Apache-2.0
"""What every file of the project has: a licence line, short lines of prose, links that lead on."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPDX = "# SPDX-License-Identifier: Apache-2.0"
WIDTH = 100
DISTRIBUTIONS = {
    "antipode": ROOT,
    **{name: ROOT / name for name in ("nova_quiesce", "antipode_client")},
}


def _files(suffix: str, *folders: str) -> list[Path]:
    """Files of the project, without what tools and builds put beside them."""
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob(f"*{suffix}")
        if not any(
            part.startswith(".") or part == "build"
            for part in path.relative_to(ROOT / folder).parts
        )
    )


PYTHON = _files(".py", "src", "nova_quiesce", "antipode_client", "lab", "bench", "tests", ".ci")
SCRIPTS = [*_files(".sh", "bench", "lab", "tests"), ROOT / "Makefile", ROOT / ".ci" / "run"]
PAGES = [*sorted(ROOT.glob("*.md")), *_files(".md", "docs", "nova_quiesce", "antipode_client")]


def _prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page outside code and tables."""
    in_code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code and not line.startswith(("|", "    ")):
            yield number, line


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Git hosts make them."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_python_file_begins_with_the_licence_line() -> None:
    without = []
    for path in PYTHON:
        lines = path.read_text().splitlines()
        if SPDX not in lines[: 2 if lines[:1] and lines[0].startswith("#!") else 1]:
            without.append(str(path.relative_to(ROOT)))
    assert not without, f"make this the first line of each of them: {SPDX}"


def test_no_line_of_code_is_longer_than_100_columns() -> None:
    """ruff lets lines pass that end in a pragma, and does not read scripts."""
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*PYTHON, *SCRIPTS]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > WIDTH
    ]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_prose_ends_before_column_100(page: Path) -> None:
    assert [number for number, line in _prose(page) if len(line) >= WIDTH] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_something(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize(("package", "folder"), DISTRIBUTIONS.items())
def test_a_distribution_has_one_version_and_carries_its_licence(package: str, folder: Path) -> None:
    settings = tomllib.loads((folder / "pyproject.toml").read_text())
    assert "version" not in settings["project"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": f"{package}.__version__"
    }
    assert settings["project"]["license-files"] == ["LICENSE"]
    assert "Apache License" in (folder / "LICENSE").read_text()
    written = re.findall(
        r"__version__ = ", "".join(p.read_text() for p in (folder / "src").rglob("*.py"))
    )
    assert len(written) == 1


def test_no_word_is_used_that_the_house_rules_leave_out() -> None:
    """In code, comments, messages and documents; tests are free."""
    rules = ROOT / "CONTRIBUTING.md"
    [rule] = re.findall(r"Words to avoid, by test: (.+)\.", rules.read_text())
    avoided = re.compile(rf"\b({'|'.join(re.findall(r'[a-z]+', rule))})\b", re.IGNORECASE)
    code = _files(".py", "src", "nova_quiesce/src", "antipode_client/src", "lab", "bench", ".ci")
    scope = [*code, *PAGES, *SCRIPTS]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in scope
        if path != rules
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if avoided.search(line.replace("_", " "))
    ]
    assert found == []

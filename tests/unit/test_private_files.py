# SPDX-License-Identifier: Apache-2.0
"""Files and folders that only their owner may read, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from antipode import private
from antipode.vault import points
from antipode.vault.directory import DirectoryVault
from tests.unit import samples


@pytest.fixture(params=[0o000, 0o022, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_vault_in_a_directory_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    tmp_path.chmod(0o755)
    vault = DirectoryVault(tmp_path)
    points.commit(vault, samples.point())
    made = list(tmp_path.rglob("*"))
    assert made
    assert {mode(p) for p in made if p.is_file()} == {0o600}
    assert {mode(p) for p in made if p.is_dir()} == {0o700}
    assert mode(tmp_path) == 0o755, "the folder that the operator made is the operator's"
    assert points.read(vault, "hlr").id == samples.point().id


def test_an_older_file_of_ours_is_closed_and_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    path.chmod(0o644)
    private.touch(path)
    assert (mode(path), path.read_text()) == (0o600, "content")

# SPDX-License-Identifier: Apache-2.0
"""What is published of the project."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
from distributions import Unfit, distributions, imports, require

PROJECT = Path(__file__).parents[3]


def archive(path: Path, *names: str) -> Path:
    """An archive with empty files."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name in names:
                wheel.writestr(name, "")
    else:
        with tarfile.open(path, "w:gz") as source:
            for name in names:
                source.addfile(tarfile.TarInfo(name))
    return path


def test_every_folder_that_names_a_project_is_a_distribution(tmp_path: Path) -> None:
    for folder, text in {".": "[project]", "plug-in": "[project]", "other": "[tool.x]"}.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "pyproject.toml").write_text(text)
    assert list(distributions(tmp_path)) == [tmp_path, tmp_path / "plug-in"]
    assert {PROJECT, PROJECT / "nova_quiesce"} <= set(distributions(PROJECT))


@pytest.mark.parametrize("name", ["x-1-py3-none-any.whl", "x-1.tar.gz"])
def test_an_archive_that_lacks_a_licence_or_a_manual_page_is_unfit(
    tmp_path: Path, name: str
) -> None:
    whole = ("x/__init__.py", "x-1.dist-info/licenses/LICENSE", "x-1.data/data/share/man/x.1")
    require(archive(tmp_path / name, *whole), ["LICENSE", "x.1"])
    for lacking in (whole[0], whole[1]), (whole[0], whole[2]):
        with pytest.raises(Unfit):
            require(archive(tmp_path / name, *lacking), ["LICENSE", "x.1"])


def test_every_package_of_a_wheel_is_imported(tmp_path: Path) -> None:
    names = ("one/__init__.py", "one/two/__init__.py", "other/x.py", "x-1.dist-info/METADATA")
    wheel = archive(tmp_path / "x-1-py3-none-any.whl", *names)
    assert imports(wheel) == "import one, other"

# SPDX-License-Identifier: Apache-2.0
"""Internals of libraries that antipode depends on are there; a release without one is named."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from taskflow.storage import Storage

from antipode import config, libraries
from antipode.claims.board import Board
from antipode.engine.flows import Flows
from antipode.errors import AntipodeError, Busy
from antipode.registry import Registry

ALL = [
    *(
        (libraries.TASKFLOW, seam)
        for seam in (*libraries.FLOWS, *libraries.BOARD, *libraries.ETCD_BOARD)
    ),
    *((libraries.ETCD3GW, seam) for seam in libraries.ETCD_CLIENT),
]


@pytest.mark.parametrize(("package", "seam"), ALL, ids=[seam for _, seam in ALL])
def test_the_installed_release_has_what_antipode_needs(package: tuple[str, str], seam: str) -> None:
    libraries.check(package, [seam])


def test_the_releases_that_are_installed_are_those_that_were_tested() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["etcd"]]
    for name, fitting in (libraries.TASKFLOW, libraries.ETCD3GW):
        assert f"{name}{fitting}" in required


def test_a_flow_is_not_begun_with_a_taskflow_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Storage, "set_task_progress")
    settings = config.Config.model_validate(
        {
            "sites": {"a": {"cloud": "a"}},
            "vault": {"directory": "/v"},
            "database": f"sqlite:///{tmp_path}/antipode.db",
        }
    )
    with pytest.raises(AntipodeError) as refused:
        Flows(settings).is_complete("protect-1")
    assert f"taskflow {version('taskflow')}" in str(refused.value)


def test_a_board_is_not_used_with_an_etcd3gw_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import etcd3gw

    monkeypatch.delattr(etcd3gw.Etcd3Client, "transaction")
    with pytest.raises(AntipodeError) as refused:
        Board(config.Jobboard.model_validate({"etcd": {"endpoints": ["http://127.0.0.1:1"]}}))
    assert f"etcd3gw {version('etcd3gw')}" in str(refused.value)


def test_what_antipode_brings_along_is_found_without_a_look_at_all_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("antipode.registry.entry_points", lambda **_: pytest.fail("was looked at"))
    parts = Registry[type]("error", {"busy": "antipode.errors:Busy"}, group="antipode.errors")
    assert "busy" in parts
    assert parts.get("busy") is Busy

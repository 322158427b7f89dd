# SPDX-License-Identifier: Apache-2.0
"""What the lab tests share: both sites up, the canary running at site-a, and an operator's desk."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import canary
from lab.desk import EXAMPLE, PROJECT, Desk
from lab.site import SITES, Site
from tests.lab.replicated import replicated_canary
from tests.lab.with_replication import add_replication


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What leaves the lab changed runs last, in the order it is written in."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture(scope="session", autouse=True)
def sites() -> None:
    """Whatever an earlier run left down or isolated is up and joined again."""
    for site in SITES:
        subprocess.run([sys.executable, "-m", "lab", "rejoin", site], cwd=PROJECT)
    subprocess.run([sys.executable, "-m", "lab", "up"], cwd=PROJECT, check=True)


@pytest.fixture(scope="session")
def site_a() -> Site:
    return SITES["site-a"]


@pytest.fixture(scope="session")
def site_b() -> Site:
    return SITES["site-b"]


@pytest.fixture
def servers(site_a: Site) -> dict[str, str]:
    """The canary, running at site-a: role -> server id."""
    return canary.create(site_a)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk of its own, with a vault of its own, that knows no VNF."""
    return Desk(tmp_path / "desk", vault=f"antipode-test-{time.time_ns()}")


@pytest.fixture
def replicated(tmp_path: Path, vnf_file: Callable[..., Path]) -> Iterator[Desk]:
    """The canary at site-a, replicated to site-b, and a desk that knows it."""
    add_replication()
    with replicated_canary(tmp_path / "desk", vnf_file) as desk:
        yield desk


@pytest.fixture(scope="session")
def vnf_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the example's VNF file with other values: `vnf_file(protections=…)`."""

    def make(*, timeout_s: float | None = None, **changes: Any) -> Path:
        """`timeout_s`: how long a member may stay frozen."""
        if timeout_s is not None:
            quiesce = {"timeout": f"{timeout_s:g}s"}
            changes["protections"] = [{"option": "quiesced-snapshot", "quiesce": quiesce}]
        path = tmp_path_factory.mktemp("vnf") / "vnf.yaml"
        path.write_text(
            yaml.safe_dump(yaml.safe_load(EXAMPLE.read_text()) | changes, sort_keys=False)
        )
        return path

    return make

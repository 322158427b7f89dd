# SPDX-License-Identifier: Apache-2.0
"""A VNF of 200 members and 400 volumes: the threads of its runs do not grow with it, and those that
wait do not keep the others from their work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from taskflow.types.graph import DiGraph

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Unobserved
from antipode.model.vnf import Vnf
from antipode.operations.failover import failover, prepare
from antipode.operations.protect import protect
from antipode.vault import points
from tests.unit import samples
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_kill_matrix import VNF, backup_site

MEMBERS = [f"m{number:03}" for number in range(200)]
FIRST = MEMBERS[-1]
"""All others boot after it, and are before it in the file: they must not take its threads."""


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeCloud]:
    active = FakeCloud("site-a", empty=True)
    active.looks_until_available = 1
    for index, name in enumerate(MEMBERS):
        active.add_server(name, index)
    backup = backup_site()
    for name in ("instances", "cores", "ram", "volumes", "gigabytes", "port"):
        backup.quotas[name] = {"limit": -1}
    clouds = {"site-a": active, "site-b": backup}
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: clouds[name].site)
    return clouds


@pytest.fixture
def deployment(tmp_path: Path, clouds: dict[str, FakeCloud]) -> Deployment:
    deployment = Deployment(config.load(str(samples.write_config(tmp_path))))
    members = [{"server": name, "boot_after": [] if name == FIRST else [FIRST]} for name in MEMBERS]
    wanted = VNF.model_dump(exclude_defaults=True) | {"members": members}
    deployment.vnfs.put(Vnf.model_validate(wanted))
    return deployment


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """The most threads that were alive at once, beside those from before."""
    before, most = threading.active_count(), 0
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        nonlocal most
        start(thread)
        most = max(most, threading.active_count() - before)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", noted)
        yield lambda: most


@contextmanager
def copied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[DiGraph]]:
    """The graphs that TaskFlow makes of another."""
    copies: list[DiGraph] = []
    init = DiGraph.__init__

    def noted(graph: DiGraph, incoming: Any = None, **how: Any) -> None:
        if incoming is not None:
            copies.append(graph)
        init(graph, incoming, **how)

    with monkeypatch.context() as patched:
        patched.setattr(DiGraph, "__init__", noted)
        yield copies


def test_a_vnf_of_200_members_is_protected_and_recovered_by_fewer_threads_than_members(
    deployment: Deployment, clouds: dict[str, FakeCloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(monkeypatch) as most:
        protect(deployment, "v", Unobserved())
    assert most() < len(MEMBERS)
    assert not clouds["site-a"].frozen
    assert len(points.read(deployment.vault, "v").sources) == 2 * len(MEMBERS)
    with counted(monkeypatch) as most, copied(monkeypatch) as copies:
        record: dict[str, Any] = failover(
            deployment, prepare(deployment, "v", "site-b", None), Unobserved()
        )
    assert most() < len(MEMBERS)
    assert len(copies) < 10
    assert set(record["servers"]) == set(MEMBERS)
    there = clouds["site-b"]
    assert (len(there.servers), len(there.volumes)) == (len(MEMBERS), 2 * len(MEMBERS))
    booted = [event for event in there.events if event.startswith("boot ")]
    assert booted[0] == f"boot {FIRST}"

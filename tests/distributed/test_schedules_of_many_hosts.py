# SPDX-License-Identifier: Apache-2.0
"""Schedules on real database servers: of many hosts one begins each slot, by the server's clock."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.model.vnf import Vnf
from antipode.operations import protections
from antipode.runs.protect import ProtectRequest
from antipode.service import daemon
from antipode.service.scheduler import Scheduler
from antipode.store import database
from tests.distributed import servers

INTERVAL_S = 900.0
NOON = 1_796_040_000.0 // INTERVAL_S * INTERVAL_S
VNF = Vnf.model_validate(
    {
        "vnf": "hlr",
        "primary": "site-a",
        "backup": "site-b",
        "members": [{"server": "db"}],
        "protections": {"schedule": {"every": "15m"}},
    }
)


@pytest.fixture
def hosts(new_database: str, tmp_path: Path) -> list[Deployment]:
    settings = {
        "sites": {"site-a": {"cloud": "a"}, "site-b": {"cloud": "b"}},
        "vault": {"directory": str(tmp_path / "vault")},
        "database": new_database,
        "state_directory": str(tmp_path),
    }
    made = [Deployment(Config.model_validate(settings)) for _ in range(4)]
    made[0].vnfs.put(VNF)
    return made


def test_of_many_hosts_one_begins_each_slot(hosts: list[Deployment]) -> None:
    now = [NOON + 1]
    followed = [Scheduler(host, lambda: now[0]) for host in hosts]
    slots = [NOON + number * INTERVAL_S for number in range(6)]
    for slot in slots:
        now[0] = slot + 1
        together = threading.Barrier(len(hosts))

        def look(one: Scheduler, together: threading.Barrier = together) -> None:
            together.wait(servers.WITHIN_S)
            one.look()

        with ThreadPoolExecutor(len(followed)) as threads:
            list(threads.map(look, followed))
        for row in hosts[0].runs.open():
            hosts[0].runs.end(row.id, row.claim, "succeeded", time.time(), None, {})
    begun = sorted(ProtectRequest.of(row).due_at or 0 for row in hosts[0].runs.all())
    assert begun == slots[1:]  # the first is that at which the VNF was seen first
    assert protections.protections(hosts[0], "hlr")[0].progress is not None
    assert hosts[0].schedules.all()["hlr", "quiesced-snapshot"].missed == 0


def test_a_pause_is_known_to_all_hosts(hosts: list[Deployment]) -> None:
    followed = [Scheduler(host, lambda: NOON + INTERVAL_S) for host in hosts]
    protections.pause(hosts[0], "hlr", because="upgrade")
    for one in followed:
        one.look()
    assert hosts[0].runs.all() == []
    assert protections.resume(hosts[1], "hlr") == ["quiesced-snapshot"]


def test_all_hosts_go_by_the_clock_of_the_server(hosts: list[Deployment]) -> None:
    before = time.time()
    there = database.now(hosts[0].database)
    assert before - daemon.CLOCKS_APART_S < there < time.time() + daemon.CLOCKS_APART_S

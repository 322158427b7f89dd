# SPDX-License-Identifier: Apache-2.0
"""Two clouds with VNFs of one server each, that plans are about."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from antipode.cloud import site as cloud_site
from antipode.engine import parts, watch
from antipode.engine.timeline import Unobserved
from antipode.model.plan_file import PlanFile
from antipode.model.vnf import Vnf
from antipode.operations import abort as aborting
from antipode.operations import plans
from antipode.operations.plans import Prepared, Source
from antipode.operations.protect import protect
from antipode.protect.quiesced_snapshot import window
from antipode.recover import rollback, switching
from antipode.runs import actions, fence, runbook
from antipode.topology import answering
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_durable_runs import World, made_once
from tests.unit.test_kill_matrix import backup_site

Json = dict[str, Any]


def vnf_of(name: str, **fields: Any) -> Vnf:
    return Vnf.model_validate(
        {
            "vnf": name,
            "primary": "site-a",
            "backup": "site-b",
            "store_at_active_site": "accepted",
            "map": {"networks": {"net": "net-b"}, "volume_types": {"fast": "standard"}},
            "members": [{"server": f"s-{name}"}],
            **fields,
        }
    )


def names(number: int) -> list[str]:
    return [f"v{i}" for i in range(1, number + 1)]


def plan_of(*groups: list[str] | Json, **fields: Any) -> PlanFile:
    """A plan; a group is its VNFs, or all of its fields."""
    described = [
        {"name": f"g{number}", **(group if isinstance(group, dict) else {"vnfs": group})}
        for number, group in enumerate(groups, 1)
    ]
    return PlanFile.model_validate({"plan": "p", "to": "site-b", "groups": described, **fields})


def source(plan: PlanFile) -> Source:
    return Source(plan, "from a test")


class PlanWorld(World):
    """VNFs of one server each at site-a, with a recovery point each."""

    def __init__(self, folder: Path, number: int = 4) -> None:
        super().__init__(folder)
        self.a = FakeCloud("site-a", empty=True)
        self.b = backup_site()
        for index, name in enumerate(names(number)):
            self.a.add_server(f"s-{name}", index)

    def prepare(self, plan: PlanFile, verb: str = "failover", **wanted: Any) -> Prepared:
        return plans.prepare(self.process(), source(plan), verb, **wanted)

    def carry_out(self, plan: PlanFile, verb: str = "failover", **wanted: Any) -> Json:
        """Confirm a plan and carry it out in a process of its own."""
        prepared = self.prepare(plan, verb, **wanted)
        row = plans.request(prepared)
        return plans.carry_out(self.process(), prepared.kind, row, Unobserved())

    def servers_there(self) -> set[str]:
        return {server["name"] for server in self.b.servers.values()}


def with_points(number: int) -> Callable[[World], None]:
    def make(world: World) -> None:
        for name in names(number):
            world.here.vnfs.put(vnf_of(name))
            protect(world.here, name, Unobserved())

    return make


@functools.cache
def protected(number: int = 4) -> Callable[[], World]:
    return made_once(with_points(number), lambda folder: PlanWorld(folder, number))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanWorld:
    for module, pause in (
        (window, "POLL_S"),
        (rollback, "POLL_S"),
        (switching, "POLL_S"),
        (fence, "POLL_S"),
        (watch, "LOOK_S"),
        (aborting, "LOOK_S"),
        (actions, "LOOK_S"),
        (parts, "LOOK_S"),
        (answering, "PAUSE_S"),
        (runbook, "RETRY_S"),
    ):
        monkeypatch.setattr(module, pause, 0.01)
    world = PlanWorld(tmp_path)
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: world.clouds[name].site)
    world.becomes(protected()())
    return world

# SPDX-License-Identifier: Apache-2.0
"""The benches do what they measure, on embedded sites: antipode as one of the clients, and the ways
of restoring a backup.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from antipode.sandbox import canary, demo, desk
from bench import clients, restores
from bench.cloud import Cloud
from bench.floor import read_vnf
from tests.sandbox.conftest import BACKUP, World, digest

pytestmark = [pytest.mark.sandbox, pytest.mark.rest]


class Desk(demo.Operator):
    """An operator of embedded sites in the place of the lab's."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.configuration = directory / desk.CONFIGURATION


@pytest.fixture(scope="module")
def bench_world(shared: World) -> Iterator[World]:
    directory = shared.sandbox.directory
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OS_CLIENT_CONFIG_FILE", str(directory / desk.CLOUDS))
        patch.setattr(clients, "Desk", lambda folder, vault: Desk(directory))
        yield shared


@pytest.fixture(scope="module")
def site(bench_world: World) -> Cloud:
    """The backup site, which knows the backups of a recovery point that is an increment."""
    bench_world.know()
    bench_world.protect()
    bench_world.protect()
    bench_world.operator.ask("recovery-point", "verify", "canary", "--deep")
    return Cloud(BACKUP)


def test_both_ways_bring_the_same_bytes_back(bench_world: World, site: Cloud) -> None:
    chain = restores.chains_of(bench_world.operator, site)[0]
    made = [way(site, chain["backup"], chain) for way in restores.WAYS.values()]
    first, second = (
        digest(canary.path_of_volume(bench_world.sandbox, BACKUP, volume), 0) for volume in made
    )
    assert first == second != hashlib.sha256().hexdigest()
    for volume in made:
        restores.remove(site, "volume", volume)


def test_each_volume_is_measured_in_each_way_and_removed(bench_world: World, site: Cloud) -> None:
    records = bench_world.backups(BACKUP)
    chains = restores.chains_of(bench_world.operator, site)
    assert {chain["size"] for chain in chains} == {1}
    measured = restores.measure_ways(site, chains[:2], rounds=1)
    assert {way: len(of) for way, of in measured.items()} == dict.fromkeys(restores.WAYS, 2)
    assert all(restores.measure_floor(site, chains[:1], way) > 0 for way in restores.WAYS)
    assert bench_world.backups(BACKUP) == records
    assert list(bench_world.cloud(BACKUP).block_storage.volumes()) == []


def test_each_act_of_antipode_is_timed_until_it_is_done(bench_world: World, tmp_path: Path) -> None:
    vnf = read_vnf(bench_world.sandbox.directory / desk.VNF_FILE)
    client = clients.Antipode(vnf, tmp_path, "test")
    full, incremental, recovered = (client.act(a, 1) for a in ("full", "incremental", "recover"))
    assert full.window_s and incremental.window_s and recovered.window_s is None
    assert all(t.seconds > 0 and t.calls > 0 for t in (full, incremental, recovered))
    assert len(bench_world.guests(BACKUP)) == len(vnf.members)

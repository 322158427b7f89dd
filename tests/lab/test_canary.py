# SPDX-License-Identifier: Apache-2.0
"""The canary on a real site: it tells a consistent state of its VMs from one that is not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from antipode.sandbox.creation import FLAVOR
from antipode.sandbox.members import TENANTS
from lab import canary, inside
from lab.checker import CHAIN, Report, check
from lab.errors import LabError
from lab.guest import image
from lab.site import SITES
from lab.waiting import wait_until

pytestmark = pytest.mark.lab
SITE = SITES["site-a"]
PAUSE = 2
"""Seconds in which guests that are not frozen would write about ten records."""


@pytest.fixture(scope="module", autouse=True)
def servers() -> dict[str, str]:
    return canary.create(SITE)


@contextmanager
def frozen(servers: dict[str, str]) -> Iterator[None]:
    """All guests frozen by their agents, db first, the worst order for the chain; thawed in
    reverse.
    """

    def tell(role: str, command: str) -> None:
        inside.run(
            SITE, ["virsh", "qemu-agent-command", servers[role], json.dumps({"execute": command})]
        )

    asked: list[str] = []
    try:
        for role in CHAIN:
            asked.append(role)
            tell(role, "guest-fsfreeze-freeze")
        yield
    finally:
        for role in reversed(asked):
            tell(role, "guest-fsfreeze-thaw")


def snapshot_one_after_the_other(pause: Callable[[], None]) -> Report:
    """Cinder snapshots of the data volumes, db first with a pause after each, and what their bytes
    hold.
    """
    cloud = canary.connect(SITE)
    volumes = canary.data_volumes(SITE)
    snapshots = {}
    try:
        for role in CHAIN:
            snapshots[role] = cloud.block_storage.create_snapshot(
                volume_id=volumes[role], name=f"test-{role}", is_forced=True
            )
            cloud.block_storage.wait_for_status(
                snapshots[role], "available", ["error"], interval=0.5, wait=300
            )
            pause()
        return check(
            {
                role: canary.records_of_snapshot(SITE, volumes[role], snapshot.id)
                for role, snapshot in snapshots.items()
            }
        )
    finally:
        for snapshot in snapshots.values():
            cloud.block_storage.delete_snapshot(snapshot)
        for snapshot in snapshots.values():
            cloud.block_storage.wait_for_delete(snapshot, interval=0.5, wait=300)


def test_a_vnf_that_is_there_is_not_made_a_second_time(servers: dict[str, str]) -> None:
    assert canary.create(SITE) == servers


def test_a_running_vnf_read_head_first_is_consistent() -> None:
    report = check(canary.records(SITE))
    assert report.consistent, report


def test_snapshots_of_frozen_guests_are_consistent_and_hold_exactly_what_the_guests_had_durable(
    servers: dict[str, str],
) -> None:
    with frozen(servers):
        witnessed = canary.frozen_last(SITE)
        report = snapshot_one_after_the_other(lambda: time.sleep(PAUSE))
    assert report.consistent, report
    assert report.last == witnessed


@pytest.mark.core
def test_snapshots_of_running_guests_taken_db_first_with_pauses_violate_the_order() -> None:
    report = snapshot_one_after_the_other(lambda: canary.wait_for_records(SITE, 5))
    assert [(v.ahead, v.behind) for v in report.order_violations] == [
        ("app", "db"),
        ("front", "app"),
    ]
    assert report.torn == report.gaps == report.duplicates == 0


def test_the_chain_goes_on_after_a_member_is_reset(servers: dict[str, str]) -> None:
    boots = canary.state(SITE)["app"]["boot"]

    def has_started_again() -> bool:
        try:
            return bool(canary.state(SITE)["app"]["boot"] > boots)
        except LabError:  # it does not answer yet
            return False

    inside.run(SITE, ["virsh", "reset", servers["app"]])
    wait_until(has_started_again, "app tells of another start", timeout=300, interval=0.5)
    canary.wait_answers(SITE)
    report = check(canary.records(SITE))
    assert report.consistent, report


def test_a_guest_without_user_data_does_not_start_the_canary() -> None:
    cloud = canary.connect(SITE)
    network = cloud.network.find_network(TENANTS[SITE.name].network, ignore_missing=False)
    source = cloud.image.find_image(image.NAME, ignore_missing=False)
    volume = cloud.block_storage.create_volume(name="test-no-user-data", size=1, image_id=source.id)
    cloud.block_storage.wait_for_status(volume, "available", ["error"], interval=0.5, wait=300)
    disk = {
        "uuid": volume.id,
        "source_type": "volume",
        "destination_type": "volume",
        "boot_index": 0,
        "delete_on_termination": True,
    }
    flavor = cloud.compute.find_flavor(FLAVOR, ignore_missing=False)
    server = cloud.compute.create_server(
        name="test-no-user-data",
        flavor_id=flavor.id,
        networks=[{"uuid": network.id}],
        block_device_mapping=[disk],
        config_drive=True,
    )
    try:
        cloud.compute.wait_for_server(server, interval=0.5, wait=300)
        wait_until(
            lambda: (
                "canary: not started: the config drive has no user_data"
                in str(cloud.compute.get_server_console_output(server))
            ),
            "the guest says on its console that it has no user_data",
            timeout=300,
            interval=1,
        )
    finally:
        cloud.compute.delete_server(server)
        cloud.compute.wait_for_delete(server, interval=1, wait=300)

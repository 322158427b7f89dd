# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on the way to a recovery point: said before anything is frozen, or every member
thawed and no point made.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from antipode.sandbox.creation import FLAVOR
from antipode.sandbox.members import TENANTS
from lab import canary, clouds, inside, supervision
from lab.desk import EXAMPLE, Desk
from lab.guest_agent import in_guest
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import Site
from lab.waiting import wait_until
from lab.witness import all_frozen, is_frozen

pytestmark = pytest.mark.lab
VNF = "canary"


@pytest.fixture(autouse=True)
def vnf_is_well_before_and_after(site_a: Site, servers: dict[str, str]) -> Iterator[None]:
    yield
    assert not any(is_frozen(site_a, server) for server in servers.values())
    canary.wait_for_records(site_a, 3)


def snapshots(site: Site) -> set[str]:
    return {s.id for s in identity.connect(site, "antipode", PROJECT).block_storage.snapshots()}


def backups(site: Site) -> dict[str, str]:
    """id -> status"""
    storage = identity.connect(site, "antipode", PROJECT).block_storage
    return {b.id: str(b.status) for b in storage.backups(details=True)}


def assert_nothing_was_made(desk: Desk, site: Site, before: set[str]) -> None:
    assert desk.ask("recovery-point", "list", VNF) == []
    assert snapshots(site) == before


def test_an_unknown_server_is_named_before_anything_is_frozen(
    desk: Desk, site_a: Site, vnf_file: Callable[..., Path]
) -> None:
    desk.tell("vnf", "add", str(vnf_file(members=[{"server": "canary-db"}, {"server": "nobody"}])))
    before = snapshots(site_a)
    refused = desk.run("protect", VNF)
    assert refused.returncode in (2, 3)
    assert "nobody" in refused.stderr
    assert_nothing_was_made(desk, site_a, before)


def test_a_member_without_agent_is_named_before_anything_is_frozen(
    desk: Desk, site_a: Site, vnf_file: Callable[..., Path]
) -> None:
    cloud = canary.connect(site_a)
    volume = cloud.block_storage.create_volume(
        name="no-agent", size=1, image_id=cloud.image.find_image("canary").id
    )
    volume = cloud.block_storage.wait_for_status(
        volume, "available", ["error"], interval=0.5, wait=300
    )
    unset = {"os-unset_image_metadata": {"key": "hw_qemu_guest_agent"}}
    cloud.block_storage.post(f"/volumes/{volume.id}/action", json=unset).raise_for_status()
    disk = {
        "uuid": volume.id,
        "source_type": "volume",
        "destination_type": "volume",
        "boot_index": 0,
        "delete_on_termination": True,
    }
    network = cloud.network.find_network(TENANTS[site_a.name].network, ignore_missing=False)
    flavor = cloud.compute.find_flavor(FLAVOR, ignore_missing=False)
    server = cloud.compute.create_server(
        name="no-agent",
        flavor_id=flavor.id,
        networks=[{"uuid": network.id}],
        block_device_mapping=[disk],
    )
    cloud.compute.wait_for_server(server, wait=300)
    try:
        desk.tell(
            "vnf", "add", str(vnf_file(members=[{"server": "canary-db"}, {"server": "no-agent"}]))
        )
        before = snapshots(site_a)
        refused = desk.run("protect", VNF)
        assert refused.returncode == 3
        assert "no-agent" in refused.stderr
        assert_nothing_was_made(desk, site_a, before)
    finally:
        cloud.compute.delete_server(server)
        cloud.compute.wait_for_delete(server, interval=1, wait=300)


def test_wrong_credentials_are_named_and_change_nothing(
    desk: Desk, site_a: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.tell("vnf", "add", str(EXAMPLE))
    entries = yaml.safe_load(clouds.PATH.read_text())
    entries["clouds"]["site-a"]["auth"]["password"] = "wrong"
    wrong = tmp_path / "clouds.yaml"
    wrong.write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(clouds, "PATH", wrong)
    refused = desk.run("protect", VNF)
    assert refused.returncode == 2
    assert "site-a" in refused.stderr
    assert "credentials" in refused.stderr


def test_a_vault_that_cannot_be_written_is_named_before_anything_is_frozen(
    desk: Desk, site_a: Site
) -> None:
    no_folder = "/sys/antipode"  # only the kernel makes folders there
    settings = yaml.safe_load(desk.configuration.read_text()) | {"vault": {"directory": no_folder}}
    desk.configuration.write_text(yaml.safe_dump(settings))
    desk.tell("vnf", "add", str(EXAMPLE))
    before = snapshots(site_a)
    refused = desk.run("protect", VNF)
    assert refused.returncode == 1, refused.stderr
    assert no_folder in refused.stderr
    assert snapshots(site_a) == before


@pytest.fixture
def app_refuses(site_a: Site, servers: dict[str, str]) -> Iterator[None]:
    """The application on `app` does not let itself be frozen: the agent's hook fails, and with it
    the freeze.
    """
    hook = "/etc/qemu/fsfreeze-hook"
    refusal = "#!/bin/sh\\n[ $1 != freeze ]\\n"
    try:
        in_guest(
            site_a,
            servers["app"],
            f"printf '{refusal}' > /run/refuse; chmod +x /run/refuse; mount -o bind /run/refuse "
            f"{hook}",
        )
        yield
    finally:
        in_guest(
            site_a, servers["app"], f"while grep -q ' {hook} ' /proc/mounts; do umount {hook}; done"
        )


def test_a_member_that_refuses_to_be_quiesced_fails_the_run_and_the_others_are_thawed(
    desk: Desk, site_a: Site, servers: dict[str, str], app_refuses: None
) -> None:
    desk.tell("vnf", "add", str(EXAMPLE))
    before = snapshots(site_a)
    failed = desk.run("protect", VNF)
    assert failed.returncode == 1
    assert "canary-app" in failed.stderr
    assert not any(is_frozen(site_a, server) for server in servers.values())
    assert_nothing_was_made(desk, site_a, before)


def test_a_guest_whose_agent_is_silent_is_named_before_anything_is_frozen(
    desk: Desk, site_a: Site, servers: dict[str, str]
) -> None:
    desk.tell("vnf", "add", str(EXAMPLE))
    before = snapshots(site_a)
    inside.run(site_a, ["virsh", "suspend", servers["front"]])
    try:
        refused = desk.run("protect", VNF)
        checked = desk.run("site", "check", "-f", "json")
    finally:
        inside.run(site_a, ["virsh", "resume", servers["front"]])
    assert checked.returncode == 3, checked.stdout
    unfit = [c for c in json.loads(checked.stdout) if c["needed"] and not c["ok"]]
    assert [(check["check"], check["site"]) for check in unfit] == [(f"vnf {VNF}", "site-a")]
    assert "canary-front" in unfit[0]["detail"]
    assert refused.returncode == 3, refused.stderr
    assert "canary-front" in refused.stderr
    assert_nothing_was_made(desk, site_a, before)


def test_snapshots_that_do_not_come_in_time_fail_the_run_and_the_next_run_collects_them(
    desk: Desk, site_a: Site, servers: dict[str, str], vnf_file: Callable[..., Path]
) -> None:
    desk.tell("vnf", "add", str(vnf_file(timeout_s=8)))
    before = snapshots(site_a)
    supervision.stop(site_a, ["cinder-volume"])
    try:
        failed = desk.run("protect", VNF)
        assert failed.returncode in (1, 3), failed.stderr
        assert not any(is_frozen(site_a, server) for server in servers.values())
        assert desk.ask("recovery-point", "list", VNF) == []
    finally:
        subprocess.run([sys.executable, "-m", "lab", "up"], check=True)
    desk.tell("vnf", "add", str(EXAMPLE))  # with time enough for a busy machine
    desk.tell("protect", VNF)
    assert snapshots(site_a) == before


@pytest.mark.core
def test_a_signal_inside_the_window_thaws_every_member_and_makes_no_point(
    desk: Desk, site_a: Site, servers: dict[str, str]
) -> None:
    desk.tell("vnf", "add", str(EXAMPLE))
    before = snapshots(site_a)
    process = desk.start(
        "protect", VNF, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until(lambda: is_frozen(site_a, servers["db"]), "db is frozen", timeout=180)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert not any(is_frozen(site_a, server) for server in servers.values())
    assert_nothing_was_made(desk, site_a, before)


def test_when_antipode_is_killed_inside_the_window_the_members_are_thawed_all_the_same(
    desk: Desk, site_a: Site, servers: dict[str, str], vnf_file: Callable[..., Path]
) -> None:
    timeout = 15
    desk.tell("vnf", "add", str(vnf_file(timeout_s=timeout)))
    before = snapshots(site_a)
    supervision.stop(site_a, ["cinder-volume"])  # the window lasts until its time is over
    try:
        process = desk.start(
            "protect",
            VNF,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: all_frozen(site_a, servers), "all members are frozen", timeout=180)
        process.kill()
        process.wait()
        assert all_frozen(site_a, servers)
        wait_until(
            lambda: not any(is_frozen(site_a, s) for s in servers.values()),
            "all members are thawed",
            timeout=timeout + 60,
        )
    finally:
        subprocess.run([sys.executable, "-m", "lab", "up"], check=True)
    desk.tell("vnf", "add", str(EXAMPLE))
    desk.tell("protect", VNF)  # collects what the killed one left
    assert snapshots(site_a) == before


def test_a_cinder_backup_that_is_killed_in_its_backups_costs_the_run_and_no_earlier_point(
    desk: Desk, site_a: Site, servers: dict[str, str]
) -> None:
    desk.tell("vnf", "add", str(EXAMPLE))
    first = desk.ask("protect", VNF)["recovery_point"]
    before, snapshots_before = backups(site_a), snapshots(site_a)
    canary.fill(site_a, 50)
    process = desk.start(
        "protect", VNF, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: "creating" in backups(site_a).values(), "a backup is made", timeout=300)
        supervision.send(site_a, "cinder-backup", signal.SIGKILL)  # its supervisor starts it again
        _, said = process.communicate(timeout=1200)
    finally:
        process.kill()
        subprocess.run([sys.executable, "-m", "lab", "up"], check=True)
    assert process.returncode == 1, said
    assert "could not be backed up" in said or "incomplete backup reset" in said
    assert not any(is_frozen(site_a, server) for server in servers.values())
    assert [p["id"] for p in desk.ask("recovery-point", "list", VNF)] == [first]
    assert (backups(site_a), snapshots(site_a)) == (before, snapshots_before)
    desk.tell("recovery-point", "verify", VNF)

    again = desk.ask("protect", VNF)
    assert again["incremental"], "the backups of the first point are built on"
    assert len(desk.ask("recovery-point", "list", VNF)) == 2
    desk.tell("recovery-point", "verify", VNF)

# SPDX-License-Identifier: Apache-2.0
"""The lab itself: that its sites are whole, independent, and can be destroyed, cut off, healed and
removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import extras, inside, power, wan
from lab.services import ceph
from lab.services.openstack_conf import KEYSTONE_PORT
from lab.site import ROOT, SITES, WAN_BRIDGE, Site
from tests.lab.command import lab

pytestmark = pytest.mark.lab

PROJECT = Path(__file__).parents[2]


def programs(site: Site) -> dict[str, Any]:
    told = subprocess.run(
        [sys.executable, "-m", "lab", "status", "-f", "json"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    here = next(s for s in json.loads(told.stdout)["sites"] if s["site"] == site.name)
    return {row["program"]: row for row in here["programs"]}


def group(leader: int) -> list[int]:
    """The processes of a program: when its first one is killed, none of the others must be left in
    the way of its next start.
    """
    found = []
    for pid in map(int, (p.name for p in Path("/proc").glob("[0-9]*"))):
        with contextlib.suppress(ProcessLookupError):
            found += [pid] if os.getpgid(pid) == leader else []
    return found


def connects(site: Site, timeout: float = 20) -> bool:
    with socket.create_connection((site.address, KEYSTONE_PORT), timeout):
        return True


def test_the_storage_takes_the_room_of_what_was_removed_before_it_grows(site_b: Site) -> None:
    image, mib = f"{ceph.POOL}/room", 100

    def write_and_remove() -> int:
        data = f"head -c {mib}M /dev/urandom | rbd import --no-progress - {image}"
        inside.run(site_b, ["sh", "-c", data], timeout=300)
        inside.run(site_b, ["rbd", "rm", "--no-progress", image], timeout=300)
        return ceph.room(site_b)

    first = write_and_remove()
    later = [write_and_remove() for _ in range(4)][-1]
    assert later - first < 2 * mib << 20, "what was written is not used again"


@pytest.mark.core
def test_up_on_a_running_lab_only_looks_and_says_so() -> None:
    before = {
        site.name: {name: row["pid"] for name, row in programs(site).items()}
        for site in SITES.values()
    }
    told = lab("up")
    assert "already ready" in told
    assert before == {
        site.name: {name: row["pid"] for name, row in programs(site).items()}
        for site in SITES.values()
    }


@pytest.mark.core
def test_status_tells_of_every_program_where_it_runs(site_a: Site, site_b: Site) -> None:
    for site in (site_a, site_b):
        namespace = wan.namespace(site).stat().st_ino
        for row in programs(site).values():
            assert (
                row["state"] == "RUNNING"
                and row["ready"]
                and row["memory_mib"] > 0
                and row["since"]
            ), row
            assert Path(f"/proc/{row['pid']}/ns/net").stat().st_ino == namespace, row


@pytest.mark.core
def test_both_sites_stay_below_14_gib() -> None:
    told = json.loads(lab("status", "-f", "json"))
    assert sum(site["memory_mib"] for site in told["sites"]) < 14 * 1024


@pytest.mark.core
def test_nothing_of_the_backup_site_names_the_other(site_a: Site, site_b: Site) -> None:
    hits = subprocess.run(
        ["grep", "-rlF", site_a.address, str(site_b.etc)], capture_output=True, text=True
    )
    names = {Path(hit).name for hit in hits.stdout.splitlines()}
    # replication names its peer by nature: in a realm, as arguments of its programs, and where
    # Cinder finds the cluster to which its back end may fail over
    by_nature = {"container-sync-realms.conf", "supervisord.conf", f"{site_a.name}.conf"}
    replicates = extras.has(site_b, extras.REPLICATION)
    assert names == (by_nature if replicates else set())


@pytest.mark.core
def test_calls_to_an_isolated_site_hang_and_work_again_when_it_has_rejoined(site_b: Site) -> None:
    assert connects(site_b)
    lab("isolate", site_b.name)
    try:
        with pytest.raises(TimeoutError):
            connects(site_b, timeout=3)
        inside.connect(
            site_b, KEYSTONE_PORT, site_b.address
        ).close()  # its own services still reach each other
    finally:
        lab("rejoin", site_b.name)
    assert connects(site_b)


def test_libvirt_answers_a_caller_whose_group_has_no_name(site_b: Site) -> None:
    command = [sys.executable, "-m", "lab", "exec", site_b.name, "--", "virsh", "version"]
    assert subprocess.run(command, cwd=PROJECT, group=4711, timeout=120).returncode == 0


def test_calls_to_a_site_are_counted_as_its_own_only(site_a: Site) -> None:
    # of the host alone: the other site talks to this one whenever it likes
    before = wan.counted((), site_a)
    assert connects(site_a)
    assert wan.counted((), site_a) > before
    assert int(lab("calls", site_a.name)) >= wan.counted((), site_a)


def test_up_heals_programs_that_were_killed_one_by_one(site_b: Site) -> None:
    victims = ("rabbitmq", "mariadb", "ceph-osd", "ovs-vswitchd", "nova-compute")
    before = programs(site_b)
    for name in victims:
        os.kill(before[name]["pid"], signal.SIGKILL)
    lab("up")
    after = programs(site_b)
    assert [row for row in after.values() if not row["ready"]] == []
    assert all(after[name]["pid"] != before[name]["pid"] for name in victims)
    assert {name: left for name in victims if (left := group(before[name]["pid"]))} == {}


@pytest.mark.last
def test_up_heals_a_site_of_which_every_process_was_killed(site_b: Site) -> None:
    assert power.off(site_b)
    assert inside.pids(site_b) == {}
    with pytest.raises(ConnectionRefusedError):
        connects(site_b)
    lab("up")
    assert [row for row in programs(site_b).values() if not row["ready"]] == []


@pytest.mark.last
def test_down_leaves_no_process_namespace_mount_or_interface() -> None:
    lab("down")
    names = set(SITES)
    assert [p for p in Path("/proc").glob("[0-9]*") if str(ROOT).encode() in _command_line(p)] == []
    assert names.isdisjoint(
        subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout.split()
    )
    assert str(ROOT) not in Path("/proc/self/mountinfo").read_text()
    interfaces = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True).stdout
    assert WAN_BRIDGE not in interfaces and "wan-" not in interfaces
    assert not re.findall(r"\b(?:tap|qvo|qvb|qbr)[0-9a-f]{8}-", interfaces), interfaces
    assert (
        str(ROOT)
        not in subprocess.run(
            ["losetup", "--list", "--noheadings"], capture_output=True, text=True
        ).stdout
    )
    assert (
        WAN_BRIDGE not in subprocess.run(["iptables", "-S"], capture_output=True, text=True).stdout
    )


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""  # ended meanwhile

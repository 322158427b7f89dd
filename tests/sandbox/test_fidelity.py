# SPDX-License-Identifier: Apache-2.0
"""A messy VNF is protected at one site, recovered at the other, and compared field by field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from antipode.sandbox import canary, desk
from antipode.sandbox.supervision import Sandbox
from tests import messy as messy_vnf
from tests.messy import (
    MAP,
    SECOND,
    SERVER,
    Json,
    boot,
    closed,
    furnish,
    messy,
    open_gap,
    second,
    seen,
    unsaid,
)
from tests.sandbox.conftest import BACKUP, LATENCY, PRIMARY, World

__all__ = ["Json", "boot"]


class Cloud(messy_vnf.Cloud):
    """One embedded site."""

    def __init__(self, world: World, name: str) -> None:
        member = canary.connect(world.sandbox, f"{name}-tenant")
        super().__init__(canary.connect(world.sandbox, name), member)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two sites without the example VNF."""
    sandbox = Sandbox(tmp_path / "sites")
    sandbox.up(latency=LATENCY)
    try:
        desk.write(sandbox)
        yield World(sandbox)
    finally:
        sandbox.down()


def know(world: World, *others: str, **mapping: Any) -> None:
    names = {n: f"{n}-b" for n in ("signalling", "vlan", "bare")}
    world.know(
        vnf="messy",
        members=[{"server": SERVER, "user_data": "keep"}, *({"server": o} for o in others)],
        map={**MAP, "networks": names, **mapping},
    )


def test_a_messy_vnf_comes_back_as_it_was(world: World) -> None:
    here, there = Cloud(world, PRIMARY), Cloud(world, BACKUP)
    had = furnish(here)
    messy(here, had, policy="soft-anti-affinity")
    second(here, had)
    open_gap(here)
    at_backup = furnish(there, "-b")
    public = {"203.0.113.7": "203.0.113.70", "203.0.113.8": "203.0.113.80"}
    reserved = {
        address: there.make(
            "floatingip",
            "/floatingips",
            floating_network_id=at_backup["public"],
            floating_ip_address=address,
        )["id"]
        for address in public.values()
    }
    know(world, SECOND, floating_ips=public)

    before = seen(here)
    devices = [v["device"] for v in before["servers"][SERVER]["volumes"]]
    assert devices == ["/dev/vda", "/dev/vdc", "/dev/vdd"]  # the swap of its flavor is vdb
    shown = world.operator.ask("vnf", "show", "messy")
    assert unsaid(here, shown["warnings"]) == []
    made = world.operator.ask("protect", "messy")
    assert made["warnings"] == shown["warnings"]
    world.sandbox.kill(PRIMARY)
    planned = world.operator.ask("failover", "messy", "--to", BACKUP, "--plan")
    assert unsaid(there, planned["warnings"]) == []
    assert [w for w in planned["warnings"] if "different keypairs messy" in w]
    assert sorted(p["name"] for p in planned["vip_ports"]) == ["hlr-range", "hlr-vip", "hlr-vlan"]
    assert there.ask("compute", "GET", "/servers")["servers"] == []
    (metadata,) = [q for q in planned["quotas"] if q["resource"].startswith("metadata_items")]
    assert SERVER in metadata["resource"]
    allow_metadata(there, metadata["needed"] - 1)
    refused = world.operator.run("failover", "messy", "--to", BACKUP, "--plan")
    assert refused.returncode == 3
    allow_metadata(there, metadata["needed"])
    world.operator.ask("failover", "messy", "--to", BACKUP, "--yes")

    after = seen(there, "-b")
    assert after == closed(before)
    leads = {
        f["id"]: f["fixed_ip_address"] for f in there.network("GET", "/floatingips")["floatingips"]
    }
    assert leads == {
        reserved["203.0.113.70"]: "10.8.0.12",
        reserved["203.0.113.80"]: "10.8.0.100",
    }


def allow_metadata(cloud: Cloud, items: int) -> None:
    """Let a server of the project have so many items of metadata, and no more."""
    path = f"/os-quota-sets/{cloud.project}"
    cloud.ask("compute", "PUT", path, {"quota_set": {"metadata_items": items}})


@pytest.mark.rest
def test_an_aborted_recovery_leaves_no_port_and_no_trunk(world: World) -> None:
    here, there = Cloud(world, PRIMARY), Cloud(world, BACKUP)
    messy(here, furnish(here))
    furnish(there, "-b")
    know(world)
    world.operator.ask("protect", "messy")
    world.sandbox.kill(PRIMARY)
    at_first = {p["id"] for p in there.network("GET", "/ports")["ports"]}
    world.fault(BACKUP, r"^server\.create$", "error", times=None)
    failed = world.operator.run("failover", "messy", "--to", BACKUP, "--yes")
    assert failed.returncode != 0
    assert there.network("GET", "/trunks")["trunks"]
    world.sandbox.ask(BACKUP, "DELETE", "/faults")
    world.operator.tell("run", "abort", world.newest_run()["run"], "--yes")
    assert there.network("GET", "/trunks")["trunks"] == []
    assert {p["id"] for p in there.network("GET", "/ports")["ports"]} == at_first
    assert there.ask("volume", "GET", "/volumes")["volumes"] == []


def test_a_member_that_is_off_and_locked_comes_back_so(world: World) -> None:
    here, there = Cloud(world, PRIMARY), Cloud(world, BACKUP)
    messy(here, furnish(here))
    furnish(there, "-b")
    know(world)
    (server,) = here.ask("compute", "GET", "/servers")["servers"]
    path = f"/servers/{server['id']}"
    here.ask("compute", "POST", f"{path}/action", {"os-stop": None})
    canary.await_that(
        lambda: here.status("compute", "/servers", server["id"]) == "SHUTOFF", "it is off", 120
    )
    here.ask("compute", "POST", f"{path}/action", {"lock": {"locked_reason": "spare"}})
    made = world.operator.ask("protect", "messy")
    assert (made["volumes"], made["quiesce_window_per_member_s"]) == (3, {})
    assert here.status("compute", "/servers", server["id"]) == "SHUTOFF"
    world.sandbox.kill(PRIMARY)
    world.operator.ask("failover", "messy", "--to", BACKUP, "--yes")
    (recovered,) = there.ask("compute", "GET", "/servers/detail")["servers"]
    assert (recovered["status"], recovered["locked"], recovered["locked_reason"]) == (
        "SHUTOFF",
        True,
        "spare",
    )
    assert world.guests(BACKUP) == []
    ports = {p["name"]: p["admin_state_up"] for p in there.network("GET", "/ports")["ports"]}
    assert {n: ports[n] for n in ("first", "bare", "third", "vlan-100", "vlan-101")} == {
        "first": True,
        "bare": False,
        "third": True,
        "vlan-100": True,
        "vlan-101": True,
    }

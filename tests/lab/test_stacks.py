# SPDX-License-Identifier: Apache-2.0
"""A VNF whose members are the servers of a real stack of Heat: protected as the stack grows and
shrinks, recovered once every process of its site was killed, and protected where Heat knows no
such stack.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.sandbox.creation import FLAVOR, SECURITY_GROUP
from antipode.sandbox.members import HTTP_PORT, NAME, PAIR, TENANTS, Member
from antipode.sandbox.members import MEMBERS as CANARY
from antipode.sandbox.records import RECORD, check_alone
from lab import canary, extras, pair, power, supervision
from lab.desk import EXAMPLE, PROJECT, Desk
from lab.services import identity, tenant
from lab.site import SITES, Site
from lab.waiting import wait_until
from tests.lab import with_extra

pytestmark = pytest.mark.lab
VNF, STACK = "stacked", "test-stack"
ONE, TWO, THREE = (
    Member("db", f"10.7.0.{31 + index}", name=name, leads=True)
    for index, name in enumerate(("one", "two", "three"))
)
MEMBERS = (ONE, TWO, THREE)
VERSION = "2018-08-31"
DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE")
PATIENCE_S = 600


@pytest.fixture(scope="module", autouse=True)
def heat(sites: None) -> None:
    with_extra.add(extras.HEAT)


def parameter(name: str) -> dict[str, str]:
    return {"get_param": name}


def resource(name: str) -> dict[str, str]:
    return {"get_resource": name}


def volume(kind: str, **properties: Any) -> dict[str, Any]:
    named = {"list_join": ["-", [parameter("name"), kind]]}
    return {"type": "OS::Cinder::Volume", "properties": {"name": named, "size": 1, **properties}}


def member_template(site: Site) -> dict[str, Any]:
    """One member, as a stack within the stack: its volumes, its port and its server."""
    names = TENANTS[site.name]
    port = {
        "name": {"list_join": ["-", [parameter("name"), "port"]]},
        "network": names.network,
        "fixed_ips": [{"ip_address": parameter("address")}],
        "security_groups": [SECURITY_GROUP],
    }
    server = {
        "name": parameter("name"),
        "flavor": FLAVOR,
        "networks": [{"port": resource("port")}],
        "config_drive": True,
        "user_data": parameter("user_data"),
        "user_data_format": "RAW",
        "block_device_mapping_v2": [
            {"volume_id": resource("root"), "boot_index": 0, "delete_on_termination": False},
            {"volume_id": resource("data"), "boot_index": -1, "delete_on_termination": False},
        ],
    }
    return {
        "heat_template_version": VERSION,
        "parameters": {name: {"type": "string"} for name in ("name", "address", "user_data")},
        "resources": {
            "root": volume("root", image=NAME),
            "data": volume("data", volume_type=names.volume_type),
            "port": {"type": "OS::Neutron::Port", "properties": port},
            "server": {"type": "OS::Nova::Server", "properties": server},
        },
    }


class Stack:
    """The stack of the VNF, which is its owner's."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._heat = identity.connect(site, tenant.USER, tenant.PROJECT).orchestration
        self._path = ""

    def ask_for(self, *members: Member) -> None:
        """Have Heat begin to make it, or update it, with these members."""
        one = {
            str(m.name): {
                "type": "member.yaml",
                "properties": {
                    "name": m.server,
                    "address": m.address,
                    "user_data": m.user_data(canary.PERIOD_MS),
                },
            }
            for m in members
        }
        body = {
            "stack_name": STACK,
            "template": {"heat_template_version": VERSION, "resources": one},
            "files": {"member.yaml": json.dumps(member_template(self._site))},
        }
        if self._path:
            answer = self._heat.put(self._path, json=body)
        else:
            answer = self._heat.post("/stacks", json=body)
        assert answer.ok, answer.text
        if not self._path:
            self._path = f"/stacks/{STACK}/{answer.json()['stack']['id']}"

    def status(self) -> str:
        return str(self._heat.get(self._path).json()["stack"]["stack_status"])

    def await_done(self) -> None:
        def is_done() -> bool:
            status = self.status()
            assert not status.endswith("_FAILED"), self._heat.get(self._path).text
            return status in DONE

        wait_until(is_done, "Heat is done", PATIENCE_S, interval=1)

    def have(self, *members: Member) -> None:
        """As `ask_for`; returns when these members make records."""
        self.ask_for(*members)
        self.await_done()
        for member in members:
            pair.wait_for_records(self._site, member, 5)


def remove_stack(site: Site) -> None:
    """Delete the stack, if it is there, with all that Heat has made for it."""
    heat = identity.connect(site, tenant.USER, tenant.PROJECT).orchestration

    def listed() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = heat.get("/stacks").json()["stacks"]
        return [s for s in found if s["stack_name"] == STACK]

    for stack in listed():
        assert heat.delete(f"/stacks/{STACK}/{stack['id']}").ok
    wait_until(lambda: not listed(), "the stack is gone", PATIENCE_S, interval=1)


@pytest.fixture
def empty() -> Iterator[None]:
    """Sites without the stack and its members, before and after."""
    remove_all()
    yield
    remove_all()


def remove_all() -> None:
    for site in SITES.values():
        canary.remove(site, (*MEMBERS, *CANARY, *PAIR))
        remove_stack(site)


def desk_that_selects(folder: Path) -> Desk:
    """A desk that knows the members of the VNF by the name of their stack. It has a vault of its
    own, too, so that the VNF is protected at either site.
    """
    desk = Desk(folder / "desk", f"antipode-test-{time.time_ns()}")
    settings = yaml.safe_load(desk.configuration.read_text())
    points = folder.resolve() / "points"
    points.mkdir()
    own = {"directory": str(points)}
    settings["vaults"] = {"of-site-b": settings.pop("vault"), "own": own}
    desk.configuration.write_text(yaml.safe_dump(settings, sort_keys=False))
    answers = {
        "command": ["python", "-m", "lab", "answer", "{site}", "{address}", str(HTTP_PORT)],
        "within": "5m",
        "variables": ["ANTIPODE_LAB"],
    }
    known = {
        **yaml.safe_load(EXAMPLE.read_text()),
        "vnf": VNF,
        "members": [{"name": "all", "select": {"stack": STACK}, "answers": answers}],
        "protections": [{"option": "quiesced-snapshot", "quiesce": {"timeout": "120s"}}],
        "store_at_active_site": "accepted",
    }
    file = folder / "stacked.yaml"
    file.write_text(yaml.safe_dump(known))
    desk.tell("vnf", "add", str(file))
    return desk


@contextmanager
def held(site: Site) -> Iterator[None]:
    """A site whose Cinder makes no volume meanwhile."""
    supervision.send(site, "cinder-volume", signal.SIGSTOP)
    try:
        yield
    finally:
        supervision.send(site, "cinder-volume", signal.SIGCONT)


def contents(site: Site, members: Sequence[Member]) -> dict[str, bytes]:
    """The bytes of each member's records now, by its server."""
    cloud = canary.connect(site)
    volumes = {}
    for member in members:
        server = cloud.compute.find_server(member.server, ignore_missing=False)
        (volumes[member.server],) = [
            str(a.volume_id)
            for a in cloud.compute.volume_attachments(server)
            if a.device == canary.DATA_DEVICE
        ]
    read = canary.records_of_volumes(site, list(volumes.values()))
    return {server: read[volume_id] for server, volume_id in volumes.items()}


def durable(site: Site, members: Sequence[Member]) -> dict[str, int]:
    return {m.server: pair.durable(site, m) for m in members}


def servers_at(site: Site) -> dict[str, Any]:
    cloud = canary.connect(site)
    ours = {m.server for m in MEMBERS}
    return {s.name: s for s in cloud.compute.servers() if s.name in ours}


def assert_captured(
    before: Mapping[str, int], after: Mapping[str, bytes], recovered: Mapping[str, bytes]
) -> None:
    """Each member has, byte for byte, its records up to one within the capture, and more after.

    Args:
        before: the last record that each member had durable before the protection.
        after: the bytes of its records after it.
        recovered: those at the other site, where it has run since.
    """
    assert recovered.keys() == before.keys()
    for server, found in recovered.items():
        checked = check_alone("db", found)
        assert checked.is_whole, (server, checked)
        captured, last = sorted(checked.last_of_boot.values())
        assert before[server] <= captured <= check_alone("db", after[server]).last
        assert captured < last
        size = captured * RECORD
        assert found[:size] == after[server][:size], server


def test_a_stack_that_grows_and_shrinks_is_recovered_as_it_was_and_protected_without_heat(
    empty: None, site_a: Site, site_b: Site, tmp_path: Path
) -> None:
    stack = Stack(site_a)
    operator = desk_that_selects(tmp_path)
    stack.have(ONE, TWO)
    assert operator.ask("protect", VNF)["members"] == [ONE.server, TWO.server]

    with held(site_a):
        stack.ask_for(TWO, THREE)
        wait_until(
            lambda: stack.status() == "UPDATE_IN_PROGRESS", "Heat has begun", 60, interval=0.5
        )
        refused = operator.run("protect", VNF, "-f", "json")
        error = json.loads(refused.stderr.splitlines()[-1])["error"]
        assert error["code"] == "resource-failed", error
    stack.await_done()
    now = (THREE, TWO)
    for member in now:
        pair.wait_for_records(site_a, member, 5)
    before = durable(site_a, now)
    made = operator.ask("protect", VNF)
    assert made["members"] == [THREE.server, TWO.server]
    assert made["members_added"] == [THREE.server]
    assert made["members_removed"] == [ONE.server]
    assert made["consistency"] == "application"
    after = contents(site_a, now)

    assert power.off(site_a)
    try:
        operator.ask("failover", VNF, "--to", site_b.name, "--yes")
    finally:
        revive = [sys.executable, "-m", "lab", "revive", site_a.name]
        subprocess.run(revive, cwd=PROJECT, check=True)
    for member in now:
        pair.wait_for_records(site_b, member, 5)
    assert set(servers_at(site_b)) == {m.server for m in now}
    assert_captured(before, after, contents(site_b, now))

    again = operator.ask("protect", VNF)
    assert (again["generation"], again["members"]) == (2, [THREE.server, TWO.server])
    assert "members_added" not in again and "members_removed" not in again

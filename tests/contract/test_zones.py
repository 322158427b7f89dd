# SPDX-License-Identifier: Apache-2.0
"""Designate, as antipode changes records with it. The lab's sites have none: there these tests are
left out.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import connect_zones
from antipode.cloud.zones import Zones
from antipode.config import Config
from antipode.errors import DnsRecordChanged, DnsRefused, PreflightFailed
from antipode.model.dns import DnsChange, RecordSet
from antipode.model.steps import Unrecorded
from antipode.recover import dns
from antipode.recover.dns import DnsProvider, switching
from antipode.sandbox.supervision import Sandbox
from tests.contract.conftest import BACKUP, PATIENCE_S, there


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def zones() -> Zones:
    try:
        return connect_zones(BACKUP, BACKUP)
    except PreflightFailed:
        pytest.skip("the site has no Designate")


@pytest.fixture
def zone(zones: Zones) -> Iterator[Json]:
    """A zone of the VNF's project."""
    name = f"zone-{uuid.uuid4().hex[:8]}.example."
    zones._api.post("/zones", {"name": name, "email": "admin@example.com", "ttl": 300})
    until(lambda: there(zones.zone(name))["status"] == "ACTIVE")
    made = there(zones.zone(name))
    yield made
    zones._api.delete(f"/zones/{made['id']}")


@pytest.fixture
def provider(zone: Json) -> DnsProvider:
    settings = {"designate": {"site": BACKUP, "zone": zone["name"]}, "within": PATIENCE_S}
    config = {
        "sites": {BACKUP: {"cloud": BACKUP}},
        "vault": {"directory": "/v"},
        "dns": {"cloud": settings},
    }
    return dns.connect("cloud", Config.model_validate(config))


def record(zone: Json, *values: str, kind: str = "A", ttl: int = 60) -> RecordSet:
    return RecordSet.model_validate(
        {"name": f"hlr.{zone['name']}", "type": kind, "ttl": ttl, "values": sorted(values)}
    )


def switched(provider: DnsProvider, new: RecordSet, old: RecordSet | None) -> switching.Switched:
    change = DnsChange(provider="cloud", new=new, old=old, is_known=True)
    [found] = switching.switch([change], lambda _: provider, Unrecorded(), lambda: None)
    return found


def test_a_record_set_is_pending_before_it_is_at_the_name_servers(zones: Zones, zone: Json) -> None:
    name = f"hlr.{zone['name']}"
    zones.create(zone["id"], name, "A", 60, ["10.0.0.1"])
    made = there(zones.record_set(zone["id"], name, "A"))
    assert made["records"] == ["10.0.0.1"] and made["status"] in ("PENDING", "ACTIVE")
    until(lambda: there(zones.record_set(zone["id"], name, "A"))["status"] == "ACTIVE")
    zones.change(zone["id"], made["id"], 30, ["10.0.0.2"])
    changed = there(zones.record_set(zone["id"], name, "A"))
    assert (changed["id"], changed["ttl"], changed["records"]) == (made["id"], 30, ["10.0.0.2"])
    zones.delete(zone["id"], made["id"])
    until(lambda: zones.record_set(zone["id"], name, "A") is None)


def test_a_second_record_set_of_one_name_and_type_is_refused(zones: Zones, zone: Json) -> None:
    name = f"hlr.{zone['name']}"
    zones.create(zone["id"], name, "A", 60, ["10.0.0.1"])
    with pytest.raises(ApiError) as caught:
        zones.create(zone["id"], name, "A", 60, ["10.0.0.1"])
    assert (caught.value.status, caught.value.reason) == (409, "Duplicate RecordSet")
    with pytest.raises(ApiError) as caught:
        zones.create(zone["id"], name, "CNAME", 60, ["b.example."])
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("name", "kind", "records"),
    [
        ("hlr.elsewhere.example.", "A", ["10.0.0.1"]),
        ("hlr.{zone}", "A", ["2001:db8::1"]),
        ("hlr.{zone}", "A", []),
        ("hlr.{zone}", "CNAME", ["without-a-dot.example"]),
    ],
)
def test_a_record_set_that_cannot_be_is_refused(
    zones: Zones, zone: Json, name: str, kind: str, records: list[str]
) -> None:
    with pytest.raises(ApiError) as caught:
        zones.create(zone["id"], name.format(zone=zone["name"]), kind, 60, records)
    assert caught.value.status == 400


def test_a_record_is_switched_once_it_is_at_the_name_servers(
    provider: DnsProvider, zones: Zones, zone: Json
) -> None:
    old, new = record(zone, "10.0.0.1"), record(zone, "10.0.0.2", "10.0.0.3", ttl=30)
    assert switched(provider, old, None).done
    outcome = switched(provider, new, old)
    assert (outcome.done, outcome.changed, outcome.problem) == (True, True, "")
    assert there(zones.record_set(zone["id"], f"hlr.{zone['name']}", "A"))["status"] == "ACTIVE"
    assert provider.read(f"hlr.{zone['name']}".removesuffix("."), "A") == new
    assert not switched(provider, new, old).changed


def test_a_record_of_others_is_left_alone(provider: DnsProvider, zone: Json) -> None:
    theirs = record(zone, "192.0.2.1")
    provider.replace(None, theirs)
    for stale in (record(zone, "10.0.0.1"), None):
        with pytest.raises(DnsRecordChanged):
            provider.replace(stale, record(zone, "10.0.0.2"))
    assert provider.read(theirs.name, "A") == theirs


def test_rights_are_tried_without_a_change(provider: DnsProvider, zones: Zones, zone: Json) -> None:
    new = record(zone, "10.0.0.2")
    provider.try_rights(None, new)
    assert provider.read(new.name, "A") is None
    assert switched(provider, new, None).done
    before = zones.record_set(zone["id"], f"{new.name}.", "A")
    provider.try_rights(new, record(zone, "10.0.0.3"))
    assert zones.record_set(zone["id"], f"{new.name}.", "A") == before


def test_a_zone_that_the_project_does_not_have_is_refused(provider: DnsProvider) -> None:
    provider.zone = "elsewhere.example"
    with pytest.raises(DnsRefused):
        provider.read("hlr.elsewhere.example", "A")


@pytest.mark.parametrize("effect", ["stuck", "error"])
def test_a_record_that_does_not_come_to_the_name_servers_is_a_problem_until_it_does(
    provider: DnsProvider, zone: Json, sandbox: Sandbox | None, effect: str
) -> None:
    if sandbox is None:
        pytest.skip("needs a fault that is made to order")
    new = record(zone, "10.0.0.2")
    fault = {"on": r"^dns\.bring$", "effect": effect, "times": None}
    sandbox.ask(BACKUP, "POST", "/faults", fault)
    provider.within_s = 0.1
    outcome = switched(provider, new, None)
    assert outcome.done and outcome.problem
    sandbox.ask(BACKUP, "DELETE", "/faults")
    provider.within_s = PATIENCE_S
    provider.replace(provider.read(new.name, "A"), new)
    assert switched(provider, new, None).problem == ""

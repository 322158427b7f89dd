# SPDX-License-Identifier: Apache-2.0
"""The old copy of a VNF on two real sites: fenced before a failover and given back by an undo; or
fenced by the service once its site is back. Users are led to the active site by a real BIND.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from antipode.sandbox.members import MEMBERS
from lab import canary, wan
from lab.checker import check
from lab.desk import Desk
from lab.site import SITES, Site
from lab.waiting import wait_until
from tests.distributed import bind
from tests.distributed.bind import ZONE, Bind
from tests.distributed.packages import PACKAGES, install
from tests.lab.holdings import copies, ports_up
from tests.lab.replicated import assert_recovered, protect

pytestmark = pytest.mark.lab
VNF = "canary"
NAME = f"canary.{ZONE}"
TARGETS = {site: f"canary.{site}.example" for site in SITES}
FAILOVER = ("failover", VNF, "--to", "site-b", "--yes")
WORKING = [("ACTIVE", False)] * len(MEMBERS)
FENCED = [("SHUTOFF", True)] * len(MEMBERS)
PATIENCE_S = 600


@pytest.fixture(scope="module")
def dns() -> Iterator[Bind]:
    assert install({"named": PACKAGES["named"]}) == 0
    with bind.primary() as server:
        yield server


@pytest.fixture
def desk(dns: Bind, tmp_path: Path, vnf_file: Callable[..., Path]) -> Iterator[Desk]:
    """The canary works at site-a; in the end it is at neither site."""
    for site in SITES.values():
        canary.remove(site)
    canary.create(SITES["site-a"])
    desk = Desk(tmp_path / "desk", f"antipode-test-{time.time_ns()}")
    known = yaml.safe_load(desk.configuration.read_text())
    key = dns.key_file(tmp_path)
    known["dns"] = {
        "core": {"rfc2136": {"server": dns.address, "zone": ZONE, "key_file": str(key)}}
    }
    desk.configuration.write_text(yaml.safe_dump(known, sort_keys=False))
    record = {"name": NAME, "type": "CNAME", "targets": TARGETS}
    desk.tell("vnf", "add", str(vnf_file(dns=[record], on_return="fence")))
    yield desk
    for site in SITES.values():
        canary.remove(site)


def leads_to(dns: Bind, site: Site) -> bool:
    return dns.values(NAME, "CNAME") == [f"{TARGETS[site.name]}."]


def test_a_copy_that_is_fenced_before_the_failover_works_again_once_that_is_undone(
    desk: Desk, dns: Bind, site_a: Site, site_b: Site
) -> None:
    made = protect(desk)
    desk.tell("dns", "switch", VNF, "--yes")
    assert leads_to(dns, site_a)
    done = desk.ask(*FAILOVER, "--fence", "--undo-within", "1h")
    assert done["fence"]["not_fenced"] == []
    assert (copies(site_a), copies(site_b)) == (FENCED, WORKING)
    assert not any(ports_up(site_a))
    assert leads_to(dns, site_b)
    assert_recovered(site_b, made)

    assert desk.ask("undo", VNF, "--yes")["generation"] == 3
    assert copies(site_a) == WORKING
    assert {status for status, _ in copies(site_b)} == {"SHUTOFF"}
    assert all(ports_up(site_a))
    assert leads_to(dns, site_a)
    canary.wait_for_records(site_a, 10)
    report = check(canary.records(site_a))
    assert report.consistent, report
    assert {role: report.members[role].last > last for role, last in made.frozen_last.items()} == (
        dict.fromkeys(made.frozen_last, True)
    )


@contextmanager
def serving(desk: Desk) -> Iterator[None]:
    """The service, until it is stopped as systemd stops it."""
    with (desk.folder / "serve.log").open("w") as log:
        service = desk.start("serve", stdout=log, stderr=log)
        try:
            yield
        finally:
            service.send_signal(signal.SIGTERM)
            assert service.wait(PATIENCE_S) == 0


def two_copies(desk: Desk) -> bool:
    return bool(desk.ask("vnf", "show", VNF).get("two_active_copies"))


def test_a_copy_that_runs_at_a_site_that_is_back_is_fenced_by_the_service(
    desk: Desk, dns: Bind, site_a: Site, site_b: Site
) -> None:
    made = protect(desk)
    wan.isolate(site_a)
    try:
        desk.ask(*FAILOVER)
    finally:
        wan.rejoin(site_a)
    assert leads_to(dns, site_b)
    assert (copies(site_a), copies(site_b)) == (WORKING, WORKING)
    with serving(desk):
        wait_until(lambda: copies(site_a) == FENCED, "the old copy is fenced", PATIENCE_S, 2)
        wait_until(lambda: not two_copies(desk), "one copy is active", PATIENCE_S, 2)
    assert not any(ports_up(site_a))
    assert copies(site_b) == WORKING
    (fence,) = [run for run in desk.ask("run", "list") if run["kind"] == "fence"]
    assert fence["state"] == "succeeded"
    assert_recovered(site_b, made)

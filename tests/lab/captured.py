# SPDX-License-Identifier: Apache-2.0
"""What was frozen in a recovery point of the canary, and what a site has of it: the bytes of its
volumes and its records. Servers can be kept from being booted, as their guests would write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from antipode.sandbox.story import recovered_last
from lab import canary, inside
from lab.checker import check
from lab.desk import Desk
from lab.services import identity
from lab.services.ceph import POOL
from lab.site import SITES, Site
from tests.lab.awaited import AwaitedWitness


def protected(desk: Desk, vnf: str) -> tuple[dict[str, Any], AwaitedWitness]:
    """A recovery point of the canary at site-a, and the witness of what was frozen in it."""
    site = SITES["site-a"]
    canary.wait_for_records(site, 20)
    with AwaitedWitness(site, canary.create(site)) as witness:
        made = desk.ask("protect", vnf)
    assert witness.sightings and not witness.disagreements
    return made, witness


def content(site: Site, volume: str, snapshot: str | None = None) -> str:
    """The SHA-256 of a volume, or of a snapshot of it."""
    image = f"{POOL}/volume-{volume}" + (f"@snapshot-{snapshot}" if snapshot else "")
    export = f"rbd export --no-progress {image} - | sha256sum"
    said: str = inside.run(site, ["sh", "-c", export], timeout=600).stdout
    return said.split()[0]


@contextmanager
def nothing_boots(site: Site) -> Iterator[None]:
    """Nova finds no host for a server."""
    compute = identity.connect(site).compute
    [service] = [s for s in compute.services() if s.binary == "nova-compute"]
    compute.disable_service(service)
    try:
        yield
    finally:
        compute.enable_service(service)


def expect_what_was_frozen(
    site: Site, frozen_last: Mapping[str, int], boots: Mapping[str, int]
) -> None:
    """The VNF works there, and has each record of its recovery point and no other."""
    canary.wait_for_records(site, 5)
    report = check(canary.records(site))
    assert report.consistent, report.as_json()
    assert recovered_last(report, boots) == frozen_last

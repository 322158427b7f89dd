# SPDX-License-Identifier: Apache-2.0
"""A member that is off and one that boots from an image: protected on a real site, and recovered
at the other one after every process of the former was killed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.sandbox.members import NAME, PAIR, Member
from antipode.sandbox.records import Member as Records
from lab import canary, pair, power
from lab.desk import EXAMPLE, PROJECT, Desk
from lab.services import identity, tenant
from lab.site import SITES, Site

pytestmark = pytest.mark.lab
VNF = "pair"
ACTIVE, STANDBY = PAIR
GOLDEN = "test-golden"


@pytest.fixture
def empty(site_a: Site) -> Iterator[None]:
    """Sites without the pair, before and after."""
    remove_all()
    yield
    remove_all()


def remove_all() -> None:
    for site in SITES.values():
        canary.remove(site)
        for image in owner(site).image.images():
            if image.name == GOLDEN:
                owner(site).image.delete_image(image)


def owner(site: Site) -> Any:
    return identity.connect(site, tenant.USER, tenant.PROJECT)


def desk(folder: Path, option: str, **standby: str) -> Desk:
    """A desk that knows the pair.

    Args:
        standby: what the VNF file says of the standby member besides.
    """
    desk = Desk(folder / "desk", f"antipode-test-{time.time_ns()}")
    known = pair.vnf(yaml.safe_load(EXAMPLE.read_text()), option=option)
    known["members"][1] |= standby
    file = folder / "pair.yaml"
    file.write_text(yaml.safe_dump(known))
    desk.tell("vnf", "add", str(file))
    return desk


def server_at(site: Site, member: Member) -> Any:
    compute = owner(site).compute
    return compute.get_server(compute.find_server(member.server, ignore_missing=False))


def stop(site: Site, server: str) -> None:
    compute = owner(site).compute
    compute.stop_server(server)
    compute.wait_for_server(compute.get_server(server), "SHUTOFF", interval=1, wait=300)


def fail_over_without(site_a: Site, desk: Desk) -> None:
    """Fail over after every process of the site was killed; its guests are off when it is back."""
    assert power.off(site_a)
    try:
        desk.ask("failover", VNF, "--to", "site-b", "--yes")
    finally:
        revive = [sys.executable, "-m", "lab", "revive", site_a.name]
        subprocess.run(revive, cwd=PROJECT, check=True)


def assert_captured(site: Site, before: Mapping[str, Records], after: Mapping[str, int]) -> None:
    """Each member's records are whole, hold what was captured, and go on after it.

    Args:
        before: the records of each member before the protection.
        after: the last record of each member after it.
    """
    for server, found in pair.records(site).items():
        assert found.is_whole, (server, found)
        old = max(before[server].last_of_boot)
        captured = max(number for boot, number in found.last_of_boot.items() if boot <= old)
        assert before[server].last <= captured <= after[server]
        assert found.last > captured


def test_a_member_that_is_off_stays_off_and_one_made_again_from_its_image_has_its_records(
    empty: None, site_a: Site, site_b: Site, tmp_path: Path
) -> None:
    servers = pair.create(site_a)  # the standby member boots from an image
    golden = copy_of_the_image(site_a, site_b)
    stop(site_a, servers[str(ACTIVE.name)])
    operator = desk(tmp_path, "quiesced-snapshot", root="rebuild")
    before = pair.records(site_a)
    made = operator.ask("protect", VNF)
    assert list(made["quiesce_window_per_member_s"]) == [STANDBY.server]
    assert made["consistency"] == "application"
    assert server_at(site_a, ACTIVE).status == "SHUTOFF"
    after = {
        ACTIVE.server: before[ACTIVE.server].last,
        STANDBY.server: pair.durable(site_a, STANDBY),
    }
    operator.tell("recovery-point", "verify", VNF)
    fail_over_without(site_a, operator)
    assert server_at(site_b, ACTIVE).status == "SHUTOFF"
    assert server_at(site_b, STANDBY).image.id == golden
    pair.wait_for_records(site_b, STANDBY, 5)
    compute = owner(site_b).compute
    compute.start_server(server_at(site_b, ACTIVE))
    pair.wait_for_records(site_b, ACTIVE, 5)
    assert_captured(site_b, before, after)


def copy_of_the_image(here: Site, there: Site) -> str:
    """The id of an image at a site with the bytes of the canary's at another."""
    source = owner(here).image
    image = source.find_image(NAME, ignore_missing=False)
    content = source.download_image(image).content
    formats = {"disk_format": image.disk_format, "container_format": "bare"}
    return str(owner(there).image.upload_image(name=GOLDEN, data=content, **formats).id)

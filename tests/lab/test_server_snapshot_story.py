# SPDX-License-Identifier: Apache-2.0
"""Option 2 on two real sites: a pair of members is protected one after the other while a client
keeps asking it, and recovered at site-b after every process of site-a was killed. One of the two
boots from an image.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import yaml

from lab import canary, pair, power
from lab.desk import EXAMPLE, PROJECT, Desk
from lab.services import identity, tenant
from lab.site import SITES, Site
from tests.lab.holdings import remove_root_disk_copies, root_disk_copies

pytestmark = pytest.mark.lab
VNF = "pair"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    for site in SITES.values():
        canary.remove(site)
    yield pair.create(SITES["site-a"])
    for site in SITES.values():
        canary.remove(site)
        remove_root_disk_copies(site)


@pytest.fixture(scope="module")
def desk(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    desk = Desk(folder, f"antipode-test-{time.time_ns()}")
    file = folder / "pair.yaml"
    file.write_text(yaml.safe_dump(pair.vnf(yaml.safe_load(EXAMPLE.read_text()))))
    desk.tell("vnf", "add", str(file))
    return desk


def _left_at(site: Site) -> list[str]:
    """The resources that createImage leaves until they are removed."""
    cloud = identity.connect(site, "antipode", tenant.PROJECT)
    images = [i.name for i in cloud.image.images() if i.name.startswith("antipode protect-")]
    snapshots = [s.name for s in cloud.block_storage.snapshots() if "antipode" in (s.name or "")]
    return images + snapshots


def test_the_pair_is_protected_while_a_client_asks_it_and_recovered_without_site_a(
    desk: Desk, site_a: Site, site_b: Site
) -> None:
    with pair.asked(site_a) as client:
        record = desk.ask("protect", VNF)
    frozen = record["quiesce_window_per_member_s"]
    assert set(frozen) == {member.server for member in pair.MEMBERS}
    assert client.answers > 0
    assert client.longest_silence_s <= max(frozen.values())
    assert record["consistency"] == "volume", "Nova does not say whether it quiesced the standby"
    assert _left_at(site_a) == []
    (copy,) = root_disk_copies(site_b)
    assert copy.status == "active"
    desk.tell("recovery-point", "verify", VNF)
    before = {member.server: pair.durable(site_a, member) for member in pair.MEMBERS}

    assert power.off(site_a)
    try:
        result = desk.ask("failover", VNF, "--to", site_b.name, "--yes")
        for member in pair.MEMBERS:
            pair.wait_for_records(site_b, member, 5)
        found = pair.records(site_b)
    finally:
        revive = [sys.executable, "-m", "lab", "revive", site_a.name]
        subprocess.run(revive, cwd=PROJECT, check=True)
    assert set(result["servers"]) == set(before)
    booted = identity.connect(site_b, "antipode", tenant.PROJECT).compute.get_server(
        result["servers"][pair.STANDBY.server]
    )
    assert booted.image.id == copy.id
    for server, records in found.items():
        assert records.is_whole, (server, records)
        captured = records.last_of_boot[sorted(records.last_of_boot)[-2]]
        assert 0 < captured <= before[server]

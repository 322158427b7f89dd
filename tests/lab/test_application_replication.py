# SPDX-License-Identifier: Apache-2.0
"""An application that replicates its own data between two real sites over a routed link: what it
acknowledged is there when site-a is killed, and a link that is cut is seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.sandbox.records import parse
from lab import canary, pair, power
from lab.checker import check
from lab.desk import PROJECT as TREE
from lab.desk import Desk
from lab.services import identity, link
from lab.services.tenant import PROJECT
from lab.site import SITES, Site
from lab.waiting import wait_until
from tests.lab import chain
from tests.lab.chain import HEAD, RECOVERED, STORE
from tests.lab.command import lab
from tests.lab.with_replication import add_replication

pytestmark = pytest.mark.lab
VNF, DATA = "canary", "records"
PATIENCE_S = 300
PROBE = {
    "command": ["python", "-m", "lab", "answer", "{site}", "{address}", "8080"],
    "variables": "ANTIPODE_LAB",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, vnf_file: Callable[..., Path]) -> Iterator[Desk]:
    """The head of the chain is a VNF at site-a, and replicates to the store at site-b."""
    add_replication()
    lab("mend")
    for site in SITES.values():
        canary.remove(site)
    site_a, site_b = SITES.values()
    chain.create(site_b, STORE)
    chain.create(site_a, HEAD)
    pair.wait_for_records(site_a, HEAD, 20)
    made = Desk(tmp_path_factory.mktemp("chain") / "desk", f"antipode-test-{time.time_ns()}")
    known = yaml.safe_load(made.configuration.read_text())
    known["storages"]["chain"] = chain.storage()
    made.configuration.write_text(yaml.safe_dump(known, sort_keys=False))
    first, second = link.NETWORKS.values()
    file = vnf_file(
        members=[{"server": HEAD.server, "answers": PROBE}],
        datastores={DATA: {"storage": "chain", "kind": "application", "arrives_within": "3m"}},
        protections=[{"option": "replication", "quiesce": {"timeout": "60s"}}],
        map={
            "networks": {first.name: second.name},
            "addresses": {first.cidr: second.cidr},
            "volume_types": {"fast": "standard"},
        },
    )
    made.tell("vnf", "add", str(file))
    yield made
    chain.remove_fence(site_b)
    for site in (site_a, site_b):
        canary.remove(site)


def status(desk: Desk, site: Site) -> dict[str, Any]:
    """What `datastore status` says of the data at a site."""
    rows = json.loads(desk.run("datastore", "status", VNF, "-f", "json").stdout)
    (found,) = [row for row in rows if row["site"] == site.name]
    return dict(found)


def test_a_link_that_is_cut_is_seen_and_no_record_is_acknowledged_until_it_is_back(
    desk: Desk, site_a: Site, site_b: Site
) -> None:
    desk.ask("protect", VNF)
    lab("cut")
    try:
        wait_until(
            lambda: chain.says(site_a, HEAD)["state"] == "waiting", "the head waits", PATIENCE_S, 1
        )
        wait_until(
            lambda: status(desk, site_b)["health"] == "stopped", "the cut is seen", PATIENCE_S, 1
        )
        assert pair.durable(site_a, HEAD) <= pair.durable(site_b, STORE)
        failed = desk.run("protect", VNF, "-f", "json")
        assert json.loads(failed.stderr.splitlines()[-1])["error"]["code"] == "preflight-failed"
    finally:
        lab("mend")
    pair.wait_for_records(site_a, HEAD, 20)
    assert status(desk, site_b)["health"] == "replicating"
    desk.ask("protect", VNF)
    assert len(desk.ask("recovery-point", "list", VNF)) == 2


def test_each_record_that_was_acknowledged_is_there_when_its_site_is_killed(
    desk: Desk, site_a: Site, site_b: Site
) -> None:
    point = desk.ask("protect", VNF)["recovery_point"]
    reference = status(desk, site_b)["reference"]
    pair.wait_for_records(site_a, HEAD, 40)
    acknowledged = pair.durable(site_a, HEAD)
    power.off(site_a)
    try:
        result = desk.ask("failover", VNF, "--to", site_b.name, "--yes")
        assert result["recovery_point"] == point
        assert status(desk, site_b)["health"] == "writable"
        (server,) = [
            s
            for s in identity.connect(site_b, "antipode", PROJECT).compute.servers()
            if s.name == HEAD.server
        ]
        assert server.metadata[f"antipode:datastore:{DATA}"] == reference
        # its volumes are those of the point: it takes what is newer from the data
        wait_until(
            lambda: pair.durable(site_b, RECOVERED) > acknowledged + 10,
            "the head makes records again",
            PATIENCE_S,
            1,
        )
        head, store = chain.records(site_b, RECOVERED), chain.records(site_b, STORE)
    finally:
        subprocess.run([sys.executable, "-m", "lab", "revive", site_a.name], cwd=TREE, check=True)
    report = check({HEAD.role: head, STORE.role: store})
    assert all(member.is_whole for member in report.members.values()), report
    assert not (report.order_violations or report.content_mismatches)
    made = {r.number: r.made_us for r in parse(store) if r}
    written = [r for r in parse(chain.records(site_a, HEAD)) if r]
    assert written[-1].number >= acknowledged
    assert [r for r in written if made[r.number] != r.made_us] == [], "a record is another one"

# SPDX-License-Identifier: Apache-2.0
"""DNS records in Designate of the backup site, switched by a failover from a site that is dead, and
the signed report of it: all by the command line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antipode.sandbox import desk
from tests.sandbox.conftest import BACKUP, PRIMARY, World

pytestmark = pytest.mark.sandbox
ZONE = "vnf.example"
TARGETS = {PRIMARY: "hlr.a.example", BACKUP: "hlr.b.example"}
RECORD = {"name": f"hlr.{ZONE}", "type": "CNAME", "targets": TARGETS, "ttl": "30s"}


def led(world: World) -> World:
    """The VNF with a record in a zone of the backup site, which leads to its primary."""
    dns = world.cloud(BACKUP).dns
    zone = dns.create_zone(name=f"{ZONE}.", email="admin@example.com")
    dns.create_recordset(
        zone, name=f"hlr.{ZONE}.", type="CNAME", ttl=300, records=[f"{TARGETS[PRIMARY]}."]
    )
    path = world.sandbox.directory / desk.CONFIGURATION
    settings = YAML().load(path)
    settings["dns"] = {"cloud": {"designate": {"site": BACKUP, "zone": ZONE}}}
    YAML().dump(settings, path)
    world.know(dns=[RECORD])
    return world


def present(world: World) -> list[Any]:
    dns = world.cloud(BACKUP).dns
    [zone] = dns.zones(name=f"{ZONE}.")
    found = dns.recordsets(zone, name=f"hlr.{ZONE}.", type="CNAME")
    return [[r.records, r.ttl, r.status] for r in found]


def test_users_are_led_to_the_backup_site_when_the_primary_is_dead(
    own_world: World, tmp_path: Path
) -> None:
    world = led(own_world)
    world.protect()
    before = [["hlr.a.example."], 300, "ACTIVE"]
    checked = world.operator.ask("precheck", "canary")
    levels = {f["level"] for f in checked["findings"] if f["check"] == "dns"}
    assert levels == {"green", "yellow"}  # resolvers keep it for 300 s
    drilled = world.operator.run("drill", "canary", "--yes", "-f", "json")
    assert drilled.returncode == 0, drilled.stderr
    assert present(world) == [before]
    world.sandbox.kill(PRIMARY)
    done = world.operator.ask("failover", "canary", "--to", BACKUP, "--yes")
    assert done["dns"]["problems"] == []
    assert present(world) == [[["hlr.b.example."], 30, "ACTIVE"]]
    [shown] = world.operator.ask("dns", "show", "canary")
    assert (shown["leads_here"], shown["behind"]) == (True, "")

    written = world.operator.ask("report", done["run"], "--to", str(tmp_path), "--form", "json")
    [file] = written["files"]
    report = json.loads(Path(file).read_text())
    assert (report["run"], report["state"]) == (done["run"], "succeeded")
    assert "switch DNS record" in {step["name"] for step in report["steps"]}
    assert world.operator.ask("report", "verify", file)["valid"] is True
    Path(file).write_text(Path(file).read_text().replace("succeeded", "failed"))
    assert world.operator.run("report", "verify", file).returncode == 1

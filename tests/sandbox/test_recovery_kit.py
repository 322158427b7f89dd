# SPDX-License-Identifier: Apache-2.0
"""An operator who lost the site, the host, its database and its keys recovers by the printed sheet
of the recovery kit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antipode.operations import kit
from antipode.sandbox import canary, desk, records
from antipode.sandbox.keystone import PASSWORD
from antipode.vault import encryption
from tests.sandbox.conftest import BACKUP, PRIMARY, World

pytestmark = pytest.mark.sandbox
CANNOT_READ = "recovery-point-untrusted"


class BareHost:
    """A new host: an empty home, and antipode."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANTIPODE", "OS_", "XDG"))}
        return subprocess.run(
            [sys.executable, "-m", "antipode.cli.main", *arguments],
            env=kept | {"HOME": str(self.home), "NO_PROXY": "*", "no_proxy": "*"},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def ask(self, *arguments: str) -> Any:
        done = self.run(*arguments, "-f", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def copied(folder: Path, host: BareHost) -> None:
    """Steps 2 and 3 of the sheet: the files where they belong, the passwords filled in."""
    for name, place in ((kit.CONFIGURATION, "antipode"), (kit.CLOUDS, "openstack")):
        there = host.home / ".config" / place
        there.mkdir(parents=True)
        shutil.copy(folder / name, there)
    path = host.home / ".config" / "openstack" / kit.CLOUDS
    clouds = YAML().load(path)
    for entry in clouds["clouds"].values():
        assert entry["auth"]["password"] is None
        entry["auth"]["password"] = PASSWORD
    YAML().dump(clouds, path)


def test_nothing_but_the_kit_is_needed_to_recover(own_world: World, tmp_path: Path) -> None:
    world, sandbox, folder = own_world, own_world.sandbox, tmp_path / "safe" / "kit"
    escrow = encryption.new_identity()
    (tmp_path / "escrow.txt").write_text(f"{escrow}\n")
    world.protect()
    checks = {c["check"]: c["ok"] for c in world.operator.ask("site", "check")}
    assert (checks["keys"], checks["recovery kit"]) == (True, False)
    recipient = encryption.recipient_of(escrow)
    world.operator.tell("key", "export", str(folder), "--to", recipient)
    checks = {c["check"]: c["ok"] for c in world.operator.ask("site", "check")}
    assert checks["recovery kit"]

    sandbox.kill(PRIMARY)
    for name in ("antipode.db", desk.CONFIGURATION, desk.CLOUDS):
        (sandbox.directory / name).unlink()
    shutil.rmtree(sandbox.directory / "keys")

    host = BareHost(tmp_path / "bare")
    copied(folder, host)
    refused = host.run("failover", "canary", "--to", BACKUP, "--yes", "-f", "json")
    assert refused.returncode == 1
    assert f'"code": "{CANNOT_READ}"' in refused.stderr
    closed = host.run("key", "import", str(folder))
    assert closed.returncode == 2
    host.ask("key", "import", str(folder), "--identity", str(tmp_path / "escrow.txt"))
    (synced,) = host.ask("vault", "sync")
    assert (synced["vnf"], synced["here"], synced["points"]) == ("canary", "added", 1)
    assert (synced["active_site"], synced["generation"]) == (PRIMARY, 1)
    assert host.ask("recovery-point", "list", "canary")[0]["state"] == "signed"
    record = host.ask("failover", "canary", "--to", BACKUP, "--yes")
    assert record["generation"] == 2
    desk.write(sandbox)  # for the eyes of the test; the operator has no part in it
    canary.await_work(sandbox, BACKUP)
    assert records.check(canary.records(sandbox, BACKUP)).consistent

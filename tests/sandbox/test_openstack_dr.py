# SPDX-License-Identifier: Apache-2.0
"""python-openstackclient as it is published drives antipode: a VNF is protected, its site dies, and
it is recovered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from antipode.sandbox.keystone import PASSWORD, STAFF
from tests.sandbox.conftest import BACKUP, PRIMARY, World
from tests.sandbox.test_api import Api, know, serving

pytestmark = pytest.mark.sandbox
OPENSTACK = Path(sys.executable).with_name("openstack")


def openstack(
    world: World, api: Api, site: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user of a site."""
    own = {
        "OS_AUTH_URL": world.sandbox.settings(site).auth_url,
        "OS_USERNAME": "operator",
        "OS_PASSWORD": PASSWORD,
        "OS_PROJECT_NAME": STAFF,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_IDENTITY_API_VERSION": "3",
        "OS_DISASTER_RECOVERY_ENDPOINT_OVERRIDE": api.url,
    }
    rest = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    return subprocess.run(
        [str(OPENSTACK), "dr", *arguments],
        env=rest | own,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
    )


def shown_by(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_openstack_dr_recovers_a_vnf_of_a_dead_site(own_world: World) -> None:
    know(own_world)
    with serving(own_world, "serve") as api:
        made = shown_by(
            openstack(own_world, api, PRIMARY, "protect", "canary", "--wait", "-f", "json")
        )
        assert made["state"] == "succeeded"
        own_world.sandbox.kill(PRIMARY)
        unconfirmed = openstack(own_world, api, BACKUP, "failover", "canary", "--to", BACKUP)
        assert unconfirmed.returncode == 1
        arguments = ("failover", "canary", "--to", BACKUP, "--yes", "--wait", "-f", "json")
        moved = shown_by(openstack(own_world, api, BACKUP, *arguments))
        assert moved["recovery_point"] == made["recovery_point"]
        [vnf] = shown_by(openstack(own_world, api, BACKUP, "vnf", "list", "-f", "json"))
        assert (vnf["active_site"], vnf["generation"]) == (BACKUP, 2)

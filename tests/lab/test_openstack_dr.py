# SPDX-License-Identifier: Apache-2.0
"""The REST API with the Keystones of two real sites, and python-openstackclient as it is published:
a member protects a VNF, and an operator recovers it by a token of the site that is left, while the
other is silent and while it is dead.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from lab import canary, clouds, storage, wan
from lab.desk import EXAMPLE, PROJECT, Desk
from lab.services import identity, tenant
from lab.site import SITES, Site
from lab.waiting import wait_until
from tests.lab.command import lab
from tests.ports import free_port

pytestmark = pytest.mark.lab
OPENSTACK = Path(sys.executable).with_name("openstack")
SERVICE, OPERATOR = "disaster-recovery", "dr_operator"
VNF = "canary"


def openstack(cloud: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user of clouds.yaml."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    return subprocess.run(
        [str(OPENSTACK), "--os-cloud", cloud, *arguments],
        env={**rest, "OS_CLIENT_CONFIG_FILE": str(clouds.PATH), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
    )


def shown_by(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def project(site: Site) -> str:
    cloud = identity.connect(site)
    return str(cloud.identity.find_project(tenant.PROJECT, ignore_missing=False).id)


@contextmanager
def serving(desk: Desk) -> Iterator[str]:
    """A service that answers to the API, until it is stopped as systemd stops it; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    content = yaml.safe_load(desk.configuration.read_text())
    at_sites = {name: project(site) for name, site in SITES.items()}
    projects = {tenant.PROJECT: {"sites": at_sites, "all_projects": True}}
    content["api"] = {"port": port, "projects": projects}
    desk.configuration.write_text(yaml.safe_dump(content, sort_keys=False))
    process = desk.start("serve", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def answers() -> bool:
        assert process.poll() is None
        try:
            return requests.get(f"{url}/healthcheck", timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers, "the API answers", 300)
        yield url
    finally:
        process.terminate()
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said


@contextmanager
def registered(site: Site, url: str) -> Iterator[None]:
    """The service in the catalog of a site by the commands of the deployment guide, and a member of
    the VNF's project who is an operator.
    """
    guide = (PROJECT / "docs" / "deployment.md").read_text()
    section = guide.partition("## The REST API")[2].partition("\n## ")[0]
    commands = [
        shlex.split(c, comments=True) for c in re.findall(r"^openstack (.*)", section, re.M)
    ]
    named = {"https://dr.example.org": url, "site-b": site.region}
    assert len(commands) == 3
    cloud = identity.connect(site)
    _unregister(cloud)
    try:
        for words in commands:
            done = openstack(f"{site.name}-admin", *(named.get(w, w) for w in words))
            assert done.returncode == 0, done.stderr
        member = cloud.identity.find_user(tenant.USER, ignore_missing=False)
        role = cloud.identity.find_role(OPERATOR, ignore_missing=False)
        cloud.identity.assign_project_role_to_user(project(site), member, role)
        yield
    finally:
        _unregister(cloud)


def _unregister(cloud: Any) -> None:
    for service in [s for s in cloud.identity.services() if s.type == SERVICE]:
        cloud.identity.delete_service(service)  # its endpoints go with it
    if (role := cloud.identity.find_role(OPERATOR)) is not None:
        cloud.identity.delete_role(role)


MEMBER, OPERATOR_OF_B = "site-a-tenant", "site-b-tenant"
JSON = ("-f", "json")


@contextmanager
def silent(site: Site) -> Iterator[None]:
    """Nothing reaches the site, and nothing of it comes, while the block runs."""
    wan.isolate(site)
    try:
        yield
    finally:
        wan.rejoin(site)


@contextmanager
def dead(site: Site) -> Iterator[None]:
    """No process of the site runs while the block does."""
    lab("kill", site.name)
    try:
        yield
    finally:
        lab("revive", site.name)


@pytest.mark.parametrize("lost", [silent, pytest.param(dead, marks=pytest.mark.last)])
def test_openstack_dr_recovers_a_vnf_of_a_lost_site_by_tokens_of_the_other(
    tmp_path: Path, site_a: Site, site_b: Site, lost: Callable[[Site], AbstractContextManager[None]]
) -> None:
    canary.remove(site_b)
    canary.create(site_a)
    vault = f"antipode-test-{time.time_ns()}"
    desk = Desk(tmp_path / "desk", vault, has_mover=not storage.missing)
    desk.tell("vnf", "add", str(EXAMPLE))
    failover = ("dr", "failover", VNF, "--to", site_b.name, "--yes")
    try:
        with serving(desk) as url, registered(site_b, url):
            here = {"OS_DISASTER_RECOVERY_ENDPOINT_OVERRIDE": url}
            made = shown_by(openstack(MEMBER, "dr", "protect", VNF, "--wait", *JSON, **here))
            assert made["state"] == "succeeded"
            refused = openstack(MEMBER, *failover, **here)
            assert (refused.returncode, "HTTP 403" in refused.stderr) == (1, True)
            with lost(site_a):
                [vnf] = shown_by(openstack(OPERATOR_OF_B, "dr", "vnf", "list", *JSON))
                assert (vnf["name"], vnf["active_site"]) == (VNF, site_a.name)
                moved = shown_by(openstack(OPERATOR_OF_B, *failover, "--wait", *JSON))
                [vnf] = shown_by(openstack(OPERATOR_OF_B, "dr", "vnf", "list", *JSON))
                canary.wait_for_records(site_b, 5)
            assert moved["recovery_point"] == made["recovery_point"]
            assert (vnf["active_site"], vnf["generation"]) == (site_b.name, 2)
    finally:
        canary.remove(site_b)

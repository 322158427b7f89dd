# SPDX-License-Identifier: Apache-2.0
"""An operator's desk for the embedded sites: clouds.yaml, antipode.yaml and the VNF file, in the
sandbox's directory.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from antipode import private
from antipode.sandbox import configuration, rbd
from antipode.sandbox.cinder.storage import BACKEND
from antipode.sandbox.keystone import (
    BACKUP,
    OPERATOR,
    OTHER,
    PASSWORD,
    PROJECT,
    STAFF,
    TENANT,
    known_id,
)
from antipode.sandbox.members import HTTP_PORT, MEMBERS, NAME, TENANTS
from antipode.sandbox.settings import SiteSettings
from antipode.sandbox.supervision import SITES, STORE, Sandbox

STORAGE = "ceph"
"""The name of that which replicates between the sites."""
THIRD = "third-place"
CLOUDS = "clouds.yaml"
CONFIGURATION = "antipode.yaml"
VNF_FILE = "canary.yaml"


def write(sandbox: Sandbox, third: Sandbox | None = None, port: int | None = None) -> None:
    """Write the three files over earlier ones; the database beside them stays.

    Args:
        third: a third place, whose object storage has the vault and the backups; by default that
            of one of the sites has.
        port: of loopback, at which a service answers to the API; None: at none.
    """
    folder = sandbox.directory
    clouds: dict[str, Any] = {}
    for site in SITES:
        known = sandbox.settings(site)
        clouds[f"{site}-admin"] = _entry(known, "admin", "admin")
        clouds[f"{site}-tenant"] = _entry(known, TENANT, PROJECT)
        clouds[f"{site}-staff"] = _entry(known, "operator", STAFF)
        clouds[site] = _entry(known, OPERATOR, PROJECT)
    store = (third or sandbox).settings(STORE)
    clouds[f"{STORE}-backup" if third is None else THIRD] = _entry(store, BACKUP, BACKUP)
    _dump(folder / CLOUDS, {"clouds": clouds})
    container = store.store.container
    antipode = configuration.antipode(folder, SITES, STORE, backups=container)
    if third is not None:
        antipode |= {
            "vault": {"swift": {"cloud": THIRD, "container": "antipode-vault"}},
            "backup_store": {"cloud": THIRD, "container": container},
        }
    for site in SITES:  # their storage is in files of this machine
        # so that Cinder's restore is seen, too
        antipode["sites"][site]["mover"] = {"restores": False}
        antipode["sites"][site]["changes"] = [_pool(sandbox, site)]
    there = {site: _pool(sandbox, site) for site in SITES}
    antipode["storages"] = {STORAGE: {"driver": "rbd-mirror", "sites": there}}
    if port is not None:
        antipode["api"] = api(port)
    _dump(folder / CONFIGURATION, antipode)
    _dump(folder / VNF_FILE, vnf(sandbox))


def api(port: int) -> dict[str, Any]:
    """The part `api` of an antipode.yaml: the projects of the embedded sites."""

    def at_sites(project: str) -> dict[str, Any]:
        return {"sites": {site: known_id(site, "project", project) for site in SITES}}

    projects = {name: at_sites(name) for name in (PROJECT, OTHER)}
    return {
        "port": port,
        "projects": {**projects, STAFF: {**at_sites(STAFF), "all_projects": True}},
    }


def _pool(sandbox: Sandbox, site: str) -> dict[str, Any]:
    """The storage of a site, by a double of the command `rbd`."""
    source = Path(rbd.__file__).parents[2]  # that of this antipode, wherever it was imported from
    command = ["env", f"PYTHONPATH={source}", sys.executable, "-m", "antipode.sandbox.rbd"]
    return {
        "command": [*command, str((sandbox.directory / site).resolve())],
        "host": f"cinder-{site}@{BACKEND}#{BACKEND}",
    }


def vnf(sandbox: Sandbox) -> dict[str, Any]:
    """The example's VNF: quiesced db first, which is the worst order for a chain; booted db, app,
    front.
    """
    primary, backup = SITES
    answer = [sys.executable, "-m", "antipode.sandbox.answer", str(sandbox.directory.resolve())]
    members: list[dict[str, Any]] = []
    for member, following in zip(MEMBERS, [*MEMBERS[1:], None], strict=True):
        asked = {"command": [*answer, "{site}", "{address}", str(HTTP_PORT)], "within": "180s"}
        members.append(
            {
                "server": member.server,
                **({"boot_before": [following.server]} if following else {}),
                "answers": asked,
            }
        )
    return {
        "vnf": NAME,
        "primary": primary,
        "backup": backup,
        "members": members,
        "protections": [{"option": "quiesced-snapshot", "quiesce": {"timeout": "30s"}}],
        "map": {
            "networks": {TENANTS[primary].network: TENANTS[backup].network},
            "volume_types": {TENANTS[primary].volume_type: TENANTS[backup].volume_type},
        },
    }


def _entry(site: SiteSettings, user: str, project: str) -> dict[str, Any]:
    keystone = configuration.Keystone(site.auth_url, site.region)
    return configuration.cloud(keystone, configuration.User(user, PASSWORD, project))


def _dump(path: Path, content: object) -> None:
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1000
    with open(path, "w", encoding="utf-8", opener=private.opener) as file:
        yaml.dump(content, file)

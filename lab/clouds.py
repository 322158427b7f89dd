# SPDX-License-Identifier: Apache-2.0
"""The clouds.yaml of the lab: how its users reach both sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from antipode.sandbox import configuration
from lab.services import swift
from lab.services.cinder import BACKUP_ACCOUNT
from lab.services.openstack_conf import KEYSTONE_PORT, PASSWORD
from lab.services.tenant import PROJECT, USER
from lab.site import ROOT, SITES, Site

PATH = ROOT / "clouds.yaml"


def write() -> Path:
    """Write clouds.yaml: per site its admin, the tenant of the example VNF, and antipode's own user
    (admin and member there); and the owner of the backups of each object store.
    """
    clouds = {}
    for site in SITES.values():
        clouds[f"{site.name}-admin"] = _entry(site, "admin", "admin")
        clouds[f"{site.name}-tenant"] = _entry(site, USER, PROJECT)
        clouds[site.name] = _entry(site, "antipode", PROJECT)
        if swift.runs_at(site):
            clouds[f"{site.name}-backup"] = _entry(site, BACKUP_ACCOUNT, BACKUP_ACCOUNT)
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(yaml.safe_dump({"clouds": clouds}, sort_keys=False))
    return PATH


def _entry(site: Site, user: str, project: str) -> dict[str, Any]:
    keystone = configuration.Keystone(site.url(KEYSTONE_PORT, "/v3"), site.region)
    return configuration.cloud(keystone, configuration.User(user, PASSWORD, project))

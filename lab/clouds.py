"""The clouds.yaml of the lab: how its users reach both sites."""

from __future__ import annotations

from pathlib import Path

import yaml

from lab.site import BACKUP_STORE, ROOT, SITES, Site

PASSWORD = "pw"
KEYSTONE_PORT = 5000
PATH = ROOT / "clouds.yaml"


def write() -> Path:
    """Write clouds.yaml: per site its admin, the tenant of the example VNF, and antipode's own user (admin and member there);
    and the owner of the backup store."""
    clouds = {}
    for site in SITES.values():
        clouds[f"{site.name}-admin"] = _entry(site, "admin", "admin")
        clouds[f"{site.name}-tenant"] = _entry(site, "demo", "vnf")
        clouds[site.name] = _entry(site, "antipode", "vnf")
    clouds[f"{BACKUP_STORE.name}-backup"] = _entry(BACKUP_STORE, "backup", "backup")
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(yaml.safe_dump({"clouds": clouds}, sort_keys=False))
    return PATH


def _entry(site: Site, user: str, project: str) -> dict[str, object]:
    return {
        "auth": {
            "auth_url": site.url(KEYSTONE_PORT, "/v3"),
            "username": user,
            "password": PASSWORD,
            "project_name": project,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        "region_name": site.region,
        "identity_api_version": 3,
        "interface": "public",
    }

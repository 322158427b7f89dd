# SPDX-License-Identifier: Apache-2.0
"""Containers of the VNF's owner at both sites, asked of Swift and not of antipode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.services import identity, swift, tenant
from lab.services.rbd_mirror import other_than
from lab.site import Site
from lab.waiting import wait_until

PATIENCE_S = 300


@dataclass(frozen=True)
class Container:
    """A container of the VNF's owner, at both sites."""

    name: str
    key: str

    def at(self, site: Site) -> Any:
        return identity.connect(site, tenant.USER, tenant.PROJECT).object_store

    def path(self, site: Site, name: str = "") -> str:
        account = self.at(site).get_endpoint().rstrip("/")
        return f"{account}/{self.name}{'/' + name if name else ''}"

    def request(self, method: str, site: Site, name: str = "", **arguments: Any) -> Any:
        return self.at(site).request(self.path(site, name), method, **arguments)

    def set(self, site: Site, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.request("PUT", site, headers=named).raise_for_status()

    def follow(self, source: Site) -> None:
        """Have the other site take what is put into it at the source."""
        backup = other_than(source)
        account = self.path(backup).split("/v1/")[1]
        self.set(backup, X_Container_Sync_Key=self.key)
        self.set(
            source,
            X_Container_Sync_Key=self.key,
            X_Container_Sync_To=f"//{swift.REALM}/{backup.name}/{account}",
        )

    def put(self, site: Site, name: str, content: bytes) -> None:
        self.request("PUT", site, name, data=content).raise_for_status()

    def get(self, site: Site, name: str) -> bytes | None:
        answer = self.request("GET", site, name)
        return answer.content if answer.status_code == 200 else None

    def remove(self, site: Site) -> None:
        self.request("POST", site, headers={"X-Remove-Container-Sync-To": "x"})
        for entry in self.request("GET", site, params={"format": "json"}).json():
            self.request("DELETE", site, entry["name"])
        self.request("DELETE", site).raise_for_status()


def arrives(container: Container, site: Site, name: str, content: bytes) -> None:
    wait_until(
        lambda: container.get(site, name) == content, f"{name} arrives at {site.name}", PATIENCE_S
    )


def refusals(site: Site, container: Container) -> int:
    """How often the site's daemon was refused an object: its log is the only one to tell."""
    log = (site.log / "swift-container-sync.log").read_text(errors="replace")
    return sum("Unauth" in line and container.name in line for line in log.splitlines())

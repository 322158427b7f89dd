# SPDX-License-Identifier: Apache-2.0
"""A site as the floor sees it: raw calls on one keystoneauth session, each object polled by
itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keystoneauth1 import loading
from keystoneauth1.adapter import Adapter
from keystoneauth1.session import Session
from ruamel.yaml import YAML

from lab.site import ROOT

POLL_S = float(os.environ.get("BENCH_POLL_S", "0.1"))
"""Between two looks of the floor at one object.

A look costs the API time: a larger value may be a lower floor.
"""
SERVER = "2.79"
VOLUME = "3.66"
Json = dict[str, Any]


class Failed(Exception):
    """A resource went into an error state or took too long."""


def clouds_file() -> Path:
    """The clouds.yaml in use: the lab's unless the environment names one."""
    return Path(os.environ.get("OS_CLIENT_CONFIG_FILE", ROOT / "clouds.yaml"))


class Cloud:
    """One cloud of clouds.yaml, with a token got before any thread uses it."""

    def __init__(self, name: str) -> None:
        entry = YAML(typ="safe").load(clouds_file())["clouds"][name]
        auth = loading.get_plugin_loader(entry.get("auth_type", "password")).load_from_options(
            **entry["auth"]
        )
        self.session = session = Session(auth=auth, timeout=120)
        where = {
            "session": session,
            "interface": "public",
            "region_name": entry.get("region_name"),
            "raise_exc": True,
        }
        self.name = name
        self.project: str = session.get_project_id()
        self.compute = Adapter(service_type="compute", default_microversion=SERVER, **where)
        self.volume = Adapter(service_type="block-storage", default_microversion=VOLUME, **where)
        network = Adapter(service_type="network", **where)
        root = str(network.get_endpoint()).rstrip("/").removesuffix("/v2.0")
        self.network = Adapter(service_type="network", endpoint_override=f"{root}/v2.0", **where)

    def act(self, server_id: str, action: str) -> None:
        """POST a server action without arguments."""
        self.compute.post(f"/servers/{server_id}/action", json={action: None})

    def is_quiesced(self, server_id: str) -> bool:
        """Whether somebody has frozen a server (an addition of nova-quiesce)."""
        return bool(
            self.compute.get(f"/servers/{server_id}/os-quiesce").json()["quiesce"]["quiesced"]
        )

    def servers(self) -> list[Json]:
        found: list[Json] = self.compute.get("/servers/detail").json()["servers"]
        return found

    def volumes(self) -> list[Json]:
        found: list[Json] = self.volume.get("/volumes/detail").json()["volumes"]
        return found

    def snapshots(self) -> list[Json]:
        found: list[Json] = self.volume.get("/snapshots/detail").json()["snapshots"]
        return found

    def backups(self) -> list[Json]:
        found: list[Json] = self.volume.get("/backups/detail").json()["backups"]
        return found

    def networks(self, collection: str) -> list[Json]:
        """A collection of Neutron: ports, networks, subnets, security-groups; only what the project
        may use.
        """
        found: list[Json] = self.network.get(f"/{collection}").json()[collection.replace("-", "_")]
        return found


def await_status(
    service: Adapter, kind: str, resource_id: str, wanted: str, within_s: float
) -> None:
    """Poll a resource (server, volume, snapshot, backup) until its status is `wanted`.

    Raises:
        Failed: as `until` says.
    """
    until(
        lambda: service.get(f"/{kind}s/{resource_id}").json()[kind]["status"],
        wanted,
        f"{kind} {resource_id}",
        within_s,
    )


def until(get: Callable[[], str], wanted: str, what: str, within_s: float) -> None:
    """Ask each POLL_S until the answer is `wanted`.

    Raises:
        Failed: the answer is an error state, or `within_s` is over.
    """
    deadline = time.monotonic() + within_s
    while (state := get()) != wanted:
        if state.lower().startswith("error"):
            raise Failed(f"{what} is in state {state}")
        if time.monotonic() > deadline:
            raise Failed(f"{what} is still {state}, not {wanted}, after {within_s:.0f} s")
        time.sleep(POLL_S)

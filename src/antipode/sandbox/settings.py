# SPDX-License-Identifier: Apache-2.0
"""The settings of one embedded site: a file in its directory, read by its process."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from antipode import private
from antipode.sandbox.blocks import KERNEL_TELLS
from antipode.sandbox.container_sync import Realm
from antipode.sandbox.members import Tenant
from antipode.sandbox.store import StoreSettings

FILE = "site.json"
LOCK = "lock"


class SiteSettings(BaseModel):
    name: str
    region: str
    host: str = "127.0.0.1"
    port: int
    """of the OpenStack services and the guests; isolation and faults apply to it"""
    control_port: int
    """of the control API, which always answers"""
    latency: float = Field(default=1.0, ge=0)
    """multiplies all latencies"""
    gib: int = Field(default=1 << 30 if KERNEL_TELLS else 256 << 20, ge=1 << 20)
    """the bytes of a GiB of a volume: less than there are, where volumes are many or have to be
    read to know where they hold data
    """
    add_on: bool = True
    """whether the quiesce add-on is installed"""
    store: StoreSettings
    realm: Realm | None = None
    """of container sync between the sites"""
    tenant: Tenant

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def control_url(self) -> str:
        return f"http://{self.host}:{self.control_port}"

    @property
    def auth_url(self) -> str:
        return f"{self.url}/identity/v3"

    def write(self, directory: Path) -> None:
        with open(directory / FILE, "w", encoding="utf-8", opener=private.opener) as file:
            file.write(self.model_dump_json(indent=1))


def read(directory: Path) -> SiteSettings:
    return SiteSettings.model_validate_json((directory / FILE).read_text(encoding="utf-8"))

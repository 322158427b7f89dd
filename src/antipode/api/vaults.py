# SPDX-License-Identifier: Apache-2.0
"""`/v1/vaults`: the vaults of the configuration, what they hold, and what they do not agree about.
For the staff.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from antipode.api.gate import Asked, route
from antipode.errors import NotFound
from antipode.model.base import NAME
from antipode.operations import vaults

ROUTES = APIRouter(prefix="/v1", tags=["vaults"])


class VaultShown(BaseModel):
    """A vault of the configuration."""

    name: str
    kind: str
    place: str
    site: str | None
    vnfs: int | None = Field(description="null: it does not answer")
    points: int | None
    trouble: str | None


class VaultList(BaseModel):
    vaults: list[VaultShown]


class HeldShown(BaseModel):
    """What one vault holds of a VNF."""

    vnf: str
    points: int
    newest: str | None
    newest_consistent_at: str | None
    active_site: str | None
    generation: int | None
    state: str | None
    trouble: str | None


class HeldList(BaseModel):
    holdings: list[HeldShown]


class DisagreementShown(BaseModel):
    """Something that vaults do not agree about, or that is wrong in one of them."""

    vnf: str
    document: str
    place: str
    problem: str


class DisagreementList(BaseModel):
    disagreements: list[DisagreementShown]


@route(ROUTES, "GET", "/vaults", "vault:get", is_long=True)
def list_vaults(asked: Asked) -> VaultList:
    """List the vaults. Each is asked by itself: a dead one holds up no other."""
    found = [VaultShown(**asdict(one)) for one in vaults.statuses(asked.deployment)]
    return VaultList(vaults=found)


@route(ROUTES, "GET", "/vaults/{vault}", "vault:get", is_long=True)
def get_vault(
    asked: Asked, vault: Annotated[str, Path(pattern=NAME, description="name of a vault")]
) -> HeldList:
    """Show what a vault holds of each VNF, as if there were no other vault."""
    if vault not in asked.deployment.config.all_vaults:
        raise NotFound(f"there is no vault {vault}", resource=f"vault {vault}")
    return HeldList(
        holdings=[HeldShown(**asdict(one)) for one in vaults.held_by(asked.deployment, vault)]
    )


@route(ROUTES, "GET", "/vault_disagreements", "vault:get", is_long=True)
def list_disagreements(
    asked: Asked, vnf: Annotated[str | None, Query(pattern=NAME)] = None
) -> DisagreementList:
    """List what vaults do not agree about. The newest recovery points are read."""
    found = vaults.disagreements(asked.deployment, vnf)
    return DisagreementList(disagreements=[DisagreementShown(**asdict(one)) for one in found])

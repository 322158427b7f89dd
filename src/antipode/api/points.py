# SPDX-License-Identifier: Apache-2.0
"""`/v1/vnfs/{vnf}/recovery_points`: the states from which a VNF can be recovered, by its vaults."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from antipode.api.conventions import Moment, PointId, VnfName
from antipode.api.gate import Asked, route
from antipode.operations.recovery_points import (
    recovery_point,
    recovery_points,
    stored_bytes,
    verify,
)
from antipode.vault.sealing import Summary

ROUTES = APIRouter(prefix="/v1", tags=["recovery points"])
MOST, USUAL = 500, 50
NEWEST = "newest"


class PointOfList(BaseModel):
    """A recovery point, as its manifest says."""

    id: str
    valid: bool
    refused: str | None = Field(description="why it cannot be recovered from")
    generation: int | None
    option: str | None
    site: str | None
    consistent_at: Moment | None
    consistency: str | None
    incremental: bool | None
    volumes: int | None
    stored_bytes: int | None


class PointList(BaseModel):
    recovery_points: list[PointOfList]


class VolumeOfPoint(BaseModel):
    """A volume that a point can restore."""

    id: str
    name: str | None
    size_gib: int
    source: str


class PointShown(BaseModel):
    """A recovery point, as all its records say."""

    id: str
    vnf: str
    run: str
    generation: int
    option: str
    site: str
    consistent_at: Moment
    consistency: str
    signed: bool
    stored_bytes: int | None
    members: list[str]
    volumes: list[VolumeOfPoint]


class OnePoint(BaseModel):
    recovery_point: PointShown


class FindingShown(BaseModel):
    """What a verification has found about a point, or about one volume of it."""

    volume: str
    backup: str
    ok: bool
    objects: int | None
    bytes: int | None
    detail: str


class FindingList(BaseModel):
    findings: list[FindingShown]


@route(ROUTES, "GET", "/vnfs/{vnf}/recovery_points", "point:get", is_long=True)
def list_recovery_points(
    asked: Asked,
    vnf: VnfName,
    limit: Annotated[int, Query(ge=1, le=MOST, description="the newest so many")] = USUAL,
) -> PointList:
    """List the newest recovery points of a VNF, the newest first. Vaults are read."""
    found = recovery_points(asked.deployment, vnf, limit)
    return PointList(
        recovery_points=[
            PointOfList(
                id=point,
                valid=isinstance(what, Summary),
                refused=None if isinstance(what, Summary) else f"{what.code}: {what}",
                generation=what.generation if isinstance(what, Summary) else None,
                option=what.option if isinstance(what, Summary) else None,
                site=what.site if isinstance(what, Summary) else None,
                consistent_at=what.consistent_at if isinstance(what, Summary) else None,
                consistency=what.consistency if isinstance(what, Summary) else None,
                incremental=what.incremental if isinstance(what, Summary) else None,
                volumes=what.volumes if isinstance(what, Summary) else None,
                stored_bytes=what.stored_bytes if isinstance(what, Summary) else None,
            )
            for point, what in reversed(list(found))
        ]
    )


@route(ROUTES, "GET", "/vnfs/{vnf}/recovery_points/{point}", "point:get", is_long=True)
def get_recovery_point(asked: Asked, vnf: VnfName, point: PointId) -> OnePoint:
    """Show a recovery point, or the newest. Vaults are read."""
    opened = recovery_point(asked.deployment, vnf, None if point == NEWEST else point)
    found = opened.point
    return OnePoint(
        recovery_point=PointShown(
            id=found.id,
            vnf=found.vnf.vnf,
            run=found.run,
            generation=found.generation,
            option=found.option,
            site=found.site,
            consistent_at=found.consistent_at,
            consistency=found.consistency,
            signed=opened.signed_by is not None,
            stored_bytes=stored_bytes(found),
            members=[server.name for server in found.topology.servers],
            volumes=[
                VolumeOfPoint(
                    id=volume.id,
                    name=volume.name,
                    size_gib=volume.size_gib,
                    source=found.sources[volume.id].kind,
                )
                for volume in found.captured_disks
            ],
        )
    )


@route(ROUTES, "GET", "/vnfs/{vnf}/recovery_points/{point}/findings", "point:get", is_long=True)
def verify_recovery_point(asked: Asked, vnf: VnfName, point: PointId) -> FindingList:
    """Verify a recovery point: its signature, its chains, and every object of its backups in the
    backup store. A run `verify` proves the bytes, too.
    """
    wanted = None if point == NEWEST else point
    return FindingList(
        findings=[
            FindingShown.model_validate(one.model_dump(include=set(FindingShown.model_fields)))
            for one in verify(asked.deployment, vnf, wanted)
        ]
    )

# SPDX-License-Identifier: Apache-2.0
"""`/v1/vnfs/{vnf}/standing_volumes`, `…/datastores` and `…/volumes`: where else the data of a VNF
is, beside its recovery points. Sites are asked.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from antipode.api.conventions import Moment, VnfName, moment
from antipode.api.gate import Asked, route
from antipode.model.base import NAME
from antipode.operations import datastores, standing, volumes
from antipode.operations.inspect import standing_summary

ROUTES = APIRouter(prefix="/v1", tags=["copies"])
Json = dict[str, Any]
AtSite = Annotated[
    str | None,
    Query(
        pattern=NAME,
        description="the backup site; by default the only one at which the VNF is not active",
    ),
]


class StandingStatus(BaseModel):
    """What this installation knows of the standing volumes at one site; no site is asked."""

    site: str
    state: str
    lag_s: float | None = Field(description="by which they are behind the newest recovery point")
    recovery_point: str | None = Field(description="that was applied last")
    volumes: int | None
    not_standing: dict[str, str] = Field(description="volumes that do not stand, and why")
    written_bytes: int | None
    apply_s: float | None
    size_gib: int | None = Field(description="of all of them, as quotas count it")
    data_bytes: int | None = Field(description="of these, without zeros")


class StandingStatusList(BaseModel):
    standing: list[StandingStatus]


class StandingVolume(BaseModel):
    """A volume that is kept at the newest recovery point, so that a failover restores nothing."""

    site: str
    stands_for: str = Field(description="id of the volume at the site where it was captured")
    volume: str
    size_gib: int
    status: str
    holds_backup: str | None = Field(description="null: it is half written, and counts for nothing")
    read_at: Moment | None = Field(description="when all of it was last read and compared")


class StandingVolumeList(BaseModel):
    standing_volumes: list[StandingVolume]


class DatastoreShown(BaseModel):
    """Data that its storage, or its application, replicates by itself."""

    name: str
    kind: str
    storage: str
    driver: str | None
    sites: list[str]


class DatastoreList(BaseModel):
    datastores: list[DatastoreShown]


class CopyShown(BaseModel):
    """A volume of a datastore, or all data of an application, at one site."""

    datastore: str
    volume: str | None
    site: str
    well: bool = Field(description="whether it does at its site what it has to")
    health: str | None = Field(description="null: its storage does not answer")
    lag_s: float | None
    lag_bytes: int | None
    position: str | None
    reference: str | None
    recovery_point: str | None
    recovery_point_age_s: float | None
    detail: str


class CopyList(BaseModel):
    datastore_copies: list[CopyShown]


class VolumeShown(BaseModel):
    """What the storage calls a volume, and what is at backup sites under that name."""

    id: str
    name: str | None
    server: str
    size_gib: int
    site: str
    seen: str
    reference: Json
    recovery_point: str | None
    elsewhere: list[Json]
    warnings: list[str]


class OneVolume(BaseModel):
    volume: VolumeShown


@route(ROUTES, "GET", "/vnfs/{vnf}/standing", "vnf:get")
def list_standing(asked: Asked, vnf: VnfName) -> StandingStatusList:
    """Show at which recovery point the volumes of a VNF stand, at each backup site."""
    found = standing_summary(asked.deployment, asked.deployment.vnfs.get(vnf))
    return StandingStatusList(
        standing=[
            StandingStatus(
                site=site,
                state=one["state"],
                lag_s=one.get("lag_s"),
                recovery_point=one.get("recovery_point"),
                volumes=one.get("volumes"),
                not_standing=one.get("not_standing") or {},
                written_bytes=one.get("written_bytes"),
                apply_s=one.get("apply_s"),
                size_gib=one.get("size_gib"),
                data_bytes=one.get("data_bytes"),
            )
            for site, one in found.items()
        ]
    )


@route(ROUTES, "GET", "/vnfs/{vnf}/standing_volumes", "vnf:get", is_long=True)
def list_standing_volumes(asked: Asked, vnf: VnfName, site: AtSite = None) -> StandingVolumeList:
    """List the standing volumes of a VNF as a site shows them."""
    found = standing.volumes(asked.deployment, vnf, site)
    return StandingVolumeList(standing_volumes=[_standing(one) for one in found])


@route(ROUTES, "GET", "/vnfs/{vnf}/datastores", "vnf:get")
def list_datastores(asked: Asked, vnf: VnfName) -> DatastoreList:
    """List the datastores of a VNF, as its definition has them. No site is asked."""
    return DatastoreList(
        datastores=[
            DatastoreShown(
                name=one.name,
                kind=one.datastore.kind,
                storage=one.datastore.storage,
                driver=one.driver,
                sites=list(one.sites),
            )
            for one in datastores.datastores(asked.deployment, vnf)
        ]
    )


@route(ROUTES, "GET", "/vnfs/{vnf}/datastore_copies", "vnf:get", is_long=True)
def list_datastore_copies(
    asked: Asked,
    vnf: VnfName,
    datastore: Annotated[str | None, Query(pattern=NAME)] = None,
    everywhere: Annotated[
        bool, Query(description="volumes at the active site, too, and not only where they follow")
    ] = False,
) -> CopyList:
    """Show how the data of a VNF is replicated: whether it follows, and how far it is behind. Works
    with the active site dead.
    """
    found = datastores.status(asked.deployment, vnf, datastore, everywhere=everywhere)
    return CopyList(datastore_copies=[_copy(one) for one in found])


@route(ROUTES, "GET", "/vnfs/{vnf}/volumes/{volume}", "volume:get", is_long=True)
def get_volume(
    asked: Asked,
    vnf: VnfName,
    volume: Annotated[
        str, Path(max_length=255, description="its id, its name, or what the storage calls it")
    ],
) -> OneVolume:
    """Show what the storage of each site calls a volume of a VNF, by its id, its name or that."""
    seen = volumes.look_at(asked.deployment, vnf, volume)
    elsewhere = [
        {
            "site": one.site,
            "found": [{"host": c.host, "reference": dict(c.reference)} for c in one.found],
            "problems": list(one.problems),
        }
        for one in seen.elsewhere
    ]
    return OneVolume(
        volume=VolumeShown(
            id=seen.volume.id,
            name=seen.volume.name,
            server=seen.server.name,
            size_gib=seen.volume.size_gib,
            site=seen.look.topology.site,
            seen=seen.look.source,
            reference=seen.reference.model_dump(mode="json"),
            recovery_point=seen.point,
            elsewhere=elsewhere,
            warnings=seen.warnings,
        )
    )


def _standing(found: Json) -> StandingVolume:
    return StandingVolume(**{**found, "read_at": moment(found["read_at"])})


def _copy(found: datastores.CopyStatus) -> CopyShown:
    replica = found.replica
    return CopyShown(
        datastore=found.datastore,
        volume=found.volume,
        site=found.site,
        well=found.is_well,
        health=None if replica is None else str(replica.health),
        lag_s=None if replica is None else replica.lag_s,
        lag_bytes=None if replica is None else replica.lag_bytes,
        position=found.position,
        reference=found.reference,
        recovery_point=found.point,
        recovery_point_age_s=found.point_age_s,
        detail=found.detail,
    )

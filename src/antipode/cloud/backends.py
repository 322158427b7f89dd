# SPDX-License-Identifier: Apache-2.0
"""Cinder's back ends at one site: what they call volumes, and what they hold that Cinder does not
know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from antipode.cloud import answers
from antipode.cloud.answers import Shape, printable
from antipode.cloud.api import Api, ApiError, Json
from antipode.cloud.volumes import carrying
from antipode.model.marks import KEY, carries, is_copied
from antipode.model.reference import LONGEST

IDENTIFYING = frozenset(
    {
        *("name", "export", "volume", "device_path"),
        *("target_iqn", "target_iqns", "target_lun", "target_luns", "target_wwn", "target_wwns"),
        *("target_nqn", "nqn", "volume_nguid", "volume_uuid", "ns_id"),
        *("scaleIO_volname", "scaleIO_volume_id"),
    }
)
"""The parts of a connection_info that are kept: they identify the volume. All others may be secret
(auth_password, keyring, CHAP secrets, tokens), now or in a driver to come.
"""
GOING = ("unmanaging", "deleting")
"""The statuses of what Cinder forgets. It forgets a volume that it could not manage in `deleting`:
of the statuses `managing`, `error_managing` and `error_managing_deleting` its API shows `creating`,
`error` and `deleting`.
"""


@dataclass(frozen=True)
class Connection:
    """A volume as it is connected to a server, without secrets."""

    attachment_id: str
    volume_id: str
    server_id: str | None
    driver_volume_type: str | None
    """None where the connection is not there, or not made yet"""
    parts: Mapping[str, str]
    """what identifies the volume: those of `IDENTIFYING` that the driver gave"""


@dataclass(frozen=True)
class Unmanaged:
    """What a back end holds, to be made known to Cinder."""

    reference: Mapping[str, object]
    """as the listing has it, such as `{"source-name": …}`; drivers have others"""
    name: str
    """what users see"""
    metadata: Mapping[str, str]
    """with our mark of a key, by which an earlier try is found"""


@dataclass(frozen=True)
class UnmanagedVolume(Unmanaged):
    host: str
    """`HOST@BACKEND#POOL`, where it is"""
    volume_type: str = ""
    """of a type without encryption; empty: the default one"""
    availability_zone: str = ""
    bootable: bool = False


@dataclass(frozen=True)
class UnmanagedSnapshot(Unmanaged):
    volume_id: str
    """the volume whose snapshot it is, which Cinder knows"""


class Backends:
    """The calls are of administrators, save `connections`."""

    def __init__(self, api: Api) -> None:
        """`api` is that of Cinder, its microversion negotiated (`Volumes`)."""
        self._api = api

    def connections(self, volume_ids: Collection[str]) -> list[Connection]:
        """How these volumes are connected to servers: one call for up to 1000 attachments of the
        project, and no more calls once all volumes are found.

        GET /attachments/detail (3.27). Secrets in it are dropped here.
        """
        found: dict[str, Connection] = {}
        seen: set[str] = set()
        left = set(volume_ids)
        after: dict[str, Any] = {}
        while left:
            page = self._api.get("/attachments/detail", answers.VOLUME_ATTACHMENTS, **after)
            if not {a["id"] for a in page} - seen:
                break  # the listing has no links: its end is an empty page
            seen |= {a["id"] for a in page}
            found |= {a["id"]: _connection(a) for a in page if a["volume_id"] in volume_ids}
            left -= {a["volume_id"] for a in page}
            after = {"marker": page[-1]["id"]}
        return list(found.values())

    def locations(self) -> dict[str, str]:
        """Pool (`HOST@BACKEND#POOL`) -> its `location_info`, which identifies the storage; pools
        whose driver tells none are left out.

        GET /scheduler-stats/get_pools?detail=true.
        """
        return {
            pool["name"]: printable(location, LONGEST)
            for pool in self.pools()
            if isinstance(location := pool.get("capabilities", {}).get("location_info"), str)
        }

    def pools(self) -> list[Json]:
        """All pools that the scheduler knows: name (`HOST@BACKEND#POOL`), capabilities.

        GET /scheduler-stats/get_pools?detail=true.
        """
        pools: list[Json] = self._api.get(
            "/scheduler-stats/get_pools", answers.POOLS, detail="true"
        )
        return pools

    def fail_over(self, host: str, target: str) -> None:
        """Start having a back end serve its replicated volumes from a replication target; its
        service is `failing-over`, then `failed-over`. Volumes of it that are not replicated are in
        `error` then, also where there is no such target: see first which there are (`pools`).

        PUT /os-services/failover_host.

        Args:
            host: `HOST@BACKEND`.
            target: the `backend_id` of its `replication_device`; `default`: the back end itself
                again.

        Raises:
            ApiError: 400, the back end is down, or has no replication_device.
        """
        wanted = {"host": host, "backend_id": target}
        self._api.call("PUT", "/os-services/failover_host", wanted)

    def manageable_volumes(self, host: str) -> list[Json]:
        """What a back end holds: reference, size (GiB), safe_to_manage, reason_not_safe, cinder_id.
        Empty, too, where its driver cannot list.

        The driver opens everything in the pool for each page: for some thousand volumes this takes
        seconds. Do not decide by `safe_to_manage` alone: a volume that was migrated is listed as
        safe, without its cinder_id, and to manage it would take it from its owner.

        GET /manageable_volumes/detail?host=… (3.8).

        Args:
            host: `HOST@BACKEND` or `HOST@BACKEND#POOL`.
        """
        shape = answers.MANAGEABLE_VOLUMES
        return list(self._listed("/manageable_volumes/detail", shape, host))

    def manageable_snapshots(self, host: str) -> list[Json]:
        """The snapshots that a back end holds: as `manageable_volumes`, and source_reference, the
        volume. Snapshots that the storage keeps for itself are among them, such as those of RBD's
        mirroring.

        GET /manageable_snapshots/detail?host=… (3.8).
        """
        shape = answers.MANAGEABLE_SNAPSHOTS
        return list(self._listed("/manageable_snapshots/detail", shape, host))

    def _listed(self, path: str, shape: Shape, host: str) -> Iterator[Json]:
        """All pages of a listing that has no links: until one has nothing new. A shorter one may be
        as long as this Cinder lets it be (osapi_max_limit), and some drivers list everything.
        """
        begin, seen = 0, set[str]()
        while True:
            page = self._api.get(path, shape, host=host, offset=begin, sort="reference:asc")
            names = [str([row["reference"], row.get("source_reference")]) for row in page]
            if not set(names) - seen:
                return
            yield from (row for row, name in zip(page, names, strict=True) if name not in seen)
            seen |= set(names)
            begin += len(page)

    def manage_volume(self, wanted: UnmanagedVolume) -> str:
        """Start making a volume of a back end known to Cinder, and return its id; one that an
        earlier call with this key has begun is used. It is `creating` until it is available.

        The driver may rename it: RBD's does, to `volume-<its new id>`. Drivers look at nothing but
        whether it exists, so see first whose it is (`antipode.recover.counterparts`). A try that
        failed (`error`) is not used again; end it with `unmanage_volume`, as a deletion may delete
        what it has renamed already.

        POST /manageable_volumes (3.8).

        Raises:
            ApiError: 400, a volume with the id in the name is known, the type does not exist or is
                encrypted, or the host does not exist or is down.
        """
        key = wanted.metadata[KEY]
        for known in self._api.all("/volumes/detail", answers.VOLUMES, **carrying({KEY: key})):
            # A Cinder that does not know the filter lists all. One that somebody has restored from
            # a backup of ours has its metadata.
            if carries(known, key) and not is_copied(known) and _is_of_use(known["status"]):
                return str(known["id"])
        body: Json = {
            "host": wanted.host,
            "ref": dict(wanted.reference),
            "name": wanted.name,
            "bootable": wanted.bootable,
            "metadata": dict(wanted.metadata),
        }
        if wanted.volume_type:
            body["volume_type"] = wanted.volume_type
        if wanted.availability_zone:
            body["availability_zone"] = wanted.availability_zone
        made = self._api.post("/manageable_volumes", {"volume": body}, answers.MADE_VOLUME)
        return str(made["id"])

    def manage_snapshot(self, wanted: UnmanagedSnapshot) -> str:
        """Start making a snapshot of a volume known to Cinder, and return its id; one that an
        earlier call with this key has begun is used, unless it has failed. RBD's driver renames it
        to `snapshot-<its new id>`.

        POST /manageable_snapshots (3.8).

        Raises:
            ApiError: 404, Cinder does not know the volume; 413, a quota is exhausted.
        """
        key = wanted.metadata[KEY]
        listed = self._api.all("/snapshots/detail", answers.SNAPSHOTS, volume_id=wanted.volume_id)
        for known in listed:
            if carries(known, key) and _is_of_use(known["status"]):
                return str(known["id"])
        body: Json = {
            "volume_id": wanted.volume_id,
            "ref": dict(wanted.reference),
            "name": wanted.name,
            "metadata": dict(wanted.metadata),
        }
        made = self._api.post("/manageable_snapshots", {"snapshot": body}, answers.MADE_SNAPSHOT)
        return str(made["id"])

    def unmanage_volume(self, volume_id: str) -> None:
        """Start having Cinder forget a volume, which stays in the back end under the name that it
        has there; one that Cinder does not know, or forgets already, is fine.

        POST /volumes/ID/action os-unmanage.

        Raises:
            ApiError: 400, it is attached, has snapshots or is not at rest.
        """
        self._forget(f"/volumes/{volume_id}", answers.VOLUME)

    def unmanage_snapshot(self, snapshot_id: str) -> None:
        """As `unmanage_volume`, for a snapshot.

        POST /snapshots/ID/action os-unmanage.
        """
        self._forget(f"/snapshots/{snapshot_id}", answers.SNAPSHOT)

    def _forget(self, path: str, shape: Shape) -> None:
        try:
            self._api.post(f"{path}/action", {"os-unmanage": {}})
        except ApiError as error:
            if error.status == 404:
                return
            known = self._api.find(path, shape) if error.status == 400 else None
            if error.status != 400 or (known is not None and known["status"] not in GOING):
                raise


def _is_of_use(status: str) -> bool:
    """Whether what has this status was managed, or may still be."""
    return status not in GOING and not status.startswith("error")


def _connection(attachment: Json) -> Connection:
    info = attachment.get("connection_info") or {}
    kind = info.get("driver_volume_type")
    return Connection(
        attachment_id=attachment["id"],
        volume_id=attachment["volume_id"],
        server_id=attachment["instance"],
        driver_volume_type=printable(kind, LONGEST) if isinstance(kind, str) else None,
        parts={k: text for k in sorted(IDENTIFYING & info.keys()) if (text := _text(info[k]))},
    )


def _text(value: object) -> str:
    """A part of a connection as text; empty for what is none."""
    if isinstance(value, list | tuple):
        return printable(", ".join(filter(None, map(_text, value))), LONGEST)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return printable(str(value), LONGEST)

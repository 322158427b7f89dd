# SPDX-License-Identifier: Apache-2.0
"""Cinder of one site: volumes and snapshots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

from antipode.cloud import answers
from antipode.cloud.api import Api, ApiError, Json, Urgency
from antipode.cloud.watch import Watch

LEAST, MOST = (3, 47), (3, 70)
"""A volume can be created from a backup since 3.47; beyond 3.70 nothing is needed."""
SHOWS_KEYS = (3, 64)
"""since when volumes and backups name their keys"""
_SNAPSHOT_IN_USE = (3, 66)


class Volumes:
    def __init__(self, api: Api) -> None:
        api.negotiate(LEAST, MOST)
        self._api = api
        self.watch = Watch(
            api.site, "volume", partial(api.pages, "/volumes/detail", answers.VOLUMES)
        )
        self.snapshot_watch = Watch(
            api.site, "snapshot", partial(api.pages, "/snapshots/detail", answers.SNAPSHOTS)
        )

    @property
    def version(self) -> str:
        """The microversion used."""
        return "{}.{}".format(*(self._api.microversion or ()))

    @property
    def shows_keys(self) -> bool:
        """Whether volumes and backups name the keys that they are encrypted with."""
        return (self._api.microversion or LEAST) >= SHOWS_KEYS

    def warm(self) -> None:
        """Make the cheapest call there is, so that the connection, the token and the service's
        caches are ready for the next one.
        """
        self._api.get("/snapshots", limit=1)

    def volumes(self, **metadata: str) -> list[Json]:
        """All volumes of the project, with all details; with arguments only those that carry such
        metadata.
        """
        return self._api.all("/volumes/detail", answers.VOLUMES, **carrying(metadata))

    def volumes_of_all_projects(self) -> list[Json]:
        """All volumes of the site, with all details. Administrators only; other users get those of
        their project.
        """
        return self._api.all("/volumes/detail", answers.VOLUMES, all_tenants=1)

    def volume(self, volume_id: str) -> Json | None:
        return self._api.find(f"/volumes/{volume_id}", answers.VOLUME)

    def users(self, volume_id: str, timeout_s: float) -> set[str]:
        """The ids of the servers that a volume is attached to; asked while members are frozen."""
        volume = self._api.get(
            f"/volumes/{volume_id}", answers.VOLUME, timeout_s=timeout_s, urgency=Urgency.WINDOW
        )
        return users_of(volume)

    def create_volume(self, volume: Json) -> str:
        """Start creating a volume, arguments as for `POST /volumes`, and return its id."""
        return str(self._api.post("/volumes", {"volume": volume}, answers.MADE_VOLUME)["id"])

    def update_volume(
        self, volume_id: str, name: str, description: str, metadata: Mapping[str, str]
    ) -> None:
        """Give a volume this name and description and exactly this metadata, in one call."""
        wanted = {"name": name, "description": description, "metadata": dict(metadata)}
        self._api.call("PUT", f"/volumes/{volume_id}", {"volume": wanted})

    def merge_metadata(self, volume_id: str, metadata: Mapping[str, str]) -> None:
        """Set these keys of a volume's metadata in one call, and leave the others (`POST
        /volumes/ID/metadata`).
        """
        self._api.post(f"/volumes/{volume_id}/metadata", {"metadata": dict(metadata)})

    def set_bootable(self, volume_id: str) -> None:
        self._api.post(f"/volumes/{volume_id}/action", {"os-set_bootable": {"bootable": True}})

    def set_image_metadata(self, volume_id: str, metadata: Mapping[str, str]) -> None:
        self._api.post(
            f"/volumes/{volume_id}/action", {"os-set_image_metadata": {"metadata": dict(metadata)}}
        )

    def delete_volume(self, volume_id: str) -> None:
        self._api.delete(f"/volumes/{volume_id}")

    def types(self) -> list[Json]:
        return self._api.all("/types", answers.VOLUME_TYPES)

    def type_encryption(self, type_id: str) -> Json | None:
        """How volumes of a type are encrypted (`GET /types/ID/encryption`); None: they are not.
        Administrators only.
        """
        path = f"/types/{type_id}/encryption"
        found = self._api.get(path)
        if not found:
            return None
        checked: Json = answers.TYPE_ENCRYPTION.check(found, self._api.site, f"GET {path}")
        return checked

    def services(self, binary: str) -> list[Json]:
        """Cinder's services of this name on all hosts: host, state (up, down), status (enabled,
        disabled). Administrators only.
        """
        services: list[Json] = self._api.get("/os-services", answers.SERVICES, binary=binary)
        return services

    def availability_zones(self) -> set[str]:
        """The names of the zones that are available."""
        zones = self._api.get("/os-availability-zone", answers.ZONES)
        return {z["zoneName"] for z in zones if z["zoneState"]["available"]}

    def snapshots(self) -> list[Json]:
        """All snapshots of the project, with all details."""
        return self._api.all("/snapshots/detail", answers.SNAPSHOTS)

    def create_snapshot(
        self, volume_id: str, name: str, metadata: Mapping[str, str], timeout_s: float
    ) -> str:
        """Start a snapshot of a volume, in use or not, and return its id."""
        snapshot: Json = {"volume_id": volume_id, "name": name, "metadata": dict(metadata)}
        if self._api.microversion is None or self._api.microversion < _SNAPSHOT_IN_USE:
            snapshot["force"] = (
                True  # an older Cinder snapshots an attached volume only so; a newer one ignores it
            )
        made = self._api.post(
            "/snapshots",
            {"snapshot": snapshot},
            answers.MADE_SNAPSHOT,
            timeout_s=timeout_s,
            urgency=Urgency.WINDOW,
        )
        return str(made["id"])

    def merge_snapshot_metadata(self, snapshot_id: str, metadata: Mapping[str, str]) -> None:
        """Set these keys of a snapshot's metadata, and leave the others (`POST
        /snapshots/ID/metadata`).
        """
        self._api.post(f"/snapshots/{snapshot_id}/metadata", {"metadata": dict(metadata)})

    def delete_snapshot(self, snapshot_id: str) -> None:
        self._api.delete(f"/snapshots/{snapshot_id}")

    def revert_to_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Start writing a snapshot over its volume: what was written since is lost (revert, 3.40).

        The volume is `reverting` until it is available again. A call for what is under way is fine;
        when it is over, nothing but the volume's bytes tells of it.

        Raises:
            ApiError: 400, it is not the newest snapshot of the volume that Cinder knows, or the
                volume has grown since; 409, the volume or the snapshot is not available.
        """
        wanted = {"revert": {"snapshot_id": snapshot_id}}
        try:
            self._api.post(f"/volumes/{volume_id}/action", wanted)
        except ApiError as error:
            found = self.volume(volume_id) if error.status == 409 else None
            if found is None or found["status"] != "reverting":
                raise

    def quota(self, project_id: str) -> Json:
        """The quotas of the project, each {limit, in_use, reserved}; those of a volume type are
        named like `gigabytes_TYPE`.
        """
        path = f"/os-quota-sets/{project_id}"
        quota: Json = self._api.get(path, answers.QUOTA_SET, usage="true")
        return quota


def carrying(metadata: Mapping[str, str]) -> dict[str, str]:
    """The parameter of a listing that leaves only volumes with such metadata; none for all."""
    return {"metadata": json.dumps(dict(metadata)).replace('"', "'")} if metadata else {}


def users_of(volume: Json) -> set[str]:
    """The ids of the servers that a volume is attached to, as Cinder lists them."""
    return {str(a["server_id"]) for a in volume.get("attachments") or () if a.get("server_id")}

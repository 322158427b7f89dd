# SPDX-License-Identifier: Apache-2.0
"""Cinder's generic volume groups at one site, and their snapshots."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from antipode.cloud import answers
from antipode.cloud.api import Api, ApiError, Json, Urgency
from antipode.cloud.watch import Watch


class VolumeGroups:
    """The calls since 3.14. Group types are an administrator's."""

    def __init__(self, api: Api) -> None:
        """`api` is that of Cinder, its microversion negotiated (`Volumes`)."""
        self._api = api
        self.watch = Watch(
            api.site, "group", partial(api.pages, "/groups/detail", answers.VOLUME_GROUPS)
        )
        self.snapshot_watch = Watch(
            api.site,
            "group snapshot",
            partial(api.pages, "/group_snapshots/detail", answers.GROUP_SNAPSHOTS),
            # `DELETE` sets it before it answers; a driver that fails leaves `error`.
            deleted_in=("deleting",),
        )

    def types(self) -> list[Json]:
        """All group types; with their `group_specs` for administrators."""
        return self._api.all("/group_types", answers.GROUP_TYPES)

    def create_type(self, name: str, specs: Mapping[str, str]) -> str:
        """Make a group type that all projects see, and return its id."""
        wanted = {"name": name, "group_specs": dict(specs), "is_public": True}
        made = self._api.post("/group_types", {"group_type": wanted}, answers.MADE_GROUP_TYPE)
        return str(made["id"])

    def groups(self) -> list[Json]:
        """All groups of the project."""
        return self._api.all("/groups/detail", answers.VOLUME_GROUPS)

    def create(self, name: str, group_type: str, volume_types: Sequence[str], zone: str) -> str:
        """Start creating an empty group for volumes of these types, and return its id.

        Args:
            group_type: its id.
            volume_types: their ids or names.
            zone: of Cinder; empty: the default one.
        """
        wanted: Json = {"name": name, "group_type": group_type, "volume_types": list(volume_types)}
        if zone:
            wanted["availability_zone"] = zone
        made = self._api.post("/groups", {"group": wanted}, answers.MADE_GROUP)
        return str(made["id"])

    def delete(self, group_id: str) -> None:
        """Start deleting a group without volumes; one that is gone is fine.

        Raises:
            ApiError: 400, it has volumes or snapshots.
        """
        wanted = {"delete": {"delete-volumes": False}}
        try:
            self._api.post(f"/groups/{group_id}/action", wanted)
        except ApiError as error:
            if error.status != 404:
                raise

    def add_volumes(self, group_id: str, volumes: Collection[str]) -> None:
        """Start putting volumes into a group: it is `updating` until they are in it.

        Raises:
            ApiError: 400, one is in another group, of a type that the group does not take, on
                another host, or in a state that does not allow it.
        """
        wanted = {"add_volumes": ",".join(sorted(volumes))}
        self._api.call("PUT", f"/groups/{group_id}", {"group": wanted})

    def remove_volumes(self, group_id: str, volumes: Collection[str]) -> None:
        """Start taking volumes out of a group, as `add_volumes`: Cinder deletes none that is in
        one.
        """
        wanted = {"remove_volumes": ",".join(sorted(volumes))}
        self._api.call("PUT", f"/groups/{group_id}", {"group": wanted})

    def enable_replication(self, group_id: str) -> None:
        """Start having the volumes of a group replicated: its `replication_status` is `enabling`,
        then `enabled`.

        POST /groups/ID/action enable_replication (3.38).

        Raises:
            ApiError: 400, its type or one of its volume types is not for replication, or a volume
                is in a state that does not allow it.
        """
        self._api.post(f"/groups/{group_id}/action", {"enable_replication": {}})

    def disable_replication(self, group_id: str) -> None:
        """As `enable_replication`, to end it.

        POST /groups/ID/action disable_replication (3.38).
        """
        self._api.post(f"/groups/{group_id}/action", {"disable_replication": {}})

    def replication_targets(self, group_id: str) -> list[str]:
        """The replication targets of the back end of a group: their `backend_id`.

        POST /groups/ID/action list_replication_targets (3.38).

        Raises:
            ApiError: 400, the group is of a type without replication.
        """
        wanted: Json = {"list_replication_targets": {}}
        found = self._api.post(f"/groups/{group_id}/action", wanted, answers.REPLICATION_TARGETS)
        return [target["backend_id"] for target in found]

    def fail_over(self, group_id: str, target: str) -> None:
        """Start having a group served by a replication target, volumes that are attached included:
        its `replication_status` is `failing-over`, then `failed-over`.

        POST /groups/ID/action failover_replication (3.38).

        Args:
            target: its `backend_id`; `default`: the back end itself again.

        Raises:
            ApiError: 400, the group or a volume of it is not replicated.
        """
        wanted = {"secondary_backend_id": target, "allow_attached_volume": True}
        self._api.post(f"/groups/{group_id}/action", {"failover_replication": wanted})

    def create_snapshot(self, group_id: str, name: str, description: str, timeout_s: float) -> str:
        """Start a snapshot of all volumes of a group at one moment, and return its id. Those of the
        volumes get the same name and description, and no metadata.
        """
        wanted = {"group_id": group_id, "name": name, "description": description}
        made = self._api.post(
            "/group_snapshots",
            {"group_snapshot": wanted},
            answers.MADE_GROUP_SNAPSHOT,
            timeout_s=timeout_s,
            urgency=Urgency.WINDOW,
        )
        return str(made["id"])

    def parts(self, snapshot_id: str, timeout_s: float, number: int = 0) -> dict[str, str]:
        """The snapshots of volumes that a group snapshot consists of, volume -> snapshot: they are
        known as soon as it is begun.

        Args:
            number: how many there are, where that is known: no page is read after the one that has
                the last of them. They are the newest of all, and so in the first pages.
        """
        found: dict[str, str] = {}
        for page in self._api.pages("/snapshots/detail", answers.SNAPSHOTS, timeout_s=timeout_s):
            of_it = (s for s in page if s.get("group_snapshot_id") == snapshot_id)
            found |= {s["volume_id"]: s["id"] for s in of_it}
            if number and len(found) >= number:
                break
        return found

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Start deleting a group snapshot, and all snapshots that it consists of; one that is gone
        is fine.

        Raises:
            ApiError: 400, it is neither `available` nor `error`.
        """
        self._api.delete(f"/group_snapshots/{snapshot_id}")

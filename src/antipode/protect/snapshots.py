# SPDX-License-Identifier: Apache-2.0
"""Snapshots at the active site: those that are being created, and the removal of temporary ones,
only of those that are known to be of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import AntipodeError, ResourceFailed
from antipode.model.marks import KEY, TRACKED, key_said, made_by, maker_in
from antipode.model.steps import Step, Steps, Timeline
from antipode.model.topology import Server, Volume

TIMEOUT_S = 600.0
SNAPSHOT_TIMEOUT_S = 60.0
"""A snapshot takes seconds. One that is not made by then is left to the next run."""
_USED = ("backing-up", "restoring", "unmanaging")
"""The statuses of a snapshot that is read or is being given away."""


def being_created(site: Site, servers: Sequence[Server]) -> Iterator[tuple[Server, Volume, Json]]:
    """The snapshots of volumes of these servers that are being created, each with its server and
    volume. Nova may be making an image of the server, and have frozen it for that.
    """
    of_volume = {v.id: (server, v) for server in servers for v in server.volumes}
    for snapshot in site.volumes.snapshots():
        if snapshot["status"] == "creating" and snapshot["volume_id"] in of_volume:
            yield *of_volume[snapshot["volume_id"]], snapshot


def remove_snapshots(site: Site, key: str, timeline: Timeline) -> None:
    """Delete the snapshots that carry this key and wait until they are gone.

    Raises:
        ResourceFailed: one cannot be deleted, or is not made yet after SNAPSHOT_TIMEOUT_S.
    """
    remove_all(site, lambda snapshot: _key_of(snapshot) == key, timeline)


def remove_snapshots_of(site: Site, runs: Collection[str], timeline: Timeline) -> None:
    """Delete the snapshots that any of these runs made and wait until they are gone.

    Raises:
        ResourceFailed: as for `remove_snapshots`.
    """
    remove_all(site, lambda snapshot: _maker_of(snapshot) in runs, timeline)


def _key_of(snapshot: Json) -> str | None:
    """The key of a snapshot; of one of a group as its description has it."""
    if _group_of(snapshot):
        return key_said(snapshot.get("description"))
    metadata = snapshot.get("metadata") or {}
    return None if TRACKED in metadata else metadata.get(KEY)


def _maker_of(snapshot: Json) -> str | None:
    if _group_of(snapshot):
        return maker_in(snapshot.get("description"))
    return None if TRACKED in (snapshot.get("metadata") or {}) else made_by(snapshot)


def _group_of(snapshot: Json) -> str | None:
    """The group snapshot that it is a part of, with which alone it can be deleted."""
    found = snapshot.get("group_snapshot_id")
    return str(found) if found else None


def remove_all(site: Site, unwanted: Callable[[Json], bool], timeline: Timeline) -> int:
    """Delete the snapshots of which this is true and wait until they are gone; how many there were.

    Raises:
        ResourceFailed: as for `remove_snapshots`.
        ApiError: Cinder refuses to delete one; the others are gone.
    """
    found = [s for s in site.volumes.snapshots() if unwanted(s)]
    left = {s["id"]: s["status"] for s in found if not _group_of(s)}
    groups = {s["id"]: group for s in found if (group := _group_of(s))}
    if not found:
        return 0
    with timeline.step(Steps.REMOVE_SNAPSHOTS, site.name) as step:
        making = [s for s, status in left.items() if status == "creating"]
        made = [s for s, status in left.items() if status not in ("creating", "deleting")]
        refused = _refusals(site, made)
        of_groups = _refusals_of_groups(site, set(groups.values()), step)
        if making:
            # Cinder refuses to delete a snapshot that is being made, and never deletes one that a
            # lost request left so.
            site.volumes.snapshot_watch.wait_for(
                making,
                wanted=("available", "error"),
                timeout_s=SNAPSHOT_TIMEOUT_S,
                tell=step.waits_for,
            )
            refused |= _refusals(site, making)
        if going_groups := set(groups.values()) - of_groups.keys():
            # one whose deletion fails is in status error again, which its parts may never be
            site.groups.snapshot_watch.wait_gone(
                going_groups, timeout_s=TIMEOUT_S, tell=step.waits_for
            )
        going = [s for s in left if s not in refused]
        going += [s for s, group in groups.items() if group not in of_groups]
        site.volumes.snapshot_watch.wait_gone(going, timeout_s=TIMEOUT_S, tell=step.waits_for)
        step.result(snapshots=len(going))
        for error in [*refused.values(), *of_groups.values()]:
            raise error
    return len(found)


def _refusals(site: Site, ids: Sequence[str]) -> dict[str, AntipodeError]:
    """Have Cinder delete snapshots; those that it refuses to, such as one on which a volume
    depends.
    """
    refused: dict[str, AntipodeError] = {}
    for snapshot in ids:
        try:
            site.volumes.delete_snapshot(snapshot)
        except ApiError as error:
            refused[snapshot] = error
    return refused


def _refusals_of_groups(
    site: Site, groups: Collection[str], step: Step
) -> dict[str, AntipodeError]:
    """Have Cinder delete group snapshots with all their parts; those that cannot be deleted now."""
    refused: dict[str, AntipodeError] = {}
    for group in sorted(groups):
        try:
            # its parts are deleted with it and never alone, in whatever state each of them is
            settled = site.groups.snapshot_watch.wait_for(
                [group],
                wanted=("available", "error", "deleting"),
                timeout_s=SNAPSHOT_TIMEOUT_S,
                tell=step.waits_for,
            )
            if settled[group]["status"] != "deleting":
                _see_that_none_is_used(site, group)
                site.groups.delete_snapshot(group)
        except (ApiError, ResourceFailed) as error:
            refused[group] = error
    return refused


def _see_that_none_is_used(site: Site, group: str) -> None:
    """See that no part of a group snapshot is being backed up. Cinder looks for that where a
    snapshot is deleted alone, and not where it is deleted with its group's.

    Raises:
        ResourceFailed: one is.
    """
    for part in site.volumes.snapshots():
        if part.get("group_snapshot_id") == group and part["status"] in _USED:
            raise ResourceFailed(
                f"{site.name}: snapshot {part['id']} of group snapshot {group} is"
                f" {part['status']}, so that the group snapshot cannot be deleted now"
            )

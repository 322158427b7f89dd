# SPDX-License-Identifier: Apache-2.0
"""Snapshots at the active site: those that are being created, and the removal of temporary ones,
only of those that are known to be of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.model.marks import KEY, key_said, made_by, maker_in
from antipode.model.steps import Steps, Timeline
from antipode.model.topology import Server, Volume

TIMEOUT_S = 600.0
SNAPSHOT_TIMEOUT_S = 60.0
"""A snapshot takes seconds. One that is not made by then is left to the next run."""


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
    return metadata.get(KEY)


def _maker_of(snapshot: Json) -> str | None:
    if _group_of(snapshot):
        return maker_in(snapshot.get("description"))
    return made_by(snapshot)


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
    left = {s["id"]: s["status"] for s in found}
    groups = {s["id"]: group for s in found if (group := _group_of(s))}
    if not left:
        return 0
    with timeline.step(Steps.REMOVE_SNAPSHOTS, site.name) as step:
        making = [s for s, status in left.items() if status == "creating"]
        made = [s for s, status in left.items() if status not in ("creating", "deleting")]
        refused = _refusals(site, made, groups)
        if making:
            # Cinder refuses to delete a snapshot that is being made, and never deletes one that a
            # lost request left so.
            site.volumes.snapshot_watch.wait_for(
                making,
                wanted=("available", "error"),
                timeout_s=SNAPSHOT_TIMEOUT_S,
                tell=step.waits_for,
            )
            refused |= _refusals(site, making, groups)
        going = [snapshot for snapshot in left if snapshot not in refused]
        site.volumes.snapshot_watch.wait_gone(going, timeout_s=TIMEOUT_S, tell=step.waits_for)
        step.result(snapshots=len(going))
        for error in refused.values():
            raise error
    return len(left)


def _refusals(site: Site, ids: Sequence[str], groups: Mapping[str, str]) -> dict[str, ApiError]:
    """Have Cinder delete snapshots; those that it refuses to, such as one on which a volume
    depends.

    Args:
        groups: snapshot -> the group snapshot that it is a part of.
    """
    refused: dict[str, ApiError] = {}
    for group in sorted({groups[snapshot] for snapshot in ids if snapshot in groups}):
        try:
            # it is made a moment after its parts
            site.groups.snapshot_watch.wait_for(
                [group], wanted=("available", "error"), timeout_s=SNAPSHOT_TIMEOUT_S
            )
            site.groups.delete_snapshot(group)
        except ApiError as error:
            refused |= {s: error for s in ids if groups.get(s) == group}
    for snapshot in (s for s in ids if s not in groups):
        try:
            site.volumes.delete_snapshot(snapshot)
        except ApiError as error:
            refused[snapshot] = error
    return refused

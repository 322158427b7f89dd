"""Removes what runs have left behind at the primary site, and only what carries their marks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.model.marks import carries, made_by
from antipode.model.steps import Timeline

TIMEOUT_S = 600.0
SNAPSHOT_TIMEOUT_S = 60.0
"""A snapshot takes seconds; one that is not made by then is left to the next run, so that a failed
run ends.
"""


def remove_snapshots(site: Site, key: str, timeline: Timeline) -> None:
    """Delete the snapshots that carry this key and wait until they are gone.

    Raises:
        ResourceFailed: one cannot be deleted, or is not made yet after SNAPSHOT_TIMEOUT_S.
    """
    _remove_snapshots(site, lambda snapshot: carries(snapshot, key), timeline)


def remove_backups(site: Site, key: str, timeline: Timeline) -> None:
    """Delete the backups that carry this key: those of a run that ended without a recovery point.

    Raises:
        ResourceFailed: one cannot be deleted.
        ApiError: Cinder refuses, for example because an increment rests on one.
    """
    _remove_backups(site, lambda backup: carries(backup, key), timeline)


def remove_left_by(
    site: Site,
    runs: Collection[str],
    needed_backups: Callable[[], Collection[str]],
    timeline: Timeline,
) -> None:
    """Delete the snapshots and backups of runs that ended without cleaning up after themselves, for
    example because they were killed.

    Args:
        runs: runs that are over and made no recovery point.
        needed_backups: asked, once, if the site has backups of these runs: the ids of those that
            are kept all the same, because a recovery point names them.

    Raises:
        ResourceFailed, ApiError: as above.
    """

    needed = cache(needed_backups)

    def unwanted(backup: Json) -> bool:
        return made_by(backup) in runs and backup["id"] not in needed()

    _remove_backups(
        site, unwanted, timeline
    )  # first, as Cinder deletes no snapshot that is being backed up
    _remove_snapshots(site, lambda snapshot: made_by(snapshot) in runs, timeline)
    _remove_backups(site, unwanted, timeline)  # begun late, until the snapshot was gone


def _remove_snapshots(site: Site, unwanted: Callable[[Json], bool], timeline: Timeline) -> None:
    left = {s["id"]: s["status"] for s in site.volumes.snapshots() if unwanted(s)}
    if not left:
        return
    with timeline.step("1.5", "remove temporary snapshots", site.name) as step:
        making = [s for s, status in left.items() if status == "creating"]
        for snapshot, status in left.items():
            if status not in ("creating", "deleting"):
                site.volumes.delete_snapshot(snapshot)
        if making:
            # Cinder refuses to delete what is still being made; and what a lost request has left
            # so, it never deletes.
            site.volumes.snapshot_watch.wait_for(
                making,
                wanted=("available", "error"),
                timeout_s=SNAPSHOT_TIMEOUT_S,
                tell=step.waits_for,
            )
            for snapshot in making:
                site.volumes.delete_snapshot(snapshot)
        site.volumes.snapshot_watch.wait_gone(list(left), timeout_s=TIMEOUT_S, tell=step.waits_for)
        step.result(snapshots=len(left))


def _remove_backups(site: Site, unwanted: Callable[[Json], bool], timeline: Timeline) -> None:
    left = {b["id"]: b["status"] for b in site.backups.backups() if unwanted(b)}
    if not left:
        return
    with timeline.step("1.6", "remove unfinished backups", site.name) as step:
        if making := [b for b, status in left.items() if status == "creating"]:
            site.backups.watch.wait_for(
                making,
                wanted=("available", "error", "deleting"),
                timeout_s=TIMEOUT_S,
                tell=step.waits_for,
            )
        for backup, status in left.items():
            if status != "deleting":
                site.backups.delete_backup(backup)
        site.backups.watch.wait_gone(list(left), timeout_s=TIMEOUT_S, tell=step.waits_for)
        step.result(backups=len(left))

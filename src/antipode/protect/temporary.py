"""Removes what a run has left behind at the primary site, and only what carries the run's key."""

from __future__ import annotations

from antipode.cloud.site import Site
from antipode.model.marks import carries
from antipode.model.timeline import Timeline

TIMEOUT_S = 600.0


def remove_snapshots(site: Site, key: str, timeline: Timeline) -> None:
    """Delete the snapshots that carry this key and wait until they are gone.

    Raises:
        ResourceFailed: one cannot be deleted.
    """
    left = {s["id"]: s["status"] for s in site.volumes.snapshots() if carries(s, key)}
    if not left:
        return
    with timeline.step("1.5", "remove temporary snapshots", site.name) as step:
        if making := [s for s, status in left.items() if status == "creating"]:
            # Cinder refuses to delete what is still being made.
            site.volumes.snapshot_watch.wait_for(making, wanted=("available", "error", "deleting"), timeout_s=TIMEOUT_S)
        for snapshot, status in left.items():
            if status != "deleting":
                site.volumes.delete_snapshot(snapshot)
        site.volumes.snapshot_watch.wait_gone(list(left), timeout_s=TIMEOUT_S)
        step.result(snapshots=len(left))


def remove_backups(site: Site, key: str, timeline: Timeline) -> None:
    """Delete the backups that carry this key: those of a run that ended without a recovery point.

    Raises:
        ResourceFailed: one cannot be deleted.
        ApiError: Cinder refuses, for example because an increment rests on one.
    """
    left = {b["id"]: b["status"] for b in site.backups.backups() if carries(b, key)}
    if not left:
        return
    with timeline.step("1.6", "remove unfinished backups", site.name) as step:
        if making := [b for b, status in left.items() if status == "creating"]:
            site.backups.watch.wait_for(making, wanted=("available", "error", "deleting"), timeout_s=TIMEOUT_S)
        for backup, status in left.items():
            if status != "deleting":
                site.backups.delete_backup(backup)
        site.backups.watch.wait_gone(list(left), timeout_s=TIMEOUT_S)
        step.result(backups=len(left))

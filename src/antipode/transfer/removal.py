# SPDX-License-Identifier: Apache-2.0
"""Removes backups that no recovery point needs from one site, the newest of each chain first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.marks import made_by
from antipode.model.steps import Step

LOG = logging.getLogger(__name__)
TIMEOUT_S = 3600.0
"""For the deletions of one depth of the chains: Cinder removes the objects one by one."""
MOST = 200
"""Backups that are removed from a site at once, so that a run has an end."""
NAMED = "antipode "
"""What the names of our backups begin with, which an imported record keeps."""


class Doomed(NamedTuple):
    """What is known of a backup that is to be removed; None where nothing is."""

    volume_id: str | None = None
    parent_id: str | None = None


@dataclass
class Removed:
    """What became of backups at one site."""

    gone: dict[str, int] = field(default_factory=dict)
    """those that were removed, and the GiB that each counted"""
    left: dict[str, str] = field(default_factory=dict)
    """those that are still there, and why"""


def remove(
    site: Site,
    doomed: Mapping[str, Doomed],
    strays: Collection[str],
    step: Step,
    why_needed: Callable[[Json], str | None] = lambda _: None,
) -> Removed:
    """Remove backups, and wait until they are gone.

    Cinder deletes no backup on which an increment rests, so a parent is deleted when its increments
    are gone (`DELETE /backups/{id}`). A backup stays that antipode did not make, that is of another
    volume, that is in use, or that Cinder refuses to delete; so does all that it rests on.

    Args:
        doomed: backups that are to go, by id; those that the site does not know are gone.
        strays: backups of which only the id is known, and that antipode made them.
        why_needed: why a backup must stay after all; None if it need not.

    Raises:
        AntipodeError: the site does not answer, or the run must stop.
    """
    removed, listed = Removed(), {b["id"]: b for b in site.backups.backups()}
    known = {**dict.fromkeys(strays, Doomed()), **doomed}
    waiting = {i for i in known if i in listed}
    for backup_id in sorted(waiting):
        backup = listed[backup_id]
        if (why := _why_not(backup, known[backup_id]) or why_needed(backup)) is not None:
            removed.left[backup_id] = why
            waiting.discard(backup_id)
    refused: dict[str, str] = {}
    progress = True
    while waiting and progress and len(removed.gone) < MOST:
        before = len(removed.gone)
        there = {*waiting, *removed.left, *refused}
        parents = {known[i].parent_id for i in there}
        wave = [i for i in sorted(waiting) if i not in parents][: MOST - before]
        refused |= _remove(site, {i: listed[i] for i in wave}, removed, step)
        waiting -= set(wave)
        progress = bool(wave)
        if not waiting and len(removed.gone) > before:
            # Increments on them, unknown to us, may be gone by now.
            waiting, refused = set(refused), {}
    removed.left |= refused
    for backup_id in waiting:
        removed.left[backup_id] = "another backup rests on it, or the next expiry removes it"
    for backup_id, why in removed.left.items():
        LOG.warning("%s: backup %s stays: %s", site.name, backup_id, why)
    return removed


def _why_not(backup: Json, known: Doomed) -> str | None:
    """Why a backup must not be deleted; None if it may be."""
    if known.volume_id not in (None, backup["volume_id"]):
        return f"it is of another volume: {backup['volume_id']}"
    if made_by(backup) is None and not str(backup.get("name") or "").startswith(NAMED):
        return "antipode did not make it: it carries no mark"
    if backup["status"] not in ("available", "error", "deleting"):
        return f"it is {backup['status']}"
    return None


def _remove(site: Site, wave: Mapping[str, Json], removed: Removed, step: Step) -> dict[str, str]:
    """Delete backups that do not rest on each other; those that could not be deleted, and why."""
    refused: dict[str, str] = {}
    for backup_id, backup in wave.items():
        try:
            if backup["status"] != "deleting":
                site.backups.delete_backup(backup_id)
        except ApiError as error:
            if error.status >= 500:
                raise
            if error.status != 404:
                refused[backup_id] = error.reason
    under_way = [i for i in wave if i not in refused]
    while under_way:
        try:
            site.backups.watch.wait_gone(under_way, timeout_s=TIMEOUT_S, tell=step.waits_for)
            break
        except ResourceFailed:
            failed = _failed(site, under_way)
            if not failed:
                raise
            refused |= failed
            under_way = [i for i in under_way if i not in failed]
    removed.gone |= {i: wave[i]["size"] for i in under_way}
    return refused


def _failed(site: Site, ids: Collection[str]) -> dict[str, str]:
    """Those of these backups that Cinder has tried to delete and could not, and why."""
    return {
        b["id"]: f"it is {b['status']}: {b.get('fail_reason') or 'see the log of cinder-backup'}"
        for b in site.backups.backups()
        if b["id"] in ids and b["status"] != "deleting"
    }

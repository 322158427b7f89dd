# SPDX-License-Identifier: Apache-2.0
"""The snapshots of the newest recovery point that stay at the active site, as the next change
stream begins at them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from antipode.cloud.api import Json
from antipode.model.marks import TRACKED, made_by
from antipode.model.steps import Timeline
from antipode.protect.snapshots import remove_all

if TYPE_CHECKING:
    from antipode.cloud.site import Site


def keep(site: Site, vnf: str, snapshot: str) -> None:
    """Have a snapshot outlive the run that has made it (`POST /snapshots/ID/metadata`)."""
    site.volumes.merge_snapshot_metadata(snapshot, {TRACKED: vnf})


def drop_older(site: Site, vnf: str, needed: Collection[str], timeline: Timeline) -> None:
    """Remove the snapshots in whose place a recovery point that is committed has others.

    Args:
        needed: the ids of all that this point rests on.
    """
    there = [s for s in site.volumes.snapshots() if _vnf_of(s["metadata"]) == vnf]
    renewed = {s["volume_id"] for s in there if s["id"] in needed}
    drop(
        site,
        vnf,
        {s["id"] for s in there if s["volume_id"] in renewed and s["id"] not in needed},
        timeline,
    )


def drop_of_run(site: Site, run: str, timeline: Timeline) -> None:
    """Remove those of a run that makes no recovery point."""
    remove_all(site, lambda s: _vnf_of(s["metadata"]) is not None and made_by(s) == run, timeline)


def drop(site: Site, vnf: str, snapshots: Collection[str], timeline: Timeline) -> int:
    """Remove those of these snapshots that stay for a VNF; how many there were."""
    if not snapshots:
        return 0
    return remove_all(
        site, lambda s: s["id"] in snapshots and _vnf_of(s["metadata"]) == vnf, timeline
    )


def drop_of_volumes(site: Site, volumes: Collection[str], timeline: Timeline) -> None:
    """Remove those of volumes that are to be deleted."""
    remove_all(site, lambda s: s["volume_id"] in volumes and stays(s), timeline)


def stays(snapshot: Json) -> bool:
    """Whether a snapshot outlives the run that has made it."""
    return _vnf_of(snapshot.get("metadata")) is not None


def _vnf_of(metadata: Mapping[str, str] | None) -> str | None:
    """The VNF that a snapshot stays for; None: it does not stay."""
    return (metadata or {}).get(TRACKED)

"""Restores the volumes of a server from their backups, all at once (step 1.7.1)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.marks import marks, words
from antipode.model.plan import RecoveryPlan, VolumePlan
from antipode.model.point import Manifest
from antipode.model.steps import Timeline
from antipode.recover.existing import Found
from antipode.recover.plan import resource_key

TIMEOUT_S = 24 * 3600.0


def restore_volumes(
    site: Site,
    found: Found,
    manifest: Manifest,
    plan: RecoveryPlan,
    server: str,
    run: str,
    slots: AbstractContextManager[Any],
    timeline: Timeline,
) -> dict[str, str]:
    """Create the volumes of a server from their backups and wait until they are available.

    Args:
        found: what is at the site already.
        run: the run that makes them; kept in their metadata.
        slots: entered for each volume while it is being restored, by several threads at once.

    Returns:
        volume id at the primary -> id of the restored volume.

    Raises:
        ResourceFailed: a restore failed.
    """
    volumes = plan.server(server).volumes

    def restore(volume: VolumePlan) -> str:
        key = resource_key(manifest, volume.source_id)
        with (
            slots,
            timeline.step("1.7.1", "restore volume", volume.name or volume.source_id) as step,
        ):
            ours = found.volumes(key)
            for failed in (v for v in ours if v["status"].startswith("error")):
                site.volumes.delete_volume(failed["id"])
            # Of two, as a request came through late, every try takes the same: the one in use, else
            # the older.
            usable = (v for v in ours if not v["status"].startswith(("error", "deleting")))
            existing = min(
                usable,
                key=lambda v: (v["status"] != "in-use", v["created_at"], v["id"]),
                default=None,
            )
            volume_id = str(existing["id"]) if existing else _create(site, volume, key, run)
            wanted = ("available", "in-use")
            restored = site.volumes.watch.wait_for(
                [volume_id], wanted=wanted, timeout_s=TIMEOUT_S, tell=step.waits_for
            )[volume_id]
            _put_right(site, volume, restored, marks(run, key))
            step.result(
                volume_id=volume_id,
                backup_id=volume.backup_id,
                volume_bytes=volume.size_gib << 30,
                found=existing is not None,
            )
            return volume_id

    with ThreadPoolExecutor(max(len(volumes), 1), f"restore-{server}") as pool:
        return dict(zip((v.source_id for v in volumes), pool.map(restore, volumes), strict=True))


def _create(site: Site, volume: VolumePlan, key: str, run: str) -> str:
    # Created together with its restore, so that cinder-backup knows it to be new and skips its
    # zeros.
    wanted: Json = {
        "size": volume.size_gib,
        "backup_id": volume.backup_id,
        "name": volume.name
        # Cinder would put the backup's description over ours if there were no name
        or volume.source_id,
        "description": words(
            run, key
        ),  # a restore replaces the metadata, but leaves the description
        "metadata": marks(run, key),
    }
    if volume.volume_type:
        wanted["volume_type"] = volume.volume_type
    if volume.availability_zone:
        wanted["availability_zone"] = volume.availability_zone
    try:
        return site.volumes.create_volume(wanted)
    except ApiError as error:
        label = volume.name or volume.source_id
        raise ResourceFailed(
            f"{site.name}: volume {label} could not be created from backup {volume.backup_id}: "
            f"{error.reason}"
        ) from error


def _put_right(site: Site, volume: VolumePlan, restored: Json, ours: dict[str, str]) -> None:
    """What a restore does not bring: our marks, the description; and what it should bring: the root
    volume's bootable flag and image.
    """
    site.volumes.update_volume(restored["id"], volume.description, {**volume.metadata, **ours})
    if volume.is_root and str(restored["bootable"]).lower() != "true":
        site.volumes.set_bootable(restored["id"])
    present = restored.get("volume_image_metadata", {})
    if missing := {k: v for k, v in volume.image_metadata.items() if present.get(k) != v}:
        site.volumes.set_image_metadata(restored["id"], missing)

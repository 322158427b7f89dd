# SPDX-License-Identifier: Apache-2.0
"""The last step for a volume that has its bytes: everything else that the captured one had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from antipode.cloud.api import Json
from antipode.model.marks import VOLUME
from antipode.model.plan import VolumePlan

if TYPE_CHECKING:
    from antipode.cloud.site import Site


def put_right(site: Site, volume: VolumePlan, made: Json, ours: Mapping[str, str]) -> None:
    """Give a volume the name, description and metadata of the captured one, with our marks; the
    bootable flag and the image metadata where it lacks them.

    Args:
        made: the volume as Cinder shows it now.
        ours: our marks.
    """
    metadata = {**volume.metadata, **ours, VOLUME: made["id"]}
    site.volumes.update_volume(made["id"], volume.name, volume.description, metadata)
    if (volume.is_root or volume.bootable) and str(made["bootable"]).lower() != "true":
        site.volumes.set_bootable(made["id"])
    present = made.get("volume_image_metadata", {})
    if missing := {k: v for k, v in volume.image_metadata.items() if present.get(k) != v}:
        site.volumes.set_image_metadata(made["id"], missing)

# SPDX-License-Identifier: Apache-2.0
"""Glance of one site, as far as images of servers need it."""

from __future__ import annotations

import json

from antipode.cloud import answers
from antipode.cloud.api import Api, Json


class Images:
    def __init__(self, api: Api, project_id: str) -> None:
        """`project_id`: whose images are listed; an administrator is shown everybody's."""
        self._api = api
        self._project_id = project_id

    def images(self) -> list[Json]:
        """All images of the project; an image's own properties stand beside its fields."""
        return self._api.all("/images", answers.IMAGES, owner=self._project_id)

    def image(self, image_id: str) -> Json | None:
        body = self._api.find(f"/images/{image_id}")
        call = f"GET {self._api.service}/images/{image_id}"
        image: Json | None = body and answers.IMAGE.check(body, self._api.site, call)
        return image

    def delete_image(self, image_id: str) -> None:
        """Delete an image; the snapshots that it stands for stay."""
        self._api.delete(f"/images/{image_id}")

    def snapshots_of(self, image: Json) -> list[str]:
        """The snapshots that an image of a volume-backed server stands for, the root's first: in
        its property `block_device_mapping`, a list written as JSON.

        Raises:
            UnexpectedAnswer: the property is missing, or cannot be understood.
        """
        call = f"GET {self._api.service}/images/{image['id']}"
        try:
            written = json.loads(image.get("block_device_mapping") or "null")
        except (TypeError, ValueError, RecursionError):
            written = None
        mapping = answers.BLOCK_DEVICE_MAPPING.check(written, self._api.site, call)
        by_boot_index = sorted(mapping, key=lambda d: 0 if d.get("boot_index") == 0 else 1)
        return [d["snapshot_id"] for d in by_boot_index if d["source_type"] == "snapshot"]

# SPDX-License-Identifier: Apache-2.0
"""Glance of one site, as far as images of servers need it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence

from antipode.cloud import answers
from antipode.cloud.api import Api, ApiError, Json, Urgency
from antipode.cloud.image_bytes import ImageStreams
from antipode.model.source import Image
from antipode.model.topology import Volume

UNLIMITED = -1
ALGORITHM = "sha512"
"""Of the digests that are compared: Glance's own by default (`hashing_algorithm`)."""
_INHERITED = ("hw_", "os_", "img_", "trait:", "hypervisor_type", "vm_mode", "architecture")
_OF_ITS_SITE = ("os_hash_", "os_hidden", "os_glance_", "img_signature")
"""Properties that are Glance's own, or that are right for other bytes only."""
LOOK_S = 1.0
"""Between two looks whether the run must stop, while bytes are streamed."""


class Images:
    def __init__(self, api: Api, project_id: str, streams: ImageStreams) -> None:
        """
        Args:
            project_id: whose images are listed; an administrator is shown everybody's.
            streams: of the same Glance.
        """
        self._api = api
        self._project_id = project_id
        self.streams = streams

    def images(self) -> list[Json]:
        """All images of the project; an image's own properties stand beside its fields."""
        return self._api.all("/images", answers.IMAGES, owner=self._project_id)

    def of_bytes(self, sha512: str) -> list[Json]:
        """The images with these bytes that can be booted from: public ones, the project's own, and
        those that it has accepted; hidden ones last, and then the oldest first
        (`GET /images?os_hash_value=`).

        Others can make an image that Glance says to have these bytes, where users may add
        locations: an administrator is shown theirs, too.
        """
        return [
            i
            for i in self._active(os_hash_value=sha512)
            if (i.get("os_hash_algo"), i.get("os_hash_value")) == (ALGORITHM, sha512)
        ]

    def of_name(self, name: str) -> list[Json]:
        """The images of a name that can be booted from, as `of_bytes` (`GET /images?name=`)."""
        return [i for i in self._active(name=name) if i.get("name") == name]

    def _active(self, **wanted: str) -> list[Json]:
        same = [
            i
            for hidden in ("false", "true")  # Glance lists the one or the other
            for i in self._api.all(
                "/images", answers.IMAGES, os_hidden=hidden, status="active", **wanted
            )
            if i["status"] == "active" and self._is_for_us(i)
        ]
        return sorted(
            {i["id"]: i for i in same}.values(),
            key=lambda i: (bool(i.get("os_hidden")), str(i.get("created_at") or ""), i["id"]),
        )

    def _is_for_us(self, image: Json) -> bool:
        if image.get("visibility") == "public" or image.get("owner") == self._project_id:
            return True
        if image.get("visibility") != "shared":
            return False
        path = f"/images/{image['id']}/members/{self._project_id}"
        try:
            body = self._api.find(path)
        except ApiError as error:
            if error.status == 403:
                return False
            raise
        if body is None:
            return False
        call = f"GET {self._api.service}{path}"
        return bool(answers.IMAGE_MEMBER.check(body, self._api.site, call)["status"] == "accepted")

    def image(
        self,
        image_id: str,
        *,
        timeout_s: float | None = None,
        urgency: Urgency = Urgency.USUAL,
    ) -> Json | None:
        """An image as Glance shows it; None if there is none. Arguments as for `Compute.server`."""
        body = self._api.find(f"/images/{image_id}", timeout_s=timeout_s, urgency=urgency)
        call = f"GET {self._api.service}/images/{image_id}"
        image: Json | None = body and answers.IMAGE.check(body, self._api.site, call)
        return image

    def delete_image(self, image_id: str) -> None:
        """Delete an image; the snapshots that it stands for stay."""
        self._api.delete(f"/images/{image_id}")

    def create_image(self, name: str, properties: Mapping[str, object]) -> str:
        """Make a private image that waits for its bytes (`POST /images`), and return its id.

        Args:
            properties: its fields, such as `disk_format`, and its own properties beside them.
        """
        wanted = {"name": name, "visibility": "private", **properties}
        made = self._api.call("POST", "/images", wanted)
        call = f"POST {self._api.service}/images"
        return str(answers.IMAGE.check(made, self._api.site, call)["id"])

    def sha512_of(self, image_id: str, go_on: Callable[[], None]) -> tuple[str, int]:
        """The digest over all bytes that Glance gives of an image, and how many they are.

        Args:
            go_on: called once in a while; raises when the run must stop.

        Raises:
            ApiError, SiteUnreachable: it does not give them.
        """
        digest, size, looked_at = hashlib.sha512(), 0, time.monotonic()
        with self.streams.read(image_id) as pieces:
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
                if time.monotonic() > looked_at + LOOK_S:
                    looked_at = time.monotonic()
                    go_on()
        return digest.hexdigest(), size

    def usage(self) -> dict[str, tuple[int, int]]:
        """The limits that Glance has for the project, by name: the limit and what is used
        (`image_size_total` in MiB, `image_count_total`); empty where it has none, or does not tell
        (before 2.13).
        """
        found = self._api.find("/info/usage", answers.IMAGE_USAGE) or {}
        limits = {name: (row["limit"], row["usage"]) for name, row in found.items()}
        return {name: row for name, row in limits.items() if row[0] != UNLIMITED}

    def shortages(self, needed: Mapping[str, int]) -> list[str]:
        """The limits of Glance that leave less than is needed, in words.

        Args:
            needed: by the name of the limit, as for `usage`.

        Raises:
            ApiError, SiteUnreachable: Glance does not answer.
        """
        limits = self.usage()
        return [
            f"Glance's limit {name} is {limits[name][0]}, {limits[name][1]} are used, and {more} "
            "may be needed"
            for name, more in needed.items()
            if name in limits and limits[name][0] - limits[name][1] < more
        ]

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


def room_for(disks: Sequence[Volume]) -> dict[str, int]:
    """What images of these disks, with all their bytes, may need of the limits of Glance; for
    `shortages`.
    """
    mib = sum(max(disk.size_gib, 1) << 10 for disk in disks)
    return {"image_size_total": mib, "image_count_total": len(disks)}


def has_no_digest(image: Mapping[str, object]) -> bool:
    """Whether Glance has no digest at all of the bytes of an image, as of one that was made by its
    location.
    """
    return not image.get("os_hash_value") and not image.get("checksum")


def properties_of(image: Mapping[str, object]) -> dict[str, str]:
    """The properties of an image that say how a server which boots from it is made."""
    return {
        name: str(value)
        for name, value in image.items()
        if name.startswith(_INHERITED) and not name.startswith(_OF_ITS_SITE) and value is not None
    }


def why_not_within(image: Json, flavor: Json) -> str | None:
    """Why Nova makes no server of a flavor from an image; None if it does."""
    disk_gib, size, min_disk = flavor.get("disk", 0), image.get("size"), image.get("min_disk")
    if disk_gib and (size or 0) > disk_gib << 30:
        return f"it has {size} bytes, and the flavor a disk of {disk_gib} GiB"
    if disk_gib and (min_disk or 0) > disk_gib:
        return f"its min_disk is {min_disk} GiB, and the flavor has a disk of {disk_gib} GiB"
    if "ram" in flavor and (image.get("min_ram") or 0) > flavor["ram"]:
        return f"its min_ram is {image['min_ram']} MiB, and the flavor has {flavor['ram']} MiB"
    return None


def why_not_whole(image: Json | None, source: Image) -> str | None:
    """Why an image cannot be booted from in the place of a source: Glance does not have it, or has
    other bytes by its own account; None if it can.
    """
    if image is None:
        return "there is no such image"
    if image["status"] != "active":
        return f"it is {image['status']}"
    if image.get("size") != source.image_bytes:
        return f"it has {image.get('size')} bytes instead of {source.image_bytes}"
    if image.get("os_hash_algo") == ALGORITHM and image.get("os_hash_value") != source.sha512:
        return f"its {ALGORITHM} is another"
    return None

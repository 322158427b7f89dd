# SPDX-License-Identifier: Apache-2.0
"""Glance of an embedded site: images and their bytes."""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from antipode.sandbox.conditions import Conditions, OperationFailed
from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Caller, Refused, Route, Service, page, public

PIECE = 1 << 20
"""Bytes that are moved at once."""


class Glance(Service):
    type = "image"
    prefix = "/image"

    def __init__(self, database: Database, folder: Path, conditions: Conditions) -> None:
        self.images = database.table("image")
        self._folder = folder
        self._conditions = conditions
        folder.mkdir(exist_ok=True)

    def routes(self) -> Sequence[Route]:
        return [
            Route("GET", "/", self._versions, 300, open=True),
            Route("GET", "/versions", self._versions, open=True),
            Route("GET", "/v2/images", self._list),
            Route("POST", "/v2/images", self._create, 201),
            Route("GET", "/v2/images/{image}", self._show),
            Route("PATCH", "/v2/images/{image}", self._update),
            Route("DELETE", "/v2/images/{image}", self._delete, 204),
            Route("PUT", "/v2/images/{image}/file", self._upload, 204, streams=True),
            Route("GET", "/v2/images/{image}/file", self._download),
            Route("GET", "/v2/info/usage", self._usage),
        ]

    def fault(self, refused: Refused) -> web.Response:
        titles = {
            401: "Unauthorized",
            403: "Forbidden",
            404: "Not Found",
            409: "Conflict",
            400: "Bad Request",
        }
        title = f"{refused.status} {titles.get(refused.status, 'Internal Server Error')}"
        head, body = (
            f"<head>\n  <title>{title}</title>\n </head>",
            f"<h1>{title}</h1>\n  {refused.message}<br /><br />",
        )
        html = f"<html>\n {head}\n <body>\n  {body}\n\n\n\n </body>\n</html>"
        return web.Response(status=refused.status, text=html, content_type="text/html")

    async def _versions(self, call: Call) -> Json:
        links = [{"rel": "self", "href": f"{call.base}{self.prefix}/v2/"}]
        return {
            "versions": [
                {"id": "v2.17", "status": "CURRENT", "links": links},
                {"id": "v2.0", "status": "SUPPORTED", "links": links},
            ]
        }

    def find(self, caller: Caller, image_id: str) -> Json:
        """An image that the caller may use.

        Raises:
            Refused: 404, there is none.
        """
        image = self.images.get(image_id)
        if image is None or not self._visible(caller, image):
            raise Refused(404, f"No image found with ID {image_id}")
        return image

    def path(self, image: Json) -> Path:
        return self._folder / str(image["id"])

    def _visible(self, caller: Caller, image: Json) -> bool:
        return (
            image["visibility"] == "public"
            or image["owner"] == caller.project_id
            or caller.is_admin
        )

    async def _list(self, call: Call) -> Json:
        wanted = {
            k: v
            for k, v in call.query.items()
            if k in ("name", "status", "visibility", "owner", "id", "os_hash_value")
        }
        wanted = {k: v for k, v in wanted.items() if v != "all"}
        hidden = call.query.get("os_hidden", "false") == "true"
        found = [
            i
            for i in self.images
            if self._visible(call.caller, i)
            and i["os_hidden"] is hidden
            and all(i.get(k) == v for k, v in wanted.items())
        ]
        answer = page(call, "images", found, public)
        links = answer.pop("images_links", [])
        following = {"next": links[0]["href"]} if links else {}
        return {**answer, "first": "/v2/images", "schema": "/v2/schemas/images", **following}

    async def _create(self, call: Call) -> Json:
        if str(call.body.get("id")) in self.images:
            raise Refused(409, f"Image ID {call.body['id']} already exists!")
        return self._make(call.caller.project_id, call.body)

    def furnish(self, owner: str, name: str, data: bytes, properties: dict[str, str]) -> None:
        """A public image with these bytes."""
        formats = {"disk_format": "raw", "container_format": "bare"}
        self.store(
            self._make(owner, {"name": name, "visibility": "public", **formats, **properties}), data
        )

    def register(self, owner: str, wanted: Json) -> Json:
        """An active image without bytes of its own."""
        image = self.reserve(owner, wanted)
        self.store(image, b"")
        return image

    def reserve(self, owner: str, wanted: Json) -> Json:
        """An image whose bytes are still to come."""
        return self._make(owner, wanted)

    def forget(self, image: Json) -> None:
        """Remove an image whose bytes will not come."""
        self.images.drop(image["id"])
        self.path(image).unlink(missing_ok=True)

    def _make(self, owner: str, wanted: Json) -> Json:
        now = self._conditions.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        image_id = str(wanted.get("id") or uuid.uuid4())
        return self.images.keep(
            {
                "name": None,
                "visibility": "shared",
                "min_disk": 0,
                "min_ram": 0,
                "disk_format": None,
                "container_format": None,
                "protected": False,
                "os_hidden": False,
                "tags": [],
                **wanted,
                "id": image_id,
                "owner": owner,
                "status": "queued",
                "size": None,
                "virtual_size": None,
                "checksum": None,
                "os_hash_algo": None,
                "os_hash_value": None,
                "created_at": now,
                "updated_at": now,
                "self": f"/v2/images/{image_id}",
                "file": f"/v2/images/{image_id}/file",
                "schema": "/v2/schemas/image",
            }
        )

    async def _show(self, call: Call, image: str) -> Json:
        return public(self.find(call.caller, image))

    async def _update(self, call: Call, image: str) -> Json:
        item = self.find(call.caller, image)
        for change in await call.request.json():
            name = change["path"].lstrip("/")
            if change["op"] == "remove":
                item.pop(name, None)
            else:
                item[name] = change["value"]
        return public(self.images.keep(item))

    async def _delete(self, call: Call, image: str) -> None:
        item = self.find(call.caller, image)
        if item["protected"]:
            raise Refused(403, f"Image {image} is protected and cannot be deleted.")
        self.images.drop(image)
        self.path(item).unlink(missing_ok=True)

    async def _upload(self, call: Call, image: str) -> None:
        """Take the bytes in, piece by piece; an upload that breaks off, or for which there is no
        room, leaves an image that waits for its bytes.
        """
        item = self.find(call.caller, image)
        if item["status"] != "queued":
            raise Refused(
                409, f"Image status transition from {item['status']} to saving is not allowed"
            )
        self.images.keep(item, status="saving")
        sha512, md5, size = hashlib.sha512(), hashlib.md5(usedforsecurity=False), 0
        path = self.path(item)
        try:
            await self._conditions.take("image.upload")
            with path.open("wb") as file:
                async for piece in call.request.content.iter_chunked(PIECE):
                    size += len(piece)
                    if size > self._room(item["owner"]):
                        raise Refused(413, "Image storage media is full: there is not enough room")
                    sha512.update(piece)
                    md5.update(piece)
                    await asyncio.to_thread(file.write, piece)
        except (Exception, asyncio.CancelledError) as error:
            path.unlink(missing_ok=True)
            if image in self.images:
                self.images.keep(item, status="queued")
            if isinstance(error, OperationFailed):
                raise Refused(500, str(error)) from error
            raise
        if image not in self.images:  # deleted meanwhile
            path.unlink(missing_ok=True)
            raise Refused(410, f"Image {image} could not be found after upload.")
        self._become_active(item, size, sha512.hexdigest(), md5.hexdigest())

    def _room(self, owner: str) -> int:
        """The bytes that an owner's images may still have."""
        limit = self._conditions.image_limits.get("image_size_total")
        return 1 << 62 if limit is None else (limit << 20) - self._used(owner)

    def _used(self, owner: str) -> int:
        return sum(i["size"] or 0 for i in self.images if i["owner"] == owner)

    async def _usage(self, call: Call) -> Json:
        """The limits that Keystone keeps for Glance, and what is used; none unless a test has set
        some.
        """
        owner = call.caller.project_id
        used = {
            "image_size_total": self._used(owner) >> 20,
            "image_count_total": len(self.images.where(lambda i: i["owner"] == owner)),
        }
        return {
            "usage": {
                name: {"limit": limit, "usage": used[name]}
                for name, limit in self._conditions.image_limits.items()
            }
        }

    def store(self, image: Json, data: bytes) -> None:
        """Give an image its bytes and make it active."""
        self.path(image).write_bytes(data)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self._become_active(image, len(data), hashlib.sha512(data).hexdigest(), md5)

    def _become_active(self, image: Json, size: int, sha512: str, md5: str) -> None:
        self.images.keep(
            image,
            status="active",
            size=size,
            virtual_size=size,
            checksum=md5,
            os_hash_algo="sha512",
            os_hash_value=sha512,
        )

    async def _download(self, call: Call, image: str) -> web.StreamResponse:
        item = self.find(call.caller, image)
        if item["status"] != "active":
            return web.Response(status=204)
        path, size = self.path(item), int(item["size"])
        begin, end = _range(call.request.headers.get("Range", ""), size)
        response = web.StreamResponse(status=200 if end - begin == size else 206)
        response.content_type = "application/octet-stream"
        response.content_length = end - begin
        if response.status == 206:
            response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        await response.prepare(call.request)
        with path.open("rb") as file:
            file.seek(begin)
            while piece := await asyncio.to_thread(file.read, min(PIECE, end - file.tell())):
                await response.write(piece)
        await response.write_eof()
        return response


def _range(asked: str, size: int) -> tuple[int, int]:
    """The bytes that a request wants: from, and up to.

    Raises:
        Refused: there are no such bytes.
    """
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    if not found:
        return 0, size
    begin, end = int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)
    if begin >= end:
        raise Refused(416, f"Invalid Range: {asked}")
    return begin, end

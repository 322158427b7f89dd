# SPDX-License-Identifier: Apache-2.0
"""Glance of an embedded site: images and their bytes."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Caller, Refused, Route, Service, page, public


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
            Route("PUT", "/v2/images/{image}/file", self._upload, 204),
            Route("GET", "/v2/images/{image}/file", self._download),
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
        found = [
            i
            for i in self.images
            if self._visible(call.caller, i) and all(i.get(k) == v for k, v in wanted.items())
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
        self.store(self.find(call.caller, image), await call.request.read())

    def store(self, image: Json, data: bytes) -> None:
        """Give an image its bytes and make it active."""
        self.path(image).write_bytes(data)
        self.images.keep(
            image,
            status="active",
            size=len(data),
            virtual_size=len(data),
            checksum=hashlib.md5(data, usedforsecurity=False).hexdigest(),
            os_hash_algo="sha512",
            os_hash_value=hashlib.sha512(data).hexdigest(),
        )

    async def _download(self, call: Call, image: str) -> web.Response:
        item = self.find(call.caller, image)
        if item["status"] != "active":
            return web.Response(status=204)
        return web.Response(
            body=self.path(item).read_bytes(), content_type="application/octet-stream"
        )

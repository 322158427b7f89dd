# SPDX-License-Identifier: Apache-2.0
"""The way of a site's backup service to its object store, which may be another site's: a Swift
client with its own token.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from pydantic import BaseModel

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.keystone import BACKUP, PASSWORD

ATTEMPTS = 3
PAUSE_S = 2.0


class StoreSettings(BaseModel):
    """Where backups go, and in pieces of which size."""

    auth_url: str
    container: str = "volumebackups"
    object_size: int = 32 << 20
    block_size: int = 64 << 10


class StoreError(Exception):
    """The store refused, or does not answer; the text is what becomes a backup's fail_reason."""


class Store:
    def __init__(self, settings: StoreSettings, conditions: Conditions) -> None:
        self.settings = settings
        self._conditions = conditions
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._url = ""
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def ensure_container(self) -> None:
        await self._send("PUT", "")

    async def put(self, name: str, data: bytes) -> None:
        await self._send("PUT", name, data=data)

    async def get(self, name: str) -> bytes:
        return await self._send("GET", name)

    async def names(self, prefix: str) -> list[str]:
        listed = await self._send("GET", "", params={"prefix": prefix})
        return listed.decode().splitlines()

    async def delete(self, name: str) -> None:
        await self._send("DELETE", name, gone_is_fine=True)

    async def _send(
        self, method: str, name: str, *, gone_is_fine: bool = False, **options: Any
    ) -> bytes:
        path = f"/{self.settings.container}" + (f"/{name}" if name else "")
        for attempt in range(ATTEMPTS):
            try:
                status, body = await self._once(method, path, **options)
            except (aiohttp.ClientError, OSError) as error:
                if attempt == ATTEMPTS - 1:
                    raise StoreError(f"Connection to swift failed: {error}") from error
                await asyncio.sleep(PAUSE_S * self._conditions.factor)
                continue
            if status == 401:
                self._token = ""
                continue
            if status >= 400 and not (gone_is_fine and status == 404):
                what = "Object" if name else "Container"
                raise StoreError(
                    f"{what} {method} failed: {self._url}{path} {status} "
                    f"{body[:200].decode(errors='replace')}"
                )
            return body
        raise StoreError("Connection to swift failed: Unauthorized")

    async def _once(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        await self._conditions.joined()  # an isolated site gets nothing out either
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, connect=10)
            )
        async with self._lock:
            if not self._token:
                await self._log_in(self._session)
        async with self._session.request(
            method, self._url + path, headers={"X-Auth-Token": self._token}, **options
        ) as answer:
            return answer.status, await answer.read()

    async def _log_in(self, session: aiohttp.ClientSession) -> None:
        domain = {"id": "default"}
        identity = {
            "methods": ["password"],
            "password": {"user": {"name": BACKUP, "domain": domain, "password": PASSWORD}},
        }
        auth = {"identity": identity, "scope": {"project": {"name": BACKUP, "domain": domain}}}
        async with session.post(
            f"{self.settings.auth_url}/auth/tokens", json={"auth": auth}
        ) as answer:
            if answer.status != 201:
                raise StoreError(
                    f"Connection to swift failed: authorization failure: {answer.status}"
                )
            catalog = (await answer.json())["token"]["catalog"]
            self._token = answer.headers["X-Subject-Token"]
        self._url = next(s["endpoints"][0]["url"] for s in catalog if s["type"] == "object-store")

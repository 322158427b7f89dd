# SPDX-License-Identifier: Apache-2.0
"""Container sync of an embedded site's Swift: what its containers send to those of other clusters,
and the signature by which a cluster takes what another sends.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import aiohttp
from pydantic import BaseModel

from antipode.sandbox.conditions import Conditions, OperationFailed
from antipode.sandbox.database import Json, Table

if TYPE_CHECKING:
    from antipode.sandbox.swift import Swift

LOG = logging.getLogger(__name__)
TO, KEY = "X-Container-Sync-To", "X-Container-Sync-Key"
AUTH = "X-Container-Sync-Auth"
INTERVAL_S = 0.3
"""Between two rounds when nothing has changed: what was refused is sent again then."""


class Realm(BaseModel):
    """The clusters that may send objects to each other, the same at all of them."""

    name: str = "antipode"
    key: str
    clusters: Mapping[str, str]
    """cluster -> the URL of its Swift, up to the accounts"""

    def target(self, value: str) -> str | None:
        """The URL of the container that a value of `X-Container-Sync-To` means; None: it is none
        that this realm knows.
        """
        parts = value.removeprefix("//").rstrip("/").split("/")
        if not value.startswith("//") or len(parts) != 4 or parts[0].upper() != self.name.upper():
            return None
        endpoint = {name.upper(): url for name, url in self.clusters.items()}.get(parts[1].upper())
        return None if endpoint is None else f"{endpoint.rstrip('/')}/{parts[2]}/{parts[3]}"

    def signature(self, method: str, path: str, timestamp: str, nonce: str, key: str) -> str:
        """As `swift.common.container_sync_realms` makes it."""
        text = "\n".join((method, path, timestamp, nonce, key))
        return hmac.new(self.key.encode(), text.encode(), hashlib.sha1).hexdigest()

    def accepts(self, method: str, path: str, timestamp: str, auth: str, key: str) -> bool:
        """Whether a request is signed with the keys of the realm and of the container."""
        words = auth.split()
        if len(words) != 3 or words[0].upper() != self.name.upper() or not key:
            return False
        expected = self.signature(method, path, timestamp, words[1], key)
        return hmac.compare_digest(expected, words[2])


@dataclass(frozen=True)
class _Target:
    url: str
    key: str


class ContainerSync:
    """The daemon: it sends each change of a container once, in order, and passes over one that is
    refused, to send it again in the next round.
    """

    def __init__(self, swift: Swift, realm: Realm, conditions: Conditions) -> None:
        self._swift = swift
        self._realm = realm
        self._conditions = conditions
        self._session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """Until it is cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            self._session = session
            while True:
                self._swift.changed.clear()
                for container in self._swift.containers:
                    await self._round(container)
                try:
                    await asyncio.wait_for(self._swift.changed.wait(), INTERVAL_S)
                except TimeoutError:
                    continue

    async def _round(self, container: Json) -> None:
        """Send what a container has not sent yet."""
        url = self._realm.target(str(container.get(TO) or ""))
        if url is None or not (key := str(container.get(KEY) or "")):
            return
        target = _Target(url, key)
        failed = set(container.get("_unsent", ()))
        sent = int(container.get("_sent", 0))
        for row in self._swift.rows(str(container["id"])):
            if int(row["row"]) > sent or row["id"] in failed:
                done = await self._send(row, target)
                (failed.discard if done else failed.add)(row["id"])
                sent = max(sent, int(row["row"]))
        now = self._swift.containers.get(str(container["id"]))
        if now is not None and now.get(TO) == container.get(TO):
            known = {row["id"] for row in self._swift.rows(str(container["id"]))}
            _keep(self._swift.containers, now, sent, sorted(failed & known))

    async def _send(self, row: Json, target: _Target) -> bool:
        """Send one change; whether it is there now."""
        await self._conditions.joined()  # an isolated site gets nothing out either
        try:
            await self._conditions.take("container_sync.send", str(row["name"]))
            if row.get("deleted"):
                status = await self._request("DELETE", row, target, {})
                return status < 300 or status in (404, 409)
            return await self._request("PUT", row, target, self._swift.carried(row)) < 300
        except (aiohttp.ClientError, OSError, TimeoutError, OperationFailed) as error:
            LOG.info("%s is not sent to %s: %s", row["id"], target.url, error)
            return False

    async def _request(
        self, method: str, row: Json, target: _Target, headers: Mapping[str, str]
    ) -> int:
        url = f"{target.url}/{quote(str(row['name']))}"
        path, nonce, at = urlsplit(url).path, uuid.uuid4().hex, str(row["timestamp"])
        signature = self._realm.signature(method, path, at, nonce, target.key)
        signed = {"X-Timestamp": at, AUTH: f"{self._realm.name} {nonce} {signature}"}
        data = None if method == "DELETE" else self._swift.content(row)
        assert self._session is not None  # `run` has made it
        from yarl import URL

        async with self._session.request(
            method, URL(url, encoded=True), headers={**headers, **signed}, data=data
        ) as answer:
            await answer.read()
            if answer.status == 401:
                LOG.info("Unauth %s => %s", row["id"], target.url)
            return answer.status


def _keep(containers: Table, container: Json, sent: int, unsent: list[str]) -> None:
    if (container.get("_sent", 0), container.get("_unsent", [])) != (sent, unsent):
        containers.keep(container, _sent=sent, _unsent=unsent)

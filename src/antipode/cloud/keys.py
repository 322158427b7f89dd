# SPDX-License-Identifier: Apache-2.0
"""Barbican of one site: the secrets that keys of encrypted volumes are."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Protocol

from antipode.cloud import answers
from antipode.cloud.api import Api, ApiError, Gate, Urgency
from antipode.cloud.transport import answering

NO_KEY = "00000000-0000-0000-0000-000000000000"
"""What Cinder has in the place of a key's id where its key is in its configuration."""


class Payloads(Protocol):
    """The payloads of secrets of one site; they are bytes, and not JSON as all else."""

    def __call__(self, secret_id: str) -> bytes:
        """The payload of a secret (`GET /v1/secrets/ID/payload`).

        Raises:
            ApiError: there is none, or the caller may not read it.
            SiteUnreachable: no answer came.
        """
        ...


def payloads_of(site: str, ask: Callable[..., Any], gate: Gate) -> Payloads:
    """Reads them by a login's `ask` for the key manager."""

    def payload(secret_id: str) -> bytes:
        gate.let("GET", Urgency.USUAL)
        path = f"/secrets/{secret_id}/payload"
        with answering(site):
            response = ask(path, "GET", headers={"Accept": "application/octet-stream"})
        if response.status_code >= 400:
            reason = answers.printable(response.text, 300)
            raise ApiError(site, f"GET key-manager{path}", response.status_code, reason)
        return bytes(response.content)

    return payload


class Keys:
    """The secrets of the project. What they hold is never logged, and never part of a message."""

    def __init__(self, api: Api, payloads: Payloads) -> None:
        self._api = api
        self.payload = payloads

    def named(self, name: str) -> list[str]:
        """The ids of the project's secrets of a name, oldest first (`GET /v1/secrets`)."""
        found = self._api.get("/secrets", answers.SECRETS, name=name, limit=100)
        return [_id(secret["secret_ref"]) for secret in found if secret.get("name") == name]

    def is_there(self, secret_id: str) -> bool:
        """Whether the project has a secret; one that the caller may not see counts as none."""
        return self.name_of(secret_id) is not None

    def name_of(self, secret_id: str) -> str | None:
        """The name of a secret (`GET /v1/secrets/ID`), empty where it has none; None where there is
        no such secret, or the caller may not see it.
        """
        try:
            found = self._api.find(f"/secrets/{secret_id}")
        except ApiError as error:
            if error.status == 403:
                return None
            raise
        return None if found is None else str(found.get("name") or "")

    def store(self, name: str, payload: bytes) -> str:
        """Store a key as castellan stores those of volumes; its id (`POST /v1/secrets`)."""
        made: str = self._api.post(
            "/secrets",
            {
                "name": name,
                "secret_type": "symmetric",
                "algorithm": "aes",
                "bit_length": 8 * len(payload),
                "payload": base64.b64encode(payload).decode(),
                "payload_content_type": "application/octet-stream",
                "payload_content_encoding": "base64",
            },
            answers.SECRET_REF,
        )
        return _id(made)

    def kept(self, name: str, payload: bytes) -> str:
        """The id of a secret of this name and payload: the one that is there, or a new one. Safe to
        repeat.
        """
        for secret_id in self.named(name):
            if self.payload(secret_id) == payload:
                return secret_id
        return self.store(name, payload)

    def delete(self, secret_id: str) -> None:
        """Delete a secret; one that is not there is fine."""
        self._api.delete(f"/secrets/{secret_id}")


def _id(reference: str) -> str:
    """The id in a reference, which is an address."""
    return reference.rstrip("/").rpartition("/")[2]

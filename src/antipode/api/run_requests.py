# SPDX-License-Identifier: Apache-2.0
"""A run that a client asks for: within its project's quota, once for each Idempotency-Key, and with
the plan that others approve.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.exc import IntegrityError

from antipode import identity
from antipode.api.gate import Asked, Installation
from antipode.errors import AntipodeError, Busy, InvalidInput, KeyReused, QuotaExceeded
from antipode.operations.submit import submit
from antipode.screen import visible
from antipode.store.runs import Room
from antipode.store.tables import RunRow

LONGEST_KEY = 255
Planned = TypeVar("Planned")


def key_of(asked: Asked, key: str | None) -> str | None:
    """What a run keeps of an Idempotency-Key: a digest of the key, its user and project. They are
    the same at all sites, so that a client that turns to another site repeats nothing.

    Raises:
        InvalidInput: it is too long, or has characters that cannot be printed.
    """
    if key is None:
        return None
    if not 0 < len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise InvalidInput(f"an Idempotency-Key has 1 to {LONGEST_KEY} printable characters")
    caller = asked.caller
    whole = [identity.person(caller.identity), caller.project, key]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def digest_of(asked: Asked, body: object) -> str:
    """The SHA-256 of what a request asks for."""
    whole = [asked.request.url.path, body]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def made_before(asked: Asked, key: str | None, digest: str) -> RunRow | None:
    """The run that was made for this very request before.

    Raises:
        KeyReused: the key was that of another request.
    """
    if key is None or (row := asked.deployment.runs.of_request(key)) is None:
        return None
    if row.request_digest != digest:
        raise KeyReused(f"this Idempotency-Key has made run {row.id}, for another request")
    return row


def planned_once(
    asked: Asked, plan: Callable[[], Planned], key: str | None, digest: str
) -> Planned | RunRow:
    """The plan of a run, or the run that the same request has made while it was planned, which may
    stand in the way of another.

    Raises:
        AntipodeError: as `plan`; no such run was made.
    """
    try:
        return plan()
    except AntipodeError:
        if (before := made_before(asked, key, digest)) is None:
            raise
        return before


def begun(
    asked: Asked,
    request: Callable[[], RunRow],
    lines: Sequence[str],
    key: str | None,
    digest: str,
) -> str:
    """Have a service carry out a run, or have it await approval; its id. Of requests with the same
    key at the same moment one makes the run, and the others get it.

    Args:
        lines: its plan, as the caller and those that approve are shown it.

    Raises:
        QuotaExceeded: the project has as many open runs as it may.
        Busy: another run is in the way.
    """
    deployment = asked.deployment
    try:
        row = request()
        run: str = row.id
        row.shown = [visible(line) for line in lines]
        row.request_key, row.request_digest = key, digest if key is not None else None
        submit(deployment, row, room_of(asked.installation, asked.project))
    except (Busy, IntegrityError, QuotaExceeded):
        if (before := made_before(asked, key, digest)) is not None:
            return before.id
        raise
    return run


def room_of(installation: Installation, project: str | None) -> Room | None:
    """How many runs a project may have; None: as many as it likes."""
    there = installation.settings.projects.get(project) if project is not None else None
    most = there.quota.open_runs if there is not None else None
    return None if project is None or most is None else Room(project, most)


Json = dict[str, Any]

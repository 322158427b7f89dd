# SPDX-License-Identifier: Apache-2.0
"""Room that is reserved in each vault, so that one that is full still takes statements about VNFs:
a withdrawal, without which nothing can expire there, and a claim, without which nothing can fail
over.

It is a document of random bytes without meaning, under a name that is not listed. A statement that
a full vault refuses takes its place; it is written again once there is room.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

from antipode.errors import AntipodeError, NotFound, Stopped, VaultError, VaultFull
from antipode.vault import PROBE, Vault

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")
NAME = f"{PROBE}reserve"
BYTES = 1 << 16
"""The largest statement; a usual one has less than 2 KiB."""
ROOM_WITHIN_S = 90.0
"""How long room that was made is waited for: Swift looks at a quota once a minute."""
LOOK_S = 5.0


def keep(vault: Vault) -> None:
    """Have the reserve in every vault that has room for it. Nothing depends on that now: a vault
    without it is logged.
    """
    try:
        come_first(vault)
    except Stopped:
        raise
    except AntipodeError as error:
        LOG.warning("room for withdrawals and claims cannot be reserved: %s", error)


def come_first(vault: Vault) -> None:
    """Have the reserve in every vault before a recovery point takes room there: room that a
    statement was given is for the next one, the outcome of a failover for example.

    Raises:
        VaultFull: as many vaults as must answer do not have the room.
    """
    vault.each(_keep)


def _keep(copy: Vault) -> None:
    try:
        if not is_in(copy):
            copy.put(NAME, secrets.token_bytes(BYTES))
    except VaultFull:
        raise
    except VaultError as error:  # a point may go there all the same
        LOG.warning("no room for withdrawals and claims is reserved: %s", error)


def is_in(copy: Vault) -> bool:
    """Whether a vault has its reserve.

    Raises:
        VaultError: it cannot be read.
    """
    try:
        return len(copy.get(NAME)) >= BYTES
    except NotFound:
        return False


def write(copy: Vault, statement: Callable[[], Answer]) -> Answer:
    """Write a statement to one vault, in place of its reserve if the vault is full.

    Args:
        statement: writes it; called again once there is room.

    Raises:
        VaultFull: the vault is full, and has no reserve, or that was not enough.
        AntipodeError: as `statement`.
    """
    ends: float | None = None
    while True:
        try:
            return statement()
        except VaultFull:
            now = time.monotonic()
            if ends is not None and now >= ends:
                raise
            if _gives_way(copy):
                ends = ends or now + ROOM_WITHIN_S
                continue
            if ends is None:  # another host may have removed it just now: once more, at once
                ends = now
                continue
        time.sleep(LOOK_S)


def _gives_way(copy: Vault) -> bool:
    """Whether the reserve was there, and is removed. Another host may write it again."""
    if not is_in(copy):
        return False
    copy.delete(NAME)
    LOG.warning("%s is full; its reserve was removed to make room for a statement", copy.place)
    return True

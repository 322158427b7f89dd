# SPDX-License-Identifier: Apache-2.0
"""The person on whose behalf this process acts: the user of a request to the API, else the one that
its operating system knows.
"""

from __future__ import annotations

import os
import pwd
import socket
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_LOGIN = Path("/proc/self/loginuid")
_NO_LOGIN = 2**32 - 1
"""What Linux says of a process that descends from no login."""
_acting: ContextVar[str | None] = ContextVar("identity", default=None)


@contextmanager
def acting_as(identity: str) -> Iterator[None]:
    """Act on behalf of this identity while the block runs, in this thread and in those that take
    over its context.
    """
    token = _acting.set(identity)
    try:
        yield
    finally:
        _acting.reset(token)


def current() -> str:
    """`USER@SITE` of a request to the API, else `USER@HOST`: the user that has logged in, also
    behind `su` and `sudo`, which keep the audit id of the login; else the user of the process.
    """
    if (acting := _acting.get()) is not None:
        return acting
    login = _login()  # 0 is root's, who is the same person behind `su`
    return f"{_name(os.getuid() if login is None else login)}@{socket.gethostname()}"


def person(identity: str) -> str:
    """The user of an identity, by the one form of the name: one person may act on several hosts,
    and at several sites.
    """
    return one_form(identity.rpartition("@")[0])


def one_form(name: str) -> str:
    """The name of a user in small letters, and in the form that Unicode has for all spellings of
    the same characters (NFKC): composed or not, wide or narrow.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return unicodedata.normalize("NFKC", folded).casefold()


def _login() -> int | None:
    try:
        uid = int(_LOGIN.read_text())
    except (OSError, ValueError):
        return None
    return None if uid == _NO_LOGIN else uid


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

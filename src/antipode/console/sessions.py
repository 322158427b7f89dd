# SPDX-License-Identifier: Apache-2.0
"""Sessions of people that have logged in. They are kept in this process: the browser has a random
name of one, and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from antipode.api.identity import Caller, LoggedIn
from antipode.operations.proposals import Proposal

MOST = 2000
"""Sessions; the one that was used longest ago makes room."""
MOST_OF_ONE = 20
"""Sessions of one user, so that none makes those of others end."""
MOST_PROPOSALS = 20
"""Of one session."""
PROPOSAL_S = 1800.0
"""How long a plan that was shown may be confirmed."""


@dataclass
class Session:
    """One login; moments are seconds since the epoch."""

    caller: Caller
    token: str = field(repr=False)
    csrf: str = field(repr=False)
    began_at: float
    used_at: float
    checked_at: float
    """when a Keystone has last said that the token is valid"""
    is_unchecked: bool = False
    """whether the Keystone that has given the token gives no answer"""
    proposals: OrderedDict[str, tuple[float, Proposal]] = field(
        default_factory=OrderedDict, repr=False
    )
    notices: list[tuple[str, str]] = field(default_factory=list)
    """what the next page says: a level, and words"""

    def accepts(self, csrf: str) -> bool:
        """Whether a form was made for this session."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode("utf-8", "replace"))

    def propose(self, proposal: Proposal) -> str:
        """Keep a plan that is shown; its name."""
        name = secrets.token_urlsafe(16)
        self.proposals[name] = time.time(), proposal
        while len(self.proposals) > MOST_PROPOSALS:
            self.proposals.popitem(last=False)
        return name

    def proposed(self, name: str) -> Proposal | None:
        """A plan that was shown, unless that is too long ago."""
        at, proposal = self.proposals.get(name, (0.0, None))
        return proposal if time.time() - at < PROPOSAL_S else None


class Sessions:
    """All sessions. Safe to use from several threads."""

    def __init__(self, idle_s: float, longest_s: float) -> None:
        """
        Args:
            idle_s: a session that a person has not used for so long is over.
            longest_s: every session is over after that, and never later than its token.
        """
        self._idle_s, self._longest_s = idle_s, longest_s
        self._known: OrderedDict[bytes, Session] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, found: LoggedIn) -> tuple[str, Session]:
        """A new session; the name that its browser keeps."""
        name, now = secrets.token_urlsafe(32), time.time()
        session = Session(found.caller, found.token, secrets.token_urlsafe(32), now, now, now)
        with self._lock:
            account = session.caller.account
            own = [key for key, one in self._known.items() if one.caller.account == account]
            for key in own[: max(len(own) - MOST_OF_ONE + 1, 0)]:
                del self._known[key]
            self._known[_key(name)] = session
            while len(self._known) > MOST:
                self._known.popitem(last=False)
        return name, session

    def find(self, name: str, *, by_person: bool) -> Session | None:
        """The session of this name, unless it is over.

        Args:
            by_person: whether somebody uses it now, and not a page that refreshes itself.
        """
        key, now = _key(name), time.time()
        with self._lock:
            if (session := self._known.get(key)) is None:
                return None
            last = min(session.began_at + self._longest_s, session.caller.expires_at)
            if now >= last or now >= session.used_at + self._idle_s:
                del self._known[key]
                return None
            if by_person:
                session.used_at = now
                self._known.move_to_end(key)
            return session

    def end(self, name: str) -> None:
        """End a session; one that is over already is no error."""
        with self._lock:
            self._known.pop(_key(name), None)


def _key(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "replace")).digest()

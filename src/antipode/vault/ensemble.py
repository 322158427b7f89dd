# SPDX-License-Identifier: Apache-2.0
"""Several vaults as one: each document goes to all of them, and is read from those that answer."""

from __future__ import annotations

import copy
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from antipode.errors import (
    AntipodeError,
    NotFound,
    SiteUnreachable,
    Stopped,
    VaultError,
    VaultFull,
)
from antipode.logs import adopt, current_run
from antipode.vault import Answer, Vault, Version
from antipode.vault.keys import NO_KEYS, Keyring

LOG = logging.getLogger(__name__)
PATIENCE_S = 10.0
"""How long the others are waited for once one has answered, where not all are needed."""


class Vaults(Vault):
    """Several vaults by name.

    With `all_needed` every one must answer, or nothing succeeds. Without, those that answer will
    do, `needed` of them at least; a dead one is named in a warning, not asked again, and not waited
    for longer than `PATIENCE_S`.

    Connections are made when a document is first asked for. Vaults are always written in the same
    order, so that of two hosts that create a document at once, one creates it everywhere.
    """

    def __init__(
        self,
        members: Mapping[str, Callable[[], Vault]],
        *,
        all_needed: bool,
        needed: int = 1,
        sites: Mapping[str, str | None] | None = None,
        keys: Keyring = NO_KEYS,
    ) -> None:
        """
        Args:
            members: the name of each vault, and what connects to it; the first breaks ties.
            sites: the site that each is at, where it is at one.
        """
        self.keys = keys
        self._connect = dict(members)
        self._needed = len(members) if all_needed else min(needed, len(members))
        self._sites = dict(sites or {})
        self._connected: dict[str, Vault] = {}
        self._left_out: set[str] = set()
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        with self._lock:
            known = [self._connected[n].place for n in self._connect if n in self._connected]
        return " and ".join(known) or f"vault {', '.join(self._connect)}"

    @property
    def left_out(self) -> Sequence[str]:
        """The names of those that have failed since, and are not asked any more."""
        with self._lock:
            return sorted(self._left_out)

    def copies(self) -> Sequence[Vault]:
        return self._ask(lambda vault: vault)

    def each(self, question: Callable[[Vault], Answer]) -> Sequence[Answer]:
        return self._ask(question)

    def leave_out(self, copy: Vault, error: VaultError) -> None:
        with self._lock:
            name = next(n for n, vault in self._connected.items() if vault is copy)
            left = set(self._connect) - self._left_out - {name}
        if len(left) < self._needed:
            raise error
        LOG.warning("vault %s is left out: %s", name, error)
        with self._lock:
            self._left_out.add(name)

    def decides(self, places: Collection[str], apart_from: str = "") -> bool:
        """As `Vault.decides`: more than half of the voters do, and exactly half with the first of
        them. So of a set of voters and all the others, one decides and the other does not.
        """
        with self._lock:
            known = {n: vault.place for n, vault in self._connected.items()}
        voters = [n for n in self._connect if not apart_from or self._sites.get(n) != apart_from]
        voters = voters or list(self._connect)
        having = [n for n in voters if known.get(n) in places]
        return 2 * len(having) > len(voters) or (
            2 * len(having) == len(voters) and having[0] == voters[0]
        )

    def viewed(self, through: Callable[[Vault], Vault]) -> Vaults:
        """The same vaults, each through something else; what is left out here is left out there."""

        def connect(name: str) -> Vault:
            return through(self._vault(name))

        view = copy.copy(self)
        view._connect = {name: partial(connect, name) for name in self._connect}
        view._connected = {}
        return view

    def leaving_out(self, silent: Collection[str]) -> Vaults:
        """The same vaults; these are not asked, as they have not answered a moment ago. All are
        asked where none would be left.
        """
        view = copy.copy(self)
        view._left_out = self._left_out | (self._connect.keys() & set(silent))
        return self if view._left_out >= self._connect.keys() else view

    def again(self) -> Vaults:
        return self.viewed(lambda vault: vault.again())

    def put(self, name: str, document: bytes) -> None:
        self._ask(lambda vault: vault.put(name, document))

    def create(self, name: str, document: bytes) -> bool:
        """As `Vault.create`: whether this call has written it in every vault. It stops at the first
        one that has a document of this name.
        """
        return all(vault.create(name, document) for vault in self.copies())

    def get(self, name: str) -> bytes:
        if not (found := self.versions(name)):
            raise NotFound(f"{self.place} has no {name}")
        return found[0].document

    def versions(self, name: str) -> Sequence[Version]:
        return [v for versions in self._ask(lambda vault: vault.versions(name)) for v in versions]

    def list(self, prefix: str) -> list[str]:
        return sorted({name for names in self._ask(lambda v: v.list(prefix)) for name in names})

    def delete(self, name: str) -> None:
        self._ask(lambda vault: vault.delete(name))

    def remarks(self) -> Sequence[str]:
        return [remark for remarks in self._ask(lambda v: v.remarks()) for remark in remarks]

    def check(self, by: str = "") -> None:
        self._ask(lambda vault: vault.check(by))

    def _ask(self, question: Callable[[Vault], Answer]) -> Sequence[Answer]:
        """What the vaults answer, in their order; all are asked at once.

        Raises:
            VaultError: fewer answer than are needed.
            SiteUnreachable, VaultFull: that is all that was wrong.
        """
        with self._lock:
            names = [name for name in self._connect if name not in self._left_out]
        if len(names) == 1:
            return [question(self._vault(names[0]))]
        answers: queue.SimpleQueue[tuple[str, Answer | Exception]] = queue.SimpleQueue()
        for name in names:
            # a daemon, as one that hangs must not keep the process from ending
            threading.Thread(
                target=self._answer,
                args=(name, question, answers, current_run()),
                name=f"vault {name}",
                daemon=True,
            ).start()
        found: dict[str, Answer] = {}
        failed: dict[str, Exception] = {}
        patience_ends: float | None = None
        while len(found) + len(failed) < len(names):
            left = None if patience_ends is None else max(0.0, patience_ends - time.monotonic())
            try:
                name, answer = answers.get(timeout=left)
            except queue.Empty:
                silent = SiteUnreachable(f"no answer within {PATIENCE_S:.0f} s of the first one's")
                failed |= {n: silent for n in names if n not in found and n not in failed}
                break
            if isinstance(answer, Exception):
                failed[name] = answer
            else:
                found[name] = answer
                if len(found) >= self._needed and patience_ends is None:
                    patience_ends = time.monotonic() + PATIENCE_S
        self._judge(found, failed)
        return [found[name] for name in names if name in found]

    def _answer(
        self,
        name: str,
        question: Callable[[Vault], Answer],
        answers: queue.SimpleQueue[tuple[str, Answer | Exception]],
        run: str | None,
    ) -> None:
        adopt(run)
        try:
            answers.put((name, question(self._vault(name))))
        except Exception as error:
            answers.put((name, error))

    def _vault(self, name: str) -> Vault:
        with self._lock:
            known = self._connected.get(name)
        if known is None:
            known = self._connect[name]()
            with self._lock:
                known = self._connected.setdefault(name, known)
        return known

    def _judge(self, found: Mapping[str, object], failed: Mapping[str, Exception]) -> None:
        """Raise what may not be passed over; leave a vault that has failed out from now on."""
        for error in failed.values():
            if isinstance(error, Stopped) or not isinstance(error, AntipodeError):
                raise error
        if failed and len(found) < self._needed:
            kinds = (
                kind
                for kind in (SiteUnreachable, VaultFull)
                if all(isinstance(error, kind) for error in failed.values())
            )
            raise next(kinds, VaultError)(
                "; ".join(f"vault {n}: {e}" for n, e in sorted(failed.items()))
            )
        for name, error in sorted(failed.items()):
            LOG.warning("vault %s is left out: %s", name, error)
        with self._lock:
            self._left_out |= set(failed)

# SPDX-License-Identifier: Apache-2.0
"""The conditions at a site: its clock, its latencies, and the faults that it was given.

Everything that happens has a name: a call is `SERVICE METHOD PATH`, with the action's name behind
the path of an action (`compute POST /servers/ID/action quiesce`); what a service does after it has
answered is `KIND.VERB` (`snapshot.create`).
"""

from __future__ import annotations

import asyncio
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SECONDS = {
    "call": 0.005,
    "volume.create": 0.4,
    "volume.delete": 0.3,
    "volume.manage": 0.3,
    "volume.unmanage": 0.1,
    "volume.revert": 0.1,
    "volume.retype": 0.1,
    "snapshot.create": 0.3,
    "snapshot.delete": 0.2,
    "snapshot.manage": 0.2,
    "snapshot.unmanage": 0.1,
    "backend.failover": 0.4,
    "group.update": 0.1,
    "group.replicate": 0.2,
    "group_snapshot.create": 0.4,
    "backup.create": 0.8,
    "backup.delete": 0.3,
    "backup.import": 0.2,
    "volume.restore": 0.6,
    "key.clone": 0.02,
    "server.create": 1.2,
    "server.delete": 0.5,
    "server.power": 0.5,
    "server.quiesce": 0.08,
    "server.unquiesce": 0.04,
    "dns.bring": 0.3,
    "stack.create": 0.3,
    "stack.update": 0.3,
    "stack.delete": 0.2,
    "container_sync.send": 0.02,
    "image.create": 0.1,
    "image.upload": 0.3,
    "guest.boot": 0.8,
}
"""How long what happens takes, besides moving its bytes; each about a quarter of what the lab's
sites need on two cores.
"""

OF_CALLS = ("error", "slow", "stuck", "hang", "drop", "lost", "twice")
OF_OPERATIONS = ("error", "slow", "stuck")


class Rule(BaseModel):
    """Something that goes wrong: `effect` on what has a name in which the regular expression `on`
    is found.

    Of calls: `error` (refused with `status`), `slow` (`seconds` later), `stuck` (done and answered
    once the rule is removed), `hang` (never answered), `drop` (the connection is closed before
    anything is done), `lost` (done, and the connection closed instead of answered), `twice`
    (delivered two times). Of what comes after an answer: `error` (ends in the error status),
    `slow`, `stuck` (stays as it is until the rule is removed).
    """

    model_config = ConfigDict(extra="forbid")

    on: str
    effect: Literal["error", "slow", "hang", "drop", "lost", "twice", "stuck"]
    status: int = Field(default=500, ge=400, le=599)
    message: str = (
        "The server has either erred or is incapable of performing the requested operation."
    )
    seconds: float = Field(default=5.0, ge=0)
    after: int = Field(default=0, ge=0)
    """how many times it lets pass first"""
    times: int | None = Field(default=1, ge=1)
    """how many times it strikes; None: until it is removed"""
    id: str = Field(default_factory=lambda: uuid.uuid4().hex[:8])
    struck: int = 0

    def strikes(self, name: str) -> bool:
        """Whether it goes wrong this time; counts."""
        if (self.times is not None and self.struck >= self.times) or not re.search(self.on, name):
            return False
        if self.after:
            self.after -= 1
            return False
        self.struck += 1
        return True


class OperationFailed(Exception):
    """An operation that a service began after its answer ended in an error."""


class Conditions:
    """The clock, the latencies and the faults of one site."""

    def __init__(self, factor: float) -> None:
        """`factor` multiplies all latencies; 0: nothing takes any time but the work itself."""
        self.factor = factor
        self.skew = timedelta()
        self.image_limits: dict[str, int] = {}
        """of Glance, for each project: `image_size_total` in MiB, `image_count_total`"""
        self.store_capacity: int | None = None
        """bytes that an account of the object store may hold"""
        self.backup_block_size: int | None = None
        """bytes of the blocks that an increment compares (backup_swift_block_size), where the
        operator of the site has changed them
        """
        self.skips_zeros = False
        """whether a volume that is created from a backup lacks the zeros of increments, as with
        Cinder 22 to 28; each backup's zeros are skipped then, and not only those of the full one
        """
        self.consistent_groups = False
        """whether the back end snapshots a volume group at one moment, and reports it"""
        self.replication_target: str | None = None
        """the `backend_id` of a `replication_device` of the back end; None: it has none"""
        self.rules: list[Rule] = []
        self._changed = asyncio.Event()
        self._joined = asyncio.Event()
        self._joined.set()

    def now(self) -> datetime:
        """The site's clock, UTC."""
        return datetime.now(UTC) + self.skew

    def timestamp(self) -> str:
        """Now, as OpenStack's APIs give it."""
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def isolated(self) -> bool:
        return not self._joined.is_set()

    def isolate(self) -> None:
        """From now on connections are taken and nothing is ever answered."""
        self._joined.clear()

    def rejoin(self) -> None:
        self._joined.set()

    async def joined(self) -> None:
        """Return when the site is not isolated."""
        await self._joined.wait()

    def add(self, rule: Rule) -> None:
        self.rules.append(rule)

    def remove(self, rule_id: str | None) -> None:
        """Remove one rule or all; calls and operations that it held continue."""
        self.rules = [r for r in self.rules if rule_id is not None and r.id != rule_id]
        self._changed.set()
        self._changed = asyncio.Event()

    def strike(self, name: str, effects: tuple[str, ...]) -> Rule | None:
        """The first rule that makes what has this name go wrong now."""
        return next((r for r in self.rules if r.effect in effects and r.strikes(name)), None)

    async def until_removed(self, rule: Rule) -> None:
        while rule in self.rules:
            await self._changed.wait()

    async def take(self, operation: str, subject: str = "") -> None:
        """Let an operation take its time.

        Args:
            subject: what a fault may also be of, behind the operation's name.

        Raises:
            OperationFailed: it has been made to fail.
        """
        name = f"{operation} {subject}" if subject else operation
        if rule := self.strike(name, OF_OPERATIONS):
            if rule.effect == "error":
                raise OperationFailed(rule.message)
            if rule.effect == "slow":
                await asyncio.sleep(rule.seconds)
            else:
                await self.until_removed(rule)
        if seconds := SECONDS[operation] * self.factor:
            await asyncio.sleep(seconds)

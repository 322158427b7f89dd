# SPDX-License-Identifier: Apache-2.0
"""Looks whether an old copy of a VNF runs at a site that has returned, and has it fenced where the
VNF file says so. What is seen is a condition in the database, for all hosts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from antipode import clock
from antipode.cloud.api import Json
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.run import WAITING, state_of
from antipode.errors import AntipodeError, Busy, SiteUnreachable, VaultError
from antipode.model.event import Event
from antipode.model.state import ProtectedVnf, VnfState
from antipode.model.vnf import Vnf
from antipode.recover import fencing
from antipode.runs import fence
from antipode.service import events
from antipode.service.queue import enqueue
from antipode.store import database
from antipode.store.tables import RunRow

if TYPE_CHECKING:
    from antipode.vault.old_copies import OldCopy

LOG = logging.getLogger(__name__)
LOOK_S = 20.0
"""Between two looks at a site."""
AGAIN_S = 300.0
"""From the end of a fencing to the next of the same copy: one tries for minutes by itself."""


class Seen(NamedTuple):
    """An old copy as its site shows it."""

    running: list[str]
    """names of the members whose guests run"""
    unfenced: list[str]
    """names of those that run or are not locked"""


class Returning:
    """Looks at one site."""

    def __init__(self, deployment: Deployment, site: str) -> None:
        self.site = site
        self._deployment = deployment
        self._copies: dict[str, tuple[int, OldCopy]] = {}
        self.trouble: dict[str, str] = {}
        """by VNF: why it is not known whether its old copy runs, or it is not fenced"""

    def follow(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        while True:
            try:
                self.look()
            except SQLAlchemyError as error:
                LOG.warning("old copies at %s are not looked for now: %s", self.site, error)
            except Exception:
                LOG.exception("old copies at %s are not looked for now; trying again", self.site)
            if stop.wait(LOOK_S):
                return

    def look(self) -> None:
        """Look at the old copies of all VNFs once. A site that does not answer has not returned.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        vnfs = self._deployment.vnfs.all()
        moved = {vnf.vnf: vnf for vnf in vnfs if self._may_be_old(vnf)}
        undecided = {vnf.vnf for vnf in vnfs if self._is_failing_over(vnf)}
        for name, sites in activity.two_copies(self._deployment).items():
            # where it fails over once more, what runs here is as old as it was
            if self.site in sites and name not in moved and name not in undecided:
                self._deployment.events.end(self._key(name), None, [])
        trouble: dict[str, str] = {}
        for name, problem in self._judged(moved).items():
            if isinstance(problem, Busy):
                LOG.info("the old copy of VNF %s at %s: %s", name, self.site, problem)
                continue
            trouble[name] = (
                str(problem)
                if isinstance(problem, AntipodeError)
                else f"{type(problem).__name__}: {problem}"
            )
            if name not in self.trouble:
                LOG.error(
                    "the old copy of VNF %s at %s: %s",
                    *(name, self.site, trouble[name]),
                    exc_info=None if isinstance(problem, AntipodeError) else problem,
                )
        self.trouble = trouble

    def _judged(self, moved: Mapping[str, Vnf]) -> dict[str, Exception]:
        """Judge the old copy of each of these VNFs; by VNF, why that was not possible. A bug with
        one of them leaves the others looked at.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        if not moved:
            return {}
        problems: dict[str, Exception] = {}
        for project in {vnf.project for vnf in moved.values()}:
            of_it = {name: vnf for name, vnf in moved.items() if vnf.project == project}
            problems |= self._judged_in(project, of_it)
        return problems

    def _judged_in(self, project: str | None, moved: Mapping[str, Vnf]) -> dict[str, Exception]:
        """The same of the VNFs of one project."""
        try:
            servers = self._deployment.site_in(self.site, project).compute.servers()
        except SiteUnreachable as error:
            LOG.debug("%s has not returned: %s", self.site, error)
            return {}
        except AntipodeError as error:
            return dict.fromkeys(moved, error)
        problems: dict[str, Exception] = {}
        for name, vnf in moved.items():
            try:
                self._judge(vnf, servers)
            except SQLAlchemyError:
                raise
            except Exception as error:
                problems[name] = error
        return problems

    def _known(self, vnf: Vnf) -> ProtectedVnf | None:
        return self._deployment.states.find(vnf.vnf)

    def _may_be_old(self, vnf: Vnf) -> bool:
        """Whether the copy of a VNF at the site may be an old one, by what is known here."""
        if self.site not in vnf.sites or (known := self._known(vnf)) is None:
            return False
        is_settled = known.state is VnfState.ACTIVE and known.claim is not None
        return is_settled and known.active_site != self.site

    def _is_failing_over(self, vnf: Vnf) -> bool:
        known = self._known(vnf)
        return known is not None and known.state is VnfState.FAILING_OVER

    def _judge(self, vnf: Vnf, servers: list[Json]) -> None:
        """Say whether an old copy runs, and have it fenced.

        Raises:
            AntipodeError: it is not known whether it is old; nothing is fenced then.
        """
        seen = self._seen(self._copy(vnf), servers)
        if not seen.unfenced:
            self._note(vnf.vnf, seen)
            return
        try:
            standing = fence.must_be_old(self._deployment, vnf.vnf, self.site)
        except (VaultError, SiteUnreachable):
            self._note(vnf.vnf, seen)  # an alarm goes by what was known last; a fence does not
            raise
        self._note(vnf.vnf, seen)
        if vnf.on_return != "fence" or self._was_fenced_lately(vnf.vnf):
            return
        self._end_those_that_wait(vnf.vnf)
        row = fence.requested(standing.state, self.site, by_policy=True)
        run = row.id
        enqueue(self._deployment, row)
        LOG.warning(
            "the old copy of VNF %s at %s is going to be fenced by %s: %s",
            *(vnf.vnf, self.site, run, ", ".join(seen.unfenced)),
        )

    def _end_those_that_wait(self, vnf: str) -> None:
        """Have a fencing of an operator end that waits for an answer: it is in the way of ours."""
        for row in self._deployment.runs.open(vnf):
            if fence.is_fencing(row) and state_of(row, self._deployment) == WAITING:
                LOG.warning(
                    "%s waits for an answer while the old copy of VNF %s runs at %s: it is aborted,"
                    " and that copy is fenced",
                    *(row.id, vnf, self.site),
                )
                self._deployment.runs.request_abort(row.id)

    def _was_fenced_lately(self, vnf: str) -> bool:
        """Whether a fencing at the site has ended a short while ago, of whatever service. One that
        ended in the future did so while the clock was wrong, and says nothing.
        """
        now = clock.now()
        return any(
            fence.KIND.site_of(row) == self.site
            and _has_tried(row)
            and row.ended_at is not None
            and now - AGAIN_S < row.ended_at <= now
            for row in self._deployment.runs.of_kind(fence.KIND.name, vnf)
        )

    def _copy(self, vnf: Vnf) -> OldCopy:
        """What proves that a server is of the old copy; kept, as it does not grow any more.

        Raises:
            AntipodeError: it is not known, or no vault says so now.
        """
        known, kept = self._known(vnf), self._copies.get(vnf.vnf)
        if kept is not None and known is not None and kept[0] == known.generation:
            return kept[1]
        standing = fence.must_be_old(self._deployment, vnf.vnf, self.site)
        copy = fence.old_copy(self._deployment, standing, self.site)
        self._copies[vnf.vnf] = standing.state.generation, copy
        return copy

    @staticmethod
    def _seen(copy: OldCopy, servers: list[Json]) -> Seen:
        # one whose cell does not answer may run
        names = copy.servers
        members = [(s, s["name"] or names.get(s["id"], s["id"])) for s in servers if copy.has(s)]
        running = [name for s, name in members if not fencing.is_off(s)]
        unlocked = [name for s, name in members if fencing.is_off(s) and not s.get("locked")]
        return Seen(running, [*running, *unlocked])

    def _note(self, vnf: str, seen: Seen) -> None:
        """Note in the database whether two copies run, with an event of the change."""
        key, is_there = self._key(vnf), bool(seen.running)
        if is_there == (key in self._deployment.events.conditions()):
            return
        now = database.now(self._deployment.database)
        kind = "dr.vnf.two-copies" if is_there else "dr.vnf.one-copy"
        data = {"vnf": vnf, "site": self.site, "running": seen.running}
        event = Event(f"{key}/{now * 1000:.0f}", kind, f"vnf/{vnf}", now, data)
        to = events.receivers(self._deployment.config.events, kind)
        if is_there:
            LOG.error(
                "VNF %s has two active copies: %s of the old one run at %s",
                *(vnf, ", ".join(seen.running), self.site),
            )
            self._deployment.events.begin(key, event, to)
        else:
            self._deployment.events.end(key, event, to)

    def _key(self, vnf: str) -> str:
        return f"{activity.TWO_COPIES}{vnf}@{self.site}"


def _has_tried(row: RunRow) -> bool:
    """Whether a fencing that has ended has tried to fence something. One of an operator may have
    ended before that: others have not approved it, or a step of its runbook has failed.
    """
    return bool((row.request or {}).get("by_policy")) or "not_fenced" in (row.result or {})

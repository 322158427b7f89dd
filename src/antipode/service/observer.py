# SPDX-License-Identifier: Apache-2.0
"""The observer: reads from the vaults, again and again, where each VNF is active and what it would
lose now.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from antipode import clock
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, SiteUnreachable
from antipode.model.forecast import Forecast
from antipode.model.point import RecoveryPoint
from antipode.model.state import ProtectedVnf
from antipode.model.vnf import Vnf
from antipode.runs import compared, drill, failover, forecast, protect, verify
from antipode.runs.pending import Left, pending
from antipode.store.tables import RunRow
from antipode.vault import PROBE, points
from antipode.vault.ensemble import Vaults

LOG = logging.getLogger(__name__)
LOOK_S = 60.0
"""Between two looks at all VNFs."""
COMPARED = 5
"""Drills and verifications of a VNF by which it is known whether its content is what it was."""
READ_AGAIN_S = 3600.0
"""After which a point is read again though no other was committed: it may have been damaged."""


@dataclass(frozen=True)
class Newest:
    """The newest valid recovery point of a VNF, without what only a recovery needs."""

    generation: int
    consistent_at: str
    site: str
    consistency: str
    forecasts: Mapping[str, Forecast] = field(default_factory=dict)
    """by site: how long a recovery from it would take there"""

    @property
    def moment(self) -> float:
        """Of the state that it holds, in seconds since the epoch."""
        return datetime.fromisoformat(self.consistent_at).timestamp()


@dataclass(frozen=True)
class Observed:
    """What was last seen of a VNF."""

    vnf: Vnf
    state: ProtectedVnf
    newest: Newest | None
    last_protect: Mapping[str, Any]
    """the result of its newest protection that succeeded; empty if there is none"""
    last_failover: Mapping[str, Any]
    at: float
    """when it was seen, in seconds since the epoch"""
    drilled_at: float | None = None
    """when a drill was last passed, in seconds since the epoch"""
    failed_drill_at: float | None = None
    """when one has last failed"""
    drill_due_at: float | None = None
    """when one is to be passed next; None: its file does not want any"""
    last_drill: Mapping[str, Any] = field(default_factory=dict)
    """the result of that drill"""
    proven_at: float | None = None
    """when a drill or a verification has last found content that is what was captured"""
    is_broken: bool | None = None
    """whether the newest of those has found content that is not; None: nothing was compared"""


class Observer:
    """What the vaults and the database say of the VNFs that were added here.

    The vaults are asked in a thread of the observer's own: no other part waits for a silent one.
    Where a VNF is active is kept in the database, so that a service with a database of its own
    learns of the failovers of other hosts.
    The picture of a VNF stays until it is seen again.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._read: dict[str, tuple[list[str], float, Newest | None]] = {}
        self.observed: dict[str, Observed] = {}
        self.vaults_up: dict[str, bool] = {}
        self.pending: Mapping[tuple[str, Left], int] = {}
        """how many runs have left something that is to be removed, by VNF and what it is"""
        self.trouble: dict[str, str] = {}
        """the VNFs and vaults that cannot be read now, and why"""
        self.looked_at = 0.0
        """the end of the last look, in seconds since the epoch"""

    def follow(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        while True:
            try:
                self.look(stop)
            except SQLAlchemyError as error:
                LOG.warning("the VNFs cannot be observed now; trying again: %s", error)
            except Exception:
                LOG.exception("observing the VNFs failed; trying again")
            if stop.wait(LOOK_S):
                return

    def look(self, stop: threading.Event | None = None) -> None:
        """Look at every VNF and every vault once, or until `stop` is set.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        trouble: dict[str, str] = {}
        self.vaults_up = {
            name: self._is_up(name, trouble) for name in self._deployment.config.all_vaults
        }
        vnfs = {vnf.vnf: vnf for vnf in self._deployment.vnfs.all()}
        # replaced and not changed, as other threads read it
        self.observed = {name: seen for name, seen in self.observed.items() if name in vnfs}
        self._read = {name: read for name, read in self._read.items() if name in vnfs}
        for name, vnf in vnfs.items():
            if stop is not None and stop.is_set():
                return
            try:
                self.observed = {**self.observed, name: self._observe(vnf)}
            except SQLAlchemyError:
                raise
            except AntipodeError as error:
                trouble[f"VNF {name}"] = str(error)
            except Exception as error:
                # a fault of one VNF keeps no other from being seen
                LOG.debug("the look at VNF %s", name, exc_info=True)
                trouble[f"VNF {name}"] = f"{type(error).__name__}: {error}"
        self.pending = pending(self._deployment)
        for what in trouble.keys() - self.trouble.keys():
            LOG.warning("%s cannot be observed now: %s", what, trouble[what])
        self.trouble, self.looked_at = trouble, clock.now()

    def _is_up(self, vault: str, trouble: dict[str, str]) -> bool:
        try:
            self._deployment.vaults([vault]).list(PROBE)
        except AntipodeError as error:
            trouble[f"vault {vault}"] = str(error)
            return False
        return True

    def _observe(self, vnf: Vnf) -> Observed:
        runs, vaults = self._deployment.runs, self._vaults(vnf)
        state = activity.read(self._deployment, vnf, vaults)
        made = runs.newest_success(protect.KIND.name, vnf.vnf)
        moved = runs.newest_success(failover.KIND.name, vnf.vnf)
        drilled = runs.newest_success(drill.KIND.name, vnf.vnf)
        failed = runs.newest(1, vnf=vnf.vnf, kinds=[drill.KIND.name], states=["failed"])
        return Observed(
            vnf,
            state,
            self._newest(vaults, vnf),
            made.result if made else {},
            moved.result if moved else {},
            clock.now(),
            drilled.ended_at if drilled else None,
            failed[0].ended_at if failed else None,
            self._drill_due_at(vnf, drilled),
            drilled.result if drilled else {},
            *self._proven(vnf.vnf),
        )

    def _vaults(self, vnf: Vnf) -> Vaults:
        """The vaults of a VNF, without those that have not answered at the begin of this look: each
        VNF would wait for them.

        Raises:
            SiteUnreachable: none of them has answered.
        """
        named = self._deployment.config.vault_names(vnf.vaults)
        silent = [name for name in named if not self.vaults_up.get(name, True)]
        if len(silent) == len(named):
            raise SiteUnreachable(f"none of its vaults has answered: {', '.join(named)}")
        return self._deployment.vaults(vnf.vaults).leaving_out(silent)

    def _drill_due_at(self, vnf: Vnf, passed: RunRow | None) -> float | None:
        """When a drill is to be passed next: that of a VNF that was never drilled counts from when
        it became known here.
        """
        if vnf.drill_every is None:
            return None
        since = passed.ended_at if passed is not None else None
        return (since or self._deployment.vnfs.known_since(vnf.vnf)) + vnf.drill_every

    def _proven(self, vnf: str) -> tuple[float | None, bool | None]:
        """When content was last found to be what was captured, and whether it last was not."""
        kinds = verify.KIND.name, drill.KIND.name
        rows = [row for kind in kinds for row in self._deployment.runs.of_kind(kind, vnf, COMPARED)]
        judged = {
            row.ended_at: is_good
            for row in rows
            if row.ended_at is not None and (is_good := compared.is_proven(row)) is not None
        }
        if not judged:
            return None, None
        good = max((at for at, is_good in judged.items() if is_good), default=None)
        return good, not judged[max(judged)]

    def _newest(self, vaults: Vaults, vnf: Vnf) -> Newest | None:
        name = vnf.vnf
        listed, now = points.list_ids(vaults, name), time.monotonic()
        known = self._read.get(name)
        if known is not None and known[0] == listed and now - known[1] < READ_AGAIN_S:
            return known[2]
        point = points.newest_or_none(vaults, name)
        newest = None
        if point is not None:
            newest = Newest(
                point.generation,
                point.consistent_at,
                point.site,
                point.consistency,
                self._foreseen(vnf, point),
            )
        self._read[name] = listed, now, newest
        return newest

    def _foreseen(self, vnf: Vnf, point: RecoveryPoint) -> dict[str, Forecast]:
        """How long a recovery from a point would take at each site where the VNF did not run then.
        No forecast keeps a point from being seen.
        """
        found: dict[str, Forecast] = {}
        for site in (site for site in vnf.sites if site != point.site):
            try:
                found[site] = forecast.forecast(self._deployment, point, site, failover.KIND)
            except SQLAlchemyError:
                raise
            except Exception:
                LOG.exception("how long %s would take at %s cannot be forecast", vnf.vnf, site)
        return found

# SPDX-License-Identifier: Apache-2.0
"""The kind of run that switches the DNS records of a VNF to the site where it is active, and the
task that does so at the end of a failover.

A record that cannot be switched undoes no recovery: it is named, with the command that finishes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import Field
from taskflow import task

from antipode.engine import activity
from antipode.engine.flow_runner import guarded
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import Busy, DnsFailed
from antipode.model.base import Model
from antipode.model.dns import DnsChange
from antipode.model.runbook import Deliberate
from antipode.model.state import ProtectedVnf, VnfState
from antipode.model.steps import Steps
from antipode.recover.dns import switching
from antipode.recover.dns.switching import Switched
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
Json = dict[str, Any]


class DnsSwitchRequest(Model):
    """A switch as it was confirmed."""

    site: str
    """where the VNF is active"""
    state: ProtectedVnf
    """of the VNF when it was confirmed: with another one nothing is switched"""
    recovery_point: str
    """that the addresses are from"""
    changes: list[DnsChange]
    lost_vaults: list[str] = Field(default_factory=list)
    """vaults that the operator has given up"""


def requested(
    state: ProtectedVnf,
    recovery_point: str,
    changes: Sequence[DnsChange],
    lost_vaults: Sequence[str] = (),
) -> RunRow:
    """A switch that an operator confirms now; it is not kept yet."""
    request = DnsSwitchRequest(
        site=state.active_site,
        state=state,
        recovery_point=recovery_point,
        changes=list(changes),
        lost_vaults=list(lost_vaults),
    )
    return new_run(KIND, state.vnf, request.model_dump(mode="json"))


class DnsSwitch(RunKind):
    name = "dns-switch"
    flow_version = 1
    priority = Priority.RECOVERY
    persona = Persona.OPERATOR
    rolls_back_failures = False
    works_at_active_site = False
    creates = "changes of DNS records"

    @property
    def command(self) -> str:
        return "dns switch"

    @property
    def is_recovery(self) -> bool:
        return False  # it is as urgent as one, and displaces nothing

    def site_of(self, row: RunRow) -> str:
        return str((row.request or {})["site"])

    def approved_as(self, row: RunRow) -> Sequence[Deliberate]:
        return ("dns-switch",)

    def words(self, row: RunRow) -> list[str]:
        request = DnsSwitchRequest.model_validate(row.request or {})
        return [
            *(
                f"vault {vault} has no say in it: its author says that it is lost"
                for vault in request.lost_vaults
            ),
            f"with the addresses of recovery point {request.recovery_point}",
            *(str(change) for change in request.changes),
        ]

    def execute(self, run: Run) -> None:
        _switch(run)

    def roll_back(self, run: Run) -> list[str]:
        """Put the old records back where the new ones are still there."""
        request = DnsSwitchRequest.model_validate(run.request)
        planned = [_as_it_was(run, c) for c in request.changes if not c.changes_nothing]
        known = [change for change in planned if change.is_known]
        left = switching.put_back(known, run.deployment.dns, run.timeline, run.go_on)
        return left + [
            f"DNS record {change.key} stays as it is: what it was before is not known"
            for change in planned
            if not change.is_known
        ]

    def point_of_no_return(self, run: Run) -> str | None:
        return None


KIND = DnsSwitch()


def _as_it_was(run: Run, change: DnsChange) -> DnsChange:
    """A change with what it has replaced, where that was not known when it was planned."""
    if not change.is_known:
        for kept in run.timeline.kept():
            if (kept.name, kept.resource) != (Steps.SWITCH_DNS.words, change.key):
                continue
            outcome = kept.result.get(switching.OUTCOME)
            if outcome is not None and (made := Switched.model_validate(outcome)).changed:
                return change.model_copy(update={"is_known": True, "old": made.old})
    return change


def _switch(run: Run) -> None:
    request = DnsSwitchRequest.model_validate(run.request)
    run.result.update(vnf=run.vnf, site=request.site, recovery_point=request.recovery_point)
    _must_be_active(run, request)
    run.touches_clouds()
    may = partial(_must_be_active, run, request)
    switched = switching.switch(request.changes, run.deployment.dns, run.timeline, run.go_on, may)
    run.result["dns"] = record_of(switched)
    if problems := switching.problems(switched):
        raise DnsFailed("\n".join(problems), resource=f"VNF {run.vnf}")


def _must_be_active(run: Run, request: DnsSwitchRequest) -> None:
    """See that the VNF is where it was when the switch was confirmed.

    Raises:
        Busy: it has moved, or is failing over.
        VaultError, SiteUnreachable: too few vaults answer to be sure.
    """
    state = activity.decided(run.deployment, run.vnf, run.go_on, request.lost_vaults).state
    must_be_settled(state)
    if (state.active_site, state.generation) != (request.site, request.state.generation):
        raise Busy(f"{state}, and has moved since this was confirmed. Switch its records again")


def must_be_settled(state: ProtectedVnf) -> None:
    """See that it is decided where a VNF is active.

    Raises:
        Busy: it is failing over, and its records are switched then.
    """
    if state.state is VnfState.FAILING_OVER:
        raise Busy(f"{state}. Its DNS records are switched when that has ended")


def record_of(switched: Sequence[Switched]) -> Json:
    """What became of the changes, as JSON."""
    return {
        "records": [one.model_dump(mode="json") for one in switched],
        "problems": switching.problems(switched),
        "resolvers_keep_old_s": switching.kept_by_resolvers(switched),
    }


class SwitchRecords(task.Task):  # type: ignore[misc]
    """The end of a failover that has succeeded: users are led to the new copy."""

    RESULT = "dns"

    def __init__(
        self,
        run: Run,
        changes: Sequence[DnsChange],
        recovery_point: str,
        must_have_claim: Callable[[], None],
    ) -> None:
        """`must_have_claim`: raises where the VNF has moved on since."""
        super().__init__(name=type(self).__name__, provides=self.RESULT)
        self.run = run
        self._changes = changes
        self._point = recovery_point
        self._must_have_claim = must_have_claim

    @guarded
    def execute(self) -> Json:
        self.run.cannot_be_aborted()  # the VNF is active here, and its users are elsewhere
        switched = switching.switch(
            self._changes,
            self.run.deployment.dns,
            self.run.timeline,
            self.run.go_on,
            self._must_have_claim,
        )
        found = record_of(switched)
        if found["problems"]:
            found["finish"] = finish(self.run.vnf, self._point)
            LOG.warning(
                "%s is recovered, and its users are not led to it: %s. To finish: %s",
                self.run.vnf,
                "; ".join(found["problems"]),
                found["finish"],
            )
        return found


def finish(vnf: str, recovery_point: str) -> str:
    """The command that switches the records that a recovery has left."""
    return f"antipode {KIND.command} {vnf} --recovery-point {recovery_point}"

# SPDX-License-Identifier: Apache-2.0
"""What a plan does with each of its VNFs: a verb looks at a VNF before the operator confirms, and
makes the run that does what was confirmed.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.kind import RunKind
from antipode.errors import Busy, InvalidInput
from antipode.model.base import Model, Name
from antipode.model.quota import QuotaNeed
from antipode.model.runbook import Deliberate
from antipode.model.state import ProtectedVnf, VnfState
from antipode.model.vnf import Vnf
from antipode.runs import (
    drill,
    drill_preparation,
    failover,
    failover_fence,
    migrate,
    migrate_preparation,
    precheck,
    preparation,
    runners,
)
from antipode.runs.failover import Asked
from antipode.runs.failover_checks import Accepted
from antipode.runs.failover_fence import FenceFirst
from antipode.store.tables import RunRow


class Target(Model):
    """A VNF of a plan as the operator has confirmed it."""

    vnf: Name
    site: Name
    """where it is recovered"""
    generation: int | None = None
    """of the VNF then; None where nothing was looked at"""
    recovery_point: str | None = None
    """None where the run makes one"""
    point_digest: str | None = None
    definition: str | None = None
    """the SHA-256 of the definition of the VNF: of all that is executed for it"""
    removes: list[str] | None = None
    """the ids of what is removed first of an old copy"""
    words: list[str] = Field(default_factory=list)
    """what is done with it, for those that approve it; a line each"""
    approved_as: list[Deliberate] = Field(default_factory=list)
    """the verbs whose approvals count for it beside the plan's"""


@dataclass(frozen=True)
class Look:
    """A VNF as a verb has found it. Nothing was changed."""

    target: Target
    done: str | None = None
    """why nothing is to be done with it; None: something is"""
    warnings: Sequence[str] = ()
    quotas: Sequence[QuotaNeed] = ()
    """of the project at the site"""
    definition: Vnf | None = None
    """of the VNF, where it was read"""


@dataclass(frozen=True)
class Given:
    """What the operator has given beside the plan."""

    lost_vaults: Sequence[str] = ()
    """vaults that are lost"""
    fence: FenceFirst | None = None
    """whether a failover fences the copy that it leaves first"""


class PlanVerb(ABC):
    """One thing that is done with each VNF of a plan."""

    name: ClassVar[str]
    child: ClassVar[RunKind]
    """the kind of run that does it with one VNF"""
    wants_site: ClassVar[bool]
    """whether a site must be named: where the first other one may be the one that has failed"""
    approved_as: ClassVar[Sequence[Deliberate]] = ()
    """the verbs whose approvals count"""
    adds_up: ClassVar[bool] = False
    """whether what it creates stays, so that quotas must suffice for all VNFs together"""
    calls_active_site: ClassVar[bool] = False
    only_looks: ClassVar[bool] = False
    """whether nothing is changed, so that it begins beside anything"""

    def may_begin_beside(self, other: PlanVerb) -> bool:
        """Whether it may be done with a VNF of a plan with which another verb is being done."""
        if self.child is other.child:
            return False
        return self.only_looks or not other.child.is_recovery

    @abstractmethod
    def look(self, deployment: Deployment, vnf: str, to: str | None, given: Given) -> Look:
        """Look at a VNF before anything is changed.

        Args:
            to: the site; by default the verb's own for this VNF.

        Raises:
            AntipodeError: what stands in the way.
        """

    @abstractmethod
    def made(self, deployment: Deployment, target: Target, given: Given) -> RunRow | str:
        """The run that does it, which is not kept yet; or why nothing is to be done any more.

        Raises:
            Busy: the VNF, its point or its definition is not as it was confirmed.
            AntipodeError: what stands in the way by now.
        """


class OfPrecheck(PlanVerb):
    name = "precheck"
    child = precheck.KIND
    only_looks = True
    wants_site = False

    def look(self, deployment: Deployment, vnf: str, to: str | None, given: Given) -> Look:
        site = to or precheck.default_site(deployment, vnf)
        deployment.config.site(site)
        local = deployment.vnfs.find(vnf)
        if local is not None and site not in local.sites:
            raise InvalidInput(f"{site} is no site of {vnf}: {', '.join(local.sites)}")
        return Look(Target(vnf=vnf, site=site, words=[f"looks whether it can run at {site}"]))

    def made(self, deployment: Deployment, target: Target, given: Given) -> RunRow | str:
        return precheck.requested(target.vnf, target.site)


class OfFailover(PlanVerb):
    name, approved_as = "failover", ("failover",)
    child = failover.KIND
    wants_site = True
    adds_up = True

    def look(self, deployment: Deployment, vnf: str, to: str | None, given: Given) -> Look:
        assert to is not None  # it wants a site
        if (there := _is_there(deployment, vnf, to, given)) is not None:
            return Look(Target(vnf=vnf, site=to), done=there)
        prepared = self._prepared(deployment, vnf, to, None, given)
        fences, unfenced = failover_fence.first(deployment, prepared.state, given.fence)
        target = Target(
            vnf=vnf,
            site=to,
            generation=prepared.state.generation,
            recovery_point=prepared.point.id,
            point_digest=prepared.point_digest,
            definition=prepared.point.vnf.digest,
            words=[
                f"as of {prepared.point.consistent_at}: data newer than"
                f" {prepared.point.age_s:.0f} s is lost (RPO)",
                *(f"first cuts off, stops and locks {server}" for server in fences),
                *prepared.plan.words(),
            ],
        )
        return Look(
            target,
            None,
            [*unfenced, *prepared.warnings],
            prepared.plan.quotas,
            definition=prepared.point.vnf,
        )

    def made(self, deployment: Deployment, target: Target, given: Given) -> RunRow | str:
        if (there := _is_there(deployment, target.vnf, target.site, given)) is not None:
            return there
        found = self._prepared(deployment, target.vnf, target.site, target.recovery_point, given)
        _must_be_as_confirmed(target, found.state, found.point.vnf, found.point_digest)
        asked = Asked(
            lost_vaults=given.lost_vaults,
            fence=given.fence,
            undo_within_s=found.point.vnf.undo_within,
        )
        return failover.requested(found.point, found.point_digest, found.plan, found.state, asked)

    @staticmethod
    def _prepared(
        deployment: Deployment, vnf: str, to: str, point: str | None, given: Given
    ) -> preparation.Prepared:
        accepted = Accepted(lost_vaults=given.lost_vaults)
        prepared = preparation.prepare(deployment, vnf, to, point, accepted)
        what = f"a failover of {vnf} to {to}"
        runners.must_be_known(deployment.config, prepared.plan.steps, what)
        return prepared


class OfDrill(PlanVerb):
    name, approved_as = "drill", ("drill",)
    child = drill.KIND
    wants_site = False

    def look(self, deployment: Deployment, vnf: str, to: str | None, given: Given) -> Look:
        site = to or precheck.default_site(deployment, vnf)
        prepared = self._prepared(deployment, vnf, site, None)
        target = Target(
            vnf=vnf,
            site=site,
            generation=prepared.state.generation,
            recovery_point=prepared.point.id,
            point_digest=prepared.point_digest,
            definition=prepared.point.vnf.digest,
            words=[*prepared.plan.words(), "all of it is removed at the end"],
        )
        return Look(
            target, None, prepared.warnings, prepared.plan.quotas, definition=prepared.point.vnf
        )

    def made(self, deployment: Deployment, target: Target, given: Given) -> RunRow | str:
        found = self._prepared(deployment, target.vnf, target.site, target.recovery_point)
        _must_be_as_confirmed(target, found.state, found.point.vnf, found.point_digest)
        return drill.requested(found, None)

    @staticmethod
    def _prepared(
        deployment: Deployment, vnf: str, site: str, point: str | None
    ) -> drill_preparation.PreparedDrill:
        drill.no_recovery_in_the_way(deployment, vnf)
        named = f"drill-{secrets.token_hex(3)}"
        return drill_preparation.prepare(deployment, vnf, site, point, named)


class OfMigrate(PlanVerb):
    name = "migrate"
    approved_as = ("migrate",)
    child = migrate.KIND
    wants_site = True
    adds_up = True
    calls_active_site = True
    back = False
    """whether the old copy at the other site is removed first"""

    def look(self, deployment: Deployment, vnf: str, to: str | None, given: Given) -> Look:
        if (there := self._is_there(deployment, vnf, to)) is not None:
            return Look(Target(vnf=vnf, site=there.active_site), done=str(there))
        found = migrate_preparation.prepare(deployment, vnf, to, back=self.back)
        definition = deployment.vnfs.get(vnf)
        removes = found.removes
        target = Target(
            vnf=vnf,
            site=found.to,
            generation=found.state.generation,
            definition=definition.digest,
            removes=None if removes is None else removes.ids,
            approved_as=list(migrate.approved_as(returns=found.returns)),
            words=[
                f"moves from {found.state.active_site}, where its members are off then",
                *(
                    f"first removes {kind} {name or 'without a name'} ({id_}) at {found.to}"
                    for kind, them in (
                        ("server", removes.servers if removes else {}),
                        ("port", removes.ports if removes else {}),
                        ("volume", removes.volumes if removes else {}),
                    )
                    for id_, name in them.items()
                ),
                *(found.plan.words() if found.plan else ()),
                *(f"runbook step {step}" for step in found.steps),
            ],
        )
        quotas = found.plan.quotas if found.plan else ()
        return Look(target, None, found.warnings, quotas, definition=definition)

    def made(self, deployment: Deployment, target: Target, given: Given) -> RunRow | str:
        if (there := self._is_there(deployment, target.vnf, target.site)) is not None:
            return str(there)
        found = migrate_preparation.prepare(deployment, target.vnf, target.site, back=self.back)
        _must_be_as_confirmed(target, found.state, deployment.vnfs.get(target.vnf), None)
        steps = [planned.step for planned in found.steps]
        asked = migrate.Asked(removes=target.removes, steps=steps, definition=target.definition)
        return migrate.requested(found.state, found.to, asked)

    def _is_there(self, deployment: Deployment, vnf: str, to: str | None) -> ProtectedVnf | None:
        """The state of a VNF that is where it is to go; None for any other."""
        state = activity.decided(deployment, vnf).state
        is_there = state.state is VnfState.ACTIVE and state.active_site == to
        return state if is_there else None


class OfFailback(OfMigrate):
    name = "failback"
    wants_site = False
    back = True

    def look(self, deployment: Deployment, vnf: str, to: str | None, given: Given) -> Look:
        found = super().look(deployment, vnf, to, given)
        primary = deployment.vnfs.get(vnf).primary
        if to is None and found.target.site != primary:
            # given again, the plan would move it to and fro
            raise InvalidInput(
                f"{vnf} came from {found.target.site}, and its primary is {primary}: name the site"
                " with --to"
            )
        return found

    def _is_there(self, deployment: Deployment, vnf: str, to: str | None) -> ProtectedVnf | None:
        """Without a site a VNF goes back to its primary, so that a plan which is given again moves
        none away from there.
        """
        return super()._is_there(deployment, vnf, to or deployment.vnfs.get(vnf).primary)


def _is_there(deployment: Deployment, vnf: str, to: str, given: Given) -> str | None:
    """That a VNF is active at a site; None where it is not."""
    deployment.config.site(to)
    state = activity.before_failover(deployment, vnf, to, lost=given.lost_vaults).state
    is_there = state.state is VnfState.ACTIVE and state.active_site == to
    return str(state) if is_there else None


def _must_be_as_confirmed(
    target: Target, state: ProtectedVnf, definition: Vnf, point_digest: str | None
) -> None:
    """See that what was confirmed still holds.

    Raises:
        Busy: it does not.
    """
    if state.generation != target.generation:
        raise Busy(f"{state}: it has moved since the plan was confirmed")
    if definition.digest != target.definition:
        raise Busy(
            f"the definition of {target.vnf} was changed since the plan was confirmed: give the"
            " command again, to see what is done"
        )
    if point_digest != target.point_digest:
        raise Busy(f"recovery point {target.recovery_point} was changed since it was confirmed")

# SPDX-License-Identifier: Apache-2.0
"""The newest data that has arrived of replicated volumes, in the place of the states of a recovery
point: all replicas are promoted before any volume is made, or none is used.

Each volume is cloned from a state that is kept of its promoted replica. So a recovery from heads is
afterwards as one from a point, and a replica keeps its name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from antipode.datastores import storage_at
from antipode.datastores.promotable import PromotableStorage, of_promotable
from antipode.errors import AntipodeError, Busy, InvalidInput, ResourceFailed, Stopped
from antipode.model.datastore import Health
from antipode.model.plan import HeadPlan, RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.source import ReplicatedHead, ReplicatedState, VolumeSource
from antipode.model.steps import StepName, Timeline
from antipode.recover.recovery import Recovery

if TYPE_CHECKING:
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
AT_ONCE = 16
"""Replicas that are promoted at once."""


class HeadSteps(StepName):
    PROMOTE = "3.4", "promote the replicas of volumes"
    DEMOTE = "", "demote the replicas of volumes"


def of(point: RecoveryPoint) -> RecoveryPoint:
    """A recovery point with the newest data that has arrived in the place of its states.

    Raises:
        InvalidInput: none of its volumes is replicated.
    """
    if not point.states:
        raise InvalidInput(
            f"recovery point {point.id} has no replicated volume, so there are no newest heads of"
            " it. Leave --newest-heads out"
        )
    sources = {volume: _head(point, source) for volume, source in point.sources.items()}
    return point.model_copy(update={"sources": sources, "consistency": "replica"})


def _head(point: RecoveryPoint, source: VolumeSource) -> VolumeSource:
    if not isinstance(source, ReplicatedState):
        return source
    fields = source.model_dump(exclude={"kind", "state"})
    head = f"antipode-head-{point.id}"
    return ReplicatedHead(**fields, state=head, kept_state=source.state)


def seen(point: RecoveryPoint, site: Site) -> list[HeadPlan]:
    """The newest that has arrived at a site of each replicated volume, as its storage says now;
    none where that is not known.
    """
    names = {v.id: v.name or v.id for v in point.topology.volumes}
    found: list[HeadPlan] = []
    for name, sources in point.of_storages.items():
        try:
            storage = storage_at(site, name)
            replicas = storage.replicas([s.image for s in sources.values()])
        except AntipodeError as error:
            LOG.info("the newest heads at %s are not known: %s", site.name, error)
            return []
        found += [
            HeadPlan(
                volume=names[volume],
                storage=name,
                image=source.image,
                state=source.state,
                health=replicas[source.image].health,
                lag_s=replicas[source.image].lag_s,
            )
            for volume, source in sources.items()
        ]
    return found


def problems(point: RecoveryPoint, site: Site) -> Iterator[str]:
    """What keeps heads from being promoted at a site; a sentence for each."""
    names = {v.id: v.name or v.id for v in point.topology.volumes}
    for name, sources in point.of_storages.items():
        try:
            storage = of_promotable(storage_at(site, name))
            unfit = storage.unfit([s.image for s in sources.values()])
        except AntipodeError as error:
            yield str(error)
            continue
        for volume, source in sources.items():
            if (reason := unfit.get(source.image)) is not None:
                yield (
                    f"{storage.label}: volume {names[volume]} must not be promoted: {reason}. To"
                    " recover from the recovery point: without --newest-heads"
                )


def warnings(heads: Iterable[HeadPlan], point: RecoveryPoint) -> Iterator[str]:
    """What an operator should know who takes heads."""
    heads = list(heads)
    if len(heads) > 1:
        yield (
            "the newest heads of volumes are of no common moment: take them for applications only"
            " that keep their own consistency"
        )
    if writable := [h.volume for h in heads if h.health is Health.WRITABLE]:
        yield (
            f"volume {', '.join(writable)} was promoted already, by an earlier attempt or by hand:"
            " what was written at the active site since is not in it"
        )
    if len(heads) < len(point.sources):
        yield (
            f"{len(point.sources) - len(heads)} volumes are not replicated, and come back as they"
            f" were at {point.consistent_at}"
        )


def promote(recovery: Recovery, may_change: Callable[[], None]) -> None:
    """Promote the replicas of all volumes and keep a state of each: a barrier, of which all pass or
    no volume is made. None is promoted before all are seen to be whole. Safe to repeat.

    Args:
        may_change: called before each is promoted; raises where that must not be.

    Raises:
        ResourceFailed: some is not; the message says which, and which is.
        Busy: another failover has the VNF.
    """
    r = recovery
    if found := list(problems(r.point, r.site)):
        raise ResourceFailed(
            f"{r.site.name}: no replica is promoted, and no volume is made: {'; '.join(found)}",
            resource=f"VNF {r.plan.vnf}",
        )
    storages = _storages(r.site, r.plan)

    def promoted(head: HeadPlan) -> str | None:
        storage = storages[head.storage]
        try:
            r.go_on()
            with r.timeline.step(HeadSteps.PROMOTE, _resource(head)) as step:
                may_change()
                storage.promote(head.image)
                storage.keep_head(head.image, head.state)
                step.result(image=head.image, state=head.state, behind_s=head.lag_s)
        except (Stopped, Busy):
            raise
        except AntipodeError as error:
            return f"volume {head.volume}: {error}"
        return None

    heads = r.plan.heads
    with ThreadPoolExecutor(min(len(heads), AT_ONCE), "heads") as pool:
        failed = dict(zip([h.volume for h in heads], pool.map(promoted, heads), strict=True))
    if reasons := [reason for reason in failed.values() if reason is not None]:
        ready = [volume for volume, reason in failed.items() if reason is None]
        raise ResourceFailed(
            f"{r.site.name}: not all replicas are promoted, so no volume is made:"
            f" {'; '.join(reasons)}. Promoted: {', '.join(ready) or 'none'}",
            resource=f"VNF {r.plan.vnf}",
        )


def begun(steps: Iterable[tuple[str, str, str]]) -> dict[str, bool]:
    """The replicas whose promotion a run has begun, as `demote` takes them.

    Args:
        steps: of the run, each by its name, its resource and its state.
    """
    found: dict[str, bool] = {}
    for name, resource, state in steps:
        if name == HeadSteps.PROMOTE.words:
            found[resource] = found.get(resource, False) or state == "succeeded"
    return found


def demote(
    site: Site,
    plan: RecoveryPlan,
    timeline: Timeline,
    was_begun: Mapping[str, bool],
    may_change: Callable[[], None],
) -> list[str]:
    """Have replicas not writable that a recovery has promoted, and remove the states that it has
    kept of them; what stays to be done about them. Safe to repeat.

    Args:
        was_begun: those whose promotion was begun -> whether it is known to have succeeded.
        may_change: called before each is demoted; raises where that must not be.
    """
    left: list[str] = []
    storages = _storages(site, plan)
    for head in plan.heads:
        if not plan.takes_heads or _resource(head) not in was_begun:
            continue
        try:
            may_change()
            with timeline.step(HeadSteps.DEMOTE, _resource(head)):
                storage = storages[head.storage]
                was_original = storage.replicas([head.image])[head.image].is_original
                _demoted(storage, head)
        except Stopped:
            raise
        except AntipodeError as error:
            left.append(f"replica {head.image} of volume {head.volume} may be writable: {error}")
            continue
        if not was_original and not was_begun[_resource(head)]:
            continue
        left.append(
            f"replica {head.image} of volume {head.volume} at {site.name} was promoted, and follows"
            " no longer. To have it follow again: antipode datastore prepare"
            f" {plan.vnf} --overwrite {site.name}"
        )
    return left


def settled(recovery: Recovery) -> list[str]:
    """Demote the replicas once the VNF is active and its volumes rest on them no longer: the
    storage has one original again when the former site returns. What could not be done.
    """
    left: list[str] = []
    storages = _storages(recovery.site, recovery.plan)
    for head in recovery.plan.heads:
        try:
            recovery.go_on()
            with recovery.timeline.step(HeadSteps.DEMOTE, _resource(head)):
                _demoted(storages[head.storage], head)
        except Stopped:
            raise
        except AntipodeError as error:
            left.append(
                f"replica {head.image} of volume {head.volume} at {recovery.site.name} is writable"
                f" still: {error}. Demote it before {recovery.point.site} returns"
            )
    return left


def _demoted(storage: PromotableStorage, head: HeadPlan) -> None:
    storage.drop_head(head.image, head.state)
    storage.demote(head.image)


def _storages(site: Site, plan: RecoveryPlan) -> dict[str, PromotableStorage]:
    """Those of the heads of a plan, by name."""
    names = {head.storage for head in plan.heads}
    return {name: of_promotable(storage_at(site, name)) for name in names}


def _resource(head: HeadPlan) -> str:
    return f"replica {head.image}"

# SPDX-License-Identifier: Apache-2.0
"""The data that the application of a VNF replicates by itself, in a recovery: promoted at the
recovering site before any member boots (steps 3.3, 3.4), and demoted when the recovery is undone.

It is promoted whole: what has arrived since the recovery point stays in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from antipode.datastores.application import USABLE, Application, Data, application_at
from antipode.errors import AntipodeError, Busy, ResourceFailed, Stopped
from antipode.model.datastore import Health, Standing, StorageAt, Verb
from antipode.model.plan import DataPlan, RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.steps import StepName, Timeline
from antipode.model.vnf import Vnf
from antipode.recover.findings import Findings
from antipode.recover.recovery import Recovery

if TYPE_CHECKING:
    from antipode.cloud.site import Site


class DataSteps(StepName):
    PROMOTE = "3.3", "promote the data of the application"
    DEMOTE = "", "demote the data of the application"


def planned(point: RecoveryPoint, site: Site, findings: Findings) -> list[DataPlan]:
    """What is going to be done about the data of a point at a site, which is asked now.

    Args:
        findings: gets what stands in the way, and what the operator should know.
    """
    if missing := sorted(set(point.vnf.datastores_of_applications) - set(point.datastores)):
        findings.warnings.append(
            f"recovery point {point.id} has no position of datastore {', '.join(missing)}, which"
            " is not promoted; a point that is made now has"
        )
    return [plan for name in point.datastores for plan in _planned(name, point, site, findings)]


def of_a_drill(point: RecoveryPoint) -> Iterator[str]:
    """What a drill does not do about the data of a point, for the operator."""
    if point.datastores:
        yield (
            f"datastore {', '.join(point.datastores)} is not promoted, as that would end its"
            " replication: the members of the drill have none of its data"
        )


def cannot_be_undone(point: RecoveryPoint, site: Site) -> Iterator[str]:
    """The data of a point that keeps a VNF from being started again where it was, a sentence each:
    data that was promoted elsewhere, and data that is not in use there.

    Args:
        site: where the VNF was.
    """
    for name in point.datastores:
        try:
            there = application_at(site.storages, site.name, _storage(point, name))
            if Verb.PROMOTE in there.verbs:
                yield (
                    f"datastore {name} was promoted by the failover, and an undo brings no data"
                    f" back that an application replicates: fail over to {site.name}, or migrate"
                )
            elif not there.is_in_use((found := there.status(Data(point.vnf.vnf, name))).health):
                yield (
                    f"datastore {name} is not in use at {site.name}: it is {found.health}"
                    f" ({found.detail})"
                )
        except AntipodeError as error:
            yield f"datastore {name}: {error}"


def writable(vnf: Vnf, site: str, storages: Mapping[str, StorageAt]) -> Iterator[str]:
    """The data that is still an original at a site where the VNF is active no more, a sentence
    each. What cannot be asked is named as well.
    """
    for name, datastore in vnf.datastores_of_applications.items():
        try:
            there = application_at(storages, site, datastore.storage)
            found = there.status(Data(vnf.vnf, name))
            if Verb.PROMOTE in there.verbs and there.is_writable(found):
                yield (
                    f"datastore {name} is writable at {site}, and what is written there is in no"
                    f" recovery point. {_follow_again(vnf.vnf, site)}"
                )
        except AntipodeError as error:
            yield f"datastore {name} may be writable at {site}: {error}"


def _storage(point: RecoveryPoint, name: str) -> str:
    """The storage of a datastore: as the VNF file has it now, where it has it."""
    defined = point.vnf.datastores_of_applications.get(name)
    return defined.storage if defined else point.datastores[name].storage


def promote(recovery: Recovery, may_change: Callable[[], None]) -> None:
    """Have all data of the VNF writable at the site: a barrier, of which all pass or none. None is
    promoted before all is seen to be fit. Safe to repeat.

    Args:
        may_change: called before each is promoted; raises where that must not be.

    Raises:
        ResourceFailed: some is not; the message says which, and which is.
        Busy: another failover has the VNF.
    """
    r = recovery
    _all_of(r, lambda plan: _must_be_fit(r, plan), "none is promoted and no member is booted")
    _all_of(r, lambda plan: _promote(r, plan, may_change), "no member is booted")


def _all_of(r: Recovery, do: Callable[[DataPlan], object], so: str) -> None:
    """Do something with all data at once.

    Args:
        so: what follows where it fails.

    Raises:
        ResourceFailed: it has failed with some; the message says with which.
    """

    def problem_of(plan: DataPlan) -> str | None:
        try:
            do(plan)
        except (Stopped, Busy):
            raise
        except AntipodeError as error:
            return f"datastore {plan.name}: {error}"
        return None

    plans = r.plan.datastores
    with ThreadPoolExecutor(len(plans), "promote") as pool:
        problems = list(pool.map(problem_of, plans))
    if failed := [problem for problem in problems if problem is not None]:
        names = [p.name for p, problem in zip(plans, problems, strict=True) if problem is None]
        raise ResourceFailed(
            f"{r.site.name}: not all data is ready, so {so}: {'; '.join(failed)}."
            f" Ready: {', '.join(names) or 'none'}",
            resource=f"VNF {r.plan.vnf}",
        )


def begun(steps: Iterable[tuple[str, str]], what: DataSteps) -> set[str]:
    """The datastores of which a run has begun a step. Its command may run on after the process of
    the run has died, so that the data is not yet as it makes it.

    Args:
        steps: of the run, each by its name and its resource.
    """
    return {resource.removeprefix(_resource("")) for name, resource in steps if name == what.words}


def demote(
    site: Site,
    plan: RecoveryPlan,
    timeline: Timeline,
    go_on: Callable[[], None],
    was_begun: Collection[str],
    may_change: Callable[[], None],
) -> list[str]:
    """Have data not writable that a recovery may have promoted and that is active elsewhere; what
    stays to be done about it. Safe to repeat.

    Args:
        was_begun: the datastores whose promotion was begun, which may end only now.
        may_change: called before each is demoted; raises where that must not be.
    """
    left: list[str] = []
    for one in plan.datastores:
        if not one.promotes:
            continue
        data = Data(plan.vnf, one.name, go_on)
        try:
            there = application_at(site.storages, site.name, one.storage)
            is_writable = there.is_writable(there.status(data))
            if not is_writable and one.name not in was_begun:
                continue
            if Verb.DEMOTE not in there.verbs:
                left.append(
                    f"datastore {one.name} {'stays' if is_writable else 'may become'} writable at"
                    f" {site.name}: {there.label} has no verb {Verb.DEMOTE}."
                    f" {_follow_again(plan.vnf, site.name)}"
                )
                continue
            may_change()
            with timeline.step(DataSteps.DEMOTE, _resource(one.name)) as step:
                step.result(position=_demoted(there, data))
            left.append(
                f"datastore {one.name} at {site.name} was promoted, and follows no longer."
                f" {_follow_again(plan.vnf, site.name)}"
            )
        except Stopped:
            raise
        except AntipodeError as error:
            left.append(f"datastore {one.name} may be writable at {site.name}: {error}")
    return left


def cannot_be_handed_over(
    former: Sequence[tuple[Data, Application]], heirs: Sequence[Application]
) -> list[str]:
    """The data that a migration would leave writable at both sites, a sentence each.

    Args:
        former, heirs: as for `hand_over`.
    """
    return [
        f"datastore {data.datastore} would be writable at both sites: {here.label} has no verb"
        f" {Verb.DEMOTE}"
        for (data, here), there in zip(former, heirs, strict=True)
        if Verb.PROMOTE in there.verbs and Verb.DEMOTE not in here.verbs
    ]


def hand_over(
    former: Sequence[tuple[Data, Application]],
    heirs: Sequence[Application],
    timeline: Timeline,
    timeline_is_kept: Callable[[], None],
    await_position: Callable[[Application, Application, Data, str], None],
) -> None:
    """Demote data where the VNF was, and wait until all of it has arrived where it is going to be.

    Args:
        former: the data at the former site.
        heirs: the same at the other one, in the same order.
        timeline_is_kept: called before each is demoted: `take_back` looks for its step.
        await_position: waits until a position is reached, or raises.

    Raises:
        AntipodeError: some could not be demoted, or has not arrived.
    """
    if problems := cannot_be_handed_over(former, heirs):
        raise ResourceFailed("; ".join(problems))
    for (data, here), there in zip(former, heirs, strict=True):
        if Verb.DEMOTE not in here.verbs:
            continue
        with timeline.step(DataSteps.DEMOTE, _resource(data.datastore)) as step:
            timeline_is_kept()
            position = _demoted(here, data)
            step.result(position=position)
            if position is not None:
                await_position(here, there, data, position)


def take_back(
    former: Sequence[tuple[Data, Application]],
    heirs: Sequence[Application],
    timeline: Timeline,
    was_begun: Collection[str],
) -> list[str]:
    """Promote data again that `hand_over` may have demoted, where the VNF stays after all; what
    could not be. It is not promoted while it is writable at the other site. Safe to repeat.

    Args:
        heirs: the data at the other site that a recovery may have promoted; none where there was
            no recovery, and that site may be gone.
        was_begun: the datastores whose demotion was begun, which may end only now.
    """
    left: list[str] = []
    there = {data.datastore: heir for (data, _), heir in zip(former, heirs, strict=False)}
    for data, here in former:
        if not {Verb.PROMOTE, Verb.DEMOTE} <= here.verbs:
            continue
        try:
            is_writable = here.status(data).health is Health.WRITABLE
            if is_writable and data.datastore not in was_begun:
                continue
            heir = there.get(data.datastore)
            if heir is not None and heir.is_writable(heir.status(data)):
                left.append(
                    f"datastore {data.datastore} is writable at {heir.site}, so it is not promoted"
                    f" at {here.site}, where the VNF is active. Make it not writable there, then"
                    f" promote it at {here.site}"
                )
                continue
            with timeline.step(DataSteps.PROMOTE, _resource(data.datastore)) as step:
                _made_writable(here, data, None)
                step.result(site=here.site)
        except Stopped:
            raise
        except AntipodeError as error:
            left.append(f"datastore {data.datastore} may not be writable at {here.site}: {error}")
    return left


def _resource(datastore: str) -> str:
    return f"datastore {datastore}"


def _follow_again(vnf: str, site: str) -> str:
    return f"To have it follow again: antipode datastore prepare {vnf} --overwrite {site}"


def _planned(name: str, point: RecoveryPoint, site: Site, findings: Findings) -> Iterator[DataPlan]:
    kept, data = point.datastores[name], Data(point.vnf.vnf, name)
    try:
        storage = _storage(point, name)
        there = application_at(site.storages, site.name, storage)
        findings.problems += there.problems()
        found = there.status(data, kept.position)
        reference = there.reference(data)
    except AntipodeError as error:
        findings.problems.append(f"datastore {name}: {error}")
        return
    promotes = Verb.PROMOTE in there.verbs
    if (problem := _unfit(found, kept.position)) is not None:
        findings.problems.append(f"datastore {name} at {site.name} {problem}")
    elif promotes and found.health is Health.WRITABLE:
        findings.warnings.append(
            f"datastore {name} is writable at {site.name} already, by an earlier attempt or by"
            " hand: what was written at the active site since is not in it"
        )
    elif found.health is Health.STOPPED:
        lag = "" if found.lag_s is None else f", {found.lag_s:g} s behind"
        findings.warnings.append(
            f"datastore {name} at {site.name} is not replicated now ({found.detail}{lag}): what was"
            f" written after {found.position} is not in it"
        )
    yield DataPlan(
        name=name,
        storage=storage,
        position=kept.position,
        reference=reference,
        promotes=promotes,
        found=f"{found.health} at {found.position}",
    )


def _unfit(found: Standing, position: str) -> str | None:
    """Why data is not to be recovered from; None where it is."""
    if found.health not in USABLE:
        return f"is {found.health} ({found.detail})"
    if not found.reached:
        return (
            f"has not reached {position}, which the recovery point has: it is at {found.position}"
        )
    return None


def _at(r: Recovery, plan: DataPlan) -> tuple[Data, Application]:
    data = Data(r.plan.vnf, plan.name, r.go_on)
    return data, application_at(r.site.storages, r.site.name, plan.storage)


def _must_be_fit(r: Recovery, plan: DataPlan) -> Standing:
    """How the data of one datastore is at the site.

    Raises:
        ResourceFailed: it lacks what the point has.
    """
    r.go_on()
    data, there = _at(r, plan)
    found = there.status(data, plan.position)
    if (problem := _unfit(found, plan.position)) is not None:
        raise ResourceFailed(f"it {problem}")
    return found


def _promote(r: Recovery, plan: DataPlan, may_change: Callable[[], None]) -> None:
    """Have the data of one datastore ready at the site.

    Raises:
        ResourceFailed: it lacks what the point has, or is not writable though it was promoted.
    """
    data, there = _at(r, plan)
    with r.timeline.step(DataSteps.PROMOTE, _resource(plan.name)) as step:
        before = _must_be_fit(r, plan)
        if plan.promotes and before.health is not Health.WRITABLE:
            may_change()
            _made_writable(there, data, plan.position)
        after = there.status(data, plan.position)
        if (problem := _unfit(after, plan.position)) is not None:
            raise ResourceFailed(f"once it was promoted, it {problem}")
        step.result(
            position=after.position,
            reference=plan.reference,
            found=before.health is Health.WRITABLE,
            promoted=plan.promotes,
        )


def _demoted(there: Application, data: Data) -> str | None:
    """Have data not writable; the last position that it had, if that is said.

    Raises:
        ResourceFailed: it is writable still.
    """
    position = there.demote(data)
    if there.is_writable(there.status(data)):
        raise ResourceFailed(f"{there.label}: it was demoted, and is writable still")
    return position


def _made_writable(there: Application, data: Data, position: str | None) -> None:
    """Promote data.

    Raises:
        ResourceFailed: it is not writable then.
    """
    there.promote(data, position)
    after = there.status(data)
    if after.health is not Health.WRITABLE:
        raise ResourceFailed(
            f"{there.label}: it was promoted, and is {after.health} ({after.detail})"
        )

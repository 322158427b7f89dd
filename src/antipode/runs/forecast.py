# SPDX-License-Identifier: Apache-2.0
"""Forecasts how long recoveries would take, and keeps what was forecast when one begins, so that it
can be compared with what it took. No site is asked.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from antipode import clock
from antipode.engine.deployment import Deployment
from antipode.engine.kind import RunKind
from antipode.engine.run import Run
from antipode.errors import Stopped
from antipode.model.forecast import Forecast
from antipode.model.point import RecoveryPoint
from antipode.model.steps import StepName
from antipode.model.topology import Volume
from antipode.recover.queueing import Batch, ServerWork, VnfWork, simulate
from antipode.recover.recovery import OF_NO_SERVER
from antipode.recover.sources import PROVIDERS
from antipode.runs import kind_of, standing_status
from antipode.runs.measured import (
    Choice,
    Measured,
    duration,
    high,
    measured,
    of_one_or_all,
    typical,
)
from antipode.store.tables import ForecastRow, RunRow

LOG = logging.getLogger(__name__)
COMPARED = 10
"""The newest forecasts of a VNF by which the error of the next is known."""


@dataclass(frozen=True)
class Group:
    """VNFs, by their newest points, of which so many are recovered at once."""

    points: Sequence[RecoveryPoint]
    at_once: int


@dataclass(frozen=True)
class Joint:
    """The forecast of several VNFs that are recovered together."""

    each: Mapping[str, Forecast]
    begins_in_s: Mapping[str, float | None]
    """by VNF, when its recovery begins; None where it is not known"""
    all_of_them: Mapping[str, Forecast]
    """by site"""


def forecast(deployment: Deployment, point: RecoveryPoint, site: str, kind: RunKind) -> Forecast:
    """How long the recovery of a VNF would take, if it were the only one.

    Args:
        kind: of the run that would do it; some compare content, too.
    """
    joint = together(deployment, [Group([point], 1)], {point.vnf.vnf: site}, kind)
    return joint.each[point.vnf.vnf]


def together(
    deployment: Deployment, groups: Sequence[Group], to: Mapping[str, str], kind: RunKind
) -> Joint:
    """How long the recovery of VNFs would take; those at one site share its limits, and one group
    begins when the one before is done at every site.

    Args:
        to: by VNF, the site where it is recovered.
    """
    names = [point.vnf.vnf for g in groups for point in g.points]
    best = {site: _best(deployment, site) for site in sorted({to[name] for name in names})}
    found = {name: best[to[name]][0] for name in names}
    every = {point.vnf.vnf: point for g in groups for point in g.points}
    roads = {
        name: _roads(deployment, point, to[name], found[name]) for name, point in every.items()
    }
    unmeasured = {
        name: _unmeasured(point, found[name], roads[name]) for name, point in every.items()
    }
    missing = list(dict.fromkeys(what for each in unmeasured.values() for what in each))
    if missing:
        each = {
            name: Forecast(
                back_in_s=None,
                error_s=None,
                basis=best[to[name]][1],
                unmeasured=unmeasured[name] or missing,
            )
            for name in names
        }
        nothing = {
            site: Forecast(back_in_s=None, error_s=None, basis=basis, unmeasured=missing)
            for site, (_, basis) in best.items()
        }
        return Joint(each, dict.fromkeys(names), nothing)
    restores = deployment.config.limits.restores

    def batches(choice: Choice) -> list[Batch]:
        def work(point: RecoveryPoint) -> VnfWork:
            name = point.vnf.vnf
            made = _work(point, found[name], roads[name], kind, choice)
            return replace(made, site=to[name])

        return [Batch([work(point) for point in g.points], g.at_once) for g in groups]

    usual = simulate(batches(typical), restores)
    slow = simulate(batches(high), restores)
    past = {name: _past_error_s(deployment, name, to[name], kind) for name in names}
    each = {
        name: Forecast(
            back_in_s=round(span.ends_s, 3),
            error_s=round(max(slow[name].ends_s - span.ends_s, past[name] or 0.0, 0.0), 3),
            basis=best[to[name]][1],
        )
        for name, span in usual.items()
    }
    all_of_them = {
        site: _last([each[name] for name in names if to[name] == site], basis)
        for site, (_, basis) in best.items()
    }
    begins = {name: round(span.begins_s, 3) for name, span in usual.items()}
    return Joint(each, begins, all_of_them)


def _last(each: Sequence[Forecast], basis: list[str]) -> Forecast:
    """When the last of several VNFs is back."""
    usual = max(f.back_in_s or 0.0 for f in each)
    worst = max((f.back_in_s or 0.0) + (f.error_s or 0.0) for f in each)
    return Forecast(
        back_in_s=round(usual, 3), error_s=round(max(worst - usual, 0.0), 3), basis=basis
    )


def _best(deployment: Deployment, site: str) -> tuple[Measured, list[str]]:
    """What was measured at a site, else anywhere, and words for it."""
    for place in (site, None):
        found = measured(deployment, place)
        if found.runs:
            newest = found.runs[0].id
            where = f"at {site}" if place is not None else f"at other sites than {site}"
            return found, [f"measured by {len(found.runs)} runs {where}, the newest {newest}"]
    return Measured(), ["no failover and no drill has succeeded yet as far as this host knows"]


@dataclass(frozen=True)
class _Road:
    """How a volume would come."""

    step: StepName | None
    """the step that it takes; None: none"""
    size: float = 0.0
    """bytes on which its time depends"""
    records: int = 0
    """of backups, which are imported for it"""
    turn: str = ""
    """those of the same come one after another; empty: it waits for none"""
    is_quick: bool = False
    """it takes next to nothing, also where that was never measured"""


def _roads(
    deployment: Deployment, point: RecoveryPoint, site: str, found: Measured
) -> dict[str, _Road]:
    """By the id of a disk, how it would come at a site: from a standing volume that is at the
    point, written by the mover where that was measured, or as its kind of source brings it.
    """
    not_standing = standing_status.stands_at(deployment, point.vnf.vnf, site, point.id)
    restores = deployment.mover_restores(site)
    roads = {}
    for disk in point.topology.disks:
        source = point.source_of(disk.id)
        provider = PROVIDERS.get(source.kind)
        writes = provider.written_step if restores and provider.is_written(source) else None
        stands = not_standing is not None and not {disk.name, disk.id} & set(not_standing)
        if stands and provider.standing_step is not None:
            roads[disk.id] = _Road(provider.standing_step, is_quick=True)
        elif writes is not None and found.volumes.get(writes.words):
            roads[disk.id] = _Road(writes, source.size_gib << 30)
        else:
            roads[disk.id] = _Road(
                provider.volume_step,
                provider.moved_bytes(source),
                provider.records(source),
                source.reference if provider.takes_turns else "",
            )
    return roads


def _unmeasured(point: RecoveryPoint, found: Measured, roads: Mapping[str, _Road]) -> list[str]:
    """What a recovery needs and was never measured."""
    lacking = [
        f"volumes of {point.source_of(disk).kind}"
        for disk, road in roads.items()
        if road.step is not None and not road.is_quick and not found.volumes.get(road.step.words)
    ]
    lacking = list(dict.fromkeys(lacking))
    if not any(found.boots.values()):
        lacking.append("boots")
    return lacking


def _work(
    point: RecoveryPoint,
    found: Measured,
    roads: Mapping[str, _Road],
    kind: RunKind,
    choice: Choice,
) -> VnfWork:
    name, vnf = point.vnf.vnf, point.vnf
    labels = {m.label: s.name for m, s in zip(vnf.members, point.topology.servers, strict=True)}
    before = vnf.predecessors()
    compares = duration(found.compares, 0.0, choice) if found.compares else 0.0
    turns: Counter[str] = Counter()

    def disks_of(label: str, disks: Sequence[Volume]) -> ServerWork:
        """What the disks of a server take, or the volumes of none."""
        of_disks = [roads[disk.id] for disk in disks]
        records = sum(road.records for road in of_disks)
        volumes = []
        for road in of_disks:
            if road.step is not None and (samples := found.volumes.get(road.step.words)):
                turns[road.turn] += 1
                seconds = duration(samples, road.size, choice)
                volumes.append(seconds * (turns[road.turn] if road.turn else 1))
        return ServerWork(
            name=label,
            imports_s=duration(found.imports, records, choice)
            if records and found.imports
            else 0.0,
            volumes_s=volumes,
            ports_s=0.0,
            compares_s=compares * len(of_disks) if kind.compare_step is not None else 0.0,
            boot_s=0.0,
            answers_s=0.0,
        )

    servers = []
    for member, server in zip(vnf.members, point.topology.servers, strict=True):
        is_probed = member.answers is not None or member.drill is not None
        answers = of_one_or_all(found.answers, name) if is_probed else []
        servers.append(
            replace(
                disks_of(server.name, server.disks),
                ports_s=choice(found.ports) if found.ports else 0.0,
                boot_s=choice(of_one_or_all(found.boots, name)),
                answers_s=choice(answers) if answers else 0.0,
                after=sorted(labels[other] for other in before[member.label]),
            )
        )
    if point.topology.unattached:
        # the VNF is not back before they are there, though nothing boots from them; they come last
        free = disks_of(OF_NO_SERVER, point.topology.unattached)
        servers.append(replace(free, after=[s.name for s in servers]))
    around = (of_one_or_all(each, kind.name) for each in (found.before, found.after))
    before_s, after_s = (choice(each) if each else 0.0 for each in around)
    return VnfWork(name, servers, before_s, after_s)


def _past_error_s(deployment: Deployment, vnf: str, site: str, kind: RunKind) -> float | None:
    """By how much the newest forecasts of a VNF were wrong: the median. What a run that was
    interrupted took has the time in which it stood still, and says nothing.
    """
    errors = [
        abs(off)
        for kept, row in deployment.forecasts.with_runs(vnf)
        if kept.site == site
        and kept.kind == kind.name
        and row is not None
        and row.claim == 1
        and (off := off_by_s(kept, took_s(kept, row))) is not None
    ]
    return median(errors[:COMPARED]) if errors else None


def keep(run: Run, point: RecoveryPoint, site: str) -> None:
    """Keep what is forecast for a run that begins; once, also where the run is resumed. A
    forecast that fails is in the log, and holds up no recovery.

    Raises:
        Stopped: the run must stop.
    """
    try:
        made = forecast(run.deployment, point, site, kind_of(run.kind))
        run.deployment.forecasts.keep(
            ForecastRow(
                run=run.id,
                kind=run.kind,
                vnf=run.vnf,
                site=site,
                made_at=clock.now(),
                back_in_s=made.back_in_s,
                error_s=made.error_s,
                loses_s=round(point.age_s, 3),
                basis=made.basis,
                unmeasured=made.unmeasured,
            )
        )
    except Stopped:
        raise
    except Exception:
        LOG.exception("what run %s will take could not be forecast", run.id)


def compared(
    deployment: Deployment, vnf: str | None = None
) -> list[tuple[ForecastRow, float | None]]:
    """The forecasts that were kept, the newest first, each with the seconds that it took; None:
    the run has not succeeded.
    """
    return [(kept, took_s(kept, row)) for kept, row in deployment.forecasts.with_runs(vnf)]


def took_s(kept: ForecastRow, row: RunRow | None) -> float | None:
    """How long a run took from its forecast until the VNF was back."""
    if row is None or row.state != "succeeded":
        return None
    total = row.result.get("rto_s", row.result.get("recovered_s"))
    confirmed_at = (row.request or {}).get("confirmed_at")
    if not isinstance(total, int | float) or not isinstance(confirmed_at, int | float):
        return None
    return round(confirmed_at + total - kept.made_at, 3)


def off_by_s(kept: ForecastRow, took: float | None) -> float | None:
    """By how much a forecast was wrong: positive where it took longer."""
    if took is None or kept.back_in_s is None:
        return None
    return round(took - kept.back_in_s, 3)

# SPDX-License-Identifier: Apache-2.0
"""Which option fits a VNF, and why: by what was measured of it, and what its file wants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise

from antipode import clock
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError
from antipode.model.advice import Cost, Facts, Remark, Weight
from antipode.model.capture import OF_RUNNING_MEMBERS
from antipode.model.steps import Steps
from antipode.model.vnf import Protection, Vnf
from antipode.operations import forecasts, inspect
from antipode.operations.inspect import Look
from antipode.protect.guest_agents import lacking
from antipode.protect.option import OPTIONS, Option
from antipode.runs import protect
from antipode.store.tables import RunRow

MOST_RUNS = 50
"""The newest protections that are measured."""
AHEAD_S, MOST_SLOTS = 400 * 86400.0, 500
"""For how long, and up to how many, the slots of a cron expression are counted."""


@dataclass(frozen=True)
class Advice:
    """One option for a VNF."""

    option: str
    verdict: str
    """fits best, fits, or does not fit"""
    in_use: bool
    remarks: list[Remark]
    calls_per_day: float | None
    """that change something at the active site; None: it is not known how often it is protected"""
    stored_bytes_per_day: float | None
    """None where no change was measured"""


@dataclass(frozen=True)
class Advised:
    """The options for a VNF, the one that fits best first."""

    facts: Facts
    source: str
    """where its servers and volumes were seen"""
    options: list[Advice]


def advise(deployment: Deployment, name: str) -> Advised:
    """What each option says to a VNF. Nothing is changed.

    Raises:
        NotFound: it is neither known here nor has it a recovery point.
        SiteUnreachable: its active site does not answer, and there is no recovery point.
    """
    seen = inspect.look(deployment, name)
    facts = _facts(deployment, seen)
    vnf = seen.status.vnf
    every_s = next((s for p in vnf.protections if (s := _every_s(p)) is not None), None)
    every_s = every_s or (None if vnf.rpo is None else vnf.rpo / 2)
    used = {p.option for p in vnf.protections}
    found = []
    for option in map(OPTIONS.get, OPTIONS.names):
        remarks = [*_of_what_it_captures(option, facts), *option.advise(facts)]
        cost = option.cost(facts)
        found.append((_rank(remarks), option.name, remarks, cost))
    found.sort(key=lambda f: -f[0])
    best = found[0][0] if found and found[0][0] > NEVER else None
    return Advised(
        facts,
        seen.source,
        [
            Advice(
                option,
                "does not fit" if rank == NEVER else "fits best" if rank == best else "fits",
                option in used,
                remarks,
                None if every_s is None else round(cost.calls * 86400 / every_s, 1),
                _stored(cost, facts),
            )
            for rank, option, remarks, cost in found
        ],
    )


NEVER = -1000
"""The rank of an option that is ruled out."""


def _of_what_it_captures(option: Option, facts: Facts) -> Iterator[Remark]:
    """What rules an option out, as `protect` would refuse it."""
    if facts.left_out and not option.captures_a_part:
        words = f"it captures all members, and the file leaves {facts.left_out} out (capture)"
        yield Remark(Weight.RULES_OUT, words)
    if facts.unattached and not option.captures_unattached:
        words = f"it does not capture the {facts.unattached} volumes of no server (volumes)"
        yield Remark(Weight.RULES_OUT, words)


def _rank(remarks: list[Remark]) -> int:
    weights = [r.weight for r in remarks]
    if Weight.RULES_OUT in weights:
        return NEVER
    return weights.count(Weight.FOR) - weights.count(Weight.AGAINST)


def _every_s(protection: Protection) -> float | None:
    """How long it is between two slots, on average where they are those of a cron expression."""
    if (schedule := protection.schedule) is None:
        return None
    if schedule.every is not None:
        return schedule.every
    now = clock.now()
    slots = list(islice(schedule.slots_between(now, now + AHEAD_S), MOST_SLOTS))
    return (slots[-1] - slots[0]) / (len(slots) - 1) if len(slots) > 1 else None


def _stored(cost: Cost, facts: Facts) -> float | None:
    if not cost.stores_changes:
        return 0.0
    return None if facts.bytes_per_hour is None else round(24 * facts.bytes_per_hour)


def _facts(deployment: Deployment, seen: Look) -> Facts:
    vnf, topology, active = seen.status.vnf, seen.topology, seen.status.state.active_site
    members = {m.server: m for m in vnf.members}
    rows = deployment.runs.newest(
        MOST_RUNS, vnf=vnf.vnf, kinds=[protect.KIND.name], states=["succeeded"]
    )
    captured = [s for s in topology.servers if not {s.name, s.id} & seen.untouched.keys()]
    running = [s for s in captured if not s.is_off]
    kept_root = [
        server
        for server in captured
        if server.root_disk is not None
        and not any(m.root for n, m in members.items() if n in (server.name, server.id))
    ]
    return Facts(
        members=len(topology.servers),
        without_agent=len(lacking(topology.model_copy(update={"servers": running}))),
        root_disks=len(kept_root),
        has_roles=any(m.role for m in vnf.members),
        volumes=len(topology.volumes),
        gib=sum(volume.size_gib for volume in topology.volumes),
        has_add_on=_has_add_on(deployment, vnf, active),
        replicated=_replicated(deployment, seen),
        application_data=bool(vnf.datastores_of_applications),
        bytes_per_hour=_bytes_per_hour(rows),
        carried_per_s=_carried_per_s(deployment, rows),
        rpo_s=vnf.rpo,
        rto_s=vnf.rto,
        restores_in_s=_restores_in_s(deployment, vnf.vnf),
        accepts_running=any(p.consistency in OF_RUNNING_MEMBERS for p in vnf.protections),
        left_out=len(topology.servers) - len(captured),
        unattached=len(topology.unattached),
        shared=len(topology.shared_volumes),
        points=len(rows),
        scaled=sum(
            bool(row.result.get("members_added") or row.result.get("members_removed"))
            for row in rows
        ),
    )


def _has_add_on(deployment: Deployment, vnf: Vnf, site: str) -> bool | None:
    try:
        return deployment.site(site, vnf).compute.quiesce_available()
    except AntipodeError:
        return None


def _replicated(deployment: Deployment, seen: Look) -> int:
    """Volumes whose back end is that of a storage which is at another site of the VNF, too."""
    vnf, active = seen.status.vnf, seen.status.state.active_site
    hosts = {
        str(there.sites[active]["host"])
        for there in deployment.config.storages.values()
        if active in there.sites
        and "host" in there.sites[active]
        and any(site in there.sites for site in vnf.sites if site != active)
    }
    return sum(
        volume.backend_host is not None and volume.backend_host in hosts
        for volume in seen.topology.volumes
    )


def _bytes_per_hour(rows: list[RunRow]) -> float | None:
    """What increments have added, over the time since the backups before them. Points of options
    that store nothing lie between them.
    """
    moments = [
        (datetime.fromisoformat(at).timestamp(), row)
        for row in rows
        if isinstance(at := row.result.get("consistent_at"), str)
        and (row.result.get("stored_bytes") or row.result.get("incremental"))
    ]
    found = [
        (float(later.result["stored_bytes"]), at - before)
        for (at, later), (before, _) in pairwise(moments)
        if later.result.get("incremental")
        and later.result.get("stored_bytes") is not None
        and at > before
    ]
    seconds = sum(s for _, s in found)
    return sum(b for b, _ in found) / seconds * 3600 if seconds else None


def _carried_per_s(deployment: Deployment, rows: list[RunRow]) -> float | None:
    """Bytes that were stored, over the time in which any volume was being backed up."""
    steps = deployment.runs.steps_of([row.id for row in rows])
    stored = seconds = 0.0
    for row in rows:
        spans = [
            (s.started_at, s.ended_at)
            for s in steps.get(row.id, ())
            if s.name == Steps.BACK_UP.words and s.ended_at is not None
        ]
        if spans and (new := row.result.get("stored_bytes")):
            stored += float(new)
            seconds += max(end for _, end in spans) - min(begin for begin, _ in spans)
    return stored / seconds if stored and seconds else None


def _restores_in_s(deployment: Deployment, name: str) -> float | None:
    try:
        found = forecasts.of_vnf(deployment, name).forecast
    except AntipodeError:
        return None
    return None if found is None else found.back_in_s

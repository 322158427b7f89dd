# SPDX-License-Identifier: Apache-2.0
"""What would be lost if a site died now, and when it would be back. Vaults are read; no site is
asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, InvalidInput
from antipode.model.forecast import Forecast
from antipode.model.point import RecoveryPoint
from antipode.model.readiness import Level
from antipode.model.rpo import rpo
from antipode.model.vnf import Vnf
from antipode.operations import plans, readiness
from antipode.runs import failover, forecast, precheck
from antipode.runs.forecast import Group
from antipode.vault import generations, points
from antipode.vault.ensemble import Vaults


@dataclass(frozen=True)
class Foreseen:
    """What would become of one VNF."""

    vnf: str
    to: str | None
    loses_s: float | None
    """how old its newest valid point is, in seconds; None where that says nothing"""
    begins_in_s: float | None
    """after what time its recovery would begin, behind others"""
    forecast: Forecast | None
    blocked_by: list[str]
    """what would keep it from being recovered, as it was last seen"""
    readiness: str | None
    """the verdict of the service's last look; None: it has not looked for long"""


@dataclass(frozen=True)
class AtSite:
    """What would become of all VNFs that are recovered at one site."""

    site: str
    forecast: Forecast | None
    """when the last one of those is back that can be recovered; None where none can"""
    blocked: list[str]
    """the VNFs that would not be back then"""


@dataclass(frozen=True)
class Together:
    """What would become of several VNFs that are recovered at once."""

    each: list[Foreseen]
    all_of_them: list[AtSite]


@dataclass(frozen=True)
class Kept:
    """What was forecast for a run, and what it took; seconds."""

    run: str
    kind: str
    vnf: str
    site: str
    made_at: float
    back_in_s: float | None
    error_s: float | None
    took_s: float | None
    off_by_s: float | None
    """positive where it took longer"""
    unmeasured: list[str]


@dataclass(frozen=True)
class _Wanted:
    """A VNF as it would be recovered."""

    vnf: str
    to: str
    point: RecoveryPoint | None
    loses_s: float | None
    blocked_by: list[str]
    readiness: str | None


def of_vnf(deployment: Deployment, vnf: str, to: str | None = None) -> Foreseen:
    """The forecast of one VNF, were it recovered alone.

    Args:
        to: where; by default its first site at which it is not active.

    Raises:
        NotFound: there is no such site, or neither a site was named nor is the VNF known here.
    """
    if to is not None:
        deployment.config.site(to)
    return _each(deployment, [[_wanted(deployment, vnf, to)]], 1).each[0]


def of_all(deployment: Deployment) -> list[Foreseen]:
    """The forecast of every VNF that was added here, were it recovered alone. One whose definition
    cannot be read is blocked by that, and keeps no other from its forecast.
    """
    stored = deployment.vnfs.stored()
    return [
        _unreadable(name, found) if isinstance(found, InvalidInput) else of_vnf(deployment, name)
        for name, found in sorted(stored.items())
    ]


def of_site(deployment: Deployment, site: str, to: str | None = None) -> Together:
    """The forecast of all VNFs that are active at a site, were it lost: they are recovered together
    as a plan would, without an order between them.

    Raises:
        NotFound: there is no such site.
    """
    for name in (site, *([to] if to else [])):
        deployment.config.site(name)
    wanted, unreadable = [], []
    for name, found in sorted(deployment.vnfs.stored().items()):
        if isinstance(found, InvalidInput):
            unreadable.append(_unreadable(name, found))  # it may be active there
        elif _active_site(deployment, found) == site:
            try:
                one = _wanted(deployment, name, to)
            except InvalidInput:
                if _active_site(deployment, found) == site:
                    raise
                continue  # its vaults know of a failover that this host had not heard of
            if _active_site(deployment, found) == site:
                wanted.append(one)
    together = _each(deployment, [wanted], deployment.config.limits.runs)
    return Together([*together.each, *unreadable], together.all_of_them)


def of_plan(
    deployment: Deployment, name: str, to: str | None = None, file: Path | None = None
) -> Together:
    """The forecast of a failover of a plan: its groups, one after another.

    Raises:
        AntipodeError: the plan cannot be read; see `plans.find`.
    """
    plan = plans.find(deployment, name, failover.KIND.name, to, file).plan
    groups = [
        [_wanted(deployment, vnf, to or group.to or plan.to) for vnf in group.vnfs]
        for group in plan.groups
    ]
    return _each(deployment, groups, [plan.most_at_once(group) for group in plan.groups])


def history(deployment: Deployment, vnf: str | None = None) -> Iterator[Kept]:
    """What was forecast for failovers and drills as they began, with what they took; the newest
    first.
    """
    for row, took in forecast.compared(deployment, vnf):
        yield Kept(
            row.run,
            row.kind,
            row.vnf,
            row.site,
            row.made_at,
            row.back_in_s,
            row.error_s,
            took,
            forecast.off_by_s(row, took),
            list(row.unmeasured),
        )


def _unreadable(vnf: str, error: InvalidInput) -> Foreseen:
    return Foreseen(vnf, None, None, None, None, [str(error)], None)


def _active_site(deployment: Deployment, vnf: Vnf) -> str:
    state = deployment.states.find(vnf.vnf)
    return state.active_site if state is not None else vnf.primary


def _vaults_elsewhere(deployment: Deployment, vnf: str, local: Vnf | None) -> Vaults:
    """The vaults of a VNF apart from those at its active site, of which these may know more than
    this host: then it learns of it.

    Raises:
        VaultCorrupt: a claim in a vault cannot be understood.
        VaultError, SiteUnreachable: no vault answers.
    """
    named = local.vaults if local is not None else []
    state = deployment.states.find(vnf)
    active = state.active_site if state is not None else (local.primary if local else None)
    while True:
        apart = {active} if active is not None else set[str]()
        vaults = deployment.vaults(named, apart_from=apart)
        if local is None:
            return vaults
        state = deployment.states.keep(generations.present(vaults, vnf, local.primary))
        if state.active_site == active:
            return vaults
        active = state.active_site


def _wanted(deployment: Deployment, vnf: str, to: str | None) -> _Wanted:
    """What is needed for the forecast of a VNF, and what stands in the way of it.

    Raises:
        NotFound: neither a site was named nor is the VNF known here.
    """
    local, asked = deployment.vnfs.find(vnf), to
    to = to or precheck.default_site(deployment, vnf)
    blocked: list[str] = []
    point: RecoveryPoint | None = None
    loses_s: float | None = None
    try:
        vaults = _vaults_elsewhere(deployment, vnf, local)
        if asked is None and local is not None:
            to = precheck.default_site(deployment, vnf)
        point = points.newest_or_none(vaults, vnf)
    except AntipodeError as error:
        blocked.append(f"vaults: {error}")
    else:
        if point is None:
            blocked.append("there is no valid recovery point")
    state = deployment.states.find(vnf)
    if (state.active_site if state is not None else local and local.primary) == to:
        raise InvalidInput(f"{vnf} is active at {to}; name another site")
    if point is not None and state is not None:
        loses_s = rpo(None, state, point, time.time()).age_s
        if loses_s is None:
            blocked.append(
                f"the newest point {point.id} says nothing of what {vnf} is now: {state}"
            )
    elif point is not None:
        loses_s = point.age_s
    definition = local or (point.vnf if point is not None else None)
    if definition is not None and to not in definition.sites:
        blocked.append(f"it is backed up to {', '.join(definition.backup)}, not {to}")
    looked = readiness.ready(deployment, vnf) if local is not None else []
    seen = next((r for r in looked if r.site == to and r.level and not r.is_stale), None)
    if seen is not None:
        blocked += [r for r in seen.reasons if r.startswith(Level.RED)]
    return _Wanted(vnf, to, point, loses_s, blocked, seen.level if seen is not None else None)


def _each(
    deployment: Deployment, groups: Sequence[Sequence[_Wanted]], at_once: int | Sequence[int]
) -> Together:
    """The forecasts of groups: those of one site share its limits."""
    sizes = [at_once] * len(groups) if isinstance(at_once, int) else list(at_once)
    to = {w.vnf: w.to for group in groups for w in group}
    recoverable = [
        Group([w.point for w in group if w.point is not None], size)
        for group, size in zip(groups, sizes, strict=True)
    ]
    joint = forecast.together(deployment, recoverable, to, failover.KIND)
    found = {name: (joint.begins_in_s[name], one) for name, one in joint.each.items()}
    all_of_them = [
        AtSite(
            site,
            joint.all_of_them.get(site),
            [w.vnf for group in groups for w in group if w.to == site and w.blocked_by],
        )
        for site in sorted(set(to.values()))
    ]
    each = [
        Foreseen(
            w.vnf,
            w.to,
            None if w.loses_s is None else round(w.loses_s, 3),
            found[w.vnf][0] if w.vnf in found else None,
            found[w.vnf][1] if w.vnf in found else None,
            w.blocked_by,
            w.readiness,
        )
        for group in groups
        for w in group
    ]
    return Together(each, all_of_them)

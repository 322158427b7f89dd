# SPDX-License-Identifier: Apache-2.0
"""All that is looked at to see whether a VNF could be recovered at a site now: areas, each with its
findings. Nothing is created, and the active site is not called.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from antipode.cloud import health
from antipode.engine import activity
from antipode.engine.activity import Standing
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, InvalidInput, PreflightFailed, Stopped, VaultCorrupt
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.readiness import Finding, Level, verdict
from antipode.model.rpo import RpoState, rpo
from antipode.model.steps import StepName, Timeline
from antipode.protect import offsite
from antipode.recover import plan
from antipode.recover.dns import switching
from antipode.runs import drill, failover, failover_checks, preparation, runners, verify
from antipode.runs.failover_checks import Accepted
from antipode.screen import span
from antipode.vault import generations, points
from antipode.vault.generations import GivenUp
from antipode.vault.sealing import Opened, Trust

if TYPE_CHECKING:
    from antipode.cloud.site import Site

Found = TypeVar("Found")
SCARCE = 0.1
"""A quota of which a recovery leaves less than this part is worth a word."""
DRILL = "drill"
"""The area that says whether drills are made as often as the VNF file wants."""


class PrecheckSteps(StepName):
    LOOK = "", "look at"


@dataclass(frozen=True)
class Subject:
    """A VNF, and the site where it would be recovered."""

    deployment: Deployment
    vnf: str
    site: str
    connect: Callable[[str], Site]
    """connects to a site"""
    go_on: Callable[[], None]
    """raises where the look must stop"""


@dataclass(frozen=True)
class Looked:
    """What was seen."""

    findings: list[Finding]
    recovery_point: str | None
    """the newest that is valid"""
    age_s: float | None
    """of its state"""

    @property
    def level(self) -> Level:
        """The verdict over all findings."""
        return verdict(self.findings)


def look(of: Subject, timeline: Timeline, *, light: bool = False) -> Looked:
    """Look at every area.

    Args:
        timeline: each area is a step of it.
        light: leave out what asks others than the backup site, the vaults and the backup store,
            which are the servers of DNS zones.

    Raises:
        Stopped: the look must stop.
    """
    looks = Looks(of, timeline)
    standing = looks.at("state", partial(_state, of))
    site = looks.at("site", partial(_site, of))
    opened = standing and looks.at("recovery point", partial(_point, of, standing))
    if standing is not None:
        looks.at("vaults", partial(_vaults, of, standing, opened))
    if standing is not None and opened is not None:
        looks.at("keys", partial(_keys, of, opened))
        defined = looks.at("definition", partial(_defined, of, standing, opened))
        if defined is not None:
            looks.at("backup store", partial(_store, of, standing, defined))
        if defined is not None and site is not None:
            planned = looks.at("plan", partial(_plan, defined, site))
            if planned is not None:
                looks.at("quotas", partial(_quotas, planned))
        if defined is not None and defined.vnf.dns and not light:
            looks.at("dns", partial(_dns, of, standing, defined))
    looks.at("proof", partial(_proof, of))
    looks.at(DRILL, partial(_drill, of))
    point = opened.point if opened else None
    return Looked(
        looks.findings,
        None if point is None else point.id,
        None if point is None else round(point.age_s, 3),
    )


class Looks:
    """The findings, area by area. An error in one area is a finding of it, and the others are still
    checked.
    """

    def __init__(self, of: Subject, timeline: Timeline) -> None:
        self.findings: list[Finding] = []
        self._of = of
        self._timeline = timeline

    def at(self, area: str, question: Callable[[Area], Found]) -> Found | None:
        """Look at an area; None where it cannot be had.

        Raises:
            Stopped: the look must stop.
        """
        here = Area(area, [])
        answer: Found | None = None
        self._of.go_on()
        with self._timeline.step(PrecheckSteps.LOOK, area) as step:
            try:
                answer = question(here)
            except Stopped:
                raise
            except PreflightFailed as error:
                for problem in error.problems:
                    here.red(problem)
            except AntipodeError as error:
                here.red(str(error))
            step.result(level=verdict(here.findings).value)
        self.findings += here.findings
        return answer


class Area(NamedTuple):
    """An area that is looked at, and its findings."""

    name: str
    findings: list[Finding]

    def green(self, detail: str) -> None:
        self.findings.append(Finding(check=self.name, level=Level.GREEN, detail=detail))

    def yellow(self, detail: str) -> None:
        self.findings.append(Finding(check=self.name, level=Level.YELLOW, detail=detail))

    def red(self, detail: str) -> None:
        self.findings.append(Finding(check=self.name, level=Level.RED, detail=detail))


def _state(of: Subject, area: Area) -> Standing:
    """Where the VNF is active, and whether a failover to the site could begin."""
    standing = activity.before_failover(of.deployment, of.vnf, of.site, of.go_on)
    state = standing.state
    if state.active_site == of.site:
        area.red(f"{state}; fail over to another site")
        return standing
    given_up = GivenUp(failover.given_up_runs(of.deployment, of.vnf), None)
    generations.must_be_free(state, of.site, given_up)
    area.green(f"{state}, generation {state.generation}")
    if (local := of.deployment.vnfs.find(of.vnf)) is None:
        area.yellow("this host has no VNF file of it: the definition in the recovery point counts")
    else:
        for problem in offsite.problems(of.deployment.config, local, state.active_site):
            area.red(problem)
    return standing


def _site(of: Subject, area: Area) -> Site:
    """The services of the site, our rights there, the quiesce add-on."""
    site = of.connect(of.site)
    for found in health.check(site):
        detail = f"{found.check}: {found.detail}"
        if found.ok:
            area.green(detail)
        elif found.needed:
            area.red(detail)
        else:
            area.yellow(detail)
    return site


def _point(of: Subject, standing: Standing, area: Area) -> Opened:
    """The newest recovery point that is valid, and its age."""
    vaults, state = standing.vaults, standing.state
    try:
        opened = points.find(vaults, of.vnf)
        opened, warnings = failover_checks.newest_known(of.deployment, vaults, opened, Trust.SIGNED)
    except VaultCorrupt as error:
        valid = points.newest_or_none(vaults, of.vnf)
        if valid is None:
            raise
        opened, warnings = points.find(vaults, of.vnf, valid.id), []
        area.yellow(f"the newest is refused, and --recovery-point {valid.id} is needed: {error}")
    for warning in warnings:
        area.yellow(warning)
    point = opened.point
    failover_checks.origin_warnings(point, state, of.site, Accepted())
    local = of.deployment.vnfs.find(of.vnf)
    kept = rpo((local or point.vnf).rpo, state, point, time.time())
    age = (
        f"{point.id} of generation {point.generation}, taken at {point.site},"
        f" {point.consistency} consistency, {point.age_s:.0f} s old"
    )
    match kept.state:
        case RpoState.MET | RpoState.NO_TARGET:
            area.green(age)
        case RpoState.EXCEEDED:
            area.yellow(f"{age}; the RPO target is {kept.target_s:.0f} s")
        case RpoState.NO_POINT:
            area.red(
                f"{age}: nothing of what {of.vnf} did since it became active at"
                f" {state.active_site} is in it"
            )
        case _:
            area.yellow(f"{age}; its age says nothing: {kept.state}")
    return opened


def _vaults(of: Subject, standing: Standing, opened: Opened | None, area: Area) -> None:
    """Whether each vault that a failover asks answers, and has the recovery point."""
    deployment = of.deployment
    local, known = deployment.vnfs.find(of.vnf), deployment.config.all_vaults
    if local is not None:
        named = local.vaults
    else:
        named = [name for name in opened.point.vnf.vaults if name in known] if opened else []
    for name in deployment.config.vault_names(named):
        if known[name].site == standing.state.active_site:
            area.green(f"vault {name} is at {standing.state.active_site}, and is not asked")
            continue
        vault = deployment.vaults([name], go_on=of.go_on)
        try:
            has_it = opened is None or opened.point.id in points.list_ids(vault, of.vnf)
        except Stopped:
            raise
        except AntipodeError as error:
            area.yellow(f"vault {name} does not answer: {error}")
            continue
        if has_it:
            area.green(f"vault {name} answers" + (", and has the point" if opened else ""))
        else:
            area.yellow(f"vault {name} lacks the point: antipode vault sync")


def _keys(of: Subject, opened: Opened, area: Area) -> None:
    """Whether this host can open all of the point, and trusts its key."""
    opened.must_be_open()
    assert opened.signed_by is not None  # others are not found
    trusted = len(of.deployment.keys.trusted())
    area.green(f"signed by key {opened.signed_by[:16]}, one of {trusted} trusted; all of it opens")


def _defined(of: Subject, standing: Standing, opened: Opened, area: Area) -> RecoveryPoint:
    """The point with the definition that a failover would take."""
    deployment = of.deployment
    local = deployment.vnfs.find(of.vnf)
    definition, warnings = preparation.definition_of(opened, local, deployment.config)
    site = of.site
    if site not in definition.sites:
        raise InvalidInput(f"{of.vnf} is backed up to {', '.join(definition.backup)}, not {site}")
    for warning in warnings:
        area.yellow(warning)
    if not warnings:
        area.green("the VNF file is the one of the recovery point")
    there = [s for s in definition.steps if failover.KIND.name in s.on and site in (s.to or [site])]
    for problem in runners.missing(of.deployment.config, there):
        area.red(problem)
    return opened.point.defined_by(definition)


def _store(of: Subject, standing: Standing, point: RecoveryPoint, area: Area) -> None:
    """Whether the backup store answers and has the newest backup of each volume."""
    warnings = failover_checks.store_warnings(of.deployment, point, standing.state)
    for warning in warnings:
        area.yellow(warning)
    if not warnings:
        area.green("it has the newest backup of each volume")


def _plan(point: RecoveryPoint, site: Site, area: Area) -> RecoveryPlan:
    """The plan of a failover: mappings, addresses, quotas; it names all that is missing."""
    made = plan.make_plan(point, site)
    for warning in made.warnings:
        area.yellow(warning)
    area.green(
        f"{len(made.servers)} servers, {len(made.volumes)} volumes and {len(made.ports)} ports"
        f" could be created at {site.name}"
    )
    return made


def _quotas(planned: RecoveryPlan, area: Area) -> None:
    """Whether quotas suffice, and which would be nearly used up."""
    for need in planned.quotas:
        left = need.limit - need.staying - need.needed
        if need.limit > 0 and left < SCARCE * need.limit:
            area.yellow(f"{need}: {left} would be left")
    area.green(f"{len(planned.quotas)} quotas suffice")


def _dns(of: Subject, standing: Standing, point: RecoveryPoint, area: Area) -> None:
    """Whether the DNS records could be switched: servers, rights, and for how long resolvers would
    keep the old ones. A recovery does not depend on it.
    """
    planned = switching.plan(point, of.site, standing.state.active_site, of.deployment.dns)
    for warning in preparation.dns_warnings(planned):
        area.yellow(warning)
    for change in planned.changes:
        if not change.is_known:
            continue
        try:
            rights = of.deployment.dns(change.provider).try_rights(change.old, change.new)
        except Stopped:
            raise
        except AntipodeError as error:
            area.yellow(f"DNS record {change.key} could not be switched: {error}")
            continue
        if change.old is not None and change.old.ttl > change.new.ttl:
            area.yellow(
                f"DNS record {change.key} has a TTL of {change.old.ttl} s: resolvers would keep it"
                f" so long. To have it be {change.new.ttl} s: antipode dns switch {of.vnf}"
            )
        area.green(f"DNS record {change.key}: {rights}")


def _proof(of: Subject, area: Area) -> None:
    """When the content of a recovery point was proven last."""
    proven = of.deployment.runs.newest_success(verify.KIND.name, of.vnf)
    if proven is None or proven.ended_at is None:
        area.yellow(f"no content was ever proven: antipode {verify.KIND.command} {of.vnf}")
        return
    days = (time.time() - proven.ended_at) / 86400
    area.green(f"content proven by {proven.id}, {days:.1f} days ago")


def _drill(of: Subject, area: Area) -> None:
    """Whether drills are made as often as the VNF file wants."""
    local = of.deployment.vnfs.find(of.vnf)
    if local is None or local.drill_every is None:
        return
    passed = of.deployment.runs.newest_success(drill.KIND.name, of.vnf)
    every = f"one is wanted every {span(local.drill_every)}"
    if passed is None or passed.ended_at is None:
        area.yellow(f"no drill was ever passed, and {every}: antipode drill {of.vnf}")
        return
    days = (time.time() - passed.ended_at) / 86400
    found = f"{passed.id} was passed {days:.1f} days ago; {every}"
    if days * 86400 > local.drill_every:
        area.yellow(f"{found}: antipode drill {of.vnf}")
    else:
        area.green(found)

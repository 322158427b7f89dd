# SPDX-License-Identifier: Apache-2.0
"""The kind of run that looks whether a VNF could be recovered at a site now. It creates nothing,
and does not call the active site.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from antipode.cloud import health
from antipode.engine import activity
from antipode.engine.activity import Standing
from antipode.engine.deployment import Deployment
from antipode.engine.kind import Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import (
    AntipodeError,
    InvalidInput,
    NotFound,
    PreflightFailed,
    Stopped,
    VaultCorrupt,
)
from antipode.model.base import Model
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.readiness import Finding, Level, verdict
from antipode.model.rpo import RpoState, rpo
from antipode.model.steps import StepName
from antipode.protect import offsite
from antipode.recover import plan
from antipode.recover.dns import switching
from antipode.runs import failover, failover_checks, preparation, runners, verify
from antipode.runs.failover_checks import Accepted
from antipode.store.tables import RunRow
from antipode.vault import generations, points
from antipode.vault.generations import GivenUp
from antipode.vault.sealing import Opened, Trust

if TYPE_CHECKING:
    from antipode.cloud.site import Site

Found = TypeVar("Found")
SCARCE = 0.1
"""A quota of which a recovery leaves less than this part is worth a word."""


class PrecheckSteps(StepName):
    LOOK = "", "look at"


class PrecheckRequest(Model):
    """A precheck as it was asked for."""

    site: str
    """where the VNF would be recovered"""
    part_of: str | None = None
    """the run that it is a part of"""


def requested(vnf: str, site: str) -> RunRow:
    """A precheck of a VNF for a site that is not kept yet."""
    return new_run(KIND, vnf, PrecheckRequest(site=site).model_dump(mode="json"))


class Precheck(RunKind):
    name = "precheck"
    flow_version = 1
    priority = Priority.UPKEEP
    rolls_back_failures = True
    works_at_active_site = False
    creates = ""

    def site_of(self, row: RunRow) -> str:
        return PrecheckRequest.model_validate(row.request or {}).site

    def execute(self, run: Run) -> None:
        _precheck(run)

    def roll_back(self, run: Run) -> list[str]:
        return []

    def point_of_no_return(self, run: Run) -> str | None:
        return None


KIND = Precheck()


class Looks:
    """The findings, area by area. An error in one area is a finding of it, and the others are still
    checked.
    """

    def __init__(self, run: Run) -> None:
        self.findings: list[Finding] = []
        self._run = run

    def at(self, area: str, question: Callable[[Area], Found]) -> Found | None:
        """Look at an area; None where it cannot be had.

        Raises:
            Stopped: the run must stop.
        """
        here = Area(area, [])
        answer: Found | None = None
        self._run.go_on()
        with self._run.timeline.step(PrecheckSteps.LOOK, area) as step:
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


def _precheck(run: Run) -> None:
    to = run.request["site"]
    looks = Looks(run)
    run.result.update(vnf=run.vnf, site=to)
    standing = looks.at("state", partial(_state, run, to))
    site = looks.at("site", partial(_site, run, to))
    opened = standing and looks.at("recovery point", partial(_point, run, standing))
    if standing is not None:
        looks.at("vaults", partial(_vaults, run, standing, opened))
    if standing is not None and opened is not None:
        point = opened.point
        run.result.update(recovery_point=point.id, age_s=round(point.age_s, 3))
        looks.at("keys", partial(_keys, run, opened))
        defined = looks.at("definition", partial(_defined, run, standing, opened))
        if defined is not None:
            looks.at("backup store", partial(_store, run, standing, defined))
        if defined is not None and site is not None:
            planned = looks.at("plan", partial(_plan, defined, site))
            if planned is not None:
                looks.at("quotas", partial(_quotas, planned))
        if defined is not None and defined.vnf.dns:
            looks.at("dns", partial(_dns, run, standing, defined))
    looks.at("proof", partial(_proof, run.deployment, run.vnf))
    run.result.update(
        estimated_s=preparation.earlier_rto_s(run.deployment, run.vnf),
        verdict=verdict(looks.findings).value,
        findings=[f.model_dump(mode="json") for f in looks.findings],
    )


def _state(run: Run, to: str, area: Area) -> Standing:
    """Where the VNF is active, and whether a failover to the site could begin."""
    standing = activity.before_failover(run.deployment, run.vnf, to, run.go_on)
    state = standing.state
    if state.active_site == to:
        area.red(f"{state}; fail over to another site")
        return standing
    given_up = GivenUp(failover.given_up_runs(run.deployment, run.vnf), None)
    generations.must_be_free(state, to, given_up)
    area.green(f"{state}, generation {state.generation}")
    if (local := run.deployment.vnfs.find(run.vnf)) is None:
        area.yellow("this host has no VNF file of it: the definition in the recovery point counts")
    else:
        for problem in offsite.problems(run.deployment.config, local, state.active_site):
            area.red(problem)
    return standing


def _site(run: Run, to: str, area: Area) -> Site:
    """The services of the site, our rights there, the quiesce add-on."""
    site = run.site(to)
    for found in health.check(site):
        detail = f"{found.check}: {found.detail}"
        if found.ok:
            area.green(detail)
        elif found.needed:
            area.red(detail)
        else:
            area.yellow(detail)
    return site


def _point(run: Run, standing: Standing, area: Area) -> Opened:
    """The newest recovery point that is valid, and its age."""
    vaults, state = standing.vaults, standing.state
    try:
        opened = points.find(vaults, run.vnf)
        opened, warnings = failover_checks.newest_known(
            run.deployment, vaults, opened, Trust.SIGNED
        )
    except VaultCorrupt as error:
        valid = points.newest_or_none(vaults, run.vnf)
        if valid is None:
            raise
        opened, warnings = points.find(vaults, run.vnf, valid.id), []
        area.yellow(f"the newest is refused, and --recovery-point {valid.id} is needed: {error}")
    for warning in warnings:
        area.yellow(warning)
    point = opened.point
    failover_checks.origin_warnings(point, state, run.request["site"], Accepted())
    local = run.deployment.vnfs.find(run.vnf)
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
                f"{age}: nothing of what {run.vnf} did since it became active at"
                f" {state.active_site} is in it"
            )
        case _:
            area.yellow(f"{age}; its age says nothing: {kept.state}")
    return opened


def _vaults(run: Run, standing: Standing, opened: Opened | None, area: Area) -> None:
    """Whether each vault that a failover asks answers, and has the recovery point."""
    deployment = run.deployment
    local, known = deployment.vnfs.find(run.vnf), deployment.config.all_vaults
    if local is not None:
        named = local.vaults
    else:
        named = [name for name in opened.point.vnf.vaults if name in known] if opened else []
    for name in deployment.config.vault_names(named):
        if known[name].site == standing.state.active_site:
            area.green(f"vault {name} is at {standing.state.active_site}, and is not asked")
            continue
        vault = deployment.vaults([name], go_on=run.go_on)
        try:
            has_it = opened is None or opened.point.id in points.list_ids(vault, run.vnf)
        except Stopped:
            raise
        except AntipodeError as error:
            area.yellow(f"vault {name} does not answer: {error}")
            continue
        if has_it:
            area.green(f"vault {name} answers" + (", and has the point" if opened else ""))
        else:
            area.yellow(f"vault {name} lacks the point: antipode vault sync")


def _keys(run: Run, opened: Opened, area: Area) -> None:
    """Whether this host can open all of the point, and trusts its key."""
    opened.must_be_open()
    assert opened.signed_by is not None  # others are not found
    trusted = len(run.deployment.keys.trusted())
    area.green(f"signed by key {opened.signed_by[:16]}, one of {trusted} trusted; all of it opens")


def _defined(run: Run, standing: Standing, opened: Opened, area: Area) -> RecoveryPoint:
    """The point with the definition that a failover would take."""
    definition, warnings = preparation.definition_of(opened, run.deployment.vnfs.find(run.vnf))
    site = run.request["site"]
    if site not in definition.sites:
        raise InvalidInput(f"{run.vnf} is backed up to {', '.join(definition.backup)}, not {site}")
    for warning in warnings:
        area.yellow(warning)
    if not warnings:
        area.green("the VNF file is the one of the recovery point")
    there = [s for s in definition.steps if failover.KIND.name in s.on and site in (s.to or [site])]
    for problem in runners.missing(run.deployment.config, there):
        area.red(problem)
    return opened.point.model_copy(update={"vnf": definition})


def _store(run: Run, standing: Standing, point: RecoveryPoint, area: Area) -> None:
    """Whether the backup store answers and has the newest backup of each volume."""
    warnings = failover_checks.store_warnings(run.deployment, point, standing.state)
    for warning in warnings:
        area.yellow(warning)
    if not warnings:
        area.green("it has the newest backup of each volume")


def _plan(point: RecoveryPoint, site: Site, area: Area) -> RecoveryPlan:
    """The plan of a failover: mappings, addresses, quotas; it names all that is missing."""
    made = plan.make_plan(point, site)
    for warning in made.warnings:
        area.yellow(warning)
    volumes = sum(len(s.volumes) for s in made.servers)
    area.green(
        f"{len(made.servers)} servers, {volumes} volumes and {len(made.ports)} ports could be"
        f" created at {site.name}"
    )
    return made


def _quotas(planned: RecoveryPlan, area: Area) -> None:
    """Whether quotas suffice, and which would be nearly used up."""
    for need in planned.quotas:
        left = need.limit - need.used - need.needed
        if need.limit > 0 and left < SCARCE * need.limit:
            area.yellow(f"{need}: {left} would be left")
    area.green(f"{len(planned.quotas)} quotas suffice")


def _dns(run: Run, standing: Standing, point: RecoveryPoint, area: Area) -> None:
    """Whether the DNS records could be switched: servers, rights, and for how long resolvers would
    keep the old ones. A recovery does not depend on it.
    """
    planned = switching.plan(
        point, run.request["site"], standing.state.active_site, run.deployment.dns
    )
    for warning in preparation.dns_warnings(planned):
        area.yellow(warning)
    for change in planned.changes:
        if not change.is_known:
            continue
        try:
            rights = run.deployment.dns(change.provider).try_rights(change.old, change.new)
        except Stopped:
            raise
        except AntipodeError as error:
            area.yellow(f"DNS record {change.key} could not be switched: {error}")
            continue
        if change.old is not None and change.old.ttl > change.new.ttl:
            area.yellow(
                f"DNS record {change.key} has a TTL of {change.old.ttl} s: resolvers would keep it"
                f" so long. To have it be {change.new.ttl} s: antipode dns switch {run.vnf}"
            )
        area.green(f"DNS record {change.key}: {rights}")


def _proof(deployment: Deployment, vnf: str, area: Area) -> None:
    """When the content of a recovery point was proven last."""
    proven = deployment.runs.newest_success(verify.KIND.name, vnf)
    if proven is None or proven.ended_at is None:
        area.yellow(f"no content was ever proven: antipode {verify.KIND.command} {vnf}")
        return
    days = (time.time() - proven.ended_at) / 86400
    area.green(f"content proven by {proven.id}, {days:.1f} days ago")


def default_site(deployment: Deployment, vnf: str) -> str:
    """The first site of a VNF, in the order of its file, at which it is not active as far as this
    host knows. No site and no vault is called.

    Raises:
        NotFound: this host has no file of the VNF.
    """
    local, known = deployment.vnfs.find(vnf), deployment.states.find(vnf)
    if local is None:
        raise NotFound(f"this host has no file of VNF {vnf}: name the site with --to SITE")
    active = known.active_site if known else local.primary
    return next(site for site in local.sites if site != active)

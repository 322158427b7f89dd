# SPDX-License-Identifier: Apache-2.0
"""`/v1/vnfs`: the VNFs of a project, how they are protected, and how ready they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, ValidationError

from antipode.api import conventions
from antipode.api.conventions import (
    Limit,
    Linked,
    Marker,
    Moment,
    VnfName,
    base_of,
    links,
    moment,
    page,
)
from antipode.api.gate import Asked, route
from antipode.errors import Forbidden, InvalidInput, QuotaExceeded
from antipode.model.history import VnfHistory
from antipode.model.state import ProtectedVnf
from antipode.model.vnf import Name, Vnf
from antipode.operations import forecasts, policies, protections, readiness, remove_vnf, vnfs
from antipode.operations.advice import advise
from antipode.operations.reports.period import of_vnf
from antipode.store.vnfs import ListedVnf

ROUTES = APIRouter(prefix="/v1", tags=["vnfs"])
Json = dict[str, Any]
LONGEST_HISTORY_S = 366 * 86400.0
Since = Annotated[float, Query(ge=60, le=LONGEST_HISTORY_S, description="how far back, in seconds")]


class VnfShown(Linked):
    """A VNF, as it is stored here; no site and no vault is asked."""

    name: str
    project: str | None
    policy: str | None
    primary: str | None
    backup: list[str]
    active_site: str | None = Field(description="as it was last read from the vaults")
    generation: int | None
    state: str | None
    options: list[str] = Field(description="how it is protected")
    rpo_s: float | None
    rto_s: float | None
    members: int
    changed_at: Moment


class OneVnf(BaseModel):
    vnf: VnfShown


class VnfList(BaseModel):
    vnfs: list[VnfShown]
    vnfs_links: list[conventions.Link]


class Definition(BaseModel):
    """All of a VNF's definition, with its commands; for administrators."""

    definition: Json


class GivenDefinition(conventions.Body):
    definition: Json


class ChosenPolicy(conventions.Body):
    name: Name


class GivenPolicy(conventions.Body):
    policy: ChosenPolicy


class ProtectionShown(BaseModel):
    """One way in which a VNF is protected."""

    option: str
    retention: Any
    schedule: Any
    settings: Json
    next_at: Moment | None
    paused_at: Moment | None
    missed: int


class ProtectionList(BaseModel):
    protections: list[ProtectionShown]


class Pausing(conventions.Body):
    paused: bool
    reason: Annotated[str, Field(max_length=500)] | None = None


class GivenPausing(conventions.Body):
    schedule: Pausing


class ReadinessShown(BaseModel):
    """Whether a VNF could be recovered at a site, as a service saw it last."""

    vnf: str
    site: str
    verdict: str | None = Field(description="green, yellow or red; null: never looked at")
    since: Moment | None
    looked_at: Moment | None
    stale: bool
    reasons: list[str]


class ReadinessList(BaseModel):
    readiness: list[ReadinessShown]


class ForecastShown(BaseModel):
    """What would become of a VNF if its active site died now."""

    vnf: str
    to: str | None
    loses_s: float | None
    back_in_s: float | None
    error_s: float | None
    blocked_by: list[str]
    readiness: str | None
    unmeasured: list[str]
    basis: list[str]


class OneForecast(BaseModel):
    forecast: ForecastShown


class KeptForecast(BaseModel):
    """What was forecast for a run as it began, and what it took."""

    run: str
    kind: str
    site: str
    made_at: Moment
    back_in_s: float | None
    error_s: float | None
    took_s: float | None
    off_by_s: float | None = Field(description="positive where it took longer")


class KeptList(BaseModel):
    forecasts: list[KeptForecast]


class OptionAdvised(BaseModel):
    """One option for a VNF."""

    option: str
    verdict: str
    in_use: bool
    why: list[str]
    calls_per_day: float | None
    stored_bytes_per_day: float | None


class AdviceList(BaseModel):
    advice: list[OptionAdvised]


class OneHistory(BaseModel):
    history: VnfHistory
    notes: list[str]


@route(ROUTES, "GET", "/vnfs", "vnf:list")
def list_vnfs(
    asked: Asked, request: Request, limit: Limit = conventions.USUAL, marker: Marker | None = None
) -> VnfList:
    """List the VNFs of the project, in the order of their names."""
    deployment = asked.deployment
    found = deployment.vnfs.page(asked.projects, limit + 1, marker)
    shown, more = page(request, found, limit, lambda row: row.name)
    states = deployment.states.some([row.name for row in shown])
    base = base_of(request)
    vnfs_shown = [_shown(base, row, _where(states.get(row.name))) for row in shown]
    return VnfList(vnfs=vnfs_shown, vnfs_links=more)


@route(ROUTES, "GET", "/vnfs/{vnf}", "vnf:get")
def get_vnf(asked: Asked, request: Request, vnf: VnfName) -> OneVnf:
    """Show a VNF."""
    deployment = asked.deployment
    where = _where(deployment.states.find(vnf))
    return OneVnf(vnf=_shown(base_of(request), deployment.vnfs.listed(vnf), where))


@route(ROUTES, "GET", "/vnfs/{vnf}/definition", "vnf:definition")
def get_definition(asked: Asked, vnf: VnfName) -> Definition:
    """Show the definition of a VNF, as `antipode vnf show` has it."""
    return Definition(definition=asked.deployment.vnfs.get(vnf).model_dump(mode="json"))


@route(ROUTES, "PUT", "/vnfs/{vnf}/definition", "vnf:put", may_be_new=True)
def put_definition(asked: Asked, request: Request, vnf: VnfName, given: GivenDefinition) -> OneVnf:
    """Add a VNF, or replace its definition: the fields of a VNF file."""
    try:
        definition = Vnf.model_validate({**given.definition, "vnf": vnf})
    except ValidationError as error:
        raise _wrong(error) from error
    if not asked.caller.all_projects and definition.project != asked.caller.project:
        raise Forbidden(f"VNF {vnf} is of project {asked.caller.project}, and stays there")
    vnfs.must_fit(definition, asked.deployment.config)
    _must_have_room(asked, definition)
    vnfs.add(asked.deployment, definition)
    return OneVnf(vnf=_shown(base_of(request), asked.deployment.vnfs.listed(vnf), Where()))


@route(ROUTES, "DELETE", "/vnfs/{vnf}", "vnf:delete", status_code=204)
def delete_vnf(asked: Asked, vnf: VnfName) -> Response:
    """Forget a VNF. Its recovery points, backups and servers stay."""
    remove_vnf.remove(asked.deployment, vnf)
    return Response(status_code=204)


@route(ROUTES, "PUT", "/vnfs/{vnf}/policy", "vnf:choose")
def choose_policy(asked: Asked, request: Request, vnf: VnfName, given: GivenPolicy) -> OneVnf:
    """Protect a VNF as a policy says."""
    policies.choose(asked.deployment, vnf, given.policy.name)
    shown: OneVnf = get_vnf(asked, request, vnf)
    return shown


@route(ROUTES, "GET", "/vnfs/{vnf}/protections", "vnf:get")
def list_protections(asked: Asked, vnf: VnfName) -> ProtectionList:
    """List the protections of a VNF, with their schedules."""
    return _protections(asked, vnf)


@route(ROUTES, "PUT", "/vnfs/{vnf}/protections/{option}/schedule", "protection:pause")
def pause_schedule(
    asked: Asked, vnf: VnfName, option: conventions.PolicyName, given: GivenPausing
) -> ProtectionList:
    """Pause the schedule of a protection, or resume it."""
    if given.schedule.paused:
        protections.pause(asked.deployment, vnf, option, given.schedule.reason)
    else:
        protections.resume(asked.deployment, vnf, option)
    return _protections(asked, vnf)


@route(ROUTES, "GET", "/vnfs/{vnf}/readiness", "vnf:get")
def get_readiness(asked: Asked, vnf: VnfName) -> ReadinessList:
    """Show whether a VNF could be recovered, at each site where it could be."""
    return ReadinessList(readiness=[_ready(r) for r in readiness.ready(asked.deployment, vnf)])


@route(ROUTES, "GET", "/readiness", "vnf:list", is_long=True)
def list_readiness(asked: Asked) -> ReadinessList:
    """Show whether the VNFs of the project could be recovered."""
    names = set(asked.deployment.vnfs.names(asked.projects))
    found = [_ready(r) for r in readiness.ready(asked.deployment) if r.vnf in names]
    return ReadinessList(readiness=found)


@route(ROUTES, "GET", "/vnfs/{vnf}/forecast", "vnf:get", is_long=True)
def get_forecast(
    asked: Asked,
    vnf: VnfName,
    to: Annotated[Name | None, Query(description="the site of the recovery")] = None,
) -> OneForecast:
    """Forecast what would be lost if the active site died now. Vaults are read."""
    return OneForecast(forecast=foreseen(asked, forecasts.of_vnf(asked.deployment, vnf, to)))


@route(ROUTES, "GET", "/vnfs/{vnf}/forecasts", "vnf:get")
def list_forecasts(asked: Asked, vnf: VnfName) -> KeptList:
    """List what was forecast for drills and failovers of a VNF as they began, and what they took,
    the newest first.
    """
    every = forecasts.history(asked.deployment, vnf)
    return KeptList(
        forecasts=[
            KeptForecast(
                run=one.run,
                kind=one.kind,
                site=one.site,
                made_at=moment(one.made_at) or "",
                back_in_s=one.back_in_s,
                error_s=one.error_s,
                took_s=one.took_s,
                off_by_s=one.off_by_s,
            )
            for one in islice(every, conventions.USUAL)
        ]
    )


@route(ROUTES, "GET", "/vnfs/{vnf}/advice", "vnf:get", is_long=True)
def get_advice(asked: Asked, vnf: VnfName) -> AdviceList:
    """Say which option fits a VNF and why, the best first. Its active site is asked."""
    return AdviceList(
        advice=[
            OptionAdvised(
                option=one.option,
                verdict=one.verdict,
                in_use=one.in_use,
                why=[f"{remark.weight.value}: {remark.words}" for remark in one.remarks],
                calls_per_day=one.calls_per_day,
                stored_bytes_per_day=one.stored_bytes_per_day,
            )
            for one in advise(asked.deployment, vnf).options
        ]
    )


def foreseen(asked: Asked, found: forecasts.Foreseen) -> ForecastShown:
    """A forecast, as this caller may see it."""
    whole = found.forecast
    return ForecastShown(
        vnf=found.vnf,
        to=found.to,
        loses_s=found.loses_s,
        back_in_s=whole.back_in_s if whole else None,
        error_s=whole.error_s if whole else None,
        blocked_by=found.blocked_by,
        readiness=found.readiness,
        unmeasured=whole.unmeasured if whole else [],
        # it rests on the runs of all projects
        basis=whole.basis if whole and asked.caller.all_projects else [],
    )


@route(ROUTES, "GET", "/vnfs/{vnf}/history", "vnf:get", is_long=True)
def get_history(
    asked: Asked,
    vnf: VnfName,
    since: Since = 30 * 86400.0,
) -> OneHistory:
    """Show how a VNF was protected in a time that is over."""
    found = of_vnf(asked.deployment, vnf, since)
    return OneHistory(history=found.vnfs[0], notes=found.notes)


class Where(NamedTuple):
    """Where a VNF is, as it is shown."""

    active_site: str | None = None
    generation: int | None = None
    state: str | None = None


def _where(state: ProtectedVnf | None) -> Where:
    if state is None:
        return Where()
    return Where(state.active_site, state.generation, str(state.state))


class Defined(NamedTuple):
    """What is shown of a definition. It is remembered without the text, which may be long."""

    primary: str | None
    backup: tuple[str, ...]
    options: tuple[str, ...]
    rpo_s: float | None
    rto_s: float | None
    members: int


def _defined(stored: Mapping[str, Any]) -> Defined:
    """What a stored definition says, whatever version of antipode has stored it."""
    backup, given = stored.get("backup"), stored.get("protections")
    options = [p.get("option") if isinstance(p, Mapping) else p for p in given or []]
    members = stored.get("members")
    return Defined(
        primary=_text(stored.get("primary")),
        backup=(backup,) if isinstance(backup, str) else tuple(map(str, backup or ())),
        options=tuple(map(str, options)),
        rpo_s=_number(stored.get("rpo")),
        rto_s=_number(stored.get("rto")),
        members=len(members) if isinstance(members, list) else 0,
    )


def _shown(base: str, row: ListedVnf, where: Where) -> VnfShown:
    return _of_list(base, row._replace(text=None), _defined(row.definition), where)


@lru_cache(conventions.MOST_REMEMBERED)
def _of_list(base: str, row: ListedVnf, defined: Defined, where: Where) -> VnfShown:
    return VnfShown(
        name=row.name,
        project=row.project,
        policy=row.policy,
        changed_at=moment(row.added_at) or "",
        links=links(
            base,
            "vnfs",
            row.name,
            runs=("vnfs", row.name, "runs"),
            recovery_points=("vnfs", row.name, "recovery_points"),
        ),
        **where._asdict(),
        **defined._asdict(),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _ready(found: readiness.Ready) -> ReadinessShown:
    return ReadinessShown(
        vnf=found.vnf,
        site=found.site,
        verdict=found.level.value if found.level else None,
        since=moment(found.since),
        looked_at=moment(found.looked_at),
        stale=found.is_stale,
        reasons=found.reasons,
    )


def _protections(asked: Asked, vnf: str) -> ProtectionList:
    return ProtectionList(
        protections=[
            ProtectionShown(
                option=one.protection.option,
                retention=one.protection.model_dump(mode="json")["retention"],
                schedule=one.protection.model_dump(mode="json")["schedule"],
                settings=one.protection.settings,
                next_at=moment(one.next_at),
                paused_at=moment(one.paused_at),
                missed=one.progress.missed if one.progress else 0,
            )
            for one in protections.protections(asked.deployment, vnf)
        ]
    )


def _wrong(error: ValidationError) -> InvalidInput:
    found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return InvalidInput(f"the definition is wrong: {'; '.join(found[:10])}")


def _must_have_room(asked: Asked, definition: Vnf) -> None:
    """See that the project may have this VNF.

    Raises:
        QuotaExceeded: it has as many as it may.
    """
    project = definition.project
    there = asked.installation.settings.projects.get(project) if project is not None else None
    if there is None or there.quota.vnfs is None or project is None or asked.project == project:
        return
    if asked.deployment.vnfs.count(project) >= there.quota.vnfs:
        raise QuotaExceeded(f"project {project} may have {there.quota.vnfs} VNFs, and has them")

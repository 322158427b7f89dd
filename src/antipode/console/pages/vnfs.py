# SPDX-License-Identifier: Apache-2.0
"""The VNFs: listed, and each with all that is known of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.responses import Response

from antipode.console import pictures
from antipode.console.pages.overview import seen
from antipode.console.pictures import Chart, Dated, Measured
from antipode.console.web import Asked, route
from antipode.console.words import clock, figures_of, of_text, size, span_of
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, InvalidInput, NotFound
from antipode.model.readiness import Level
from antipode.model.rpo import RpoState
from antipode.model.vnf import NAME, Vnf
from antipode.operations import forecasts, precheck, protect, protections, standing
from antipode.operations.inspect import Look, look, only_in_vaults, remembered
from antipode.operations.overview import Known
from antipode.operations.recovery_points import recovery_points
from antipode.operations.reports import period
from antipode.operations.submit import submit
from antipode.runs import protect as protect_run
from antipode.store.tables import RunRow
from antipode.vault.sealing import Summary

ON_A_PAGE = 50
NEWEST_POINTS = 60
NEWEST_RUNS = 8
IN_A_CHART = 40
MONTH_S = 30 * 86400.0
MOST_AT_ONCE = 200
AT_ONCE: Mapping[str, Callable[[Deployment, str], RunRow]] = {
    "protect": protect.request,
    "precheck": precheck.request,
}
"""What begins without a plan that is shown and confirmed."""
"""VNFs of one bulk action."""
WEAK = ("none", "volume", "member")
"""Consistency labels that do not span members."""

Filter = Callable[[Known, str], bool]
FILTERS: Mapping[str, tuple[str, Sequence[tuple[str, str]], Filter]] = {
    "site": ("Active at", (), lambda k, value: k.state.active_site == value),
    "state": ("State", (), lambda k, value: k.name == value),
    "rpo": (
        "RPO",
        (("not-kept", "not kept"), ("met", "kept"), ("no-target", "no target")),
        lambda k, value: (
            k.rpo.state in (RpoState.EXCEEDED, RpoState.NO_POINT)
            if value == "not-kept"
            else k.rpo.state.value == value
        ),
    ),
    "ready": (
        "Recovery",
        (("green", "ready"), ("yellow", "with losses"), ("red", "not ready"), ("no", "not known")),
        lambda k, value: (k.level.value if k.level else "no") == value,
    ),
    "drill": ("Drill", (("due", "due"),), lambda k, value: k.drill_is_due),
    "issues": ("Issues", (("1", "with issues"),), lambda k, value: bool(k.issues)),
}
"""Name -> label, choices, and whether a VNF is shown."""


def _list(asked: Asked) -> Response:
    asked.must_here("vnf:list")
    vnfs, form = seen(asked).vnfs, asked.form
    rows = [k for k in vnfs if form["q"].strip().lower() in k.vnf.vnf.lower()]
    for name, (_, _, fits) in FILTERS.items():
        if value := form[name]:
            rows = [k for k in rows if fits(k, value)]
    page, pages = _paged(form["page"], len(rows))
    choices = {
        "site": [(s, s) for s in asked.deployment.config.sites],
        "state": [(s, s) for s in sorted({k.name for k in vnfs})],
    }
    kept = {n: v for n, v in form.as_dict().items() if v and n != "page"}
    return asked.page(
        "vnfs.html",
        form=form,
        rows=rows[(page - 1) * ON_A_PAGE : page * ON_A_PAGE],
        found=len(rows),
        total=len(vnfs),
        filters=[(n, label, choices.get(n, given)) for n, (label, given, _) in FILTERS.items()],
        page=page,
        pages=pages,
        url=f"?{urlencode(kept)}&" if kept else "?",
    )


def _paged(wanted: str, rows: int) -> tuple[int, int]:
    """A page that there is, and how many there are."""
    pages = max(-(-rows // ON_A_PAGE), 1)
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 9 else 1
    return min(max(number, 1), pages), pages


def _in_bulk(asked: Asked) -> Response:
    verb, names = asked.form["verb"], list(dict.fromkeys(asked.form.all("vnf")))
    if verb not in AT_ONCE:
        raise InvalidInput("choose what to do with the VNFs")
    if not 0 < len(names) <= MOST_AT_ONCE:
        raise InvalidInput(f"choose 1 to {MOST_AT_ONCE} VNFs")
    begun, refused = [], []
    for name in names:
        try:
            begun.append((name, _asked_for(asked, name, verb)))
        except AntipodeError as error:
            refused.append((name, str(error)))
    asked.console.snapshots.forget()
    return asked.page("bulk.html", verb=verb, begun=begun, refused=refused)


def _asked_for(asked: Asked, name: str, verb: str) -> str:
    """Queue a run that needs no confirmation; its id."""
    asked.must_run(verb, asked.project_of_vnf(name))
    run = AT_ONCE[verb](asked.deployment, name)
    room = asked.room(asked.project_of_vnf(name))
    return str(submit(asked.deployment, run, room)["run"])


def _begin(verb: str) -> Callable[[Asked], Response]:
    def begin(asked: Asked) -> Response:
        run = _asked_for(asked, vnf_of(asked, "vnf:get"), verb)
        return asked.page_of(run)

    return begin


def vnf_of(asked: Asked, rule: str) -> str:
    """The VNF of the address, which the caller may do this with.

    Raises:
        NotFound, Forbidden: not so.
    """
    name = asked.named("vnf")
    if re.fullmatch(NAME, name) is None:
        raise NotFound(f"there is no VNF {name}")
    project = asked.project_of_vnf(name)
    asked.must(rule, project)
    return name


class NextStep(NamedTuple):
    """What an operator would do next with a VNF."""

    tone: str
    words: str
    href: str = ""
    link: str = ""


class Verb(NamedTuple):
    """Something that can be begun with a VNF."""

    name: str
    words: str
    site: str | None
    look: str
    """primary, danger, plain, or more: not at the top"""


def _show(asked: Asked) -> Response:
    name = vnf_of(asked, "vnf:get")
    known = next((k for k in seen(asked).vnfs if k.vnf.vnf == name), None)
    runs = asked.deployment.runs.newest(NEWEST_RUNS, vnf=name, projects=asked.projects)
    if known is None and not runs and not asked.caller.all_projects:
        raise NotFound(f"there is no VNF {name}")
    return asked.page(
        "fragments/vnf.html" if asked.is_fragment else "vnf.html",
        name=name,
        known=known,
        runs=runs,
        protections=protections.protections(asked.deployment, name) if known else [],
        verbs=list(_verbs(asked, name, known)),
        at_once=AT_ONCE,
        has_copies=known is not None and _has_copies(asked.deployment, known.vnf),
        next_step=_next_step(name, known),
    )


def _has_copies(deployment: Deployment, vnf: Vnf) -> bool:
    """Whether data of a VNF may be elsewhere beside its recovery points."""
    return bool(vnf.datastores) or bool(standing.sites_of(deployment, vnf))


def _verbs(asked: Asked, name: str, known: Known | None) -> list[Verb]:
    project = known.vnf.project if known else None
    sites = list(asked.deployment.config.sites)
    active = known.state.active_site if known else None
    others = [s for s in (known.vnf.sites if known else sites) if s != active]
    has_moved = known is not None and known.state.claim is not None
    found = []
    if known is not None:
        found += [Verb("protect", "Protect now", None, "primary")]
        found += [Verb("precheck", "Precheck", None, "plain")]
    found += [Verb("drill", "Drill …", s, "plain") for s in others[:1]]
    found += [Verb("failover", f"Fail over to {s} …", s, "danger") for s in others[:2]]
    found += [Verb("migrate", f"Migrate to {s} …", s, "more") for s in others[:2]]
    if known is not None:
        found += [Verb("protect", "Protect, with choices …", None, "more")]
        found += [Verb("verify", "Verify a recovery point …", None, "more")]
        found += [Verb("recovery-point-delete", "Delete a recovery point …", None, "more")]
        if any(p.standing for p in known.vnf.protections):
            found += [Verb("standing", f"Standing volumes at {s} …", s, "more") for s in others]
        if known.vnf.dns:
            found += [Verb("dns-switch", "Switch the DNS records …", None, "more")]
    if known is not None and known.state.claim is not None:
        former = known.state.claim.former_site
        found += [Verb("reprotect", "Reprotect …", None, "plain")]
        found += [Verb("fence", f"Fence the old copy at {former} …", former, "more")]
        found += [Verb("failback", f"Fail back to {former} …", former, "more")]
        if known.state.undo_until is not None:
            found += [Verb("undo", "Undo the failover …", None, "more")]
            found += [Verb("commit", "Commit the failover …", None, "more")]
    if has_moved or known is not None:
        found += [Verb("drill-cleanup", "Clean up after drills …", None, "more")]
    return [v for v in found if asked.may_run(v.name, project)]


def _next_step(name: str, known: Known | None) -> NextStep | None:
    if known is None:
        return None
    change = f"/vnfs/{name}/change"
    transition = known.transition
    if known.old_copies:
        site = next(iter(known.old_copies))
        words = f"an old copy runs at {site}. Two active copies destroy each other's service."
        return NextStep("bad", words, f"{change}/fence?to={site}", f"Fence it at {site}")
    if transition is not None:
        tone = "bad" if transition.name.startswith("error-") else "busy"
        words = f"it is {transition.name}."
        return NextStep(tone, words, f"/runs/{transition.run}", "Follow the run")
    if known.rpo.state is RpoState.NO_POINT and known.state.claim is not None:
        words = (
            f"it has moved to {known.state.active_site}, and has no recovery point there yet."
            " Protect it the other way round."
        )
        return NextStep("warn", words, f"{change}/reprotect", "Reprotect")
    if known.newest is None and known.rpo.state is RpoState.NO_POINT:
        return NextStep("warn", "make its first recovery point, with Protect now.")
    if known.level is Level.RED:
        return NextStep("bad", "mend what keeps it from being recovered; see Readiness below.")
    if known.drill_is_due:
        words = "its drill is due. A recovery that was never rehearsed is a hope."
        return NextStep("warn", words, f"{change}/drill", "Drill")
    return None


# ---- parts that are loaded later ----


def _points(asked: Asked) -> Response:
    name = vnf_of(asked, "point:get")
    state = asked.deployment.states.find(name)
    apart = {state.active_site} if state is not None else set[str]()
    generation = state.generation if state is not None else None
    listed: list[tuple[str, Summary | None, str]] = []
    marks: list[Dated] = []
    for id_, found in recovery_points(asked.deployment, name, NEWEST_POINTS, apart):
        if isinstance(found, Exception):
            listed.append((id_, None, str(found)))
            continue
        listed.append((id_, found, ""))
        weak = found.consistency in WEAK or generation not in (None, found.generation)
        at = of_text(found.consistent_at) or 0.0
        marks.append(
            Dated(at, "warn" if weak else "good", f"{id_}: {found.consistency}, {clock(at)}")
        )
    return part(asked, "points", name, points=listed[::-1], marks=marks)


def part(asked: Asked, part: str, name: str, **values: Any) -> Response:
    """A part of the page of a VNF; whole, where it is opened by itself."""
    fragment = f"fragments/{part}.html"
    if asked.is_fragment:
        return asked.page(fragment, name=name, **values)
    heading = f"{name}: {part}"
    return asked.page(
        "whole.html",
        fragment=fragment,
        heading=heading,
        back=f"/vnfs/{name}",
        name=name,
        **values,
    )


def _forecast(asked: Asked) -> Response:
    name = vnf_of(asked, "vnf:get")
    known = asked.deployment.vnfs.find(name)
    state = asked.deployment.states.find(name)
    active = state.active_site if state else (known.primary if known else None)
    sites = [s for s in (known.sites if known else []) if s != active]
    foreseen = [forecasts.of_vnf(asked.deployment, name, site) for site in sites]
    kept = list(forecasts.history(asked.deployment, name))[:12]
    return part(asked, "forecast", name, foreseen=foreseen, kept=kept)


def _topology(asked: Asked) -> Response:
    name = vnf_of(asked, "vnf:get")
    try:
        found: Look = (look if asked.form["live"] else remembered)(asked.deployment, name)
    except NotFound as error:
        return part(asked, "none", name, words=str(error))
    waves = found.status.vnf.boot_waves()
    return part(
        asked,
        "topology",
        name,
        topology=found.topology,
        source=found.source,
        warnings=found.warnings,
        may_look_live=not asked.form["live"],
        graph=pictures.graph(found.topology, waves),
    )


def _history(asked: Asked) -> Response:
    name = vnf_of(asked, "vnf:get")
    known = asked.deployment.vnfs.find(name)
    rows = asked.deployment.runs.newest(
        IN_A_CHART,
        vnf=name,
        projects=asked.projects,
        kinds=[protect_run.KIND.name],
        states=["succeeded"],
    )[::-1]
    charts: list[tuple[str, Callable[[float], str], Chart, float | None]] = []
    if rows:
        budget = next((_number(r, "quiesce_budget_s") for r in rows[::-1]), None)
        target = known.rpo if known else None
        charts = [
            ("Quiesce window", span_of, _chart(rows, "quiesce_window_s", span_of, budget), budget),
            ("Bytes per point", size, _chart(rows, "stored_bytes", size), None),
            ("Age of the point before (RPO)", span_of, _gaps(rows, target), target),
        ]
        charts = [one for one in charts if one[2].columns]
    shown: list[tuple[str, str]] = []
    if known is not None:
        shown = figures_of(period.of_vnf(asked.deployment, name, MONTH_S).vnfs[0])
    forms = ["html", "csv", "json"] if asked.may("vnf:get", asked.project_of_vnf(name)) else []
    return part(asked, "history", name, charts=charts, figures=shown, forms=forms)


def _number(row: RunRow, name: str) -> float | None:
    value = row.result.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _chart(
    rows: Sequence[RunRow],
    name: str,
    unit: Callable[[float], str],
    limit: float | None = None,
) -> Chart:
    found = [(row, _number(row, name)) for row in rows]
    values = [
        Measured(value, f"{clock(row.started_at)}: {unit(value)}")
        for row, value in found
        if value is not None
    ]
    return pictures.chart(values, limit)


def _gaps(rows: Sequence[RunRow], target: float | None) -> Chart:
    """How old the point before each one had become."""
    moments = [of_text(row.result.get("consistent_at")) for row in rows]
    pairs = [(a, b) for a, b in pairwise(moments) if a and b and b > a]
    values = [Measured(b - a, f"{clock(b)}: {span_of(b - a)}") for a, b in pairs]
    return pictures.chart(values, target)


def _elsewhere(asked: Asked) -> Response:
    """What a new host finds in the vaults; a VNF without a file here belongs to the staff."""
    asked.must("vnf:get", None)
    fragment = "fragments/elsewhere.html"
    found = only_in_vaults(asked.deployment)
    if asked.is_fragment:
        return asked.page(fragment, found=found)
    heading = "VNFs that are not known here"
    return asked.page("whole.html", fragment=fragment, heading=heading, back="/vnfs", found=found)


ROUTES = [
    route("/vnfs", _list),
    route("/elsewhere", _elsewhere, is_long=True),
    route("/vnfs", _in_bulk, changes=True),
    route("/vnfs/{vnf}", _show),
    route("/vnfs/{vnf}/protect", _begin("protect"), changes=True),
    route("/vnfs/{vnf}/precheck", _begin("precheck"), changes=True),
    route("/vnfs/{vnf}/points", _points, is_long=True),
    route("/vnfs/{vnf}/forecast", _forecast, is_long=True),
    route("/vnfs/{vnf}/topology", _topology, is_long=True),
    route("/vnfs/{vnf}/history", _history),
]

# SPDX-License-Identifier: Apache-2.0
"""Runs: listed, followed as they go on, answered, approved, resumed and aborted."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from antipode import identity
from antipode.api.rules import rule_of_kind
from antipode.console import pictures
from antipode.console.web import Asked, route
from antipode.console.words import fact
from antipode.errors import Busy, InvalidInput, NotConfirmed, NotFound
from antipode.operations import answer, approvals, resume
from antipode.operations.reports.files import FORMS, installed
from antipode.operations.run_details import Details, details
from antipode.runs import KINDS
from antipode.store.runs import AWAITING
from antipode.store.tables import RunRow

ON_A_PAGE = 50
STATES = ("queued", "running", "awaiting", "succeeded", "failed", "aborted", "rejected", "expired")
MOST_STEPS = 250
LIVE_S = 10.0
ACTIONS = ("answer", "approve", "reject", "abort", "resume", "report")
APART = ("vnf", "site", "to", "warnings", "steps", "seconds")
"""Members of a result that are shown elsewhere, or not."""


def _list(asked: Asked) -> Response:
    asked.must_here("run:list")
    form, marker = asked.form, asked.form.optional("marker")
    try:
        rows = asked.deployment.runs.newest(
            ON_A_PAGE + 1,
            projects=asked.projects,
            vnf=form.optional("vnf"),
            kinds=[form["kind"]] if form["kind"] else [],
            states=[form["state"]] if form["state"] else [],
            after=marker,
        )
    except NotFound as error:
        raise InvalidInput(f"marker {marker} is none of these runs") from error
    kept = {n: v for n, v in form.as_dict().items() if v and n != "marker"}
    return asked.page(
        "runs.html",
        form=form,
        rows=rows[:ON_A_PAGE],
        older=rows[ON_A_PAGE - 1].id if len(rows) > ON_A_PAGE else None,
        kinds=sorted(KINDS.names),
        states=STATES,
        url=f"?{urlencode(kept)}&" if kept else "?",
    )


def run_of(asked: Asked, rule: str) -> RunRow:
    """The run of the address, which the caller may do this with.

    Raises:
        NotFound, Forbidden: not so.
    """
    name = asked.named("run")
    missing = NotFound(f"there is no run {name} here")
    try:
        row = asked.deployment.runs.get(name)
    except NotFound:
        raise missing from None
    if not asked.sees(row.project):
        raise missing
    asked.must(rule, row.project)
    return row


def _show(asked: Asked) -> Response:
    row = run_of(asked, "run:get")
    seen = details(asked.deployment, row.id)
    ends = seen.run.ended_at or seen.at
    most = MOST_STEPS if not asked.form["all"] else 10**6
    page = asked.page(
        "fragments/run.html" if asked.is_fragment else "run.html",
        seen=seen,
        gantt=pictures.gantt(seen.outlook.steps, seen.run.started_at, ends, most),
        results=list(_results(seen.run)),
        forms=installed(FORMS),
        shows_all=bool(asked.form["all"]),
        **_actions(asked, seen),
    )
    if asked.is_fragment and seen.outlook.ended:
        page.headers["X-Ended"] = "1"
    return page


def _actions(asked: Asked, seen: Details) -> dict[str, Any]:
    author, project = identity.person(seen.run.author or ""), seen.run.project
    is_allowed = asked.may(rule_of_kind(seen.run.kind), project)
    may = {name: asked.may(f"run:{name}", project) for name in ACTIONS}
    return {
        "may": {**may, **{name: may[name] and is_allowed for name in ("abort", "resume")}},
        "is_own": identity.person(asked.caller.identity) == author,
    }


def _results(row: RunRow) -> list[tuple[str, str]]:
    """What a run has achieved, as far as it is said in a word."""
    given = (fact(name, value) for name, value in row.result.items() if name not in APART)
    return [one for one in given if one is not None][:16]


def _show_actions(asked: Asked) -> Response:
    row = run_of(asked, "run:get")
    seen = details(asked.deployment, row.id)
    template = "fragments/run_actions.html"
    shown = {"seen": seen, **_actions(asked, seen)}
    if asked.is_fragment:
        page = asked.page(template, **shown)
        if seen.outlook.ended and not seen.may_resume:
            page.headers["X-Ended"] = "1"
        return page
    path = f"/runs/{row.id}"
    return asked.page("whole.html", fragment=template, heading=row.id, back=path, **shown)


def _answer(asked: Asked) -> Response:
    row = run_of(asked, "run:answer")
    said: bool | str = asked.form["text"]
    if not said:
        if asked.form["said"] not in ("yes", "no"):
            raise InvalidInput("answer with yes or no")
        said = asked.form["said"] == "yes"
    record = answer.answer(asked.deployment, row.id, asked.form["step"], said)
    asked.console.snapshots.forget()
    return asked.back_to(f"/runs/{record['run']}", "The run has your answer.")


def _approve(asked: Asked) -> Response:
    row = run_of(asked, "run:approve")
    approvals.approve(asked.deployment, row.id, asked.form["plan"])
    asked.console.snapshots.forget()
    return asked.back_to(f"/runs/{row.id}", "You have approved it.")


def _reject(asked: Asked) -> Response:
    row = run_of(asked, "run:get")
    if identity.person(row.author or "") != identity.person(asked.caller.identity):
        asked.must("run:reject", row.project)
    approvals.reject(asked.deployment, row.id, asked.form.optional("reason"))
    asked.console.snapshots.forget()
    return asked.back_to(f"/runs/{row.id}", "It is not begun.", "warn")


def _abort(asked: Asked) -> Response:
    row = run_of(asked, "run:abort")
    asked.must(rule_of_kind(row.kind), row.project)
    if row.state == AWAITING:
        approvals.reject(asked.deployment, row.id)
    else:
        asked.console.installation.background.abort(row)
    asked.console.snapshots.forget()
    return asked.back_to(f"/runs/{row.id}", "It stops at its next safe point.", "warn")


def _resume(asked: Asked) -> Response:
    row = run_of(asked, "run:resume")
    asked.must(rule_of_kind(row.kind), row.project)
    seen = details(asked.deployment, row.id)
    resume.must_be_resumable(asked.deployment, row)
    if not seen.may_resume:
        raise Busy(f"run {row.id} is {seen.state}: a process has it")
    if seen.must_be_confirmed and asked.form["confirmed"] != "yes":
        raise NotConfirmed(f"say that {seen.subject} does not run at its other site now")
    asked.console.installation.background.resume(row)
    return asked.page_of(row.id)


ROUTES = [
    route("/runs", _list),
    route("/runs/{run}", _show),
    route("/runs/{run}/actions", _show_actions),
    route("/runs/{run}/answer", _answer, changes=True),
    route("/runs/{run}/approve", _approve, changes=True),
    route("/runs/{run}/reject", _reject, changes=True),
    route("/runs/{run}/abort", _abort, changes=True),
    route("/runs/{run}/resume", _resume, changes=True),
]

# SPDX-License-Identifier: Apache-2.0
"""Changes that are looked at first, and begin when the name of the VNF or plan is typed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import urlencode

from starlette.responses import Response

from antipode.console.pages.vnfs import vnf_of
from antipode.console.web import ROOT, Asked, notes_of, route
from antipode.errors import (
    AntipodeError,
    Forbidden,
    InvalidInput,
    NotFound,
    PreflightFailed,
)
from antipode.model.vnf import NAME, Vnf
from antipode.operations import forecasts, proposals
from antipode.operations.forecasts import Foreseen
from antipode.operations.proposals import Propose, Wish
from antipode.operations.recovery_points import recovery_points
from antipode.runs.failover_fence import FenceFirst

POINTS = 100
"""Recovery points to choose from."""
LONGEST_KEEP_S = 7 * 86400.0


class About(NamedTuple):
    """How a change is offered."""

    title: str
    words: str
    button: str
    preposition: str
    fields: Sequence[str] = ()
    is_grave: bool = False


OF_VNF: Mapping[str, About] = {
    "protect": About("Protect", "Make a recovery point.", "Protect", "at", ("option", "full")),
    "precheck": About("Precheck", "Look whether it could be recovered.", "Precheck", "at", ("to",)),
    "verify": About(
        "Verify a recovery point of",
        "Restore each volume, compare every block with what was captured, and remove it.",
        "Verify",
        "at",
        ("to", "point"),
    ),
    "standing": About(
        "Bring the standing volumes of",
        "Write what differs into its standing volumes, so that a failover finds them restored.",
        "Bring them to the point",
        "at",
        ("to", "point"),
    ),
    "standing-removal": About(
        "Remove the standing volumes of",
        "Remove its standing volumes at a site. A failover there restores them from backups.",
        "Remove them",
        "at",
        ("to",),
        is_grave=True,
    ),
    "dns-switch": About(
        "Switch the DNS records of",
        "Have its DNS records lead to where it is active.",
        "Switch",
        "to",
        ("point", "lost"),
    ),
    "recovery-point-delete": About(
        "Delete a recovery point of",
        "Delete a recovery point, with the backups that only it needs.",
        "Delete it",
        "at",
        ("point",),
        is_grave=True,
    ),
    "failover": About(
        "Fail over",
        "Recover it at another site. The site that it leaves is not called, unless you say so.",
        "Fail over",
        "to",
        ("to", "point", "heads", "fence", "undo", "lost"),
        is_grave=True,
    ),
    "drill": About(
        "Drill",
        "Rehearse its recovery on isolated networks. It runs on, and is not touched.",
        "Begin the drill",
        "at",
        ("to", "point", "keep"),
    ),
    "drill-cleanup": About(
        "Clean up after drills of", "Remove what drills have left.", "Remove it", "at"
    ),
    "fence": About(
        "Fence the old copy of",
        "Cut off, stop and lock its old copy. The active copy is not touched.",
        "Fence",
        "at",
        ("to", "lost"),
        is_grave=True,
    ),
    "reprotect": About(
        "Reprotect",
        "Fence its old copy, and protect it the other way round.",
        "Reprotect",
        "for a recovery at",
        ("old_copy", "lost"),
    ),
    "migrate": About(
        "Migrate",
        "Move it while both sites answer. Nothing is lost; it is off for a while.",
        "Migrate",
        "to",
        ("to",),
        is_grave=True,
    ),
    "failback": About(
        "Fail back",
        "Move it to where it came from. Its old copy there is removed first.",
        "Fail back",
        "to",
        (),
        is_grave=True,
    ),
    "undo": About(
        "Undo the failover of",
        "Go back to the old copy. What was written since the failover is lost.",
        "Undo, and go back",
        "to",
        is_grave=True,
    ),
    "commit": About(
        "Commit the failover of", "Give up that it can be undone.", "Commit", "at", is_grave=True
    ),
}
OF_PLAN: Mapping[str, About] = {
    "precheck": About("Precheck plan", "Look at each of its VNFs.", "Precheck", "at", ("to",)),
    "drill": About(
        "Drill plan", "Rehearse the recovery of its VNFs.", "Begin the drills", "at", ("to", "skip")
    ),
    "failover": About(
        "Fail over plan",
        "Recover its VNFs, group after group. The site that they leave is not called.",
        "Fail over",
        "to",
        ("to", "fence", "skip", "lost"),
        is_grave=True,
    ),
    "migrate": About(
        "Migrate plan",
        "Move its VNFs while both sites answer.",
        "Migrate",
        "to",
        ("to", "skip"),
        is_grave=True,
    ),
    "failback": About(
        "Fail back plan",
        "Move its VNFs to where they came from.",
        "Fail back",
        "to",
        ("skip",),
        is_grave=True,
    ),
}


def _verb(asked: Asked, known: Mapping[str, About]) -> str:
    verb = asked.named("verb")
    if verb not in known:
        raise NotFound(f"nothing is called {verb} here")
    return verb


def _vnf_to(asked: Asked, verb: str) -> str:
    """The VNF of the address, with which the caller may begin this.

    Raises:
        NotFound, Forbidden: not so.
    """
    name = vnf_of(asked, "vnf:get")
    asked.must_run(verb, asked.project_of_vnf(name))
    return name


def _dialog(asked: Asked) -> Response:
    verb = _verb(asked, OF_VNF)
    name = _vnf_to(asked, verb)
    known, state = asked.deployment.vnfs.find(name), asked.deployment.states.find(name)
    active = state.active_site if state else (known.primary if known else None)
    named = asked.form["to"]
    every = known.sites if known else list(asked.deployment.config.sites)
    sites = [s for s in every if s != active or s == named]
    about = OF_VNF[verb]
    points: list[tuple[str, str]] = []
    if "point" in about.fields:
        apart = {active} if active is not None else set[str]()
        found = recovery_points(asked.deployment, name, POINTS, apart)
        points = [
            (id_, f"{one.consistent_at[:19]}, {one.consistency}")
            for id_, one in found
            if not isinstance(one, Exception)
        ][::-1]
    return asked.page(
        "change.html",
        about=about,
        subject=name,
        back=f"/vnfs/{name}",
        form=asked.form,
        sites=sites,
        points=points,
        vaults=_vaults(asked, known),
        options=[p.option for p in known.protections] if known else [],
        has_datastores=known is None or bool(known.datastores_of_volumes),
        plan_url=_plan_url(f"/vnfs/{name}/change/{verb}", asked, about, sites),
    )


def _vaults(asked: Asked, vnf: Vnf | None) -> list[str]:
    """The vaults that may be said to be lost: those of a VNF, or all."""
    return list(vnf.vaults if vnf and vnf.vaults else asked.deployment.config.all_vaults)


def _plan_url(path: str, asked: Asked, about: About, sites: Sequence[str]) -> str:
    form = asked.form
    given = {field: form[field] for field in about.fields if form[field]}
    if "to" in about.fields and "to" not in given and sites and not path.startswith("/plans"):
        given["to"] = sites[0]
    given.pop("lost", None)
    kept = [*given.items(), *(("lost", vault) for vault in form.all("lost") if vault)]
    return f"{ROOT}{path}/plan" + (f"?{urlencode(kept)}" if kept else "")


def _wish(asked: Asked) -> Wish:
    form = asked.form
    fence, old_copy = form.optional("fence"), form["old_copy"] or "keep"
    if fence not in (None, "required", "try") or old_copy not in ("keep", "remove"):
        raise InvalidInput("the form has a choice that is none")
    return Wish(
        to=form.optional("to"),
        recovery_point=form.optional("point"),
        option=form.optional("option"),
        full=form["full"] == "1",
        fence=cast(FenceFirst | None, fence),
        keep_s=_seconds(form["keep"]),
        old_copy="remove" if old_copy == "remove" else "keep",
        undo_within_s=_seconds(form["undo"]),
        newest_heads=form["heads"] == "1",
        lost_vaults=[vault for vault in form.all("lost") if vault],
        without_blocked=form["skip"] == "1",
    )


def _seconds(text: str) -> float | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise InvalidInput(f"{text!r} is no number of seconds")
    if not 60 <= (found := float(text)) <= LONGEST_KEEP_S:
        raise InvalidInput(f"{found:g} s is not between a minute and 7 days")
    return found


def _plan(asked: Asked) -> Response:
    verb = _verb(asked, OF_VNF)
    name = _vnf_to(asked, verb)
    path = f"/vnfs/{name}/change/{verb}"
    return _planned(asked, proposals.OF_VNF[verb], OF_VNF[verb], name, path)


def _planned(asked: Asked, how: Propose, about: About, subject: str, path: str) -> Response:
    """The plan of a change, kept in the session until it is confirmed; or what stands in the
    way.
    """
    shown: dict[str, Any] = {
        "about": about,
        "error": None,
        "problems": [],
        "notes": [],
        "proposal": None,
        "name": "",
        "forecast": None,
        "begin_url": f"{ROOT}{path}",
    }
    try:
        proposal = proposals.propose(asked.deployment, how, subject, _wish(asked))
        shown |= {
            "proposal": proposal,
            "name": asked.session.propose(proposal),
            "forecast": _forecast(asked, subject, proposal.site)
            if proposal.loses_what_is_newer
            else None,
        }
    except AntipodeError as error:
        problems = error.problems if isinstance(error, PreflightFailed) else []
        shown |= {
            "error": error,
            "problems": problems,
            "notes": notes_of(error, asked.session),
        }
    if asked.is_fragment:
        return asked.page("fragments/plan.html", **shown)
    heading = f"{about.title} {subject}"
    return asked.page(
        "whole.html", fragment="fragments/plan.html", heading=heading, back=path, **shown
    )


def _forecast(asked: Asked, vnf: str, site: str | None) -> Foreseen | None:
    try:
        return forecasts.of_vnf(asked.deployment, vnf, site)
    except AntipodeError:
        return None  # the plan stands without it


def _begin(asked: Asked) -> Response:
    verb = _verb(asked, OF_VNF)
    name = _vnf_to(asked, verb)
    return _begun(asked, verb, name, f"/vnfs/{name}/change/{verb}")


def _begun(asked: Asked, verb: str, subject: str, path: str) -> Response:
    """Begin what was shown, if it is confirmed."""
    project = asked.project_of_vnf(subject) if verb in OF_VNF else None
    proposal = asked.session.proposed(asked.form["proposal"])
    if proposal is None or (proposal.verb, proposal.subject) != (verb, subject):
        return asked.back_to(
            path, "The plan was shown too long ago, or elsewhere. Here it is again.", "warn"
        )
    try:
        room = asked.room(project)
        record = proposals.begin(asked.deployment, proposal, asked.form["typed"], room)
    except AntipodeError as error:
        return asked.back_to(path, str(error), "bad")
    asked.session.proposals.pop(asked.form["proposal"], None)
    return asked.page_of(str(record["run"]))


# ---- plans ----


def plan_of(asked: Asked, rule: str) -> str:
    """The plan of the address, which the caller may do this with. Plans belong to the staff.

    Raises:
        NotFound, Forbidden: not so.
    """
    name = asked.named("plan")
    if re.fullmatch(NAME, name) is None:
        raise NotFound(f"there is no plan {name}")
    if not asked.caller.all_projects:
        raise Forbidden("plans reach over projects: they need a project that covers all of them")
    asked.must(rule, None)
    return name


def _plan_dialog(asked: Asked) -> Response:
    verb = _verb(asked, OF_PLAN)
    name = plan_of(asked, "plan:run")
    about = OF_PLAN[verb]
    path = f"/plans/{name}/change/{verb}"
    return asked.page(
        "change.html",
        about=about,
        subject=name,
        back=f"/plans/{name}",
        form=asked.form,
        sites=["", *asked.deployment.config.sites],
        points=[],
        vaults=_vaults(asked, None),
        plan_url=_plan_url(path, asked, about, []),
    )


def _plan_planned(asked: Asked) -> Response:
    verb = _verb(asked, OF_PLAN)
    name = plan_of(asked, "plan:run")
    path = f"/plans/{name}/change/{verb}"
    return _planned(asked, proposals.OF_PLAN[verb], OF_PLAN[verb], name, path)


def _plan_begin(asked: Asked) -> Response:
    verb = _verb(asked, OF_PLAN)
    name = plan_of(asked, "plan:run")
    return _begun(asked, f"plan-{verb}", name, f"/plans/{name}/change/{verb}")


ROUTES = [
    route("/vnfs/{vnf}/change/{verb}", _dialog),
    route("/vnfs/{vnf}/change/{verb}/plan", _plan),
    route("/vnfs/{vnf}/change/{verb}", _begin, changes=True),
    route("/plans/{plan}/change/{verb}", _plan_dialog),
    route("/plans/{plan}/change/{verb}/plan", _plan_planned),
    route("/plans/{plan}/change/{verb}", _plan_begin, changes=True),
]

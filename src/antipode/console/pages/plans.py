# SPDX-License-Identifier: Apache-2.0
"""Plans over many VNFs, as the vaults have them."""

from __future__ import annotations

from starlette.responses import Response

from antipode.console.pages.changes import OF_PLAN, plan_of
from antipode.console.web import Asked, route
from antipode.errors import Forbidden
from antipode.model.plan_file import PREFIX
from antipode.operations import plans

NEWEST = 10


def _list(asked: Asked) -> Response:
    if not asked.caller.all_projects:
        raise Forbidden("plans reach over projects: they need a project that covers all of them")
    asked.must("plan:get", None)
    return asked.page("plans.html", plans=list(plans.listed(asked.deployment)))


def _show(asked: Asked) -> Response:
    name = plan_of(asked, "plan:get")
    verbs = [
        (verb, about.title.removesuffix(" plan") + " …", "danger" if about.is_grave else "")
        for verb, about in OF_PLAN.items()
        if asked.may("plan:run", None)
    ]
    runs = asked.deployment.runs.newest(NEWEST, vnf=f"{PREFIX}{name}")
    plan = plans.show(asked.deployment, name)
    return asked.page("plan.html", plan=plan, verbs=verbs, runs=runs)


ROUTES = [route("/plans", _list), route("/plans/{plan}", _show)]

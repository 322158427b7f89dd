# SPDX-License-Identifier: Apache-2.0
"""Reports, to look at and to download."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from antipode.console.pages.overview import seen
from antipode.console.pages.runs import run_of
from antipode.console.pages.sites import site_of
from antipode.console.pages.vnfs import vnf_of
from antipode.console.web import Asked, route
from antipode.errors import NotFound
from antipode.model.history import History
from antipode.operations.reports import period, report
from antipode.operations.reports.files import FORMS, installed
from antipode.operations.reports.period_files import FORMS as PERIOD_FORMS
from antipode.runs import KINDS

MONTH_S = 30 * 86400.0
NEWEST = 60
TYPES: Mapping[str, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "pdf": "application/pdf",
}
OWN_STYLE = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""The policy of a report, which is a page by itself and has its style in it."""


def _list(asked: Asked) -> Response:
    asked.must_here("run:list")
    kinds = [name for name in KINDS.names if name.startswith("plan-")]
    kinds += ["drill", "failover", "migrate", "reprotect", "undo", "fence"]
    rows = asked.deployment.runs.newest(
        NEWEST,
        projects=asked.projects,
        kinds=kinds,
        states=("succeeded", "failed", "aborted"),
    )
    return asked.page(
        "reports.html",
        rows=rows,
        forms=installed(FORMS),
        period_forms=installed(PERIOD_FORMS),
        sites=list(asked.deployment.config.sites) if asked.caller.all_projects else [],
        vnfs=[known.vnf.vnf for known in seen(asked).vnfs],
    )


def _of_run(asked: Asked) -> Response:
    row, form = run_of(asked, "run:report"), asked.named("form")
    if form not in FORMS:
        raise NotFound(f"there is no report in the form {form}")
    return _file(row.id, form, FORMS[form](report(asked.deployment, row.id)))


def _of_vnf(asked: Asked) -> Response:
    vnf = vnf_of(asked, "vnf:get")
    return _of_time(asked, vnf, period.of_vnf(asked.deployment, vnf, MONTH_S))


def _of_site(asked: Asked) -> Response:
    site = site_of(asked, "site:list")
    if not asked.caller.all_projects:
        raise NotFound("a report of a site is about the VNFs of all projects")
    return _of_time(asked, site, period.of_site(asked.deployment, site, MONTH_S))


def _of_time(asked: Asked, name: str, found: History) -> Response:
    form = asked.named("form")
    if form not in PERIOD_FORMS:
        raise NotFound(f"there is no report in the form {form}")
    return _file(name, form, PERIOD_FORMS[form](found))


def _file(name: str, form: str, content: bytes) -> Response:
    """A report; a page is shown, another form is kept."""
    headers = {"content-security-policy": OWN_STYLE}
    if form != "html":
        headers["content-disposition"] = f'attachment; filename="{name}.{form}"'
    return Response(content, headers=headers, media_type=TYPES[form])


ROUTES = [
    route("/reports", _list),
    route("/reports/run/{run}.{form}", _of_run),
    route("/reports/vnf/{vnf}.{form}", _of_vnf),
    route("/reports/site/{site}.{form}", _of_site),
]

# SPDX-License-Identifier: Apache-2.0
"""`/v1/runs/{run}/report`: the evidence of a run that has ended."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from antipode.api.conventions import RunId
from antipode.api.faults import FAULTS
from antipode.api.gate import Asked, route
from antipode.errors import InvalidInput, WrongState
from antipode.model.report import Report
from antipode.operations.reports import page, report

ROUTES = APIRouter(prefix="/v1", tags=["reports"])
_ANSWERS: dict[int | str, dict[str, Any]] = {
    **FAULTS,
    200: {"model": Report, "content": {"text/html": {"schema": {"type": "string"}}}},
}


@route(ROUTES, "GET", "/runs/{run}/report", "run:report", response_model=None, responses=_ANSWERS)
def get_report(
    asked: Asked,
    run: RunId,
    form: Annotated[Literal["json", "html"], Query(description="of the answer")] = "json",
) -> Response:
    """Make the report of a run, as `antipode report` does. It is not signed."""
    try:
        found = report(asked.deployment, run)
    except InvalidInput as error:
        state = asked.deployment.runs.get(run).state
        raise WrongState(str(error), state, resource=f"run {run}") from error
    if form == "html":
        # a page of its own, in which nothing is executed
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return Response(page.html(found), media_type="text/html", headers=headers)
    return JSONResponse(found.model_dump(mode="json"))

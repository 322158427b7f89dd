# SPDX-License-Identifier: Apache-2.0
"""`/v1/audit` and `/v1/quota`: what was asked for by whom, and how much a project may have. The
trail can be read, and not be written to.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from antipode.api import conventions
from antipode.api.conventions import Limit, Marker, Moment, moment, page
from antipode.api.gate import Asked, route
from antipode.errors import InvalidInput, NotFound
from antipode.store.tables import AuditRow

ROUTES = APIRouter(prefix="/v1", tags=["audit"])


class Record(BaseModel):
    """A request that has changed something or was refused, in the terms of CADF."""

    id: str
    event_time: Moment
    action: str = Field(description="the rule that was asked")
    outcome: str = Field(description="success or failure")
    initiator: str | None = Field(description="USER@SITE; null: there was no valid token")
    initiator_user_id: str | None
    initiator_project: str | None
    initiator_address: str
    target: str = Field(description="the path")
    reason_code: int = Field(description="the HTTP status")
    request_id: str


class Trail(BaseModel):
    audit: list[Record]
    audit_links: list[conventions.Link]


class QuotaShown(BaseModel):
    """How much a project may have; null: as much as it likes."""

    project: str
    vnfs: int | None
    vnfs_used: int
    open_runs: int | None
    open_runs_used: int


class OneQuota(BaseModel):
    quota: QuotaShown


@route(ROUTES, "GET", "/audit", "audit:list")
def list_audit(
    asked: Asked, request: Request, limit: Limit = conventions.USUAL, marker: Marker | None = None
) -> Trail:
    """List the records of the audit trail, the newest first."""
    try:
        found = asked.deployment.audit.page(limit + 1, marker)
    except NotFound as error:
        raise InvalidInput(f"marker {marker} is no record of the audit trail") from error
    shown, more = page(request, found, limit, lambda row: row.id)
    return Trail(audit=[_record(row) for row in shown], audit_links=more)


@route(ROUTES, "GET", "/quota", "quota:get")
def get_quota(asked: Asked) -> OneQuota:
    """Show how much the project of the token may have, and has."""
    project = asked.caller.project or ""
    quota = asked.installation.settings.projects[project].quota
    return OneQuota(
        quota=QuotaShown(
            project=project,
            vnfs=quota.vnfs,
            vnfs_used=asked.deployment.vnfs.count(project),
            open_runs=quota.open_runs,
            open_runs_used=asked.deployment.runs.count_unfinished(project),
        )
    )


def _record(row: AuditRow) -> Record:
    return Record(
        id=row.id,
        event_time=moment(row.at) or "",
        action=row.action,
        outcome=row.outcome,
        initiator=row.identity,
        initiator_user_id=row.user_id,
        initiator_project=row.project,
        initiator_address=row.address,
        target=row.target,
        reason_code=row.status,
        request_id=row.request_id,
    )

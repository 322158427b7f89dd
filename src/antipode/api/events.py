# SPDX-License-Identifier: Apache-2.0
"""`/v1/events` and `/v1/runs/{run}/events`: what has happened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from antipode.api import conventions
from antipode.api.conventions import Moment, RunId, moment
from antipode.api.gate import Asked, route
from antipode.model.event import Event

ROUTES = APIRouter(prefix="/v1", tags=["events"])
Json = dict[str, Any]
Most = Annotated[int, Query(ge=1, le=conventions.MOST, description="the newest so many")]


class EventShown(BaseModel):
    """Something that has happened; `type` as docs/events.md has it."""

    id: str
    type: str
    subject: str
    at: Moment
    data: Json


class EventList(BaseModel):
    events: list[EventShown]


@route(ROUTES, "GET", "/events", "event:list")
def list_events(asked: Asked, limit: Most = conventions.USUAL) -> EventList:
    """List the newest events, the newest first. The service notes them where antipode.yaml names
    receivers.
    """
    return _events(asked, asked.deployment.events.newest(limit)[::-1])


@route(ROUTES, "GET", "/runs/{run}/events", "run:get")
def list_run_events(asked: Asked, run: RunId, limit: Most = conventions.USUAL) -> EventList:
    """List the events of a run, the newest first."""
    row = asked.deployment.runs.get(run)
    return _events(asked, asked.deployment.events.of_run(row.id, row.started_at, limit))


def _events(asked: Asked, found: Iterable[Event]) -> EventList:
    """Events, without the reasons of runs where the caller may not read what commands print."""
    hidden = () if asked.allows("vnf:definition") else ("reason",)
    return EventList(
        events=[
            EventShown(
                id=one.id,
                type=one.type,
                subject=one.subject,
                at=moment(one.at) or "",
                data={name: value for name, value in one.data.items() if name not in hidden},
            )
            for one in found
        ]
    )

# SPDX-License-Identifier: Apache-2.0
"""`/v1/service`: whether the service works that carries runs out. For the staff."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from antipode.api.conventions import Moment, moment
from antipode.api.gate import Asked, route
from antipode.service.daemon import queue_size, status_of

ROUTES = APIRouter(prefix="/v1", tags=["service"])
Json = dict[str, Any]


class ServiceShown(BaseModel):
    """The service of the host that answers, and the queue of all hosts."""

    service: str = Field(description="running, not responding, or not running")
    host: str | None
    version: str | None
    started_at: Moment | None
    last_sign_of_life: Moment | None
    trouble: Json
    queued: int
    running: int
    lost: int


class OneService(BaseModel):
    service: ServiceShown


@route(ROUTES, "GET", "/service", "service:get")
def get_service(asked: Asked) -> OneService:
    """Show whether the service of the host that answers works, and the queue."""
    status = status_of(asked.deployment.config)
    alive = status is not None and status.is_alive
    state = "running" if alive else "not running" if status is None else "not responding"
    return OneService(
        service=ServiceShown(
            service=state,
            host=status.host if status else None,
            version=status.version if status else None,
            started_at=moment(status.started_at) if status else None,
            last_sign_of_life=moment(status.beat_at) if status else None,
            trouble=dict(status.trouble) if status else {},
            **queue_size(asked.deployment, asked.deployment.runs.open()),
        )
    )

"""The tables of the local database.

Moments are seconds since the epoch, UTC, which every database keeps alike.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Double, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

USUAL_PRIORITY = 10
"""of a run; one with a lower number begins first"""


class Base(DeclarativeBase):
    pass


class VnfRow(Base):
    __tablename__ = "vnfs"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    definition: Mapped[dict[str, Any]] = mapped_column(JSON)
    added_at: Mapped[float] = mapped_column(Double)


class RunRow(Base):
    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    vnf: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    """queued, running, succeeded, failed or aborted; what is kept as running and nobody is at is
    told as lost
    """
    started_at: Mapped[float] = mapped_column(Double)
    ended_at: Mapped[float | None] = mapped_column(Double)
    reason: Mapped[str | None] = mapped_column(Text)
    """why it failed, or is being taken back"""
    result: Mapped[dict[str, Any]] = mapped_column(JSON)
    request: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """all that was asked for, enough to go on with the run on any host; None for a run of an
    antipode that did not keep it
    """
    flow_version: Mapped[int | None] = mapped_column(Integer)
    """the version of the flow that it was begun with"""
    priority: Mapped[int] = mapped_column(
        Integer, default=USUAL_PRIORITY, server_default=str(USUAL_PRIORITY)
    )
    """the order in which runs begin; the lowest first"""
    claim: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """raised by whoever takes the run; what is written with an older number is refused"""
    conductor: Mapped[str | None] = mapped_column(String(255))
    """who has it, for people"""
    abort_requested_at: Mapped[float | None] = mapped_column(Double)
    ending: Mapped[str | None] = mapped_column(String(16))
    """failed or aborted: what it will be once all that it made is taken back, which has begun; it
    never goes forward again
    """
    slot: Mapped[str | None] = mapped_column(String(128), unique=True)
    """what no other run may have at the same time, while it is queued or running"""


class StepRow(Base):
    __tablename__ = "steps"
    __table_args__ = (Index("steps_of_run", "run", "started_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(128))
    resource: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(16))
    """running, succeeded, failed, or lost: running when the process at it died"""
    started_at: Mapped[float] = mapped_column(Double)
    ended_at: Mapped[float | None] = mapped_column(Double)
    result: Mapped[dict[str, Any]] = mapped_column(JSON)


class FreezeRow(Base):
    """One server that may be frozen, from just before its quiesce call until its thaw is
    confirmed.
    """

    __tablename__ = "freezes"
    __table_args__ = (Index("freezes_open", "site", "thawed_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site: Mapped[str] = mapped_column(String(64))
    server_id: Mapped[str] = mapped_column(String(64))
    server: Mapped[str] = mapped_column(String(255))
    noted_at: Mapped[float] = mapped_column(Double)
    deadline: Mapped[float] = mapped_column(Double)
    thawed_at: Mapped[float | None] = mapped_column(Double)
    run: Mapped[str | None] = mapped_column(String(64))
    """whose window it is"""

"""The tables of the local database. Moments are seconds since the epoch, UTC, which every database keeps alike."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Double, ForeignKey, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


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
    """running, succeeded or failed"""
    started_at: Mapped[float] = mapped_column(Double)
    ended_at: Mapped[float | None] = mapped_column(Double)
    reason: Mapped[str | None] = mapped_column(Text)
    """why it failed"""
    result: Mapped[dict[str, Any]] = mapped_column(JSON)


class StepRow(Base):
    __tablename__ = "steps"
    __table_args__ = (Index("steps_of_run", "run", "started_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(128))
    resource: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(16))
    """running, succeeded or failed"""
    started_at: Mapped[float] = mapped_column(Double)
    ended_at: Mapped[float | None] = mapped_column(Double)
    result: Mapped[dict[str, Any]] = mapped_column(JSON)


class FreezeRow(Base):
    """One server that may be frozen, from just before its quiesce call until its thaw is confirmed."""

    __tablename__ = "freezes"
    __table_args__ = (Index("freezes_open", "site", "thawed_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site: Mapped[str] = mapped_column(String(64))
    server_id: Mapped[str] = mapped_column(String(64))
    server: Mapped[str] = mapped_column(String(255))
    noted_at: Mapped[float] = mapped_column(Double)
    deadline: Mapped[float] = mapped_column(Double)
    thawed_at: Mapped[float | None] = mapped_column(Double)

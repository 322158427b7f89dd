# SPDX-License-Identifier: Apache-2.0
"""The tables of the local database.

Moments are seconds since the epoch, UTC, which every database stores alike.
"""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import (
    JSON,
    Boolean,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
    select,
    true,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

USUAL_PRIORITY = 10
"""of a run; one with a lower number begins first"""


class Base(DeclarativeBase):
    pass


def storable(text: str) -> str:
    """Text from anywhere, as every database and driver accepts it: a lone surrogate and a NUL are
    escaped as in Python's source (`\\udc80`, `\\x00`).
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _all_storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {_all_storable(key): _all_storable(of_key) for key, of_key in value.items()}
    if isinstance(value, list | tuple):
        return [_all_storable(item) for item in value]
    return value


class Document(TypeDecorator[Any]):
    """JSON whose text is stored as by `storable`."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return _all_storable(value)


class Words(TypeDecorator[str]):
    """Text that is stored as by `storable`."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class Label(Words):
    """Text to be read, not to be looked up: it is cut off at the length of its column."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        words, length = super().process_bind_param(value, dialect), cast(String, self.impl).length
        if words is None or length is None or len(words) <= length:
            return words
        return f"{words[: length - 1]}…"


class Prose(Words):
    """Text of any length."""

    impl = Text
    cache_ok = True


class VnfRow(Base):
    __tablename__ = "vnfs"
    __table_args__ = (Index("vnfs_of_project", "project", "name"),)

    name: Mapped[str] = mapped_column(Words(64), primary_key=True)
    definition: Mapped[dict[str, Any]] = mapped_column(Document)
    added_at: Mapped[float] = mapped_column(Double)
    """when the definition was stored"""
    known_since: Mapped[float | None] = mapped_column(Double)
    """when the first of its name was; None: by an antipode that did not note it"""
    project: Mapped[str | None] = mapped_column(Words(64))
    """that it belongs to, as its definition says"""
    policy: Mapped[str | None] = mapped_column(Words(64))
    """that its protections were chosen by, through the API"""


class StateRow(Base):
    """Where a VNF is active, as it was last read from the vaults."""

    __tablename__ = "states"

    vnf: Mapped[str] = mapped_column(String(64), primary_key=True)
    generation: Mapped[int] = mapped_column(Integer)
    state: Mapped[dict[str, Any]] = mapped_column(JSON)
    read_at: Mapped[float] = mapped_column(Double)


class ScheduleRow(Base):
    """How far the schedule of a protection has come; one row for all hosts."""

    __tablename__ = "schedules"

    vnf: Mapped[str] = mapped_column(Words(64), primary_key=True)
    option: Mapped[str] = mapped_column(Words(64), primary_key=True)
    schedule: Mapped[str] = mapped_column(Prose)
    """what `due_at` is a slot of; another schedule begins with the present slot, as done"""
    due_at: Mapped[float] = mapped_column(Double)
    """the newest slot that is settled: begun, or passed over"""
    settled: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """raised with every slot that is settled; a host that knows an older number settles none"""
    run: Mapped[str | None] = mapped_column(Words(64))
    """the newest run that was begun for a slot"""
    missed: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """slots for which no run was begun, in all"""
    reason: Mapped[str | None] = mapped_column(Prose)
    """why the newest slot waits, or was passed over"""
    paused_at: Mapped[float | None] = mapped_column(Double)
    paused_because: Mapped[str | None] = mapped_column(Prose)


class MissedRow(Base):
    """That slots of a schedule were missed, as they were settled."""

    __tablename__ = "missed"
    __table_args__ = (Index("missed_of_vnf", "vnf", "at"),)

    id: Mapped[str] = mapped_column(Words(32), primary_key=True)
    vnf: Mapped[str] = mapped_column(Words(64))
    option: Mapped[str] = mapped_column(Words(64))
    at: Mapped[float] = mapped_column(Double)
    """the slot that was settled with them"""
    slots: Mapped[int] = mapped_column(Integer)


class LookRow(Base):
    """When it is looked next whether a VNF could be recovered at a site; one row for all hosts."""

    __tablename__ = "looks"

    vnf: Mapped[str] = mapped_column(Words(64), primary_key=True)
    site: Mapped[str] = mapped_column(Words(64), primary_key=True)
    due_at: Mapped[float] = mapped_column(Double)
    not_before: Mapped[float] = mapped_column(Double, default=0.0, server_default="0")
    """until then a host is looking"""
    taken: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """raised by each host that looks; one that has an older number keeps nothing"""
    is_wanted: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    """false while the VNF is active at the site"""


class ReadinessRow(Base):
    """What was seen of a VNF and a site, for as long as it stayed the same."""

    __tablename__ = "readiness"
    __table_args__ = (Index("readiness_by_time", "since"),)

    vnf: Mapped[str] = mapped_column(Words(64), primary_key=True)
    site: Mapped[str] = mapped_column(Words(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    """of the look that has seen it first"""
    level: Mapped[str] = mapped_column(Words(16))
    before: Mapped[str | None] = mapped_column(Words(16))
    """the level until then"""
    since: Mapped[float] = mapped_column(Double)
    seen_at: Mapped[float] = mapped_column(Double)
    """the last look at which it was so"""
    looks: Mapped[int] = mapped_column(Integer)
    findings: Mapped[list[dict[str, Any]]] = mapped_column(Document)
    """as at the last look"""


class ForecastRow(Base):
    """What was forecast for a run when it began."""

    __tablename__ = "forecasts"
    __table_args__ = (Index("forecasts_of_vnf", "vnf", "made_at"),)

    run: Mapped[str] = mapped_column(Words(64), primary_key=True)
    kind: Mapped[str] = mapped_column(Words(32))
    vnf: Mapped[str] = mapped_column(Words(64))
    site: Mapped[str] = mapped_column(Words(64))
    made_at: Mapped[float] = mapped_column(Double)
    back_in_s: Mapped[float | None] = mapped_column(Double)
    """from then on; None: it could not be known"""
    error_s: Mapped[float | None] = mapped_column(Double)
    loses_s: Mapped[float | None] = mapped_column(Double)
    basis: Mapped[list[str]] = mapped_column(Document)
    unmeasured: Mapped[list[str]] = mapped_column(Document)


class EventRow(Base):
    """An event, as it may be delivered to others."""

    __tablename__ = "events"
    __table_args__ = (Index("events_by_time", "at"),)

    id: Mapped[str] = mapped_column(Words(190), primary_key=True)
    """made of what has happened: whichever host notices it first notes it, and no other"""
    type: Mapped[str] = mapped_column(Words(64))
    subject: Mapped[str] = mapped_column(Words(190))
    at: Mapped[float] = mapped_column(Double)
    data: Mapped[dict[str, Any]] = mapped_column(Document)


class DeliveryRow(Base):
    """An event that is still to be delivered to one receiver."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("deliveries_to", "receiver", "at"),)

    receiver: Mapped[str] = mapped_column(Words(64), primary_key=True)
    event: Mapped[str] = mapped_column(ForeignKey("events.id"), primary_key=True)
    at: Mapped[float] = mapped_column(Double)
    """when the event was noted"""
    not_before: Mapped[float] = mapped_column(Double, default=0.0, server_default="0")
    """until then a host has taken it, or waits after an attempt that failed"""
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")


class ConditionRow(Base):
    """A condition that was reported; kept until it is over."""

    __tablename__ = "conditions"

    key: Mapped[str] = mapped_column(Words(190), primary_key=True)
    since: Mapped[float] = mapped_column(Double)


def _project_of_new(context: DefaultExecutionContext) -> str | None:
    """The project of the VNF that a new run is about, as it is now."""
    name = context.get_current_parameters()["vnf"]  # type: ignore[no-untyped-call]
    found = context.connection.execute(select(VnfRow.project).where(VnfRow.name == name))
    project: str | None = found.scalar_one_or_none()
    return project


class RunRow(Base):
    __tablename__ = "runs"
    __table_args__ = (
        Index("runs_of_vnf", "vnf", "started_at"),
        Index("runs_of_vnf_and_kind", "vnf", "kind", "started_at"),
        Index("runs_in_state", "state", "started_at"),
        Index("runs_ended", "ended_at"),
        Index("runs_of_project", "project", "started_at"),
        Index("runs_of_project_in_state", "project", "state", "started_at"),
        Index("runs_of_project_and_vnf", "project", "vnf", "started_at"),
        Index("runs_by_time", "started_at"),
        Index("runs_of_kind", "kind", "started_at"),
        Index("runs_of_kind_in_state", "kind", "state", "started_at"),
        Index("runs_of_request", "request_key", unique=True),
    )

    id: Mapped[str] = mapped_column(Words(64), primary_key=True)
    kind: Mapped[str] = mapped_column(Words(32))
    vnf: Mapped[str] = mapped_column(Words(64))
    state: Mapped[str] = mapped_column(Words(16))
    """queued, running, succeeded, failed or aborted, shown as lost if it is running here and no
    process executes it; awaiting, rejected or expired, before it was approved
    """
    started_at: Mapped[float] = mapped_column(Double)
    ended_at: Mapped[float | None] = mapped_column(Double)
    reason: Mapped[str | None] = mapped_column(Prose)
    """why it failed, or is being rolled back"""
    result: Mapped[dict[str, Any]] = mapped_column(Document)
    request: Mapped[dict[str, Any] | None] = mapped_column(Document(none_as_null=True))
    """all that was asked for, enough to resume the run on any host; None for a run of an antipode
    that did not store it
    """
    flow_version: Mapped[int | None] = mapped_column(Integer)
    """the version of the flow that it was begun with"""
    priority: Mapped[int] = mapped_column(
        Integer, default=USUAL_PRIORITY, server_default=str(USUAL_PRIORITY)
    )
    """the order in which runs begin; the lowest first"""
    claim: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """raised by each process that claims the run; writes with an older number are refused"""
    conductor: Mapped[str | None] = mapped_column(Label(255))
    """the process that has it, for people"""
    abort_requested_at: Mapped[float | None] = mapped_column(Double)
    ending: Mapped[str | None] = mapped_column(Words(16))
    """failed or aborted: its state once its rollback, which has begun, is over; it never goes
    forward again
    """
    slot: Mapped[str | None] = mapped_column(Words(128), unique=True)
    """what no other run may have at the same time, while it is queued or running"""
    collected_at: Mapped[float | None] = mapped_column(Double)
    """when its orphans were last looked for: long enough after its end for no request of it to
    arrive any more, and all of them were removed
    """
    author: Mapped[str | None] = mapped_column(Label(255))
    """the identity that has asked for it"""
    approvals_needed: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """how many others than its author must approve it before it begins"""
    approve_before: Mapped[float | None] = mapped_column(Double)
    """when it expires unless it was approved"""
    shown: Mapped[list[str] | None] = mapped_column(Document(none_as_null=True))
    """its plan as its author was shown it, a line each"""
    project: Mapped[str | None] = mapped_column(Words(64), default=_project_of_new)
    """that its VNF belonged to when it was asked for; it stays when the VNF is given to another"""
    resumed_at: Mapped[float | None] = mapped_column(Double)
    """when an operator last had a service resume it, by which it is confirmed, too"""
    resumed_claim: Mapped[int | None] = mapped_column(Integer)
    """the number of the newest claim then"""
    request_key: Mapped[str | None] = mapped_column(Words(64))
    """of the request to the API that asked for it, and of no other"""
    request_digest: Mapped[str | None] = mapped_column(Words(64))
    """the SHA-256 of the body of that request"""


class TurnGateRow(Base):
    """What lets one process after another change turns of a kind: one row for each."""

    __tablename__ = "turn_gates"

    kind: Mapped[str] = mapped_column(Words(32), primary_key=True)
    passed: Mapped[int] = mapped_column(Integer, default=0, server_default="0")


class TurnRow(Base):
    """A turn that a run holds, or that a process waits for."""

    __tablename__ = "turns"
    __table_args__ = (Index("turns_at_site", "site", "kind", "until"),)

    id: Mapped[str] = mapped_column(Words(64), primary_key=True)
    site: Mapped[str] = mapped_column(Words(64))
    kind: Mapped[str] = mapped_column(Words(32))
    vnf: Mapped[str] = mapped_column(Words(64))
    run: Mapped[str] = mapped_column(Words(64))
    claim: Mapped[int] = mapped_column(Integer)
    """of the run: a turn of an older one counts no more"""
    priority: Mapped[int] = mapped_column(Integer)
    place: Mapped[int] = mapped_column(Integer)
    asked_at: Mapped[float] = mapped_column(Double)
    is_held: Mapped[bool] = mapped_column(Boolean)
    until: Mapped[float] = mapped_column(Double)
    """by the clock of the database, unless its process renews it"""


class StepRow(Base):
    __tablename__ = "steps"
    __table_args__ = (Index("steps_of_run", "run", "started_at"),)

    id: Mapped[str] = mapped_column(Words(32), primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[str] = mapped_column(Label(16))
    name: Mapped[str] = mapped_column(Label(128))
    resource: Mapped[str] = mapped_column(Label(255))
    state: Mapped[str] = mapped_column(Words(16))
    """running, succeeded, failed, or lost: running when the process that executed it died"""
    started_at: Mapped[float] = mapped_column(Double)
    ended_at: Mapped[float | None] = mapped_column(Double)
    result: Mapped[dict[str, Any]] = mapped_column(Document)


class FreezeRow(Base):
    """One server that may be frozen, from just before its quiesce call until its unquiesce is
    confirmed.
    """

    __tablename__ = "freezes"
    __table_args__ = (
        Index("freezes_open", "site", "thawed_at"),
        Index("freezes_of_run", "run", "thawed_at"),
    )

    id: Mapped[str] = mapped_column(Words(32), primary_key=True)
    site: Mapped[str] = mapped_column(Words(64))
    server_id: Mapped[str] = mapped_column(Words(64))
    server: Mapped[str] = mapped_column(Label(255))
    noted_at: Mapped[float] = mapped_column(Double)
    deadline: Mapped[float] = mapped_column(Double)
    thawed_at: Mapped[float | None] = mapped_column(Double)
    run: Mapped[str | None] = mapped_column(Words(64))
    """the run whose quiesce window it is"""
    project: Mapped[str | None] = mapped_column(Words(64))
    """the project of its VNF, where that is not the one of the site's account"""


class QuestionRow(Base):
    """A question of a run to an operator, in one of its runbook steps."""

    __tablename__ = "questions"
    __table_args__ = (
        Index("questions_open", "answered_at", "expires_at"),
        Index("questions_of_whole", "whole"),
    )

    run: Mapped[str] = mapped_column(Words(64), primary_key=True)
    step: Mapped[str] = mapped_column(Words(64), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    """1, and one more each time that the step asks again"""
    whole: Mapped[str] = mapped_column(Words(64))
    """the run that `run` is a part of; `run` itself where it is no part"""
    message: Mapped[str] = mapped_column(Prose)
    wants: Mapped[str] = mapped_column(Words(16))
    """yes-no, or text"""
    asked_at: Mapped[float] = mapped_column(Double)
    expires_at: Mapped[float] = mapped_column(Double)
    answered_at: Mapped[float | None] = mapped_column(Double)
    answer: Mapped[str | None] = mapped_column(Prose)
    """yes or no, or the text"""
    answered_by: Mapped[str | None] = mapped_column(Label(255))
    settled_at: Mapped[float | None] = mapped_column(Double)
    """when the run has made of it that the step has failed: the next attempt asks again"""


class ApprovalRow(Base):
    """That a person approves a run."""

    __tablename__ = "approvals"

    run: Mapped[str] = mapped_column(Words(64), primary_key=True)
    person: Mapped[str] = mapped_column(Words(120), primary_key=True)
    """the user of the identity: each counts once"""
    identity: Mapped[str] = mapped_column(Label(255))
    plan: Mapped[str] = mapped_column(Words(64))
    """the SHA-256 of the request that was approved; no other is covered"""
    at: Mapped[float] = mapped_column(Double)


class PolicyRow(Base):
    """How VNFs are protected, made by an administrator and chosen by projects."""

    __tablename__ = "policies"

    name: Mapped[str] = mapped_column(Words(64), primary_key=True)
    definition: Mapped[dict[str, Any]] = mapped_column(Document)
    changed_at: Mapped[float] = mapped_column(Double)
    changed_by: Mapped[str] = mapped_column(Label(255))


class AuditRow(Base):
    """A request to the API that changes something, or that was refused. Rows are only added."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_by_time", "at"),)

    id: Mapped[str] = mapped_column(Words(36), primary_key=True)
    at: Mapped[float] = mapped_column(Double)
    identity: Mapped[str | None] = mapped_column(Label(255))
    """None: the request had no valid token"""
    user_id: Mapped[str | None] = mapped_column(Label(64))
    site: Mapped[str | None] = mapped_column(Label(64))
    """whose Keystone has accepted the token"""
    project: Mapped[str | None] = mapped_column(Label(64))
    address: Mapped[str] = mapped_column(Label(64))
    """of the client, or of the proxy before the API"""
    action: Mapped[str] = mapped_column(Label(64))
    """the rule that was asked, or the method of a request that came to no route"""
    target: Mapped[str] = mapped_column(Label(255))
    """the path"""
    outcome: Mapped[str] = mapped_column(Words(16))
    """success, or failure"""
    status: Mapped[int] = mapped_column(Integer)
    request_id: Mapped[str] = mapped_column(Label(64))

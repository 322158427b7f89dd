# SPDX-License-Identifier: Apache-2.0
"""The report of a run that has ended: the evidence that an operator hands to others. Its JSON form
has a schema of its own, docs/report.schema.json.
"""

from __future__ import annotations

from typing import Literal

from antipode.model.base import Model

FORMAT: Literal[1] = 1
Moment = str
"""RFC 3339, UTC."""
Fact = str | int | float | bool | None


class Objective(Model):
    """What was reached, against the target of the VNF file."""

    reached_s: float | None
    """None where the run does not say it"""
    target_s: float | None
    """None: the VNF file names none"""
    met: bool | None
    """None where one of the two is unknown"""


class Approval(Model):
    """That somebody else than the author has approved the run as it was asked for."""

    by: str
    at: Moment
    plan: str
    """the SHA-256 of what was approved"""


class Answer(Model):
    """A question of the runbook, and its answer."""

    step: str
    question: str
    answer: str | None
    by: str | None
    at: Moment | None


class Content(Model):
    """The proof that bytes which were restored are those that were captured."""

    compared: int
    """volumes and root disks"""
    equal: int
    detail: list[str]
    """a line for each that differs, or was not compared"""


class Foretold(Model):
    """What was forecast as the run began, and what it took; seconds."""

    made_at: Moment
    back_in_s: float | None
    """None where it could not be known"""
    error_s: float | None
    """by how much it might be wrong, as it was forecast"""
    took_s: float | None
    """from then until the VNF was back; None where it was not"""
    off_by_s: float | None
    """positive where it took longer"""


class ReportStep(Model):
    number: str
    """as the mission numbers it; empty for others"""
    name: str
    resource: str
    state: str
    began_at: Moment
    seconds: float | None
    facts: dict[str, Fact]
    error: str | None = None


class Report(Model):
    """One run, and the runs that are parts of it."""

    format: Literal[1] = FORMAT
    run: str
    kind: str
    vnf: str
    site: str | None
    recovery_point: str | None
    state: str
    reason: str | None
    author: str | None
    """the user and host that have asked for it; None where no such thing is kept"""
    executed_by: str | None
    """the process that had the run last"""
    began_at: Moment
    ended_at: Moment | None
    seconds: float | None
    confirmed_at: Moment | None
    """when an operator has confirmed it; None where it needs no confirmation"""
    confirmed: dict[str, Fact]
    """that which was confirmed, beyond the run's own place: accepted losses and the like"""
    approvals_needed: int
    """how many others than its author had to approve it"""
    approvals: list[Approval]
    answers: list[Answer]
    rpo: Objective
    rto: Objective
    forecast: Foretold | None
    """None where none was kept"""
    quiesce_window_s: float | None
    """from the first quiesce to the last unquiesce, where members were frozen"""
    downtime_s: float | None
    content: Content | None
    """None where nothing was compared"""
    leaks: list[str] | None
    """what was left at the site; None where that was not looked at"""
    deviations: list[str]
    """all that was not as it should be, a sentence each"""
    results: dict[str, Fact]
    steps: list[ReportStep]
    parts: list[Report]
    made_at: Moment
    made_by: str
    """the user and host that have made the report"""
    antipode: str
    """the version that has made the report"""

# SPDX-License-Identifier: Apache-2.0
"""Notices what happens to runs, VNFs, members and vaults, and notes an event of each in the
database, from where it is delivered.

Events are made of what the database says, not of calls in a run: no run waits for them, and what
happened while no service was there is noticed by the next one.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from antipode.config import EVENT_DAYS, EventsConfig
from antipode.engine.deployment import Deployment
from antipode.engine.run import is_of_its_vnf
from antipode.errors import NotFound
from antipode.model.event import Event
from antipode.model.plan_file import PREFIX
from antipode.model.readiness import reasons
from antipode.model.rpo import Rpo, RpoState, rpo
from antipode.runs import compared, find_kind, transitions
from antipode.runs.actions import how
from antipode.service.observer import Observed, Observer
from antipode.store import database
from antipode.store.runs import NEVER_BEGUN, OPEN
from antipode.store.tables import QuestionRow, ReadinessRow, RunRow

LOG = logging.getLogger(__name__)
LOG_RECEIVER = "log"
LOOK_S = 2.0
OVERLAP_S = 600.0
"""How late the end of a run may become visible."""
LONGEST_S = 86400.0
"""No event is made of anything that happened before."""
MOST_PENDING = 10_000
"""Deliveries that wait for one receiver; the oldest ones beyond are dropped."""
REPORTED = (
    *("recovery_point", "option", "generation", "consistency", "consistent_at", "incremental"),
    *("stored_bytes", "quiesce_window_s", "quiesce_budget_s", "rpo_s", "rto_s", "seconds", "site"),
)
"""The fields of a run's result that its event has, where they are there."""
EXCEEDED, UNPROTECTED, OVERDUE = "rpo.exceeded/", "vnf.unprotected/", "drill.overdue/"
"""The beginnings of the keys of conditions of a VNF."""
NOT_SWITCHED = "dns.not-switched/"
"""The beginning of the key of a VNF whose DNS records lead elsewhere."""
SWITCHING = ("failover", "migrate", "undo", "dns-switch")
"""The kinds of runs that switch DNS records."""
ENDINGS = {"succeeded": "end", "failed": "error", "aborted": "abort"}
ASKED = "run.asks/"
"""The beginning of the keys of questions: the run, the step and its attempt follow."""
APPROVAL = "run.approval/"
"""The beginning of the keys of runs that await approval."""


Held = Mapping[str, float]
"""The conditions that were noted, and since when."""


class Condition(NamedTuple):
    """Something that should not be, such as an RPO that is exceeded, as it is now."""

    key: str
    event: Event | None
    """of its begin or its end; without one, its end makes no event"""
    is_there: bool


class Noticer:
    """Notices what has happened since the last look, on any host."""

    def __init__(
        self,
        deployment: Deployment,
        settings: EventsConfig,
        observer: Observer,
        waiting: Callable[[], dict[str, str]],
        now: Callable[[], float] | None = None,
    ) -> None:
        """
        Args:
            waiting: the runs that wait for an operator, and why.
            now: seconds since the epoch; the database's clock by default.
        """
        self._deployment = deployment
        self._settings = settings
        self._observer = observer
        self._waiting = waiting
        self._now = now or partial(database.now, deployment.database)
        self._host = socket.gethostname()
        self._since: float | None = None
        self._noted: set[str] = set()
        self._judged: dict[str, float] = {}
        self._missed: dict[tuple[str, str], int] | None = None
        self.trouble: str | None = None
        """why nothing can be noticed now"""

    def follow(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        while not stop.wait(LOOK_S):
            try:
                self.look()
                self.trouble = None
            except Exception as error:
                if self.trouble is None:
                    LOG.exception("events cannot be noted now; trying again")
                self.trouble = f"{type(error).__name__}: {error}"

    def look(self) -> None:
        """Note an event of everything that has happened.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        now = self._now()
        self._look_at_history(now)
        self._look_at_schedules(now)
        held = self._deployment.events.conditions()
        for key, event, is_there in self._conditions(held, now):
            if is_there and key not in held:
                assert event is not None  # every begin has an event
                self._deployment.events.begin(key, event, self.receivers(event.type))
            elif not is_there and key in held:
                to = self.receivers(event.type) if event else []
                self._deployment.events.end(key, event, to)

    def receivers(self, kind: str) -> list[str]:
        """The receivers of events of a type."""
        return receivers(self._settings, kind)

    def _note(self, event: Event) -> None:
        self._deployment.events.note(event, self.receivers(event.type))

    def _look_at_history(self, now: float) -> None:
        if self._since is None:
            newest = self._deployment.events.newest(1)
            last = newest[0].at if newest else now
            self._since = max(min(last, now), now - LONGEST_S) - OVERLAP_S * bool(newest)
        rows = self._deployment.runs.lately(self._since)
        events = {event.id: event for row, whole in rows for event in _of_run(row, whole)}
        seen = self._deployment.readiness.changed_since(self._since)
        events |= {event.id: event for event in map(_of_readiness, seen)}
        new = events.keys() - self._noted
        fresh = sorted(new - self._deployment.events.known(new), key=lambda e: events[e].at)
        self._deployment.events.note_all(
            [(events[name], self.receivers(events[name].type)) for name in fresh]
        )
        self._noted = set(events)
        self._since = now - OVERLAP_S

    def _look_at_schedules(self, now: float) -> None:
        """Note the slots that were missed since the first look of this service."""
        rows = self._deployment.schedules.all()
        for key, row in rows.items():
            if self._missed is not None and row.missed > self._missed.get(key, 0):
                data = {"vnf": row.vnf, "option": row.option, "missed_in_all": row.missed}
                name = f"schedule.missed/{row.vnf}/{row.option}/{row.settled}"
                self._note(_of_vnf(name, "dr.schedule.missed", row.vnf, now, data))
        self._missed = {key: row.missed for key, row in rows.items()}

    def _conditions(self, held: Held, now: float) -> Iterator[Condition]:
        """Each condition that is known to be there, or known not to be."""
        yield from self._of_vnfs(held, now)
        yield from self._of_freezes(held, now)
        yield from self._of_waiting(held, now)
        yield from self._of_questions(held, now)
        yield from self._of_approvals(held, now)
        yield from self._of_dns(now)
        yield from self._of_vaults(held, now)

    def _of_vaults(self, held: Held, now: float) -> Iterator[Condition]:
        prefix, suffix = "vault.down/", f"@{self._host}"
        seen = self._observer.vaults_up
        for key in held:
            ours = key.startswith(prefix) and key.endswith(suffix)
            if seen and ours and key.removeprefix(prefix).removesuffix(suffix) not in seen:
                yield Condition(key, None, False)  # the configuration has it no more
        for vault, is_up in seen.items():
            key = f"{prefix}{vault}{suffix}"
            kind = "dr.vault.up" if is_up else "dr.vault.down"
            data = {"vault": vault, "host": self._host}
            yield Condition(
                key, Event(_once(key, now), kind, f"vault/{vault}", now, data), not is_up
            )

    def _of_vnfs(self, held: Held, now: float) -> Iterator[Condition]:
        """How each VNF is protected. It is judged when it has just been observed, as what another
        host has seen since may be newer.
        """
        observed, states = self._observer.observed, self._deployment.states.all()
        moving = transitions.being_moved(self._deployment.runs.open_bare())
        for name, seen in observed.items():
            state = states.get(name, seen.state)
            found = rpo(seen.vnf.rpo, state, seen.newest, now, is_moving=name in moving)
            if found.state is RpoState.FAILING_OVER:
                # points of the former copy say nothing any more: no all-clear is sent
                yield Condition(f"{EXCEEDED}{name}", None, False)
                yield Condition(f"{UNPROTECTED}{name}", None, False)
            elif self._judged.get(name) != seen.at:
                self._judged[name] = seen.at
                yield from self._of_vnf(name, found, now)
                yield from self._of_drill(name, seen, now)
        unseen = [
            (key, name)
            for key in held
            for about, slash, name in [key.partition("/")]
            if f"{about}{slash}" in (EXCEEDED, UNPROTECTED, OVERDUE) and name not in observed
        ]
        # one that is known was not seen here since the service began: its vaults do not answer
        known = self._deployment.vnfs.names() if unseen else []
        for key, name in unseen:
            if name not in known:
                yield Condition(key, None, False)

    def _of_vnf(self, name: str, found: Rpo, now: float) -> Iterator[Condition]:
        data = {"vnf": name, "rpo_s": found.age_s, "rpo_target_s": found.target_s}
        key, has_none = f"{UNPROTECTED}{name}", found.state is RpoState.NO_POINT
        if has_none or found.age_s is not None:
            kind = "dr.vnf.unprotected" if has_none else "dr.vnf.protected"
            yield Condition(key, _of_vnf(_once(key, now), kind, name, now, data), has_none)
        key, is_exceeded = f"{EXCEEDED}{name}", found.state is RpoState.EXCEEDED
        if found.state in (RpoState.EXCEEDED, RpoState.MET):
            kind = f"dr.rpo.{found.state.value}"
            yield Condition(key, _of_vnf(_once(key, now), kind, name, now, data), is_exceeded)
        elif found.state is RpoState.NO_TARGET:
            yield Condition(key, None, False)

    @staticmethod
    def _of_drill(name: str, seen: Observed, now: float) -> Iterator[Condition]:
        """Whether a drill is overdue by the policy of a VNF."""
        every_s, passed_at = seen.vnf.drill_every, seen.drilled_at
        is_overdue = seen.drill_due_at is not None and now > seen.drill_due_at
        data = {"vnf": name, "drill_every_s": every_s, "passed_at": passed_at}
        key = f"{OVERDUE}{name}"
        kind = "dr.drill.overdue" if is_overdue else "dr.drill.in-time"
        yield Condition(key, _of_vnf(_once(key, now), kind, name, now, data), is_overdue)

    def _of_dns(self, now: float) -> Iterator[Condition]:
        """Whether DNS records of a VNF do not lead to where it is active, by the newest run that
        was to switch them. One that is open will say it.
        """
        judged = set[str]()
        for row in self._deployment.runs.newest_of_each(SWITCHING):
            if row.vnf in judged or (row.state not in OPEN and "dns" not in (row.result or {})):
                continue
            judged.add(row.vnf)
            if row.state in OPEN:
                continue
            left = row.result["dns"].get("problems") or []
            kind = "dr.dns.not-switched" if left else "dr.dns.switched"
            finish = f"antipode dns switch {row.vnf}"
            data = {"vnf": row.vnf, "run": row.id, "problems": left, "finish": finish}
            key = f"{NOT_SWITCHED}{row.vnf}"
            yield Condition(key, _of_vnf(_once(key, now), kind, row.vnf, now, data), bool(left))

    def _of_freezes(self, held: Held, now: float) -> Iterator[Condition]:
        prefix, until, names = "member.frozen/", dict[str, float](), dict[str, Any]()
        for row in self._deployment.freezes.open():
            key = f"{prefix}{row.site}/{row.server_id}"
            until[key] = max(until.get(key, 0.0), row.deadline)
            names[key] = {"site": row.site, "server": row.server, "server_id": row.server_id}
        overdue = {key for key, deadline in until.items() if deadline < now}
        for key in {*overdue, *(k for k in held if k.startswith(prefix))}:
            is_there = key in overdue
            kind = "dr.member.frozen" if is_there else "dr.member.unquiesced"
            site, server = key.removeprefix(prefix).split("/", 1)
            data = names.get(key, {"site": site, "server_id": server})
            yield Condition(
                key, Event(_once(key, now), kind, f"server/{server}", now, data), is_there
            )

    def _of_waiting(self, held: Held, now: float) -> Iterator[Condition]:
        prefix, suffix = "run.waiting/", f"@{self._host}"
        waiting = self._waiting()
        for run, why in waiting.items():
            key, data = f"{prefix}{run}{suffix}", {"run": run, "reason": why, "host": self._host}
            event = Event(_once(key, now), "dr.run.waiting", f"run/{run}", now, data)
            yield Condition(key, event, True)
        for key in held:
            ours = key.startswith(prefix) and key.endswith(suffix)
            if ours and key.removeprefix(prefix).removesuffix(suffix) not in waiting:
                yield Condition(key, None, False)

    def _of_questions(self, held: Held, now: float) -> Iterator[Condition]:
        questions = self._deployment.questions
        wanted = {_key_of(q): q for q in questions.open()}
        for key, question in wanted.items():
            data = {
                "message": question.message,
                "wants": question.wants,
                "answer_with": how(question),
                "expires_at": question.expires_at,
            }
            yield Condition(key, _of_question(question, "waiting-for-input", now, data), True)
        for key in held.keys() - wanted.keys():
            if key.startswith(ASKED):
                run, step, attempt = key.removeprefix(ASKED).split("/")
                found = [q for q in questions.of(run) if (q.run, q.step) == (run, step)]
                asked = next((q for q in found if q.attempt == int(attempt)), None)
                over: Event | None = None  # its run is gone from the history
                if asked is not None:
                    given = {"answer": asked.answer, "by": asked.answered_by}
                    end = "answered" if asked.answered_at else "not-answered"
                    over = _of_question(asked, end, now, given)
                yield Condition(key, over, False)

    def _of_approvals(self, held: Held, now: float) -> Iterator[Condition]:
        awaiting = {f"{APPROVAL}{row.id}": row for row in self._deployment.approvals.awaiting()}
        for key, row in awaiting.items():
            yield Condition(key, self._of_approval(key, row, "awaiting-approval", now), True)
        for key in held.keys() - awaiting.keys():
            if key.startswith(APPROVAL):
                over: Event | None = None
                with suppress(NotFound):  # it is gone from the history
                    row = self._deployment.runs.get(key.removeprefix(APPROVAL))
                    is_begun = row.state not in NEVER_BEGUN
                    over = self._of_approval(key, row, "approved" if is_begun else row.state, now)
                yield Condition(key, over, False)

    def _of_approval(self, key: str, row: RunRow, what: str, now: float) -> Event:
        approved_by = [a.identity for a in self._deployment.approvals.of(row.id)]
        data = {
            "run": row.id,
            "kind": row.kind,
            "vnf": row.vnf,
            "author": row.author,
            "needed": row.approvals_needed,
            "approved_by": approved_by,
            "reason": row.reason,
            "approve_before": row.approve_before,
        }
        return Event(_once(key, now), f"dr.run.{what}", f"run/{row.id}", now, data)


def receivers(settings: EventsConfig | None, kind: str) -> list[str]:
    """The receivers of events of a type; none where the configuration names none."""
    if settings is None:
        return []
    named = [
        name
        for name, wanted in settings.types_of_each.items()
        if any(kind.startswith(beginning) for beginning in wanted)
    ]
    return [*named, *([LOG_RECEIVER] if settings.log else [])]


def clean_up(deployment: Deployment) -> None:
    """Drop what cannot be delivered any more, and forget events that are long over.

    A failure is logged, as nothing depends on it.
    """
    try:
        now = database.now(deployment.database)
        if dropped := deployment.events.give_up(now - LONGEST_S, MOST_PENDING):
            LOG.error("%d events were not delivered in time, and are given up", dropped)
        settings = deployment.config.events
        days = EVENT_DAYS if settings is None else settings.days
        deployment.events.forget(now - days * 86400)
    except SQLAlchemyError as error:
        LOG.warning("events could not be forgotten: %s", error)


def _of_run(row: RunRow, whole: str | None) -> Iterator[Event]:
    """The events so far of a run, which may be a part of another."""
    said = {"run": row.id, "kind": row.kind, "vnf": row.vnf}
    if row.state == "queued" or row.state in NEVER_BEGUN:
        return
    doing = find_kind(row.kind)
    begun = doing.transition if doing is not None and not is_of_its_vnf(whole) else ""
    started = {**said, "state": "running", **({"vnf_state": begun} if begun else {})}
    yield _of_vnf(f"{row.id}/start", f"dr.{row.kind}.start", row.vnf, row.started_at, started)
    if row.ended_at is None or row.state not in ENDINGS:
        return
    result = {name: row.result[name] for name in REPORTED if row.result.get(name) is not None}
    failed = {"vnf_state": transitions.of_run(row)} if begun and row.state == "failed" else {}
    ended = {**said, "state": row.state, "reason": row.reason, **failed, **result}
    kind = f"dr.{row.kind}.{ENDINGS[row.state]}"
    once = f"{row.id}/{row.state}/{row.claim}"
    yield _of_vnf(once, kind, row.vnf, row.ended_at, ended)
    window, budget = (row.result.get(f"quiesce_{what}_s") for what in ("window", "budget"))
    if window is not None and budget is not None and window > budget:
        over = {**said, "quiesce_window_s": window, "quiesce_budget_s": budget}
        yield _of_vnf(f"{once}/over", "dr.quiesce.over-budget", row.vnf, row.ended_at, over)
    if broken := [f for f in compared.findings(row) if f.get("ok") is False]:
        details = [f"volume {f.get('volume')}: {f.get('detail')}" for f in broken]
        of_it = {**said, "recovery_point": row.result.get("recovery_point"), "broken": details}
        yield _of_vnf(f"{once}/broken", "dr.chain.broken", row.vnf, row.ended_at, of_it)


def _of_readiness(row: ReadinessRow) -> Event:
    """That it was seen for the first time, or has changed, whether a VNF could be recovered."""
    data = {
        "vnf": row.vnf,
        "site": row.site,
        "verdict": row.level,
        "before": row.before,
        "reasons": reasons(row.findings),
    }
    name = f"readiness/{row.vnf}/{row.site}/{row.number}/{row.since * 1000:.0f}"
    return _of_vnf(name, f"dr.readiness.{row.level}", row.vnf, row.since, data)


def _of_vnf(name: str, kind: str, vnf: str, at: float, data: dict[str, Any]) -> Event:
    subject = f"plan/{vnf.removeprefix(PREFIX)}" if vnf.startswith(PREFIX) else f"vnf/{vnf}"
    return Event(name, kind, subject, at, data)


def _key_of(question: QuestionRow) -> str:
    return f"{ASKED}{question.run}/{question.step}/{question.attempt}"


def _of_question(question: QuestionRow, what: str, at: float, more: Mapping[str, Any]) -> Event:
    data = {"run": question.whole, "step": question.step, **more}
    key = _once(_key_of(question), at)
    return Event(key, f"dr.run.{what}", f"run/{question.whole}", at, data)


def _once(key: str, at: float) -> str:
    """The id of an event that one host notes: the one that has noted the condition."""
    return f"{key}/{at * 1000:.0f}"

# SPDX-License-Identifier: Apache-2.0
"""Reports of runs, made of what the database keeps of them.

No secret comes in: neither the words of commands nor what they have printed, and of a request only
what an operator has confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from antipode import __version__, identity
from antipode.engine.deployment import Deployment
from antipode.engine.timeline import NOTED, WARNING
from antipode.errors import InvalidInput
from antipode.model.report import (
    Answer,
    Approval,
    Content,
    Fact,
    Foretold,
    Objective,
    Report,
    ReportStep,
)
from antipode.model.steps import Steps
from antipode.runs import forecast
from antipode.runs.actions import RunbookSteps
from antipode.runs.plan import VNFS
from antipode.screen import visible
from antipode.store.runs import ENDED
from antipode.store.tables import RunRow, StepRow

Json = dict[str, Any]
LEFT_OUT = "[left out; see: antipode run show]"
"""In the place of words that may hold a secret."""
_SPEAKS = (Steps.PROBE.words, RunbookSteps.DO.words)
"""Steps whose errors and facts have the words of an operator's command, or of its output."""
_WORDS = ("asked", "output", "words")
"""Facts of steps that may have them, too, and those of notes, which are shown as such."""
_CONFIRMED = (
    *("instead_of", "lost_vaults", "option", "keep_s", "removes", "source"),
    *("fence", "undo_within_s"),
)
"""Members of a request that an operator has confirmed in words."""
_SHOWN_APART = ("content", "leaks", "volumes", "dns", "answers", "findings")


def report(deployment: Deployment, run: str) -> Report:
    """The report of a run.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it has not ended.
    """
    row = deployment.runs.get(run)
    if row.state not in ENDED:
        raise InvalidInput(
            f"run {run} has not ended: it is {row.state}. Follow it: antipode run watch {run}",
            resource=f"run {run}",
        )
    return _Maker(deployment).report(row)


class _Maker:
    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._made_at = moment(datetime.now(UTC).timestamp())

    def report(self, row: RunRow) -> Report:
        steps, parts = self._deployment.runs.steps(row.id), self._deployment.runs.parts([row])
        clean = Cleaner([*steps, *self._steps_below(parts)])  # a part's error is its whole's, too
        request, result = row.request or {}, dict(row.result)
        confirmed_at = request.get("confirmed_at")
        ended = row.ended_at
        return Report(
            run=row.id,
            kind=row.kind,
            vnf=row.vnf,
            site=_text(result.get("to") or request.get("to") or result.get("site")),
            recovery_point=_text(result.get("recovery_point")),
            state=row.state,
            reason=row.reason and clean(row.reason),
            author=row.author and visible(row.author),
            executed_by=row.conductor and visible(row.conductor),
            began_at=moment(row.started_at),
            ended_at=None if ended is None else moment(ended),
            seconds=None if ended is None else round(ended - row.started_at, 3),
            confirmed_at=moment(confirmed_at) if isinstance(confirmed_at, int | float) else None,
            confirmed={k: _joined(request[k], clean) for k in _CONFIRMED if request.get(k)},
            approvals_needed=row.approvals_needed,
            approvals=[
                Approval(by=visible(a.identity), at=moment(a.at), plan=a.plan)
                for a in self._deployment.approvals.of(row.id)
            ],
            answers=self._answers(row.id),
            rpo=self._objective(row, "rpo", result.get("rpo_s")),
            rto=self._objective(row, "rto", result.get("rto_s") or result.get("recovered_s")),
            forecast=self._foretold(row),
            quiesce_window_s=_number(result.get("quiesce_window_s")),
            downtime_s=_number(result.get("downtime_s")),
            content=_content(result, clean),
            leaks=_leaks(result, clean),
            deviations=list(dict.fromkeys(_deviations(row, steps, clean))),
            results={
                visible(k): clean.fact(v)
                for k, v in result.items()
                if k not in _SHOWN_APART and isinstance(v, str | int | float | bool)
            },
            steps=[_step(step, clean) for step in steps],
            parts=[self.report(part) for part in parts],
            made_at=self._made_at,
            made_by=identity.current(),
            antipode=__version__,
        )

    def _steps_below(self, parts: Sequence[RunRow]) -> Iterator[StepRow]:
        """The steps of parts, and of their parts."""
        for part in parts:
            yield from self._deployment.runs.steps(part.id)
            yield from self._steps_below(self._deployment.runs.parts([part]))

    def _answers(self, run: str) -> list[Answer]:
        return [
            Answer(
                step=q.step,
                question=visible(q.message),
                answer=q.answer and visible(q.answer),
                by=q.answered_by and visible(q.answered_by),
                at=None if q.answered_at is None else moment(q.answered_at),
            )
            for q in self._deployment.questions.of(run)
            if q.run == run
        ]

    def _foretold(self, row: RunRow) -> Foretold | None:
        if (kept := self._deployment.forecasts.find(row.id)) is None:
            return None
        took = forecast.took_s(kept, row)
        return Foretold(
            made_at=moment(kept.made_at),
            back_in_s=kept.back_in_s,
            error_s=kept.error_s,
            took_s=took,
            off_by_s=forecast.off_by_s(kept, took),
        )

    def _objective(self, row: RunRow, name: str, reached: object) -> Objective:
        """A figure against the target in the definition that the run was confirmed with, else in
        the VNF file of this host.
        """
        confirmed = (row.request or {}).get("vnf")
        local = self._deployment.vnfs.find(row.vnf)
        target = confirmed.get(name) if isinstance(confirmed, dict) else None
        if target is None and local is not None:
            target = getattr(local, name)
        found, wanted = _number(reached), _number(target)
        met = None if found is None or wanted is None else found <= wanted
        return Objective(reached_s=found, target_s=wanted, met=met)


class Cleaner:
    """Takes out of words what steps may have from an operator's commands, and makes the rest
    harmless to look at.
    """

    def __init__(self, steps: Iterable[StepRow]) -> None:
        found: set[str] = set()
        for step in steps:
            for name, value in step.result.items():
                speaks = name in _WORDS or (step.name in _SPEAKS and name == "error")
                if speaks and isinstance(value, str) and step.state not in (NOTED, WARNING):
                    found.add(value)
        # the longest first: one may hold another
        self._secrets = sorted((s for s in found if len(s) > 3), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        return visible(self.without(text))

    def without(self, text: str) -> str:
        """The text with a note in the place of such words."""
        for secret in self._secrets:
            text = text.replace(secret, LEFT_OUT)
        return text

    def result(self, step: StepRow) -> Json:
        """The facts of a step without such words."""
        is_note = step.state in (NOTED, WARNING)
        return {
            name: self.without(value) if isinstance(value, str) else value
            for name, value in step.result.items()
            if is_note or name not in _WORDS
        }

    def fact(self, value: Any) -> Fact:
        return self(value) if isinstance(value, str) else value


def _step(step: StepRow, clean: Cleaner) -> ReportStep:
    is_note = step.state in (NOTED, WARNING)
    words = step.result.get("words", step.name) if is_note else step.name
    error = step.result.get("error")
    return ReportStep(
        number=step.number,
        name=clean(str(words)),
        resource=clean(step.resource),
        state=step.state,
        began_at=moment(step.started_at),
        seconds=None if step.ended_at is None else round(step.ended_at - step.started_at, 3),
        facts={
            visible(k): clean.fact(v)
            for k, v in step.result.items()
            if k not in ("error", *_WORDS) and isinstance(v, str | int | float | bool)
        },
        error=None if error is None else clean(str(error)),
    )


def _content(result: Mapping[str, Any], clean: Cleaner) -> Content | None:
    """The findings of a drill or of a deep verification."""
    found = result.get("content") or result.get("volumes")
    if not isinstance(found, list) or not all(isinstance(f, dict) for f in found):
        return None
    compared = [f for f in found if f.get("ok") is not None]
    return Content(
        compared=len(compared),
        equal=sum(bool(f["ok"]) for f in compared),
        detail=[
            clean(f"volume {f.get('volume')}: {f.get('detail')}") for f in found if not f.get("ok")
        ],
    )


def _leaks(result: Mapping[str, Any], clean: Cleaner) -> list[str] | None:
    found = result.get("leaks", result.get("left"))
    return None if found is None else [clean(str(one)) for one in found]


def _deviations(row: RunRow, steps: Iterable[StepRow], clean: Cleaner) -> Iterator[str]:
    result = row.result
    if row.state != "succeeded":
        yield clean(f"the run {row.state}: {row.reason or 'no reason is kept'}")
    for name in ("not_done", "not_rolled_back"):
        if name in result:
            yield clean(f"{name.replace('_', ' ')}: {result[name]}")
    for problem in (result.get("dns") or {}).get("problems", ()):
        yield clean(str(problem))
    for one in (result.get("fence") or {}).get("not_fenced", ()):
        yield clean(f"not fenced: {one}")
    for name in ("left", "leaks", "may_be_off", "not_fenced", "missing"):
        yield from (clean(f"{name.replace('_', ' ')}: {one}") for one in result.get(name) or ())
    for one in result.get(VNFS) or ():
        if one["state"] != "succeeded":
            yield clean(f"VNF {one['vnf']}: {one['state']}: {one['reason'] or 'no reason is kept'}")
    for step in steps:
        if step.state == "failed":
            error = clean(str(step.result.get("error", "")))
            yield clean(f"step {step.name} {step.resource} failed: ") + error
        elif step.state == WARNING:
            yield clean(str(step.result.get("words", step.name)))


def moment(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339, UTC."""
    found = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return found.replace("+00:00", "Z")


def _text(value: object) -> str | None:
    return visible(value) if isinstance(value, str) else None


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _joined(value: object, clean: Cleaner) -> Fact:
    if isinstance(value, list):
        return clean(", ".join(map(str, value)))
    return clean(str(value)) if not isinstance(value, int | float | bool) else value

# SPDX-License-Identifier: Apache-2.0
"""`antipode run watch`: the progress of a run, in whichever process on whichever host."""

from __future__ import annotations

import argparse
import json
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TextIO

from antipode.cli.command import TextCommand
from antipode.errors import AntipodeError, NotFound
from antipode.screen import Screen, moment, span, visible

if TYPE_CHECKING:
    from rich.live import Live

    from antipode.engine.deployment import Deployment
    from antipode.operations.progress import Outlook
    from antipode.store.tables import StepRow

LOOK_S = 0.5
"""Between two looks into the database, which sends no notice of a change."""
LOST_S = 15.0
"""How long a run whose process died is watched: a service may resume it by itself."""


class RunWatch(TextCommand):
    """Watch a run until it ends: the steps that have ended, those under way, for what each of them
    waits, and how long the run may still take.

    Ends with exit code 0 when the run succeeds, and with 1 when it fails, is aborted, or its
    process has died. Interrupting the watch does nothing to the run.
    """

    examples = (
        "antipode run watch",
        "antipode run watch protect-20261122T160501Z-1a2b3c -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "run",
            metavar="RUN",
            nargs="?",
            help="id of the run (default: the newest run that has not ended)",
        )
        parser.add_argument(
            "-f",
            "--format",
            choices=["text", "json"],
            default="text",
            help="json: one object per line for each change",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        deployment = self.app.deployment()
        run = parsed_args.run or _newest_open(deployment)
        if parsed_args.format == "json":
            view: _View = _Lines(self.app.stdout)
        elif self.app.stdout.isatty():
            view = _Live(self.app.stdout)
        else:
            view = _Plain(self.app.stdout)
        return _watch(deployment, run, view)


def _newest_open(deployment: Deployment) -> str:
    if found := deployment.runs.open():
        return found[-1].id
    raise NotFound("no run is under way; see: antipode run list")


def _watch(deployment: Deployment, run: str, view: _View) -> int:
    from antipode.engine.run import state_of
    from antipode.operations.progress import outlook

    lost_since = None
    with view:
        while True:
            seen = outlook(deployment.runs, run, time.time())
            view.run_state = state_of(seen.run, deployment)
            view.show(seen)
            if seen.ended:
                return 0 if seen.run.state == "succeeded" else 1
            if view.run_state != "lost":
                lost_since = None
            elif time.monotonic() - (lost_since := lost_since or time.monotonic()) > LOST_S:
                raise AntipodeError(
                    f"the process of run {run} has died; resume the run: antipode run resume {run}",
                    resource=f"run {run}",
                )
            time.sleep(LOOK_S)


class _View(ABC):
    """Shows looks at a run, each step that ended once."""

    def __init__(self, stream: TextIO | Screen) -> None:
        self._stream = stream
        self._shown: set[str] = set()
        self.run_state = ""
        """as it is, see `state_of`"""

    def __enter__(self) -> _View:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027 - what most views need not do
        """Nothing to close."""

    def show(self, seen: Outlook) -> None:
        for step in seen.steps:
            if step.state != "running" and step.id not in self._shown:
                self._shown.add(step.id)
                self.step_ended(step)
        self.state(seen)

    @abstractmethod
    def step_ended(self, step: StepRow) -> None: ...

    @abstractmethod
    def state(self, seen: Outlook) -> None: ...


class _Plain(_View):
    """A line for each step that ended, and one when the waits of those under way change."""

    _last = ""

    def step_ended(self, step: StepRow) -> None:
        print(_ended_line(step), file=self._stream, flush=True)

    def state(self, seen: Outlook) -> None:
        waits = "; ".join(_waits(s) for s in seen.under_way if _waits(s))
        if waits and waits != self._last:
            print(visible(f"         waits: {waits}"), file=self._stream, flush=True)
        self._last = waits
        if seen.ended:
            print(_last_line(seen), file=self._stream, flush=True)


class _Live(_View):
    """As `_Plain`, with the steps under way below, on a terminal."""

    _live: Live

    def __enter__(self) -> _View:
        from rich.console import Console
        from rich.live import Live

        # rich steers the terminal itself; the text that it gets is made visible first
        terminal = self._stream.raw if isinstance(self._stream, Screen) else self._stream
        self._live = Live(console=Console(file=terminal), refresh_per_second=4, transient=True)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def step_ended(self, step: StepRow) -> None:
        self._live.console.print(
            _ended_line(step),
            style="red" if step.state == "failed" else "",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def state(self, seen: Outlook) -> None:
        from rich.text import Text

        now = time.time()
        lines = [
            visible(
                f"… {now - s.started_at:6.1f} s  {_title(s)}"
                + (f"  waits for {_waits(s)}" if _waits(s) else "")
            )
            for s in seen.under_way
        ]
        self._live.update(Text("\n".join([*lines, _state_line(seen, now, self.run_state)])))
        if seen.ended:
            self._live.console.print(
                _last_line(seen), markup=False, highlight=False, soft_wrap=True
            )


class _Lines(_View):
    """One JSON object per line, for programs: each step that ended, and the run when its state or
    its steps under way change.
    """

    _last: dict[str, Any] | None = None

    def step_ended(self, step: StepRow) -> None:
        self._print(
            event="step",
            at=moment(step.ended_at),
            number=step.number,
            step=step.name,
            resource=step.resource,
            state=step.state,
            started_at=moment(step.started_at),
            result=step.result,
        )

    def state(self, seen: Outlook) -> None:
        from antipode.engine.timeline import WAITS_FOR, WAITS_SINCE

        facts = {
            "run": seen.run.id,
            "state": self.run_state,
            "reason": seen.run.reason,
            "under_way": [
                {
                    "number": s.number,
                    "step": s.name,
                    "resource": s.resource,
                    "since": moment(s.started_at),
                    "waits_for": s.result.get(WAITS_FOR),
                    "waits_since": moment(s.result.get(WAITS_SINCE)),
                }
                for s in seen.under_way
            ],
        }
        if facts != self._last:
            left = round(seen.estimate.left_s, 1) if seen.estimate else None
            self._print(
                event="run",
                at=moment(time.time()),
                **facts,
                left_s=left,
                judged_by=seen.estimate and seen.estimate.judged_by,
            )
        self._last = facts

    def _print(self, **event: object) -> None:
        print(json.dumps(event), file=self._stream, flush=True)


def _title(step: StepRow) -> str:
    return f"{step.number:<6} {step.name}" + (f"  {step.resource}" if step.resource else "")


def _ended_line(step: StepRow) -> str:
    from antipode.engine.timeline import NOTED, WARNING

    ended = step.ended_at or step.started_at
    at = time.strftime("%H:%M:%S", time.localtime(ended))
    if step.state in (NOTED, WARNING):
        mark = "" if step.state == NOTED else "WARNING: "
        return visible(f"{at} {mark}{step.result.get('words', step.name)}")
    line = f"{at} {_title(step)}  {ended - step.started_at:.2f} s"
    if step.state != "succeeded":
        line += f"  {step.state}: {step.result.get('error', '')}"
    return visible(line)


def _waits(step: StepRow) -> str:
    from antipode.engine.timeline import WAITS_FOR, WAITS_SINCE

    if WAITS_FOR not in step.result:
        return ""
    return (
        f"{step.result[WAITS_FOR]}, since "
        f"{time.strftime('%H:%M:%S', time.localtime(step.result[WAITS_SINCE]))}"
    )


def _state_line(seen: Outlook, now: float, state: str) -> str:
    line = f"{seen.run.id}: {state}, for {span(now - seen.run.started_at)}"
    if seen.ended:
        return line
    if seen.run.ending is not None:
        return f"{line}; it is being rolled back"
    if seen.estimate is None:
        return (
            f"{line}; no estimate yet: no earlier {seen.run.kind} of {seen.run.vnf} has "
            "succeeded, and too little of this one is done"
        )
    if seen.estimate.left_s < 0:
        return f"{line}; {span(-seen.estimate.left_s)} longer than {seen.estimate.judged_by}"
    return f"{line}; about {span(seen.estimate.left_s)} left, judged by {seen.estimate.judged_by}"


def _last_line(seen: Outlook) -> str:
    line = f"{seen.run.id}: {seen.run.state}"
    if seen.run.ended_at is not None:
        line += f" after {span(seen.run.ended_at - seen.run.started_at)}"
    return visible(f"{line}: {seen.run.reason}" if seen.run.reason else line)

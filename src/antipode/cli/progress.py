# SPDX-License-Identifier: Apache-2.0
"""The progress of a run on stderr: on a terminal the steps under way and done, elsewhere a plain
line for each step that ended.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from antipode.screen import Screen, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from antipode.engine.timeline import Observer, StepRecord


@contextmanager
def shown(stream: TextIO | Screen = sys.stderr) -> Iterator[Observer]:
    """An observer that shows what a run does while the block runs."""
    if not stream.isatty():
        yield PlainProgress(stream)
        return
    # rich steers the terminal itself; the text that it gets is made visible below
    terminal = stream.raw if isinstance(stream, Screen) else stream
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=terminal)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        refresh_per_second=4,
    ) as progress:
        yield LiveProgress(progress, console)


class PlainProgress:
    """A line for each step that has ended."""

    def __init__(self, stream: TextIO | Screen) -> None:
        self._stream = stream

    def step_began(self, step: StepRecord) -> None:
        """Shown when it has ended."""

    def step_waits(self, step: StepRecord) -> None:
        """Shown when it has ended."""

    def step_ended(self, step: StepRecord) -> None:
        self._stream.write(f"{_line(step)}\n")  # in one piece: steps of several threads end at once
        self._stream.flush()


class LiveProgress:
    """A spinner for each step under way, a line for each that has ended."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._under_way: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def step_began(self, step: StepRecord) -> None:
        with self._lock:
            self._under_way[step.id] = self._progress.add_task(_title(step), total=None)

    def step_waits(self, step: StepRecord) -> None:
        from antipode.engine.timeline import WAITS_FOR

        with self._lock:
            task = self._under_way.get(step.id)
        if task is not None:
            self._progress.update(
                task,
                description=visible(f"{_title(step)}  waits for {step.result[WAITS_FOR]}"),
            )

    def step_ended(self, step: StepRecord) -> None:
        with self._lock:
            task = self._under_way.pop(step.id, None)
        if task is not None:
            self._progress.remove_task(task)
        self._console.print(
            _line(step),
            style="red" if step.state == "failed" else "",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _title(step: StepRecord) -> str:
    resource = f"  {step.resource}" if step.resource else ""
    return visible(f"{step.number:>5}  {step.name}{resource}")


def _line(step: StepRecord) -> str:
    ended = step.ended_at or step.started_at
    line = (
        f"{time.strftime('%H:%M:%S', time.localtime(ended))} {_title(step)}  "
        f"{ended - step.started_at:.2f} s"
    )
    if step.state != "succeeded":
        line += f"  {step.state}: {step.result.get('error', '')}"
    return visible(line)

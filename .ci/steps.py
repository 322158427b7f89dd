# SPDX-License-Identifier: Apache-2.0
"""Runs steps one after another, and some of them beside the others.

Each step writes its output to a file of its own. That of a step in the foreground is shown as it
comes; that of a step beside it is shown in one piece when it has ended and the foreground is free.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence, Set
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path

from lanes import Lane

LOOK_S = 0.2
"""How often the output of a step in the foreground is looked for."""


@dataclass(frozen=True)
class Step:
    """One command of the proof."""

    name: str
    """of its log and of the durations of its tests"""
    title: str
    command: Sequence[str]
    lanes: Set[Lane]
    """it is run when one of them is selected"""
    after: Collection[str] = ()
    """the steps that must have succeeded before it begins, as far as they are run at all"""
    beside: bool = False
    """whether the steps that follow need not wait for its end"""


@dataclass(frozen=True)
class Result:
    """How a step went."""

    name: str
    succeeded: bool
    seconds: float
    cpu_seconds: float
    """of the command and of all that it has waited for; what a daemon uses is not in it"""


class StepFailed(Exception):
    """A step has failed; nothing that was to come after it has begun."""


class Runner:
    """Runs steps, with their logs and durations in one folder."""

    def __init__(self, folder: Path, cwd: Path) -> None:
        """
        Args:
            folder: where the output and the durations go; what it held before is removed.
            cwd: where the commands are executed.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.results: list[Result] = []
        self._folder = folder
        self._cwd = cwd
        self._began = time.monotonic()
        self._done: dict[str, Future[Result]] = {}
        self._shown: set[str] = set()
        self._steps: dict[str, Step] = {}

    def run(self, steps: Sequence[Step]) -> None:
        """Run the steps in their order, and wait for all of them.

        Raises:
            StepFailed: one of them has failed. Others may still run beside it.
        """
        self._steps = {step.name: step for step in steps}
        try:
            for step in steps:
                self._done[step.name] = Future()
                if step.beside:
                    self._announce(step, "begins beside the others")
                    # a daemon, so that after a failure nothing waits for its end
                    threading.Thread(target=self._run_beside, args=(step,), daemon=True).start()
                else:
                    self._await(step.after)
                    self._announce(step)
                    self._done[step.name].set_result(self._execute(step, show=True))
                    self._show_ended()
            self._await(list(self._steps))
        finally:
            self._write_durations()

    def table(self) -> str:
        """How long each step has taken."""
        lines = [f"{'step':<15}{'seconds':>9}{'of a core':>11}"]
        for result in self.results:
            outcome = "" if result.succeeded else "   FAILED"
            lines.append(
                f"{result.name:<15}{result.seconds:>9.0f}{result.cpu_seconds:>11.0f}{outcome}"
            )
        return "\n".join([*lines, f"{'all':<15}{time.monotonic() - self._began:>9.0f}"])

    def _await(self, names: Collection[str]) -> None:
        """Wait for steps that run beside, showing what has ended meanwhile."""
        for name in names:
            if name in self._steps:
                self._done[name].exception()
            self._show_ended()

    def _show_ended(self) -> None:
        """Show each step that has run beside the others and ended.

        Raises:
            StepFailed: a step has ended that failed.
        """
        failed = []
        for name, future in self._done.items():
            if not future.done() or name in self._shown:
                continue
            self._shown.add(name)
            result = future.result()
            self.results.append(result)
            if self._steps[name].beside:
                self._announce(self._steps[name], f"has run beside for {result.seconds:.0f} s")
                sys.stdout.write(self._log(name).read_text(errors="replace"))
            if not result.succeeded:
                failed.append(name)
        if failed:
            raise StepFailed(", ".join(failed))

    def _run_beside(self, step: Step) -> None:
        done = self._done[step.name]
        try:
            needed = [self._done[name].result() for name in step.after if name in self._steps]
            if failed := [result.name for result in needed if not result.succeeded]:
                self._log(step.name).write_text(f"not begun: {', '.join(failed)} failed\n")
                done.set_result(Result(step.name, False, 0, 0))
            else:
                done.set_result(self._execute(step, show=False))
        except BaseException as e:
            done.set_exception(e)

    def _execute(self, step: Step, *, show: bool) -> Result:
        durations = f"--junitxml={self._folder / step.name}.xml"
        began, pid = time.monotonic(), 0
        # a file and no pipe: a daemon that the command leaves would keep a pipe open
        with self._log(step.name).open("wb") as log, self._log(step.name).open("rb") as written:
            process = subprocess.Popen(
                step.command,
                cwd=self._cwd,
                env=os.environ | {"PYTEST_ADDOPTS": durations},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            while not pid:
                pid, status, used = os.wait4(process.pid, os.WNOHANG if show else 0)
                if show:
                    sys.stdout.buffer.write(written.read())
                    sys.stdout.buffer.flush()
                if not pid:
                    time.sleep(LOOK_S)
        process.returncode = os.waitstatus_to_exitcode(status)
        return Result(
            step.name,
            process.returncode == 0,
            round(time.monotonic() - began, 1),
            round(used.ru_utime + used.ru_stime, 1),
        )

    def _announce(self, step: Step, more: str = "") -> None:
        at = time.monotonic() - self._began
        print(f"\n=== {step.title}{f', {more}' if more else ''} ({at:.0f} s)", flush=True)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _write_durations(self) -> None:
        path = self._folder / "durations.json"
        path.write_text(json.dumps([asdict(result) for result in self.results], indent=2) + "\n")

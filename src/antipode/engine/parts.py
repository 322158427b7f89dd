# SPDX-License-Identifier: Apache-2.0
"""Runs that are parts of another run, which begins, awaits and rolls them back.

A part is a run of its own, with its own flow, steps and rollback; its request names the whole
(`part_of`). The whole has a step whose resource is the part, and which is kept before the part
begins, so that a process that resumes the whole finds the part again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from antipode import logs
from antipode.claims.claim import Claim
from antipode.engine.execution import can_be_resumed, execute
from antipode.engine.kind import RunKind
from antipode.engine.run import PART_OF, Run, part_of
from antipode.engine.timeline import Observer
from antipode.engine.watch import Halt
from antipode.errors import (
    Aborted,
    AntipodeError,
    Busy,
    ClaimLost,
    Interrupted,
    NotFound,
    ResourceFailed,
    Stopped,
)
from antipode.model.steps import StepName
from antipode.store.runs import OPEN
from antipode.store.tables import RunRow

Json = dict[str, Any]
__all__ = [
    "PART_OF",
    "done",
    "done_after",
    "goes_on",
    "newest",
    "part_of",
    "roll_back",
    "roll_back_part",
]
LOOK_S = 0.3
"""How often it is looked whether the whole must stop, or whether a part has ended that another
process executes.
"""


def goes_on(part: RunRow) -> bool:
    """Whether a part is done, or is resumed, so that no other is begun in its place."""
    return part.state in ("succeeded", *OPEN)


def newest(whole: Run, step: StepName) -> RunRow | None:
    """The part that was begun last in a step, by any process of the whole."""
    for kept in reversed(whole.timeline.kept()):
        if kept.name == step.words:
            with suppress(NotFound):  # its process died before it was stored
                return whole.deployment.runs.get(kept.resource)
    return None


def done(whole: Run, step: StepName, kind: RunKind, make: Callable[[], RunRow]) -> RunRow:
    """Have a part of a run done, if an earlier process has not; the part as it ended.

    Args:
        step: of the whole, in which the part is done. It is done once in it.
        kind: of the part.
        make: a part that is not kept yet, for where there is none, or it has failed.

    Raises:
        Stopped: the whole must stop; the part has stopped, too, and is resumed or rolled back with
            it.
        AntipodeError: the part has failed.
    """
    return done_after(whole, step, kind, newest(whole, step), make)


def done_after(
    whole: Run,
    step: StepName,
    kind: RunKind,
    earlier: RunRow | None,
    make: Callable[[], RunRow],
    observer: Observer | None = None,
) -> RunRow:
    """Have one of the parts of a step done; the part as it ended.

    Args:
        earlier: what was begun last for the same purpose. One that has succeeded is done, one that
            is open or can be resumed is resumed, and another is made in place of any other.
        make: a part that is not kept yet.
        observer: of the steps of the part; the whole's by default.

    Raises:
        Stopped, AntipodeError: as `done`.
    """
    again = earlier is not None and can_be_resumed(whole.deployment, kind, earlier)
    is_kept = earlier is not None and (again or goes_on(earlier))
    row = earlier if earlier is not None and is_kept else make()
    part = row.id
    with whole.timeline.step(step, part) as under_way:
        under_way.result(vnf=row.vnf)
        if is_kept:
            claim = _taken(whole, part, also_failed=again)
        else:
            row.request = {**(row.request or {}), PART_OF: whole.id}
            _must_be_kept(whole, step, part)
            whole.go_on()
            claim = whole.deployment.claims.begin(row)
        while claim is not None:
            try:
                with claim:
                    _conduct(whole, kind, claim, observer or whole.timeline.observer)
            except Stopped:
                whole.go_on()  # the part alone: it was aborted, or another process has it
            claim = _taken(whole, part)
        ended = whole.deployment.runs.get(part)
        if ended.state != "succeeded":
            raise ResourceFailed(f"{part} {ended.state}: {ended.reason}")
        return ended


def roll_back(whole: Run, step: StepName, kind: RunKind) -> list[str]:
    """Roll a part back that was begun in a step and has not succeeded; what stays, and why. Safe to
    repeat.

    Raises:
        AntipodeError: not all of it could be rolled back.
    """
    return roll_back_part(whole, kind, newest(whole, step))


def roll_back_part(whole: Run, kind: RunKind, row: RunRow | None) -> list[str]:
    """As `roll_back`, for a part as it was read; None: there is none."""
    while row is not None and row.state not in ("succeeded", "aborted"):
        try:
            claim = whole.deployment.claims.take(row.id, abort=True)
        except Busy:
            if row.state not in OPEN:
                raise
            whole.deployment.runs.request_abort(row.id)
            time.sleep(LOOK_S)
        else:
            with claim, suppress(Aborted):
                execute(whole.deployment, kind, claim, whole.timeline.observer)
        row = whole.deployment.runs.get(row.id)
    return [] if row is None else list((row.result or {}).get("left", []))


def _must_be_kept(whole: Run, step: StepName, part: str) -> None:
    if all((kept.name, kept.resource) != (step.words, part) for kept in whole.timeline.kept()):
        raise AntipodeError(
            f"the database does not keep that {part} is a part of {whole.id}; it is not begun"
        )


def _taken(whole: Run, part: str, *, also_failed: bool = False) -> Claim | None:
    """A part that no process executes, to be resumed; None when it has ended, maybe in another
    process, such as a service, which resumes what it finds lost.

    Args:
        also_failed: whether it is resumed where it has failed.
    """
    if also_failed:
        with suppress(Busy, ClaimLost):  # another process resumes it: it is awaited
            return whole.deployment.claims.take(part, also_failed=True)
    while whole.deployment.runs.get(part).state in OPEN:
        try:
            return whole.deployment.claims.take(part)
        except (Busy, ClaimLost):  # another process has it, or was faster
            whole.go_on()
            time.sleep(LOOK_S)
    return None


def _conduct(whole: Run, kind: RunKind, claim: Claim, observer: Observer) -> None:
    """Execute a part in a thread of its own, and stop it with the whole. One that a signal stops
    ends by itself: its whole fails, and no process would have its members switched on again.

    Raises:
        AntipodeError: as `execute`, or why the whole must stop.
    """
    halt = Halt()
    with ThreadPoolExecutor(1, "part", initializer=logs.adopt, initargs=(whole.id,)) as pool:
        part = pool.submit(execute, whole.deployment, kind, claim, observer, halt)
        try:
            _await(whole, part)
        except Aborted:
            whole.deployment.runs.request_abort(claim.run)
            raise
        except Interrupted:
            halt.by_signal()
            raise
        except BaseException:
            halt.set()
            raise


def _await(whole: Run, part: Future[Json]) -> None:
    while not part.done():
        whole.go_on()
        try:
            part.result(timeout=LOOK_S)
        except TimeoutError:
            if part.done():
                raise
    part.result()

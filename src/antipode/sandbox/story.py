# SPDX-License-Identifier: Apache-2.0
"""The story antipode is for, on any two sites: a VNF is protected, its site is killed, and it comes
back at the other with its records. The whole story rehearses that first, and leads the VNF back.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, Self, TextIO

from antipode.errors import AntipodeError
from antipode.sandbox import records

RECORDS_BETWEEN = 40
"""How many more records the VNF makes durable before the next thing happens to it."""


class StoryError(AntipodeError):
    """The story did not get to its end; the text says why."""

    code = "sandbox-failed"


class Storyteller:
    """Tells what happens, with the time it took."""

    def __init__(self, out: TextIO, *, beforehand: bool = False) -> None:
        """`beforehand`: tell also what begins, where it takes long."""
        self._out = out
        self._beforehand = beforehand
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def say(self, text: str) -> None:
        print(f"[{self.seconds:5.1f} s] {text}", file=self._out, flush=True)

    def tell(self, text: str, act: Callable[[], Any]) -> Any:
        """Do something and tell how long it took."""
        if self._beforehand:
            self.say(f"{text} ...")
        begin = time.monotonic()
        result = act()
        self.say(f"{text}: {time.monotonic() - begin:.1f} s")
        return result


class Witness(ABC):
    """Stands beside a site's machines while something is done to them (`with witness:`), and sees
    when all members are frozen.
    """

    every_s: float
    """how often it looks"""

    def __init__(self) -> None:
        self.frozen_last: dict[str, int] = {}
        """what each member had durable when all were frozen"""
        self.sightings = 0
        self.disagreements: list[dict[str, int]] = []
        """durable records that changed later in the window, with the agents reporting frozen"""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)

    @abstractmethod
    def look(self) -> dict[str, int] | None:
        """The last durable record of each member if all are frozen now; None if they are not, or it
        cannot be seen.
        """

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self.every_s):
            if durable := self.look():
                if self.sightings and durable != self.frozen_last:
                    self.disagreements.append(durable)
                self.frozen_last = durable
                self.sightings += 1


class Operator(Protocol):
    """Calls antipode's command line."""

    def tell(self, *arguments: str) -> str:
        """Execute `antipode ARGUMENTS`, which must succeed, and return its output."""

    def ask(self, *arguments: str) -> Any:
        """As `tell`, with `-f json`, decoded."""


class Silence(Protocol):
    """Counts the calls to the dead site."""

    calls: int


class Stage(Protocol):
    """Two sites, an operator of antipode, and what can be seen and done there without OpenStack."""

    primary: str
    backup: str

    @property
    def operator(self) -> Operator: ...

    def set(self, teller: Storyteller) -> None:
        """Have both sites serve, and the VNF `canary` run at the primary, known to antipode."""

    def state(self, site: str) -> Mapping[str, Mapping[str, Any]]:
        """Of each member its last durable record and how often it has started (`durable`,
        `boot`).
        """

    def await_records(self, site: str, more: int) -> object:
        """Return when every member has so many records more than now."""

    def witness(self) -> Witness:
        """A new witness, not started, of the members at the primary."""

    def destroy_primary(self) -> object: ...

    def primary_is_dead(self) -> bool: ...

    def silence(self) -> AbstractContextManager[Silence]:
        """Count the calls to the dead primary while the block runs."""

    def records(self, site: str) -> Mapping[str, bytes]:
        """All records on the members' volumes, read behind OpenStack's back."""


class ReturningStage(Stage, Protocol):
    """One whose primary comes back after the disaster."""

    def return_primary(self) -> object:
        """Have the primary serve again, and all its members run as if nothing had happened."""

    def running(self, site: str) -> int:
        """How many members run at a site, seen without OpenStack."""


class Protections(NamedTuple):
    """Two recovery points, as antipode tells of them."""

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    frozen_last: Mapping[str, int]
    """what each member had durable in the second"""


def play(stage: Stage, story: Storyteller) -> dict[str, Any]:
    """Tell the story up to the recovery; the report.

    Raises:
        AntipodeError: the story does not get to its end.
    """
    report = _disaster(stage, story, _protections(stage, story))
    return report | {"seconds": round(story.seconds, 1)}


def play_whole(stage: ReturningStage, story: Storyteller) -> dict[str, Any]:
    """Tell the whole story, with a drill before the disaster and the way back after it; the report.

    Raises:
        AntipodeError: the story does not get to its end.
    """
    protections = _protections(stage, story)
    drill = story.tell(
        f"antipode drill canary, at {stage.backup}, on isolated networks",
        lambda: stage.operator.ask("drill", "canary", "--yes"),
    )
    report = _disaster(stage, story, protections)
    report |= {"drill_passed": drill["passed"], "drill_leaks": len(drill["leaks"])}
    report |= _way_back(stage, story)
    return report | {"seconds": round(story.seconds, 1)}


def _protections(stage: Stage, story: Storyteller) -> Protections:
    stage.set(story)
    story.tell("antipode site check", lambda: stage.operator.tell("site", "check"))
    first, _ = _protect(stage, story)
    return Protections(first, *_protect(stage, story))


def _disaster(stage: Stage, story: Storyteller, protections: Protections) -> dict[str, Any]:
    """The primary is killed, and the VNF is recovered at the other site."""
    primary, backup, ask = stage.primary, stage.backup, stage.operator.ask
    first, second, frozen_last = protections
    boots = {role: int(says["boot"]) for role, says in stage.state(primary).items()}
    stage.await_records(primary, RECORDS_BETWEEN)
    lost = {role: int(says["durable"]) for role, says in stage.state(primary).items()}
    story.say(f"Disaster: {primary} is killed, with everything in it, at records {lost}")
    stage.destroy_primary()
    with stage.silence() as silence:
        recovered = story.tell(
            f"antipode failover canary --to {backup}",
            lambda: ask("failover", "canary", "--to", backup, "--yes"),
        )
    points = ask("recovery-point", "list", "canary")
    stage.await_records(backup, 5)  # the chain advances: the members work together again
    report = records.check(
        story.tell(
            f"Reading every record from the volumes at {backup}", lambda: stage.records(backup)
        )
    )
    return {
        "site_a_dead": stage.primary_is_dead(),
        "members": len(report.members),
        "recovery_points": len(points),
        "second_point_incremental": bool(second["incremental"]) and not first["incremental"],
        "torn": report.torn,
        "gaps": report.gaps,
        "duplicates": report.duplicates,
        "order_violations": len(report.order_violations) + len(report.content_mismatches),
        "recovered_last": recovered_last(report, boots),
        "frozen_last": frozen_last,
        "last_before_disaster": lost,
        "last_now": report.last,
        "quiesce_window_s": second["quiesce_window_s"],
        "quiesce_window_per_member_s": second["quiesce_window_per_member_s"],
        "protect_full_s": first["seconds"],
        "protect_incremental_s": second["seconds"],
        "rpo_s": recovered["rpo_s"],
        "rto_s": recovered["rto_s"],
        "rto_breakdown_s": recovered["rto_breakdown_s"],
        "calls_to_site_a_during_failover": silence.calls,
    }


def _way_back(stage: ReturningStage, story: Storyteller) -> dict[str, Any]:
    """The primary comes back with its old copy, which is fenced; the VNF is protected from where it
    is now, and goes back.
    """
    primary, backup, ask = stage.primary, stage.backup, stage.operator.ask
    story.tell(f"{primary} comes back, and starts its old copy again", stage.return_primary)
    returned = stage.running(primary)
    story.tell(
        f"antipode fence canary --site {primary}",
        lambda: ask("fence", "canary", "--site", primary, "--yes"),
    )
    after_fence = {site: stage.running(site) for site in (primary, backup)}
    reprotected = story.tell(
        "antipode reprotect canary", lambda: ask("reprotect", "canary", "--yes")
    )
    boots = {role: int(says["boot"]) for role, says in stage.state(backup).items()}
    stage.await_records(backup, RECORDS_BETWEEN)
    back = story.tell(
        f"antipode failback canary, to {primary}", lambda: ask("failback", "canary", "--yes")
    )
    stage.await_records(primary, 5)
    left, found = story.tell(
        "Reading every record from the volumes at both sites",
        lambda: [records.check(stage.records(site)) for site in (backup, primary)],
    )
    return {
        "old_copy_returned": returned,
        "old_copy_after_fence": after_fence[primary],
        "active_copy_after_fence": after_fence[backup],
        "reprotected_by": reprotected["recovery_point"],
        "failback_downtime_s": back["downtime_s"],
        "failback_torn": found.torn,
        "failback_gaps": found.gaps,
        "failback_duplicates": found.duplicates,
        "failback_order_violations": len(found.order_violations) + len(found.content_mismatches),
        "last_before_failback": left.last,
        "failed_back_last": recovered_last(found, boots),
        "last_after_failback": found.last,
        "copies_running": {site: stage.running(site) for site in (primary, backup)},
    }


def _protect(stage: Stage, story: Storyteller) -> tuple[dict[str, Any], dict[str, int]]:
    """Make a recovery point under the eyes of a witness; what antipode says of it, and what each
    member had durable while frozen.
    """
    stage.await_records(stage.primary, RECORDS_BETWEEN)
    with stage.witness() as witness:
        result = story.tell(
            "antipode protect canary", lambda: stage.operator.ask("protect", "canary")
        )
    if witness.disagreements:
        raise StoryError(
            f"members wrote while their agents reported frozen: {witness.disagreements}"
        )
    if not witness.sightings:
        raise StoryError(
            "the witness never saw all members frozen at once; they were not, or it "
            "looked too seldom"
        )
    window = result["quiesce_window_s"]
    story.say(
        f"  recovery point {result['recovery_point']}, frozen for {window:.1f} s at records "
        f"{witness.frozen_last}"
    )
    return result, witness.frozen_last


def recovered_last(report: records.Report, boots: Mapping[str, int]) -> dict[str, int]:
    """Per member, the last record that was not written after the recovery: what the restored volume
    brought.

    Args:
        boots: how often each member had started when it was protected.
    """
    return {
        role: max(
            (number for boot, number in member.last_of_boot.items() if boot <= boots[role]),
            default=0,
        )
        for role, member in report.members.items()
    }


def broken_promises(report: Mapping[str, Any]) -> list[str]:
    """The report's values that break a promise; empty when all is well."""
    expected = {
        "site_a_dead": True,
        "members": 3,
        "recovery_points": 2,
        "second_point_incremental": True,
        "torn": 0,
        "gaps": 0,
        "duplicates": 0,
        "order_violations": 0,
        "calls_to_site_a_during_failover": 0,
        "recovered_last": report["frozen_last"],
    }
    return _broken(report, expected)


def broken_promises_of_the_whole(report: Mapping[str, Any]) -> list[str]:
    """Those of the whole story: with the drill, and with the way back, on which no record is
    lost.
    """
    expected = {
        "drill_passed": True,
        "drill_leaks": 0,
        "old_copy_returned": 3,
        "old_copy_after_fence": 0,
        "active_copy_after_fence": 3,
        "failback_torn": 0,
        "failback_gaps": 0,
        "failback_duplicates": 0,
        "failback_order_violations": 0,
        "failed_back_last": report["last_before_failback"],
        "copies_running": {"site-a": 3, "site-b": 0},
    }
    return [*broken_promises(report), *_broken(report, expected)]


def _broken(report: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {report[key]}, not {value}"
        for key, value in expected.items()
        if report[key] != value
    ]

# SPDX-License-Identifier: Apache-2.0
"""Values in words, as pages show them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from antipode.engine.timeline import NOTED, WAITS_FOR, WAITS_SINCE, WARNING
from antipode.model.history import VnfHistory
from antipode.model.rpo import RpoState
from antipode.operations.reports import Cleaner
from antipode.operations.reports.page import subject
from antipode.screen import moment, span
from antipode.store.tables import StepRow

HIDDEN = frozenset(
    (
        *("words", "output", "stdout", "stderr", "asked"),
        *("found", "sparse", "reaches", WAITS_FOR, WAITS_SINCE),
    )
)
"""Facts that people do not read, and commands with their output, which may hold secrets."""
TONES = {
    **dict.fromkeys(("active", "succeeded", "green", "met", "serving", "passed"), "good"),
    **dict.fromkeys(
        ("yellow", "queued", "waiting for input", "awaiting approval", "lost", "warning"), "warn"
    ),
    **dict.fromkeys(("failed", "red", "exceeded", "no-point", "rejected", "expired"), "bad"),
    **dict.fromkeys(("running", "failing-over"), "busy"),
}
"""State -> the tone in which it is shown."""


def tone(state: object) -> str:
    """good, warn, bad, busy or calm: how a state is to be taken."""
    text = str(getattr(state, "value", state) or "")
    if text.startswith("error-"):
        return "bad"
    if text.endswith("ing") and text not in TONES:
        return "busy"
    return TONES.get(text, "calm")


def ago(seconds: float | None) -> str:
    """How long ago a moment was (seconds since the epoch)."""
    if seconds is None:
        return "never"
    passed = time.time() - seconds
    return f"in {span(-passed)}" if passed < -1 else f"{span(max(passed, 0))} ago"


def of_text(text: str | None) -> float | None:
    """RFC 3339 as seconds since the epoch."""
    return None if text is None else datetime.fromisoformat(text).timestamp()


def clock(seconds: float | None) -> str:
    """A moment for people, UTC."""
    if seconds is None:
        return ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def span_of(seconds: float | None) -> str:
    """A duration for people; empty where there is none."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if 0 <= seconds < 10 else span(seconds)


def size(count: float | None) -> str:
    """Bytes for people."""
    if count is None:
        return "unknown"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError  # the last unit has returned


def rpo_words(state: RpoState) -> str:
    """Whether an RPO is kept, for people."""
    return {
        RpoState.MET: "kept",
        RpoState.EXCEEDED: "exceeded",
        RpoState.NO_POINT: "no recovery point",
        RpoState.FAILING_OVER: "being recovered",
        RpoState.UNKNOWN: "not known",
        RpoState.NO_TARGET: "no target",
    }[state]


def step_words(step: StepRow) -> str:
    """A step, or something that was noted, in words."""
    if step.state in (NOTED, WARNING):
        return str(step.result.get("words", step.name))
    return f"{step.name} {step.resource}".strip()


def fact(name: str, value: object) -> tuple[str, str] | None:
    """A fact of a run, or of a step, with its name; None: it is none for people."""
    if not isinstance(value, str | int | float | bool) or name in HIDDEN or name.endswith("_id"):
        return None
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words, "yes" if value else "no"
    if isinstance(value, int | float):
        if name.endswith("_s"):
            return words.removesuffix(" s"), span_of(float(value))
        if name.endswith("bytes"):
            return words.removesuffix(" bytes"), size(value)
    return words, str(value)


def step_facts(step: StepRow) -> str:
    """What is known of a step beside its name."""
    found = (fact(name, value) for name, value in Cleaner([step]).result(step).items())
    return ", ".join(" ".join(one) for one in found if one is not None)


def figures_of(vnf: VnfHistory) -> list[tuple[str, str]]:
    """How a VNF was protected, as far as there is anything to say."""
    found = []
    for name, value in vnf.model_dump(exclude={"vnf", "since", "until", "counted_from"}).items():
        if value is not None and (one := fact(name, value)) is not None:
            found.append(one)
    return found


def path_of(text: str) -> str:
    """Text as a part of an address."""
    return quote(text, safe="")


FILTERS: dict[str, Any] = {
    "tone": tone,
    "ago": ago,
    "clock": clock,
    "moment": moment,
    "of_text": of_text,
    "span": span_of,
    "size": size,
    "rpo_words": rpo_words,
    "step_words": step_words,
    "step_facts": step_facts,
    "path_of": path_of,
    "subject": subject,
}

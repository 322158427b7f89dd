# SPDX-License-Identifier: Apache-2.0
"""Follows a run until it ends, by the API."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from antipode_client.client import Client
from antipode_client.lines import in_one_line

Json = dict[str, Any]
ENDED = frozenset({"succeeded", "failed", "aborted", "rejected", "expired"})
LOOK_S = 1.0
"""Between two looks: the API sends no notice of a change."""
HELP = {
    "awaiting_approval": "awaits approval: openstack dr run approve {id}",
    "waiting_for_input": "waits for an answer: openstack dr run question list {id}",
    "lost": "has lost its process; a service resumes it, or: openstack dr run resume {id}",
}
"""How a run in this state gets on."""


def follow(
    client: Client,
    run: str,
    say: Callable[[str], None],
    *,
    pause: Callable[[float], None] = time.sleep,
) -> Json:
    """Wait until a run has ended, and say what happens meanwhile: each step that ends, and what the
    run waits for.

    Args:
        run: its id.
        say: shows a line.
        pause: waits for so many seconds.

    Returns:
        the run, as `GET /v1/runs/{run}` has it at the end.

    Raises:
        Fault: the API refuses.
    """
    shown: set[str] = set()
    state = ""
    while True:
        # the run before its steps: those that ended before the run did are all shown
        found: Json = client.get("runs", run)["run"]
        for step in client.pages("runs", run, "steps"):
            if step["state"] != "running" and step["id"] not in shown:
                shown.add(step["id"])
                say(in_one_line(step_in_words(step)))
        if found["state"] != state:
            state = found["state"]
            words = HELP.get(state, state.replace("_", " ")).format(id=run)
            say(f"run {run}: {words}")
        for warning in found.get("warnings", ()):  # which earlier APIs do not have
            if warning not in shown:
                shown.add(warning)
                say(in_one_line(f"run {run}: {warning}"))
        if state in ENDED:
            return found
        pause(LOOK_S)


def step_in_words(step: Json) -> str:
    """A step that has ended, on one line."""
    took = "" if step["seconds"] is None else f" ({step['seconds']:.1f} s)"
    ended = "" if step["state"] == "succeeded" else f": {step['state']}"
    return f"  {step['number']:>6} {step['name']} {step['resource']}{took}{ended}"

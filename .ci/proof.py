# SPDX-License-Identifier: Apache-2.0
"""The proof that a change is sound: its steps in their order, as far as the change needs them.

The lab is built beside the steps that need no cloud, several hosts are tried beside the kill
matrix, and the add-on with Nova beside the embedded sites. The steps on the lab run alone, as its
virtual machines need both cores.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lanes import EVERY, Lane, Selection, select
from steps import Runner, Step, StepFailed

PROJECT = Path(__file__).parents[1]
LOGS = PROJECT / "build" / "ci"
NOVAS = frozenset({Lane.ADD_ON, Lane.OLDER_NOVAS})
DISTRIBUTED = frozenset({Lane.DISTRIBUTED})
EMBEDDED = frozenset({Lane.EMBEDDED})
LAB = frozenset({Lane.LAB})


def all_steps(selection: Selection, *, full: bool) -> list[Step]:
    """Every step that there is.

    Args:
        selection: decides which Novas the add-on is tried with.
        full: whether the tests on the lab that are not marked as its core follow, and the add-on's
            with every older Nova.
    """
    novas = "" if Lane.OLDER_NOVAS in selection.lanes and not full else "newest"
    landing = [
        Step("environment", "the virtual environment", ["make", ".venv/.ready"], EVERY),
        Step(
            "servers",
            "the servers that tests run",
            ["make", "distributed-servers"],
            DISTRIBUTED,
            beside=True,
        ),
        Step(
            "lab",
            "the lab, from nothing",
            ["make", "lab-from-nothing"],
            LAB | NOVAS,
            after=["servers"],  # both install Debian packages
            beside=True,
        ),
        Step("checks", "unit tests and static checks", ["make", "test"], frozenset({Lane.CHECKS})),
        Step(
            "distributed",
            "several hosts, on real servers",
            ["make", "test-distributed"],
            DISTRIBUTED,
            after=["servers", "checks"],
            beside=True,  # it waits more than it works
        ),
        Step(
            "kill-matrix",
            "killed at every fourth step",
            ["make", "test-kill-matrix-core"],
            frozenset({Lane.KILL_MATRIX}),
        ),
        Step(
            "distributions",
            "what is published, in an empty environment",
            ["make", "test-distributions"],
            frozenset({Lane.DISTRIBUTIONS}),
        ),
        Step("demo", "the demo on embedded sites", ["make", "demo"], EMBEDDED),
        Step(
            "nova-quiesce",
            "the Nova add-on against Nova",
            ["make", "test-nova-quiesce", f"NOVAS={novas}"],
            NOVAS,
            after=["lab"],
            beside=True,
        ),
        Step("contract", "the contract of embedded sites", ["make", "test-contract"], EMBEDDED),
        Step("sandbox", "tests on embedded sites", ["make", "test-sandbox-core"], EMBEDDED),
        Step("console", "the console in a browser", ["make", "test-console"], EMBEDDED),
        Step(
            "lab-tests",
            "tests on the two sites",
            ["make", "test-lab-core"],
            LAB,
            after=["lab", "nova-quiesce"],
        ),
        Step(
            "lab-contract",
            "the contract of the two sites",
            ["make", "test-contract-lab-core"],
            LAB,
            after=["lab"],
        ),
        Step("lab-demo", "the demo on the two sites", ["make", "lab-demo"], LAB, after=["lab"]),
    ]
    return [*landing, *_rest()] if full else landing


def _rest() -> list[Step]:
    """What the proof of a landing leaves out. It comes after it, so that its time is seen alone."""
    return [
        Step(
            "older-novas",
            "the Nova add-on against older Novas",
            ["make", "test-nova-quiesce", "NOVAS=29 31"],
            NOVAS,
            beside=True,
            after=["lab-demo"],
        ),
        Step(
            "kill-matrix-rest",
            "killed at the steps between",
            ["make", "test-kill-matrix-rest"],
            frozenset({Lane.KILL_MATRIX}),
        ),
        Step(
            "sandbox-rest",
            "the rest of the tests on embedded sites",
            ["make", "test-sandbox-rest"],
            EMBEDDED,
        ),
        Step(
            "lab-contract-rest",
            "the rest of the contract of the two sites",
            ["make", "test-contract-lab-rest"],
            LAB,
            after=["lab"],
        ),
        Step(
            "lab-tests-rest",
            "the rest of the tests on the two sites",
            ["make", "test-lab-rest"],
            LAB,
            after=["older-novas"],
        ),
        Step(
            "tempest",
            "Tempest's compute API tests",
            ["make", "test-tempest", "TEMPEST=--only-failed"],
            LAB | NOVAS,
            after=["lab"],
        ),
    ]


def tell(selection: Selection, *, full: bool) -> None:
    """Print what runs and what is skipped, and why."""
    print(f"=== lanes: {selection.reason}")
    for lane in Lane:
        runs = lane in selection.lanes
        print(f"  {lane:<15}{'runs' if runs else 'skipped, as the change cannot break it'}")
    if Lane.LAB in selection.lanes and not full:
        print("  skipped on the lab: tests not marked core; ANTIPODE_CI=full runs them")
    if {Lane.KILL_MATRIX, Lane.EMBEDDED} & selection.lanes and not full:
        print("  skipped elsewhere: tests marked rest; ANTIPODE_CI=full runs them")
    sys.stdout.flush()


def main() -> int:
    full = os.environ.get("ANTIPODE_CI") == "full"
    if full:
        selection = Selection(EVERY, "ANTIPODE_CI is full: every lane, every test")
    else:
        selection = select(PROJECT, os.environ.get("ANTIPODE_CI_BASE", ""))
    tell(selection, full=full)
    runner = Runner(LOGS, cwd=PROJECT)
    try:
        runner.run([s for s in all_steps(selection, full=full) if s.lanes & selection.lanes])
    except StepFailed as e:
        print(f"\n=== FAILED: {e}; see {LOGS.relative_to(PROJECT)}/", flush=True)
        return 1
    finally:
        print(f"\n{runner.table()}", flush=True)
    print("\n=== every step has succeeded", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The kinds of runs: one module each, with its request, flow, tasks and rollback."""

from __future__ import annotations

from antipode.engine.kind import RunKind
from antipode.errors import InvalidInput
from antipode.registry import Registry

KINDS: Registry[RunKind] = Registry(
    "kind of run",
    {
        "protect": "antipode.runs.protect:KIND",
        "failover": "antipode.runs.failover:KIND",
        "expire": "antipode.runs.expire:KIND",
        "verify": "antipode.runs.verify:KIND",
        "precheck": "antipode.runs.precheck:KIND",
        "migrate": "antipode.runs.migrate:KIND",
        "dns-switch": "antipode.runs.dns_switch:KIND",
        "fence": "antipode.runs.fence:KIND",
        "old-copy-removal": "antipode.runs.old_copy_removal:KIND",
        "reprotect": "antipode.runs.reprotect:KIND",
        "undo": "antipode.runs.undo:KIND",
        "commit": "antipode.runs.commit:KIND",
        "drill": "antipode.runs.drill:KIND",
        "standing": "antipode.runs.standing:KIND",
        "standing-removal": "antipode.runs.standing_removal:KIND",
        "drill-cleanup": "antipode.runs.drill_cleanup:KIND",
        "plan-precheck": "antipode.runs.plan:PRECHECK",
        "plan-drill": "antipode.runs.plan:DRILL",
        "plan-failover": "antipode.runs.plan:FAILOVER",
        "plan-migrate": "antipode.runs.plan:MIGRATE",
        "plan-failback": "antipode.runs.plan:FAILBACK",
    },
)


def kind_of(name: str) -> RunKind:
    """The kind of this name.

    Raises:
        InvalidInput: this antipode has none; a newer one made the run.
    """
    return KINDS.get(name)


def find_kind(name: str) -> RunKind | None:
    """The kind of this name; None when only a newer antipode has it."""
    try:
        return kind_of(name)
    except InvalidInput:
        return None

# SPDX-License-Identifier: Apache-2.0
"""A plan over many VNFs, as it would be carried out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antipode.model.plan_file import Group, after, before, words
from antipode.model.runbook import ALL
from antipode.operations.plans import Prepared


def record(prepared: Prepared) -> dict[str, Any]:
    """What would be done, as a record."""
    plan, looks = prepared.plan, prepared.looks
    return {
        "plan": plan.plan,
        "verb": prepared.kind.verb.name,
        "source": prepared.source.words,
        "to": prepared.to,
        "begins": sum(look.done is None for look in looks.values()),
        "done": sum(look.done is not None for look in looks.values()),
        "in_the_way": [f"VNF {vnf}: {why}" for vnf, why in prepared.in_the_way.items()],
        "problems": list(prepared.problems),
        "groups": [
            {
                "group": group.name,
                "at_once": plan.most_at_once(group),
                "on_failure": "stop" if plan.stops_after(group) else "continue",
                "vnfs": [_planned_vnf(prepared, vnf) for vnf in group.vnfs],
            }
            for group in plan.groups
        ],
        "steps": [words(step) for step in plan.steps_of(prepared.kind.verb.name)],
    }


def _planned_vnf(prepared: Prepared, vnf: str) -> dict[str, Any]:
    if (why := prepared.in_the_way.get(vnf)) is not None:
        return {"vnf": vnf, "outcome": "in the way", "code": why.code, "why": str(why)}
    look = prepared.looks[vnf]
    return {
        "vnf": vnf,
        "outcome": "begins" if look.done is None else "done",
        "site": look.target.site,
        "recovery_point": look.target.recovery_point,
        "why": look.done,
        "does": look.target.words,
        "warnings": list(look.warnings),
    }


def lines(prepared: Prepared) -> Iterator[str]:
    """What would be done, for the operator, a line each."""
    plan, steps = prepared.plan, prepared.plan.steps_of(prepared.kind.verb.name)
    yield f"Plan {plan.plan}, {prepared.source.words}: {prepared.kind.verb.name}"
    yield from _steps(before(steps, ALL))
    for group in plan.groups:
        yield from _steps(before(steps, group.name))
        yield from _group(prepared, group)
        yield from _steps(after(steps, group.name))
    yield from _steps(after(steps, ALL))
    yield ""


def _steps(steps: list[Any]) -> Iterator[str]:
    yield from (f"  step {words(step)}" for step in steps)


def _group(prepared: Prepared, group: Group) -> Iterator[str]:
    plan = prepared.plan
    policy = "stops after" if plan.stops_after(group) else "continues past"
    most = plan.most_at_once(group)
    yield f"  group {group.name}, {most} at once; {policy} a VNF that fails"
    for vnf in group.vnfs:
        if (why := prepared.in_the_way.get(vnf)) is not None:
            yield f"    VNF {vnf} is left out: {why}"
            continue
        look = prepared.looks[vnf]
        if look.done is not None:
            yield f"    VNF {vnf}: nothing; {look.done}"
            continue
        yield f"    VNF {vnf} at {look.target.site}"
        yield from (f"      {line}" for line in look.target.words)
        yield from (f"      WARNING: {warning}" for warning in look.warnings)

# SPDX-License-Identifier: Apache-2.0
"""The plan file: an operator's definition of what is done with many VNFs, group after group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from antipode.model.base import NAME, Model, Name, Whole
from antipode.model.runbook import ALL, RunbookStep

OnFailure = Literal["stop", "continue"]
"""Of a VNF that fails: stop, no other begins; continue, all others are done."""
PlanName = Annotated[str, StringConstraints(pattern=NAME, max_length=48)]
AtOnce = Annotated[Whole, Field(ge=1, le=32)]
PREFIX = "plan:"
"""Before the name of a plan where a run names its VNF, which no name of a VNF has."""
KIND_PREFIX = "plan-"
"""Before the verb in the name of a kind of run that carries out a plan, and so in the ids of such
runs.
"""
MOST_VNFS = 1000


class Group(Model):
    """VNFs of one priority. A group begins when the one before it is over."""

    name: Name
    vnfs: Annotated[list[Name], Field(min_length=1, max_length=MOST_VNFS)]
    """in the order in which they begin"""
    at_once: AtOnce | None = None
    """how many of them at most are in progress at a time; the plan's by default"""
    on_failure: OnFailure | None = None
    """the plan's by default"""
    to: Name | None = None
    """the site where they are recovered; the plan's by default"""


class PlanFile(Model):
    """The definition of one plan."""

    plan: PlanName
    to: Name | None = None
    """the site where its VNFs are recovered, where the command names no other"""
    at_once: AtOnce = 4
    on_failure: OnFailure = "stop"
    groups: Annotated[list[Group], Field(min_length=1, max_length=100)]
    steps: Annotated[list[RunbookStep], Field(max_length=200)] = []
    """done before or after a group, or all of them"""

    @property
    def vnfs(self) -> list[str]:
        """All of its VNFs, in the order of the groups."""
        return [vnf for group in self.groups for vnf in group.vnfs]

    def most_at_once(self, group: Group) -> int:
        """How many VNFs of a group are in progress at a time, at most."""
        return group.at_once or self.at_once

    def stops_after(self, group: Group) -> bool:
        """Whether no other VNF begins after one of a group has failed."""
        return (group.on_failure or self.on_failure) == "stop"

    def steps_of(self, verb: str) -> list[RunbookStep]:
        """The steps that a verb does."""
        return [step for step in self.steps if verb in step.on]


def before(steps: Sequence[RunbookStep], group: str) -> list[RunbookStep]:
    """The steps that are over before a group begins; `all`: before anything begins."""
    return [step for step in steps if step.before in (group, [group])]


def after(steps: Sequence[RunbookStep], group: str) -> list[RunbookStep]:
    """The steps that are done when a group is over; `all`: when all of them are."""
    return [step for step in steps if step.after in (group, [group])]


def words(step: RunbookStep) -> str:
    """A step for people, with all that it executes."""
    place = "all groups" if step.place == ALL else f"group {step.place[0]}"
    how = {"stop": "", "ignore": "; an error is ignored"}
    error = how.get(step.on_error, f"; {step.retries} retries")
    return f"{step.name}, {'before' if step.before else 'after'} {place}: {step}{error}"


def mistakes(plan: PlanFile) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """What is wrong with a plan whose fields are right each by itself: places, and what is wrong
    there.
    """
    groups = [group.name for group in plan.groups]
    steps = [step.name for step in plan.steps]
    if len(plan.vnfs) > MOST_VNFS:
        yield ("groups",), f"a plan has {MOST_VNFS} VNFs at most, and this one {len(plan.vnfs)}"
    seen: set[str] = set()
    for number, group in enumerate(plan.groups):
        if group.name in groups[:number]:
            yield ("groups", number, "name"), f"there is a group {group.name} already"
        if group.name == ALL:
            yield ("groups", number, "name"), f"{ALL} stands for all groups; give it another name"
        for place, vnf in enumerate(group.vnfs):
            if vnf in seen:
                yield ("groups", number, "vnfs", place), f"VNF {vnf} is in this plan already"
            seen.add(vnf)
    for number, step in enumerate(plan.steps):
        key = "before" if step.before else "after"
        if step.name in steps[:number]:
            yield ("steps", number, "name"), f"there is a step {step.name} already"
        if step.to:
            yield ("steps", number, "to"), "a step of a plan is done at no site; leave it out"
        if step.place == ALL:
            continue
        if len(step.place) > 1:
            yield ("steps", number, key), "give one group, or all"
        for name in step.place:
            if name not in groups:
                yield ("steps", number, key), f"there is no group {name}; groups: {_some(groups)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:10], *(["…"] if len(names) > 10 else [])])

# SPDX-License-Identifier: Apache-2.0
"""`antipode run …`: runs and their steps."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments, progress
from antipode.cli.command import ListCommand, ShowCommand, columns, confirm
from antipode.cli.layout import Laid, Nested, Short, wrapped
from antipode.screen import moment, span, visible

if TYPE_CHECKING:
    from antipode.store.tables import QuestionRow, RunRow, StepRow


class RunList(ListCommand):
    """List runs, the newest first, each with the runs that are its parts below it."""

    spared = ("part_of", "recovery_point", "kind", "started_at", "seconds")
    examples = ("antipode run list", "antipode run list --vnf hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        only = parser.add_mutually_exclusive_group()
        only.add_argument("--vnf", metavar="VNF", type=arguments.name, help="only runs of this VNF")
        only.add_argument(
            "--plan",
            dest="plan_name",
            metavar="PLAN",
            type=arguments.name,
            help="only runs of this plan, with those of its VNFs",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.engine.run import part_of, state_of
        from antipode.model.plan_file import PREFIX
        from antipode.operations.run_tree import ordered, under

        subject = None if parsed_args.plan_name is None else f"{PREFIX}{parsed_args.plan_name}"
        runs = deployment.runs.all(parsed_args.vnf or subject)
        if subject is not None:
            runs += [placed.run for row in runs for placed in under(deployment, row)]
        names = ("run", "kind", "vnf", "state", "started_at", "seconds", "recovery_point", "reason")
        return (*names, "part_of"), [
            (
                Branch(r.id, depth),
                r.kind,
                r.vnf,
                state_of(r, deployment),
                moment(r.started_at),
                _seconds(r),
                r.result.get("recovery_point"),
                Short(r.reason),
                part_of(r),
            )
            for r, depth in ordered(runs)
        ]


class RunShow(ShowCommand):
    """Show a run with its timeline: when each step began, how long it took, and its result."""

    examples = ("antipode run show protect-20261122T160501Z-1a2b3c",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_run(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.engine.run import state_of
        from antipode.operations.answer import asked_below
        from antipode.operations.run_tree import under

        run = deployment.runs.get(parsed_args.run)
        approvals: dict[str, Any] = {}
        if run.approvals_needed:
            approvals = {
                "approvals_needed": run.approvals_needed,
                "approved_by": [a.identity for a in deployment.approvals.of(run.id)],
                "approve_before": moment(run.approve_before),
            }
        names, values = columns(
            {
                "run": run.id,
                "kind": run.kind,
                "vnf": run.vnf,
                "state": state_of(run, deployment),
                "reason": run.reason,
                "author": run.author,
                **approvals,
                "started_at": moment(run.started_at),
                "ended_at": moment(run.ended_at),
                "seconds": _seconds(run),
                **{k: v for k, v in run.result.items() if k not in ("vnf", "seconds")},
            }
        )
        if questions := asked_below(deployment, run.id):
            names, values = (
                (*names, "questions"),
                (*values, Nested([_question(q) for q in questions])),
            )
        if parts := under(deployment, run):
            below = [_part(p.run, p.depth, state_of(p.run, deployment)) for p in parts]
            names, values = (*names, "parts"), (*values, Parts(below))
        steps = [_step(s, run.started_at) for s in deployment.runs.steps(run.id)]
        return (*names, "steps"), (*values, Steps(steps))


class RunResume(ShowCommand):
    """Resume a run whose process died, or a failover that failed, after its last finished step.

    A failover that was confirmed long ago is confirmed again first.
    """

    changes = True
    examples = ("antipode run resume failover-20261122T160501Z-1a2b3c",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_run(parser)
        arguments.add_yes(
            parser, "of a failover: states that the VNF is dead or fenced at its other site"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.engine.run import subject_of
        from antipode.operations.resume import must_be_confirmed, resume

        run = deployment.runs.get(parsed_args.run)
        age_s = must_be_confirmed(deployment, run, time.time())
        if age_s is not None and not parsed_args.yes:
            question = (
                f"{run.id} was confirmed {span(age_s)} ago; two active copies of a VNF destroy each"
                f" other's service. Type yes if {subject_of(run)} does not run at its other site"
                " now:"
            )
            confirm(self.app, question, "yes")
        with progress.shown(self.app.stderr) as observer:
            return columns(resume(deployment, parsed_args.run, observer))


class RunAbort(ShowCommand):
    """Stop a run at its next safe point and roll it back; the result names what is left, and
    why.
    """

    changes = True
    examples = (
        "antipode run abort protect-20261122T160501Z-1a2b3c",
        "antipode run abort failover-20261122T160501Z-1a2b3c --yes",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_run(parser)
        arguments.add_yes(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.engine.run import state_of
        from antipode.operations.abort import abort
        from antipode.runs import kind_of

        run = deployment.runs.get(parsed_args.run)
        if not parsed_args.yes and run.state != "aborted":
            made = kind_of(run.kind).creates
            state = state_of(run, deployment)
            removed = f", and the {made} that it created are removed" if made else ""
            question = f"{run.id} is {state}. It is stopped{removed}. Type yes to do so:"
            confirm(self.app, question, "yes")
        with progress.shown(self.app.stderr) as observer:
            return columns(abort(deployment, run.id, observer))


class RunAnswer(ShowCommand):
    """Answer the question of a runbook step for which a run waits. Any host that reaches the
    database can do so. A no stops the run.
    """

    changes = True
    examples = (
        "antipode run answer failover-20261122T160501Z-1a2b3c power-is-back --yes",
        "antipode run answer failover-20261122T160501Z-1a2b3c ticket --text INC-4711",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_run(parser)
        parser.add_argument(
            "step",
            metavar="STEP",
            nargs="?",
            help="name of the runbook step (default: the only one that asks)",
        )
        said = parser.add_mutually_exclusive_group(required=True)
        said.add_argument("--yes", action="store_true", help="the run continues")
        said.add_argument("--no", action="store_true", help="the run stops")
        said.add_argument("--text", metavar="WORDS", help="the words that the question wants")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.answer import answer, open_step

        said = parsed_args.yes if parsed_args.text is None else parsed_args.text
        step = parsed_args.step or open_step(deployment, parsed_args.run)
        record = answer(deployment, parsed_args.run, step, said)
        if record["state"] == "lost":
            print(
                f"No process has {record['run']}: a service resumes it, or: antipode run resume"
                f" {record['run']}",
                file=self.app.stderr,
            )
        return columns(_with_moments(record))


class Branch(Laid):
    """The id of a run, for people below the run that it is a part of."""

    def __init__(self, run: str, depth: int) -> None:
        super().__init__(run)
        self._depth = depth

    def lines(self, width: int) -> Iterator[str]:
        yield f"{_below(self._depth)}{visible(self._value)}"


class Parts(Laid):
    """The parts of a run: a tree of lines for people, a list for programs."""

    def lines(self, width: int) -> Iterator[str]:
        for part in self._value:
            seconds = "…" if part["seconds"] is None else f"{part['seconds']:.2f} s"
            reason = f": {part['reason']}" if part["reason"] else ""
            line = (
                f"{_below(part['depth'] - 1)}{part['run']}  {part['vnf']}  {part['state']},"
                f" {seconds}{reason}"
            )
            yield from wrapped(visible(line), width, indent=2 * part["depth"])


def _below(depth: int) -> str:
    return f"{'  ' * (depth - 1)}└ " if depth else ""


class Steps(Laid):
    """The steps of a run: a line for each for people, a list for programs."""

    def lines(self, width: int) -> Iterator[str]:
        for step in self._value:
            yield from wrapped(visible(_step_line(step)), width, indent=STEPS_BEGIN)


STEPS_BEGIN = 20
"""The column in which the number of a step begins, and its further lines."""


def _step_line(step: dict[str, Any]) -> str:
    from antipode.engine.timeline import NOTED, WARNING

    if step["state"] in (NOTED, WARNING):
        words = step["result"].get("words", step["step"])
        mark = "" if step["state"] == NOTED else "WARNING: "
        return f"{step['at_s']:>8.2f}            {mark}{words}"
    seconds = "…" if step["seconds"] is None else format(step["seconds"], ".2f")
    state = "" if step["state"] == "succeeded" else f"  {step['state'].upper()}"
    return (
        f"{step['at_s']:>8.2f} {seconds:>7} s  {step['number']:<6} {step['step']} "
        f"{step['resource']}{state}{_facts(step['result'])}"
    )


def _facts(result: dict[str, Any]) -> str:
    from antipode.engine.timeline import WAITS_SINCE

    shown = {k: moment(v) if k == WAITS_SINCE else v for k, v in result.items()}
    facts = ", ".join(f"{k} {v}" for k, v in shown.items() if not isinstance(v, dict | list))
    return f"  ({facts})" if facts else ""


def _step(step: StepRow, run_started_at: float) -> dict[str, Any]:
    return {
        "number": step.number,
        "step": step.name,
        "resource": step.resource,
        "state": step.state,
        "started_at": moment(step.started_at),
        "ended_at": moment(step.ended_at),
        "at_s": round(step.started_at - run_started_at, 3),
        "seconds": None if step.ended_at is None else round(step.ended_at - step.started_at, 3),
        "result": step.result,
    }


def _part(run: RunRow, depth: int, state: str) -> dict[str, Any]:
    return {
        "run": run.id,
        "kind": run.kind,
        "vnf": run.vnf,
        "state": state,
        "reason": run.reason,
        "started_at": moment(run.started_at),
        "seconds": _seconds(run),
        "depth": depth,
    }


def _question(question: QuestionRow) -> dict[str, Any]:
    from antipode.operations.answer import record

    return _with_moments(record(question))


def _with_moments(record: dict[str, Any]) -> dict[str, Any]:
    return {k: moment(v) if k.endswith("_at") else v for k, v in record.items()}


def _seconds(run: RunRow) -> float | None:
    return None if run.ended_at is None else round(run.ended_at - run.started_at, 3)

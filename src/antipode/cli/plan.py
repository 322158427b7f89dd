# SPDX-License-Identifier: Apache-2.0
"""`antipode plan …`: plans over many VNFs, kept and carried out."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from antipode import config
from antipode.cli import arguments, change, progress
from antipode.cli.command import ListCommand, ShowCommand, columns, confirm
from antipode.cli.layout import Short
from antipode.errors import PreflightFailed

HERE = "plan_name"
"""Where parsed arguments have the name of the plan: `plan` is the option."""


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(HERE, metavar="PLAN", type=arguments.name, help="name of the plan")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file",
        metavar="FILE",
        type=Path,
        help="take the plan from this file (default: from the vaults; see: antipode plan put)",
    )


class PlanPut(ShowCommand):
    """Read a plan file and keep it in the vaults, signed and encrypted, where any host with the
    same keys finds it. It replaces an earlier one of the same plan.
    """

    changes = True
    examples = ("antipode plan put site-a-is-lost.yaml",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="FILE", type=Path, help="plan file (YAML)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from antipode.operations import plans

        plan = plans.read_file(parsed_args.file, config.load(self.app.options.config))
        return columns(plans.put(self.app.deployment(), plan))


class PlanList(ListCommand):
    """List the plans in the vaults."""

    spared = ("damaged", "by", "at", "version")
    examples = ("antipode plan list", "antipode plan list -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.plans import listed

        names = ("plan", "to", "groups", "vnfs", "version", "at", "by")
        rows = [
            (*(row.get(name) for name in names), Short(row["damaged"]))
            for row in listed(deployment)
        ]
        return (*names, "damaged"), rows


class PlanShow(ShowCommand):
    """Show a plan as the vaults have it: its groups, its steps, its version and its author."""

    examples = ("antipode plan show site-a-is-lost", "antipode plan show site-a-is-lost -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_plan(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.plans import show

        return columns(show(deployment, getattr(parsed_args, HERE)))


class PlanRemove(ShowCommand):
    """Remove a plan from the vaults. Its runs stay in the history, and its VNFs as they are."""

    changes = True
    examples = ("antipode plan remove site-a-is-lost", "antipode plan remove site-a-is-lost --yes")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_plan(parser)
        arguments.add_yes(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.plans import must_be_there, remove

        name = getattr(parsed_args, HERE)
        must_be_there(deployment, name)
        if not parsed_args.yes:
            confirm(self.app, f"Type the name of the plan to remove it ({name}):", name)
        return columns(remove(deployment, name))


class PlanPrecheck(ShowCommand):
    """Look whether each VNF of a plan could be recovered now, as `antipode precheck` does. Nothing
    is created, and no active site is called.

    Its verdict is the worst of all. Ends with exit code 3 when it is red.
    """

    changes = True
    examples = (
        "antipode plan precheck site-a-is-lost",
        "antipode plan precheck site-a-is-lost --to site-c -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_plan(parser)
        parser.add_argument(
            "--to",
            metavar="SITE",
            help="where they would be recovered (default: as the plan says, else for each VNF its"
            " first site at which it is not active)",
        )
        _add_source(parser)
        arguments.add_detach(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.model.readiness import Level
        from antipode.operations.plans import carry_out, find, prepare, request

        verb, to = "precheck", parsed_args.to
        source = find(deployment, getattr(parsed_args, HERE), verb, to, parsed_args.file)
        prepared = prepare(deployment, source, verb, to)
        row = request(prepared)
        if parsed_args.detach:
            from antipode.operations.submit import submit

            return columns(submit(deployment, row))
        with progress.shown(self.app.stderr) as observer:
            record = carry_out(deployment, prepared.kind, row, observer)
        if record["verdict"] == Level.RED:
            self.exit_code = PreflightFailed.exit_code
        return columns(record)


class _PlanCommand(ShowCommand):
    """A command that carries a plan out, once the operator has confirmed it."""

    changes = True
    verb: ClassVar[str]
    does: ClassVar[str]
    """what it does with its VNFs, for the question"""
    to_help = "where (default: as the plan says)"
    yes_means = ""
    without_the_site = False
    """whether the active site may be lost, and a vault, too"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_plan(parser)
        parser.add_argument("--to", metavar="SITE", help=self.to_help)
        _add_source(parser)
        if self.without_the_site:
            arguments.add_lost_vault(parser)
            arguments.add_fence(parser)
        parser.add_argument(
            "--skip-blocked",
            action="store_true",
            help="begin without the VNFs that something stands in the way of; they are named",
        )
        change.add_arguments(
            parser,
            "show what would be done with each VNF, and all that stands in the way; change nothing",
            yes_means=self.yes_means,
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.plans import carry_out, find, prepare, request
        from antipode.operations.shown import plan as shown

        name, to = getattr(parsed_args, HERE), parsed_args.to
        given = (parsed_args.lost_vault, parsed_args.fence) if self.without_the_site else ()
        source = find(deployment, name, self.verb, to, parsed_args.file, given[0] if given else ())
        prepared = prepare(deployment, source, self.verb, to, *given)
        if not parsed_args.plan:
            prepared.must_begin(without=parsed_args.skip_blocked)
        elif prepared.problems or (prepared.in_the_way and not parsed_args.skip_blocked):
            self.exit_code = PreflightFailed.exit_code
        begins = sum(look.done is None for look in prepared.looks.values())
        question = f"Type the name of the plan to {self.does} {begins} VNFs now ({name}):"
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: shown.record(prepared),
                lines=shown.lines(prepared),
                questions=[(question, name)],
                request=lambda: request(prepared),
                execute=partial(carry_out, deployment, prepared.kind),
            ),
        )


class PlanDrill(_PlanCommand):
    """Rehearse the failover of each VNF of a plan, group after group, as `antipode drill` does: on
    isolated networks, and all of it is removed.

    The VNFs run on. What would be done is shown first, and begins when you type the name of the
    plan.
    """

    verb, does = "drill", "drill with"
    to_help = (
        "where (default: as the plan says, else for each VNF its first site at which it is not"
        " active)"
    )
    examples = (
        "antipode plan drill site-a-is-lost",
        "antipode plan drill site-a-is-lost --plan -f json",
        "antipode plan drill site-a-is-lost --yes --detach",
    )


class PlanFailover(_PlanCommand):
    """Recover the VNFs of a plan at their backup sites, group after group, as `antipode failover`
    does. The failed site is not asked for anything.

    What would be done is shown first, and begins when you type the name of the plan. VNFs that are
    active there already are left as they are. One that fails stops the plan, or not, as the plan
    says; `antipode run resume` takes up those that have not succeeded.
    """

    verb, does = "failover", "recover"
    yes_means = "states that its VNFs are dead or fenced at their other sites"
    without_the_site = True
    examples = (
        "antipode plan failover site-a-is-lost",
        "antipode plan failover site-a-is-lost --to site-b --plan -f json",
        "antipode plan failover site-a-is-lost --skip-blocked --yes --detach",
        "antipode plan failover site-a-is-lost --file site-a-is-lost.yaml",
    )


class PlanMigrate(_PlanCommand):
    """Move the VNFs of a plan to another site while both answer, group after group, as `antipode
    migrate` does. VNFs that are active there already are left as they are.

    What would be done is shown first, and begins when you type the name of the plan.
    """

    verb, does = "migrate", "move"
    examples = (
        "antipode plan migrate maintenance-of-site-a --to site-b",
        "antipode plan migrate maintenance-of-site-a --plan -f json",
    )


class PlanFailback(_PlanCommand):
    """Move the VNFs of a plan back to where they came from, group after group, as `antipode
    failback` does. VNFs that are active at their primaries are left as they are.

    What would be done is shown first, with all that is removed, and begins when you type the name
    of the plan.
    """

    verb, does = "failback", "move back"
    to_help = "where (default: the site that each VNF came from)"
    examples = (
        "antipode plan failback site-a-is-lost",
        "antipode plan failback site-a-is-lost --plan -f json",
    )

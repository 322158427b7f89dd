# SPDX-License-Identifier: Apache-2.0
"""`antipode run approve` and `run reject`: others than its author decide whether a run begins."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from antipode.cli import arguments
from antipode.cli.command import ShowCommand, columns, confirm
from antipode.screen import moment, visible


def lines(needed: int) -> Iterator[str]:
    """That a plan needs approval, for people."""
    if needed:
        yield f"  begins when {needed} other than you has approved it: antipode run approve RUN"


class RunApprove(ShowCommand):
    """Approve a run that awaits it. What it is going to do is shown first. It begins when as many
    others than its author have approved it as it needs.
    """

    changes = True
    examples = (
        "antipode run approve failover-20261122T160501Z-1a2b3c",
        "antipode run approve failover-20261122T160501Z-1a2b3c --yes",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_run(parser)
        arguments.add_yes(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.approvals import approve, shown

        plan, words = shown(deployment, parsed_args.run)
        for line in words:
            print(visible(line), file=self.app.stderr, flush=True)
        if not parsed_args.yes:
            from antipode.engine.run import name_of, subject_of

            row = deployment.runs.get(parsed_args.run)
            question = f"Type the name of {subject_of(row)} to approve this:"
            confirm(self.app, question, name_of(row))
        return columns(_shown(approve(deployment, parsed_args.run, plan)))


class RunReject(ShowCommand):
    """Reject a run that awaits approval, also one of your own. It ends, and has changed nothing."""

    changes = True
    examples = (
        "antipode run reject failover-20261122T160501Z-1a2b3c --reason site-a-answers-again",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_run(parser)
        parser.add_argument("--reason", metavar="WORDS", help="why, kept with the run")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.approvals import reject

        return columns(_shown(reject(deployment, parsed_args.run, parsed_args.reason)))


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"approve_before": moment(record["approve_before"])}

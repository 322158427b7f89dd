# SPDX-License-Identifier: Apache-2.0
"""`antipode undo` and `antipode commit`: go back to the copy that a failover has left, or give that
possibility up.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from antipode.cli import arguments, change
from antipode.cli.command import ShowCommand
from antipode.screen import moment, span


class Undo(ShowCommand):
    """Undo the newest failover of a VNF, within the time that --undo-within gave: the new copy is
    stopped and locked, and the old one is started where it was. What the VNF has written since the
    failover is lost.

    The plan is shown first, and begins when you type the name of the VNF. If the old copy does not
    start or answer, it is fenced again, and the new one is started.
    """

    changes = True
    examples = ("antipode undo hlr", "antipode undo hlr --plan -f json", "antipode undo hlr --yes")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        change.add_arguments(
            parser,
            "show what would be stopped, started and lost, or what stands in the way; change "
            "nothing",
            yes_means="states that what was written since the failover may be lost",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.shown import undo as shown
        from antipode.operations.undo import prepare, request, undo

        prepared = prepare(deployment, parsed_args.vnf)
        question = (
            f"Type the name of the VNF to go back to {prepared.site} and lose what it has"
            f" written for {span(prepared.lost_s)} ({parsed_args.vnf}):"
        )
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: shown.record(prepared),
                lines=shown.lines(prepared),
                questions=[(question, parsed_args.vnf)],
                request=lambda: request(prepared),
                execute=partial(undo, deployment),
            ),
        )


class Commit(ShowCommand):
    """Give up that the newest failover of a VNF can be undone, before its time is over. From then
    on its old copy may be removed. Nothing else changes.
    """

    changes = True
    examples = ("antipode commit hlr", "antipode commit hlr --plan", "antipode commit hlr --yes")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        change.add_arguments(parser, "show what would be given up; change nothing")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.commit import commit, prepare, request
        from antipode.runs.runbook import in_words

        prepared = prepare(deployment, parsed_args.vnf)
        state, until = prepared.state, moment(prepared.until)
        question = f"Type the name of the VNF to give that up ({state.vnf}):"
        steps = in_words(prepared.steps)
        planned = {
            "vnf": state.vnf,
            "active_site": state.active_site,
            "undo_until": until,
            "steps": steps,
        }
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: planned,
                lines=[
                    f"The failover of {state.vnf} to {state.active_site} can be undone until"
                    f" {until}",
                    *(f"  {line}" for line in steps),
                ],
                questions=[(question, parsed_args.vnf)],
                request=lambda: request(prepared),
                execute=partial(commit, deployment),
            ),
        )

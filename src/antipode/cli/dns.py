# SPDX-License-Identifier: Apache-2.0
"""`antipode dns …`: the DNS records that lead users to a VNF."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from antipode.cli import arguments, change
from antipode.cli.command import ListCommand, ShowCommand
from antipode.screen import visible


def _add_point(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recovery-point",
        metavar="ID",
        type=arguments.name,
        help="the recovery point that has the addresses of the VNF (default: the newest)",
    )


class DnsShow(ListCommand):
    """Show the DNS records of a VNF: as their servers have them, and as they should be at its
    active site. Nothing is changed.
    """

    examples = ("antipode dns show hlr", "antipode dns show hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        _add_point(parser)
        arguments.add_lost_vault(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.dns import prepare, show

        prepared = prepare(
            deployment, parsed_args.vnf, parsed_args.recovery_point, parsed_args.lost_vault
        )
        for line in (*prepared.problems, *prepared.warnings):
            print(f"antipode: {visible(line)}", file=self.app.stderr)
        if prepared.problems:
            self.exit_code = 1
        rows = show(deployment, prepared)
        names = ("record", "provider", "present", "wanted", "leads_here", "behind")
        return names, [
            tuple("; ".join(row[n]) if n == "behind" else row[n] for n in names) for row in rows
        ]


class DnsSwitch(ShowCommand):
    """Switch the DNS records of a VNF to the site where it is active. A failover and a migration do
    so by themselves: this is for records that they could not switch.

    The plan is shown first, and begins when you type the name of the VNF. It is safe to repeat.
    """

    changes = True
    examples = (
        "antipode dns switch hlr",
        "antipode dns switch hlr --plan -f json",
        "antipode dns switch hlr --recovery-point 20261122T160501Z-1a2b3c --yes",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        _add_point(parser)
        arguments.add_lost_vault(parser)
        change.add_arguments(parser, "show what would be changed; change nothing")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.dns import prepare, request, switch
        from antipode.operations.shown import dns as shown

        prepared = prepare(
            deployment, parsed_args.vnf, parsed_args.recovery_point, parsed_args.lost_vault
        )
        question = f"Type the name of the VNF to switch its records now ({parsed_args.vnf}):"
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: shown.record(prepared),
                lines=shown.lines(prepared),
                questions=[(question, parsed_args.vnf)],
                request=lambda: request(prepared),
                execute=partial(switch, deployment),
            ),
        )

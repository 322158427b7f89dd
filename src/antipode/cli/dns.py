# SPDX-License-Identifier: Apache-2.0
"""`antipode dns …`: the DNS records that lead users to a VNF."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments, progress
from antipode.cli.command import ListCommand, ShowCommand, columns, confirm
from antipode.screen import visible

if TYPE_CHECKING:
    from antipode.model.dns import DnsChange


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
        parser.add_argument(
            "--plan", action="store_true", help="show what would be changed; change nothing"
        )
        arguments.add_detach(parser)
        arguments.add_yes(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.dns import prepare, request, switch

        prepared = prepare(
            deployment, parsed_args.vnf, parsed_args.recovery_point, parsed_args.lost_vault
        )
        if parsed_args.plan:
            return columns(
                {
                    "vnf": parsed_args.vnf,
                    "site": prepared.state.active_site,
                    "recovery_point": prepared.recovery_point,
                    "changes": planned(prepared.changes),
                    "problems": prepared.problems,
                    "warnings": prepared.warnings,
                }
            )
        print(visible(f"{prepared.state}"), file=self.app.stderr)
        for change in prepared.changes:
            print(f"  {visible(str(change))}", file=self.app.stderr)
        for line in (*prepared.problems, *prepared.warnings):
            print(f"  WARNING: {visible(line)}", file=self.app.stderr, flush=True)
        if not parsed_args.yes:
            confirm(
                self.app,
                f"Type the name of the VNF to switch its records now ({parsed_args.vnf}):",
                parsed_args.vnf,
            )
        row = request(prepared)
        if parsed_args.detach:
            from antipode.operations.submit import submit

            return columns(submit(deployment, row))
        with progress.shown(self.app.stderr) as observer:
            return columns(switch(deployment, row, observer))


def planned(changes: Sequence[DnsChange]) -> list[dict[str, Any]]:
    """Changes as records."""
    return [
        {
            "record": change.key,
            "provider": change.provider,
            "old": None if change.old is None else change.old.model_dump(mode="json"),
            "old_is_known": change.is_known,
            "new": change.new.model_dump(mode="json"),
        }
        for change in changes
    ]

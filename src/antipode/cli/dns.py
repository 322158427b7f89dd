# SPDX-License-Identifier: Apache-2.0
"""`antipode dns …`: the DNS records that lead users to a VNF."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments, change
from antipode.cli.command import ListCommand, ShowCommand
from antipode.screen import visible

if TYPE_CHECKING:
    from antipode.model.dns import DnsChange
    from antipode.operations.dns import Prepared


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

        prepared = prepare(
            deployment, parsed_args.vnf, parsed_args.recovery_point, parsed_args.lost_vault
        )
        question = f"Type the name of the VNF to switch its records now ({parsed_args.vnf}):"
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: _planned(prepared),
                lines=_plan(prepared),
                questions=[(question, parsed_args.vnf)],
                request=lambda: request(prepared),
                execute=partial(switch, deployment),
            ),
        )


def _planned(prepared: Prepared) -> dict[str, Any]:
    """The plan as a record."""
    return {
        "vnf": prepared.state.vnf,
        "site": prepared.state.active_site,
        "recovery_point": prepared.recovery_point,
        "changes": planned(prepared.changes),
        "problems": prepared.problems,
        "warnings": prepared.warnings,
    }


def _plan(prepared: Prepared) -> Iterator[str]:
    """The plan for the operator, a line each."""
    yield str(prepared.state)
    yield from (f"  {one}" for one in prepared.changes)
    yield from (f"  WARNING: {line}" for line in (*prepared.problems, *prepared.warnings))


def planned(changes: Sequence[DnsChange]) -> list[dict[str, Any]]:
    """Changes as records."""
    return [
        {
            "record": one.key,
            "provider": one.provider,
            "old": None if one.old is None else one.old.model_dump(mode="json"),
            "old_is_known": one.is_known,
            "new": one.new.model_dump(mode="json"),
        }
        for one in changes
    ]

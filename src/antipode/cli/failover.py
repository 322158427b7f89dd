# SPDX-License-Identifier: Apache-2.0
"""`antipode failover`: recover a VNF at its backup site, once the operator has confirmed it."""

from __future__ import annotations

import argparse
from typing import Any

from antipode.cli import arguments, change
from antipode.cli.command import ShowCommand


class Failover(ShowCommand):
    """Recover a VNF at its backup site from a recovery point. The failed site is not asked for
    anything.

    The plan is shown first, and begins when you type the name of the VNF.
    """

    changes = True
    examples = (
        "antipode failover hlr --to site-b",
        "antipode failover hlr --to site-b --recovery-point 20261122T160501Z-1a2b3c",
        "antipode failover hlr --to site-b --yes --detach",
        "antipode failover hlr --to site-b --fence",
        "antipode failover hlr --to site-b --newest-heads",
        "antipode failover hlr --to site-b --plan -f json",
        "antipode failover hlr --to site-b --instead-of failover-20261122T160501Z-1a2b3c",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument("--to", metavar="SITE", required=True, help="the VNF's backup site")
        parser.add_argument(
            "--recovery-point",
            metavar="ID",
            type=arguments.name,
            help="the recovery point to recover from (default: the newest)",
        )
        parser.add_argument(
            "--newest-heads",
            action="store_true",
            help="take the newest data that has arrived of each replicated volume, and not the "
            "state of the recovery point: their replicas are promoted",
        )
        arguments.add_lost_vault(parser)
        parser.add_argument(
            "--to-origin",
            action="store_true",
            help="accept a recovery point that was taken at SITE itself before the VNF moved away: "
            "changes since then are lost",
        )
        parser.add_argument(
            "--instead-of",
            metavar="RUN",
            help="release the claim of a failover whose host and database are lost",
        )
        parser.add_argument(
            "--store-unchecked",
            action="store_true",
            help="do not check that the backup store has the backups",
        )
        parser.add_argument(
            "--accept-unsigned",
            action="store_true",
            help="take a recovery point of antipode 0.1, which is not signed: anybody that could "
            "write to the vault may have changed what is recovered",
        )
        arguments.add_fence(parser)
        parser.add_argument(
            "--undo-within",
            metavar="TIME",
            type=arguments.duration,
            help="keep the old copy so long after the failover, as 2h, so that antipode undo can "
            "go back to it (default: undo_within of the VNF file)",
        )
        change.add_arguments(
            parser,
            "show what would be created, changed and executed, or what stands in the way; "
            "change nothing",
            yes_means="states that the VNF is dead or fenced at its other site, and so is the host "
            "of the run of --instead-of",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.failover import failover, fenced_first, prepare, request
        from antipode.operations.shown import failover as shown
        from antipode.runs.failover_checks import Accepted

        accepted = Accepted(
            parsed_args.instead_of,
            parsed_args.to_origin,
            parsed_args.store_unchecked,
            parsed_args.accept_unsigned,
            parsed_args.lost_vault,
            parsed_args.newest_heads,
        )
        prepared = prepare(
            deployment, parsed_args.vnf, parsed_args.to, parsed_args.recovery_point, accepted
        )
        fences, unfenced = fenced_first(deployment, prepared, parsed_args.fence)
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: {
                    **shown.record(prepared),
                    "warnings": [*unfenced, *prepared.warnings],
                    "fences": fences,
                },
                lines=(
                    *shown.fenced_first(prepared, fences, unfenced),
                    *shown.lines(prepared),
                ),
                questions=shown.questions(prepared),
                request=lambda: request(prepared, parsed_args.fence, parsed_args.undo_within),
                execute=lambda row, observer: failover(deployment, prepared, observer, row),
            ),
        )

# SPDX-License-Identifier: Apache-2.0
"""`antipode reprotect`: protect a VNF the other way round after it has moved."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from antipode.cli import arguments, change
from antipode.cli.command import ShowCommand


class Reprotect(ShowCommand):
    """Protect a VNF the other way round after a failover or a migration: its old copy is fenced,
    and a first recovery point is made where it is active now, for a recovery at its former site.

    The old copy is kept, off and locked, unless --old-copy remove says otherwise; the plan then
    names each server, port and volume that is removed. It begins when you type the name of the VNF.

    An old copy in the way of a failover is removed so, too, though the active site is dead: once
    the VNF has a recovery point since it moved there, with all of its data at hand.
    """

    changes = True
    examples = (
        "antipode reprotect hlr",
        "antipode reprotect hlr --plan -f json",
        "antipode reprotect hlr --old-copy remove",
        "antipode reprotect hlr --old-copy remove --lost-vault at-site-b",
        "antipode reprotect hlr --yes --detach",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "--old-copy",
            choices=["keep", "remove"],
            default="keep",
            help="what becomes of the old copy, once the active one has a recovery point of its "
            "own (default: keep, off and locked)",
        )
        arguments.add_lost_vault(parser)
        change.add_arguments(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.reprotect import prepare, reprotect, request
        from antipode.operations.shown import reprotect as shown

        prepared = prepare(
            deployment, parsed_args.vnf, parsed_args.old_copy, parsed_args.lost_vault
        )
        question = f"Type the name of the VNF to reprotect it ({parsed_args.vnf}):"
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: shown.record(prepared),
                lines=shown.lines(prepared),
                questions=[(question, parsed_args.vnf)],
                request=lambda: request(prepared),
                execute=partial(reprotect, deployment),
            ),
        )

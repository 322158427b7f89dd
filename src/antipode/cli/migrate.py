# SPDX-License-Identifier: Apache-2.0
"""`antipode migrate`: move a VNF to another site while both answer, without loss."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from antipode.cli import arguments, change
from antipode.cli.command import ShowCommand


class Migrate(ShowCommand):
    """Move a VNF to another site while both sites answer, without loss: it is protected, switched
    off, protected once more, recovered at the other site, and its old copy is fenced.

    The plan is shown first, and begins when you type the name of the VNF. If anything fails before
    the VNF is active at the other site, what was made there is removed, and its members are
    switched on again.
    """

    changes = True
    examples = (
        "antipode migrate hlr --to site-b",
        "antipode migrate hlr --to site-b --plan -f json",
        "antipode migrate hlr --yes --detach",
    )

    back = False
    """whether it goes back to where it came from, and the old copy there is removed first"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "--to",
            metavar="SITE",
            help="where (default: the site that it came from, if it is not at its primary)"
            if self.back
            else "where (default: the first site of the VNF at which it is not active)",
        )
        parser.add_argument(
            "--option",
            metavar="OPTION",
            help="which of its protections makes the recovery points (default: the first)",
        )
        change.add_arguments(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.migrate import migrate, prepare, request
        from antipode.operations.shown import migrate as shown

        prepared = prepare(
            deployment, parsed_args.vnf, parsed_args.to, parsed_args.option, back=self.back
        )
        question = f"Type the name of the VNF to move it to {prepared.to} ({parsed_args.vnf}):"
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: shown.record(prepared),
                lines=shown.lines(prepared),
                questions=[(question, parsed_args.vnf)],
                request=lambda: request(prepared),
                execute=partial(migrate, deployment),
            ),
        )


class Failback(Migrate):
    """Move a VNF back to the site that it came from, as `antipode migrate` does. Its old copy there
    is removed first, once a new recovery point is made: its servers, their ports and volumes.

    The plan names all that is going to be removed, and begins when you type the name of the VNF.
    """

    back = True
    examples = (
        "antipode failback hlr",
        "antipode failback hlr --plan -f json",
        "antipode failback hlr --to site-a --yes --detach",
    )

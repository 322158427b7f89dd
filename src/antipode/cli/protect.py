# SPDX-License-Identifier: Apache-2.0
"""`antipode protect`: make a recovery point."""

from __future__ import annotations

import argparse
from typing import Any

from antipode.cli import arguments, progress
from antipode.cli.command import ShowCommand, columns


class Protect(ShowCommand):
    """Make a recovery point of a VNF: quiesce, snapshot, unquiesce, back up, commit.

    With quiesced-snapshot, members are quiesced in the order of the VNF file; with server-snapshot,
    one is captured after another, standby members first. The first recovery point has full backups,
    a later one the blocks that changed.
    """

    changes = True
    examples = (
        "antipode protect hlr",
        "antipode protect hlr --detach -f value -c run",
        "antipode protect hlr --full",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        arguments.add_detach(parser)
        parser.add_argument(
            "--option", metavar="OPTION", help="which protection of the VNF (default: the first)"
        )
        parser.add_argument(
            "--full",
            action="store_true",
            help="begin a new chain for every volume with a full backup",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.protect import protect, request

        wanted = {"option": parsed_args.option, "full": parsed_args.full}
        if parsed_args.detach:
            from antipode.operations.submit import submit

            return columns(submit(deployment, request(deployment, parsed_args.vnf, **wanted)))
        with progress.shown(self.app.stderr) as observer:
            return columns(protect(deployment, parsed_args.vnf, observer, **wanted))

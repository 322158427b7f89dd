"""`antipode protect`: make a recovery point."""

from __future__ import annotations

import argparse
from typing import Any

from antipode.cli import progress
from antipode.cli.command import ShowCommand, columns


class Protect(ShowCommand):
    """Make a recovery point of a VNF: quiesce, snapshot, unquiesce, back up, commit."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("vnf", metavar="VNF")
        parser.add_argument(
            "--detach",
            action="store_true",
            help="have the service do it: queue the run and print its id",
        )
        parser.add_argument(
            "--option", metavar="OPTION", help="which protection of the VNF (default: the first)"
        )
        parser.add_argument(
            "--full",
            action="store_true",
            help="begin a new chain of every volume with a full backup",
        )
        return parser  # type: ignore[no-any-return]

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.protect import protect, request

        wanted = {"option": parsed_args.option, "full": parsed_args.full}
        if parsed_args.detach:
            from antipode.operations.submit import submit

            return columns(submit(deployment, request(deployment, parsed_args.vnf, **wanted)))
        with progress.shown(self.app.stderr) as observer:
            return columns(protect(deployment, parsed_args.vnf, observer, **wanted))

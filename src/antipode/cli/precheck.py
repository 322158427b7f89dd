# SPDX-License-Identifier: Apache-2.0
"""`antipode precheck`: whether a VNF could be recovered now."""

from __future__ import annotations

import argparse
from typing import Any

from antipode.cli import arguments, progress
from antipode.cli.command import ShowCommand, columns
from antipode.errors import PreflightFailed


class Precheck(ShowCommand):
    """Look whether a VNF could be recovered at a site now: its newest recovery point, keys, vaults,
    backup store, the services of the site, the plan, quotas. Nothing is created, and the active
    site is not called.

    The verdict is green, yellow (it can be recovered, with losses that are named) or red. Ends with
    exit code 3 when it is red. Each precheck is kept as a run.
    """

    changes = True
    examples = (
        "antipode precheck hlr",
        "antipode precheck hlr --to site-c -f json",
        "antipode precheck hlr --detach -f value -c run",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "--to",
            metavar="SITE",
            help="where it would be recovered (default: its first site at which it is not active)",
        )
        arguments.add_detach(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.model.readiness import Level
        from antipode.operations.precheck import precheck, request

        row = request(deployment, parsed_args.vnf, parsed_args.to)
        if parsed_args.detach:
            from antipode.operations.submit import submit

            return columns(submit(deployment, row))
        with progress.shown(self.app.stderr) as observer:
            record = precheck(deployment, row, observer)
        if record["verdict"] == Level.RED:
            self.exit_code = PreflightFailed.exit_code
        return columns(record)

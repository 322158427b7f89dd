# SPDX-License-Identifier: Apache-2.0
"""`antipode fence`: stop, lock and cut off the old copy of a VNF at a site."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from antipode.cli import arguments, change
from antipode.cli.command import ShowCommand


class Fence(ShowCommand):
    """Fence the old copy of a VNF at a site where it is not active any more: its ports are put
    down, its servers stopped and locked. The active copy is never touched.

    The plan is shown first, and begins when you type the name of the VNF. It is safe to repeat.
    """

    changes = True
    examples = (
        "antipode fence hlr --site site-a",
        "antipode fence hlr --site site-a --plan -f json",
        "antipode fence hlr --site site-a --yes --detach",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument("--site", metavar="SITE", required=True, help="where the old copy is")
        arguments.add_lost_vault(parser)
        change.add_arguments(
            parser,
            "show which servers and ports are the old copy and what would be done with them; "
            "change nothing",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.fence import fence, prepare, request
        from antipode.operations.shown import fence as shown

        prepared = prepare(deployment, parsed_args.vnf, parsed_args.site, parsed_args.lost_vault)
        vnf = parsed_args.vnf
        question = f"Type the name of the VNF to fence its old copy at {prepared.site} ({vnf}):"
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=prepared.record,
                lines=shown.lines(prepared),
                questions=[(question, vnf)],
                request=lambda: request(prepared),
                execute=partial(fence, deployment),
            ),
        )

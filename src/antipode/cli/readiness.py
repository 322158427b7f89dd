# SPDX-License-Identifier: Apache-2.0
"""`antipode readiness`: whether VNFs could be recovered, as the service looks again and again."""

from __future__ import annotations

import argparse
from typing import Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand
from antipode.cli.layout import Nested
from antipode.errors import PreflightFailed
from antipode.screen import moment


class Readiness(ListCommand):
    """Show whether VNFs could be recovered, as the service has last seen it: green, yellow (with
    losses, or things to mend, that are named) or red. No site and no vault is asked now; that is:
    antipode precheck.

    Ends with exit code 3 when one is red or stale. `stale` says that the service has not looked for
    three intervals; the verdict is empty where it has never looked.
    """

    spared = ("since", "stale")
    examples = (
        "antipode readiness",
        "antipode readiness hlr -f json",
        "antipode readiness hlr --history",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_any_vnf(parser, "name of the VNF (default: all)")
        parser.add_argument(
            "--history",
            action="store_true",
            help="what was seen earlier, a line for each time in which it stayed the same",
        )
        parser.add_argument(
            "--most",
            metavar="N",
            type=arguments.count,
            default=50,
            help="lines of the history (default: %(default)s)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.model.readiness import Level
        from antipode.operations import readiness

        if parsed_args.history:
            seen = readiness.history(deployment, parsed_args.vnf, parsed_args.most)
            of_each = ("since", "until", "vnf", "site", "verdict", "before", "looks", "reasons")
            return of_each, [
                (
                    moment(r.since),
                    moment(r.looked_at),
                    r.vnf,
                    r.site,
                    r.level and r.level.value,
                    r.before,
                    r.looks,
                    Nested(r.reasons),
                )
                for r in seen
            ]
        found = readiness.ready(deployment, parsed_args.vnf)
        if any(r.level is Level.RED or r.is_stale for r in found):
            self.exit_code = PreflightFailed.exit_code
        names = ("vnf", "site", "verdict", "since", "looked_at", "stale", "reasons")
        return names, [
            (
                r.vnf,
                r.site,
                r.level and r.level.value,
                moment(r.since),
                moment(r.looked_at),
                r.is_stale,
                Nested(r.reasons),
            )
            for r in found
        ]

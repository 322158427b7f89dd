# SPDX-License-Identifier: Apache-2.0
"""`antipode drill`: rehearse a failover on isolated networks, and remove all of it."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from antipode.cli import arguments, change
from antipode.cli.command import ShowCommand
from antipode.errors import InvalidInput
from antipode.model import marks
from antipode.screen import moment


class Drill(ShowCommand):
    """Rehearse a failover: recover a VNF on networks that are created for it and lead nowhere,
    probe its members by their console logs, compare content, and remove all of it.

    The VNF runs on, and is protected meanwhile. The plan is shown first, and begins when you type
    the name of the VNF. Ends with exit code 1 when the drill is not passed.
    """

    changes = True
    examples = (
        "antipode drill hlr",
        "antipode drill hlr --recovery-point 20261122T160501Z-1a2b3c --yes",
        "antipode drill hlr --keep 2h",
        "antipode drill hlr --plan -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "--to",
            metavar="SITE",
            help="where (default: the first site of the VNF at which it is not active)",
        )
        parser.add_argument(
            "--recovery-point",
            metavar="ID",
            type=arguments.name,
            help="the recovery point to drill with (default: the newest)",
        )
        parser.add_argument(
            "--keep",
            metavar="TIME",
            type=arguments.duration,
            help="leave all of it for so long after the end (30m, 2h, 7d at most), to look around; "
            "then the service removes it, or: antipode drill cleanup",
        )
        change.add_arguments(
            parser, "show what would be created, or what stands in the way; change nothing"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.drill import drill, prepare, request
        from antipode.operations.shown import drill as shown

        prepared = prepare(deployment, parsed_args.vnf, parsed_args.to, parsed_args.recovery_point)
        question = f"Type the name of the VNF to begin the drill ({parsed_args.vnf}):"
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: shown.record(prepared),
                lines=shown.lines(prepared, parsed_args.keep),
                questions=[(question, parsed_args.vnf)],
                request=lambda: request(prepared, parsed_args.keep),
                execute=partial(drill, deployment),
            ),
        )


class DrillCleanup(ShowCommand):
    """Remove all that drills of a VNF have left at a site: those that were kept, and those whose
    own clean-up was not complete. Nothing else is touched.

    A drill of another host, whose database is lost, is named by --drill and --at.
    """

    changes = True
    examples = (
        "antipode drill cleanup hlr",
        "antipode drill cleanup hlr --plan -f json",
        "antipode drill cleanup hlr --at site-b --drill drill-20261122T160501Z-1a2b3c",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "--at", metavar="SITE", help="where (default: the site of the newest such drill)"
        )
        parser.add_argument(
            "--drill",
            metavar="RUN",
            help="a drill that this database does not know, with --at: the id that its servers have"
            f" in their metadata as {marks.RUN}. No host may be executing it",
        )
        change.add_arguments(parser, "show what would be removed; change nothing")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations import drill as operation

        vnf, lost = parsed_args.vnf, parsed_args.drill
        if lost is not None:
            if parsed_args.at is None:
                raise InvalidInput("--drill needs --at SITE")
            site = operation.of_another_host(deployment, vnf, parsed_args.at, lost)
            drills = [{"run": lost}]
        else:
            site, rows = operation.uncleaned(deployment, vnf, parsed_args.at)
            drills = [
                {"run": r.id, "state": r.state, "kept_until": moment(r.result.get("kept_until"))}
                for r in rows
            ]
        ids = [str(d["run"]) for d in drills]
        found = operation.left_by(deployment, vnf, site, ids)
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: {"vnf": vnf, "site": site, "drills": drills, "removed": found},
                lines=(f"  {what}" for what in found),
                questions=[(f"Type the name of the VNF to remove this ({vnf}):", vnf)],
                request=lambda: operation.cleanup_request(vnf, site, ids),
                execute=partial(operation.cleanup, deployment),
            ),
        )

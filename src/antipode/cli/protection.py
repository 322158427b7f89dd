# SPDX-License-Identifier: Apache-2.0
"""`antipode protection …`: the protections of VNFs, and their schedules."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand, ShowCommand, columns
from antipode.cli.layout import Short
from antipode.screen import moment

if TYPE_CHECKING:
    from antipode.operations.protections import Scheduled


class ProtectionList(ListCommand):
    """List the protections of the VNFs that were added here: when each is due next, and how its
    schedule has been kept.
    """

    spared = ("last_due_at", "last_run", "missed", "reason", "paused_at")
    examples = ("antipode protection list", "antipode protection list hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_any_vnf(parser, "those of this VNF only")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.protections import protections

        rows = [_row(found) for found in protections(deployment, parsed_args.vnf)]
        return COLUMNS, [[row[name] for name in COLUMNS] for row in rows]


class _Schedules(ShowCommand):
    """A command that changes whether the schedules of a VNF are followed."""

    changes = True

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "--option",
            metavar="OPTION",
            help="which protection of the VNF (default: all that have a schedule)",
        )
        return parser


class ProtectionPause(_Schedules):
    """Have the service begin no protection of a VNF by its schedule, until it is resumed.

    A run that is queued or in progress is not stopped, and `antipode protect` still works.
    """

    examples = ("antipode protection pause hlr --reason upgrade",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--reason", metavar="TEXT", help="why, for other operators")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.protections import pause, protections

        run = pause(deployment, parsed_args.vnf, parsed_args.option, parsed_args.reason)
        paused = [
            p.protection.option
            for p in protections(deployment, parsed_args.vnf)
            if p.paused_at is not None
        ]
        return columns({"vnf": parsed_args.vnf, "paused": paused, "run_in_progress": run})


class ProtectionResume(_Schedules):
    """Have the service follow the schedules of a VNF again, from their next slots on."""

    examples = ("antipode protection resume hlr",)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.protections import resume

        resumed = resume(deployment, parsed_args.vnf, parsed_args.option)
        return columns({"vnf": parsed_args.vnf, "resumed": resumed})


COLUMNS = (
    "vnf",
    "option",
    "schedule",
    "next_at",
    "last_due_at",
    "last_run",
    "missed",
    "paused_at",
    "reason",
)


def _row(found: Scheduled) -> dict[str, Any]:
    progress = found.progress
    followed = progress if progress and progress.settled else None
    reason = progress and (progress.paused_because if found.paused_at else progress.reason)
    return {
        "vnf": found.vnf,
        "option": found.protection.option,
        "schedule": str(found.protection.schedule) if found.protection.schedule else None,
        "next_at": moment(found.next_at),
        "last_due_at": moment(followed.due_at if followed else None),
        "last_run": progress and progress.run,
        "missed": progress and progress.missed,
        "paused_at": moment(found.paused_at),
        "reason": Short(reason) if reason else None,
    }

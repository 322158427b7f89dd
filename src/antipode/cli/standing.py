# SPDX-License-Identifier: Apache-2.0
"""`antipode standing …`: volumes at a backup site that are kept at the newest recovery point."""

from __future__ import annotations

import argparse
from typing import Any

from antipode.cli import arguments, progress
from antipode.cli.command import ListCommand, ShowCommand, columns, confirm


def _add_site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--at",
        metavar="SITE",
        help="the backup site (default: the only one at which the VNF is not active)",
    )


class StandingApply(ShowCommand):
    """Bring the standing volumes of a VNF to a recovery point, and make those that are missing.

    The service does this by itself after each recovery point, where the VNF file has `standing:
    true`. Only blocks that differ are fetched and written. Volumes that are half written count for
    nothing until they are finished.
    """

    changes = True
    examples = (
        "antipode standing apply hlr",
        "antipode standing apply hlr --at site-b --recovery-point 20261122T160501Z-1a2b3c",
        "antipode standing apply hlr --detach -f value -c run",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        _add_site(parser)
        parser.add_argument(
            "--recovery-point",
            metavar="ID",
            type=arguments.name,
            help="the recovery point (default: the newest)",
        )
        arguments.add_detach(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations import standing

        row = standing.request(
            deployment, parsed_args.vnf, parsed_args.at, parsed_args.recovery_point
        )
        if parsed_args.detach:
            from antipode.operations.submit import submit

            return columns(submit(deployment, row))
        with progress.shown(self.app.stderr) as observer:
            return columns(standing.apply(deployment, row, observer))


class StandingList(ListCommand):
    """List the standing volumes of a VNF as the backup site shows them, and the backup that each
    holds; none while a volume is written.
    """

    spared = ("read_at", "status")
    examples = ("antipode standing list hlr", "antipode standing list hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        _add_site(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.standing import volumes

        names = ("site", "stands_for", "volume", "size_gib", "status", "holds_backup", "read_at")
        rows = [
            columns({n: row[n] for n in names})[1]
            for row in volumes(deployment, parsed_args.vnf, parsed_args.at)
        ]
        return names, rows


class StandingRemove(ShowCommand):
    """Remove the standing volumes of a VNF at a site, with their snapshots. Those that a recovery
    has taken stay. Take `standing` out of the VNF file first, or the service makes them again with
    the next recovery point.
    """

    changes = True
    examples = ("antipode standing remove hlr --yes",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        _add_site(parser)
        arguments.add_yes(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.standing import remove

        if not parsed_args.yes:
            question = (
                f"The standing volumes of VNF {parsed_args.vnf} are removed. Type the name of the"
                " VNF to do so:"
            )
            confirm(self.app, question, parsed_args.vnf)
        with progress.shown(self.app.stderr) as observer:
            return columns(remove(deployment, parsed_args.vnf, parsed_args.at, observer))

# SPDX-License-Identifier: Apache-2.0
"""`antipode report …`: signed evidence of runs, and of how VNFs were protected."""

from __future__ import annotations

import argparse
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand, ShowCommand, columns
from antipode.errors import InvalidInput

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment
    from antipode.model.history import History


class Report(ShowCommand):
    """Write the report of a run that has ended, as HTML, PDF and JSON, with one signature over
    them: what was confirmed and approved, each step, RPO and RTO, content, leaks, deviations.
    """

    changes = True
    examples = (
        "antipode report drill-20261122T160501Z-1a2b3c",
        "antipode report failover-20261122T160501Z-1a2b3c --to /srv/evidence --form html",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_run(parser)
        parser.add_argument(
            "--to",
            metavar="DIRECTORY",
            type=Path,
            default=Path(),
            help="where the files are written (default: the working directory)",
        )
        parser.add_argument(
            "--form",
            action="append",
            choices=["json", "html", "pdf"],
            default=[],
            help="only this form; may be repeated (default: all; a PDF needs antipode[pdf])",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.reports.files import write

        return columns(write(deployment, parsed_args.run, parsed_args.to, parsed_args.form))


class _OfTime(ListCommand):
    """The history of VNFs."""

    spared = (
        *("since", "until", "counted_from", "verifications", "verifications_failed", "windows"),
        *("window_median_s", "drill_rto_s", "failover_rto_s", "active_site", "rpo_target_s"),
        *("failovers_failed", "failovers", "protections_failed", "windows_over_budget"),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--since",
            metavar="TIME",
            type=arguments.time_back,
            default=30 * 86400.0,
            help="how far back, as 30d or 12h (default: 30d)",
        )
        parser.add_argument(
            "--to",
            metavar="DIRECTORY",
            type=Path,
            help="write it to files there, with one signature over them",
        )
        parser.add_argument(
            "--form",
            action="append",
            choices=["json", "csv", "html", "pdf"],
            default=[],
            help="with --to: only this form; may be repeated (default: all; a PDF needs "
            "antipode[pdf])",
        )
        return parser

    @abstractmethod
    def _history(self, deployment: Deployment, parsed_args: argparse.Namespace) -> History:
        """Of the VNFs that were asked for."""

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        if parsed_args.form and parsed_args.to is None:
            raise InvalidInput("--form goes with --to; for other forms of the output see -f")
        deployment = self.app.deployment()
        from antipode.model.history import VnfHistory

        found = self._history(deployment, parsed_args)
        for note in found.notes:
            print(f"antipode: {note}", file=self.app.stderr)
        if parsed_args.to is not None:
            from antipode.operations.reports.period_files import write

            names, values = columns(write(deployment, found, parsed_args.to, parsed_args.form))
            return names, [values]
        return tuple(VnfHistory.model_fields), [
            tuple(vnf.model_dump().values()) for vnf in found.vnfs
        ]


class ReportVnf(_OfTime):
    """Show how a VNF was protected in a time: recovery points, missed intervals, quiesce windows,
    bytes, drills, failovers, and for how much of the time its RPO was kept. No site and no vault is
    asked.
    """

    examples = (
        "antipode report vnf hlr",
        "antipode report vnf hlr --since 7d -f json",
        "antipode report vnf hlr --to /srv/evidence --form pdf",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        return parser

    def _history(self, deployment: Deployment, parsed_args: argparse.Namespace) -> History:
        from antipode.operations.reports.period import of_vnf

        return of_vnf(deployment, parsed_args.vnf, parsed_args.since)


class ReportSite(_OfTime):
    """Show how each VNF that is active at a site now was protected in a time, as
    `antipode report vnf` does.
    """

    examples = ("antipode report site site-a", "antipode report site site-a --since 90d -f csv")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("site", metavar="SITE", help="name of the site")
        return parser

    def _history(self, deployment: Deployment, parsed_args: argparse.Namespace) -> History:
        from antipode.operations.reports.period import of_site

        return of_site(deployment, parsed_args.site, parsed_args.since)


class ReportVerify(ShowCommand):
    """See that a file of a report is as it was signed, by a key that this host trusts."""

    examples = (
        "antipode report verify drill-20261122T160501Z-1a2b3c.pdf",
        "antipode report verify copy.html --signature drill-20261122T160501Z-1a2b3c.sig.json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="FILE", type=Path, help="the HTML, PDF or JSON file")
        parser.add_argument(
            "--signature",
            metavar="FILE",
            type=Path,
            help="its signature (default: RUN.sig.json beside it)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.reports.files import verify

        return columns(verify(deployment, parsed_args.file, parsed_args.signature))

# SPDX-License-Identifier: Apache-2.0
"""`antipode report …`: signed evidence of runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from antipode.cli import arguments
from antipode.cli.command import ShowCommand, columns


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

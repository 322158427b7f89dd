# SPDX-License-Identifier: Apache-2.0
"""`antipode demo`: the life of a protected VNF on embedded sites."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from antipode.cli.command import ShowCommand, columns
from antipode.cli.sandbox import require_packages
from antipode.config import default_state_dir
from antipode.screen import visible


class Demo(ShowCommand):
    """Protect an example VNF on two embedded sites, rehearse its recovery, kill its site, recover
    it at the other; fence the old copy that comes back, protect the VNF the other way round, and
    move it back. Every record is counted.
    """

    changes = True
    examples = ("antipode demo", "antipode demo --directory /tmp/demo --report report.json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--directory",
            metavar="DIR",
            help="where the sites live meanwhile; emptied first (default: in the state directory)",
        )
        parser.add_argument(
            "--report",
            metavar="FILE",
            help="file for the report (default: demo-report.json in that directory)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        require_packages()
        from antipode.sandbox import demo, story

        directory = (
            Path(parsed_args.directory).expanduser().resolve()
            if parsed_args.directory
            else default_state_dir() / "demo"
        )
        report = demo.run(directory, self.app.stderr)
        path = Path(parsed_args.report) if parsed_args.report else directory / "demo-report.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        problems = story.broken_promises_of_the_whole(report)
        for problem in problems:
            print(f"antipode demo: not as promised: {visible(problem)}", file=self.app.stderr)
        if not problems:
            say = (
                "Every record that was durable when the VNF was frozen was there at site-b, and "
                "nothing later. On the way back to site-a no record was lost."
            )
            print(f"\n{say}\nReport: {path}", file=self.app.stderr)
        self.exit_code = 1 if problems else 0
        return columns(report)

# SPDX-License-Identifier: Apache-2.0
"""`antipode demo`: the life of a protected VNF on embedded sites."""

from __future__ import annotations

import argparse
import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from antipode.cli.command import ShowCommand, columns
from antipode.cli.sandbox import require_packages
from antipode.config import default_state_dir
from antipode.screen import visible

CONSOLE_PORT = 8780
LATENCY = 0.4
"""Of the sites, beside that of real ones."""


class Demo(ShowCommand):
    """Protect an example VNF on two embedded sites, rehearse its recovery, kill its site, recover
    it at the other; fence the old copy that comes back, protect the VNF the other way round, and
    move it back. Every record is counted.
    """

    changes = True
    examples = (
        "antipode demo",
        "antipode demo --directory /tmp/demo --report report.json",
        "antipode demo --console",
    )

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
        parser.add_argument(
            "--console",
            metavar="PORT",
            nargs="?",
            const=CONSOLE_PORT,
            type=int,
            help="play the story yourself, in a browser: start the sites, the VNF and a service "
            "with the web console at this port of 127.0.0.1 (default: %(const)s), until Ctrl-C",
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
        if parsed_args.console is not None:
            return columns(_visited(directory, parsed_args.console, self.app.stderr))
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


def _visited(directory: Path, port: int, out: TextIO) -> dict[str, Any]:
    """Have a person visit the console of two embedded sites until a signal; where it was."""
    from antipode.sandbox.desk import VNF_FILE
    from antipode.sandbox.keystone import PASSWORD
    from antipode.sandbox.supervision import SITES
    from antipode.sandbox.visit import Visit

    visit = Visit(directory, port, LATENCY)
    for one in (visit.sandbox, visit.third):
        one.down(wipe=True)
    primary, sites = SITES[0], visit.sandbox.directory
    try:
        print("Two embedded sites and a VNF are being started ...", file=out, flush=True)
        visit.lay_out()
        visit.operator.tell("vnf", "add", str(sites / VNF_FILE))
        with visit.serving(), suppress(KeyboardInterrupt):
            print(
                f"The console is at {visit.url}/console. Log in as operator, or as approver,"
                f" boss or observer, with the password {PASSWORD}.\n"
                f"The disaster:  antipode sandbox kill {primary} --directory {sites}\n"
                f"It comes back: antipode sandbox revive {primary} --directory {sites}\n"
                "Ctrl-C ends all of it.",
                file=out,
                flush=True,
            )
            threading.Event().wait()
    finally:
        visit.down()
    return {"console": f"{visit.url}/console", "directory": str(directory)}

# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.week`: plays the week, tells what became of each slot and what it cost, and
writes build/week.json; it fails where a slot was made twice or missed without a reason, an event
was lost, or memory or the database grow without end.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench.week.drive import Settings, Week
from bench.week.verdict import faults, lines

REPORT = Path("build") / "week.json"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.week", description=__doc__)
    usual = Settings()
    parser.add_argument("--vnfs", type=int, default=usual.vnfs, help="(default: %(default)s)")
    parser.add_argument(
        "--hours", type=float, default=usual.hours, help="that are played (default: %(default)s)"
    )
    parser.add_argument(
        "--places",
        type=int,
        default=usual.places,
        help="protections at once on each host (default: %(default)s)",
    )
    parser.add_argument(
        "--kills", type=int, default=usual.kills, help="of hosts (default: %(default)s)"
    )
    parser.add_argument(
        "--history-days",
        type=float,
        default=usual.history_days,
        help="for which runs are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--minutes", type=float, help="of real time after which it ends early (default: never)"
    )
    parser.add_argument("--seed", type=int, default=usual.seed, help="(default: %(default)s)")
    parser.add_argument("--database", dest="url", help="a URL; a file of its own by default")
    chosen = parser.parse_args(arguments)
    settings = Settings(**vars(chosen))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bench").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="antipode-week-") as folder:
        week = Week(settings, Path(folder))
        signal.signal(signal.SIGTERM, lambda *_: week.end_early())
        account = week.play()
    wrong = faults(account)
    print("\n".join([*lines(settings, account), *(f"FAULT: {fault}" for fault in wrong)]))
    REPORT.parent.mkdir(exist_ok=True)
    document = {"settings": asdict(settings), "account": asdict(account), "faults": wrong}
    REPORT.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

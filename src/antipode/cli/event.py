# SPDX-License-Identifier: Apache-2.0
"""`antipode event list`: the events that the service has made."""

from __future__ import annotations

import argparse
from typing import Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand
from antipode.cli.layout import Nested
from antipode.screen import moment


class EventList(ListCommand):
    """List the newest events, the oldest of them first. The service notes events when antipode.yaml
    names receivers for them (`events`).
    """

    spared = ("id", "subject")
    examples = ("antipode event list", "antipode event list --most 100 -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--most",
            metavar="N",
            type=arguments.count,
            default=20,
            help="how many (default: %(default)s)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        events = self.app.deployment().events.newest(parsed_args.most)
        names = ("at", "type", "subject", "data", "id")
        return names, [
            (moment(e.at), e.type, e.subject, Nested(dict(e.data)), e.id) for e in events
        ]

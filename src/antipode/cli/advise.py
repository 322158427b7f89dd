# SPDX-License-Identifier: Apache-2.0
"""`antipode advise`: which option fits a VNF, and why."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand
from antipode.cli.layout import Nested


class Advise(ListCommand):
    """Say which option fits a VNF and why: by its members, agents, volumes and what of them
    changes, replicated storage at hand, what backups and recoveries have taken, and the RPO and RTO
    of its file. What each option costs is beside it. Nothing is changed.

    An option that is ruled out cannot protect the VNF as it is. `measured` has the facts.
    """

    spared = ("measured", "stored_bytes_per_day", "calls_per_day")
    examples = ("antipode advise hlr", "antipode advise hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.advice import advise

        found = advise(deployment, parsed_args.vnf)
        names = ("option", "verdict", "in_use", "why", "calls_per_day", "stored_bytes_per_day")
        measured = Nested({"seen": found.source, **asdict(found.facts)})
        return (*names, "measured"), [
            (
                one.option,
                one.verdict,
                one.in_use,
                Nested([f"{r.weight.value}: {r.words}" for r in one.remarks]),
                one.calls_per_day,
                one.stored_bytes_per_day,
                measured,
            )
            for one in found.options
        ]

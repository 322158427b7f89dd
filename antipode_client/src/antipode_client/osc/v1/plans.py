# SPDX-License-Identifier: Apache-2.0
"""`openstack dr plan …`: plans over many VNFs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from osc_lib import exceptions
from osc_lib.command import command

from antipode_client.client import Client
from antipode_client.osc.v1.begun import Run
from antipode_client.osc.v1.tables import List, client_of, details
from antipode_client.osc.v1.vnfs import from_file

Json = dict[str, Any]


class PlanList(List):
    """List the plans that the vaults have"""

    columns = ("plan", "to", "groups", "vnfs", "version", "damaged")
    more = ("at", "by")

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The plans."""
        found: list[Json] = client.get("plans")["plans"]
        return found


class PlanShow(command.ShowOne):
    """Show a plan"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the plan."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("plan", metavar="<plan>", help="Name of the plan")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Ask for it."""
        return details(client_of(self).get("plans", parsed_args.plan)["plan"])


class PlanSet(command.ShowOne):
    """Keep a plan in the vaults by its file, or replace it there"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the plan and the file."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("plan", metavar="<plan>", help="Name of the plan")
        parser.add_argument(
            "--file", metavar="<file>", type=Path, required=True, help="A plan file (YAML)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Send it."""
        name, given = parsed_args.plan, from_file(parsed_args.file)
        if given.pop("plan", name) != name:
            raise exceptions.CommandError(f"{parsed_args.file} is not about plan {name}")
        return details(client_of(self).put("plans", name, body={"plan": given})["plan"])


class PlanDelete(command.Command):
    """Remove a plan from the vaults. Its runs stay in the history"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the plan."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("plan", metavar="<plan>", help="Name of the plan")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Ask for it."""
        client_of(self).delete("plans", parsed_args.plan)


class _PlanRun(Run):
    of = "plan"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--to", metavar="<site>", help="Site where the VNFs are recovered")
        parser.add_argument(
            "--skip-blocked",
            action="store_true",
            help="Begin without the VNFs that something stands in the way of",
        )
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"to": asked.to, "without_blocked": asked.skip_blocked or None}


class PlanPrecheck(_PlanRun):
    """Look whether the VNFs of a plan could be recovered"""

    kind, is_confirmed = "precheck", False


class PlanDrill(_PlanRun):
    """Rehearse the recovery of the VNFs of a plan on isolated networks"""

    kind = "drill"


class PlanFailover(_PlanRun):
    """Recover the VNFs of a plan at their backup site, group after group"""

    kind = "failover"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add how old copies are fenced, and what is lost."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--fence",
            choices=["required", "try"],
            help="Cut off, stop and lock the old copies first, where their site still answers",
        )
        parser.add_argument(
            "--lost-vault",
            metavar="<vault>",
            action="append",
            default=[],
            dest="lost_vaults",
            help="Vault that is lost, with all that only it holds (repeat for several)",
        )
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        lost = asked.lost_vaults or None
        return {**super().body(asked), "fence": asked.fence, "lost_vaults": lost}


class PlanMigrate(_PlanRun):
    """Move the VNFs of a plan to another site and lose nothing"""

    kind = "migrate"


class PlanFailback(_PlanRun):
    """Move the VNFs of a plan back to where they came from, and lose nothing"""

    kind = "failback"

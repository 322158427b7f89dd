# SPDX-License-Identifier: Apache-2.0
"""Commands that begin a run: the plan is shown, the name is typed, and the run is followed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from osc_lib import exceptions
from osc_lib.command import command

from antipode_client import watching
from antipode_client.lines import in_one_line
from antipode_client.osc.v1.tables import client_of, details

Json = dict[str, Any]
BRIEF = ("id", "kind", "vnf", "plan", "state", "reason", "recovery_point", "warnings")


class Run(command.ShowOne):
    """A command that begins a run of a VNF, or of a plan."""

    of = "vnf"
    """what the run is of"""
    kind = ""
    """as the API names it"""
    is_confirmed = True
    """whether the name has to be typed before it begins"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add what all runs have."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        kind = "VNF" if self.of == "vnf" else "plan"
        parser.add_argument("name", metavar=f"<{self.of}>", help=f"Name of the {kind}")
        how = parser.add_mutually_exclusive_group()
        how.add_argument(
            "--plan",
            action="store_true",
            dest="is_preview",
            help="Show what would be done, and change nothing",
        )
        how.add_argument(
            "--wait",
            action="store_true",
            help="Wait until the run has ended, and show its steps meanwhile",
        )
        if self.is_confirmed:
            parser.add_argument(
                "--yes", action="store_true", help="Begin without asking for the name"
            )
        parser.add_argument(
            "--idempotency-key",
            metavar="<key>",
            help="A request that is repeated with the same key begins no second run",
        )
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """What the run is asked to do, without its kind; None for what is not said."""
        return {}

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Show the plan, have it confirmed, begin the run, and follow it if wanted."""
        client, name = client_of(self), parsed_args.name
        place = f"{self.of}s", name
        wanted = {k: v for k, v in self.body(parsed_args).items() if v is not None}
        wanted = {"kind": self.kind, **wanted}
        if parsed_args.is_preview:
            return details(client.post(*place, "previews", body={"run": wanted})["preview"])
        if self.is_confirmed:
            if not parsed_args.yes:
                self._confirm(client.post(*place, "previews", body={"run": wanted}), name)
            wanted["confirm"] = name
        run = client.post(*place, "runs", body={"run": wanted}, key=parsed_args.idempotency_key)[
            "run"
        ]
        if parsed_args.wait:
            run = ended(client_of(self), run["id"])
        return details(brief(run))

    def _confirm(self, preview: Mapping[str, Any], name: str) -> None:
        for line in preview["preview"]["lines"]:
            print(in_one_line(line), file=sys.stderr)
        needed = preview["preview"]["approvals_needed"]
        if needed:
            print(f"it begins when {needed} others have approved it", file=sys.stderr)
        typed("VNF" if self.of == "vnf" else "plan", name)


def typed(what: str, name: str) -> None:
    """Have a person type a name.

    Raises:
        CommandError: it was not typed.
    """
    if not sys.stdin.isatty():
        raise exceptions.CommandError(
            f"not confirmed: stdin is no terminal; give --yes if the {what} {name} is meant"
        )
    print(f"Type the name of the {what} to begin: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != name:
        raise exceptions.CommandError("not confirmed; nothing was changed")


def ended(client: Any, run: str) -> Json:
    """Follow a run to its end.

    Raises:
        CommandError: it has not succeeded.
    """
    found = watching.follow(client, run, lambda line: print(line, file=sys.stderr, flush=True))
    if found["state"] != "succeeded":
        why = in_one_line(found["reason"] or "no reason is known")
        raise exceptions.CommandError(
            f"run {run} has {'' if found['state'] != 'aborted' else 'been '}{found['state']}:"
            f" {why}; see: openstack dr run show {run}"
        )
    return found


def brief(run: Mapping[str, Any]) -> Json:
    """The fields of a run that a command shows which began it."""
    return {name: run[name] for name in BRIEF if run.get(name) not in (None, [])}

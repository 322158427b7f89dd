# SPDX-License-Identifier: Apache-2.0
"""`openstack dr run …`: what is done, by which steps; questions, approvals, abort and resume."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from osc_lib import exceptions
from osc_lib.command import command

from antipode_client.client import Client
from antipode_client.osc.v1.begun import brief, ended
from antipode_client.osc.v1.tables import List, client_of, details

Json = dict[str, Any]
Shown = tuple[Sequence[str], Sequence[Any]]


class RunList(List):
    """List runs, the newest first"""

    columns = ("id", "kind", "vnf", "plan", "state", "started_at", "ended_at")
    more = ("project", "author", "reason", "recovery_point", "part_of")
    has_limit = True

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the filters."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--vnf", metavar="<vnf>", help="Runs of this VNF")
        parser.add_argument("--kind", metavar="<kind>", help="Runs of this kind, such as failover")
        parser.add_argument("--state", metavar="<state>", help="Runs in this state")
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The runs."""
        return client.pages(
            "runs", limit=asked.limit, vnf=asked.vnf, kind=asked.kind, state=asked.state
        )


class _OfRun:
    """A command about one run."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the run."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)  # type: ignore[misc]
        parser.add_argument("run", metavar="<run>", help="ID of the run")
        return parser


class RunShow(_OfRun, command.ShowOne):
    """Show a run with its result"""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        return details(client_of(self).get("runs", parsed_args.run)["run"])


class RunWatch(_OfRun, command.ShowOne):
    """Follow a run until it ends: its steps, and what it waits for"""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Follow it."""
        return details(brief(ended(client_of(self), parsed_args.run)))


class StepList(_OfRun, List):
    """List the steps of a run"""

    columns = ("number", "name", "resource", "state", "started_at", "seconds")
    more = ("id", "result")

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The steps."""
        return client.pages("runs", asked.run, "steps")


class PartList(_OfRun, List):
    """List the runs that are parts of a run"""

    columns = ("id", "kind", "vnf", "state", "started_at", "ended_at")
    more = ("project", "reason", "recovery_point", "part_of")

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The parts."""
        found: list[Json] = client.get("runs", asked.run, "parts")["runs"]
        return found


class QuestionList(_OfRun, List):
    """List the questions of a run"""

    columns = ("step", "message", "wants", "asked_at", "expires_at", "answer", "answered_by")

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The questions."""
        found: list[Json] = client.get("runs", asked.run, "questions")["questions"]
        return found


class Answer(_OfRun, command.ShowOne):
    """Answer a question of a run. A no stops the run"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the question and the answer."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--step",
            metavar="<step>",
            help="Step that asks (default: the only one whose question is open)",
        )
        answer = parser.add_mutually_exclusive_group(required=True)
        answer.add_argument("--yes", action="store_true", help="Answer yes")
        answer.add_argument("--no", action="store_true", help="Answer no")
        answer.add_argument("--text", metavar="<text>", help="Answer with words")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Give the answer."""
        client, run = client_of(self), parsed_args.run
        step = parsed_args.step or _open_question(client, run)
        value = parsed_args.text if parsed_args.text is not None else parsed_args.yes
        body = {"answer": {"step": step, "value": value}}
        return details(client.post("runs", run, "answers", body=body)["question"])


class Approve(_OfRun, command.ShowOne):
    """Approve a run of somebody else, as its plan is shown"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the plan that is approved."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--plan",
            metavar="<digest>",
            help="The plan that is approved, by its digest in: openstack dr run approval show",
            required=True,
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Approve it."""
        body = {"approval": {"plan": parsed_args.plan}}
        found = client_of(self).post("runs", parsed_args.run, "approvals", body=body)
        return details(found["approvals"])


class ApprovalShow(_OfRun, command.ShowOne):
    """Show what a run that awaits approval would do, and its approvals"""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        return details(client_of(self).get("runs", parsed_args.run, "approvals")["approvals"])


class Reject(_OfRun, command.ShowOne):
    """End a run that awaits approval. It has changed nothing"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the reason."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--reason", metavar="<reason>", help="Shown with the run")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Reject it."""
        given = {} if parsed_args.reason is None else {"reason": parsed_args.reason}
        found = client_of(self).post(
            "runs", parsed_args.run, "rejections", body={"rejection": given}
        )
        return details(brief(found["run"]))


class Abort(_OfRun, command.ShowOne):
    """Stop a run at its next safe point, and roll it back"""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        found = client_of(self).post("runs", parsed_args.run, "abort", body={})
        return details(brief(found["run"]))


class Resume(_OfRun, command.ShowOne):
    """Resume a run that failed, or whose process died"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the confirmation."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--confirm",
            metavar="<name>",
            help="Name of the VNF or plan, where the run was confirmed long ago",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        given = {} if parsed_args.confirm is None else {"confirm": parsed_args.confirm}
        found = client_of(self).post("runs", parsed_args.run, "resume", body={"resume": given})
        return details(brief(found["run"]))


class ReportSave(_OfRun, command.Command):
    """Save the report of a run that has ended, as HTML or JSON by the name of the file"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the file."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--file", metavar="<file>", type=Path, required=True, help="A new .html or .json file"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Fetch it."""
        path: Path = parsed_args.file
        form = path.suffix.lstrip(".")
        if form not in ("html", "json"):
            raise exceptions.CommandError(f"{path} ends in neither .html nor .json")
        text = client_of(self).text("runs", parsed_args.run, "report", form=form)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise exceptions.CommandError(f"{path} cannot be written: {error}") from error


def _open_question(client: Client, run: str) -> str:
    asked = client.get("runs", run, "questions")["questions"]
    found = [question["step"] for question in asked if question["answered_at"] is None]
    if len(found) != 1:
        said = f"{len(found)} questions of run {run} are open: {', '.join(found)}"
        raise exceptions.CommandError(
            f"{said}; give --step" if found else f"run {run} asks nothing"
        )
    step: str = found[0]
    return step

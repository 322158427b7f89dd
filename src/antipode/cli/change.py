# SPDX-License-Identifier: Apache-2.0
"""How a command begins a run that an operator confirms: its plan is shown, a name is typed, and the
run is executed here, or queued for a service.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from antipode.cli import approval, arguments, progress
from antipode.cli.command import ShowCommand, columns, confirm
from antipode.screen import visible

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment
    from antipode.engine.timeline import Observer
    from antipode.store.tables import RunRow

Record = dict[str, Any]
PLAN_HELP = "show what would be done, or what stands in the way; change nothing"


@dataclass(frozen=True)
class Change:
    """A run that may begin once the operator has confirmed it."""

    deployment: Deployment
    planned: Callable[[], Mapping[str, Any]]
    """its plan as a record, for `--plan`"""
    lines: Iterable[str]
    """its plan for people"""
    questions: Iterable[tuple[str, str]]
    """what the operator is asked, and the word that has to be typed"""
    request: Callable[[], RunRow]
    """the run, neither kept nor begun; called when it is confirmed"""
    execute: Callable[[RunRow, Observer], Record]
    """carries it out in this process; a record of it"""


def add_arguments(
    parser: argparse.ArgumentParser, plan_help: str = PLAN_HELP, *, yes_means: str = ""
) -> None:
    """The options that all such commands have.

    Args:
        yes_means: what the operator states with `--yes`.
    """
    parser.add_argument("--plan", action="store_true", help=plan_help)
    arguments.add_detach(parser)
    arguments.add_yes(parser, yes_means)


def begun(command: ShowCommand, parsed_args: argparse.Namespace, change: Change) -> Any:
    """Show the plan, or begin the run as the arguments say; the columns of its record.

    Raises:
        NotConfirmed: the operator has typed something else; nothing was changed.
        AntipodeError: as the operation.
    """
    from antipode.operations import approvals

    app, planned = command.app, change.request()
    needed = approvals.needed(change.deployment, planned)
    if parsed_args.plan:
        also = {"approvals_needed": needed} if approvals.is_deliberate(planned) else {}
        return columns({**change.planned(), **also})
    shown = [visible(line) for line in change.lines]
    for line in (*shown, *approval.lines(needed)):
        print(line, file=app.stderr, flush=True)
    if not parsed_args.yes:
        for question, expected in change.questions:
            confirm(app, question, expected)
    row = change.request()
    row.shown = shown
    if parsed_args.detach:
        from antipode.operations.submit import submit

        return columns(submit(change.deployment, row))
    with progress.shown(app.stderr) as observer:
        return columns(change.execute(row, observer))

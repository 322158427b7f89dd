# SPDX-License-Identifier: Apache-2.0
"""`antipode migrate`: move a VNF to another site while both answer, without loss."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments, change
from antipode.cli.command import ShowCommand

if TYPE_CHECKING:
    from antipode.operations.migrate import Prepared


class Migrate(ShowCommand):
    """Move a VNF to another site while both sites answer, without loss: it is protected, switched
    off, protected once more, recovered at the other site, and its old copy is fenced.

    The plan is shown first, and begins when you type the name of the VNF. If anything fails before
    the VNF is active at the other site, what was made there is removed, and its members are
    switched on again.
    """

    changes = True
    examples = (
        "antipode migrate hlr --to site-b",
        "antipode migrate hlr --to site-b --plan -f json",
        "antipode migrate hlr --yes --detach",
    )

    back = False
    """whether it goes back to where it came from, and the old copy there is removed first"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "--to",
            metavar="SITE",
            help="where (default: the site that it came from)"
            if self.back
            else "where (default: the first site of the VNF at which it is not active)",
        )
        parser.add_argument(
            "--option",
            metavar="OPTION",
            help="which of its protections makes the recovery points (default: the first)",
        )
        change.add_arguments(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.migrate import migrate, prepare, request

        prepared = prepare(
            deployment, parsed_args.vnf, parsed_args.to, parsed_args.option, back=self.back
        )
        question = f"Type the name of the VNF to move it to {prepared.to} ({parsed_args.vnf}):"
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: _planned(prepared),
                lines=_plan(prepared),
                questions=[(question, parsed_args.vnf)],
                request=lambda: request(prepared),
                execute=partial(migrate, deployment),
            ),
        )


class Failback(Migrate):
    """Move a VNF back to the site that it came from, as `antipode migrate` does. Its old copy there
    is removed first, once a new recovery point is made: its servers, their ports and volumes.

    The plan names all that is going to be removed, and begins when you type the name of the VNF.
    """

    back = True
    examples = (
        "antipode failback hlr",
        "antipode failback hlr --plan -f json",
        "antipode failback hlr --to site-a --yes --detach",
    )


def _planned(prepared: Prepared) -> dict[str, Any]:
    """The plan as a record."""
    state, plan = prepared.state, prepared.plan
    return {
        "vnf": state.vnf,
        "from": state.active_site,
        "to": prepared.to,
        "generation": state.generation + 1,
        "planned_from": None if plan is None else plan.recovery_point,
        "servers": [] if plan is None else [s.name for s in plan.servers],
        "steps": [str(step) for step in prepared.steps],
        "removes": None if prepared.removes is None else prepared.removes.record(),
        "quotas": [] if plan is None else [q.model_dump() for q in plan.quotas],
        "warnings": list(prepared.warnings),
    }


def _plan(prepared: Prepared) -> Iterator[str]:
    """The plan for the operator, a line each."""
    state, plan = prepared.state, prepared.plan
    yield f"VNF {state.vnf} moves from {state.active_site} to {prepared.to}"
    yield "  1. a recovery point is made while it runs"
    if (removes := prepared.removes) is not None:
        yield f"     then its old copy at {prepared.to} is removed, for good:"
        for kind, what in (("server", removes.servers), ("volume", removes.volumes)):
            for id_, name in what.items():
                yield f"       {kind} {name or 'without a name'} ({id_})"
        yield f"       {len(removes.ports)} ports"
    yield "  2. its members are switched off, against their boot order; it does not serve from here"
    yield "  3. a last recovery point is made, with all members off"
    yield f"  4. it is recovered at {prepared.to} from that point"
    yield f"  5. its old copy at {state.active_site} is locked, and its ports are put down"
    if plan is None:
        yield f"  what {prepared.to} lacks is known after step 1, when no member is off yet"
    for server in plan.servers if plan else ():
        addresses = ", ".join(a for p in server.ports for a in p.fixed) or "no address"
        yield f"  server {server.name}, {len(server.volumes)} volumes, {addresses}"
    for step in prepared.steps:
        yield f"  runbook step {step}"
    for warning in prepared.warnings:
        yield f"  WARNING: {warning}"

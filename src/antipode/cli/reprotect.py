# SPDX-License-Identifier: Apache-2.0
"""`antipode reprotect`: protect a VNF the other way round after it has moved."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments, change
from antipode.cli.command import ShowCommand

if TYPE_CHECKING:
    from antipode.operations.reprotect import Prepared


class Reprotect(ShowCommand):
    """Protect a VNF the other way round after a failover or a migration: its old copy is fenced,
    and a first recovery point is made where it is active now, for a recovery at its former site.

    The old copy is kept, off and locked, unless --old-copy remove says otherwise; the plan then
    names each server, port and volume that is removed. It begins when you type the name of the VNF.
    """

    changes = True
    examples = (
        "antipode reprotect hlr",
        "antipode reprotect hlr --plan -f json",
        "antipode reprotect hlr --old-copy remove",
        "antipode reprotect hlr --yes --detach",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "--old-copy",
            choices=["keep", "remove"],
            default="keep",
            help="what becomes of the old copy, once the active one has a recovery point of its "
            "own (default: keep, off and locked)",
        )
        change.add_arguments(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.reprotect import prepare, reprotect, request

        prepared = prepare(deployment, parsed_args.vnf, parsed_args.old_copy)
        question = f"Type the name of the VNF to reprotect it ({parsed_args.vnf}):"
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: _planned(prepared),
                lines=_plan(prepared),
                questions=[(question, parsed_args.vnf)],
                request=lambda: request(prepared),
                execute=partial(reprotect, deployment),
            ),
        )


def _planned(prepared: Prepared) -> dict[str, Any]:
    """The plan as a record."""
    from antipode.runs.runbook import in_words

    state = prepared.state
    return {
        "vnf": state.vnf,
        "active_site": state.active_site,
        "backup_site": prepared.site,
        "generation": state.generation,
        "recovery_point": prepared.newest.id if prepared.newest else None,
        "fences": {
            k: v for k, v in prepared.fencing.record().items() if k in ("servers", "ports", "gone")
        },
        "removes": None if prepared.removes is None else prepared.removes.record(),
        "steps": in_words(prepared.steps),
        "warnings": list(prepared.warnings),
    }


def _plan(prepared: Prepared) -> Iterator[str]:
    """The plan for the operator, a line each."""
    state, fences = prepared.state, prepared.fencing
    yield (
        f"VNF {state.vnf}, active at {state.active_site} since {state.since}, is going to be"
        f" protected for a recovery at {prepared.site}"
    )
    yield f"  1. its old copy at {prepared.site} is fenced"
    for server in fences.servers:
        does = " and ".join(server["does"]) or "off and locked already"
        yield f"       server {server['server']} ({server['id']}): {does}"
    for port in fences.ports:
        yield f"       port {port['id']} of {port['server']}: put down"
    if prepared.newest is not None:
        yield f"  2. it has recovery point {prepared.newest.id} of {state.active_site} already"
    else:
        yield f"  2. a first recovery point is made at {state.active_site}; until then it has none"
    if (removes := prepared.removes) is not None:
        yield f"  3. its old copy at {prepared.site} is removed, for good:"
        for kind in ("servers", "volumes", "ports"):
            for id_, name in getattr(removes, kind).items():
                yield f"       {kind[:-1]} {name or 'without a name'} ({id_})"
    else:
        yield f"  3. its old copy at {prepared.site} stays, off and locked"
    from antipode.runs.runbook import in_words

    yield from (f"  {line}" for line in in_words(prepared.steps))
    for warning in prepared.warnings:
        yield f"  WARNING: {warning}"

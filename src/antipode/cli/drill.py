# SPDX-License-Identifier: Apache-2.0
"""`antipode drill`: rehearse a failover on isolated networks, and remove all of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments, change
from antipode.cli.command import ShowCommand, moment, span
from antipode.errors import InvalidInput
from antipode.model import marks

if TYPE_CHECKING:
    from antipode.model.plan import ServerPlan
    from antipode.runs.drill_preparation import PreparedDrill


class Drill(ShowCommand):
    """Rehearse a failover: recover a VNF on networks that are created for it and lead nowhere,
    probe its members by their console logs, compare content, and remove all of it.

    The VNF runs on, and is protected meanwhile. The plan is shown first, and begins when you type
    the name of the VNF. Ends with exit code 1 when the drill is not passed.
    """

    changes = True
    examples = (
        "antipode drill hlr",
        "antipode drill hlr --recovery-point 20261122T160501Z-1a2b3c --yes",
        "antipode drill hlr --keep 2h",
        "antipode drill hlr --plan -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "--to",
            metavar="SITE",
            help="where (default: the first site of the VNF at which it is not active)",
        )
        parser.add_argument(
            "--recovery-point",
            metavar="ID",
            type=arguments.name,
            help="the recovery point to drill with (default: the newest)",
        )
        parser.add_argument(
            "--keep",
            metavar="TIME",
            type=arguments.duration,
            help="leave all of it for so long after the end (30m, 2h, 7d at most), to look around; "
            "then the service removes it, or: antipode drill cleanup",
        )
        change.add_arguments(
            parser, "show what would be created, or what stands in the way; change nothing"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.drill import drill, prepare, request

        prepared = prepare(deployment, parsed_args.vnf, parsed_args.to, parsed_args.recovery_point)
        question = f"Type the name of the VNF to begin the drill ({parsed_args.vnf}):"
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: _planned(prepared),
                lines=_plan(prepared, parsed_args.keep),
                questions=[(question, parsed_args.vnf)],
                request=lambda: request(prepared, parsed_args.keep),
                execute=partial(drill, deployment),
            ),
        )


class DrillCleanup(ShowCommand):
    """Remove all that drills of a VNF have left at a site: those that were kept, and those whose
    own clean-up was not complete. Nothing else is touched.

    A drill of another host, whose database is lost, is named by --drill and --at.
    """

    changes = True
    examples = (
        "antipode drill cleanup hlr",
        "antipode drill cleanup hlr --plan -f json",
        "antipode drill cleanup hlr --at site-b --drill drill-20261122T160501Z-1a2b3c",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "--at", metavar="SITE", help="where (default: the site of the newest such drill)"
        )
        parser.add_argument(
            "--drill",
            metavar="RUN",
            help="a drill that this database does not know, with --at: the id that its servers have"
            f" in their metadata as {marks.RUN}. No host may be executing it",
        )
        change.add_arguments(parser, "show what would be removed; change nothing")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations import drill as operation

        vnf, lost = parsed_args.vnf, parsed_args.drill
        if lost is not None:
            if parsed_args.at is None:
                raise InvalidInput("--drill needs --at SITE")
            site = operation.of_another_host(deployment, vnf, parsed_args.at, lost)
            drills = [{"run": lost}]
        else:
            site, rows = operation.uncleaned(deployment, vnf, parsed_args.at)
            drills = [
                {"run": r.id, "state": r.state, "kept_until": moment(r.result.get("kept_until"))}
                for r in rows
            ]
        ids = [str(d["run"]) for d in drills]
        found = operation.left_by(deployment, site, ids)
        return change.begun(
            self,
            parsed_args,
            change.Change(
                deployment,
                planned=lambda: {"vnf": vnf, "site": site, "drills": drills, "removed": found},
                lines=(f"  {what}" for what in found),
                questions=[(f"Type the name of the VNF to remove this ({vnf}):", vnf)],
                request=lambda: operation.cleanup_request(vnf, site, ids),
                execute=partial(operation.cleanup, deployment),
            ),
        )


def _planned(prepared: PreparedDrill) -> dict[str, Any]:
    """The plan as a record."""
    plan, point = prepared.plan, prepared.point
    return {
        "vnf": plan.vnf,
        "site": plan.site,
        "recovery_point": plan.recovery_point,
        "consistent_at": point.consistent_at,
        "rpo_s": round(point.age_s),
        "restored_gib": sum(v.size_gib for v in plan.volumes),
        "networks": [
            {"name": n.name, "subnets": [s.attributes["cidr"] for s in n.subnets]}
            for n in plan.networks
        ],
        "servers": [
            {
                "name": s.name,
                "called": s.called,
                "addresses": [a for p in s.ports for a in p.fixed],
                "mac_addresses": [p.mac_address for p in s.ports],
                "answers": _probe(s),
            }
            for s in plan.servers
        ],
        "steps": [str(step) for step in plan.steps],
        "quotas": [q.model_dump() for q in plan.quotas],
        "warnings": list(prepared.warnings),
    }


def _probe(server: ServerPlan) -> str:
    if server.is_off:
        return "is not probed: it was off, and is switched off again"
    if server.answers is None:
        return "is not probed: the VNF file has no `console` text for it"
    return f"answers when its console log has {server.answers.console!r}"


def _plan(prepared: PreparedDrill, keep_s: float | None) -> Iterator[str]:
    """The plan for the operator, a line each."""
    plan, point = prepared.plan, prepared.point
    yield f"Drill of VNF {plan.vnf} at {plan.site}; it stays active at {prepared.state.active_site}"
    yield f"  from recovery point {plan.recovery_point}, as of {point.consistent_at}"
    for network in plan.networks:
        ranges = ", ".join(s.attributes["cidr"] for s in network.subnets) or "no subnet"
        yield f"  network {network.name} ({ranges}): no router, not shared"
    for server in plan.servers:
        addresses = ", ".join(a for p in server.ports for a in p.fixed) or "no address"
        yield f"  server {server.called}, {len(server.volumes)} volumes, {addresses}"
        if disk := server.root_disk:
            yield f"    root disk on the hypervisor, from image {disk.source_reference}"
        yield f"    {_probe(server)}"
    for step in plan.steps:
        yield f"  runbook step {step}"
    if keep_s is None:
        yield "  all of it is removed at the end"
    else:
        yield f"  all of it stays for {span(keep_s)} after the end of the drill"
        yield f"  remove it earlier: antipode drill cleanup {plan.vnf}"
    for warning in prepared.warnings:
        yield f"  WARNING: {warning}"

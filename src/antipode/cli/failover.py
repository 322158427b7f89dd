"""`antipode failover`: bring a VNF back at its backup site, once the operator has said so."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from antipode.cli import progress
from antipode.cli.command import ShowCommand, columns, span
from antipode.errors import NotConfirmed

if TYPE_CHECKING:
    from antipode.model.vnf import Answers
    from antipode.operations.failover import Prepared


class Failover(ShowCommand):
    """Recover a VNF at its backup site from a recovery point, without asking anything of its
    primary.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("vnf", metavar="VNF")
        parser.add_argument("--to", metavar="SITE", required=True, help="the VNF's backup site")
        parser.add_argument(
            "--recovery-point",
            metavar="ID",
            help="the recovery point to go back to (default: the newest)",
        )
        parser.add_argument(
            "--detach",
            action="store_true",
            help="have the service do it: queue the run and print its id",
        )
        parser.add_argument(
            "--yes",
            action="store_true",
            help="do not ask; the VNF is known to be dead or fenced at its primary",
        )
        return parser  # type: ignore[no-any-return]

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.failover import failover, prepare, request

        prepared = prepare(deployment, parsed_args.vnf, parsed_args.to, parsed_args.recovery_point)
        print(*_what_will_happen(prepared), sep="\n", file=self.app.stderr, flush=True)
        if not parsed_args.yes:
            self._confirm(parsed_args.vnf)
        if parsed_args.detach:
            from antipode.operations.submit import submit

            return columns(submit(deployment, request(prepared)))
        with progress.shown(self.app.stderr) as observer:
            return columns(failover(deployment, prepared, observer))

    def _confirm(self, vnf: str) -> None:
        """Have the operator type the VNF's name.

        Raises:
            NotConfirmed: something else was typed, or nothing.
        """
        print(
            f"\nType the name of the VNF to recover it now ({vnf}): ",
            end="",
            file=self.app.stderr,
            flush=True,
        )
        typed = self.app.stdin.readline().strip()
        if typed != vnf:
            raise NotConfirmed(
                f"{typed or 'nothing'!r} was typed and not {vnf!r}; nothing was changed"
            )


def _what_will_happen(prepared: Prepared) -> Iterator[str]:
    plan, point = prepared.plan, prepared.point
    yield f"VNF {plan.vnf} is going to be recovered at {plan.site}"
    yield (
        f"  from recovery point {plan.recovery_point} ({point.consistency} consistency, "
        f"taken at {point.site})"
    )
    yield (f"  as of {point.consistent_at}: data newer than {span(point.age_s)} is lost (RPO)")
    for server in plan.servers:
        there = " (there already, from an earlier try)" if server.name in plan.already_there else ""
        after = f", after {', '.join(server.after)}" if server.after else ""
        yield f"\n  server {server.name}, flavor {server.flavor}{after}{there}"
        for volume in server.volumes:
            boot = ", boot" if volume.is_root else ""
            yield (
                f"    volume {volume.name or volume.source_id}, {volume.size_gib} GiB, type "
                f"{volume.volume_type}{boot}"
            )
        for port in server.ports:
            yield (
                f"    port on {port.network}: {', '.join(port.fixed) or 'no address'}, "
                f"{port.mac_address}"
            )
        if server.answers is not None:
            yield f"    probe: {_probe(server.answers)}"
    for keypair in plan.keypairs_to_import:
        yield f"\n  keypair {keypair.name} is imported"
    for warning in prepared.warnings:
        yield f"\n  WARNING: {warning}"


def _probe(answers: Answers) -> str:
    if answers.command is not None:
        return f"this host executes: {shlex.join(answers.command)}"
    return f"TCP port {answers.tcp} of its first address"

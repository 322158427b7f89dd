# SPDX-License-Identifier: Apache-2.0
"""`antipode recovery-point …`: the states from which a VNF can be recovered."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments, progress
from antipode.cli.command import ListCommand, ShowCommand, columns, confirm
from antipode.errors import InvalidInput, RecoveryPointInvalid
from antipode.screen import span

if TYPE_CHECKING:
    from antipode.model.point import RecoveryPoint
    from antipode.model.topology import Volume
    from antipode.operations.expiry import Deletion


SHOWN = 100
"""Recovery points that are listed unless more are asked for."""


class RecoveryPointList(ListCommand):
    """List the newest recovery points of a VNF, the newest last.

    They are read from the vault, one document for each that is shown; the protected site is not
    asked.
    """

    spared = ("incremental", "volumes", "stored_bytes", "age", "generation")
    examples = (
        "antipode recovery-point list hlr",
        "antipode recovery-point list hlr --all -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        many = parser.add_mutually_exclusive_group()
        many.add_argument(
            "--last",
            metavar="N",
            type=arguments.count,
            default=SHOWN,
            help=f"show the last N recovery points (default: {SHOWN})",
        )
        many.add_argument("--all", action="store_true", help="show all of them")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.recovery_points import recovery_points
        from antipode.vault.sealing import Summary

        rows: list[tuple[Any, ...]] = []
        last = None if parsed_args.all else parsed_args.last
        for point, found in recovery_points(deployment, parsed_args.vnf, last):
            if isinstance(found, Summary):
                rows.append(
                    (
                        point,
                        found.generation,
                        found.consistent_at,
                        span(found.age_s),
                        found.consistency,
                        found.incremental,
                        found.volumes,
                        found.stored_bytes,
                        "signed" if found.signed_by else "not signed (format 1)",
                    )
                )
            else:
                rows.append((point, *[None] * 7, f"refused ({found.code}): {found}"))
        if len(rows) == last:
            print(f"The last {last} are shown; --all shows all.", file=self.app.stderr)
        return (
            "id",
            "generation",
            "consistent_at",
            "age",
            "consistency",
            "incremental",
            "volumes",
            "stored_bytes",
            "state",
        ), rows


class _OnePoint:
    """A command about one recovery point."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)  # type: ignore[misc]
        arguments.add_vnf(parser)
        parser.add_argument(
            "point",
            metavar="ID",
            type=arguments.name,
            nargs="?",
            help="id of the recovery point (default: the newest)",
        )
        return parser


class RecoveryPointShow(_OnePoint, ShowCommand):
    """Show a recovery point: its volumes and the backups that each is restored from."""

    examples = (
        "antipode recovery-point show hlr",
        "antipode recovery-point show hlr 20261122T160501Z-1a2b3c -f json",
    )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.model.vnf import recovery_words
        from antipode.operations.recovery_points import recovery_point, stored_bytes

        opened = recovery_point(deployment, parsed_args.vnf, parsed_args.point)
        point = opened.point
        window = point.quiesce_window
        return columns(
            {
                "id": point.id,
                "vnf": point.vnf.vnf,
                "generation": point.generation,
                "option": point.option,
                "run": point.run,
                "taken_at": point.site,
                "consistent_at": point.consistent_at,
                "created_at": point.created_at,
                "age_s": round(point.age_s, 1),
                "consistency": point.consistency,
                "moments": dict(point.moments),
                "moments_apart_s": round(point.moments_apart_s, 3),
                "incremental": point.incremental,
                "quiesce_window_s": window and round(window.total_s, 3),
                "quiesce_window_per_member_s": {
                    m: round(s, 3) for m, s in window.per_member_s.items()
                }
                if window
                else {},
                "stored_bytes": stored_bytes(point),
                "not_captured": {s: recovery_words(how) for s, how in point.not_captured.items()},
                "volumes": [
                    _volume(point, s.name, v) for s in point.topology.servers for v in s.disks
                ],
                "datastores": [
                    {"datastore": name, **kept.model_dump(mode="json")}
                    for name, kept in point.datastores.items()
                ],
                "made_by": point.made_by,
                "signed_by": opened.signed_by,
                "locked": point.locked,
            }
        )


class RecoveryPointVerify(_OnePoint, ListCommand):
    """Verify a recovery point: its signature, its chains, and every object of its backups in the
    backup store.

    With --deep each volume is also restored into a throw-away volume at a backup site, compared
    block by block with what was captured, and removed. Ends with exit code 1 when something does
    not verify.
    """

    spared = ("objects", "bytes", "backup", "first_difference")
    examples = (
        "antipode recovery-point verify hlr",
        "antipode recovery-point verify hlr --deep",
        "antipode recovery-point verify hlr --deep --at site-b --detach -f value -c run",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--deep",
            action="store_true",
            help="restore every volume into a throw-away one and compare every block",
        )
        parser.add_argument(
            "--at",
            metavar="SITE",
            help="with --deep: where to restore (default: the first backup site)",
        )
        arguments.add_detach(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        if not parsed_args.deep and (parsed_args.at or parsed_args.detach):
            raise InvalidInput("--at and --detach need --deep")
        deployment = self.app.deployment()
        from antipode.operations.recovery_points import deep_request, verify, verify_deep

        vnf, point = parsed_args.vnf, parsed_args.point
        if parsed_args.detach:
            from antipode.operations.submit import submit

            record = submit(deployment, deep_request(deployment, vnf, point, parsed_args.at))
            return tuple(record), [tuple(record.values())]
        findings = verify(deployment, vnf, point)
        if parsed_args.deep and all(f.ok for f in findings):
            row = deep_request(deployment, vnf, findings[0].volume, parsed_args.at)
            with progress.shown(self.app.stderr) as observer:
                findings += verify_deep(deployment, row, observer)
        if not all(f.ok for f in findings):
            self.exit_code = RecoveryPointInvalid.exit_code
        names = ("volume", "backup", "ok", "objects", "bytes", "first_difference", "detail")
        return names, [tuple(getattr(f, name) for name in names) for f in findings]


class RecoveryPointExpire(ShowCommand):
    """Remove the recovery points of a VNF that have expired by the retention of their protections,
    and the backups that only they need.

    It is done after each protection, and by the service. The newest recovery point never expires.
    """

    changes = True
    examples = (
        "antipode recovery-point expire hlr --dry-run",
        "antipode recovery-point expire hlr",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        arguments.add_dry_run(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.expiry import expire, look

        if not parsed_args.dry_run:
            with progress.shown(self.app.stderr) as observer:
                return columns(expire(deployment, parsed_args.vnf, observer))
        found = look(deployment, parsed_args.vnf)
        return columns(
            {
                "vnf": parsed_args.vnf,
                "expired": [*found.withdrawn, *found.expired],
                "kept": [{"id": i, "because": why} for i, why in sorted(found.kept.items())],
                **_backups(found.backups),
            }
        )


class RecoveryPointDelete(ShowCommand):
    """Delete recovery points of a VNF, and the backups that no other recovery point needs.

    It cannot be undone. A damaged recovery point, which keeps others from expiring, can be deleted
    too.
    """

    changes = True
    examples = (
        "antipode recovery-point delete hlr 20261122T160501Z-1a2b3c --dry-run",
        "antipode recovery-point delete hlr 20261122T160501Z-1a2b3c",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "points",
            metavar="ID",
            type=arguments.name,
            nargs="+",
            help="id of a recovery point; see: antipode recovery-point list",
        )
        arguments.add_dry_run(parser)
        arguments.add_yes(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.expiry import delete, plan_deletion

        plan = plan_deletion(deployment, parsed_args.vnf, parsed_args.points)
        removed = _backups(plan.backups)
        if parsed_args.dry_run:
            return columns({"vnf": plan.vnf, "deleted": plan.points, "left": plan.left, **removed})
        if not parsed_args.yes:
            confirm(self.app, _question(plan, removed["backups"]), plan.vnf)
        with progress.shown(self.app.stderr) as observer:
            return columns(delete(deployment, plan, observer))


def _question(plan: Deletion, backups: int) -> str:
    if plan.left == 0:
        consequence = "No recovery point is left, and the VNF cannot be recovered. "
    else:
        consequence = "The newest one is among them. " if plan.with_newest else ""
    return (
        f"{len(plan.points)} recovery points of VNF {plan.vnf} and {backups} backups are deleted;"
        f" {plan.left} recovery points stay. {consequence}Type the name of the VNF to do so:"
    )


def _backups(sizes: Mapping[str, int]) -> dict[str, int]:
    """How many backups, and what they count of the quota."""
    return {"backups": len(sizes), "backup_gib": sum(sizes.values())}


def _volume(point: RecoveryPoint, server: str, volume: Volume) -> dict[str, Any]:
    return {
        "server": server,
        "volume": volume.name or volume.id,
        "size_gib": volume.size_gib,
        "real_reference": volume.backend_reference,
        "source": point.sources[volume.id].kind,
        "chain": [b.id for b in point.chain(volume.id)],
    }

"""`antipode recovery-point …`: the states that a VNF can be recovered from."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand, ShowCommand, columns, span
from antipode.errors import RecoveryPointInvalid

if TYPE_CHECKING:
    from antipode.model.point import Manifest


class RecoveryPointList(ListCommand):
    """List the recovery points of a VNF, the newest last.

    They are read from the vault; the protected site is not asked.
    """

    examples = (
        "antipode recovery-point list hlr",
        "antipode recovery-point list hlr -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.model.point import Manifest
        from antipode.vault import points

        rows: list[tuple[Any, ...]] = []
        for point, found in points.list_points(deployment.vault, parsed_args.vnf):
            if isinstance(found, Manifest):
                at, volumes = found.consistent_at, len(found.restore)
                rows.append(
                    (
                        point,
                        at,
                        span(_age_s(at)),
                        found.consistency,
                        found.incremental,
                        volumes,
                        _bytes(found),
                        "sealed",
                    )
                )
            else:
                rows.append((point, None, None, None, None, None, None, f"damaged: {found}"))
        return (
            "id",
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
        from antipode.vault import points

        manifest = points.read(deployment.vault, parsed_args.vnf, parsed_args.point)
        window = manifest.quiesce_window
        return columns(
            {
                "id": manifest.id,
                "vnf": manifest.vnf.vnf,
                "run": manifest.run,
                "taken_at": manifest.topology.site,
                "consistent_at": manifest.consistent_at,
                "created_at": manifest.created_at,
                "age_s": round(_age_s(manifest.consistent_at), 1),
                "consistency": manifest.consistency,
                "incremental": manifest.incremental,
                "quiesce_window_s": window and round(window.total_s, 3),
                "quiesce_window_per_member_s": {
                    m: round(s, 3) for m, s in window.per_member_s.items()
                }
                if window
                else {},
                "stored_bytes": _bytes(manifest),
                "volumes": [
                    _volume(manifest, s.name, v.id, v.name, v.size_gib)
                    for s in manifest.topology.servers
                    for v in s.volumes
                ],
                "made_by": manifest.made_by,
                "format": manifest.format,
            }
        )


class RecoveryPointVerify(_OnePoint, ListCommand):
    """Verify a recovery point: its checksum, its chains, and every object of its backups in the
    backup store.

    Ends with exit code 1 when something does not verify.
    """

    examples = ("antipode recovery-point verify hlr",)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.vault import points, verify

        manifest = points.read(deployment.vault, parsed_args.vnf, parsed_args.point)
        findings = verify.verify(manifest, deployment.backup_store)
        if not all(f.ok for f in findings):
            self.exit_code = RecoveryPointInvalid.exit_code
        names = ("volume", "backup", "ok", "objects", "bytes", "detail")
        rows = [(manifest.id, "", True, 0, 0, "manifest passes its checksum")]
        return names, rows + [
            (f.volume, f.backup, f.ok, f.objects, f.bytes, f.detail) for f in findings
        ]


def _age_s(consistent_at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(consistent_at)).total_seconds()


def _bytes(manifest: Manifest) -> int | None:
    """The bytes in the store of all backups that a recovery point rests on; None when they were not
    counted.
    """
    stored = [b.stored for b in manifest.backups.values()]
    return None if None in stored else sum(s.bytes for s in stored if s)


def _volume(
    manifest: Manifest, server: str, volume_id: str, name: str, size_gib: int
) -> dict[str, Any]:
    return {
        "server": server,
        "volume": name or volume_id,
        "size_gib": size_gib,
        "chain": [b.id for b in manifest.chain(volume_id)],
    }

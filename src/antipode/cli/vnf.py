"""`antipode vnf …`: which VNFs are protected, and what they look like."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antipode import config
from antipode.cli.command import ListCommand, ShowCommand, columns

if TYPE_CHECKING:
    from antipode.model.topology import Attachment, Server
    from antipode.model.vnf import Vnf


class VnfAdd(ShowCommand):
    """Read a VNF file and keep it, in place of an earlier one of the same VNF."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="FILE", type=Path, help="VNF file (YAML)")
        return parser  # type: ignore[no-any-return]

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from antipode.operations import vnfs

        vnf = vnfs.read_file(parsed_args.file, config.load(self.app.options.config))
        is_new = vnfs.add(self.app.deployment(), vnf)
        return columns({**_summary(vnf), "was": "added" if is_new else "replaced"})


class VnfList(ListCommand):
    """List the VNFs that are known here."""

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        rows = [_summary(v) for v in self.app.deployment().vnfs.all()]
        return ("vnf", "primary", "backup", "protections", "members"), [columns(r)[1] for r in rows]


class VnfShow(ShowCommand):
    """Show a VNF as it runs now, or as the newest recovery point has it when its primary does not
    answer.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("vnf", metavar="VNF")
        return parser  # type: ignore[no-any-return]

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.inspect import look

        seen = look(deployment, parsed_args.vnf)
        return columns(
            {
                **_summary(seen.vnf),
                "seen": seen.source,
                "discovered_at": seen.topology.discovered_at,
                "servers": [_server(s) for s in seen.topology.servers],
                "boot_order": seen.vnf.boot_waves(),
                "protections": [p.model_dump(mode="json") for p in seen.vnf.protections],
                "map": {k: v for k, v in seen.vnf.map.model_dump().items() if v},
            }
        )


def _summary(vnf: Vnf) -> dict[str, Any]:
    members = [m.server for m in vnf.members]
    return {
        "vnf": vnf.vnf,
        "primary": vnf.primary,
        "backup": vnf.backup,
        "protections": [p.option for p in vnf.protections],
        "members": members,
    }


def _server(server: Server) -> dict[str, Any]:
    return {
        "server": server.name,
        "id": server.id,
        "flavor": server.flavor.name,
        "addresses": [f.address for p in server.ports for f in p.fixed],
        "volumes": [_volume(a) for a in server.attachments],
    }


def _volume(attachment: Attachment) -> str:
    volume = attachment.volume
    return (
        f"{attachment.device} {volume.name or volume.id} {volume.size_gib} GiB {volume.volume_type}"
    )

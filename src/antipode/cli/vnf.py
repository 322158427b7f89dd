"""`antipode vnf …`: the VNFs that are protected, and how they look."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antipode import config
from antipode.cli import arguments
from antipode.cli.command import ListCommand, ShowCommand, columns, confirm
from antipode.cli.layout import Short
from antipode.errors import InvalidInput

if TYPE_CHECKING:
    from antipode.model.topology import Attachment, Server
    from antipode.model.vnf import Vnf


class VnfAdd(ShowCommand):
    """Read a VNF file and store it; it replaces an earlier one of the same VNF."""

    changes = True
    examples = ("antipode vnf add hlr.yaml",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="FILE", type=Path, help="VNF file (YAML)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from antipode.operations import vnfs

        vnf = vnfs.read_file(parsed_args.file, config.load(self.app.options.config))
        is_new = vnfs.add(self.app.deployment(), vnf)
        return columns({**_summary(vnf), "was": "added" if is_new else "replaced"})


class VnfList(ListCommand):
    """List the VNFs that were added here."""

    examples = ("antipode vnf list", "antipode vnf list -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        rows = []
        for name, stored in self.app.deployment().vnfs.stored().items():
            if isinstance(stored, InvalidInput):
                rows.append((name, None, None, None, None, Short(str(stored))))
            else:
                rows.append((*columns(_summary(stored))[1], None))
        return ("vnf", "primary", "backup", "protections", "members", "damaged"), rows


class VnfShow(ShowCommand):
    """Show a VNF as it runs now, or as its newest recovery point has it when its primary does not
    answer.
    """

    examples = ("antipode vnf show hlr", "antipode vnf show hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        return parser

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


class VnfRemove(ShowCommand):
    """Forget the VNF file that was added here. Recovery points, backups and servers stay; the
    result says where.

    A VNF with a run under way is not removed.
    """

    changes = True
    examples = ("antipode vnf remove hlr", "antipode vnf remove hlr --yes")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        arguments.add_yes(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.remove_vnf import check, remove

        check(deployment, parsed_args.vnf)
        if not parsed_args.yes:
            question = (
                f"The definition of VNF {parsed_args.vnf} is removed here, and it is not protected "
                "from then on. Type the name of the VNF to do so:"
            )
            confirm(self.app, question, parsed_args.vnf)
        removed = remove(deployment, parsed_args.vnf)
        return columns({"vnf": removed.vnf, "removed": True, "stays": list(removed.stays)})


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

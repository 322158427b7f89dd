"""`antipode vnf …`: which VNFs are protected, and what they look like."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antipode import config, yamlfile
from antipode.cli.command import ListCommand, ShowCommand, columns

if TYPE_CHECKING:
    from antipode.config import Config
    from antipode.model.topology import Attachment, Server
    from antipode.model.vnf import Vnf


class VnfAdd(ShowCommand):
    """Read a VNF file and keep it, in place of an earlier one of the same VNF."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="FILE", type=Path, help="VNF file (YAML)")
        return parser  # type: ignore[no-any-return]

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from antipode.model.vnf import Vnf

        settings = config.load(self.app.options.config)
        vnf = yamlfile.read(parsed_args.file, Vnf, lambda vnf: _at_odds(vnf, settings))
        is_new = self.app.deployment().vnfs.put(vnf)
        return columns({**_summary(vnf), "was": "added" if is_new else "replaced"})


class VnfList(ListCommand):
    """List the VNFs that are known here."""

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        rows = [_summary(v) for v in self.app.deployment().vnfs.all()]
        return ("vnf", "primary", "backup", "option", "members"), [columns(r)[1] for r in rows]


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
                "quiesce_timeout_s": seen.vnf.quiesce.timeout,
                "map": {k: v for k, v in seen.vnf.map.model_dump().items() if v},
            }
        )


def _at_odds(vnf: Vnf, settings: Config) -> Iterator[yamlfile.Problem]:
    """What in a VNF file does not go with the configuration."""
    for field in ("primary", "backup"):
        if (site := getattr(vnf, field)) not in settings.sites:
            yield (
                (field,),
                f"site {site} is not in the configuration; sites there: "
                f"{', '.join(settings.sites)}",
            )
    if settings.vault.swift is not None and settings.vault.swift.site == vnf.primary:
        yield (
            ("primary",),
            f"the vault is at {vnf.primary} and would be lost with it; put the vault at "
            f"{vnf.backup} or a third place",
        )


def _summary(vnf: Vnf) -> dict[str, Any]:
    members = [m.server for m in vnf.members]
    return {
        "vnf": vnf.vnf,
        "primary": vnf.primary,
        "backup": vnf.backup,
        "option": vnf.option,
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

# SPDX-License-Identifier: Apache-2.0
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
from antipode.model.state import VnfState
from antipode.screen import moment

if TYPE_CHECKING:
    from antipode.model.topology import Attachment, Port, Server, Volume
    from antipode.model.vnf import Vnf
    from antipode.operations.inspect import Status


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
    """List the VNFs that were added here or have a recovery point, and where each is active."""

    spared = ("damaged", "rpo_target_s", "backup", "generation")
    examples = ("antipode vnf list", "antipode vnf list -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.inspect import statuses

        names = (
            "vnf",
            "active_site",
            "state",
            "generation",
            "newest_point_age_s",
            "rpo_target_s",
            "rpo",
            "two_active_copies",
            "backup",
        )
        rows = []
        for name, found in statuses(deployment).items():
            if isinstance(found, InvalidInput):
                rows.append((name, *[None] * (len(names) - 1), Short(str(found))))
            else:
                row = {"vnf": name, **_state(found), "backup": found.vnf.backup}
                rows.append((*columns({n: row[n] for n in names})[1], None))
        return (*names, "damaged"), rows


class VnfShow(ShowCommand):
    """Show where a VNF is active, and the VNF as it runs there now, or as the newest recovery point
    has it when that site does not answer.
    """

    examples = ("antipode vnf show hlr", "antipode vnf show hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.model.vnf import recovery_words
        from antipode.operations.inspect import look, standing_summary

        seen = look(deployment, parsed_args.vnf)
        return columns(
            {
                **_summary(seen.status.vnf),
                **_state(seen.status),
                "seen": seen.source,
                "discovered_at": seen.topology.discovered_at,
                "servers": [_server(s) for s in seen.topology.servers],
                "real_references": {v.id: v.backend_reference for v in seen.topology.volumes},
                "vip_ports": [_port(p) for p in seen.topology.vip_ports],
                "unattached_volumes": [v.name for v in seen.topology.unattached],
                "floating_ips": {f.address: f.fixed_address for f in seen.topology.floating_ips},
                "warnings": seen.warnings,
                "boot_order": seen.status.vnf.boot_waves(),
                "roles": {m.server: m.role for m in seen.status.vnf.members if m.role},
                "capture": seen.status.vnf.capture,
                "not_captured": {m: recovery_words(w) for m, w in seen.untouched.items()},
                "protections": [p.model_dump(mode="json") for p in seen.status.vnf.protections],
                "standing": standing_summary(deployment, seen.status.vnf),
                "map": {k: v for k, v in seen.status.vnf.map.model_dump().items() if v},
            }
        )


class VnfPrepare(ShowCommand):
    """Put all volumes of a VNF that are captured into one volume group at its active site, which
    the storage snapshots at one moment.

    The group, and the type that promises this, are made where they are missing, which takes the
    role admin. Nothing is made where the storage does not report that it can do it.
    """

    changes = True
    examples = ("antipode vnf prepare hlr", "antipode vnf prepare hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.volume_groups import prepare

        done = prepare(deployment, parsed_args.vnf)
        return columns(
            {
                "vnf": parsed_args.vnf,
                "site": done.site,
                "volume_group": done.prepared.group,
                "group_type": done.prepared.group_type,
                "volumes_added": done.prepared.added,
            }
        )


def _state(found: Status) -> dict[str, Any]:
    state, newest = found.state, found.newest
    return {
        "active_site": state.active_site,
        "state": found.name if found.trouble is None else f"{found.name}?",
        "run": found.transition.run if found.transition else None,
        "next": list(found.transition.next) if found.transition else [],
        "since": state.since,
        "generation": state.generation,
        "undo_until": moment(found.undo_until),
        "failing_over_to": state.claim.site
        if state.claim and state.state is VnfState.FAILING_OVER
        else None,
        "newest_point": newest.id if newest else None,
        "newest_point_age_s": round(newest.age_s) if newest else None,
        "newest_point_consistency": newest.consistency if newest else None,
        "newest_point_moments_apart_s": round(newest.moments_apart_s, 1) if newest else None,
        "rpo_target_s": found.rpo.target_s,
        "rpo_s": None if found.rpo.age_s is None else round(found.rpo.age_s),
        "rpo": found.rpo.state.value,
        "two_active_copies": [
            f"the old copy at {site} runs, seen since {moment(since)}: antipode fence"
            f" {state.vnf} --site {site}"
            for site, since in found.old_copies.items()
        ],
        "trouble": found.trouble,
    }


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
    members = [f"{m.name} ({m.select})" if m.is_open else m.server for m in vnf.members]
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
        "root_disk": _root_disk(server.root_disk),
    }


def _port(port: Port) -> str:
    addresses = ", ".join(f.address for f in port.fixed) or "no address"
    return f"{port.name or port.id} {addresses} on {port.network}"


def _root_disk(disk: Volume | None) -> str | None:
    """None for a server that boots from a volume."""
    return None if disk is None else f"{disk.size_gib} GiB on the hypervisor, from an image"


def _volume(attachment: Attachment) -> str:
    volume = attachment.volume
    return (
        f"{attachment.device} {volume.name or volume.id} {volume.size_gib} GiB {volume.volume_type}"
    )

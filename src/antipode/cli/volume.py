# SPDX-License-Identifier: Apache-2.0
"""`antipode volume …`: where the volumes of a VNF really are in the storage of its sites."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments
from antipode.cli.command import ShowCommand, columns

if TYPE_CHECKING:
    from antipode.operations.volumes import Elsewhere
    from antipode.recover.counterparts import Counterpart


class VolumeShow(ShowCommand):
    """Show what the storage really calls a volume of a VNF, at its active site and in its newest
    recovery point, and what the storage of each backup site holds under that name.

    A volume that was managed, migrated or retyped has not always the name of its id.
    """

    examples = (
        "antipode volume show hlr hlr-db-data",
        "antipode volume show hlr volume-5a7e0c1e-8d1c-4c65-9f0b-2e7a3d1b9c44 -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_vnf(parser)
        parser.add_argument(
            "volume",
            metavar="VOLUME",
            help="id of the volume, its name, or what the storage calls it",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.volumes import look_at

        seen = look_at(deployment, parsed_args.vnf, parsed_args.volume)
        volume, reference = seen.volume, seen.reference
        return columns(
            {
                "vnf": parsed_args.vnf,
                "volume": volume.name,
                "id": volume.id,
                "server": seen.server.name,
                "size_gib": volume.size_gib,
                "volume_type": volume.volume_type,
                "site": seen.look.topology.site,
                "seen": seen.look.source,
                "real_name": reference.name,
                "host": reference.host,
                "location": reference.location,
                "driver_volume_type": reference.driver_volume_type,
                "connection": reference.connection,
                "name_id": reference.name_id,
                "provider_id": reference.provider_id,
                "missing": reference.missing,
                "recovery_point": seen.point,
                "recorded": str(seen.recorded) if seen.recorded else None,
                "counterparts": [_counterpart(e, c) for e in seen.elsewhere for c in e.found],
                "not_found_at": [e.site for e in seen.elsewhere if not e.found],
                "problems": [f"{e.site}: {p}" for e in seen.elsewhere for p in e.problems],
                "warnings": seen.warnings,
            }
        )


def _counterpart(elsewhere: Elsewhere, found: Counterpart) -> dict[str, Any]:
    return {
        "site": elsewhere.site,
        "host": found.host,
        "reference": dict(found.reference),
        "size_gib": found.size_gib,
        "cinder_id": found.cinder_id,
        "safe_to_manage": found.safe_to_manage,
        "reason": found.reason,
    }

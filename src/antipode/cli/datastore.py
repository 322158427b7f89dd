# SPDX-License-Identifier: Apache-2.0
"""`antipode datastore …`: data that its storage replicates by itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand
from antipode.cli.layout import Short
from antipode.errors import ResourceFailed
from antipode.screen import visible

if TYPE_CHECKING:
    from antipode.operations.datastores import VolumeStatus

COLUMNS = (
    "datastore",
    "volume",
    "site",
    "health",
    "lag_s",
    "newest_point",
    "newest_point_age_s",
    "reference",
    "detail",
)


class DatastoreList(ListCommand):
    """List the datastores of the VNFs that were added here."""

    spared = ("sites",)
    examples = ("antipode datastore list", "antipode datastore list hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "vnf", metavar="VNF", nargs="?", type=arguments.name, help="those of this VNF only"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.datastores import datastores

        return ("vnf", "datastore", "storage", "driver", "volumes", "sites"), [
            (
                d.vnf,
                d.name,
                d.datastore.storage,
                d.driver,
                "all" if d.datastore.volumes == "all" else ", ".join(d.datastore.volumes),
                ", ".join(d.sites),
            )
            for d in datastores(deployment, parsed_args.vnf)
        ]


class _OfVnf(ListCommand):
    """A command about the datastores of one VNF."""

    spared = ("detail", "reference", "newest_point_age_s")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("vnf", metavar="VNF", type=arguments.name, help="name of a VNF")
        return parser

    def _shown(self, found: Sequence[VolumeStatus]) -> Any:
        """The status of volumes; exit code 1 when one is not replicating."""
        if not all(v.is_well for v in found):
            self.exit_code = ResourceFailed.exit_code
        return COLUMNS, [
            (
                v.datastore,
                v.volume,
                v.site,
                v.replica and str(v.replica.health),
                v.replica and v.replica.lag_s,
                v.point,
                None if v.point_age_s is None else round(v.point_age_s, 1),
                v.reference,
                Short(v.trouble or (v.replica.detail if v.replica else "")),
            )
            for v in found
        ]


class DatastoreStatus(_OfVnf):
    """Show how the replica of each volume is at each site but the active one: whether it follows,
    how old it is, and its newest consistent state.

    Works with the active site dead. Ends with exit code 1 when a volume is not replicating.
    """

    examples = ("antipode datastore status hlr", "antipode datastore status hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--datastore", metavar="NAME", help="this datastore only")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.datastores import status

        return self._shown(status(deployment, parsed_args.vnf, parsed_args.datastore))


class DatastorePrepare(_OfVnf):
    """Have the storage replicate all volumes of the VNF's datastores from its active site.

    Volumes that are replicated already are not touched. Volumes that came back from a replica are
    separated from it first, which copies them. Ends with exit code 1 while a volume is not
    replicating yet.
    """

    changes = True
    examples = ("antipode datastore prepare hlr", "antipode datastore prepare hlr --wait")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--wait",
            action="store_true",
            help="wait until every volume has been synchronised for the first time",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.datastores import prepare

        said = ""

        def tell(what: str) -> None:
            nonlocal said
            if what != said:
                print(visible(what), file=sys.stderr, flush=True)
            said = what

        return self._shown(prepare(deployment, parsed_args.vnf, awaits=parsed_args.wait, tell=tell))

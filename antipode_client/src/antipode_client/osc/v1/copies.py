# SPDX-License-Identifier: Apache-2.0
"""`openstack dr standing …`, `dr datastore …` and `dr volume …`: where else a VNF's data is."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from osc_lib.command import command

from antipode_client.client import Client
from antipode_client.osc.v1.begun import Run
from antipode_client.osc.v1.tables import List, client_of, details
from antipode_client.osc.v1.vnfs import OfVnf

Json = dict[str, Any]
Shown = tuple[Sequence[str], Sequence[Any]]


def _add_site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--site",
        metavar="<site>",
        help="Site where the volumes stand (default: the only one where the VNF is not active)",
    )


class StandingStatus(OfVnf, List):
    """Show at which recovery point the volumes of a VNF stand, and how far that is behind"""

    columns = ("site", "state", "lag_s", "recovery_point", "volumes")
    more = ("not_standing", "written_bytes", "apply_s")

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The sites."""
        found: list[Json] = client.get("vnfs", asked.vnf, "standing")["standing"]
        return found


class StandingList(OfVnf, List):
    """List the standing volumes of a VNF as a site shows them"""

    columns = ("site", "stands_for", "volume", "size_gib", "status", "holds_backup")
    more = ("read_at",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site."""
        parser = super().get_parser(prog_name)
        _add_site(parser)
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The volumes."""
        found = client.get("vnfs", asked.vnf, "standing_volumes", site=asked.site)
        volumes: list[Json] = found["standing_volumes"]
        return volumes


class StandingDelete(Run):
    """Remove the standing volumes of a VNF at a site"""

    kind = "standing-removal"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site."""
        parser = super().get_parser(prog_name)
        _add_site(parser)
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"site": asked.site}


class DatastoreList(OfVnf, List):
    """List the datastores of a VNF: what its storage, or its application, replicates by itself"""

    columns = ("name", "kind", "storage", "driver", "sites")

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The datastores."""
        found: list[Json] = client.get("vnfs", asked.vnf, "datastores")["datastores"]
        return found


class DatastoreStatus(OfVnf, List):
    """Show how the data of a VNF is replicated: whether it follows, and how far it is behind"""

    columns = ("datastore", "volume", "site", "well", "health", "lag_s", "detail")
    more = ("lag_bytes", "position", "reference", "recovery_point", "recovery_point_age_s")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the datastore."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--datastore", metavar="<datastore>", help="This datastore only")
        parser.add_argument(
            "--everywhere",
            action="store_true",
            help="Volumes at the active site, too, and not only where they follow",
        )
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The copies."""
        found = client.get(
            "vnfs",
            asked.vnf,
            "datastore_copies",
            datastore=asked.datastore,
            everywhere="true" if asked.everywhere else None,
        )
        copies: list[Json] = found["datastore_copies"]
        return copies


class VolumeShow(OfVnf, command.ShowOne):
    """Show what the storage of each site calls a volume of a VNF"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the volume."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "volume", metavar="<volume>", help="Volume (ID, name, or what the storage calls it)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        place = "vnfs", parsed_args.vnf, "volumes", parsed_args.volume
        return details(client_of(self).get(*place)["volume"])

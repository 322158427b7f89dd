# SPDX-License-Identifier: Apache-2.0
"""`antipode datastore …`: data that its storage, or its application, replicates by itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand, confirm
from antipode.cli.layout import Short
from antipode.errors import ResourceFailed
from antipode.screen import visible

if TYPE_CHECKING:
    from antipode.model.vnf import Datastore
    from antipode.operations.datastores import CopyStatus

COLUMNS = (
    "datastore",
    "volume",
    "site",
    "health",
    "lag_s",
    "lag_bytes",
    "position",
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
        arguments.add_any_vnf(parser, "those of this VNF only")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.datastores import datastores

        return ("vnf", "datastore", "kind", "storage", "driver", "volumes", "sites"), [
            (
                d.vnf,
                d.name,
                d.datastore.kind,
                d.datastore.storage,
                d.driver,
                _volumes(d.datastore),
                ", ".join(d.sites),
            )
            for d in datastores(deployment, parsed_args.vnf)
        ]


def _volumes(datastore: Datastore) -> str | None:
    """Which volumes a datastore has, in words; None for the data of an application."""
    if datastore.kind != "volumes":
        return None
    return "all" if datastore.volumes == "all" else ", ".join(datastore.volumes)


class _OfVnf(ListCommand):
    """A command about the datastores of one VNF."""

    spared: Sequence[str] = ("detail", "newest_point_age_s", "lag_bytes", "reference", "position")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("vnf", metavar="VNF", type=arguments.name, help="name of a VNF")
        return parser

    def _shown(self, found: Sequence[CopyStatus]) -> Any:
        """The status of data; exit code 1 when any is not as it has to be."""
        if not all(v.is_well for v in found):
            self.exit_code = ResourceFailed.exit_code
        return COLUMNS, [
            (
                v.datastore,
                v.volume,
                v.site,
                v.replica and str(v.replica.health),
                v.replica and v.replica.lag_s,
                v.replica and v.replica.lag_bytes,
                v.position,
                v.point,
                None if v.point_age_s is None else round(v.point_age_s, 1),
                v.reference,
                Short(v.detail),
            )
            for v in found
        ]


class DatastoreStatus(_OfVnf):
    """Show how the replica of each volume is at each site but the active one, and the data of
    applications at each site: whether it follows, how old it is, its last consistent position, and
    the newest recovery point.

    Works with the active site dead. Ends with exit code 1 when something is not replicating.
    """

    examples = ("antipode datastore status hlr", "antipode datastore status hlr -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--datastore", metavar="NAME", type=arguments.name, help="this datastore only"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.datastores import status

        return self._shown(status(deployment, parsed_args.vnf, parsed_args.datastore))


class DatastoreShow(_OfVnf):
    """Show one datastore at each site, the active one included: how it is, and its reference there.

    Ends with exit code 1 when something of it is not replicating.
    """

    spared = ("newest_point_age_s", "lag_bytes")
    examples = ("antipode datastore show hlr records", "antipode datastore show hlr disks -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("datastore", metavar="DATASTORE", help="of its VNF file")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.datastores import status

        given = parsed_args
        return self._shown(status(deployment, given.vnf, given.datastore, everywhere=True))


class DatastoreConformance(ListCommand):
    """Compare the commands of a storage with their contract, for the author of these.

    Asks both sites, and has positions made at the active one. With --promote it also promotes the
    data at the backup site, demotes it, and has it follow again, each twice: only on data that may
    be lost. Ends with exit code 1 when something is not as the contract wants it.
    """

    changes = True
    examples = (
        "antipode datastore conformance pg --active site-a --backup site-b",
        "antipode datastore conformance pg --active site-a --backup site-b --promote -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("storage", metavar="STORAGE", help="of antipode.yaml")
        parser.add_argument(
            "--active", metavar="SITE", required=True, help="where the data is written"
        )
        parser.add_argument(
            "--backup", metavar="SITE", required=True, help="where the data follows"
        )
        parser.add_argument(
            "--vnf",
            metavar="NAME",
            type=arguments.name,
            default="conformance",
            help="the VNF that requests name (default: conformance)",
        )
        parser.add_argument(
            "--datastore",
            metavar="NAME",
            type=arguments.name,
            default="conformance",
            help="the datastore that requests name (default: conformance)",
        )
        parser.add_argument(
            "--promote",
            action="store_true",
            help="also promote and demote the data at the backup site, and have it follow again",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.datastores.application import Data
        from antipode.operations.datastores import conformance

        given = parsed_args
        rows = []
        for found in conformance(
            deployment,
            given.storage,
            (given.active, given.backup),
            Data(given.vnf, given.datastore),
            promotes=given.promote,
        ):
            verdict = "conforms" if found.problem is None else "differs"
            line = f"{verdict}: {found.site}: {found.check}"
            print(visible(line), file=sys.stderr, flush=True)
            rows.append((found.site, found.check, verdict, Short(found.problem or "")))
            if found.problem is not None:
                self.exit_code = ResourceFailed.exit_code
        return ("site", "check", "result", "detail"), rows


class DatastorePrepare(_OfVnf):
    """Have all data of the VNF's datastores replicated from its active site.

    What is replicated already is not touched. Volumes that came back from a replica are separated
    from it first, which copies them. Data that does not follow is resynchronised; where it is
    writable, only with --overwrite. Ends with exit code 1 while something is not
    replicating yet.
    """

    changes = True
    examples = ("antipode datastore prepare hlr", "antipode datastore prepare hlr --wait")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--wait",
            action="store_true",
            help="wait until everything has been synchronised for the first time",
        )
        parser.add_argument(
            "--within",
            metavar="TIME",
            type=arguments.duration,
            help="how long to wait, as 2h (default: synchronises_within of the VNF file, 24h)",
        )
        parser.add_argument(
            "--overwrite",
            metavar="SITE",
            action="append",
            default=[],
            help="data that is writable at this site, too, may be lost; repeatable",
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

        given = parsed_args
        return self._shown(
            prepare(
                deployment,
                given.vnf,
                awaits=given.wait,
                tell=tell,
                overwrite=given.overwrite,
                within_s=given.within,
            )
        )


class DatastoreRemove(ListCommand):
    """Have the data of a datastore replicated no longer, and remove what antipode has made for it.

    The data stays at each site. No recovery point has it from then on until it is prepared again,
    and those that have it are no longer recovered from. Only for data of applications with a
    driver that prepares it, as `swift`.
    """

    changes = True
    examples = (
        "antipode datastore remove hlr media --yes",
        "antipode datastore remove hlr media --at site-b --yes",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("vnf", metavar="VNF", type=arguments.name, help="name of a VNF")
        parser.add_argument("datastore", metavar="DATASTORE", help="of its VNF file")
        parser.add_argument(
            "--at",
            metavar="SITE",
            action="append",
            default=[],
            help="only at this site, as while the other is lost; repeatable",
        )
        arguments.add_yes(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.datastores import remove

        given = parsed_args
        if not given.yes:
            question = (
                f"Datastore {given.datastore} of VNF {given.vnf} is replicated no longer, and no"
                " recovery from the present points can use it. Type the name of the datastore to"
                " do so:"
            )
            confirm(self.app, question, given.datastore)
        removed = remove(deployment, given.vnf, given.datastore, sites=given.at)
        return ("datastore", "site", "removed"), [(given.datastore, s, True) for s in removed]


class DatastoreSwitch(ListCommand):
    """Have Cinder serve the volumes of a datastore from their copy, or from the original again.

    Only for storages with the driver `cinder`, while the site and its Cinder live: for a back end
    that is lost, or is to be serviced. The VNF stays at its site. All members with these volumes
    must be off. Without a volume group in the settings of the storage the whole back end is
    switched, with the volumes of all projects. Members that boot from these volumes are shelved and
    unshelved afterwards, as Nova keeps the way to the former storage otherwise.
    """

    changes = True
    examples = (
        "antipode datastore switch hlr disks",
        "antipode datastore switch hlr disks --back --yes",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("vnf", metavar="VNF", type=arguments.name, help="name of a VNF")
        parser.add_argument("datastore", metavar="DATASTORE", help="of its VNF file")
        parser.add_argument(
            "--back", action="store_true", help="from the copy to the storage itself"
        )
        parser.add_argument(
            "--lose-others",
            action="store_true",
            help="volumes of the back end that have no copy may go into error",
        )
        arguments.add_yes(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.datastore_switch import prepare, switch

        given = parsed_args
        planned = prepare(deployment, given.vnf, given.datastore, back=given.back)
        found = planned.switch
        for what, volumes in (("is switched, too", found.others), ("goes into error", found.lost)):
            for volume in volumes:
                print(visible(f"volume {volume} {what}"), file=sys.stderr, flush=True)
        if not given.yes and not found.is_done:
            question = (
                f"{planned.storage.label} is switched to {found.goes_to}, with"
                f" {len(planned.volumes)} volumes of {given.vnf} and {len(found.others)} others."
                " Type the name of the datastore to do so:"
            )
            confirm(self.app, question, given.datastore)
        switch(deployment, planned, loses_others=given.lose_others)
        return ("datastore", "site", "volumes", "others", "served_by"), [
            (
                given.datastore,
                planned.site,
                len(planned.volumes),
                len(found.others),
                found.goes_to,
            )
        ]

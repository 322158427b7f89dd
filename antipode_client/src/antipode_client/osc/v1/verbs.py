# SPDX-License-Identifier: Apache-2.0
"""`openstack dr protect`, `dr failover` and all else that is done with a VNF."""

from __future__ import annotations

import argparse
from typing import Any

from antipode_client.osc.v1.begun import Run
from antipode_client.osc.v1.spans import seconds

Json = dict[str, Any]


def _add_to(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument(
        "--to", metavar="<site>", required=required, help="Site where the VNF is recovered"
    )


def _add_point(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recovery-point",
        metavar="<recovery-point>",
        help="Recovery point (ID; default: the newest)",
    )


def _add_lost_vaults(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lost-vault",
        metavar="<vault>",
        action="append",
        default=[],
        dest="lost_vaults",
        help="Vault that is lost, with all that only it holds (repeat for several)",
    )


class Protect(Run):
    """Make a recovery point of a VNF"""

    kind, is_confirmed = "protect", False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options of a protection."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--option", metavar="<option>", help="The protection (default: the first of the VNF)"
        )
        parser.add_argument(
            "--full", action="store_true", help="Back every volume up in full, and begin a chain"
        )
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"option": asked.option, "full": asked.full or None}


class Precheck(Run):
    """Look whether a VNF could be recovered"""

    kind, is_confirmed = "precheck", False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site."""
        parser = super().get_parser(prog_name)
        _add_to(parser)
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"to": asked.to}


class Verify(Run):
    """Prove the content of a recovery point: restore each volume, compare and remove it"""

    kind, is_confirmed = "verify", False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the point and the site."""
        parser = super().get_parser(prog_name)
        _add_point(parser)
        parser.add_argument("--site", metavar="<site>", help="Site where it is restored")
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"recovery_point": asked.recovery_point, "site": asked.site}


class DrillStart(Run):
    """Rehearse the recovery of a VNF on isolated networks"""

    kind = "drill"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site, the point and how long it is kept."""
        parser = super().get_parser(prog_name)
        _add_to(parser)
        _add_point(parser)
        parser.add_argument(
            "--keep",
            metavar="<time>",
            type=seconds,
            help="Keep the rehearsed VNF for so long, such as 45m or 2h, to look around in it",
        )
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"to": asked.to, "recovery_point": asked.recovery_point, "keep_s": asked.keep}


class DrillClean(Run):
    """Remove what the drills of a VNF have left"""

    kind = "drill-cleanup"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--site", metavar="<site>", help="Site of the drills")
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"site": asked.site}


class Failover(Run):
    """Recover a VNF at its backup site. The failed site is not asked for anything"""

    kind = "failover"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site, the point, and what is accepted."""
        parser = super().get_parser(prog_name)
        _add_to(parser, required=True)
        _add_point(parser)
        parser.add_argument(
            "--newest-heads",
            action="store_true",
            help="Take the newest data that has arrived of each replicated volume, and not the"
            " state of the recovery point",
        )
        parser.add_argument(
            "--fence",
            choices=["required", "try"],
            help="Cut off, stop and lock the old copy first, where its site still answers",
        )
        parser.add_argument(
            "--undo-within",
            metavar="<time>",
            type=seconds,
            help="Keep the old copy, so that the failover can be undone for so long, such as 4h",
        )
        parser.add_argument(
            "--instead-of",
            metavar="<run>",
            help="Release the claim of a failover whose host and database are lost",
        )
        parser.add_argument(
            "--to-origin",
            action="store_true",
            help="Accept a recovery point that was taken at <site> before the VNF moved away",
        )
        parser.add_argument(
            "--store-unchecked",
            action="store_true",
            help="Do not check that the backup store has the backups",
        )
        _add_lost_vaults(parser)
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        accept = {
            "instead_of": asked.instead_of,
            "to_origin": asked.to_origin or None,
            "store_unchecked": asked.store_unchecked or None,
            "newest_heads": asked.newest_heads or None,
            "lost_vaults": asked.lost_vaults or None,
        }
        given = {name: value for name, value in accept.items() if value is not None}
        return {
            "to": asked.to,
            "recovery_point": asked.recovery_point,
            "fence": asked.fence,
            "undo_within_s": asked.undo_within,
            "accept": given or None,
        }


class Migrate(Run):
    """Move a VNF to another site and lose nothing, while both sites answer"""

    kind = "migrate"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site and the protection."""
        parser = super().get_parser(prog_name)
        _add_to(parser)
        parser.add_argument(
            "--option", metavar="<option>", help="The protection (default: the first of the VNF)"
        )
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"to": asked.to, "option": asked.option}


class Failback(Migrate):
    """Move a VNF back to where it came from, and lose nothing"""

    kind = "failback"


class Fence(Run):
    """Cut off, stop and lock the old copy of a VNF at a site"""

    kind = "fence"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--site", metavar="<site>", required=True, help="Site of the old copy")
        _add_lost_vaults(parser)
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"site": asked.site, "lost_vaults": asked.lost_vaults or None}


class Reprotect(Run):
    """Protect a VNF the other way round after it has moved"""

    kind = "reprotect"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the fate of the old copy."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--old-copy",
            choices=["keep", "remove"],
            default="keep",
            help="The copy that the VNF left behind (default: keep)",
        )
        _add_lost_vaults(parser)
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"old_copy": asked.old_copy, "lost_vaults": asked.lost_vaults or None}


class Undo(Run):
    """Go back to the copy that the newest failover of a VNF has left"""

    kind = "undo"


class Commit(Run):
    """Give up that the newest failover of a VNF can be undone"""

    kind = "commit"


class StandingApply(Run):
    """Bring the standing volumes of a VNF at a backup site to a recovery point"""

    kind, is_confirmed = "standing", False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site and the point."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--site", metavar="<site>", help="Site where the volumes stand")
        _add_point(parser)
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"site": asked.site, "recovery_point": asked.recovery_point}


class DnsSwitch(Run):
    """Switch the DNS records of a VNF to the site where it is active"""

    kind = "dns-switch"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the point."""
        parser = super().get_parser(prog_name)
        _add_point(parser)
        _add_lost_vaults(parser)
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {
            "recovery_point": asked.recovery_point,
            "lost_vaults": asked.lost_vaults or None,
        }


class PointDelete(Run):
    """Delete a recovery point of a VNF, with the backups that only it needs"""

    kind = "recovery-point-delete"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the point."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "recovery_point", metavar="<recovery-point>", help="Recovery point (ID)"
        )
        return parser

    def body(self, asked: argparse.Namespace) -> Json:
        """As the API takes it."""
        return {"recovery_point": asked.recovery_point}

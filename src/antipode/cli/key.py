# SPDX-License-Identifier: Apache-2.0
"""`antipode key …`: the keys that recovery points are signed and encrypted with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand, ShowCommand, columns, confirm
from antipode.errors import InvalidInput


class KeyGenerate(ShowCommand):
    """Generate the keys that this host lacks; those that are there stay. The first protection does
    the same by itself.
    """

    changes = True
    examples = ("antipode key generate",)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations import keys

        return columns(keys.generate(deployment))


class KeyList(ListCommand):
    """List the keys that this host signs, verifies, encrypts and opens with. No secret is shown."""

    examples = ("antipode key list", "antipode key list -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations import keys

        return ("kind", "id", "does"), [tuple(key) for key in keys.list_keys(deployment)]


class KeyRotate(ShowCommand):
    """Sign and encrypt with new keys from now on. All that the former keys have signed and
    encrypted stays valid. Export a new recovery kit afterwards, and import it on the other hosts.
    """

    changes = True
    examples = ("antipode key rotate", "antipode key rotate --retire")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--retire",
            action="store_true",
            help="the former identities only open from now on: they may be known to others",
        )
        arguments.add_yes(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations import keys

        if not parsed_args.yes:
            confirm(
                self.app,
                "Other hosts refuse new recovery points until they import the new recovery kit."
                " Type rotate to continue:",
                "rotate",
            )
        return columns(keys.rotate(deployment, retire=parsed_args.retire))


class KeyExport(ShowCommand):
    """Write the recovery kit: configuration, clouds.yaml, keys, and a sheet to print. Keep it away
    from both sites.

    Passwords are left out of clouds.yaml unless asked for. The identities that open the recovery
    points are written in clear unless a passphrase or a recipient is given.
    """

    changes = True
    examples = (
        "antipode key export /mnt/safe/antipode-kit",
        "antipode key export kit --to age1escrow… --with-passwords",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "directory", metavar="DIRECTORY", type=Path, help="empty, or not there yet"
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument(
            "--passphrase-file",
            metavar="FILE",
            type=Path,
            help="encrypt the identities with the first line of this file",
        )
        how.add_argument(
            "--to",
            metavar="RECIPIENT",
            action="append",
            default=[],
            help="encrypt the identities to this recipient of age (age1…); may be repeated",
        )
        parser.add_argument(
            "--with-passwords", action="store_true", help="keep the passwords in clouds.yaml"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations import kit

        wanted = kit.Wanted(
            folder=parsed_args.directory,
            passphrase=_passphrase(parsed_args.passphrase_file),
            recipients=parsed_args.to,
            with_passwords=parsed_args.with_passwords,
        )
        return columns(kit.export(deployment, wanted))


class KeyImport(ShowCommand):
    """Trust the verification keys, and open with the identities, of a recovery kit or a key file.
    The keys of this host stay.
    """

    changes = True
    examples = (
        "antipode key import /mnt/safe/antipode-kit",
        "antipode key import escrow-identity.txt",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "path",
            metavar="PATH",
            type=Path,
            help="folder of a recovery kit, or file of verification keys or identities",
        )
        parser.add_argument(
            "--passphrase-file",
            metavar="FILE",
            type=Path,
            help="its first line opens the identities of the kit",
        )
        parser.add_argument(
            "--identity",
            metavar="FILE",
            type=Path,
            help="the identity (escrow key) that opens those of the kit; it is imported too, and"
            " only opens",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations import keys
        from antipode.operations.kit import Opener

        opener = Opener(_passphrase(parsed_args.passphrase_file), parsed_args.identity)
        return columns(keys.take_over(deployment, parsed_args.path, opener))


def _passphrase(path: Path | None) -> str | None:
    """The first line of a file.

    Raises:
        InvalidInput: it cannot be read, or is empty.
    """
    if path is None:
        return None
    try:
        line = path.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", resource=f"file {path}") from error
    if not line:
        raise InvalidInput(f"the first line of {path} is empty", resource=f"file {path}")
    return line

# SPDX-License-Identifier: Apache-2.0
"""`antipode vault …`: what the vaults hold, whether they agree, and learning from them."""

from __future__ import annotations

import argparse
from typing import Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand, columns
from antipode.cli.layout import Short
from antipode.errors import VaultError
from antipode.screen import visible


class VaultList(ListCommand):
    """List the vaults of the configuration, and how much is in each.

    Ends with exit code 1 when one does not answer.
    """

    spared = ("trouble", "kind")
    examples = ("antipode vault list", "antipode vault list -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.vaults import statuses

        found = list(statuses(deployment))
        if any(vault.trouble for vault in found):
            self.exit_code = VaultError.exit_code
        return ("vault", "kind", "place", "site", "vnfs", "points", "trouble"), [
            (v.name, v.kind, v.place, v.site, v.vnfs, v.points, _short(v.trouble)) for v in found
        ]


class VaultShow(ListCommand):
    """Show what one vault holds of each VNF, as if there were no other vault."""

    spared = ("newest_consistent_at", "trouble", "points")
    examples = ("antipode vault show third", "antipode vault show third -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "vault", metavar="VAULT", type=arguments.name, help="a vault of the configuration"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.vaults import held_by

        return (
            "vnf",
            "active_site",
            "generation",
            "state",
            "points",
            "newest",
            "newest_consistent_at",
            "trouble",
        ), [
            (
                held.vnf,
                held.active_site,
                held.generation,
                held.state,
                held.points,
                held.newest,
                held.newest_consistent_at,
                _short(held.trouble),
            )
            for held in held_by(deployment, parsed_args.vault)
        ]


class _OfVnfs:
    """A command about all VNFs or one."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)  # type: ignore[misc]
        parser.add_argument(
            "--vnf", metavar="VNF", type=arguments.name, help="this VNF only (default: all)"
        )
        return parser


class VaultCheck(_OfVnfs, ListCommand):
    """Compare the vaults: list each document of VNFs, and each plan, that one lacks, or holds
    damaged or otherwise than the others. Nothing is changed.

    Ends with exit code 1 when there is one, or when a vault does not answer.
    """

    examples = ("antipode vault check", "antipode vault check --vnf hlr --all-points")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--all-points",
            action="store_true",
            help="read every recovery point in every vault (default: the newest of each VNF)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.vaults import disagreements

        found = list(disagreements(deployment, parsed_args.vnf, every_point=parsed_args.all_points))
        if found:
            self.exit_code = VaultError.exit_code
        return ("vnf", "document", "vault", "problem"), [
            (d.vnf or None, d.document or None, d.place or None, _short(d.problem)) for d in found
        ]


class VaultSync(_OfVnfs, ListCommand):
    """Catch up vaults that were away, and this host: every VNF of the vaults becomes known here,
    with its state and its recovery points, and each vault gets the plans over many VNFs.

    On a new machine it needs antipode.yaml and clouds.yaml only. Nothing is ever written
    over. Ends with exit code 1 when something could not be done; do it again then.
    """

    changes = True
    examples = (
        "antipode vault sync",
        "antipode vault sync --plan",
        "antipode vault sync --vnf hlr -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--plan", action="store_true", help="show what would be done; change nothing"
        )
        parser.add_argument(
            "--accept-unsigned",
            action="store_true",
            help="sign the claims, outcomes and withdrawals that an unreleased antipode has left"
            " unsigned; anybody that can write to a vault can write such a document, so look at"
            " them first",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.vaults import synchronize, unanswered

        silent = unanswered(deployment)
        for name, reason in silent.items():
            self.exit_code = VaultError.exit_code
            print(visible(f"antipode: vault {name} is left out: {reason}"), file=self.app.stderr)
        rows = []
        for row in synchronize(
            deployment,
            parsed_args.vnf,
            silent=silent,
            plan=parsed_args.plan,
            accept_unsigned=parsed_args.accept_unsigned,
        ):
            if row.trouble:
                self.exit_code = VaultError.exit_code
            record = {
                "vnf": row.vnf,
                "here": row.here,
                "active_site": row.active_site,
                "generation": row.generation,
                "points": row.points,
                "written": row.written,
                "signed": row.signed,
                "trouble": row.trouble,
            }
            rows.append(columns(record)[1])
        return (
            "vnf",
            "here",
            "active_site",
            "generation",
            "points",
            "written",
            "signed",
            "trouble",
        ), rows


def _short(text: str | None) -> Short | None:
    return None if text is None else Short(text)

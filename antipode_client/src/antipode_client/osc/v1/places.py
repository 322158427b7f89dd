# SPDX-License-Identifier: Apache-2.0
"""`openstack dr site …`, `dr vault …`, `dr event …` and `dr service …`: what is of no VNF alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from osc_lib.command import command

from antipode_client.client import Client
from antipode_client.osc.v1.spans import seconds
from antipode_client.osc.v1.tables import List, at_least_one, client_of, details

Json = dict[str, Any]


class _OfSite:
    """A command about one site."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)  # type: ignore[misc]
        parser.add_argument("site", metavar="<site>", help="Name of the site")
        return parser


class SiteCheck(List):
    """Look whether the sites, vaults and backup stores are as they have to be"""

    columns = ("check", "site", "ok", "needed", "detail")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the VNF."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--vnf", metavar="<vnf>", help="Look, too, whether this VNF is ready at each site"
        )
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The findings."""
        found: list[Json] = client.post("site_checks", body={}, vnf=asked.vnf)["checks"]
        return found


class SiteForecastList(_OfSite, List):
    """List what would become of each VNF if a site died now with all that are active there"""

    columns = ("vnf", "to", "loses_s", "back_in_s", "error_s", "readiness", "blocked_by")
    more = ("unmeasured", "basis")

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The forecasts."""
        found: list[Json] = client.get("sites", asked.site, "forecast")["forecasts"]
        return found


class SiteHistoryShow(_OfSite, command.ShowOne):
    """Show how all VNFs that are active at a site were protected in a time that is over"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the time."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--since",
            metavar="<time>",
            type=seconds,
            default=30 * 86400.0,
            help="How far back, such as 12h or 7d (default: 30d)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Ask for it."""
        place = "sites", parsed_args.site, "history"
        return details(client_of(self).get(*place, since=parsed_args.since)["history"])


class VaultList(List):
    """List the vaults"""

    columns = ("name", "kind", "site", "vnfs", "points", "trouble")
    more = ("place",)

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The vaults."""
        found: list[Json] = client.get("vaults")["vaults"]
        return found


class VaultShow(List):
    """Show what a vault holds of each VNF"""

    columns = ("vnf", "points", "newest", "active_site", "generation", "state", "trouble")
    more = ("newest_consistent_at",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the vault."""
        parser = super().get_parser(prog_name)
        parser.add_argument("vault", metavar="<vault>", help="Name of the vault")
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The holdings."""
        found: list[Json] = client.get("vaults", asked.vault)["holdings"]
        return found


class VaultCheck(List):
    """List what the vaults do not agree about"""

    columns = ("vnf", "document", "place", "problem")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the VNF."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--vnf", metavar="<vnf>", help="Name of a VNF (default: all)")
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """What they do not agree about."""
        found: list[Json] = client.get("vault_disagreements", vnf=asked.vnf)["disagreements"]
        return found


class EventList(List):
    """List the newest events, of all or of one run, the newest first"""

    columns = ("at", "type", "subject", "data")
    more = ("id",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the run."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--run", metavar="<run>", help="Run (ID; default: all)")
        parser.add_argument(
            "--limit",
            metavar="<num-items>",
            type=at_least_one,
            default=100,
            help="The newest so many (default: 100, at most 1000)",
        )
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The events."""
        place = ("events",) if asked.run is None else ("runs", asked.run, "events")
        found: list[Json] = client.get(*place, limit=asked.limit)["events"]
        return found


class ServiceShow(command.ShowOne):
    """Show whether the service works that carries runs out, and the queue"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Ask for it."""
        return details(client_of(self).get("service")["service"])

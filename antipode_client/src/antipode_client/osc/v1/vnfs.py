# SPDX-License-Identifier: Apache-2.0
"""`openstack dr vnf …` and all that is shown of VNFs, sites, policies and the quota."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from osc_lib import exceptions
from osc_lib.command import command

from antipode_client.client import Client
from antipode_client.osc.v1.spans import seconds
from antipode_client.osc.v1.tables import List, client_of, details

Json = dict[str, Any]
Shown = tuple[Sequence[str], Sequence[Any]]


def from_file(path: Path) -> Json:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise exceptions.CommandError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise exceptions.CommandError(f"{path} is no mapping of fields")
    return found


class OfVnf:
    """A command about one VNF."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the VNF."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)  # type: ignore[misc]
        parser.add_argument("vnf", metavar="<vnf>", help="Name of the VNF")
        return parser


class SiteList(List):
    """List the sites"""

    columns = ("name",)

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The sites."""
        found: list[Json] = client.get("sites")["sites"]
        return found


class VnfList(List):
    """List VNFs"""

    columns = ("name", "active_site", "state", "generation", "options", "policy")
    more = ("project", "primary", "backup", "members", "rpo_s", "rto_s", "changed_at")
    has_limit = True

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The VNFs."""
        return client.pages("vnfs", limit=asked.limit)


class VnfShow(OfVnf, command.ShowOne):
    """Show a VNF"""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        return details(client_of(self).get("vnfs", parsed_args.vnf)["vnf"])


class VnfSet(OfVnf, command.ShowOne):
    """Add a VNF by its file or replace its definition, or choose the policy of its protection"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the file and the policy."""
        parser = super().get_parser(prog_name)
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--file", metavar="<file>", type=Path, help="A VNF file (YAML)")
        what.add_argument("--policy", metavar="<policy>", help="Name of a policy")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Send it."""
        client, vnf = client_of(self), parsed_args.vnf
        if parsed_args.policy is not None:
            body = {"policy": {"name": parsed_args.policy}}
            return details(client.put("vnfs", vnf, "policy", body=body)["vnf"])
        given = from_file(parsed_args.file)
        if given.get("vnf", vnf) != vnf:
            raise exceptions.CommandError(
                f"{parsed_args.file} is about VNF {given['vnf']}, and not about {vnf}"
            )
        body = {"definition": given}
        return details(client.put("vnfs", vnf, "definition", body=body)["vnf"])


class VnfDelete(OfVnf, command.Command):
    """Forget a VNF. Its recovery points, backups and servers stay"""

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Ask for it."""
        client_of(self).delete("vnfs", parsed_args.vnf)


class DefinitionShow(OfVnf, command.ShowOne):
    """Show all of a VNF's definition"""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        found = client_of(self).get("vnfs", parsed_args.vnf, "definition")
        return details(found["definition"])


class ProtectionList(OfVnf, List):
    """List the protections of a VNF with their schedules"""

    columns = ("option", "schedule", "next_at", "paused_at", "missed")
    more = ("retention", "settings")

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The protections."""
        found: list[Json] = client.get("vnfs", asked.vnf, "protections")["protections"]
        return found


class ProtectionSet(OfVnf, command.Command):
    """Pause the schedule of a protection, or resume it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the protection."""
        parser = super().get_parser(prog_name)
        parser.add_argument("option", metavar="<option>", help="Option of the protection")
        how = parser.add_mutually_exclusive_group(required=True)
        how.add_argument("--pause", action="store_true", help="Make no points by schedule")
        how.add_argument("--resume", action="store_true", help="Make them again")
        parser.add_argument("--reason", metavar="<reason>", help="Why it is paused")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Ask for it."""
        given: Json = {"paused": parsed_args.pause}
        if parsed_args.reason is not None:
            given["reason"] = parsed_args.reason
        place = "vnfs", parsed_args.vnf, "protections", parsed_args.option, "schedule"
        client_of(self).put(*place, body={"schedule": given})


class PointList(OfVnf, List):
    """List the newest recovery points of a VNF"""

    columns = ("id", "valid", "option", "consistency", "consistent_at", "site", "generation")
    more = ("incremental", "volumes", "stored_bytes", "refused")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add how many."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--limit",
            metavar="<num-items>",
            type=int,
            default=50,
            help="The newest so many (default: 50, at most 500)",
        )
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The points."""
        found = client.get("vnfs", asked.vnf, "recovery_points", limit=asked.limit)
        points: list[Json] = found["recovery_points"]
        return points


class PointShow(OfVnf, command.ShowOne):
    """Show a recovery point"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the point."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "recovery_point",
            metavar="<recovery-point>",
            nargs="?",
            default="newest",
            help="Recovery point (ID; default: the newest)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        place = "vnfs", parsed_args.vnf, "recovery_points", parsed_args.recovery_point
        return details(client_of(self).get(*place)["recovery_point"])


class PointVerify(OfVnf, List):
    """Verify a recovery point: its signature, its chains, and every object of its backups"""

    columns = ("volume", "backup", "ok", "detail")
    more = ("objects", "bytes")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the point."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "recovery_point",
            metavar="<recovery-point>",
            nargs="?",
            default="newest",
            help="Recovery point (ID; default: the newest)",
        )
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The findings."""
        place = "vnfs", asked.vnf, "recovery_points", asked.recovery_point, "findings"
        found: list[Json] = client.get(*place)["findings"]
        return found


class Advise(OfVnf, List):
    """Say which option fits a VNF and why, the best first"""

    columns = ("option", "verdict", "in_use", "why")
    more = ("calls_per_day", "stored_bytes_per_day")

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The options."""
        found: list[Json] = client.get("vnfs", asked.vnf, "advice")["advice"]
        return found


class ForecastList(OfVnf, List):
    """List what was forecast for drills and failovers of a VNF, and what they took"""

    columns = ("made_at", "run", "site", "back_in_s", "took_s", "off_by_s")
    more = ("kind", "error_s")

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The forecasts."""
        found: list[Json] = client.get("vnfs", asked.vnf, "forecasts")["forecasts"]
        return found


class ReadinessList(List):
    """List whether VNFs could be recovered, as a service saw it last"""

    columns = ("vnf", "site", "verdict", "since", "looked_at", "stale", "reasons")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the VNF."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--vnf", metavar="<vnf>", help="Name of a VNF (default: all)")
        return parser

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """What was seen."""
        place = ("readiness",) if asked.vnf is None else ("vnfs", asked.vnf, "readiness")
        found: list[Json] = client.get(*place)["readiness"]
        return found


class ForecastShow(OfVnf, command.ShowOne):
    """Show what would be lost if the active site of a VNF died now, and when it would be back"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the site."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--to", metavar="<site>", help="Site where the VNF is recovered")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        found = client_of(self).get("vnfs", parsed_args.vnf, "forecast", to=parsed_args.to)
        return details(found["forecast"])


class HistoryShow(OfVnf, command.ShowOne):
    """Show how a VNF was protected in a time that is over"""

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

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        found = client_of(self).get("vnfs", parsed_args.vnf, "history", since=parsed_args.since)
        return details({**found["history"], "notes": found["notes"]})


class PolicyList(List):
    """List the policies that the project may choose"""

    columns = ("name", "about", "rpo_s", "rto_s")
    more = ("projects", "protections", "verify_every_s", "drill_every_s")
    has_limit = True

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The policies."""
        return client.pages("policies", limit=asked.limit)


class _OfPolicy:
    """A command about one policy."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the policy."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)  # type: ignore[misc]
        parser.add_argument("policy", metavar="<policy>", help="Name of the policy")
        return parser


class PolicyShow(_OfPolicy, command.ShowOne):
    """Show a policy"""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        return details(client_of(self).get("policies", parsed_args.policy)["policy"])


class PolicySet(_OfPolicy, command.ShowOne):
    """Make a policy by a file, or change it for all VNFs that have chosen it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the file."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--file", metavar="<file>", type=Path, required=True, help="A policy (YAML)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Send it."""
        body = {"policy": from_file(parsed_args.file)}
        return details(client_of(self).put("policies", parsed_args.policy, body=body)["policy"])


class PolicyDelete(_OfPolicy, command.Command):
    """Remove a policy that no VNF has chosen"""

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Ask for it."""
        client_of(self).delete("policies", parsed_args.policy)


class QuotaShow(command.ShowOne):
    """Show how much the project may have, and has"""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Ask for it."""
        return details(client_of(self).get("quota")["quota"])


class AuditList(List):
    """List the records of the audit trail, the newest first"""

    columns = ("event_time", "initiator", "action", "target", "outcome", "reason_code")
    more = ("id", "initiator_project", "initiator_address", "request_id")
    has_limit = True

    def items(self, client: Client, asked: argparse.Namespace) -> Iterable[Json]:
        """The records."""
        return client.pages("audit", limit=asked.limit)

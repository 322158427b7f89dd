# SPDX-License-Identifier: Apache-2.0
"""`antipode sandbox …`: embedded sites on this machine, for trying, training and tests."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antipode import libraries
from antipode.cli import arguments
from antipode.cli.command import ListCommand
from antipode.config import default_state_dir

if TYPE_CHECKING:
    from antipode.sandbox.supervision import Sandbox


def require_packages() -> None:
    """Check that the packages of the embedded sites are installed.

    Raises:
        InvalidInput: they are not.
    """
    libraries.need("aiohttp", "sandbox", "an embedded site")


class SandboxCommand(ListCommand):
    """A command about the embedded sites; it shows them afterwards."""

    changes = True
    spared = ("control_url", "auth_url")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--directory",
            metavar="DIR",
            help="where the sites live (default: $ANTIPODE_SANDBOX, else the state directory)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        require_packages()
        from antipode.sandbox.supervision import Sandbox

        directory = (
            parsed_args.directory
            or os.environ.get("ANTIPODE_SANDBOX")
            or default_state_dir() / "sandbox"
        )
        sandbox = Sandbox(Path(directory).expanduser().resolve())
        self.act(sandbox, parsed_args)
        shown = ("site", "state", "pid", "guests", "faults", "auth_url", "control_url")
        return shown, [tuple(row[column] for column in shown) for row in sandbox.status()]

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        """Do the work of the command; the sites are shown afterwards."""


class SandboxStatus(SandboxCommand):
    """Show the embedded sites."""

    changes = False
    examples = ("antipode sandbox status",)


class SandboxUp(SandboxCommand):
    """Start two embedded sites, with the example VNF at site-a; a site that runs stays as it is."""

    examples = (
        "antipode sandbox up",
        "antipode sandbox up --latency 0 --directory /tmp/sites",
        "antipode sandbox up --api 9871",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--latency",
            type=arguments.factor,
            metavar="FACTOR",
            help="multiply all latencies of the sites (0: none)",
        )
        parser.add_argument("--no-vnf", action="store_true", help="make no example VNF")
        parser.add_argument(
            "--api",
            type=arguments.port,
            metavar="PORT",
            help="have antipode serve answer to the REST API, with the console, at this port",
        )
        return parser

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        from antipode.sandbox import canary, desk

        sandbox.up(parsed_args.latency)
        desk.write(sandbox, port=parsed_args.api)
        if not parsed_args.no_vnf:
            canary.have_at_one_site(sandbox)
        lines = [
            f"export OS_CLIENT_CONFIG_FILE={sandbox.directory / desk.CLOUDS}",
            f"export ANTIPODE_CONFIG={sandbox.directory / desk.CONFIGURATION}",
            f"antipode vnf add {sandbox.directory / desk.VNF_FILE}",
        ]
        if parsed_args.api is not None:
            url = f"http://127.0.0.1:{parsed_args.api}"
            lines += [
                "antipode serve &",
                f"export OS_DISASTER_RECOVERY_ENDPOINT_OVERRIDE={url}",
                "openstack --os-cloud site-b-staff dr vnf list",
            ]
        print(
            "To work with them:", *(f"  {line}" for line in lines), sep="\n", file=self.app.stderr
        )


class SandboxDown(SandboxCommand):
    """Stop the embedded sites; their content is kept."""

    examples = ("antipode sandbox down", "antipode sandbox down --wipe")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--wipe",
            action="store_true",
            help="delete their content, with antipode's database there",
        )
        return parser

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        sandbox.down(wipe=parsed_args.wipe)


class _OfOneSite(SandboxCommand):
    """A command about one of the sites."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("site", metavar="SITE", help="site-a or site-b")
        return parser


class SandboxKill(_OfOneSite):
    """Kill the process of a site, and its guests with it: the disaster."""

    examples = ("antipode sandbox kill site-a",)

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        sandbox.kill(parsed_args.site)


class SandboxRevive(_OfOneSite):
    """Start a killed site again, with its content; its guests stay off until they are started."""

    examples = ("antipode sandbox revive site-a",)

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        sandbox.start(parsed_args.site)


class SandboxIsolate(_OfOneSite):
    """Cut a site off: it accepts connections and never answers."""

    examples = ("antipode sandbox isolate site-a",)

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        sandbox.isolate(parsed_args.site)


class SandboxRejoin(_OfOneSite):
    """End the isolation of a site."""

    examples = ("antipode sandbox rejoin site-a",)

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        sandbox.rejoin(parsed_args.site)


class SandboxFault(_OfOneSite):
    """Cause the faults of a scenario file at a site; without a file, end all faults."""

    examples = ("antipode sandbox fault site-a slow.yaml", "antipode sandbox fault site-a")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "scenario",
            metavar="FILE",
            type=Path,
            nargs="?",
            help="YAML: conditions and faults; see docs/sandbox.md",
        )
        return parser

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        from antipode.sandbox import scenario

        if parsed_args.scenario:
            scenario.play(sandbox, parsed_args.site, parsed_args.scenario)
        else:
            scenario.end(sandbox, parsed_args.site)

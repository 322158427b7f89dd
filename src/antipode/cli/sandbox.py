"""`antipode sandbox …`: embedded sites on this machine, for trying, training and tests."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antipode.cli.command import ListCommand
from antipode.config import default_state_dir
from antipode.errors import InvalidInput

if TYPE_CHECKING:
    from antipode.sandbox.supervision import Sandbox


def require_packages() -> None:
    """See that what the embedded sites are built on is installed.

    Raises:
        InvalidInput: it is not.
    """
    if importlib.util.find_spec("aiohttp") is None:
        raise InvalidInput(
            "embedded sites need packages that are not installed: pip install 'antipode[sandbox]'"
        )


class SandboxCommand(ListCommand):
    """A command about the embedded sites; shows them when it is done."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--directory",
            metavar="DIR",
            help="where the sites live (default: $ANTIPODE_SANDBOX, else the state directory)",
        )
        return parser  # type: ignore[no-any-return]

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
        """What the command does before the sites are shown."""


class SandboxStatus(SandboxCommand):
    """Show the embedded sites."""


class SandboxUp(SandboxCommand):
    """Have two embedded sites serve, with the example VNF at site-a; what is there already is left
    as it is.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--latency",
            type=float,
            metavar="FACTOR",
            help="multiply all latencies of the sites (0: none)",
        )
        parser.add_argument("--no-vnf", action="store_true", help="make no example VNF")
        return parser

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        from antipode.sandbox import canary, desk

        sandbox.up(parsed_args.latency)
        desk.write(sandbox)
        if not parsed_args.no_vnf:
            canary.have_at_one_site(sandbox)
        lines = [
            f"export OS_CLIENT_CONFIG_FILE={sandbox.directory / desk.CLOUDS}",
            f"export ANTIPODE_CONFIG={sandbox.directory / desk.CONFIGURATION}",
            f"antipode vnf add {sandbox.directory / desk.VNF_FILE}",
        ]
        print(
            "To work with them:", *(f"  {line}" for line in lines), sep="\n", file=self.app.stderr
        )


class SandboxDown(SandboxCommand):
    """End the embedded sites; what they hold is kept."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--wipe",
            action="store_true",
            help="forget what they hold, antipode's database there included",
        )
        return parser

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        sandbox.down(wipe=parsed_args.wipe)


class _OfOneSite(SandboxCommand):
    """A command about one of the sites."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("site", metavar="SITE")
        return parser


class SandboxKill(_OfOneSite):
    """The disaster: kill a site's process, and everything in it with it."""

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        sandbox.kill(parsed_args.site)


class SandboxRevive(_OfOneSite):
    """Start a killed site again, with what it held; its guests stay off until they are started."""

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        sandbox.start(parsed_args.site)


class SandboxIsolate(_OfOneSite):
    """Cut a site off: it takes connections and never answers."""

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        sandbox.isolate(parsed_args.site)


class SandboxRejoin(_OfOneSite):
    """End the isolation of a site."""

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        sandbox.rejoin(parsed_args.site)


class SandboxFault(_OfOneSite):
    """Make something go wrong at a site, as a scenario file says; without a file all faults end."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "scenario",
            metavar="FILE",
            nargs="?",
            help="YAML: conditions and faults; see docs/sandbox.md",
        )
        return parser

    def act(self, sandbox: Sandbox, parsed_args: argparse.Namespace) -> None:
        from antipode.sandbox import scenario

        if parsed_args.scenario:
            scenario.play(sandbox, parsed_args.site, Path(parsed_args.scenario))
        else:
            scenario.end(sandbox, parsed_args.site)

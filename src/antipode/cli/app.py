# SPDX-License-Identifier: Apache-2.0
"""The `antipode` command: global options, the table of commands, and exit codes."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, TextIO, cast

from cliff.app import App
from cliff.commandmanager import CommandManager

from antipode import __version__, config, logs
from antipode.cli import usage
from antipode.cli.streams import Heard
from antipode.errors import InvalidInput
from antipode.screen import Screen, copes_with_everything

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment

# TaskFlow imports eventlet where it is installed, as oslo.messaging does, and uses none of it here
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")  # half of its import

COMMANDS = {
    "site check": "site:SiteCheck",
    "vault list": "vault:VaultList",
    "vault show": "vault:VaultShow",
    "vault check": "vault:VaultCheck",
    "vault sync": "vault:VaultSync",
    "datastore conformance": "datastore:DatastoreConformance",
    "datastore list": "datastore:DatastoreList",
    "datastore prepare": "datastore:DatastorePrepare",
    "datastore remove": "datastore:DatastoreRemove",
    "datastore switch": "datastore:DatastoreSwitch",
    "datastore show": "datastore:DatastoreShow",
    "datastore status": "datastore:DatastoreStatus",
    "vnf add": "vnf:VnfAdd",
    "vnf list": "vnf:VnfList",
    "vnf show": "vnf:VnfShow",
    "vnf prepare": "vnf:VnfPrepare",
    "vnf remove": "vnf:VnfRemove",
    "volume show": "volume:VolumeShow",
    "protect": "protect:Protect",
    "protection list": "protection:ProtectionList",
    "protection pause": "protection:ProtectionPause",
    "protection resume": "protection:ProtectionResume",
    "recovery-point list": "recovery_point:RecoveryPointList",
    "recovery-point show": "recovery_point:RecoveryPointShow",
    "recovery-point verify": "recovery_point:RecoveryPointVerify",
    "recovery-point expire": "recovery_point:RecoveryPointExpire",
    "recovery-point delete": "recovery_point:RecoveryPointDelete",
    "key generate": "key:KeyGenerate",
    "key list": "key:KeyList",
    "key rotate": "key:KeyRotate",
    "key export": "key:KeyExport",
    "key import": "key:KeyImport",
    "precheck": "precheck:Precheck",
    "readiness": "readiness:Readiness",
    "forecast": "forecast:ForecastShow",
    "advise": "advise:Advise",
    "drill": "drill:Drill",
    "drill cleanup": "drill:DrillCleanup",
    "failover": "failover:Failover",
    "fence": "fence:Fence",
    "migrate": "migrate:Migrate",
    "failback": "migrate:Failback",
    "dns show": "dns:DnsShow",
    "dns switch": "dns:DnsSwitch",
    "plan put": "plan:PlanPut",
    "plan list": "plan:PlanList",
    "plan show": "plan:PlanShow",
    "plan remove": "plan:PlanRemove",
    "plan precheck": "plan:PlanPrecheck",
    "plan drill": "plan:PlanDrill",
    "plan failover": "plan:PlanFailover",
    "plan migrate": "plan:PlanMigrate",
    "plan failback": "plan:PlanFailback",
    "standing apply": "standing:StandingApply",
    "standing list": "standing:StandingList",
    "standing remove": "standing:StandingRemove",
    "reprotect": "reprotect:Reprotect",
    "undo": "undo:Undo",
    "commit": "undo:Commit",
    "event list": "event:EventList",
    "serve": "serve:Serve",
    "api": "serve:Api",
    "service status": "serve:ServiceStatus",
    "demo": "demo:Demo",
    "sandbox up": "sandbox:SandboxUp",
    "sandbox down": "sandbox:SandboxDown",
    "sandbox status": "sandbox:SandboxStatus",
    "sandbox kill": "sandbox:SandboxKill",
    "sandbox revive": "sandbox:SandboxRevive",
    "sandbox isolate": "sandbox:SandboxIsolate",
    "sandbox rejoin": "sandbox:SandboxRejoin",
    "sandbox fault": "sandbox:SandboxFault",
    "report": "report:Report",
    "report site": "report:ReportSite",
    "report verify": "report:ReportVerify",
    "report vnf": "report:ReportVnf",
    "run list": "run:RunList",
    "run show": "run:RunShow",
    "run watch": "run_watch:RunWatch",
    "run resume": "run:RunResume",
    "run abort": "run:RunAbort",
    "run answer": "run:RunAnswer",
    "run approve": "approval:RunApprove",
    "run reject": "approval:RunReject",
}

EXIT_CODES = """\
exit codes:
  0  done
  1  failed; the message says what happened, to which resource, and what to do
  2  wrong input: an option, a name, a file (with line and field), credentials; nothing was changed
  3  something needed is missing; nothing was frozen or created
  4  not confirmed; nothing was changed
  5  a site, or the jobboard, does not answer
  6  another run of the same VNF is under way
  7  another process has claimed the run, or the claim could not be renewed; the run continues
     there, or with: antipode run resume
  8  not approved: others have rejected the run, or none has approved it in time; nothing was
     changed
  130  interrupted by a signal; frozen members were unquiesced
  141  the output was not read to its end; the command did its work

An error is written to stderr as: antipode: [CODE] MESSAGE. With -f json it is an object with the
fields code, message, resource, exit_code and notes; for a wrong file also mistakes, each with line,
field and problem. docs/errors.md lists the codes.
"""


class Antipode(App):  # type: ignore[misc]
    """The application; gives commands the deployment that the configuration describes."""

    NAME = "antipode"

    def __init__(self) -> None:
        commands = CommandManager(None)
        for name, target in COMMANDS.items():
            commands.commands[name] = EntryPoint(name, f"antipode.cli.{target}", "antipode")
        copes_with_everything(sys.stdin, sys.stdout, sys.stderr)
        self.arguments: list[str] = []
        super().__init__(
            description="Geo-site disaster recovery for VNFs on OpenStack.",
            version=__version__,
            command_manager=commands,
            stdout=Screen(sys.stdout) if sys.stdout.isatty() else sys.stdout,
            stderr=Screen(cast("TextIO", Heard(sys.stderr))),
            deferred_help=True,
        )

    def build_option_parser(
        self, description: str | None, version: str | None, argparse_kwargs: Any = None
    ) -> argparse.ArgumentParser:
        parser = super().build_option_parser(
            description,
            version,
            {
                "epilog": EXIT_CODES,
                "formatter_class": argparse.RawDescriptionHelpFormatter,
                "prog": "antipode",
            },
        )
        parser.add_argument(
            "--config",
            metavar="FILE",
            help=f"configuration; else $ANTIPODE_CONFIG, else {', '.join(config.PLACES)}",
        )
        parser.add_argument(
            "--log-format",
            choices=["text", "json"],
            default="text",
            help="form of log lines (default: text)",
        )
        usage.report_errors(parser, self)
        return parser  # type: ignore[no-any-return]

    def run(self, argv: Sequence[str]) -> int:
        """Run a command; its exit code.

        Raises:
            SystemExit: the arguments are wrong, or the help was shown.
        """
        self.arguments = list(argv)
        return int(super().run(self.arguments))

    def run_subcommand(self, argv: list[str]) -> int:
        """Run the command that the arguments begin with; its exit code."""
        try:
            self.command_manager.find_command(argv)
        except ValueError:
            words = itertools.takewhile(lambda word: not word.startswith("-"), argv)
            name = " ".join(words) or argv[0]
            similar = ", ".join(self.get_fuzzy_matches(argv[0]))
            hint = f"Did you mean: {similar}" if similar else "See: antipode --help"
            usage.report(self, f"there is no command {name!r}. {hint}")
            return InvalidInput.exit_code
        return int(super().run_subcommand(argv))

    def configure_logging(self) -> None:
        """Log warnings to stderr, more with -v; the log file is opened with the deployment."""
        levels = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO}
        level = (
            logging.DEBUG
            if self.options.debug
            else levels.get(self.options.verbose_level, logging.DEBUG)
        )
        logs.log_to_stream(sys.stderr, level, self.options.log_format)

    def interact(self) -> None:
        """Show the help: there is no interactive shell."""
        self.parser.print_help(self.stdout)

    def deployment(self) -> Deployment:
        """The deployment of the configuration.

        Raises:
            InvalidInput: the configuration is missing or wrong.
        """
        settings = config.load(self.options.config)
        from pathlib import Path

        from antipode.engine.deployment import Deployment

        deployment = Deployment(settings)
        path = (
            Path(self.options.log_file)
            if self.options.log_file
            else settings.state_dir / "antipode.log"
        )
        logs.log_to_file(path, self.options.log_format)
        return deployment

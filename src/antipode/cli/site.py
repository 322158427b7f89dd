"""`antipode site …`: whether the sites have what antipode needs."""

from __future__ import annotations

import argparse
from typing import Any

from antipode.cli.command import ListCommand
from antipode.errors import PreflightFailed


class SiteCheck(ListCommand):
    """Check the sites, their services, the vault and the backup store; ends with 3 when something
    needed is missing.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.site_check import check_all

        checks = list(check_all(deployment))
        if any(c.needed and not c.ok for c in checks):
            self.exit_code = PreflightFailed.exit_code
        return ("check", "site", "ok", "needed", "detail"), [
            (c.check, c.site, c.ok, c.needed, c.detail) for c in checks
        ]

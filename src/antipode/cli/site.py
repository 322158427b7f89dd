# SPDX-License-Identifier: Apache-2.0
"""`antipode site …`: checks of the sites."""

from __future__ import annotations

import argparse
from typing import Any

from antipode.cli.command import ListCommand
from antipode.errors import PreflightFailed


class SiteCheck(ListCommand):
    """Check the sites, their services, the vault, the backup store, and whether each VNF can be
    protected, and recovered at its backup sites.

    Ends with exit code 3 when something that is needed is missing.
    """

    examples = ("antipode site check", "antipode site check -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.operations.site_check import check_all

        checks = list(check_all(deployment))
        if any(c.needed and not c.ok for c in checks):
            self.exit_code = PreflightFailed.exit_code
        return ("check", "site", "ok", "needed", "detail"), [
            (c.check, c.site, c.ok, c.needed, c.detail) for c in checks
        ]

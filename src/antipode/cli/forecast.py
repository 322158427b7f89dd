# SPDX-License-Identifier: Apache-2.0
"""`antipode forecast`: what would be lost if a site died now, and when it would be back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antipode.cli import arguments
from antipode.cli.command import ListCommand
from antipode.cli.layout import Nested
from antipode.errors import InvalidInput
from antipode.screen import moment

if TYPE_CHECKING:
    from antipode.model.forecast import Forecast
    from antipode.operations.forecasts import Foreseen, Kept

COLUMNS = (
    *("vnf", "to", "loses_s", "begins_in_s", "back_in_s", "error_s"),
    *("readiness", "blocked_by", "unmeasured", "basis"),
)
HISTORY = (
    *("made_at", "run", "kind", "vnf", "site", "back_in_s", "error_s", "took_s", "off_by_s"),
    "unmeasured",
)


class ForecastShow(ListCommand):
    """Forecast what would be lost if the active site died now, and when the VNF would be back: by
    what failovers and drills of this installation have taken, the sizes of volumes, the lengths of
    chains and the limits of the site. Vaults are read; no site is asked.

    With --plan or --site, all VNFs are recovered together, and a last line for each site says when
    the last of them is back, and names in `blocked_by` those that would not be. A field is empty
    where it was never measured; `unmeasured` names what.
    """

    spared = ("basis", "begins_in_s", "unmeasured")
    examples = (
        "antipode forecast hlr",
        "antipode forecast --site site-a -f json",
        "antipode forecast --plan site-a-is-lost",
        "antipode forecast hlr --history",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_any_vnf(parser, "name of the VNF (default: each)")
        parser.add_argument(
            "--plan",
            metavar="PLAN",
            type=arguments.name,
            help="a failover of all VNFs of a plan",
        )
        parser.add_argument("--file", metavar="FILE", type=Path, help="the file of that plan")
        parser.add_argument("--site", metavar="SITE", help="the loss of a site with all its VNFs")
        parser.add_argument(
            "--to",
            metavar="SITE",
            help="where they would be recovered (default: as the plan says, or the first site at "
            "which each is not active)",
        )
        parser.add_argument(
            "--history",
            action="store_true",
            help="what was forecast for drills and failovers as they began, and what they took",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        asked = parsed_args
        if sum(one is not None for one in (asked.vnf, asked.plan, asked.site)) > 1:
            raise InvalidInput("give one of VNF, --plan and --site")
        if asked.file is not None and asked.plan is None:
            raise InvalidInput("--file goes with --plan")
        if asked.history and (asked.plan or asked.site or asked.to):
            raise InvalidInput("--history goes with a VNF, or with nothing")
        deployment = self.app.deployment()
        from antipode.operations import forecasts

        if asked.history:
            return HISTORY, [_kept(kept) for kept in forecasts.history(deployment, asked.vnf)]
        if asked.vnf is not None:
            return COLUMNS, [_foreseen(forecasts.of_vnf(deployment, asked.vnf, asked.to))]
        if asked.plan is None and asked.site is None:
            if asked.to is not None:
                raise InvalidInput("--to goes with a VNF, --plan or --site")
            return COLUMNS, [_foreseen(found) for found in forecasts.of_all(deployment)]
        if asked.plan is not None:
            all_ = forecasts.of_plan(deployment, asked.plan, asked.to, asked.file)
        else:
            all_ = forecasts.of_site(deployment, asked.site, asked.to)
        rows = [_foreseen(found) for found in all_.each]
        for all_there in all_.all_of_them:
            whole, blocked = all_there.forecast, Nested(all_there.blocked)
            times, why = _times(whole), _why(whole)
            rows.append(("(all)", all_there.site, None, None, *times, None, blocked, *why))
        return COLUMNS, rows


def _foreseen(found: Foreseen) -> tuple[Any, ...]:
    return (
        found.vnf,
        found.to,
        found.loses_s,
        found.begins_in_s,
        *_times(found.forecast),
        found.readiness,
        Nested(found.blocked_by),
        *_why(found.forecast),
    )


def _times(found: Forecast | None) -> Sequence[float | None]:
    return (None, None) if found is None else (found.back_in_s, found.error_s)


def _why(found: Forecast | None) -> Sequence[Nested]:
    unmeasured, basis = ([], []) if found is None else (found.unmeasured, found.basis)
    return Nested(unmeasured), Nested(basis)


def _kept(kept: Kept) -> tuple[Any, ...]:
    return (
        moment(kept.made_at),
        kept.run,
        kept.kind,
        kept.vnf,
        kept.site,
        kept.back_in_s,
        kept.error_s,
        kept.took_s,
        kept.off_by_s,
        Nested(kept.unmeasured),
    )

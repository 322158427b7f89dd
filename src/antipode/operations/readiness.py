# SPDX-License-Identifier: Apache-2.0
"""Whether VNFs could be recovered, as the service has seen it. No site and no vault is asked."""

from __future__ import annotations

import time
from dataclasses import dataclass

from antipode.engine.deployment import Deployment
from antipode.errors import NotFound
from antipode.model.readiness import Level, reasons
from antipode.store.tables import ReadinessRow

STALE_AFTER = 3
"""Intervals without a look after which what was seen is not trusted any more."""


@dataclass(frozen=True)
class Ready:
    """Whether a VNF could be recovered at a site; moments are seconds since the epoch."""

    vnf: str
    site: str
    level: Level
    since: float
    looked_at: float
    is_stale: bool
    """whether the look is so old that it says little about now"""
    reasons: list[str]
    """why it is not green"""
    before: str | None
    looks: int


def ready(deployment: Deployment, vnf: str | None = None) -> list[Ready]:
    """How every VNF, or one, was seen last, at each site where it could be recovered.

    Raises:
        NotFound: the VNF was never added here.
    """
    _must_be_known(deployment, vnf)
    every_s, now = deployment.config.readiness.every, time.time()
    oldest = now - STALE_AFTER * every_s if every_s is not None else now
    return [_ready(row, row.seen_at < oldest) for row in deployment.readiness.current(vnf)]


def history(deployment: Deployment, vnf: str | None, most: int) -> list[Ready]:
    """What was seen, the newest first, one for each time in which it stayed the same.

    Raises:
        NotFound: the VNF was never added here.
    """
    _must_be_known(deployment, vnf)
    return [_ready(row, False) for row in deployment.readiness.history(vnf, most)]


def _must_be_known(deployment: Deployment, vnf: str | None) -> None:
    if vnf is not None and vnf not in deployment.vnfs.names():
        raise NotFound(f"VNF {vnf} is not known here; see: antipode vnf list")


def _ready(row: ReadinessRow, is_stale: bool) -> Ready:
    return Ready(
        row.vnf,
        row.site,
        Level(row.level),
        row.since,
        row.seen_at,
        is_stale,
        reasons(row.findings),
        row.before,
        row.looks,
    )

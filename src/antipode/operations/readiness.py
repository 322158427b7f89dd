# SPDX-License-Identifier: Apache-2.0
"""Whether VNFs could be recovered, as the service has seen it. No site and no vault is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

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
    level: Level | None
    """None: it was never looked at"""
    since: float | None
    looked_at: float | None
    is_stale: bool
    """whether the look is so old, or due for so long, that nothing is known about now"""
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
    seen = {
        (row.vnf, row.site): _ready(row, row.seen_at < oldest)
        for row in deployment.readiness.current(vnf)
        if row.site in deployment.config.sites
    }
    if every_s is not None:
        for name, site, since in _to_look_at(deployment, vnf):
            never = Ready(name, site, None, None, None, since < oldest, [], None, 0)
            seen.setdefault((name, site), never)
    return [seen[key] for key in sorted(seen)]


def _to_look_at(deployment: Deployment, vnf: str | None) -> Iterator[tuple[str, str, float]]:
    """Each VNF, or one, with each site where it could be recovered, and since when it is so."""
    added, states = deployment.vnfs.versions(), deployment.states.all()
    for one in deployment.vnfs.all():
        if vnf not in (None, one.vnf):
            continue
        state, since = states.get(one.vnf), added.get(one.vnf, 0.0)
        if state is not None and state.since is not None:
            since = max(since, datetime.fromisoformat(state.since).timestamp())
        active_site = state.active_site if state is not None else one.primary
        for site in one.sites:
            if site != active_site and site in deployment.config.sites:
                yield one.vnf, site, since


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

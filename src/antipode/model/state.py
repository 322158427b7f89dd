# SPDX-License-Identifier: Apache-2.0
"""Where a VNF is active: its site and generation, and the failovers that change them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from antipode.model.base import Model
from antipode.model.vnf import Name


def _is_moment(value: str) -> str:
    if (moment := datetime.fromisoformat(value)).utcoffset() is None:
        raise ValueError(f"{value} has no time zone")
    return moment.isoformat()


Moment = Annotated[str, AfterValidator(_is_moment)]
"""RFC 3339 with its offset, UTC where antipode writes it."""
HIGHEST_GENERATION = 10**9 - 1
Generation = Annotated[int, Field(ge=1, le=HIGHEST_GENERATION)]
"""1 at the primary of the VNF file; a failover begins the next. No number is used twice."""


class VnfState(StrEnum):
    """What a VNF is in the middle of."""

    ACTIVE = "active"
    """nothing: it runs at its active site, and can be protected there"""
    FAILING_OVER = "failing-over"
    """a failover has claimed the next generation, and has neither succeeded nor been aborted"""


class Claim(Model):
    """A failover's claim to the next generation of a VNF, as it is written to the vaults."""

    format: Literal[1] = 1
    vnf: Name
    generation: Annotated[int, Field(ge=2, le=HIGHEST_GENERATION)]
    site: Name
    """where the VNF is active once the failover has succeeded"""
    former_site: Name
    """where it was active before, and is again if the failover is aborted"""
    run: Annotated[str, Field(min_length=1, max_length=128)]
    host: Annotated[str, Field(min_length=1, max_length=255)]
    since: Moment


class Outcome(Model):
    """How a claim ended, as it is written to the vaults beside it."""

    format: Literal[2] = 2
    claim: Claim
    outcome: Literal["active", "released"]
    """active: the VNF runs at the claim's site; released: it is active where it was before"""
    since: Moment


class ProtectedVnf(Model):
    """The state of a VNF."""

    vnf: Name
    active_site: Name
    """where it runs; while it is failing over, where it ran last"""
    generation: Generation
    """of what runs at the active site; recovery points that are made there carry it"""
    state: VnfState = VnfState.ACTIVE
    since: Moment | None = None
    """since when it is in this state; None for a VNF that has never changed its site"""
    claim: Claim | None = None
    """of the failover under way, or else of the one that made the site the active one"""

    def __str__(self) -> str:
        since = f" since {self.since}" if self.since else ""
        if self.state is VnfState.FAILING_OVER and self.claim is not None:
            return (
                f"VNF {self.vnf} has been failing over from {self.active_site} to "
                f"{self.claim.site}{since} (run {self.claim.run} on host {self.claim.host})"
            )
        by = f" (run {self.claim.run} on host {self.claim.host})" if self.claim else ""
        return f"VNF {self.vnf} is active at {self.active_site}{since}{by}"

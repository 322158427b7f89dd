# SPDX-License-Identifier: Apache-2.0
"""Where a VNF is active: its site and generation, and the failovers that change them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

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
    undo_within_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """for how many seconds after its success the failover can be undone; None: it cannot"""

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(self, serialize: SerializerFunctionWrapHandler) -> Any:
        """A claim that cannot be undone is written as versions wrote it that knew no undo: they
        refuse what they do not know, and a claim that does not count would be claimed twice.
        """
        written = serialize(self)
        if self.undo_within_s is None:
            written.pop("undo_within_s", None)
        return written


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

    @property
    def undo_until(self) -> float | None:
        """Until when the failover that made the site the active one can be undone, unless that was
        committed, in seconds since the epoch; None: it cannot be undone.
        """
        within_s = self.claim.undo_within_s if self.claim is not None else None
        if self.state is not VnfState.ACTIVE or within_s is None or self.since is None:
            return None
        return datetime.fromisoformat(self.since).timestamp() + within_s

    def __str__(self) -> str:
        since = f" since {self.since}" if self.since else ""
        if self.state is VnfState.FAILING_OVER and self.claim is not None:
            return (
                f"VNF {self.vnf} has been failing over from {self.active_site} to "
                f"{self.claim.site}{since} (run {self.claim.run} on host {self.claim.host})"
            )
        by = f" (run {self.claim.run} on host {self.claim.host})" if self.claim else ""
        return f"VNF {self.vnf} is active at {self.active_site}{since}{by}"

# SPDX-License-Identifier: Apache-2.0
"""The settings of option 1 in the VNF file."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from antipode.model.base import Model, Seconds
from antipode.model.schedule import Hours


class Quiesce(Model):
    timeout: Annotated[Seconds, Field(gt=0, le=600)] = 30.0
    """The longest time a member may stay frozen; past it the member is unquiesced in any case."""
    budget: Annotated[Seconds, Field(gt=0, le=600)] | None = None
    """How long the quiesce window should last at most; a longer one is reported, and kept."""
    avoid: Hours = Field(default_factory=list)
    """Hours of the day in which the schedule has no member quiesced."""

    @model_validator(mode="after")
    def _budget_is_within(self) -> Self:
        if self.budget is not None and self.budget > self.timeout:
            raise ValueError(
                f"budget {self.budget:g} s is more than timeout {self.timeout:g} s, after which "
                "members are unquiesced"
            )
        return self


class Settings(Model):
    quiesce: Quiesce = Quiesce()
    transfer: Literal["cinder_backup", "change_stream"] = "cinder_backup"
    """change_stream: what the storage says has changed, where this host can read it; what cannot
    go so is backed up by Cinder.
    """

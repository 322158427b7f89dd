# SPDX-License-Identifier: Apache-2.0
"""After how many backups, or after what time, a chain ends with a full one."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from antipode.model.base import Model, Seconds, Whole


class FullEvery(Model):
    """When a chain ends: after so many backups, or when its full one is so old."""

    backups: Annotated[Whole, Field(ge=1, le=100_000)] | None = None
    age: Annotated[Seconds, Field(gt=0)] | None = None
    """seconds"""

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if (self.backups is None) == (self.age is None):
            raise ValueError("give a number of recovery points, or an age as 7d")
        return self

    def reason(self, backups: int, age_s: float) -> str | None:
        """Why a chain of so many backups, whose full one is so old, ends; None if it does not."""
        if self.backups is not None and backups >= self.backups:
            return f"the chain has {backups} backups (full_every: {self.backups})"
        if self.age is not None and age_s >= self.age:
            return f"the chain began {age_s / 86400:.1f} days ago (full_every)"
        if self.age is not None and age_s <= -self.age:
            return "the chain began in the future: a clock was wrong (full_every)"
        return None


def _as_full_every(value: object) -> object:
    """A plain number is one of recovery points, a text an age."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"backups": value}
    return {"age": value} if isinstance(value, str) else value


AnyFullEvery = Annotated[FullEvery, BeforeValidator(_as_full_every)]
DEFAULT_FULL_EVERY = FullEvery(backups=24)

# SPDX-License-Identifier: Apache-2.0
"""The settings of option 1 in the VNF file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from antipode.model.base import Model, Seconds


class Quiesce(Model):
    timeout: Annotated[Seconds, Field(gt=0, le=600)] = 30.0
    """The longest time a member may stay frozen; past it the member is unquiesced in any case."""


class Settings(Model):
    quiesce: Quiesce = Quiesce()

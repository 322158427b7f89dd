# SPDX-License-Identifier: Apache-2.0
"""The settings of option 3 in the VNF file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from antipode.model.base import Model, Seconds
from antipode.protect.quiesced_snapshot.settings import Quiesce


class Settings(Model):
    quiesce: Quiesce = Quiesce()
    arrives_within: Annotated[Seconds, Field(gt=0)] = 600.0
    """how long after the quiesce window the states may take to be whole at a backup site"""

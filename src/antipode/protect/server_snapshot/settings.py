# SPDX-License-Identifier: Apache-2.0
"""The settings of option 2 in the VNF file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from antipode.model.base import Model, Seconds


class Quiesce(Model):
    timeout: Annotated[Seconds, Field(gt=0, le=600)] = 60.0
    """The longest time from the call of createImage until all snapshots of the member are
    available; past it the member is unquiesced in any case.
    """
    required: bool = True
    """Whether a member is captured only if its image demands a quiesce (`os_require_quiesce`).

    Without that, Nova snapshots a guest that it could not quiesce, and does not say so.
    """


class Settings(Model):
    quiesce: Quiesce = Quiesce()

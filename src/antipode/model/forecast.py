# SPDX-License-Identifier: Apache-2.0
"""How long the recovery of a VNF would take, as far as earlier ones say it."""

from __future__ import annotations

from antipode.model.base import Model


class Forecast(Model):
    """How long a recovery would take, from what earlier ones have taken."""

    back_in_s: float | None
    """seconds; None where something that is needed was never measured"""
    error_s: float | None
    """by how much that may be wrong"""
    basis: list[str]
    """what it rests on, in words"""
    unmeasured: list[str] = []
    """what was never measured here"""

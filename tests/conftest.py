# SPDX-License-Identifier: Apache-2.0
"""Tests of properties try the same examples each time, and no machine is too slow for them."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "at any pace",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("at any pace")

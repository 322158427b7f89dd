# SPDX-License-Identifier: Apache-2.0
"""Spans of time in arguments, such as 45m or 2h."""

from __future__ import annotations

import argparse
import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """The seconds of a span: a number with one of the units s, m, h, d; seconds without.

    Raises:
        ArgumentTypeError: it is none.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", text, re.ASCII)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text} is no time, such as 45m, 2h or 1d")
    return float(found[1]) * UNITS[found[2] or "s"]

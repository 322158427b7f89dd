# SPDX-License-Identifier: Apache-2.0
"""Text of the API for a terminal: names of servers and volumes may hold anything."""

from __future__ import annotations


def in_one_line(text: str) -> str:
    """The text with each character that could steer a terminal, or hide, as its escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

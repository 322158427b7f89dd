# SPDX-License-Identifier: Apache-2.0
"""Text for people: a character that could steer a terminal, or hide, is written as its escape.

Names come from clouds and from manifests, and may hold anything. Output for programs (`-f json`)
does not pass here.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import TextIO


def visible(text: str, keep: str = "") -> str:
    """The text in one line, each unseen character as its escape (`\\x1b`, `\\n`, `\\u202e`):
    controls (C0, C1), bidi overrides, zero-width characters, surrogates, and every space but the
    plain one.

    Args:
        keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escape(c) for c in text)


def paragraph(text: str) -> str:
    """A message of several lines: those after the first are indented, so that a line break inside a
    name cannot begin a message of its own.
    """
    first, *others = (visible(line) for line in text.split("\n"))
    return "\n".join([first, *(f"  {line}" for line in others)])


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


class Screen(io.TextIOBase):
    """A stream to which only visible text, tabs and line breaks get through.

    `raw` is the stream below, for a library that steers the terminal on purpose.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        self.raw.write(visible(text, keep="\n\t"))
        return len(text)

    def flush(self) -> None:
        self.raw.flush()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def fileno(self) -> int:
        return self.raw.fileno()

    def writable(self) -> bool:
        return True


def copes_with_everything(*streams: TextIO) -> None:
    """Have streams write a character that their encoding lacks as its escape, and read a byte that
    it lacks as such: a command must not fail after its work because a name is not ASCII.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def moment(seconds: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339, UTC."""
    return (
        None
        if seconds is None
        else datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def span(seconds: float) -> str:
    """A duration for people: `42 s`, `17 min`, `5 h 10 min`, `3 d 4 h`."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 3:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if days < 1 else f"{days} d {hours % 24} h"

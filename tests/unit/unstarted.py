# SPDX-License-Identifier: Apache-2.0
"""The program of `twosites`, which answers without being started: that takes its time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antipode import processes
from tests.unit import twosites


def answered_here(
    words: Sequence[str], request: bytes, *_limits: Any, **_more: Any
) -> processes.Answered:
    """In the place of `processes.ask`."""
    place = Path(words[0].removesuffix("-command") + ".json")
    code, said, error, hangs = twosites.handle(place, json.loads(request))
    return processes.Answered(None if hangs else code, said, False, error)

# SPDX-License-Identifier: Apache-2.0
"""Counts the HTTP requests of any Python program that has this folder on its PYTHONPATH and
BENCH_CALLS in its environment.
"""

from __future__ import annotations

import atexit
import http.client
import itertools
import os
from pathlib import Path
from typing import Any

if "BENCH_CALLS" in os.environ:
    _calls = itertools.count()
    _putrequest = http.client.HTTPConnection.putrequest

    def _counted(self: http.client.HTTPConnection, *args: Any, **options: Any) -> None:
        next(_calls)  # atomic, unlike += under threads
        _putrequest(self, *args, **options)

    def _report(file: str) -> None:
        with Path(file).open("a") as out:
            out.write(f"{next(_calls)}\n")

    http.client.HTTPConnection.putrequest = _counted  # type: ignore[method-assign]
    atexit.register(_report, os.environ["BENCH_CALLS"])

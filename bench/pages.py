# SPDX-License-Identifier: Apache-2.0
"""How long the first page of the console takes and how large it is with all its files, and its list
of many VNFs, with a search in it: as a browser without a cache gets them.
"""

from __future__ import annotations

import re
import statistics
import time
from typing import Any

import requests

TIMES = 5
GOAL_S = 2.0
GOAL_BYTES = 2 * 10**6
PAGES = {"first": "/", "vnfs": "/vnfs", "vnfs, last page": "/vnfs?page=9999", "search": "/vnfs?q="}
FILE = re.compile(r'(?:src|href)="([^"]+\.(?:css|js|svg|png|webp|woff2)[^"]*)"')
FORM = re.compile(r'name="csrf" value="([^"]+)"')


def measured(url: str, user: str, password: str, search: str) -> dict[str, dict[str, Any]]:
    """The seconds and bytes of each page for a user that logs in.

    Args:
        url: of the service.
        search: words that some names have.
    """
    with requests.Session() as http:
        http.trust_env = False
        _log_in(http, f"{url}/console", user, password)
        return {
            name: _page(http, url, f"/console{path}{search if name == 'search' else ''}")
            for name, path in PAGES.items()
        }


def missed(found: dict[str, dict[str, Any]]) -> list[str]:
    """The pages that took too long, or are too large."""
    return [n for n, p in found.items() if p["longest_s"] > GOAL_S or p["bytes"] > GOAL_BYTES]


def _log_in(http: requests.Session, console: str, user: str, password: str) -> None:
    form = FORM.search(http.get(f"{console}/login", timeout=60).text)
    assert form is not None
    given = {"csrf": form[1], "user": user, "password": password}
    answer = http.post(f"{console}/login", data=given, allow_redirects=False, timeout=60)
    assert answer.status_code == 303, answer.text


def _page(http: requests.Session, url: str, path: str) -> dict[str, Any]:
    taken, size = [], 0
    for _ in range(TIMES):
        began = time.monotonic()
        answer = http.get(f"{url}{path}", timeout=60)
        assert answer.status_code == 200, (path, answer.status_code)
        files = [http.get(f"{url}{name}", timeout=60) for name in set(FILE.findall(answer.text))]
        assert all(file.status_code == 200 for file in files)
        taken.append(time.monotonic() - began)
        size = sum(len(one.content) for one in (answer, *files))
    return {
        "median_s": round(statistics.median(taken), 3),
        "longest_s": round(max(taken), 3),
        "bytes": size,
    }

# SPDX-License-Identifier: Apache-2.0
"""Two embedded sites, a service with the console, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from antipode.sandbox.visit import Visit
from tests.console.browser import Browser
from tests.ports import free_port

LATENCY = 0.02


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    made = Visit(tmp_path_factory.mktemp("desk"), free_port(), LATENCY)
    try:
        made.lay_out()
        with made.serving():
            yield made
    finally:
        made.down()


@pytest.fixture
def browser(laid: Visit) -> Iterator[Browser]:
    made = Browser(laid.url)
    try:
        yield made
    finally:
        made.quit()

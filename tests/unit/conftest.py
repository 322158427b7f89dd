# SPDX-License-Identifier: Apache-2.0
"""Reports of tests that any process can pass on (xdist sends them as UTF-8), keys, waits that look
often, and databases that are made at once and do not wait for the disk.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from typing import Any

import pytest

from antipode.cloud import watch
from antipode.engine import flows
from antipode.store import database
from tests import keys
from tests.unit import databases

keys.share()
for _wait in (watch.Watch.wait_for, watch.Watch.wait_gone):
    assert _wait.__kwdefaults__ is not None
    # a fake cloud may be asked as often as we like
    _wait.__kwdefaults__["interval_s"] = 0.005


def _unsynced(prepare: Callable[..., None]) -> Callable[..., None]:
    """A test's database has no power cut to survive; a killed process loses nothing by this."""

    def prepare_for_tests(connection: Any, record: object) -> None:
        prepare(connection, record)
        connection.execute("PRAGMA synchronous = OFF")

    return prepare_for_tests


database._prepare_sqlite = _unsynced(database._prepare_sqlite)
flows._prepare_sqlite = _unsynced(flows._prepare_sqlite)
database._migrate = databases.make_tables
database._connected = databases.connect


@pytest.fixture
def migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """New databases are migrated from nothing, as an operator's are."""
    monkeypatch.setattr(database, "_migrate", databases.migrate)


def pytest_collection_finish() -> None:
    """What is there when the tests begin stays until they end: it need not be looked through each
    time that garbage is collected.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in what a test has logged or printed, and in why it failed."""
    report = yield
    report.sections = [(name, _escaped(text)) for name, text in report.sections]
    if report.longrepr is not None and (text := str(report.longrepr)) != _escaped(text):
        report.longrepr = _escaped(text)
    return report


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()

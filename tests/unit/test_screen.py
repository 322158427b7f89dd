# SPDX-License-Identifier: Apache-2.0
"""Names from clouds and manifests: a terminal gets no character of theirs that steers it."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antipode import logs
from antipode.cli import progress, run_watch
from antipode.cli.layout import Nested, within
from antipode.engine.timeline import StepRecord
from antipode.screen import Screen, copes_with_everything, paragraph, visible

EVIL = "db\x1b[2J\n\x9b31m\u202e\x07\r\ud800end"
ANY = st.text(st.characters(codec=None))


@given(ANY)
def test_visible_text_is_one_line_that_steers_nothing(text: str) -> None:
    assert visible(text).isprintable()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_text_that_is_seen_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@given(ANY)
def test_a_line_break_in_a_name_begins_no_message(text: str) -> None:
    assert all(line.startswith("  ") for line in paragraph(text).splitlines()[1:])


def test_a_screen_lets_line_breaks_through_and_nothing_else() -> None:
    raw = io.StringIO()
    print(EVIL, file=Screen(raw))
    assert raw.getvalue().count("\n") == 2
    assert_harmless(raw.getvalue())


def assert_harmless(text: str) -> None:
    assert not set("\x1b\x9b\u202e\x07\r\ud800") & set(text)


@pytest.mark.parametrize("value", [EVIL, Nested([EVIL, {"a": EVIL, EVIL: [EVIL]}])])
def test_a_cell_of_a_table_is_harmless(value: Any) -> None:
    assert_harmless(within(value, 60))


def test_a_line_of_progress_is_one_line() -> None:
    stream = io.StringIO()
    with progress.shown(stream) as observer:
        observer.step_ended(StepRecord("1", "boot", EVIL, 0, 1, "failed", {"error": EVIL}))
    assert stream.getvalue().count("\n") == 1
    assert_harmless(stream.getvalue())


def test_a_watched_step_is_one_line() -> None:
    step: Any = StepRecord("1", "boot", EVIL, 0, 1, "failed", {"error": EVIL})
    line = run_watch._ended_line(step)
    assert "\n" not in line
    assert_harmless(line)


def test_a_record_of_a_log_is_one_line_and_its_traceback_is_indented() -> None:
    record = logging.LogRecord("a", logging.ERROR, "", 0, "%s", (EVIL,), None)
    record.run = "-"
    form = logs._Text(logs.TEXT)
    assert "\n" not in form.format(record)
    try:
        raise ValueError("one\n2026-01-01 INFO forged")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    _, *others = form.format(record).split("\n")
    assert others
    assert all(line.startswith("  ") for line in others)


def test_a_stream_in_ascii_writes_any_name() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    copes_with_everything(stream)
    stream.write("zürich …\ud800")
    stream.flush()
    assert raw.getvalue() == b"z\\xfcrich \\u2026\\ud800"

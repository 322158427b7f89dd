# SPDX-License-Identifier: Apache-2.0
"""The slots of a schedule: by interval and by cron expression, across changes of the clocks."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from antipode.model.schedule import DailyHours, Schedule
from antipode.protect.quiesced_snapshot.settings import Settings

BERLIN = "Europe/Berlin"
EXPRESSIONS = ("*/15 * * * *", "30 2 * * *", "0 */2 * * *", "5 4 * * 1-5", "59 23 31 12 *")


def at(moment: str, zone: str = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def schedule(**fields: Any) -> Schedule:
    return Schedule.model_validate(fields)


@pytest.mark.parametrize(
    ("moment", "last", "next_one"),
    [
        ("2026-11-29T10:14:59", "2026-11-29T10:00", "2026-11-29T10:15"),
        ("2026-11-29T10:15:00", "2026-11-29T10:15", "2026-11-29T10:30"),
    ],
)
@pytest.mark.parametrize("fields", [{"every": "15m"}, {"cron": "*/15 * * * *", "timezone": BERLIN}])
def test_a_slot_belongs_to_the_time_from_it_on(
    fields: dict[str, str], moment: str, last: str, next_one: str
) -> None:
    made = schedule(**fields)
    assert (made.slot_at(at(moment)), made.slot_after(at(moment))) == (at(last), at(next_one))


@pytest.mark.parametrize(
    ("cron", "moment", "last"),
    [
        # clocks go from 02:00 to 03:00: what was due between is due at once
        ("30 2 * * *", "2026-03-29T03:05", "2026-03-29T03:00"),
        ("*/15 * * * *", "2026-03-29T03:05", "2026-03-29T03:00"),
        ("0 3 29 2 *", "2026-11-29T10:00", "2024-02-29T03:00"),
        ("0 9 * * 1-5", "2026-11-29T10:00", "2026-11-27T09:00"),  # a Sunday
    ],
)
def test_a_cron_expression_is_due_by_the_clock_on_the_wall(
    cron: str, moment: str, last: str
) -> None:
    assert schedule(cron=cron, timezone=BERLIN).slot_at(at(moment)) == at(last)


def test_a_daily_slot_comes_once_when_the_clocks_are_set_back() -> None:
    daily = schedule(cron="30 2 * * *", timezone=BERLIN)
    slots = list(daily.slots_between(at("2026-10-24T12:00"), at("2026-10-26T12:00")))
    assert slots == [at("2026-10-25T02:30"), at("2026-10-26T02:30")]


@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from([BERLIN, "UTC", "America/St_Johns", "Australia/Lord_Howe"]),
    st.floats(min_value=1.7e9, max_value=1.9e9),
)
@settings(max_examples=60)
def test_the_last_and_the_next_slot_enclose_every_moment(
    cron: str, zone: str, moment: float
) -> None:
    made = schedule(cron=cron, timezone=zone)
    last, following = made.slot_at(moment), made.slot_after(moment)
    assert last is not None
    assert last <= moment < following
    assert list(made.slots_between(last, following)) == []


@given(st.integers(min_value=60, max_value=10**6), st.floats(min_value=0, max_value=4e9))
def test_an_interval_has_one_slot_in_each_interval(every: int, moment: float) -> None:
    made = schedule(every=every)
    last, following = made.slot_at(moment), made.slot_after(moment)
    assert last is not None
    assert last <= moment < following
    assert following - last == pytest.approx(every)


def test_slots_between_two_moments_are_without_those_at_their_ends() -> None:
    for made in (schedule(every="15m"), schedule(cron="*/15 * * * *")):
        found = list(made.slots_between(at("2026-11-29T10:00"), at("2026-11-29T11:00")))
        assert found == [at(f"2026-11-29T10:{minute}") for minute in (15, 30, 45)]
        assert list(made.slots_between(9e8, 9e8 - 1)) == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"every": "15m", "cron": "* * * * *"},
        {"every": "59s"},
        {"every": 90.5},
        {"every": "400d"},
        {"every": float("nan")},
        {"every": "15m", "jitter": "15m"},
        {"every": "15m", "catch_up": "all"},
        {"cron": "* * * * * *"},
        {"cron": "99 * * * *"},
        {"cron": "0 0 30 2 *"},
        {"cron": "\0 0 * * *"},
        {"cron": "0 0 * * *", "timezone": "Mars/Olympus"},
        {"cron": "0 0 * * *", "timezone": "../../etc/passwd"},
        {"every": "15m", "colour": "red"},
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        schedule(**fields)


@pytest.mark.parametrize("cron", ["* * *", "", "* * * * * *"])
def test_an_expression_with_another_number_of_fields_is_refused_for_that(cron: str) -> None:
    with pytest.raises(ValidationError, match="five fields"):
        schedule(cron=cron)


def test_the_delay_of_a_vnf_is_always_the_same_and_spreads_many() -> None:
    made = schedule(every="15m", jitter="5m")
    delays = [made.delay_s(f"vnf-{number}/quiesced-snapshot") for number in range(200)]
    assert delays == [made.delay_s(f"vnf-{number}/quiesced-snapshot") for number in range(200)]
    assert all(0 <= delay < 300 for delay in delays)
    assert all(any(part <= d < part + 60 for d in delays) for part in range(0, 300, 60))
    assert schedule(every="15m").delay_s("vnf-1") == 0


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("08:00-09:00", ["08:00", "08:59"], ["07:59", "09:00", "20:30"]),
        ("22:00-06:00", ["22:00", "00:00", "05:59"], ["06:00", "21:59"]),
        ("20:00-24:00", ["20:00", "23:59"], ["00:00", "19:59"]),
    ],
)
def test_hours_of_the_day_begin_at_the_first_minute_and_end_before_the_last(
    hours: str, inside: list[str], outside: list[str]
) -> None:
    made = DailyHours.model_validate(hours)
    assert str(made) == hours
    for moment in inside + outside:
        assert made.has(datetime.fromisoformat(f"2026-11-29T{moment}")) == (moment in inside)


@pytest.mark.parametrize(
    "hours", ["8-9", "08:00", "08:00-08:00", "00:00-24:00", "08:60-09:00", "24:30-09:00", "-", ""]
)
def test_hours_that_are_none_are_refused(hours: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"quiesce": {"avoid": hours}})


def test_a_freeze_budget_is_within_the_timeout() -> None:
    assert Settings.model_validate({"quiesce": {"budget": "3s"}}).quiesce.budget == 3
    with pytest.raises(ValidationError):
        Settings.model_validate({"quiesce": {"budget": "31s"}})

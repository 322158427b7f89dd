# SPDX-License-Identifier: Apache-2.0
"""When a protection is due: its slots in time, and the hours of a day that it avoids.

Nothing here reads a clock: a moment is given, in seconds since the epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, takewhile
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from antipode.model.base import Model, Seconds

SHORTEST_S, LONGEST_S = 60.0, 366 * 86400.0
"""The intervals that a schedule may have."""
_LOOK_BACK = (timedelta(minutes=5), timedelta(hours=3), timedelta(days=3), timedelta(days=400))
_LONGEST_LOOK = timedelta(days=366 * 8 + 1)
"""An expression for 29 February may have no slot for eight years."""
MOST_COUNTED = 10_000
"""Slots that are looked at one by one, when the scheduler has been away for very long."""


class DailyHours(Model):
    """A part of each day, written `08:00-09:00`; one that ends before it begins goes over midnight.

    `begins` and `ends` are minutes since midnight; the minute of the end is not part of it.
    """

    begins: Annotated[int, Field(ge=0, lt=1440)]
    ends: Annotated[int, Field(ge=0, le=1440)]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        begins, dash, ends = (part.strip() for part in value.partition("-"))
        if not dash:
            raise ValueError(f"{value!r} are no hours of a day; write for example 08:00-09:00")
        return {"begins": _minutes(begins), "ends": _minutes(ends)}

    @model_validator(mode="after")
    def _is_a_part(self) -> Self:
        if self.begins == self.ends or (self.begins, self.ends) == (0, 1440):
            raise ValueError(f"{self} leaves no time of the day, or takes none")
        return self

    def has(self, moment: datetime) -> bool:
        """Whether a moment, by the clock on the wall, is in these hours."""
        minute = moment.hour * 60 + moment.minute
        if self.begins < self.ends:
            return self.begins <= minute < self.ends
        return minute >= self.begins or minute < self.ends

    def __str__(self) -> str:
        return f"{_clock(self.begins)}-{_clock(self.ends)}"


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    if not (len(hours) == len(minutes) == 2 and hours.isdecimal() and minutes.isdecimal()):
        raise ValueError(f"{clock!r} is no time of day; write for example 08:00")
    if int(minutes) > 59 or int(hours) * 60 + int(minutes) > 1440:
        raise ValueError(f"{clock!r} is no time of day")
    return int(hours) * 60 + int(minutes)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Hours = Annotated[list[DailyHours], BeforeValidator(_as_list)]
"""Hours of the day; a single one may be written without a list."""


class Schedule(Model):
    """When a protection is due: at a fixed interval, or by a cron expression in a time zone.

    A slot is a moment at which it is due. All hosts find the same slots without asking each other.
    """

    every: Annotated[Seconds, Field(ge=SHORTEST_S, le=LONGEST_S)] | None = None
    """the interval in seconds; slots are its multiples since the epoch, so `24h` is midnight UTC"""
    cron: Annotated[str, StringConstraints(max_length=256)] | None = None
    """five fields, as in crontab(5) of Debian"""
    timezone: str = "UTC"
    """for `cron`, and for hours of the day in the settings of the protection"""
    jitter: Annotated[Seconds, Field(ge=0, le=86400)] = 0.0
    """each VNF begins at its own fixed delay after a slot, between 0 and this many seconds, so
    that not all begin at once; a fixed one keeps the intervals of a VNF as they are
    """
    catch_up: Literal["one", "none"] = "one"
    """of slots at which it could not begin, the newest is made up for, or none is"""

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        if (self.every is None) == (self.cron is None):
            raise ValueError("give either every or cron")
        try:
            zone = ZoneInfo(self.timezone)
        except (OSError, ValueError, LookupError) as error:
            raise ValueError(
                f"{self.timezone!r} is not a time zone of this host; for example: Europe/Berlin"
            ) from error
        if self.every is not None and self.every % 1:
            # of others a float can lie before its own slot
            raise ValueError(f"every must be whole seconds, not {self.every!r}")
        if self.every is not None and self.jitter >= self.every:
            raise ValueError(f"jitter must be shorter than every ({self.every:g} s)")
        if self.cron is not None:
            if len(self.cron.split()) != 5:
                raise ValueError(f"{self.cron!r} has not the five fields of a cron expression")
            try:
                next(CronSim(self.cron, datetime(2024, 1, 1, tzinfo=zone)))
            except CronSimError as error:
                raise ValueError(f"{self.cron!r} is no cron expression: {error}") from error
            except StopIteration:
                raise ValueError(f"{self.cron!r} is never due") from None
        return self

    @property
    def zone(self) -> tzinfo:
        return UTC if self.timezone == "UTC" else ZoneInfo(self.timezone)

    def local(self, moment: float) -> datetime:
        """A moment by the clock on the wall of the schedule's time zone."""
        return datetime.fromtimestamp(moment, self.zone)

    @property
    def followed(self) -> str:
        """All that decides when its slots are, and not how it catches up."""
        return self.model_dump_json(exclude={"catch_up"}, exclude_defaults=True)

    def delay_s(self, of: str) -> float:
        """The delay after each slot, always the same for one protection.

        Args:
            of: names the protection.
        """
        digest = hashlib.sha256(of.encode()).digest()
        return round(int.from_bytes(digest[:8]) / 2**64 * self.jitter, 3)

    def slot_at(self, moment: float) -> float | None:
        """The last slot that is not after a moment; None where there has been none for years."""
        if self.every is not None:
            return moment // self.every * self.every
        for back in (*_LOOK_BACK, _LONGEST_LOOK):
            last = None
            for slot in self._slots_after(moment - back.total_seconds()):
                if slot > moment:
                    break
                last = slot
            if last is not None:
                return last
        return None

    def slot_after(self, moment: float) -> float:
        """The first slot after a moment."""
        if self.every is not None:
            return (moment // self.every + 1) * self.every
        return next(self._slots_after(moment))

    def slots_between(self, after: float, before: float) -> Iterator[float]:
        """The slots between two moments in their order, without those at the moments themselves;
        the first `MOST_COUNTED` of them.
        """
        slots = self._slots_after(after) if self.every is None else self._multiples_after(after)
        return takewhile(lambda slot: slot < before, islice(slots, MOST_COUNTED))

    def _multiples_after(self, moment: float) -> Iterator[float]:
        assert self.every is not None  # one of the two is given
        slot = self.slot_after(moment)
        while True:
            yield slot
            slot = self.slot_after(slot)

    def _slots_after(self, moment: float) -> Iterator[float]:
        """The slots of the cron expression after a moment, in their order.

        cronsim may give one twice when clocks are set back.
        """
        assert self.cron is not None  # one of the two is given
        last = moment
        for found in CronSim(self.cron, self.local(moment)):
            if (slot := found.timestamp()) > last:
                last = slot
                yield slot

    def __str__(self) -> str:
        if self.every is not None:
            return f"every {_span(self.every)}"
        return f"{self.cron} ({self.timezone})"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"

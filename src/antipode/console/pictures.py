# SPDX-License-Identifier: Apache-2.0
"""The geometry of pictures: where bars, boxes and marks are. Templates draw them as SVG."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

from antipode.model.topology import Server, Topology
from antipode.store.tables import StepRow

WIDTH = 1000.0
"""Of a chart, in units of its picture."""
SMALLEST = 3.0
"""Of a bar, so that a short step can be seen."""
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)
"""Seconds between two marks of an axis."""


class Bar(NamedTuple):
    """A step on the time line of a run."""

    step: StepRow
    x: float
    width: float


class Tick(NamedTuple):
    """A mark of an axis."""

    x: float
    words: str


@dataclass(frozen=True)
class Gantt:
    """The steps of a run on its time line."""

    bars: Sequence[Bar]
    ticks: Sequence[Tick]
    left_out: int
    """earlier steps that are not drawn"""


def gantt(steps: Sequence[StepRow], begins: float, ends: float, most: int) -> Gantt:
    """Steps between two moments (seconds since the epoch).

    Args:
        most: so many are drawn, the newest ones; those under way are always among them.
    """
    length = max(ends - begins, 1.0)
    under_way = [s for s in steps if s.state == "running"]
    over = [s for s in steps if s.state != "running"]
    kept = {id(s) for s in [*over[max(len(over) - most, 0) :], *under_way]}
    drawn = [s for s in steps if id(s) in kept]
    return Gantt(
        [_bar(step, begins, ends, length) for step in drawn],
        _ticks(length),
        len(steps) - len(drawn),
    )


def _bar(step: StepRow, begins: float, ends: float, length: float) -> Bar:
    x = min(max((step.started_at - begins) / length, 0.0), 1.0) * WIDTH
    end = step.ended_at if step.ended_at is not None else ends
    if step.state not in ("running",) and step.ended_at is None:
        end = step.started_at
    width = max((end - step.started_at) / length * WIDTH, SMALLEST)
    x = min(x, WIDTH - SMALLEST)
    return Bar(step, round(x, 2), round(min(width, WIDTH - x), 2))


def _ticks(length: float) -> list[Tick]:
    every = next((t for t in TICKS if length / t <= 8), TICKS[-1])
    if length > 8 * every:
        every = math.ceil(length / 8 / every) * every
    found = []
    for number in range(int(length // every) + 1):
        seconds = number * every
        if seconds / length > 0.97:
            break
        found.append(Tick(round(seconds / length * WIDTH, 2), _after(seconds)))
    return found


def _after(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        rest = seconds % 60
        return f"{seconds // 60:.0f} min" + (f" {rest:.0f} s" if rest else "")
    return f"{seconds / 3600:.4g} h"


class Mark(NamedTuple):
    """A recovery point on a time line."""

    x: float
    tone: str
    words: str


class Dated(NamedTuple):
    """What a mark stands for: a moment in seconds since the epoch."""

    at: float
    tone: str
    words: str


@dataclass(frozen=True)
class TimeLine:
    """Moments between the first of them and now."""

    marks: Sequence[Mark]
    ticks: Sequence[Tick]


def time_line(points: Sequence[Dated], now: float | None = None) -> TimeLine:
    """Recovery points on a line that ends now."""
    now = time.time() if now is None else now
    begins = min((p.at for p in points), default=now - 3600.0)
    length = max(now - begins, 60.0) * 1.04
    begins = now - length
    marks = [
        Mark(round(min(max((p.at - begins) / length, 0.0), 1.0) * WIDTH, 2), p.tone, p.words)
        for p in points
    ]
    ticks = [
        Tick(round(WIDTH * part / 6, 2), _moment_words(begins + length * part / 6, length))
        for part in range(1, 6)
    ]
    return TimeLine(marks, ticks)


def _moment_words(at: float, length: float) -> str:
    form = "%H:%M:%S" if length < 3600 else "%H:%M" if length < 86400 else "%b %d, %H:%M"
    return f"{datetime.fromtimestamp(at, UTC):{form}}"


class Column(NamedTuple):
    """A value of a bar chart."""

    x: float
    y: float
    width: float
    height: float
    tone: str
    words: str


@dataclass(frozen=True)
class Chart:
    """Values side by side, and a limit."""

    columns: Sequence[Column]
    limit_y: float | None
    highest: float


class Measured(NamedTuple):
    """A value of a chart."""

    value: float
    words: str
    tone: str = "calm"


def chart(values: Sequence[Measured], limit: float | None = None, height: float = 120.0) -> Chart:
    """Values as columns, the first at the left."""
    highest = max([v.value for v in values] + ([limit] if limit is not None else []), default=0.0)
    scale = (height - 4) / (highest or 1.0)
    step = WIDTH / max(len(values), 12)
    columns = [
        Column(
            round(number * step + step * 0.1, 2),
            round(height - max(v.value * scale, 1.0), 2),
            round(step * 0.8, 2),
            round(max(v.value * scale, 1.0), 2),
            "bad" if limit is not None and v.value > limit else v.tone,
            v.words,
        )
        for number, v in enumerate(values)
    ]
    limit_y = None if limit is None else round(height - limit * scale, 2)
    return Chart(columns, limit_y, highest)


# ---- topology ----

BOX, GAP, LINE, TOP, LANE = 200.0, 44.0, 17.0, 14.0, 46.0
"""Width of a member's box, room between boxes, height of a line of text, margin, room of a
network.
"""
MOST_MEMBERS = 60
"""More are listed and not drawn."""


class Box(NamedTuple):
    """A member."""

    x: float
    y: float
    height: float
    name: str
    lines: Sequence[tuple[float, str, str]]
    """each at its height, with what it is about (addresses, volumes), and words"""


class Link(NamedTuple):
    """A line between two members, or between a member and a network."""

    x1: float
    y1: float
    x2: float
    y2: float


class Lane(NamedTuple):
    """A network."""

    y: float
    name: str
    ports: Sequence[tuple[Link, str]]
    """each with its address"""


@dataclass(frozen=True)
class Graph:
    """The members of a VNF in the order in which they boot, and the networks below them."""

    width: float
    height: float
    boxes: Sequence[Box]
    order: Sequence[Link]
    lanes: Sequence[Lane]


def graph(topology: Topology, waves: Sequence[Sequence[str]]) -> Graph | None:
    """The picture of a topology; None where there are too many members for one.

    Args:
        waves: the names or ids of members that boot together, the first ones first.
    """
    servers = list(topology.servers)
    if not servers or len(servers) > MOST_MEMBERS:
        return None
    columns = _columns(servers, waves)
    boxes: dict[str, Box] = {}
    x = TOP
    for column in columns:
        y = TOP
        for server in column:
            box = _box(server, x, y)
            boxes[server.id] = box
            y += box.height + 16
        x += BOX + GAP
    bottom = max(b.y + b.height for b in boxes.values())
    order = [
        Link(a.x + BOX, a.y + 26, b.x, b.y + 26)
        for before, after in pairwise(columns)
        for a in (boxes[s.id] for s in before)
        for b in (boxes[s.id] for s in after)
    ]
    lanes = _lanes(servers, boxes, bottom)
    return Graph(x - GAP + TOP, bottom + LANE * len(lanes) + 20, list(boxes.values()), order, lanes)


def _columns(servers: Sequence[Server], waves: Sequence[Sequence[str]]) -> list[list[Server]]:
    left = list(servers)
    found = []
    for wave in waves:
        there = [s for s in left if s.name in wave or s.id in wave]
        left = [s for s in left if s not in there]
        if there:
            found.append(there)
    if left:
        found.append(left)
    return found


def _box(server: Server, x: float, y: float) -> Box:
    flavor = server.flavor
    lines: list[tuple[str, str]] = [
        ("flavor", f"{flavor.name}, {flavor.vcpus} vCPU, {flavor.ram_mib / 1024:.3g} GiB")
    ]
    for attached in server.attachments[:6]:
        volume = attached.volume
        name = volume.name or volume.id[:8]
        lines.append(("volume", f"{name}, {volume.size_gib} GiB"))
    if len(server.attachments) > 6:
        lines.append(("volume", f"and {len(server.attachments) - 6} more volumes"))
    placed = [(y + 46 + LINE * n, what, text) for n, (what, text) in enumerate(lines)]
    return Box(x, y, 40 + LINE * len(lines) + 8, server.name, placed)


def _lanes(servers: Sequence[Server], boxes: Mapping[str, Box], bottom: float) -> list[Lane]:
    names = list(dict.fromkeys(p.network for s in servers for p in s.ports))[:8]
    found = []
    for number, name in enumerate(names):
        y = bottom + LANE * (number + 1) - 8
        ports = []
        for server in servers:
            box = boxes[server.id]
            for nth, port in enumerate(server.ports):
                if port.network == name:
                    x = box.x + 22 + 40 * (nth % 5)
                    address = ", ".join(f.address for f in port.fixed) or "no address"
                    ports.append((Link(x, box.y + box.height, x, y), address))
        found.append(Lane(y, name, ports))
    return found

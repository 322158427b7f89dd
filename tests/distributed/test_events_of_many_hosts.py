# SPDX-License-Identifier: Apache-2.0
"""Events on real database servers: one of many hosts notes each, and one delivers it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from antipode.model.event import Event
from antipode.store.database import open_database
from antipode.store.events import Events
from tests.distributed import servers

Result = TypeVar("Result")
EVENTS = [Event(f"e-{n}", "dr.protect.end", "vnf/hlr", float(n), {"größe": "💥"}) for n in range(9)]


@pytest.fixture
def hosts(new_database: str) -> list[Events]:
    return [Events(open_database(new_database)) for _ in range(4)]


def at_once(hosts: list[Events], work: Callable[[Events], Result]) -> list[Result]:
    """Have every host do this at the same moment."""
    together = threading.Barrier(len(hosts))

    def do(host: Events) -> Result:
        together.wait(servers.WITHIN_S)
        return work(host)

    with ThreadPoolExecutor(len(hosts)) as threads:
        return list(threads.map(do, hosts))


def test_each_event_is_noted_by_one_host_and_kept_with_all_that_is_in_it(
    hosts: list[Events],
) -> None:
    noted = at_once(hosts, lambda host: sum(host.note(e, ["noc", "log"]) for e in EVENTS))
    assert sum(noted) == len(EVENTS)
    assert hosts[0].newest(99) == EVENTS
    assert hosts[0].pending() == {"noc": (9, 0.0), "log": (9, 0.0)}


def test_a_condition_begins_and_ends_once(hosts: list[Events]) -> None:
    begun = at_once(hosts, lambda host: host.begin("rpo/hlr", EVENTS[0], ["noc"]))
    ended = at_once(hosts, lambda host: host.end("rpo/hlr", EVENTS[1], ["noc"]))
    assert sorted(begun) == sorted(ended) == [False, False, False, True]
    assert hosts[0].newest(99) == EVENTS[:2]
    assert hosts[0].conditions() == {}


def test_each_event_is_taken_by_one_host(hosts: list[Events]) -> None:
    for event in EVENTS:
        hosts[0].note(event, ["noc"])

    def take_all(host: Events) -> list[str]:
        taken = (host.take("noc", 100.0, 60.0) for _ in range(40))
        return [delivery.event.id for delivery in taken if delivery is not None]

    found = at_once(hosts, take_all)
    assert sorted(id for ids in found for id in ids) == [e.id for e in EVENTS]
    assert hosts[0].give_up(before=5.0, most=2) == 7
    hosts[0].forget(100.0)
    assert [event.id for event in hosts[0].newest(99)] == ["e-7", "e-8"]

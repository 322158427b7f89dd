# SPDX-License-Identifier: Apache-2.0
"""Limits at a site: kept, fair between VNFs, a failover first, and never in the way of a thaw."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from antipode.config import Limits as Settings
from antipode.engine.limits import CallRate, Limits, Party, Slots
from antipode.errors import ClaimLost
from tests.unit.fakecloud import FakeCloud

WITHIN_S = 60.0
"""How long anything may take on a machine that is slow and has much else to do."""


def party(vnf: str, *, first: bool = False, lost: bool = False) -> Party:
    def check() -> None:
        if lost:
            raise ClaimLost(f"run of {vnf} is another's")

    return Party(vnf, 0 if first else 10, check)


def served_in_order(slots: Slots, waiting: list[Party]) -> list[str]:
    """The order in which those who wait get the one slot, which is held until all of them wait."""
    order: list[str] = []

    def work(who: Party) -> None:
        with slots.hold(who):
            order.append(who.vnf)

    with slots.hold(party("before")):
        threads = []
        for who in waiting:
            threads.append(threading.Thread(target=work, args=(who,)))
            threads[-1].start()
            while len(slots._waiting) < len(threads):
                time.sleep(0.001)
    for thread in threads:
        thread.join(WITHIN_S)
    return order


def test_a_vnf_with_many_volumes_takes_what_is_free_but_for_the_place_of_the_next() -> None:
    slots = Slots(4)
    with slots.hold_some(party("large"), 100) as taken:
        assert taken == 3
        with slots.hold_some(party("small"), 100) as left:  # it does not wait
            assert left == 1
    with slots.hold_some(party("large"), 2) as taken:
        assert taken == 2
    with Slots(1).hold_some(party("large"), 100) as taken:
        assert taken == 1
    with slots.hold_some(party("all"), 4), slots.hold(party("last")):
        lost = slots.hold_some(party("late", lost=True), 1)
        with pytest.raises(ClaimLost), lost:
            pass
    with slots.hold_some(party("again"), 4) as taken:  # all were given back
        assert taken == 3


def test_failovers_have_places_of_their_own_beside_copies_into_standing_volumes() -> None:
    limits = Limits(Settings())
    upkeep = limits.moves("site-b", party("hlr"), 1, urgent=False)
    urgent = limits.moves("site-b", party("ims", first=True), 1, urgent=True)
    with upkeep(5) as some, urgent(5) as others:
        assert (some, others) == (1, 1)
    with upkeep(5), limits.moves("site-c", party("hlr"), 1, urgent=False)(5) as elsewhere:
        assert elsewhere == 1


def test_no_more_than_the_limit_are_at_work_at_once() -> None:
    slots, at_once, most = Slots(3), Counter[str](), []
    lock, together = threading.Lock(), threading.Barrier(3)

    def work() -> None:
        with slots.hold(party("hlr")):
            with lock:
                at_once["now"] += 1
                most.append(at_once["now"])
            together.wait(WITHIN_S)
            time.sleep(0.01)  # in which a fourth would be seen
            with lock:
                at_once["now"] -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert len(most) == 12
    assert max(most) == 3


def test_a_vnf_with_many_volumes_does_not_starve_one_with_few() -> None:
    order = served_in_order(Slots(1), [party("many")] * 10 + [party("one")])
    assert order.index("one") <= 1


def test_a_failover_goes_ahead_of_waiting_runs() -> None:
    assert served_in_order(Slots(1), [party("a"), party("b"), party("c", first=True)])[0] == "c"


def test_of_one_vnf_the_lowest_place_goes_first() -> None:
    order: list[int] = []
    waiting: list[threading.Thread] = []
    limits = Limits(Settings(restores=1))
    slots = limits.restores("site-b", party("hlr"))

    def restore(place: int) -> None:
        with slots.at(place):
            order.append(place)

    with slots:
        for place in (2, 0, 1):
            waiting.append(threading.Thread(target=restore, args=(place,)))
            waiting[-1].start()
            while len(limits._slots["site-b", "restores"]._waiting) < len(waiting):
                time.sleep(0.001)
    for thread in waiting:
        thread.join(WITHIN_S)
    assert order == [0, 1, 2]


def test_who_holds_fewest_slots_is_next() -> None:
    slots = Slots(3)
    got = threading.Event()

    def one() -> None:
        with slots.hold(party("one")):
            got.set()

    with slots.hold(party("many")), slots.hold(party("many")):
        with slots.hold(party("many")):
            more = threading.Thread(
                target=lambda: slots.hold(party("many")).__enter__(), daemon=True
            )
            more.start()
            while len(slots._waiting) < 1:
                time.sleep(0.001)
            threading.Thread(target=one).start()
            while len(slots._waiting) < 2:
                time.sleep(0.001)
        assert got.wait(WITHIN_S)


def test_a_waiter_that_lost_its_run_stops_waiting_for_a_slot() -> None:
    slots = Slots(1)
    with slots.hold(party("a")), pytest.raises(ClaimLost), slots.hold(party("b", lost=True)):
        pass
    with slots.hold(party("c")):
        assert slots._waiting == []


def test_calls_are_kept_to_their_rate_after_a_short_burst() -> None:
    rate = CallRate(50)
    began = time.monotonic()
    for _ in range(75):
        rate.wait(party("hlr"))
    assert 0.4 < time.monotonic() - began < WITHIN_S


def gated(cloud: FakeCloud, settings: Settings, who: Party) -> FakeCloud:
    cloud.site = cloud.site.under(who.check, Limits(settings).calls(cloud.site.name, who))
    return cloud


def test_nothing_inside_a_quiesce_window_waits_for_a_limit() -> None:
    cloud = gated(FakeCloud(), Settings(api_calls_per_second=0.01), party("hlr"))
    began = time.monotonic()
    for _ in range(5):
        cloud.site.compute.quiesce("id-db", 10, 10)
        cloud.site.volumes.create_snapshot("db-root", "s", {}, 10)
        cloud.site.volumes.snapshot_watch.wait_for(
            [next(reversed(cloud.snapshots))], timeout_s=5, interval_s=0
        )
        cloud.site.compute.unquiesce("id-db", 10)
    # one call after the other, each would wait for 100 s
    assert time.monotonic() - began < WITHIN_S


def test_calls_outside_of_a_window_wait_for_those_inside() -> None:
    rate = Limits(Settings(api_calls_per_second=20)).calls("site-a", party("hlr"))
    assert rate is not None
    began = time.monotonic()
    for _ in range(30):
        rate.sent()
    rate.wait()
    assert time.monotonic() - began > 0.3


def test_without_its_claim_a_run_changes_nothing_but_thaws() -> None:
    cloud = gated(FakeCloud(), Settings(), party("hlr", lost=True))
    cloud.frozen.add("id-db")
    site = cloud.site
    for change in (
        lambda: site.compute.quiesce("id-app", 10, 10),
        lambda: site.compute.create_server({"name": "x"}),
        lambda: site.compute.delete_server("id-db"),
        lambda: site.volumes.create_snapshot("db-root", "s", {}, 10),
        lambda: site.volumes.create_volume({"name": "x"}),
        lambda: site.volumes.update_volume("db-root", "db-root", "", {}),
        lambda: site.backups.delete_backup("b"),
        lambda: site.backups.import_record("s", "u"),
        lambda: site.networks.create_port({"network_id": "net-1"}),
    ):
        with pytest.raises(ClaimLost):
            change()
    assert len(site.compute.servers()) == 3
    site.compute.unquiesce("id-db", 10)
    assert cloud.events == ["unquiesce db"]
    assert not cloud.frozen


def test_a_wait_for_the_cloud_ends_when_the_run_must_not_go_on() -> None:
    cloud = gated(FakeCloud(), Settings(), party("hlr", lost=True))
    with pytest.raises(ClaimLost):
        cloud.site.volumes.watch.wait_for(["db-root"], wanted=["never"], timeout_s=60, interval_s=0)
    with pytest.raises(ClaimLost):
        cloud.site.volumes.watch.wait_gone(["db-root"], timeout_s=60, interval_s=0)


def test_runs_share_their_pollers() -> None:
    site = FakeCloud().site
    one, two = site.under(lambda: None), site.under(lambda: None)
    one.volumes.watch.wait_for(["db-root"], wanted=["in-use"], timeout_s=5)
    watches = [run.volumes.watch for run in (one, two)]
    assert all(getattr(watch, "_watch", None) is site.volumes.watch for watch in watches)

# SPDX-License-Identifier: Apache-2.0
"""Which recovery points a policy keeps: never without the newest, whatever the clocks said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from antipode.model.full_every import FullEvery
from antipode.model.retention import ALL, Dated, Judgement, Retention, judge
from antipode.model.vnf import Protection, Vnf
from antipode.protect.option import wrong_settings
from tests.unit import samples

NOON = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
OPTION = "quiesced-snapshot"


def dated(name: str, at: datetime, *, generation: int = 1, stored: datetime | None = None) -> Dated:
    return Dated(name, OPTION, generation, at, stored or at)


def every(step: timedelta, many: int) -> list[Dated]:
    """Points up to noon, the newest last."""
    return [dated(f"p{n:04}", NOON - step * (many - n)) for n in range(1, many + 1)]


def judged(points: list[Dated], in_use: dict[str, str] | None = None, **policy: int) -> Judgement:
    return judge(points, {OPTION: Retention(**policy)}, NOON, in_use or {})


def test_the_newest_are_kept() -> None:
    points = every(timedelta(minutes=15), 10)
    assert judged(points, last=3).expired == [p.id for p in points[:7]]


def test_the_newest_of_each_period_is_kept() -> None:
    points = every(timedelta(hours=1), 24 * 40)
    found = judged(points, last=1, hourly=6, daily=5, weekly=3, monthly=2)
    kept = {p.id: p.consistent_at for p in points if p.id in found.kept}
    assert {f"{at:%d %H}" for at in kept.values()} == {
        *("29 12", "29 11", "29 10", "29 09", "29 08", "29 07"),
        *("28 23", "27 23", "26 23", "25 23"),
        *("22 23", "15 23"),
        "31 23",
    }


def test_a_period_without_a_point_counts_for_nothing() -> None:
    points = [dated("old", NOON - timedelta(days=300)), dated("new", NOON)]
    assert judged(points, last=1, daily=2).expired == []


def test_retention_all_keeps_all_and_so_does_a_protection_that_is_gone() -> None:
    points = every(timedelta(hours=1), 100)
    assert judge(points, {OPTION: ALL}, NOON, {}).expired == []
    assert judge(points, {"another": Retention(last=1)}, NOON, {}).expired == []


def test_each_protection_has_its_own_policy() -> None:
    points = every(timedelta(hours=1), 4)
    others = [p._replace(id=f"o{p.id}", option="server-snapshot") for p in points]
    policies = {OPTION: Retention(last=1), "server-snapshot": Retention(last=3)}
    found = judge([*points, *others], policies, NOON, {})
    assert sorted(found.expired) == ["op0001", "p0001", "p0002", "p0003"]


def test_a_point_that_a_run_uses_is_kept() -> None:
    points = every(timedelta(hours=1), 3)
    found = judged(points, {"p0001": "drill-1"}, last=1)
    assert found.expired == ["p0002"]
    assert "drill-1" in found.kept["p0001"]


def test_an_older_generation_is_older_whatever_its_clock_said() -> None:
    points = [
        dated("old", NOON, generation=1),
        dated("new", NOON - timedelta(days=1), generation=2),
    ]
    assert judged(points, last=1).expired == ["old"]


def test_nothing_expires_while_the_clock_has_gone_back_behind_a_point() -> None:
    before, after = dated("a", NOON + timedelta(hours=1)), dated("b", NOON)
    assert judged([before, after], last=1).expired == []


def test_of_points_that_two_clocks_order_differently_both_orders_are_kept() -> None:
    # the host's clock went back by an hour after the first of them and was right again later
    points = [
        dated("first", NOON - timedelta(minutes=30), stored=NOON - timedelta(minutes=90)),
        dated("second", NOON - timedelta(minutes=75)),
        dated("newest", NOON),
    ]
    assert judged(points, last=2).expired == []
    assert judged(points, last=1).expired == ["second", "first"]


MOMENTS = st.integers(0, 400 * 24 * 60).map(lambda minutes: NOON - timedelta(minutes=minutes))
"""Often the same, so that there are ties."""
TIES = st.sampled_from([NOON, NOON - timedelta(minutes=1), NOON - timedelta(hours=1)])
POINTS = st.lists(
    st.tuples(st.integers(1, 3), MOMENTS | TIES, MOMENTS | TIES), min_size=1, max_size=40
).map(
    lambda found: [
        dated(f"p{number:02}", at, generation=generation, stored=stored)
        for number, (generation, at, stored) in enumerate(found)
    ]
)
POLICIES = st.builds(
    Retention,
    last=st.integers(1, 4),
    hourly=st.integers(0, 4),
    daily=st.integers(0, 4),
    weekly=st.integers(0, 4),
    monthly=st.integers(0, 4),
)


@given(POINTS, POLICIES)
def test_every_point_is_judged_once_and_the_newest_stays(
    points: list[Dated], policy: Retention
) -> None:
    found = judge(points, {OPTION: policy}, NOON, {})
    assert sorted([*found.kept, *found.expired]) == sorted(p.id for p in points)
    newest = max(points, key=lambda p: (p.generation, p.consistent_at, p.id))
    by_storage = max(points, key=lambda p: (p.generation, p.stored_at, p.id))
    assert {newest.id, by_storage.id} <= set(found.kept)
    assert len(found.kept) >= min(policy.last, len(points))


@given(POINTS, POLICIES)
def test_what_is_kept_is_bounded_by_the_policy(points: list[Dated], policy: Retention) -> None:
    most = policy.last + policy.hourly + policy.daily + policy.weekly + policy.monthly
    assert len(judge(points, {OPTION: policy}, NOON, {}).kept) <= 2 * most
    alike = [p._replace(stored_at=p.consistent_at) for p in points]
    assert len(judge(alike, {OPTION: policy}, NOON, {}).kept) <= most


@given(POINTS, POLICIES)
def test_what_has_expired_once_is_no_reason_to_expire_more(
    points: list[Dated], policy: Retention
) -> None:
    found = judge(points, {OPTION: policy}, NOON, {})
    left = [p for p in points if p.id in found.kept]
    assert judge(left, {OPTION: policy}, NOON, {}).expired == []


@given(POINTS, POLICIES, MOMENTS)
def test_points_of_the_future_keep_everything(
    points: list[Dated], policy: Retention, now: datetime
) -> None:
    found = judge(points, {OPTION: policy}, now, {})
    if any(p.consistent_at > now for p in points):
        assert found.expired == []


def test_a_protection_has_a_retention_and_an_end_of_its_chains_by_default() -> None:
    protection = Protection()
    assert isinstance(protection.keeps, Retention)
    assert protection.chain_ends.backups == 24
    assert protection.settings == {}


def test_the_policy_of_a_vnf_file_is_read_and_kept() -> None:
    policy = {"retention": {"last": 3, "daily": 7}, "full_every": "7d"}
    vnf = samples.vnf(protections=[{"option": OPTION, **policy}])
    again = Vnf.model_validate(vnf.model_dump(mode="json"))
    assert again == vnf
    assert again.protections[0].keeps == Retention(last=3, daily=7)
    assert again.protections[0].chain_ends == FullEvery(age=7 * 86400.0)
    assert list(wrong_settings(vnf)) == []
    assert samples.vnf(protections=[{"full_every": 5}]).protections[0].chain_ends.backups == 5


@pytest.mark.parametrize(
    ("days", "ends"), [(0, False), (6, False), (7, True), (-6, False), (-365, True)]
)
def test_a_chain_ends_by_its_age_though_a_clock_was_ahead_when_it_began(
    days: float, ends: bool
) -> None:
    assert (FullEvery(age=7 * 86400.0).reason(2, days * 86400) is not None) is ends


@pytest.mark.parametrize(
    "policy",
    [
        {"retention": {"last": 0}},
        {"retention": {"daily": -1}},
        {"retention": {"yearly": 1}},
        {"retention": "none"},
        {"full_every": 0},
        {"full_every": "soon"},
        {"full_every": "0s"},
        {"full_every": True},
        {"full_every": {"backups": 3, "age": "1d"}},
    ],
)
def test_a_policy_that_means_nothing_is_refused(policy: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        samples.vnf(protections=[policy])

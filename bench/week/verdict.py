# SPDX-License-Identifier: Apache-2.0
"""What the accounts of a week say: a report for people, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.week.drive import Account, Settings, Size
from bench.week.ledger import UNEXPLAINED

GROWS = 1.15
"""How much larger the last third may be than the one before it."""
LONG_ENOUGH = 72.0
"""Hours after which everything that is kept for a time was pruned once."""
KEPT = ("runs", "steps", "events", "deliveries", "forecasts", "readiness", "missed", "conditions")
BURSTS = ("missed",)
"""Tables that one kill fills, and pruning empties: they have grown where they are never as small
again.
"""


def faults(account: Account) -> list[str]:
    """All that must not be."""
    sums, found = account.sums, list[str]()
    found += [f"a slot was begun twice: {slot}" for slot in sums.made_twice]
    if unexplained := sums.missed.get(UNEXPLAINED):
        found.append(f"{unexplained} slots were missed, and no limit explains it")
    if (missed := sum(sums.missed.values())) != account.missed_of_rows:
        found.append(
            f"{missed} slots have no run, and the database counts {account.missed_of_rows}"
        )
    found += [f"no event of the end of {run} has arrived" for run in account.events_lost]
    if account.sizes[-1].hours >= LONG_ENOUGH:
        found += _growing(account.sizes)
        if account.rss_mib > 1.5 * account.rss_early_mib:
            found.append(f"memory has grown from {account.rss_early_mib:.0f} MiB")
    return found


def _growing(sizes: Sequence[Size]) -> Iterator[str]:
    last = sizes[-1].hours
    middle = [s for s in sizes if last / 3 < s.hours <= 2 * last / 3]
    end = [s for s in sizes if s.hours > 2 * last / 3]
    for table in KEPT:
        before = max(s.rows[table] for s in middle)
        of_end = min if table in BURSTS else max
        if (now := of_end(s.rows[table] for s in end)) > GROWS * before + 50:
            yield f"{table} grow: {before} rows, then {now}"
    if (now_mib := max(s.mib for s in end)) > GROWS * (mib := max(s.mib for s in middle)) + 5:
        yield f"the database grows: {mib:.0f} MiB, then {now_mib:.0f}"


def lines(settings: Settings, account: Account) -> Iterator[str]:
    """The report."""
    sums, made = account.sums, account.sums.made
    played_h, minutes = account.sizes[-1].hours, account.seconds / 60
    yield (
        f"{settings.vnfs} VNFs, every {settings.every_s / 60:g} min, {played_h:g} h played "
        f"in {minutes:.1f} min; seed {settings.seed}"
    )
    missed = "; ".join(f"{many} {why}" for why, many in sorted(sums.missed.items())) or "none"
    yield (
        f"slots: {sums.due} due, {made} made, {len(sums.made_twice)} twice, "
        f"{sum(sums.missed.values())} missed ({missed})"
    )
    states = ", ".join(f"{many} {state}" for state, many in sorted(sums.states.items()))
    yield f"protections: {states}; {account.retried} runs were claimed more than once"
    yield f"kills: {len(account.kills)} ({'; '.join(account.kills)})"
    yield f"memory of a host: {account.rss_mib:.0f} MiB at most"
    for size in _some(account.sizes):
        rows = ", ".join(f"{size.rows[table]} {table}" for table in KEPT if size.rows[table])
        yield f"database after {size.hours:g} h: {size.mib:.1f} MiB; {rows}"
    scheduler_s = account.spent.get("scheduler", 0.0)
    yield (
        f"the scheduler: {scheduler_s:.1f} s of CPU, {1000 * scheduler_s / max(made, 1):.1f} ms "
        f"a slot, {1000 * scheduler_s / max(account.looks, 1):.1f} ms a look"
    )
    parts = ", ".join(f"{part} {s:.1f} s" for part, s in sorted(account.spent.items()))
    yield f"CPU of both hosts: {parts}"
    yield f"events: {account.events_got} delivered to a webhook, {len(account.events_lost)} lost"


def _some(sizes: Sequence[Size]) -> list[Size]:
    step = max(1, len(sizes) // 7)
    return [*sizes[:-1:step], sizes[-1]]

# SPDX-License-Identifier: Apache-2.0
"""A claim on a board is told to be lost before another host may have it, whatever the board, the
clock or the process does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from antipode.claims.board import BoardUnreachable
from antipode.claims.board_claims import BoardClaim, BoardClaims
from antipode.config import Etcd, Jobboard
from antipode.engine.run import new_run
from antipode.errors import ClaimLost
from antipode.runs import kind_of
from antipode.store.database import open_database
from antipode.store.runs import Runs as StoredRuns

EXPIRES_S = 0.6


class Hold:
    """The board's side of a claim; `trouble` is what it answers to a renewal."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.asked = self.renewed = 0
        self.ended = ""

    def renew(self) -> None:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        self.renewed += 1

    def finish(self) -> None:
        self.ended = "finished"

    def let_go(self) -> None:
        self.ended = "let go"


class Runs:
    """The database's side of a run."""

    def __init__(self) -> None:
        self.claim = 1
        self.ended_at: float | None = None
        self.trouble: Exception | None = None
        self.asked = 0

    def standing(self, run: str) -> tuple[int, bool]:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return self.claim, False

    def get(self, run: str) -> Any:
        return SimpleNamespace(ended_at=self.ended_at)


class Clock:
    """One that advances when the test says so: however busy the machine is, a claim lasts as
    long as it should.
    """

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def claim(hold: Hold, runs: Runs, clock: Clock) -> BoardClaim:
    made = BoardClaim(runs, "run-1", hold, EXPIRES_S, clock(), clock)  # type: ignore[arg-type]
    made.number = 1
    return made


def until(what: str, is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)


def is_lost(held: BoardClaim) -> bool:
    try:
        held.check()
    except ClaimLost:
        return True
    return False


def has_renewed(hold: Hold, times: int) -> bool:
    return hold.renewed >= times


def test_a_claim_that_is_renewed_lasts() -> None:
    hold, clock = Hold(), Clock()
    held = claim(hold, Runs(), clock)
    for _ in range(6):
        clock.s += EXPIRES_S / 2
        held.check()
        until("a renewal that was begun since", partial(has_renewed, hold, hold.renewed + 2))
    held.release()


@pytest.mark.parametrize("who", ["board", "database"])
def test_a_claim_that_cannot_be_renewed_is_lost_while_the_board_still_keeps_it_for_us(
    who: str,
) -> None:
    hold, runs, clock = Hold(), Runs(), Clock()
    trouble = hold if who == "board" else runs
    trouble.trouble = (
        BoardUnreachable("silence")
        if who == "board"
        else OperationalError("SELECT", {}, Exception("silence"))
    )
    held = claim(hold, runs, clock)
    until("it to be tried twice", lambda: trouble.asked >= 2)
    clock.s += EXPIRES_S * 0.66
    held.check()
    clock.s += EXPIRES_S * 0.01
    with pytest.raises(ClaimLost, match="run-1"):
        held.check()
    trouble.trouble = None
    until(
        "it to be held again, as nobody had taken it and the board has confirmed that",
        lambda: not is_lost(held),
    )
    held.release()


def test_a_process_that_was_paused_knows_at_its_first_check_before_anything_was_renewed() -> None:
    clock = Clock()
    held = BoardClaim(Runs(), "run-1", Hold(), 3600, clock(), clock)  # type: ignore[arg-type]
    held.check()
    clock.s += 3600 * 2 / 3 - 1
    held.check()
    clock.s += 1
    with pytest.raises(ClaimLost):
        held.check()
    held.release()


def test_what_the_board_gives_to_another_is_lost_for_good() -> None:
    hold = Hold()
    held = claim(hold, Runs(), Clock())
    hold.trouble = ClaimLost("it is another's")
    until("the loss to be told", lambda: is_lost(held))
    hold.trouble, asked = None, hold.asked
    time.sleep(EXPIRES_S)  # there is nothing to wait for: it is not to be renewed
    assert hold.asked == asked
    with pytest.raises(ClaimLost):
        held.check()
    held.release()
    assert hold.ended == ""  # it is not ours to end


def test_a_newer_claim_in_the_database_ends_ours_whatever_the_board_says() -> None:
    runs = Runs()
    held = claim(Hold(), runs, Clock())
    runs.claim = 2
    until("the loss to be told", lambda: is_lost(held))
    with pytest.raises(ClaimLost):
        held.check()
    held.release()


def test_a_run_that_has_ended_is_taken_off_the_board_and_another_is_left_on_it() -> None:
    for ended_at, expected in ((1.0, "finished"), (None, "let go")):
        hold, runs = Hold(), Runs()
        held = claim(hold, runs, Clock())
        runs.ended_at = ended_at
        with held:
            held.check()
        held.release()
        assert hold.ended == expected
        with pytest.raises(ClaimLost, match="run-1"):
            held.check()


def test_a_jobboard_needs_a_database_that_hosts_share_and_a_password_goes_by_tls_only() -> None:
    with pytest.raises(ValueError, match="https://"):
        Etcd.model_validate(
            {"endpoints": ["http://10.0.0.1:2379"], "user": "antipode", "password_file": "/x"}
        )
    with pytest.raises(ValueError, match=r"etcd.*redis.*zookeeper"):
        Jobboard.model_validate({"redis": {}, "etcd": {"endpoints": ["http://10.0.0.1:2379"]}})


class Silent:
    """A board that answers until something is to be put on it."""

    name = "me"
    expires_s = EXPIRES_S

    def postings(self) -> list[Any]:
        return []

    def post(self, *_: Any, **__: Any) -> None:
        raise BoardUnreachable("silence")


def test_a_run_that_could_not_be_put_on_the_board_is_never_begun(
    tmp_path: Path,
) -> None:
    runs = StoredRuns(open_database(f"sqlite:///{tmp_path / 'antipode.db'}"))
    silent: Any = Silent()
    with pytest.raises(BoardUnreachable):
        BoardClaims(silent, runs).begin(new_run(kind_of("failover"), "hlr", {}))
    (row,) = runs.all()
    assert (row.state, row.reason) == ("failed", "it could not be begun: silence")
    assert runs.open() == []

# SPDX-License-Identifier: Apache-2.0
"""Turns of restores: of all processes of a database together, fair between their VNFs, and in no
run's way when a process dies or the database does not answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from antipode import clock
from antipode.config import Limits as Settings
from antipode.engine.limits import Limits, Party
from antipode.engine.shared_turns import SharedTurns
from antipode.store.database import open_database
from antipode.store.tables import RunRow
from antipode.store.turns import HELD_S, WAITS_S, Asked, Turns

WITHIN_S = 60.0
HOSTS, MOST = 6, 2


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'antipode.db'}")
    begin_runs(engine, "many", "one", "urgent")
    yield engine
    engine.dispose()


def begin_runs(engine: Engine, *vnfs: str) -> None:
    """A run of each of these VNFs."""
    with Session(engine) as session, session.begin():
        for vnf in vnfs:
            session.add(
                RunRow(
                    id=f"run-{vnf}", kind="drill", vnf=vnf, state="running", started_at=0, claim=1
                )
            )


def asked(vnf: str, *, priority: int = 10, place: int = 0) -> Asked:
    return Asked("site-b", "restores", vnf, f"run-{vnf}", 1, priority, place)


def taken(turns: Turns, vnf: str, at_once: int) -> str:
    turn = turns.take(asked(vnf), at_once)
    assert turn is not None
    return turn


def test_the_turns_of_two_processes_count_together(database: Engine) -> None:
    here, there = Turns(database), Turns(database)
    first, _second = taken(here, "many", 2), taken(there, "one", 2)
    assert here.take(asked("many"), 2) is None
    assert there.take(asked("one"), 2) is None
    elsewhere = Asked("site-c", "restores", "one", "run-one", 1, 10, 0)
    assert there.take(elsewhere, 1)
    there.release("restores", first)
    assert here.take(asked("many"), 2)


def test_the_vnf_that_holds_fewest_is_next_whichever_process_asks_first(database: Engine) -> None:
    here, there = Turns(database), Turns(database)
    held = [taken(here, "many", 2) for _ in range(2)]
    assert here.take(asked("many"), 2) is None
    assert there.take(asked("one"), 2) is None
    here.release("restores", held[0])
    assert here.take(asked("many"), 2) is None
    assert there.take(asked("one"), 2)
    here.release("restores", held[1])
    assert here.take(asked("many"), 2)


def test_a_failover_of_another_process_goes_first(database: Engine) -> None:
    here, there = Turns(database), Turns(database)
    held = taken(here, "many", 1)
    assert here.take(asked("one"), 1) is None
    assert there.take(asked("urgent", priority=0), 1) is None
    here.release("restores", held)
    assert here.take(asked("one"), 1) is None
    assert there.take(asked("urgent", priority=0), 1)


def test_as_many_go_on_as_are_free(database: Engine) -> None:
    here, there = Turns(database), Turns(database)
    held = [taken(here, "many", 2) for _ in range(2)]
    assert there.take(asked("urgent", priority=0), 2) is None
    assert here.take(asked("one"), 2) is None
    for turn in held:
        here.release("restores", turn)
    assert here.take(asked("one"), 2), "one of two waits for none"


def test_what_a_process_held_that_died_is_free_once_another_has_its_run(database: Engine) -> None:
    dead, there = Turns(database), Turns(database)
    taken(dead, "many", 1)
    assert there.take(asked("one"), 1) is None
    with database.begin() as connection:
        connection.execute(text("UPDATE runs SET claim = 2 WHERE id = 'run-many'"))
    assert there.take(asked("one"), 1)


def test_what_a_process_holds_or_waits_for_that_does_not_renew_it_is_free_after_a_while(
    database: Engine,
) -> None:
    moment = [1000.0]
    with clock.following(lambda: moment[0]):
        lives, dead, there = Turns(database), Turns(database), Turns(database)
        taken(lives, "many", 2)
        taken(dead, "many", 2)
        assert dead.take(asked("urgent", priority=0), 2) is None
        moment[0] += HELD_S - 1
        assert there.take(asked("one"), 2) is None
        moment[0] += 2
        assert there.take(asked("one"), 2)


def test_a_turn_that_is_renewed_stays_held(database: Engine) -> None:
    moment = [1000.0]
    with clock.following(lambda: moment[0]):
        lives, there = Turns(database), Turns(database)
        turn = taken(lives, "many", 1)
        for _ in range(3):
            moment[0] += HELD_S - 1
            lives.keep("restores", [turn])
        assert there.take(asked("one"), 1) is None
        moment[0] += WAITS_S
        lives.release("restores", turn)
        assert there.take(asked("one"), 1)


class Seen:
    """What hosts do together."""

    def __init__(self, hosts: int) -> None:
        self.most = 0
        self._hosts = hosts
        self._asks = self._held = 0
        self._changed = threading.Condition()

    def one_asks(self) -> None:
        with self._changed:
            self._asks += 1
            self._changed.notify_all()

    def one_holds(self) -> None:
        """Returns when the others have asked, and would have got too many."""
        with self._changed:
            self._held += 1
            self.most = max(self.most, self._held)
            enough = self._asks + 2 * self._hosts
            self._changed.wait_for(lambda: self._asks >= enough or self._hosts <= MOST, WITHIN_S)
            self._held -= 1

    def one_is_done(self) -> None:
        with self._changed:
            self._hosts -= 1
            self._changed.notify_all()


def most_held_at_once(urls: list[str]) -> int:
    """Have hosts of these databases take and release turns of a site at once, each those of a VNF;
    the most that were held together.
    """
    engines = [open_database(url) for url in urls]
    begin_runs(engines[0], *(f"v{number}" for number in range(len(urls))))
    together, seen = threading.Barrier(len(urls)), Seen(len(urls))

    def work(number: int) -> int:
        turns, done = Turns(engines[number]), 0
        together.wait(WITHIN_S)
        while done < 5:
            turn = turns.take(asked(f"v{number}"), MOST)
            seen.one_asks()
            if turn is not None:
                seen.one_holds()
                turns.release("restores", turn)
                done += 1
        seen.one_is_done()
        return done

    with ThreadPoolExecutor(len(urls)) as pool:
        assert list(pool.map(work, range(len(urls)))) == [5] * len(urls)
    with engines[0].connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM turns")).scalar_one() == 0
    for engine in engines:
        engine.dispose()
    return seen.most


def test_hosts_that_ask_at_once_hold_no_more_than_the_site_bears(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'antipode.db'}"
    assert most_held_at_once([url] * HOSTS) == MOST


def party(vnf: str) -> Party:
    return Party(vnf, 10, lambda: None, run=f"run-{vnf}", claim=1)


def test_a_restore_waits_until_another_process_leaves_it_a_turn(database: Engine) -> None:
    processes = [Limits(Settings(restores=1), SharedTurns(Turns(database))) for _ in range(2)]
    here, there = (
        of.restores("site-b", party(vnf))
        for of, vnf in zip(processes, ("many", "one"), strict=True)
    )
    begins, over = threading.Event(), []

    def restore() -> None:
        begins.set()
        with there:
            over.append("there")

    with here:
        thread = threading.Thread(target=restore)
        thread.start()
        assert begins.wait(WITHIN_S)
        await_waiting(database)
        over.append("here")
    thread.join(WITHIN_S)
    assert over == ["here", "there"]
    assert rows(database) == 0


def await_waiting(database: Engine) -> None:
    """Return when two turns are asked for."""
    over = threading.Event()
    for _ in range(int(WITHIN_S * 100)):
        if rows(database) == 2:
            return
        over.wait(0.01)
    raise AssertionError("no process waits")


def rows(database: Engine) -> int:
    with database.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM turns")).scalar_one())


def test_a_database_that_does_not_answer_holds_up_no_restore(database: Engine) -> None:
    limits = Limits(Settings(restores=1), SharedTurns(Turns(database)))
    with database.begin() as connection:
        connection.execute(text("DROP TABLE turns"))
    with limits.restores("site-b", party("many")):
        assert limits._slots["site-b", "restores"]._holders.total() == 1
    assert limits._slots["site-b", "restores"]._holders.total() == 0

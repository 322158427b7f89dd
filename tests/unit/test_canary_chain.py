# SPDX-License-Identifier: Apache-2.0
"""Three members of the canary as processes here: the chain survives being killed anywhere, and
stalls while a member is frozen.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.checker import CHAIN, RECORD, Report, check
from lab.guest.image import compile_canary
from lab.waiting import wait_until
from tests.ports import free_port

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("gcc"),
    reason="a program for Linux guests; needs gcc",
)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("canary") / "canary"
    compile_canary(path)
    return path


WITHIN_S = 60.0
"""How long anything may take on a machine that is slow and has much else to do."""


class Chain:
    """db, app and front on loopback, each with a folder in place of its data volume."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder
        self.http = {role: free_port() for role in CHAIN}
        self.peer = {role: free_port() for role in CHAIN}
        self.process: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *roles: str) -> None:
        for role in roles:
            (self.folder / role).mkdir(exist_ok=True)
            command = [
                str(self.program),
                "--role",
                role,
                "--records",
                str(self.records(role)),
                "--http",
                str(self.http[role]),
            ]
            command += (
                ["--period-ms", "1"] if role == CHAIN[-1] else ["--peer", str(self.peer[role])]
            )
            if role != CHAIN[0]:
                command += ["--next", f"127.0.0.1:{self.peer[CHAIN[CHAIN.index(role) - 1]]}"]
            self.process[role] = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(
            lambda: not any(_is_free(self.http[role]) for role in roles),
            "the started members answer",
            timeout=WITHIN_S,
            interval=0.01,
        )

    def kill(self, *roles: str) -> None:
        """As a power cut would, but for the page cache."""
        for role in roles:
            self.process[role].kill()
        for role in roles:
            self.process[role].wait()
        wait_until(
            lambda: all(_is_free(self.http[role]) for role in roles),
            "the HTTP processes have ended too",
            timeout=WITHIN_S,
            interval=0.01,
        )

    def signal(self, role: str, number: signal.Signals) -> None:
        os.kill(self.process[role].pid, number)

    def records(self, role: str) -> Path:
        return self.folder / role / "records.log"

    def check(self) -> Report:
        # the head first: what the others write meanwhile can only make them longer
        return check({role: self.records(role).read_bytes() for role in reversed(CHAIN)})

    def state(self, role: str) -> dict[str, Any]:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.http[role]}/", timeout=WITHIN_S
        ) as answer:
            return dict(json.load(answer))

    def durable(self) -> dict[str, int]:
        return {role: self.state(role)["durable"] for role in reversed(CHAIN)}

    def wait_for(self, role: str, number: int) -> None:
        def has_it() -> bool:
            return (
                self.records(role).exists() and self.records(role).stat().st_size >= number * RECORD
            )

        wait_until(has_it, f"{role} has record {number}", timeout=WITHIN_S, interval=0.01)

    def grow(self, by: int = 20) -> None:
        self.wait_for(CHAIN[-1], self.records(CHAIN[-1]).stat().st_size // RECORD + by)


def _is_free(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def chain(program: Path, tmp_path: Path) -> Iterator[Chain]:
    chain = Chain(program, tmp_path)
    chain.start(*CHAIN)
    try:
        chain.wait_for("front", 20)
        yield chain
    finally:
        chain.kill(*CHAIN)


def test_a_running_chain_is_consistent_and_tells_what_it_has_durable(chain: Chain) -> None:
    report = chain.check()
    assert report.consistent
    durable = chain.durable()
    assert durable["front"] <= durable["app"] <= durable["db"]
    states = {role: chain.state(role) for role in CHAIN}
    assert {role: s["role"] for role, s in states.items()} == {role: role for role in CHAIN}
    first_start = {
        "role": "front",
        "durable": 0,
        "found": 0,
        "boot": 1,
        "torn": 0,
        "ms": 0,
        "state": "ok",
    }
    assert states["front"] | {"durable": 0, "ms": 0} == first_start


def test_members_killed_at_random_moments_leave_neither_gaps_nor_duplicates_nor_order_violations(
    chain: Chain,
) -> None:
    moments = random.Random(20261122)
    for _ in range(12):
        chain.grow(moments.randrange(1, 10))
        time.sleep(moments.random() / 50)  # the moment is what is varied
        killed = moments.sample(CHAIN, moments.randrange(1, 4))
        chain.kill(*killed)
        report = chain.check()
        assert not report.order_violations
        chain.start(*moments.sample(killed, len(killed)))
    chain.grow()
    chain.kill(*CHAIN)
    report = chain.check()
    assert report.consistent, report
    assert report.members["front"].last_of_boot.keys() > {1}
    chain.start(*CHAIN)


def test_a_torn_tail_is_cut_and_counted_and_the_chain_goes_on(chain: Chain) -> None:
    chain.kill(*CHAIN)
    with chain.records("db").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 10)
    before = {role: member.last for role, member in chain.check().members.items()}
    assert chain.check().members["db"].torn == 1
    # db lost a record that it had acknowledged; the others lose it too, or they would be ahead
    for role in ("app", "front"):
        with chain.records(role).open("r+b") as file:
            file.truncate(min(before[role], before["db"]) * RECORD)
    chain.start(*CHAIN)
    chain.grow()
    assert chain.state("db")["torn"] == 1
    assert chain.state("db")["found"] == before["db"]
    assert chain.check().consistent


def test_a_member_that_lost_acknowledged_records_refuses_to_make_a_gap(chain: Chain) -> None:
    chain.kill(*CHAIN)
    with chain.records("db").open("r+b") as file:
        file.truncate(5 * RECORD)
    chain.start(*CHAIN)
    wait_until(
        lambda: chain.state("app")["state"] == "broken",
        "app tells that the chain is broken",
        timeout=WITHIN_S,
    )
    assert chain.state("db")["durable"] == 5
    report = chain.check()
    assert [(v.ahead, v.behind) for v in report.order_violations] == [("app", "db")]
    assert not report.gaps


def test_a_member_restored_ahead_of_the_head_acknowledges_what_it_has_without_writing_it_again(
    chain: Chain,
) -> None:
    chain.kill(*CHAIN)
    with chain.records("front").open("r+b") as file:
        file.truncate(5 * RECORD)
    had = chain.records("db").stat().st_size // RECORD
    chain.start(*CHAIN)
    chain.wait_for("front", had + 10)
    assert chain.check().consistent


def test_the_chain_stalls_while_a_member_is_frozen_and_goes_on_without_harm(chain: Chain) -> None:
    chain.signal("db", signal.SIGSTOP)  # its HTTP process goes on, as when filesystems are frozen
    try:
        samples = [chain.durable()]

        def has_stalled() -> bool:
            samples.append(chain.durable())
            # all acknowledged
            return len(samples) > 3 and samples[-1] == samples[-2] == samples[-3] == samples[-4]

        wait_until(has_stalled, "nothing advances any more", timeout=WITHIN_S, interval=1)
        stalled = samples[-1]
        time.sleep(8)  # longer than it takes to declare a dead peer dead
        assert chain.durable() == stalled
        assert stalled["front"] <= stalled["app"] <= stalled["db"]
    finally:
        chain.signal("db", signal.SIGCONT)
    chain.grow()
    assert chain.check().consistent


def test_copies_taken_one_after_the_other_with_db_first_violate_the_order(chain: Chain) -> None:
    copies = {}
    for role in CHAIN:
        copies[role] = chain.records(role).read_bytes()
        chain.grow(5)
    report = check(copies)
    assert [(v.ahead, v.behind) for v in report.order_violations] == [
        ("app", "db"),
        ("front", "app"),
    ]


def test_fill_writes_data_of_the_wanted_size_that_does_not_compress_to_nothing(
    chain: Chain,
) -> None:
    with urllib.request.urlopen(
        f"http://127.0.0.1:{chain.http['db']}/fill?mib=3&seed=7", timeout=WITHIN_S
    ) as answer:
        said = json.load(answer)
    content = (chain.folder / "db" / "fill-7").read_bytes()
    assert said["mib"] == 3
    assert len(content) == 3 << 20
    assert len({content[i : i + 4096] for i in range(0, len(content), 4096)}) == 3 * 256

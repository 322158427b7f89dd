# SPDX-License-Identifier: Apache-2.0
"""The board on real servers: a run is one process's at a time, whatever else happens."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from antipode.claims.board import Board, BoardUnreachable, Hold
from antipode.config import Etcd, Jobboard
from antipode.errors import Busy, ClaimLost, InvalidInput
from tests.distributed import servers

EXPIRES_S = 9.0
NEVER_S = 300.0
"""For claims that are not to expire, and calls that get the time they need, however busy the
machine is.
"""
MakeBoard = Callable[..., Board]


@pytest.fixture(params=["etcd", "redis"])
def make_board(request: pytest.FixtureRequest, name: str) -> Iterator[MakeBoard]:
    """Makes boards of one installation, each as another process would have it."""
    server = request.getfixturevalue(request.param)
    kind: dict[str, Any] = (
        {"etcd": Etcd(endpoints=[server])}
        if request.param == "etcd"
        else {"redis": {"host": "127.0.0.1", "port": server}}
    )
    made: list[Board] = []

    def make(expires_s: float = NEVER_S) -> Board:
        made.append(Board(Jobboard(**kind, name=name, claim_expires=expires_s)))
        return made[-1]

    yield make
    for board in made:
        board.close()


def the_posting(board: Board, run: str = "run-1") -> Any:
    return next(p for p in board.postings() if p.run == run)


def test_what_one_posts_another_finds_and_takes_off_when_it_is_done(make_board: MakeBoard) -> None:
    here, there = make_board(), make_board()
    here.post("run-1", first=False)
    hold = there.claim(the_posting(there))
    assert the_posting(here).owner == there.name
    hold.finish()
    assert here.postings() == []


def test_failovers_and_protects_are_all_listed_whatever_their_priority(
    make_board: MakeBoard,
) -> None:
    board = make_board()
    board.post("protect-1", first=False)
    board.post("failover-1", first=True)
    assert {p.run for p in board.postings()} == {"protect-1", "failover-1"}


def test_two_cannot_claim_one_run(make_board: MakeBoard) -> None:
    here, there = make_board(), make_board()
    here.post("run-1", first=False)
    posting = the_posting(there)
    here.claim(the_posting(here))
    with pytest.raises(Busy):
        there.claim(posting)


def test_of_many_who_claim_at_once_one_gets_it(make_board: MakeBoard) -> None:
    boards = [make_board() for _ in range(5)]
    boards[0].post("run-1", first=False)
    got: list[Board] = []

    def claim(board: Board) -> None:
        try:
            board.claim(the_posting(board))
        except Busy:
            return
        got.append(board)

    threads = [threading.Thread(target=claim, args=(b,)) for b in boards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(servers.WITHIN_S)
    assert len(got) == 1


def test_a_run_that_was_posted_twice_is_not_claimed_twice(make_board: MakeBoard) -> None:
    here, there = make_board(), make_board()
    here.post("run-1", first=False)
    one = the_posting(here)
    hold = here.claim(one)
    there.post("run-1", first=False)
    other = next(p for p in there.postings() if p.job.uuid != one.job.uuid)
    with pytest.raises(Busy):
        there.claim(other)
    hold.renew()
    hold.finish()
    there.claim(next(p for p in there.postings() if p.run == "run-1")).finish()
    assert here.postings() == []


def test_a_second_posting_that_nobody_has_is_taken_off_by_who_claims_the_run(
    make_board: MakeBoard,
) -> None:
    board = make_board()
    board.post("run-1", first=False)
    board.post("run-1", first=False)
    hold = board.claim(the_posting(board))
    assert len(board.postings()) == 1
    hold.finish()
    assert board.postings() == []


def test_what_is_let_go_of_can_be_claimed_by_another(make_board: MakeBoard) -> None:
    here, there = make_board(), make_board()
    here.post("run-1", first=False)
    here.claim(the_posting(here)).let_go()
    there.claim(the_posting(there))
    assert the_posting(here).owner == there.name


def test_a_claim_that_is_renewed_lasts_and_one_that_is_not_expires(make_board: MakeBoard) -> None:
    here, there = make_board(EXPIRES_S), make_board()
    there.post("run-1", first=False)
    servers.until(
        "the board to answer in the time of a claim that expires soon", lambda: answers(here)
    )
    hold = here.claim(the_posting(here))
    until = time.monotonic() + EXPIRES_S * 1.5
    while time.monotonic() < until:
        with suppress(BoardUnreachable):  # several tries fit into the time of a claim
            hold.renew()
        assert the_posting(there).owner == here.name
        time.sleep(EXPIRES_S / 6)
    servers.until("the claim to expire", lambda: the_posting(there).owner is None)
    taken = there.claim(the_posting(there))
    servers.until("the late one to learn it", lambda: is_lost(hold))
    # what the late one does to the claim does not touch the new one's
    for late in (hold.let_go, hold.finish):
        try:
            late()
        except (BoardUnreachable, ClaimLost):
            continue
    taken.renew()
    assert the_posting(there).owner == there.name


def answers(board: Board) -> bool:
    try:
        board.postings()
    except BoardUnreachable:
        return False
    return True


def is_lost(hold: Hold) -> bool:
    """Whether a claim is reported as lost; it must not be renewed."""
    try:
        hold.renew()
    except ClaimLost:
        return True
    except BoardUnreachable:
        return False
    raise AssertionError("it was renewed")


def test_jobs_whose_names_begin_alike_do_not_take_each_other_off(make_board: MakeBoard) -> None:
    board = make_board()
    for number in range(1, 13):
        board.post(f"run-{number}", first=False)
    board.claim(the_posting(board, "run-1")).finish()
    assert {p.run for p in board.postings()} == {f"run-{n}" for n in range(2, 13)}


def test_a_server_that_does_not_answer_is_told_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # whose calls nobody takes
        board = Board(
            Jobboard(
                etcd=Etcd(endpoints=[f"http://127.0.0.1:{silent.getsockname()[1]}"]),
                claim_expires=60,
            )
        )
        began = time.monotonic()
        with pytest.raises(BoardUnreachable, match=r"jobboard etcd: .*Timeout"):
            board.postings()
        # else a claim is lost before it is tried to renew it again
        assert time.monotonic() - began < 60 * 2 / 3


def test_another_endpoint_is_used_when_one_does_not_answer(etcd: str, name: str) -> None:
    dead = f"http://127.0.0.1:{servers.free_port()}"
    board = Board(Jobboard(etcd=Etcd(endpoints=[dead, etcd]), name=name, claim_expires=NEVER_S))
    board.post("run-1", first=False)
    assert the_posting(board).owner is None


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the servers may read from."""
    with servers.folder_unattached() as made:
        yield made


def test_etcd_with_tls_and_a_user(folder: Path, name: str) -> None:
    ca, certificate, key = make_certificates(folder)
    tls = ["--cert-file", str(certificate), "--key-file", str(key)]
    password = folder / "password"
    password.write_text("s3cret\n")
    with servers.etcd(*tls, scheme="https") as endpoint:
        root = Etcd(endpoints=[endpoint], ca=ca)
        add_user(root, "antipode", "s3cret", f"/taskflow/jobs/{name}/")
        settings = Etcd(endpoints=[endpoint], ca=ca, user="antipode", password_file=password)
        board = Board(Jobboard(etcd=settings, name=name, claim_expires=NEVER_S))
        board.post("run-1", first=False)
        board.claim(the_posting(board)).finish()
        with pytest.raises(BoardUnreachable):
            Board(Jobboard(etcd=root, name=name, claim_expires=NEVER_S)).postings()
        password.write_text("wrong\n")
        with pytest.raises(BoardUnreachable):
            Board(Jobboard(etcd=settings, name=name, claim_expires=NEVER_S)).postings()
        untrusted = Etcd(endpoints=[endpoint])
        with pytest.raises(BoardUnreachable, match=r"(?i)certificate"):
            Board(Jobboard(etcd=untrusted, name=name, claim_expires=NEVER_S)).postings()


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate for 127.0.0.1, signed by itself; CA, certificate and key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
        *subject,
    ]
    subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o644)
    return certificate, certificate, key


def add_user(settings: Etcd, user: str, password: str, prefix: str) -> None:
    """A user who may read and write what begins with a prefix; from then on etcd wants users."""
    from etcd3gw.utils import _encode, _increment_last_byte

    from antipode.claims.etcd import client

    etcd = client(settings, servers.WITHIN_S)

    def post(path: str, **what: Any) -> None:
        etcd.post(etcd.get_url(path), json=what)

    post("/auth/user/add", name="root", password="root")
    post("/auth/role/add", name="root")
    post("/auth/user/grant", user="root", role="root")
    post("/auth/user/add", name=user, password=password)
    post("/auth/role/add", name=user)
    permission = {
        "permType": 2,
        "key": _encode(prefix),
        "range_end": _encode(_increment_last_byte(prefix)),
    }
    post("/auth/role/grant", name=user, perm=permission)
    post("/auth/user/grant", user=user, role=user)
    post("/auth/enable")


def test_a_driver_that_is_not_installed_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("antipode.libraries.find_spec", lambda package: None)
    with pytest.raises(InvalidInput, match=r"pip install 'antipode\[etcd\]'"):
        Board(Jobboard(etcd=Etcd(endpoints=["http://127.0.0.1:1"])))


def test_the_board_on_zookeeper_takes_its_configuration() -> None:
    board = Board(
        Jobboard(
            zookeeper={"hosts": f"127.0.0.1:{servers.free_port()}"}, name="hosts", claim_expires=20
        )
    )
    assert board._board.path == "/antipode/hosts"
    assert board._board._client._session_timeout == 20_000

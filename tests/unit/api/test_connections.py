# SPDX-License-Identifier: Apache-2.0
"""What the API makes of the bytes of a connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import repeat
from urllib.parse import urlsplit

import pytest

from tests.unit.api.conftest import Clients

HEALTH = b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n"
IN_PIECES = b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMA"}


@contextmanager
def connected(clients: Clients) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", urlsplit(clients.url).port), 10) as connection:
        yield connection


def until(connection: socket.socket, ends: bytes) -> bytes:
    """What comes until these bytes have."""
    received = b""
    while ends not in received:
        piece = connection.recv(4096)
        assert piece, received
        received += piece
    return received


def rest(connection: socket.socket) -> bytes:
    """What comes until the connection ends."""
    received = b""
    with suppress(ConnectionError):
        while piece := connection.recv(4096):
            received += piece
    return received


@pytest.mark.usefixtures("things")
def test_a_body_of_a_request_that_asks_for_another_protocol_is_read(clients: Clients) -> None:
    demo, asked = clients.user("demo"), {"run": {"kind": "precheck"}}
    for vnf, status in (("hlr", 202), ("theirs", 404)):
        answer = demo.post(f"/v1/vnfs/{vnf}/runs", asked, headers=UPGRADE)
        assert answer.status_code == status
    assert demo.get("/v1/vnfs/hlr", headers=UPGRADE).status_code == 200


def test_a_body_of_a_request_that_asks_for_another_protocol_is_no_request(
    clients: Clients,
) -> None:
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in UPGRADE.items())
    inner = HEALTH + b"\r\n"
    length = f"Content-Length: {len(inner)}\r\n\r\n".encode()
    with connected(clients) as connection:
        connection.sendall(b"POST /v1/sites HTTP/1.1\r\nHost: x\r\n" + head + length)
        connection.sendall(inner)
        connection.sendall(b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = rest(connection)
    assert received.count(b"HTTP/1.1 4") == 2 and b" 200 " not in received


def test_fields_after_a_body_are_none_of_the_head(clients: Clients) -> None:
    token = clients.user("demo").token
    assert token is not None
    head, trailer = b"GET /v1/sites HTTP/1.1\r\nHost: x\r\n", f"X-Auth-Token: {token}\r\n".encode()
    with connected(clients) as connection:
        connection.sendall(head + IN_PIECES + b"0\r\n" + trailer + b"\r\n")
        assert b" 401 " in until(connection, b"}")
        connection.sendall(head + trailer + b"\r\n")  # it is the next request that has it
        assert b" 200 " in until(connection, b"}")


@pytest.mark.parametrize("after", [b"0\r\n", b"0\r\nX: ", b"1;"])
def test_what_comes_beside_a_body_has_an_end(clients: Clients, after: bytes) -> None:
    with connected(clients) as connection:
        connection.sendall(b"POST /healthcheck HTTP/1.1\r\nHost: x\r\n" + IN_PIECES + after)
        with pytest.raises(ConnectionError):
            for piece in repeat(b"X: y\r\n" * 8000 if after == b"0\r\n" else b"x" * 48000, 1000):
                connection.sendall(piece)
    assert clients.with_token(None).get("/healthcheck").status_code == 200


def test_a_head_that_comes_with_the_end_of_a_large_body_is_not_too_large(clients: Clients) -> None:
    body = b"x" * 200_000
    length = f"Content-Length: {len(body)}\r\n\r\n".encode()
    with connected(clients) as connection:
        connection.sendall(b"POST /v1/sites HTTP/1.1\r\nHost: x\r\n" + length + body + HEALTH[:9])
        until(connection, b"}")
        connection.sendall(HEALTH[9:] + b"Connection: close\r\n\r\n")
        assert b" 200 " in rest(connection)


def test_a_request_is_answered_before_what_comes_after_it_is_refused(clients: Clients) -> None:
    with connected(clients) as connection:
        connection.sendall(HEALTH + b"\r\n\xff no request\r\n")
        received = rest(connection)
    assert received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HTTP/1.1\r\n", 400),
        (b"HTTP/1.1\r\nHost: x\r\nHost: y\r\n", 400),
        (b"HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 0\r\n", 400),
        (b"HTTP/1.1\r\nHost : x\r\n", 400),
        (b"HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", 200),
        (b"HTTP/1.0\r\n", 200),
    ],
)
def test_a_head_that_two_servers_may_read_differently_is_refused(
    clients: Clients, head: bytes, status: int
) -> None:
    with connected(clients) as connection:
        connection.sendall(b"GET /healthcheck " + head + b"\r\n")
        assert rest(connection).startswith(f"HTTP/1.1 {status} ".encode())

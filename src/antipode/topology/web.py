# SPDX-License-Identifier: Apache-2.0
"""A GET of one address, over IPv4 or IPv6, within a time limit for all of it. Nothing of the
environment has a say in it, such as a proxy: it would answer in the place of the member.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException

from antipode.model.probe import Probe

LARGEST = 256 << 10
"""The bytes of an answer that are looked at."""


def get(probe: Probe, within_s: float) -> str | None:
    """Ask once; None when the answer is as expected, else why it is not.

    Args:
        within_s: seconds for the connection and the whole answer.
    """
    assert probe.http is not None and probe.port is not None  # it is a probe by GET
    try:
        with (
            closing(socket.create_connection((probe.address, probe.port), within_s)) as raw,
            closing(raw.dup()) as same,  # TLS takes the other one over
        ):
            # a limit of the socket is one for each byte of an answer that drips
            limit = threading.Timer(within_s, _hang_up, (same,))
            limit.start()
            try:
                status, body = _answer(probe, raw)
            finally:
                limit.cancel()
    except (OSError, HTTPException, UnicodeError) as error:
        return f"GET {probe.url}: {type(error).__name__}: {error}"
    if status not in probe.http.status:
        return f"GET {probe.url}: status {status}"
    if not probe.is_body(body):
        return f"GET {probe.url}: status {status}, without {probe.http.body!r} in its text"
    return None


def _answer(probe: Probe, raw: socket.socket) -> tuple[int, str]:
    """The status and the text of the answer."""
    http = probe.http
    assert http is not None
    name = http.host or probe.address
    connection = HTTPConnection(probe.address, probe.port)
    connection.sock = raw
    if http.tls:
        connection.sock = _context(http.verify).wrap_socket(raw, server_hostname=name)
    with closing(connection):
        host = f"[{name}]" if ":" in name else name
        usual = 443 if http.tls else 80
        headers = {
            "Host": host if probe.port == usual else f"{host}:{probe.port}",
            "User-Agent": "antipode",
            "Connection": "close",
        }
        connection.request("GET", http.path, headers=headers)
        with connection.getresponse() as response:
            body = response.read(LARGEST) if http.body is not None else b""
            return response.status, body.decode(errors="replace")


def _context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _hang_up(raw: socket.socket) -> None:
    with suppress(OSError):  # it has ended just now
        raw.shutdown(socket.SHUT_RDWR)

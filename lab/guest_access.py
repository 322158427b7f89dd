# SPDX-License-Identifier: Apache-2.0
"""Reaching a guest over TCP: from inside the DHCP namespace of its tenant network, the one place of
a site that reaches guests.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

from lab import inside
from lab.errors import LabError
from lab.site import Site


def answer(site: Site, address: str, port: int, timeout: float = 5, path: str = "/") -> str:
    """The body of what the guest at `address` answers to a GET of `path`.

    Raises LabError when no network of the site holds the address or the guest does not answer
    within `timeout` seconds.
    """
    reasons = []
    for namespace in _namespaces_holding(site, address):
        try:
            with inside.connect_from(namespace, address, port, timeout) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                response = b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError as e:
            reasons.append(f"{namespace.name}: {e}")
            continue
        head, separator, body = response.partition(b"\r\n\r\n")
        if separator and head.startswith(b"HTTP/1."):
            return body.decode(errors="replace")
        reasons.append(f"{namespace.name}: not an HTTP answer: {response[:200]!r}")
    why = "; ".join(reasons) or "no tenant network of the site holds this address"
    raise LabError(f"{site.name}: no answer from {address}:{port}: {why}")


@contextmanager
def forwarded(site: Site, address: str, port: int) -> Iterator[int]:
    """While the block runs, a port of this host's loopback leads to a port of the guest."""

    class Forward(BaseRequestHandler):
        request: socket.socket

        def handle(self) -> None:
            namespace = next(_namespaces_holding(site, address), None)
            if namespace is None:
                return
            try:
                guest = inside.connect_from(namespace, address, port, timeout=5)
            except OSError:
                return  # the client sees the connection end, as from a guest that is not up
            guest.settimeout(None)
            with guest:
                back = threading.Thread(target=_pump, args=(guest, self.request), daemon=True)
                back.start()
                _pump(self.request, guest)
                back.join()

    class Server(ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Forward) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Send on all that comes, and the end of it."""
    with suppress(OSError):  # one of them has hung up
        while piece := source.recv(65536):
            target.sendall(piece)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _namespaces_holding(site: Site, address: str) -> Iterator[Path]:
    """The DHCP namespaces of tenant networks whose subnet the address is in (several when subnets
    overlap).
    """
    wanted = ipaddress.ip_address(address)
    folder = Path("/proc") / str(inside.require_init_pid(site)) / "root/run/netns"
    for namespace in sorted(folder.glob("qdhcp-*")):
        listed = subprocess.run(
            ["nsenter", f"--net={namespace}", "ip", "-json", "address"],
            capture_output=True,
            text=True,
        )
        if listed.returncode:
            # a namespace that is being removed or not complete holds no guest that answers
            continue
        own = (
            f"{a['local']}/{a['prefixlen']}"
            for link in json.loads(listed.stdout)
            for a in link["addr_info"]
        )
        if any(wanted in ipaddress.ip_interface(text).network for text in own):
            yield namespace

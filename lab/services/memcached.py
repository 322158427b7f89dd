# SPDX-License-Identifier: Apache-2.0
"""memcached: the site's own cache of tokens, on its loopback."""

from __future__ import annotations

from collections.abc import Sequence

from lab import inside
from lab.service import NotReady, Program, Service
from lab.site import Site

PORT = 11211


class Memcached(Service):
    name = "memcached"

    def programs(self, site: Site) -> Sequence[Program]:
        return [
            Program(
                "memcached",
                [
                    "memcached",
                    "-u",
                    "root",
                    "-l",
                    "127.0.0.1",
                    "-p",
                    str(PORT),
                    "-m",
                    "16",
                    "-U",
                    "0",
                    "-t",
                    "1",
                ],
            )
        ]

    def check_ready(self, site: Site) -> None:
        try:
            with inside.connect(site, PORT) as connection:
                connection.sendall(b"version\r\n")
                answer = connection.recv(64)
        except OSError as e:
            raise NotReady(f"no answer on port {PORT}: {e}") from e
        if not answer.startswith(b"VERSION"):
            raise NotReady(f"port {PORT} answers {answer!r}")

# SPDX-License-Identifier: Apache-2.0
"""A server of HTTP that does nothing but answer fixed bodies: the floor of `bench.api`.

`python -m bench.fixed PORT FILE` answers each path with the body that the file has for it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

RUN = "RUN"
"""In the place of the id of any run."""
_RUN = re.compile(r"(?<=/v1/runs/)[^/?]+")


class Fixed(asyncio.Protocol):
    """One connection."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self._answers = answers
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where the answers go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that has come whole; none has a body."""
        *whole, self._read = (self._read + data).split(b"\r\n\r\n")
        for request in whole:
            path = request.split(b" ", 2)[1].decode()
            self._transport.write(self._answers[_RUN.sub(RUN, path)])


def answer(body: bytes) -> bytes:
    """A whole answer."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def serve(port: int, answers: dict[str, bytes]) -> None:
    """Answer until this process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Fixed(answers), "127.0.0.1", port)
    await server.serve_forever()


def answers_of(file: Path) -> dict[str, bytes]:
    """The answers by path, and one that says that the server is up."""
    bodies: dict[str, str] = {"/healthcheck": "", **json.loads(file.read_text())}
    return {path: answer(body.encode()) for path, body in bodies.items()}


def main() -> None:
    """Serve what the arguments say."""
    port, file = sys.argv[1:]
    asyncio.run(serve(int(port), answers_of(Path(file))))


if __name__ == "__main__":
    main()

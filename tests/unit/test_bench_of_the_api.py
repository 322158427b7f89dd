# SPDX-License-Identifier: Apache-2.0
"""The floor of the benchmark of the API: a server of fixed answers."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path

from bench import fixed
from bench.api import CALLS, call, slowed
from tests.ports import free_port


async def asked(paths: list[str], answers: dict[str, bytes]) -> bytes:
    """What comes for some requests on one connection, the last cut in two pieces."""
    port = free_port()
    serving = asyncio.create_task(fixed.serve(port, answers))
    try:
        while True:
            with suppress(ConnectionRefusedError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            await asyncio.sleep(0)
        sent = b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths)
        for piece in (sent[:-3], sent[-3:]):
            writer.write(piece)
            await writer.drain()
        wanted = b"".join(answers[path.replace("run-7", fixed.RUN)] for path in paths)
        found = await asyncio.wait_for(reader.readexactly(len(wanted)), 30)
        writer.close()
        assert found == wanted
        return found
    finally:
        serving.cancel()


def test_the_floor_answers_each_call_of_the_clients_with_its_own_body() -> None:
    of_any_run = [call(turn, fixed.RUN)[1] for turn in range(len(CALLS))]
    bodies = {path: json.dumps({"path": path}) for path in of_any_run}
    answers = {path: fixed.answer(body.encode()) for path, body in bodies.items()}
    paths = [call(turn, "run-7")[1] for turn in range(len(CALLS))]
    found = asyncio.run(asked(paths, answers))
    assert all(body.encode() in found for body in bodies.values())


def test_the_floor_can_be_started_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text(json.dumps({"/v1/runs": "{}"}))
    assert fixed.answers_of(tmp_path / "answers.json")["/v1/runs"].endswith(b"\r\n\r\n{}")


def test_a_drift_of_the_machine_slows_nothing() -> None:
    assert slowed([2.1, 4.2, 8.4], [2.0, 4.0, 8.0]) == 1.05

# SPDX-License-Identifier: Apache-2.0
"""The control API of an embedded site takes requests of programs on this machine, not of web pages;
its process holds its lock to the end.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp.test_utils import TestClient, TestServer

from antipode.sandbox import settings
from antipode.sandbox.cinder.types import Types
from antipode.sandbox.conditions import Conditions
from antipode.sandbox.control import Control
from antipode.sandbox.supervision import Sandbox, _doors


def answered(headers: dict[str, str]) -> tuple[int, bool]:
    """The status of a request to isolate a site, and whether the site is isolated then."""

    async def ask() -> tuple[int, bool]:
        conditions = Conditions(0.0)
        hypervisor: Any = SimpleNamespace(seen=list)
        gate: Any = SimpleNamespace(calls={})
        storage: Any = SimpleNamespace(volumes={})
        servers: Any = SimpleNamespace()
        types = Types(storage)
        control = Control("site-a", conditions, gate, hypervisor, storage, types, servers)
        async with TestClient(TestServer(control.application())) as client:
            answer = await client.post("/isolate", headers=headers)
            return answer.status, conditions.isolated

    return asyncio.run(ask())


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:1", "[::1]:1"])
def test_a_program_of_this_machine_is_answered(host: str) -> None:
    assert answered({"Host": host}) == (200, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "evil.example:80", "Origin": "http://evil.example"},
    ],
)
def test_a_web_page_is_refused_and_changes_nothing(headers: dict[str, str]) -> None:
    assert answered(headers) == (403, False)


ENDS_AT_ONCE = """
import sys
from pathlib import Path
from antipode.sandbox import site
from antipode.sandbox.supervision import Sandbox
async def serve(*_):
    pass
site.serve = serve
folder = Path(sys.argv[1])
site.main()
print(Sandbox(folder.parent).pid(folder.name) is not None)
"""


def test_the_lock_of_a_site_is_held_until_its_process_has_ended(tmp_path: Path) -> None:
    (tmp_path / "site-a").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ENDS_AT_ONCE, str(tmp_path / "site-a")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"
    assert Sandbox(tmp_path).pid("site-a") is None
    assert (tmp_path / "site-a" / settings.LOCK).stat().st_mode & 0o777 == 0o600


def test_the_files_of_a_sandbox_are_their_owners_alone(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "sandbox")
    doors = _doors(4)
    try:
        sandbox._lay_out([door.getsockname()[1] for door in doors], {"latency": 0.0})
    finally:
        for door in doors:
            door.close()
    made = list((tmp_path / "sandbox").rglob("*"))
    assert {p.stat().st_mode & 0o077 for p in made} == {0}

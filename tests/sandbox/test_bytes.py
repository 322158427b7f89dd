# SPDX-License-Identifier: Apache-2.0
"""The bytes of volumes: whatever is written, backed up and restored, full and in increments, comes
back as it was.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antipode.sandbox import blocks
from antipode.sandbox.barbican import Barbican
from antipode.sandbox.cinder.backups import Backups
from antipode.sandbox.cinder.storage import Storage
from antipode.sandbox.cinder.types import Types
from antipode.sandbox.cinder.volumes import Volumes
from antipode.sandbox.conditions import Conditions
from antipode.sandbox.database import Database, Json
from antipode.sandbox.glance import Glance
from antipode.sandbox.store import StoreError, StoreSettings
from antipode.sandbox.work import Work

SIZE = 1 << 20
BLOCK, PIECE = 4 << 10, 64 << 10
PROJECT = {"project_id": "p", "user_id": "u"}

Write = tuple[int, bytes]
a_write = st.tuples(st.integers(0, SIZE - 1), st.integers(0, 255), st.integers(1, 3 * BLOCK)).map(
    lambda w: (w[0], bytes([w[1]]) * min(w[2], SIZE - w[0]))
)
"""also of zeros: what has become zero must not come back as what it was"""


class FakeStore:
    """An object store in memory."""

    def __init__(self) -> None:
        self.settings = StoreSettings(auth_url="", object_size=PIECE, block_size=BLOCK)
        self.objects: dict[str, bytes] = {}

    async def ensure_container(self) -> None: ...

    async def put(self, name: str, data: bytes) -> None:
        self.objects[name] = data

    async def get(self, name: str) -> bytes:
        if name not in self.objects:
            raise StoreError(f"Object GET failed: {name} 404")
        return self.objects[name]

    async def names(self, prefix: str) -> list[str]:
        return [name for name in self.objects if name.startswith(prefix)]


class Bench:
    """A storage with one volume, and the backups made of it."""

    def __init__(self, folder: Path) -> None:
        conditions = Conditions(0)
        database = Database(folder / "db")
        self.storage = Storage("site", database, folder, conditions, Work(), SIZE)
        self.store = FakeStore()
        keys = Barbican(database, conditions)
        images = Glance(database, folder / "images", conditions)
        volumes = Volumes(self.storage, Types(self.storage), images, keys)
        self.backups = Backups(self.storage, volumes, self.store, keys)  # type: ignore[arg-type]
        self.volume = self.new_volume("v")
        blocks.create(self.storage.path("v"), SIZE)

    def new_volume(self, volume_id: str) -> Json:
        about = {
            "name": volume_id,
            "description": "",
            "metadata": {},
            "volume_image_metadata": {},
            "attachments": [],
            "bootable": "false",
        }
        return self.storage.volumes.keep(
            {"id": volume_id, "size": 1, "status": "available", **about, **PROJECT}
        )

    async def back_up(self, number: int, parent: Json | None) -> Json:
        about: dict[str, Any] = {
            "name": "",
            "description": "",
            "created_at": "",
            "data_timestamp": "",
            "service_metadata": None,
        }
        about |= {
            "volume_id": "v",
            "size": 1,
            "status": "creating",
            "parent_id": parent and parent["id"],
            "fail_reason": None,
        }
        backup = self.storage.backups.keep({"id": f"b{number}", **about, **PROJECT})
        await self.backups._make(backup, parent, self.volume, None, "available")
        assert backup["status"] == "available", backup["fail_reason"]
        return backup

    async def restored(self, backup: Json) -> bytes:
        volume = self.new_volume(f"of-{backup['id']}")
        await self.backups._restore_into_new(volume, backup)
        assert volume["status"] == "available"
        return self.storage.path(volume["id"]).read_bytes()

    async def written(self, backup: Json) -> bytes:
        """What a blank volume holds into which a backup was restored."""
        volume = self.new_volume(f"into-{backup['id']}")
        blocks.create(self.storage.path(volume["id"]), SIZE)
        await self.backups._fill(volume, backup, is_new=False)
        assert volume["status"] == "available"
        return self.storage.path(volume["id"]).read_bytes()


@pytest.fixture(params=["told", "read"])
def holes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How it is known where a file has holes: the kernel tells, or, as on macOS, the file is
    read.
    """
    if request.param == "told" and sys.platform != "linux":
        pytest.skip("this kernel is not asked where a file has holes")
    monkeypatch.setattr(blocks, "KERNEL_TELLS", request.param == "told")
    return str(request.param)


@settings(max_examples=25)
@given(generations=st.lists(st.lists(a_write, max_size=4), min_size=1, max_size=4))
def test_every_backup_of_a_chain_brings_back_what_the_volume_held_then(
    holes: str, generations: list[list[Write]]
) -> None:
    async def live() -> None:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder))
            made: list[tuple[Json, bytes]] = []
            for number, writes in enumerate(generations):
                for offset, data in writes:
                    blocks.write(bench.storage.path("v"), offset, data)
                backup = await bench.back_up(number, made[-1][0] if made else None)
                made.append((backup, bench.storage.path("v").read_bytes()))
            for backup, held in made:
                assert await bench.restored(backup) == held
            bench.storage.conditions.skips_zeros = True
            for backup, held in made:
                assert await bench.written(backup) == held

    asyncio.run(live())


def test_a_cinder_that_skips_zeros_of_increments_brings_old_data_back_into_a_new_volume(
    tmp_path: Path,
) -> None:
    async def live() -> None:
        bench = Bench(tmp_path)
        bench.storage.conditions.skips_zeros = True
        blocks.write(bench.storage.path("v"), 0, b"x" * SIZE)
        base = await bench.back_up(0, None)
        blocks.write(bench.storage.path("v"), 5 * BLOCK, bytes(2 * BLOCK))
        blocks.write(bench.storage.path("v"), 9 * BLOCK, b"y")
        increment = await bench.back_up(1, base)
        held = bench.storage.path("v").read_bytes()
        came_back = await bench.restored(increment)
        assert came_back != held
        assert came_back[5 * BLOCK : 7 * BLOCK] == b"x" * 2 * BLOCK
        assert came_back[7 * BLOCK :] == held[7 * BLOCK :], "what is no zero is right"
        assert await bench.restored(base) == b"x" * SIZE
        assert await bench.written(increment) == held

    asyncio.run(live())


def test_an_increment_has_the_blocks_that_changed_and_no_others(tmp_path: Path) -> None:
    async def live() -> None:
        bench = Bench(tmp_path)
        blocks.write(bench.storage.path("v"), 0, b"x" * SIZE)
        base = await bench.back_up(0, None)
        blocks.write(bench.storage.path("v"), 5 * BLOCK + 1, b"y")
        blocks.write(bench.storage.path("v"), PIECE - 1, b"zz")
        increment = await bench.back_up(1, base)
        assert base["object_count"] == SIZE // PIECE
        assert increment["object_count"] == 3, (
            "one block, and one on each side of the border between two objects"
        )

    asyncio.run(live())


def test_a_copy_is_as_sparse_as_what_it_is_of(tmp_path: Path, holes: str) -> None:
    blocks.create(tmp_path / "one", 1 << 30)
    blocks.write(tmp_path / "one", 500 << 20, b"here")
    blocks.copy(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").stat().st_size == 1 << 30
    assert (tmp_path / "two").stat().st_blocks * 512 < 20 << 20
    with blocks.Image(tmp_path / "two") as image:
        assert image.read(500 << 20, 4) == b"here"


def test_extents_cover_every_byte_that_is_not_zero_and_no_hole_of_a_mebibyte(
    tmp_path: Path, holes: str
) -> None:
    path, mib = tmp_path / "one", 1 << 20
    blocks.create(path, 5 * mib + 17)
    for offset, data in (
        (0, b"first"),
        (2 * mib, b"x" * mib),
        (3 * mib, b"y" * 5),
        (5 * mib + 16, b"z"),
    ):
        blocks.write(path, offset, data)
    with path.open("rb") as file:
        found = list(blocks.extents(file.fileno()))
    held = {at for extent in found for at in range(extent.offset, extent.offset + extent.length)}
    assert {at for at, byte in enumerate(path.read_bytes()) if byte} <= held
    assert not held & {mib + mib // 2, 4 * mib + mib // 2}
    assert [e.offset for e in found] == sorted(e.offset for e in found)


def test_a_file_system_that_does_not_tell_of_holes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one"
    blocks.create(path, 4 << 20)
    blocks.write(path, 3 << 20, b"here")

    def refuse(*_: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "lseek", refuse)
    with path.open("rb") as file:
        handle = file.fileno()
        (found,) = blocks.extents(handle)
    assert found.offset <= 3 << 20 < found.offset + found.length
    assert found.length < 1 << 20


def test_a_missing_or_additional_object_fails_the_restore(tmp_path: Path) -> None:
    async def live() -> None:
        bench = Bench(tmp_path)
        backup = await bench.back_up(0, None)
        name = next(n for n in bench.store.objects if n.endswith("-00002"))
        content = bench.store.objects.pop(name)
        volume = bench.new_volume("lost")
        await bench.backups._restore_into_new(volume, backup)
        assert volume["status"] == "error_restoring"
        bench.store.objects[name] = content
        bench.store.objects[name + "0"] = b""
        more = bench.new_volume("more")
        await bench.backups._restore_into_new(more, backup)
        assert more["status"] == "error_restoring"
        assert backup["status"] == "available"

    asyncio.run(live())

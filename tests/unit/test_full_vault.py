# SPDX-License-Identifier: Apache-2.0
"""A vault that is full still takes what makes room in it: points expire there, one with all its
backups or not at all. It takes claims, too.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from antipode.cloud import site as cloud_site
from antipode.engine.timeline import Unobserved
from antipode.errors import AntipodeError, NotFound, PreflightFailed, VaultError, VaultFull
from antipode.operations import expiry
from antipode.vault import Vault, generations, points, reserve, sync, withdrawals
from antipode.vault.directory import DirectoryVault
from tests.unit.s3server import S3Server
from tests.unit.storages import MemoryObjects
from tests.unit.test_durable_runs import World, world
from tests.unit.test_expiry import VOLUMES, expire, keep
from tests.unit.test_kill_matrix import VNF
from tests.unit.test_vault_sync import three_vaults

__all__ = ["world"]

ROOM = 4096
"""Bytes for a note or two."""


class Place(ABC):
    """A world whose one vault can be filled up."""

    def __init__(self, world: World, settings: str) -> None:
        self.world = world
        text = world.config.read_text()
        line = next(line for line in text.splitlines() if line.startswith("vault:"))
        world.config.write_text(text.replace(line, f"vaults:\n  one: {settings}"))
        world.here = world.process()
        world.here.vnfs.put(VNF)
        keep(world, retention="all")

    @abstractmethod
    def used(self) -> int:
        """The bytes that the vault holds."""

    @abstractmethod
    def holds_at_most(self, size: int | None) -> None:
        """From now on it takes no more bytes than these in all; None: as many as there are."""

    def fill(self, free: int = 0) -> None:
        self.holds_at_most(self.used() + free)

    @property
    def vault(self) -> Vault:
        return self.world.here.vault.copies()[0]

    def ids(self) -> list[str]:
        return points.list_ids(self.vault, "v")

    def three_points(self) -> list[str]:
        return [self.world.protect()["recovery_point"] for _ in range(3)]


class Disk(Place):
    """A directory on a disk."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = world.folder / "disk"
        self.folder.mkdir()
        self.capacity: int | None = None
        fsync = os.fsync

        def has_room(handle: int) -> None:
            is_file = stat.S_ISREG(os.fstat(handle).st_mode)
            if is_file and self.capacity is not None and self.used() > self.capacity:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(handle)

        monkeypatch.setattr(os, "fsync", has_room)
        super().__init__(world, f"{{directory: {self.folder}}}")

    def used(self) -> int:
        files = [path.lstat() for path in self.folder.rglob("*") if path.is_file()]
        return sum({file.st_ino: file.st_size for file in files}.values())

    def holds_at_most(self, size: int | None) -> None:
        self.capacity = size


class Swift(Place):
    """A container with a quota."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.objects = MemoryObjects()
        monkeypatch.setattr(cloud_site, "connect_objects", lambda *_: self.objects)
        super().__init__(world, "{swift: {cloud: third}}")

    def used(self) -> int:
        return sum(len(data) for data in self.objects.held.values())

    def holds_at_most(self, size: int | None) -> None:
        self.objects.capacity = size


class Bucket(Place):
    """A bucket of a service whose storage is full."""

    def __init__(self, world: World, server: S3Server) -> None:
        self.server, self.bucket = server, f"full-{uuid.uuid4().hex}"
        server.make(self.bucket)
        settings = server.settings(self.bucket).model_dump(mode="json", exclude_defaults=True)
        super().__init__(world, f"{{s3: {settings}}}")

    def used(self) -> int:
        return sum(self.server.held[self.bucket].values())

    def holds_at_most(self, size: int | None) -> None:
        self.server.capacity[self.bucket] = 1 << 60 if size is None else size


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.down()


@pytest.fixture(params=["disk", "swift", "s3"])
def place(request: pytest.FixtureRequest, world: World, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(reserve, "LOOK_S", 0.01)
    monkeypatch.setattr(reserve, "ROOM_WITHIN_S", 0.1)
    if request.param == "disk":
        return Disk(world, monkeypatch)
    if request.param == "swift":
        return Swift(world, monkeypatch)
    return Bucket(world, request.getfixturevalue("s3"))


@pytest.fixture
def disk(world: World, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(reserve, "LOOK_S", 0.01)
    monkeypatch.setattr(reserve, "ROOM_WITHIN_S", 0.1)
    return Disk(world, monkeypatch)


def test_points_expire_in_a_vault_that_is_full(place: Place) -> None:
    there = place.three_points()
    world = place.world
    assert reserve.is_in(place.vault)
    place.fill()
    keep(world, retention={"last": 1})
    record = expire(world)
    assert (record["expired"], record["left"]) == (there[:2], [])
    assert place.ids() == there[2:]
    for point in there[:2]:
        assert withdrawals.places_of(place.vault, "v", point)
    needed = set(points.read(place.vault, "v").backups)
    assert needed <= set(world.a.backups)
    # the world begins with a point in a vault that is not configured any more
    assert len(world.a.backups) == 2 * VOLUMES
    place.holds_at_most(None)
    world.protect()
    assert reserve.is_in(place.vault)


def test_a_reserve_that_holds_one_note_has_one_point_expire_after_another(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = place.three_points()
    place.vault.put(reserve.NAME, bytes(note_size(place)))
    monkeypatch.setattr(reserve, "BYTES", note_size(place))
    place.fill()
    keep(place.world, retention={"last": 1})
    assert expire(place.world)["expired"] == there[:1]
    assert place.ids() == there[1:]
    assert expire(place.world)["expired"] == there[1:2]
    assert place.ids() == there[2:]


def note_size(place: Place) -> int:
    """Bytes of a note, and a few more."""
    withdrawals.write(place.vault, "v", "20200101T000000Z-000000", "x" * 60)
    name = withdrawals.name_of("v", "20200101T000000Z-000000")
    size = len(place.vault.get(name))
    place.vault.delete(name)
    return size + 64


def test_a_full_vault_without_a_reserve_keeps_all_points_until_it_has_room(place: Place) -> None:
    there = place.three_points()
    world, backups = place.world, set(place.world.a.backups)
    place.vault.delete(reserve.NAME)
    place.fill()
    keep(world, retention={"last": 1})
    with pytest.raises(VaultFull):
        expire(world)
    assert place.ids() == there
    assert set(world.a.backups) == backups
    place.fill(free=ROOM)
    assert expire(world)["expired"]
    assert there[2] in place.ids()


def test_a_full_vault_is_found_before_anything_is_frozen(place: Place) -> None:
    place.three_points()
    place.fill()
    place.world.a.events.clear()
    with pytest.raises(PreflightFailed, match=r"full|No space"):
        place.world.protect()
    assert not [e for e in place.world.a.events if e.startswith("quiesce")]


def test_a_point_is_deleted_by_hand_from_a_full_vault_and_makes_room_for_the_next(
    place: Place,
) -> None:
    there = place.three_points()
    world = place.world
    place.fill(free=reserve.BYTES // 8)
    plan = expiry.plan_deletion(world.here, "v", there[:1])
    assert expiry.delete(world.here, plan, Unobserved())["expired"] == there[:1]
    made = world.protect()["recovery_point"]
    assert place.ids() == [*there[1:], made]


def test_a_vnf_fails_over_with_a_vault_that_is_full(place: Place) -> None:
    place.three_points()
    place.fill()
    place.world.failover()
    state = generations.present(place.vault, "v", "site-a")
    assert state.active_site == "site-b"


def test_a_quota_that_swift_remembers_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve, "LOOK_S", 0.01)
    swift = Swift(world, monkeypatch)
    there = swift.three_points()
    swift.fill()
    swift.objects.looks_before_room = 5
    keep(world, retention={"last": 2})
    assert expire(world)["expired"] == there[:1]
    assert swift.ids() == there[1:]


def test_a_full_vault_beside_others_keeps_the_backups_of_a_point_that_it_does_not_hide(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = three_vaults(world)
    keep(world, retention="all")
    there = [world.protect()["recovery_point"] for _ in range(3)]
    backups = set(world.a.backups)
    create, full = DirectoryVault.create, places.folder / "two"

    def refuses(vault: DirectoryVault, name: str, document: bytes) -> bool:
        if vault._root == full:
            raise VaultFull("no room")
        return create(vault, name, document)

    DirectoryVault(full).delete(reserve.NAME)
    keep(world, retention={"last": 1})
    with monkeypatch.context() as patched:
        patched.setattr(DirectoryVault, "create", refuses)
        with pytest.raises(VaultFull):
            expire(world)
        assert set(world.a.backups) == backups
    assert expire(world)["left"] == []
    assert points.list_ids(world.here.vaults(), "v") == there[2:]


def test_a_process_that_dies_between_the_reserve_and_the_note_leaves_a_point_that_stands(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = disk.three_points()
    disk.fill()
    keep(disk.world, retention={"last": 1})

    def dies(_vault: DirectoryVault, name: str) -> None:
        (disk.folder / name).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, AntipodeError)):
        patched.setattr(DirectoryVault, "delete", dies)
        expire(disk.world)
    assert disk.ids() == there
    # the room is there
    assert expire(disk.world)["left"] == []
    assert disk.ids() == there[2:]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_without_room_is_told_from_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fails(_handle: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fails)
    vault = DirectoryVault(tmp_path)
    writes: list[Callable[[], Any]] = [
        lambda: vault.put("v/one", b"1"),
        lambda: vault.create("v/one", b"1"),
    ]
    for write in writes:
        with pytest.raises(AntipodeError) as caught:
            write()
        assert isinstance(caught.value, VaultFull) is (error != errno.EIO)
    with pytest.raises(NotFound):
        vault.get("v/one")


def test_recovery_points_do_not_take_the_room_that_a_statement_was_given(place: Place) -> None:
    """A failover has claimed in the place of the reserve; its outcome needs room, too."""
    place.three_points()
    place.fill()
    state = generations.present(place.vault, "v", "site-a")
    mine = generations.claim(place.vault, state, "site-b", "r")
    generations.release(place.vault, mine)
    assert not reserve.is_in(place.vault)
    there = place.ids()
    with pytest.raises(PreflightFailed, match=r"full|No space"):
        place.world.protect()
    assert place.ids() == there
    again = generations.claim(place.vault, state, "site-b", "r2")
    generations.complete(place.vault, again)
    assert generations.present(place.vault, "v", "site-a").active_site == "site-b"


def test_a_vault_that_refuses_a_reserve_and_is_not_full_gets_its_points(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = three_vaults(world)
    put = DirectoryVault.put

    def refuses(vault: DirectoryVault, name: str, document: bytes) -> None:
        if name == reserve.NAME and vault._root == places.folder / "two":
            raise VaultError("documents of 64 KiB are not taken")
        put(vault, name, document)

    monkeypatch.setattr(DirectoryVault, "put", refuses)
    places.config.write_text(f"{places.config.read_text()}vaults_needed: 1\n")
    world.here = world.process()
    made = world.protect()["recovery_point"]
    assert made in points.list_ids(DirectoryVault(places.folder / "two"), "v")


class FullOnce:
    """A statement that a vault refuses so many times, while another host does something."""

    def __init__(self, refused: int, meanwhile: Callable[[], None]) -> None:
        self.refused, self.meanwhile, self.tried = refused, meanwhile, 0

    def __call__(self) -> str:
        self.tried += 1
        if self.tried <= self.refused:
            self.meanwhile()
            raise VaultFull("no room")
        return "written"


def test_a_statement_has_the_room_that_another_host_has_just_made(tmp_path: Path) -> None:
    vault = DirectoryVault(tmp_path)
    reserve.keep(vault)
    statement = FullOnce(1, lambda: vault.delete(reserve.NAME))
    assert reserve.write(vault, statement) == "written"
    never = FullOnce(99, lambda: None)
    with pytest.raises(VaultFull):
        reserve.write(vault, never)
    assert never.tried == 2


def test_a_reserve_that_another_host_writes_again_meanwhile_gives_way_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve, "LOOK_S", 0.0)
    vault = DirectoryVault(tmp_path)
    statement = FullOnce(3, lambda: reserve.keep(vault))
    assert reserve.write(vault, statement) == "written"
    assert not reserve.is_in(vault)


def test_statements_that_a_full_vault_lacks_are_brought_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = three_vaults(world)
    vaults = world.here.vaults()
    reserve.keep(vaults)
    state = generations.present(vaults, "v", "site-a")
    generations.release(vaults, generations.claim(vaults, state, "site-b", "r"))
    full, [claim] = DirectoryVault(places.folder / "two"), vaults.list("v/generation-0000000002.c")
    full.delete(claim)
    withdrawals.write(vaults, "v", "20200101T000000Z-000000", "It has expired.")
    note = withdrawals.name_of("v", "20200101T000000Z-000000")
    create = DirectoryVault.create

    def refuses(vault: DirectoryVault, name: str, document: bytes) -> bool:
        if vault._root == full._root and reserve.is_in(vault):
            raise VaultFull("no room")
        return create(vault, name, document)

    monkeypatch.setattr(DirectoryVault, "create", refuses)
    generations.spread(vaults, "v")
    assert claim in full.list("v/")
    full.delete(note)
    reserve.keep(full)
    assert sync.catch_up(world.here.vaults(), "v").trouble == []
    assert note in full.list("v/")

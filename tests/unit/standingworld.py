# SPDX-License-Identifier: Apache-2.0
"""A Cinder in memory with the bytes of its volumes, a backup store, and a mover in this process,
which can be killed before and after each thing that they do.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from antipode.cloud.api import ApiError
from antipode.cloud.attachments import Attachment
from antipode.errors import ResourceFailed
from antipode.model.source import BackupRecord
from antipode.model.standing import is_taken, read_standing
from antipode.model.steps import Unrecorded
from antipode.mover import work
from antipode.mover.child import Turn
from antipode.mover.helper import NovaAttached
from antipode.mover.job import Job, Outcome, VolumeJob
from antipode.recover.standing import Hands, Want, bring
from tests.unit.chunked import Bytes, Chained, Kept

Json = dict[str, Any]
SIZE, BLOCK = 24 * 512, 512
VNF = "hlr"


class Killed(BaseException):
    """The process is dead: nothing that it tries has an effect any more."""


class Fate:
    """Kills the process before or after its Nth deed."""

    def __init__(self) -> None:
        self.deeds: list[str] = []
        self.kill_at: int | None = None
        self.is_dead = False
        self.on_deed: Callable[[str], None] = lambda what: None
        self._one_by_one = threading.Lock()

    @contextmanager
    def deed(self, what: str) -> Iterator[None]:
        self.pass_by(f"before {what}")
        yield
        self.pass_by(f"after {what}")

    def pass_by(self, what: str) -> None:
        with self._one_by_one:
            if self.is_dead:
                raise Killed
            self.deeds.append(what)
            number = len(self.deeds)
        self.on_deed(what)
        if self.kill_at == number:
            self.is_dead = True
            raise Killed

    def revive(self) -> None:
        self.kill_at, self.is_dead, self.deeds = None, False, []


class _Disk(Bytes):
    """The bytes of a volume, whose writes are deeds."""

    def __init__(self, content: bytes, fate: Fate) -> None:
        super().__init__(content)
        self._fate = fate

    def write(self, offset: int, data: bytes) -> None:
        with self._fate.deed("write"):
            super().write(offset, data)


class World:
    """The site; `volumes`, `attachments` and `snapshots` are used as those of a `Site`."""

    def __init__(self, folder: Path, helper: str | None = None) -> None:
        """`helper`: the server to which the mover has volumes attached."""
        self.name, self.helper = "site-b", helper
        self.fate = Fate()
        self.rows: dict[str, Json] = {}
        self.disks: dict[str, _Disk] = {}
        self.snapshot_rows: dict[str, Json] = {}
        self.attached: dict[str, tuple[str, str | None]] = {}
        self.store = Kept()
        self.locks = folder / "locks"
        self.may_revert = True
        self.missing = ""
        self.numbers = iter(range(1, 10000))
        self.at_once = 1
        """as `Hands.at_once`; one, so that deeds come in one order"""
        self.volumes = self.attachments = self.watch = self
        self.snapshot_watch = _SnapshotWatch()
        self.chains = {s: Chained(self.store, BLOCK, 4 * BLOCK, volume=s) for s in SOURCES}
        self.states: dict[str, dict[str, bytes]] = {}
        """backup -> bytes, by source"""

    # ---- the active site ----

    def back_up(self, number: int, unchanged: Mapping[str, int] = {}) -> list[Want]:
        """Change the volumes of the VNF, and back them up: a recovery point.

        Args:
            unchanged: volumes that are as they were in another point, by its number.
        """
        wants = []
        for place, source in enumerate(SOURCES):
            version = unchanged.get(source, number)
            content = b"".join(_block(version, place, at) for at in range(SIZE // BLOCK))
            records = self.chains[source].add(content)
            self.states.setdefault(source, {})[records[-1].id] = content
            wants.append(Want(source, f"volume-{place}", records, 1))
        return wants

    # ---- Cinder ----

    def listing(self) -> list[Json]:
        return [self._shown(i) for i in self.rows]

    def _shown(self, volume: str) -> Json:
        row = self.rows[volume]
        mine = {a: s for a, (v, s) in self.attached.items() if v == volume}
        status = "in-use" if mine and row["status"] == "available" else row["status"]
        shown = [{"id": a, "server_id": s} for a, s in mine.items()]
        return {**row, "metadata": dict(row["metadata"]), "status": status, "attachments": shown}

    def volume(self, volume: str) -> Json | None:
        if self.fate.is_dead:
            raise Killed
        return self._shown(volume) if volume in self.rows else None

    def create_volume(self, wanted: Json) -> str:
        with self.fate.deed("create volume"):
            made = f"v-{next(self.numbers)}"
            if snapshot := wanted.get("snapshot_id"):
                content = self.snapshot_rows[snapshot]["content"]
            else:
                content = bytes(SIZE)
            self.disks[made] = _Disk(content, self.fate)
            self.rows[made] = {
                "id": made,
                "name": "",
                "description": "",
                "status": "available",
                "created_at": "2026-01-01T00:00:00.000000",
                "volume_type": "",
                "bootable": "false",
                **{k: v for k, v in wanted.items() if k != "snapshot_id"},
            }
        return made

    def merge_metadata(self, volume: str, metadata: Mapping[str, str]) -> None:
        with self.fate.deed(f"merge {sorted(k.rpartition(':')[2] for k in metadata)}"):
            self.rows[volume]["metadata"] = {**self.rows[volume]["metadata"], **metadata}

    def update_volume(
        self, volume: str, name: str, description: str, metadata: Mapping[str, str]
    ) -> None:
        with self.fate.deed("update volume"):
            about = {"name": name, "description": description, "metadata": dict(metadata)}
            self.rows[volume].update(about)

    def set_bootable(self, volume: str) -> None:
        self.rows[volume]["bootable"] = "true"

    def delete_volume(self, volume: str) -> None:
        with self.fate.deed("delete volume"):
            has_snapshots = any(s["volume_id"] == volume for s in self.snapshot_rows.values())
            if self._shown(volume)["status"] not in ("available", "error") or has_snapshots:
                raise ApiError(self.name, "DELETE", 400, "it is in use, or has snapshots")
            del self.rows[volume], self.disks[volume]

    def snapshots(self) -> list[Json]:
        return [dict(s) for s in self.snapshot_rows.values()]

    def create_snapshot(
        self, volume: str, name: str, metadata: Mapping[str, str], timeout_s: float
    ) -> str:
        with self.fate.deed("create snapshot"):
            made = f"s-{next(self.numbers)}"
            self.snapshot_rows[made] = {
                "id": made,
                "volume_id": volume,
                "status": "available",
                "metadata": dict(metadata),
                "content": bytes(self.disks[volume].content),
            }
        return made

    def delete_snapshot(self, snapshot: str) -> None:
        with self.fate.deed("delete snapshot"):
            self.snapshot_rows.pop(snapshot, None)

    def revert_to_snapshot(self, volume: str, snapshot: str) -> None:
        with self.fate.deed("revert"):
            if not self.may_revert or self._shown(volume)["status"] != "available":
                raise ApiError(self.name, "revert", 400, "not the newest snapshot, or in use")
            self.disks[volume].content[:] = self.snapshot_rows[snapshot]["content"]

    def create(self, volume: str, connector: Mapping[str, Any]) -> Attachment:
        with self.fate.deed("attach"):
            if self._shown(volume)["status"] != "available":
                raise ApiError(self.name, "attach", 400, "it is not available")
            made = f"a-{next(self.numbers)}"
            self.attached[made] = (volume, None)
        return Attachment(made, {})

    def of(self, volume: str) -> dict[str, str | None]:
        return {a: s for a, (v, s) in self.attached.items() if v == volume}

    def delete(self, attachment: str) -> None:
        with self.fate.deed("detach"):
            self.attached.pop(attachment, None)

    def attach_volume(self, server: str, volume: str) -> None:
        with self.fate.deed("attach to the helper"):
            if self._shown(volume)["status"] != "available":
                raise ApiError(self.name, "attach", 400, "it is not available")
            self.attached[f"a-{next(self.numbers)}"] = (volume, server)

    def detach_volume(self, server: str, volume: str) -> None:
        with self.fate.deed("detach from the helper"):
            left = {a: v for a, v in self.attached.items() if v != (volume, server)}
            assert len(left) < len(self.attached) or volume not in self.rows
            self.attached = left

    def wait_for(
        self, ids: Sequence[str], wanted: Sequence[str] = ("available",), **how: Any
    ) -> dict[str, Json]:
        found = {i: self._shown(i) for i in ids}
        if busy := [i for i, v in found.items() if v["status"] not in wanted]:
            raise ResourceFailed(f"{busy} is never available")
        return found

    def wait_gone(self, ids: Sequence[str], **how: Any) -> None:
        assert not self.rows.keys() & set(ids)

    # ---- the mover, as `Mover` ----

    @contextmanager
    def turn(self, volumes: int) -> Iterator[Turn]:
        self.fate.pass_by("before turn")
        yield self

    def carry(
        self, claim: str, volumes: list[VolumeJob], go_on: Callable[[], None]
    ) -> dict[str, Outcome]:
        handle = os.open(self.locks / claim, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            job = Job(lock=self.locks / claim, at_once=1, volumes=volumes)
            stop = threading.Event()
            found = {
                o.volume: o for o in work.carry(job, cast(Any, self), self.store, self.attach, stop)
            }
        finally:
            os.close(handle)
        if self.fate.is_dead:
            raise Killed
        go_on()
        return found

    @contextmanager
    def attach(self, volume: str) -> Iterator[Bytes]:
        if self.helper is not None:
            with self._on_helper(volume, self.helper) as disk:
                yield disk
            return
        try:
            attachment = self.create(volume, {})
        except ApiError as error:
            raise ResourceFailed(str(error)) from error
        try:
            yield self.disks[volume]
        finally:
            self.delete(attachment.id)

    @contextmanager
    def _on_helper(self, volume: str, helper: str) -> Iterator[Bytes]:
        """As `NovaAttached`, with the disk of the guest in memory."""
        settings = cast(Any, SimpleNamespace(server=helper))
        site = cast(Any, _Site(self))
        with NovaAttached(site, settings, lambda _: nullcontext(cast(Any, self)))(volume) as disk:
            yield cast(Bytes, disk)

    # ---- the guest of the helper, as `Guest` ----

    def must_not_have(self, volume: str) -> None:
        assert not [server for v, server in self.attached.values() if v == volume]

    @contextmanager
    def opened(self, volume: str) -> Iterator[Bytes]:
        assert self.attached, "nothing is attached to the helper"
        yield self.disks[volume]

    # ---- what is so ----

    def hands(self, now: float = 1e9) -> Hands:
        site = cast(Any, _Site(self))
        return Hands(
            site,
            VNF,
            self,
            Unrecorded(),
            now=lambda: now,
            afterwards=site,
            at_once=self.at_once,
        )

    def shown_as_good(self) -> list[tuple[str, str]]:
        """Source and backup of each volume that says that it holds one; each does."""
        found = []
        for row in self.listing():
            standing = read_standing(row, VNF)
            if standing is not None and standing.is_at_rest and standing.holds is not None:
                wanted = self.states[standing.source][standing.holds]
                assert bytes(self.disks[standing.id].content) == wanted, "it holds something else"
                found.append((standing.source, standing.holds))
            if standing is not None and standing.snapshot in self.snapshot_rows:
                held = self.states[standing.source][standing.snapshot_holds or ""]
                assert self.snapshot_rows[standing.snapshot]["content"] == held
        return sorted(found)

    def taken(self) -> list[str]:
        return [row["id"] for row in self.listing() if is_taken(row)]

    def becomes_another_host(self, folder: Path) -> None:
        """From now on the locks of writers are not seen."""
        self.locks = folder / "locks-of-another"


def _block(number: int, place: int, at: int) -> bytes:
    """A block of a volume as a point has it: a third of them changes, some become zeros."""
    if (at + number) % 5 == 0:
        return bytes(BLOCK)
    version = number if at % 3 == number % 3 else 0
    return f"{version} {place} {at}".encode().ljust(BLOCK, b".")


SOURCES = ("10000000-0000-4000-8000-000000000001", "20000000-0000-4000-8000-000000000002")


def standing_world(folder: Path, helper: str | None = None) -> tuple[World, list[Want], list[Want]]:
    """A world whose standing volumes are at the first of two points."""
    world = World(folder, helper)
    first = world.back_up(1)
    bring(world.hands(), first, world.store)
    return world, first, world.back_up(2)


def site_of(world: World) -> Any:
    """The world as a `Site`."""
    return _Site(world)


CHANGES = ("create_volume", "merge_metadata", "update_volume", "create_snapshot")


class _Site:
    """What a `Site` has of a world."""

    def __init__(self, world: World, go_on: Callable[[], None] = lambda: None) -> None:
        self.name, self._world = world.name, world
        self.volumes = _Volumes(world, go_on)
        self.attachments = self.compute = world
        self.helper = world.helper

    def under(self, go_on: Callable[[], None], rate: Any = None) -> _Site:
        return _Site(self._world, go_on)


class _Volumes:
    def __init__(self, world: World, go_on: Callable[[], None]) -> None:
        self._world, self._go_on = world, go_on

    def __getattr__(self, name: str) -> Any:
        if name in CHANGES:
            self._go_on()
        return getattr(self._world, name)

    def volumes(self) -> list[Json]:
        if self._world.fate.is_dead:
            raise Killed
        return self._world.listing()


class _SnapshotWatch:
    def wait_for(self, ids: Sequence[str], **how: Any) -> None: ...

    def wait_gone(self, ids: Sequence[str], **how: Any) -> None: ...


def record(want: Want) -> BackupRecord:
    return want.chain[-1]

# SPDX-License-Identifier: Apache-2.0
"""The mover's process does a job only in volumes that are its own, and leaves them as soon as they
are another's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from antipode.cloud.api import ApiError
from antipode.cloud.attachments import Attachment
from antipode.errors import InvalidInput, ResourceFailed, Stopped
from antipode.model.marks import KEY, VOLUME
from antipode.model.source import BackupRecord
from antipode.model.standing import CLAIM, HOLDS, STANDING, given_back, is_standing, read_standing
from antipode.mover import lock, work
from antipode.mover.child import ChildMover
from antipode.mover.device import opened
from antipode.mover.job import Access, Job, Outcome, VolumeJob
from antipode.mover.modules import CephModules
from tests.movers import movers
from tests.unit.chunked import Bytes, Chained, Kept

SIZE = 40 * 512
CONTENT = b"the captured bytes " * (SIZE // 19 + 1)


class Cinder:
    """One volume at a site, and where it is attached."""

    def __init__(self) -> None:
        self.metadata = {CLAIM: "mine"}
        self.target = Bytes(bytes(SIZE))
        self.attached = 0
        self.refuses = False
        self.on_asked: Callable[[], None] = lambda: None
        self.volumes = self

    def volume(self, volume: str) -> dict[str, Any] | None:
        self.on_asked()
        return None if volume == "gone" else {"id": volume, "metadata": self.metadata}

    @contextmanager
    def attach(self, volume: str) -> Iterator[Bytes]:
        assert not self.refuses
        if volume == "busy":
            raise ResourceFailed("it is attached already")
        self.attached += 1
        try:
            yield self.target
        finally:
            self.attached -= 1


@pytest.fixture(autouse=True)
def asks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "ASKED_S", -1.0)


@pytest.fixture
def store() -> Kept:
    return Kept()


@pytest.fixture
def chain(store: Kept) -> list[BackupRecord]:
    return Chained(store).add(CONTENT[:SIZE])


def carried(cinder: Cinder, store: Kept, *jobs: VolumeJob, stop: bool = False) -> list[Outcome]:
    ends = threading.Event()
    if stop:
        ends.set()
    job = Job(lock=Path("lock"), volumes=list(jobs))
    return list(work.carry(job, cast(Any, cinder), store, cinder.attach, ends))


def test_a_volume_of_ours_is_brought_to_its_backup(store: Kept, chain: list[BackupRecord]) -> None:
    cinder = Cinder()
    (outcome,) = carried(cinder, store, VolumeJob(volume="v", claim="mine", chain=chain))
    assert (outcome.is_done, outcome.written, cinder.attached) == (True, SIZE, 0)
    assert cinder.target.content == CONTENT[:SIZE]


@pytest.mark.parametrize(
    "metadata", [{CLAIM: "another"}, {}, {CLAIM: "mine", KEY: "of a failover"}], ids=str
)
def test_a_volume_of_another_is_not_even_attached(
    metadata: dict[str, str], store: Kept, chain: list[BackupRecord]
) -> None:
    cinder = Cinder()
    cinder.metadata = metadata
    cinder.refuses = True
    (outcome,) = carried(cinder, store, VolumeJob(volume="v", claim="mine", chain=chain))
    assert outcome.code == "volume-taken"


@pytest.mark.parametrize("taken_at", range(2, 12))
def test_nothing_is_written_after_a_volume_was_taken(
    taken_at: int, store: Kept, chain: list[BackupRecord]
) -> None:
    cinder, asked, written = Cinder(), 0, []

    def on_asked() -> None:
        nonlocal asked
        asked += 1
        if asked == taken_at:
            cinder.metadata = {CLAIM: "a failover's"}
            written.append(len(cinder.target.writes))

    cinder.on_asked = on_asked
    (outcome,) = carried(cinder, store, VolumeJob(volume="v", claim="mine", chain=chain))
    assert (outcome.code, cinder.attached) == ("volume-taken", 0)
    assert [len(cinder.target.writes)] == written


def test_a_site_that_does_not_say_whose_a_volume_is_ends_the_work(
    store: Kept, chain: list[BackupRecord]
) -> None:
    cinder = Cinder()

    def on_asked() -> None:
        raise ApiError("GET", "/volumes/v", 500, "away")

    cinder.on_asked = on_asked
    (outcome,) = carried(cinder, store, VolumeJob(volume="v", claim="mine", chain=chain))
    assert (outcome.code, cinder.target.writes) == ("volume-taken", [])


def test_a_mover_that_is_to_stop_begins_nothing(store: Kept, chain: list[BackupRecord]) -> None:
    cinder = Cinder()
    job = VolumeJob(volume="v", claim="mine", chain=chain)
    (outcome,) = carried(cinder, store, job, stop=True)
    assert (outcome.code, cinder.target.writes) == ("volume-taken", [])


def test_what_fails_of_one_volume_leaves_the_others(store: Kept, chain: list[BackupRecord]) -> None:
    cinder = Cinder()
    jobs = [VolumeJob(volume=v, claim="mine", chain=chain) for v in ("busy", "gone", "v")]
    codes = [o.code for o in carried(cinder, store, *jobs)]
    assert codes == ["resource-failed", "volume-taken", ""]


def test_a_chain_that_is_not_whole_leaves_the_volume_unattached(
    store: Kept, chain: list[BackupRecord]
) -> None:
    cinder = Cinder()
    cinder.refuses = True
    assert chain[0].stored is not None
    del store.held[f"{chain[0].stored.prefix}-00003"]
    (outcome,) = carried(cinder, store, VolumeJob(volume="v", claim="mine", chain=chain))
    assert outcome.code == "recovery-point-invalid"


def test_bytes_that_others_have_written_are_found_and_mended(store: Kept) -> None:
    chained, cinder = Chained(store), Cinder()
    first = chained.add(CONTENT[:SIZE])
    second = chained.add(b"later" + CONTENT[5:SIZE])
    cinder.target = Bytes(CONTENT[:SIZE])
    cinder.target.content[7000] ^= 1
    job = VolumeJob(volume="v", claim="mine", chain=second, holds=first[-1])
    (trusting,) = carried(cinder, store, job)
    assert trusting.is_done  # it was not asked to look
    cinder.target = Bytes(CONTENT[:SIZE])
    cinder.target.content[7000] ^= 1
    (outcome,) = carried(cinder, store, job.model_copy(update={"reads": True}))
    assert (outcome.foreign, outcome.blocks) == (1, 2)
    assert cinder.target.content == b"later" + CONTENT[5:SIZE]


def test_what_a_volume_holds_is_read_where_its_backup_is_gone(
    store: Kept, chain: list[BackupRecord]
) -> None:
    old = Chained(store).add(bytes(SIZE))
    assert old[0].stored is not None
    for name in [n for n in store.held if n.startswith(old[0].stored.prefix)]:
        del store.held[name]
    cinder = Cinder()
    job = VolumeJob(volume="v", claim="mine", chain=chain, holds=old[0])
    (outcome,) = carried(cinder, store, job)
    assert outcome.is_done
    assert cinder.target.content == CONTENT[:SIZE]


def test_a_lock_that_was_seen_free_is_not_taken_any_more(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "claim"
    assert not lock.is_over(path)  # of another host, as far as this one knows
    assert not lock.take(path)
    lock.prepare(path)
    assert lock.take(path)
    assert not lock.is_over(path)  # it is held by this process, until it ends
    other = tmp_path / "locks" / "other"
    lock.prepare(other)
    assert lock.is_over(other)
    assert not lock.take(other)
    assert lock.is_over(other)


def test_a_file_is_written_read_and_zeroed_as_a_volume(tmp_path: Path) -> None:
    place = tmp_path / "volume"
    place.write_bytes(b"x" * (5 << 20))
    with opened(str(place)) as target:
        target.write(100, b"abc")
        target.zero(1000, (4 << 20) + 7)
        target.flush()
        assert target.read(99, 5) == b"xabcx"
        assert target.size == 5 << 20
        with pytest.raises(ResourceFailed):
            target.read((5 << 20) - 1, 2)
    found = place.read_bytes()
    assert found[1000 : 1007 + (4 << 20)] == bytes((4 << 20) + 7)
    assert found[999:1000] + found[1007 + (4 << 20) :][:1] == b"xx"


def test_a_device_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceFailed), opened(str(tmp_path / "none")):
        pass


class Rbd:
    """An image of librbd, behind what os-brick opens."""

    def __init__(self) -> None:
        self.rbd_image, self.inside, self.calls = self, Bytes(bytes(5 << 20)), list[str]()

    def size(self) -> int:
        return self.inside.size

    def read(self, offset: int, length: int) -> bytes:
        return self.inside.read(offset, length)

    def write(self, data: bytes, offset: int) -> None:
        self.inside.write(offset, data)

    def flush(self) -> None:
        self.calls.append("flush")

    def invalidate_cache(self) -> None:
        self.calls.append("invalidate")


def test_an_image_of_ceph_is_written_past_its_cache() -> None:
    image = Rbd()
    with opened(image) as target:
        target.write(0, b"abc")
        target.zero(1, 1)
        target.flush()
        assert (target.read(0, 3), target.size) == (b"a\0c", 5 << 20)
    assert image.calls == ["flush", "invalidate"]


def test_a_mover_that_ends_at_once_says_why_for_each_volume(
    tmp_path: Path, chain: list[BackupRecord]
) -> None:
    access = Access(site="b", cloud="none-such", store="s", store_cloud="none-such")
    mover = ChildMover(access, tmp_path, nullcontext)
    jobs = [VolumeJob(volume=v, claim="c", chain=chain) for v in ("v", "w")]
    with mover.turn(2) as turn:
        found = turn.carry("c", jobs, lambda: None)  # its lock was never prepared
    assert {(o.volume, o.code) for o in found.values()} == {
        ("v", "volume-taken"),
        ("w", "volume-taken"),
    }


def test_a_mover_without_a_job_ends_with_its_turn(tmp_path: Path) -> None:
    access = Access(site="b", cloud="none-such", store="s", store_cloud="none-such")
    with (
        pytest.raises(Stopped),
        ChildMover(access, tmp_path, nullcontext).turn(1),
    ):
        assert movers(os.getpid())
        raise Stopped("the run must stop")
    assert not movers(os.getpid())


def brick_with(monkeypatch: pytest.MonkeyPatch, factory: Callable[..., Any]) -> Any:
    """The module of the mover that uses os-brick, with another os-brick."""
    connector = ModuleType("os_brick.initiator.connector")
    vars(connector).update(
        InitiatorConnector=SimpleNamespace(factory=factory), get_connector_properties=None
    )
    monkeypatch.setitem(sys.modules, "os_brick", ModuleType("os_brick"))
    monkeypatch.setitem(sys.modules, "os_brick.initiator", ModuleType("os_brick.initiator"))
    monkeypatch.setitem(sys.modules, "os_brick.initiator.connector", connector)
    found = find_spec("antipode.mover.brick")
    assert found is not None
    assert found.loader is not None
    brick = module_from_spec(found)  # no other part of this process sees it
    found.loader.exec_module(brick)
    return brick


def test_what_fails_of_a_connection_repeats_no_secret_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Connector:
        def __init__(self, *args: Any, **more: Any) -> None: ...

        def connect_volume(self, connection: Any) -> Any:
            raise RuntimeError(f"iscsiadm -v {connection['auth_password']}")

    brick = brick_with(monkeypatch, Connector)
    connection = {"driver_volume_type": "iscsi", "auth_password": "s3cret"}
    deleted: list[str] = []
    attachments = SimpleNamespace(
        create=lambda volume, host: Attachment("a", connection), delete=deleted.append
    )
    attached = brick.CinderAttached(SimpleNamespace(attachments=attachments), "", asks_host=False)
    with pytest.raises(ResourceFailed) as failed, attached("v"):
        pass
    assert "s3cret" not in str(failed.value)
    assert deleted == ["a"]


def test_the_key_of_a_storage_is_that_of_the_site_and_not_of_the_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image, used = Rbd(), list[Any]()

    class Connector:
        def __init__(self, *args: Any, **more: Any) -> None: ...

        def connect_volume(self, connection: Any) -> Any:
            used.append(connection)
            return {"path": SimpleNamespace(rbd_image=image)}

        def disconnect_volume(self, connection: Any, found: Any) -> None:
            used.append(connection)

    brick = brick_with(monkeypatch, Connector)
    keyring = tmp_path / "keyring"
    attachments = SimpleNamespace(
        create=lambda volume, host: Attachment("a", {"driver_volume_type": "rbd"}),
        complete=lambda attachment: None,
        delete=lambda attachment: None,
    )
    site = SimpleNamespace(attachments=attachments)
    with pytest.raises(ResourceFailed):
        brick.CinderAttached(site, "", asks_host=False, keyring=keyring)
    keyring.write_text("[client.cinder]\nkey = k\n")
    attached = brick.CinderAttached(site, "", asks_host=False, keyring=keyring)
    with attached("v") as target:
        target.write(0, b"abc")
    assert [c["keyring"] for c in used] == [keyring.read_text()] * 2


def test_a_folder_of_cephs_modules_gives_no_other_module(tmp_path: Path) -> None:
    for name in ("rbd", "rados", "OpenSSL"):
        (tmp_path / f"{name}.py").touch()
    found = {n: CephModules([str(tmp_path)]).find_spec(n) for n in ("rbd", "rados", "OpenSSL")}
    assert {n for n, spec in found.items() if spec is not None} == {"rbd", "rados"}


def test_the_process_of_the_mover_finds_cephs_modules_where_it_is_to(tmp_path: Path) -> None:
    (tmp_path / "rbd.py").write_text("raise SystemExit(9)")
    command = [sys.executable, "-m", "antipode.mover.process", str(tmp_path)]
    (tmp_path / "rados.py").touch()
    ended = subprocess.run(command, input=b"", capture_output=True)
    assert ended.returncode == 9, ended.stderr


def test_what_a_mover_leaves_in_temporary_files_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chain: list[BackupRecord]
) -> None:
    killed = tmp_path / "killed.py"
    left = tmp_path / "left"
    killed.write_text(
        "import os, pathlib, tempfile\n"
        "key = tempfile.mkstemp(prefix='brickrbd_')[1]\n"
        f"pathlib.Path({str(left)!r}).write_text(key)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed.chmod(0o700)
    begun = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _, **more: begun([sys.executable, killed], **more)
    )
    access = Access(site="b", cloud="b", store="s", store_cloud="s")
    job = VolumeJob(volume="v", claim="c", chain=chain)
    with ChildMover(access, tmp_path, nullcontext).turn(1) as turn:
        found = turn.carry("c", [job], lambda: None)
    assert not found["v"].is_done
    assert not Path(left.read_text()).exists()


def test_modules_that_are_not_there_are_refused(tmp_path: Path) -> None:
    access = Access(site="b", cloud="b", store="s", store_cloud="s", modules=tmp_path / "none-such")
    with pytest.raises(InvalidInput):
        ChildMover(access, tmp_path, nullcontext)


def shown(**metadata: str) -> dict[str, Any]:
    marked = {STANDING: "hlr/source", VOLUME: "v", CLAIM: "c", HOLDS: "backup@c"}
    return {"id": "v", "size": 1, "status": "available", "metadata": {**marked, **metadata}}


def test_a_volume_holds_what_its_last_writer_has_noted() -> None:
    found = read_standing(shown(), "hlr")
    assert found is not None
    assert (found.holds, found.is_at_rest, found.source) == ("backup", True, "source")
    for other in ({CLAIM: "later"}, {HOLDS: "backup@"}, {HOLDS: ""}, {CLAIM: "", HOLDS: "b@"}):
        found = read_standing(shown(**other), "hlr")
        assert found is not None
        assert found.holds is None, other


def test_volumes_that_are_not_standing_are_not_taken_for_such() -> None:
    assert read_standing(shown(**{VOLUME: "the one it was restored from"}), "hlr") is None
    assert read_standing(shown(), "hl") is None
    assert read_standing(shown(**{KEY: "of a failover"}), "hlr") is None
    assert not is_standing(shown(**{VOLUME: "another"}))


def test_what_a_recovery_gives_back_holds_nothing_that_is_known() -> None:
    volume = shown(**{KEY: "k", "antipode:run": "fo-1", "theirs": "1"})
    assert is_standing(volume)
    volume["metadata"] = given_back(volume)
    found = read_standing(volume, "hlr")
    assert found is not None
    assert (found.holds, "theirs" in volume["metadata"]) == (None, False)

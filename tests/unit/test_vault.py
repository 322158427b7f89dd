# SPDX-License-Identifier: Apache-2.0
"""The vault: a recovery point exists or it does not, and a document that was changed is refused."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antipode.errors import (
    NotFound,
    PointMisplaced,
    RecoveryPointInvalid,
    SiteUnreachable,
    VaultCorrupt,
    VaultError,
)
from antipode.model.point import RecoveryPoint
from antipode.model.source import BackupRecord
from antipode.vault import Vault, generations, points, verify
from antipode.vault.directory import DirectoryVault
from antipode.vault.ensemble import Vaults
from antipode.vault.keys import NO_KEYS
from antipode.vault.sealing import Trust, seal, unseal
from tests.unit import samples

SEALED_POINT = seal(samples.point(), NO_KEYS)
SEALED = SEALED_POINT.manifest.encode()


def opened(document: bytes) -> RecoveryPoint:
    """What a document says, whose records are as they were sealed."""
    point, records = samples.point(), SEALED_POINT.records
    return unseal(
        document, "hlr", point.id, NO_KEYS, lambda name, _: records[name].encode(), Trust.SIGNED
    ).point


@pytest.fixture
def vault(tmp_path: Path) -> DirectoryVault:
    return DirectoryVault(tmp_path)


@given(st.integers(0, len(SEALED) - 1), st.integers(0, 255))
def test_any_single_byte_changed_in_a_manifest_is_found_or_changes_nothing(
    place: int, byte: int
) -> None:
    document = SEALED[:place] + bytes([byte]) + SEALED[place + 1 :]
    try:
        assert opened(document) == samples.point()
    except VaultCorrupt:
        assert document != SEALED


@given(st.integers(0, len(SEALED) - 1))
def test_a_manifest_that_was_cut_off_is_found(length: int) -> None:
    with pytest.raises(VaultCorrupt):
        opened(SEALED[:length])


@given(st.binary(max_size=200))
def test_what_is_no_manifest_is_refused_as_damaged(document: bytes) -> None:
    with pytest.raises(VaultCorrupt):
        opened(document)


def test_what_is_committed_is_read_back_and_listed_in_order_of_time(vault: DirectoryVault) -> None:
    later, earlier = (
        samples.point("20261122T170000Z-000000"),
        samples.point("20261122T160000Z-ffffff"),
    )
    for manifest in (later, earlier):
        points.commit(vault, manifest)
    assert points.list_ids(vault, "hlr") == [earlier.id, later.id]
    assert points.read(vault, "hlr") == later
    assert points.read(vault, "hlr", earlier.id) == earlier


def test_half_a_point_is_not_listed(vault: DirectoryVault, tmp_path: Path) -> None:
    points.commit(vault, samples.point())
    (tmp_path / "hlr" / ".probe-0011").write_bytes(SEALED[:100])
    assert points.list_ids(vault, "hlr") == [samples.point().id]
    assert points.list_ids(vault, "hl") == []


def test_a_folder_that_goes_while_the_vault_is_listed_is_no_end_of_the_list(
    vault: DirectoryVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a file system that is unmounted meanwhile."""
    for name in ("a/1.json", "b/2.json"):
        vault.put(name, b"{}")
    scan = os.scandir

    def goes(folder: str) -> Any:
        if folder.endswith("/b"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", folder)
        return scan(folder)

    assert vault.list("c/") == []
    monkeypatch.setattr(os, "scandir", goes)
    with pytest.raises(VaultError):
        vault.list("")


def test_a_damaged_point_is_listed_as_damaged_and_passed_over_as_base(
    vault: DirectoryVault, tmp_path: Path
) -> None:
    points.commit(vault, samples.point("20261122T160000Z-000000"))
    (tmp_path / "hlr" / "20261122T170000Z-000000.json").write_bytes(SEALED[:100])
    assert [type(found).__name__ for _, found in points.list_points(vault, "hlr")] == [
        "Summary",
        "VaultCorrupt",
    ]
    with pytest.raises(VaultCorrupt):
        points.read(vault, "hlr")
    newest = points.newest_or_none(vault, "hlr")
    assert newest is not None
    assert newest.id == "20261122T160000Z-000000"


def test_a_manifest_under_the_name_of_another_point_is_refused(vault: DirectoryVault) -> None:
    vault.put("hlr/20270101T000000Z-000000.json", SEALED)
    with pytest.raises(PointMisplaced):
        points.read(vault, "hlr")


def test_a_manifest_that_arrives_after_its_point_was_taken_back_does_not_count(
    vault: DirectoryVault,
) -> None:
    kept, late = (
        samples.point("20261122T170000Z-000000"),
        samples.point("20261122T160000Z-000000"),
    )
    points.commit(vault, kept)
    points.withdraw(vault, "hlr", late.id, on_its_way=True)
    vault.put(f"hlr/{late.id}.json", seal(late, NO_KEYS).manifest.encode())
    assert points.list_ids(vault, "hlr") == [kept.id]
    assert points.read(vault, "hlr") == points.newest_or_none(vault, "hlr") == kept
    assert [point for point, _ in points.list_points(vault, "hlr")] == [kept.id]
    assert points.named_resources(vault, "hlr", [late.id]) == set(kept.backups)
    with pytest.raises(NotFound, match=late.id):
        points.read(vault, "hlr", late.id)


def test_of_a_point_whose_manifest_was_never_sent_nothing_is_noted(vault: DirectoryVault) -> None:
    points.withdraw(vault, "hlr", "20261122T170000Z-000000", on_its_way=False)
    assert vault.list("hlr/") == []


def test_a_vnf_without_recovery_points_is_not_found(vault: DirectoryVault) -> None:
    with pytest.raises(NotFound, match="hlr"):
        points.read(vault, "hlr")
    with pytest.raises(NotFound):
        points.read(vault, "hlr", "20261122T160000Z-000000")


def test_checking_a_vault_leaves_nothing_in_it(vault: DirectoryVault, tmp_path: Path) -> None:
    vault.check()
    assert list(tmp_path.iterdir()) == []


def test_a_vault_that_cannot_be_written_says_so_and_where(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VaultError, match=f"{tmp_path}/file"):
        DirectoryVault(tmp_path / "file").check()


def test_names_that_climb_out_of_the_vault_are_refused(vault: DirectoryVault) -> None:
    with pytest.raises(VaultError):
        vault.put("../outside", b"")


def test_a_vault_that_is_not_mounted_is_an_error_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(VaultError):
        DirectoryVault(tmp_path / "unmounted").list("hlr/")


def test_a_document_is_created_once(vault: DirectoryVault) -> None:
    assert vault.create("hlr/one", b"first")
    assert not vault.create("hlr/one", b"second")
    assert vault.get("hlr/one") == b"first"
    vault.delete("hlr/one")
    assert vault.create("hlr/one", b"third")


def test_half_a_document_never_has_a_name(
    vault: DirectoryVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", crash)
    for write in (vault.put, vault.create):
        with pytest.raises(VaultError):
            write("hlr/one", b"document")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_what_a_vault_holds_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        vault = DirectoryVault(tmp_path)
        vault.put("hlr/one", b"document")
        vault.create("hlr/two", b"document")
    finally:
        os.umask(before)
    made = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert made == {"hlr": 0o700, "one": 0o600, "two": 0o600}


def test_a_file_whose_name_is_not_utf_8_is_passed_over(
    vault: DirectoryVault, tmp_path: Path
) -> None:
    points.commit(vault, samples.point())
    (tmp_path / "hlr" / os.fsdecode(b"\xff.json")).write_bytes(SEALED)
    assert points.list_ids(vault, "hlr") == [samples.point().id]
    assert points.read(vault, "hlr") == samples.point()


def test_a_name_with_a_null_byte_is_refused(vault: DirectoryVault) -> None:
    with pytest.raises(VaultError):
        vault.get("hlr/\0")


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.isoformat()),
            st.text("ab", min_size=1, max_size=3),
        ),
        min_size=2,
    )
)
def test_the_newest_is_of_the_highest_generation_and_then_the_latest(
    triples: list[tuple[int, str, str]],
) -> None:
    ages = [points.Age(*triple) for triple in triples]
    newest = max(ages, key=lambda age: age.key)
    assert newest.generation == max(a.generation for a in ages)
    of_generation = [a for a in ages if a.generation == newest.generation]
    moments = [datetime.fromisoformat(a.consistent_at) for a in of_generation]
    assert datetime.fromisoformat(newest.consistent_at) == max(moments)


def of_generation(number: int, began: str, consistent_at: str) -> RecoveryPoint:
    return samples.point(f"{began}-000000", generation=number, consistent_at=consistent_at)


def fail_over(vault: Vault) -> None:
    state = generations.present(vault, "hlr", "site-a")
    generations.complete(vault, generations.claim(vault, state, "site-b", "failover-1"))


def test_a_point_of_the_old_copy_that_was_made_later_is_not_the_newest(
    vault: DirectoryVault,
) -> None:
    fail_over(vault)
    ours = of_generation(2, "20261122T160000Z", "2026-11-22T16:00:01Z")
    stale = of_generation(1, "20261122T170000Z", "2026-11-22T17:00:01Z")
    for manifest in (ours, stale):
        points.commit(vault, manifest)
    assert points.read(vault, "hlr") == points.newest_or_none(vault, "hlr") == ours


def test_after_a_failover_the_newest_is_of_the_old_copy_until_there_is_another(
    vault: DirectoryVault,
) -> None:
    old = of_generation(1, "20261122T160000Z", "2026-11-22T16:00:01Z")
    points.commit(vault, old)
    fail_over(vault)
    assert points.read(vault, "hlr") == old


def test_a_point_of_the_future_is_warned_about(
    vault: DirectoryVault, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = of_generation(1, "29990101T000000Z", "2999-01-01T00:00:00Z")
    points.commit(vault, samples.point())
    assert points.read(vault, "hlr") == samples.point()
    assert not caplog.records
    points.commit(vault, ahead)
    points.read(vault, "hlr")
    assert [r.levelname for r in caplog.records if ahead.id in r.getMessage()] == ["WARNING"]


def test_a_point_whose_id_only_lies_in_the_future_is_not_the_newest(vault: DirectoryVault) -> None:
    late = of_generation(1, "29990101T000000Z", "2020-01-01T00:00:00Z")
    ahead = of_generation(1, "29980101T000000Z", "2998-01-01T00:00:00Z")
    for manifest in (late, ahead, samples.point()):
        points.commit(vault, manifest)
    fail_over(vault)
    assert points.read(vault, "hlr") == ahead
    vault.delete(f"hlr/{ahead.id}.json")
    assert points.read(vault, "hlr") == samples.point()


def test_an_id_of_the_future_does_not_make_an_old_point_the_newest(vault: DirectoryVault) -> None:
    points.commit(vault, of_generation(1, "29990101T000000Z", "2020-01-01T00:00:00Z"))
    points.commit(vault, samples.point())
    assert points.read(vault, "hlr") == points.newest_or_none(vault, "hlr") == samples.point()


def test_the_newest_point_costs_as_much_with_many_points_as_with_one(
    vault: DirectoryVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    get = DirectoryVault.get

    def noted(self: DirectoryVault, name: str) -> bytes:
        asked.append(name)
        return get(self, name)

    monkeypatch.setattr(DirectoryVault, "get", noted)

    def cost() -> int:
        asked.clear()
        points.read(vault, "hlr")
        return len(asked)

    points.commit(vault, samples.point("20261122T100000Z-000000"))
    one = cost()
    for minute in range(40):
        points.commit(vault, samples.point(f"20261122T11{minute:02}00Z-000000"))
    assert cost() == one


@pytest.fixture
def pair(tmp_path: Path) -> list[DirectoryVault]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return [DirectoryVault(tmp_path / name) for name in ("one", "two")]


def as_one(pair: Sequence[Vault], *, all_needed: bool = True) -> Vaults:
    one, two = pair
    return Vaults({"one": lambda: one, "two": lambda: two}, all_needed=all_needed)


def test_a_point_is_committed_to_every_vault(pair: list[DirectoryVault]) -> None:
    points.commit(as_one(pair), samples.point())
    for vault in pair:
        assert points.read(vault, "hlr") == samples.point()


def test_a_point_that_one_vault_does_not_take_is_not_committed_and_can_be_withdrawn(
    pair: list[DirectoryVault], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise VaultError("the vault is full")

    monkeypatch.setattr(pair[1], "create", full)
    with pytest.raises(VaultError):
        points.commit(as_one(pair), samples.point())
    monkeypatch.undo()
    points.withdraw(as_one(pair), "hlr", samples.point().id, on_its_way=True)
    with pytest.raises(NotFound):
        points.read(as_one(pair, all_needed=False), "hlr", samples.point().id)


def test_a_vault_that_has_not_answered_a_moment_ago_is_not_asked_where_another_is_left(
    pair: list[DirectoryVault], monkeypatch: pytest.MonkeyPatch
) -> None:
    points.commit(as_one(pair), samples.point())

    def silent(*_: object) -> None:
        raise SiteUnreachable("it is asked, and does not answer")

    for name in ("list", "versions"):
        monkeypatch.setattr(pair[0], name, silent)
    some = as_one(pair, all_needed=False).leaving_out(["one", "of another VNF"])
    assert some.left_out == ["one"]
    assert points.read(some, "hlr") == samples.point()
    assert len(some.copies()) == 1
    every = as_one(pair, all_needed=False)
    assert every.leaving_out(["one", "two"]) is every
    assert every.left_out == []


def test_a_point_that_one_vault_has_withdrawn_does_not_count_in_another(
    pair: list[DirectoryVault],
) -> None:
    points.commit(as_one(pair), samples.point())
    points.withdraw(pair[0], "hlr", samples.point().id, on_its_way=True)
    assert points.list_ids(as_one(pair), "hlr") == []


def test_a_point_that_is_damaged_in_one_vault_is_read_from_the_other(
    pair: list[DirectoryVault],
) -> None:
    points.commit(as_one(pair), samples.point())
    pair[0].put(f"hlr/{samples.point().id}.json", SEALED[:100])
    assert points.read(as_one(pair), "hlr") == samples.point()


def test_the_newest_point_of_the_vaults_that_answer_is_read(pair: list[DirectoryVault]) -> None:
    def dead() -> Vault:
        raise SiteUnreachable("site-a does not answer")

    points.commit(as_one(pair), samples.point())
    members = {"one": dead, "two": lambda: pair[1]}
    assert points.read(Vaults(members, all_needed=False), "hlr") == samples.point()
    with pytest.raises(SiteUnreachable):
        points.read(Vaults(members, all_needed=True), "hlr")
    with pytest.raises(SiteUnreachable):
        points.read(Vaults({"one": dead, "two": dead}, all_needed=False), "hlr")


def test_checking_vaults_names_each_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    broken = DirectoryVault(tmp_path / "file")
    vaults = as_one([broken, DirectoryVault(tmp_path / "good")])
    with pytest.raises(VaultError, match="vault one"):
        vaults.check()


@pytest.fixture
def store() -> samples.MemoryStore:
    store = samples.MemoryStore()
    for backup in samples.point().backups.values():
        store.hold(backup)
    return store


def with_records(records: dict[str, BackupRecord]) -> RecoveryPoint:
    """The sample point, with other records of its backups."""
    point = samples.point()
    sources = {
        volume: samples.chain(*(records[r.id] for r in point.chain(volume)))
        for volume in point.sources
    }
    return samples.point(sources=sources)


def verified(point: RecoveryPoint, store: samples.MemoryStore | None) -> list[verify.Finding]:
    return [f for v in point.sources for f in verify.verify_chain(v, point.chain(v), store)]


def fingerprinted(store: samples.MemoryStore) -> list[verify.Finding]:
    before = verify.fingerprint(samples.point().backups, store)
    return verified(with_records(before), store)


def test_a_point_whose_objects_are_all_there_verifies_backup_by_backup_base_first(
    store: samples.MemoryStore,
) -> None:
    findings = fingerprinted(store)
    assert [f.backup for f in findings] == ["b-db-0", "b-db-1", "b-front-0"]
    assert all(f.ok and f.objects == 4 and f.bytes > 0 for f in findings)


def test_a_lost_object_is_found(store: samples.MemoryStore) -> None:
    before = verify.fingerprint(samples.point().backups, store)
    del store.objects["volume_vol-db/b-db-0-00002"]
    findings = verified(with_records(before), store)
    assert [f.ok for f in findings] == [False, True, True]
    assert "1 of 2 objects are missing" in findings[0].detail


def test_an_object_that_was_written_over_is_found(store: samples.MemoryStore) -> None:
    before = verify.fingerprint(samples.point().backups, store)
    store.objects["volume_vol-front/b-front-0-00001"] = b"something else than before"
    findings = verified(with_records(before), store)
    assert [f.ok for f in findings] == [True, True, False]
    assert findings[2].detail.startswith("changed since it was made")


@pytest.mark.parametrize("lost", ["-00002", "_metadata", ""])
def test_a_chain_of_which_the_store_has_lost_objects_is_told_by_one_listing(
    store: samples.MemoryStore, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = with_records(verify.fingerprint(samples.point().backups, store))
    assert verify.broken_chains(before, store) == {}
    for name in [n for n in store.objects if n.startswith("volume_vol-db/b-db-0" + lost)]:
        del store.objects[name]
    listings: list[str] = []
    listing = store.listing

    def noted(container: str, *more: Any) -> Any:
        listings.append(container)
        return listing(container, *more)

    monkeypatch.setattr(store, "listing", noted)
    broken = verify.broken_chains(before, store)
    assert set(broken) == {"vol-db"}
    assert "backup b-db-0 of recovery point" in broken["vol-db"]
    assert listings == ["volumebackups"]


def test_a_backup_that_is_not_whole_in_the_store_gets_no_fingerprint(
    store: samples.MemoryStore,
) -> None:
    del store.objects["volume_vol-db/b-db-1_metadata"]
    with pytest.raises(RecoveryPointInvalid, match="b-db-1"):
        verify.fingerprint(samples.point().backups, store)


def test_without_a_store_verification_says_what_it_did_not_look_at() -> None:
    assert all("were not looked at" in f.detail for f in verified(samples.point(), None))


def test_a_vault_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(VaultError):
        DirectoryVault(tmp_path / "unmounted").check()
    assert list(tmp_path.iterdir()) == []

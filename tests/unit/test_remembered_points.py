# SPDX-License-Identifier: Apache-2.0
"""What a host remembers of kept recovery points saves calls, and never costs a point that is
needed: whatever is wrong with the memory, with the vault, or with the keys.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from antipode.errors import AntipodeError, VaultCorrupt, VaultError
from antipode.model.point_v2 import POINT_TYPE
from antipode.model.retention import Dated, Heirs, Retention
from antipode.operations import expiry
from antipode.transfer.expiry import READ_IN_TURN
from antipode.vault import Vault, memory, points, signing
from antipode.vault.directory import DirectoryVault
from antipode.vault.keys import SIGNING_VARIABLE, TRUSTED_VARIABLE
from antipode.vault.memory import Memory
from antipode.vault.swift import SwiftVault
from tests.unit.storages import MemoryObjects
from tests.unit.test_durable_runs import World, world
from tests.unit.test_expiry import (
    VOLUMES,
    another_host,
    expire,
    forge,
    ids,
    keep,
    put_note,
    three_points,
)
from tests.unit.test_many_points import calls, manifests, measured, reads
from tests.unit.test_room import quota
from tests.unit.test_vault_sync import three_vaults

__all__ = ["calls", "reads", "world"]

MANY = 600


def older_points(world: World, many: int) -> list[str]:
    """So many points of an hour each, before the one that there is; all rest on its backups."""
    first = ids(world)[0]
    folder, key = world.folder / "vault" / "v", world.here.keys.signing_key()
    envelope = json.loads((folder / f"{first}.json").read_bytes())
    manifest = json.loads(base64.b64decode(envelope["payload"]))
    begin = datetime.fromisoformat(manifest["consistent_at"]) - timedelta(hours=MANY + 1)
    made: list[str] = []
    for at in (begin + timedelta(hours=number) for number in range(many)):
        made.append(f"{at:%Y%m%dT%H%M%SZ}-{len(made):06}")
        own = {"id": made[-1], "consistent_at": at.isoformat(), "serial": int(at.timestamp())}
        document = signing.sign(POINT_TYPE, json.dumps(manifest | own).encode(), key)
        (folder / f"{made[-1]}.json").write_bytes(document)
    return made


def warm(world: World) -> None:
    """This host has read all points that there are."""
    expiry.look(world.here, "v")


def test_a_protection_and_its_expiry_cost_the_same_with_10_and_with_600_kept_points(
    world: World, calls: Counter[str]
) -> None:
    """The quota is nearly exhausted: the protection looks ahead whether it lasts."""
    quota(world, 20)
    quotas: Any = world.a.quotas
    quotas["backup_gigabytes"] = {"limit": -1, "in_use": 0, "reserved": 0}
    put_note(world, "20200101T000000Z-000000", timedelta(days=1))  # it is looked at each time
    costs: list[dict[str, int]] = []
    for many in (10, MANY):
        keep(world, retention={"last": many})
        older_points(world, many - len(ids(world)))
        warm(world)
        measured(calls)
        oldest = ids(world)[0]
        assert world.protect()["expired"] == [oldest]
        costs.append(measured(calls))
        assert len(ids(world)) == many
    assert costs[0] == costs[1]
    assert costs[0]["get"] < 100


def test_an_expiry_reads_those_in_whose_favour_others_expire_and_a_few_in_turn(
    world: World, reads: Counter[str]
) -> None:
    keep(world, retention={"last": 20})
    there = [*older_points(world, 19), *ids(world)]
    warm(world)
    seen: set[str] = set()
    for _ in range(8):
        manifests(reads)
        world.protect()
        read = set(manifests(reads))
        now = ids(world)
        assert {now[0], now[-1]} <= read
        seen |= read
        assert len(read) <= 1 + 2 + 2 + READ_IN_TURN  # those that go, heirs, newest ones, in turn
    assert set(there[8:]) <= seen


def heirs(at: str, kept: list[str], **policy: int) -> set[str]:
    def dated(moment: str) -> Dated:
        when = datetime.fromisoformat(f"{moment}+00:00")
        return Dated(moment, "o", 1, when, when, int(when.timestamp()))

    policies = {"o": Retention(**policy)}
    return Heirs([dated(moment) for moment in kept], policies).of(dated(at))


def test_a_point_expires_in_favour_of_those_beside_it_of_its_day_and_of_the_newest() -> None:
    kept = [f"2026-11-{day:02}T{hour:02}:00" for day in (1, 2, 3, 4) for hour in (6, 18)]
    assert heirs("2026-11-02T07:00", kept, last=1) == {
        "2026-11-02T06:00",
        "2026-11-02T18:00",
        "2026-11-04T18:00",
    }
    assert heirs("2026-11-02T01:00", kept, last=1, daily=4) == {
        "2026-11-01T18:00",
        "2026-11-02T06:00",
        "2026-11-02T18:00",
        "2026-11-04T18:00",
    }


def file_of(world: World) -> Path:
    return world.folder / "remembered.db"


def change(world: World, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(file_of(world))) as file, file:
        assert file.execute(statement, values).rowcount


def truncated(world: World) -> None:
    content = file_of(world).read_bytes()
    file_of(world).write_bytes(content[: len(content) // 2])


def overwritten(world: World) -> None:
    file_of(world).write_bytes(b"no database" * 1000)


def lost(world: World) -> None:
    file_of(world).unlink()


def of_another_version(world: World) -> None:
    with closing(sqlite3.connect(file_of(world))) as file:
        file.execute("PRAGMA user_version = 99")


def without_its_table(world: World) -> None:
    with closing(sqlite3.connect(file_of(world))) as file:
        file.execute("DROP TABLE documents")


def garbage(world: World) -> None:
    change(world, "UPDATE documents SET document = ?", b"{}")


def all_alike(world: World) -> None:
    [point, *_] = ids(world)
    document = (world.folder / "vault" / "v" / f"{point}.json").read_bytes()
    change(world, "UPDATE documents SET document = ? WHERE name LIKE 'v/%'", document)


def a_folder(world: World) -> None:
    file_of(world).unlink()
    file_of(world).mkdir()


WRONG = [truncated, overwritten, lost, of_another_version, without_its_table, garbage, all_alike]


@pytest.mark.parametrize("wrong", [*WRONG, a_folder])
def test_a_memory_that_is_damaged_costs_reads_and_nothing_else(
    world: World, reads: Counter[str], wrong: Callable[[World], None]
) -> None:
    there = three_points(world)
    warm(world)
    forget_connection(world)
    wrong(world)
    keep(world, retention={"last": 2})
    manifests(reads)
    world.here = world.process()
    assert expire(world)["expired"] == there[:1]
    assert manifests(reads) == dict.fromkeys(there, 1)
    assert len(world.a.backups) == 2 * VOLUMES


def forget_connection(world: World) -> None:
    """All is in the file itself, as after the end of a process."""
    world.here.memory._close()


def test_a_memory_that_was_damaged_is_of_use_again(world: World, reads: Counter[str]) -> None:
    three_points(world)
    warm(world)
    for wrong in WRONG:
        forget_connection(world)
        wrong(world)
        world.here = world.process()
        warm(world)
        manifests(reads)
        warm(world)
        assert manifests(reads) == {}, wrong


def test_a_memory_that_was_forged_makes_no_point_count(world: World) -> None:
    """A stranger's document in the memory, of a point of which the vault holds the true one."""
    there = three_points(world)
    newest = points.read(world.here.vault, "v")
    manifest = world.folder / "vault" / "v" / f"{there[2]}.json"
    true = manifest.read_bytes()
    forge(world, newest.model_copy(update={"sources": newest.sources, "generation": 9}))
    forged = manifest.read_bytes()
    manifest.write_bytes(true)
    warm(world)
    change(world, "UPDATE documents SET document = ? WHERE name = ?", forged, f"v/{there[2]}.json")
    keep(world, retention={"last": 1})
    assert expire(world)["expired"] == there[:2]
    assert set(world.a.backups) == set(newest.backups)


def test_a_point_that_was_swapped_for_another_document_of_its_size_stops_the_expiry(
    world: World,
) -> None:
    there = three_points(world)
    warm(world)
    manifest = world.folder / "vault" / "v" / f"{there[1]}.json"
    about = manifest.stat()
    manifest.write_bytes(b" " * about.st_size)
    os.utime(manifest, ns=(about.st_atime_ns, about.st_mtime_ns))
    keep(world, retention={"last": 2})
    backups = set(world.a.backups)
    with pytest.raises(VaultCorrupt, match=there[1]):
        expire(world)
    assert set(world.a.backups) == backups


def test_records_that_are_gone_stop_the_expiry_though_they_are_remembered(world: World) -> None:
    there = three_points(world)
    warm(world)
    [backup, *_] = points.read(world.here.vault, "v", there[1]).backups
    for record in (world.folder / "vault" / "_records" / "v").glob(f"{backup}.*"):
        record.unlink()
    keep(world, retention={"last": 2})
    with pytest.raises(VaultCorrupt, match=there[1]):
        expire(world)


def test_no_point_expires_in_favour_of_remembered_ones_whose_key_is_not_trusted_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three_points(world)
    former = signing.public_pem(world.here.keys.signing_key().public_key()).decode()
    new = signing.private_pem(Ed25519PrivateKey.generate()).decode()
    monkeypatch.setenv(SIGNING_VARIABLE, new)
    keep(world, retention="all")
    with monkeypatch.context() as trusting:
        trusting.setenv(TRUSTED_VARIABLE, former)
        world.protect()
        keep(world, retention={"last": 2})
        assert expiry.look(world.here, "v").expired == there[:2]
    assert expiry.look(world.here, "v").expired == []


def rotten(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A document whose bytes have changed under the vault, which still lists it as it was."""
    get = DirectoryVault.get

    def changed(vault: DirectoryVault, wanted: str) -> bytes:
        document = get(vault, wanted)
        return document[:-20] + b" " * 20 if wanted == name else document

    monkeypatch.setattr(DirectoryVault, "get", changed)


def test_none_expires_in_favour_of_a_remembered_point_that_the_vault_has_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three_points(world)
    warm(world)
    backups = set(world.a.backups)
    rotten(monkeypatch, f"v/{there[2]}.json")
    keep(world, retention={"last": 2})
    with pytest.raises(VaultCorrupt, match=there[2]):
        expire(world)
    assert set(world.a.backups) == backups


def test_none_expires_in_favour_of_a_remembered_point_whose_records_the_vault_has_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three_points(world)
    warm(world)
    records = (world.folder / "vault" / "_records" / "v").iterdir()
    backups = points.read(world.here.vault, "v", there[1]).backups
    [record, *_] = [path.name for path in records if path.name.split(".")[0] in backups]
    rotten(monkeypatch, f"_records/v/{record}")
    keep(world, retention={"last": 2})
    with pytest.raises(VaultCorrupt, match=there[1]):
        expire(world)


def test_what_a_vault_has_lost_in_secret_is_found_in_its_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(world, retention={"last": 12})
    there = older_points(world, 12)
    warm(world)
    rotten(monkeypatch, f"v/{there[10]}.json")
    found = [world.protect()["expired"] for _ in range(12 // READ_IN_TURN + 1)]
    assert found[-1] is None
    assert there[10] in ids(world)


def test_a_listing_that_lags_makes_none_expire_in_favour_of_a_point_that_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three_points(world)
    warm(world)
    lists, identities = DirectoryVault.list, DirectoryVault.identities
    then = {folder: identities(world_vault(world), folder) for folder in ("v/", "_records/v/")}

    def lags(_vault: DirectoryVault, prefix: str) -> Mapping[str, str]:
        return then[prefix]

    world_vault(world).delete(f"v/{there[2]}.json")
    monkeypatch.setattr(DirectoryVault, "identities", lags)
    monkeypatch.setattr(
        DirectoryVault,
        "list",
        lambda vault, prefix: sorted(then[prefix]) if prefix in then else lists(vault, prefix),
    )
    keep(world, retention={"last": 1})
    backups = set(world.a.backups)
    with pytest.raises(VaultError):
        expire(world)
    assert set(world.a.backups) == backups


def world_vault(world: World) -> DirectoryVault:
    return DirectoryVault(world.folder / "vault")


def test_two_hosts_with_memories_of_their_own_expire_what_the_other_has_left(
    world: World, tmp_path: Path
) -> None:
    there = three_points(world)
    other = another_host(world, tmp_path)
    for host in (world.here, other):
        expiry.look(host, "v")
    keep(world, retention={"last": 2})
    assert expire(world)["expired"] == there[:1]
    keep(world, retention={"last": 1})
    other.vnfs.put(world.here.vnfs.get("v"))
    assert expire(world, other)["expired"] == there[1:2]
    assert expire(world)["run"] is None
    assert ids(world) == there[2:]
    assert len(world.a.backups) == VOLUMES


def test_a_withdrawn_point_is_read_before_its_backups_are_removed(
    world: World, reads: Counter[str]
) -> None:
    there = three_points(world)
    warm(world)
    points.hide(world.here.vault, "v", there[0], "It has expired.")
    manifests(reads)
    expire(world)
    # and the newest, in whose favour it went
    assert {there[0], there[2]} <= set(manifests(reads))
    assert len(world.a.backups) == 2 * VOLUMES


def test_of_several_vaults_each_is_remembered_by_itself(world: World, reads: Counter[str]) -> None:
    places = three_vaults(world)
    keep(world, retention="all")
    there = [world.protect()["recovery_point"] for _ in range(3)]
    warm(world)
    manifests(reads)
    warm(world)
    assert manifests(reads) == {}
    (places.folder / "two" / "v" / f"{there[1]}.json").write_bytes(b"{}")
    warm(world)
    assert manifests(reads) == {there[1]: 1}
    for place in ("one", "two", "three"):
        (places.folder / place / "v" / f"{there[1]}.json").write_bytes(b"{}")
    keep(world, retention={"last": 1})
    with pytest.raises(VaultCorrupt, match=there[1]):
        expire(world)


def test_a_memory_stays_within_its_bound_and_forgets_what_was_read_longest_ago(
    tmp_path: Path,
) -> None:
    there = Memory(tmp_path / "m.db", most_bytes=250)
    for number in range(5):
        there.keep("place", f"v/{number}.json", "1", bytes(100))
        there.keep_only("place", "w/", {})
    assert set(there.identities("place", "v/")) == {"v/3.json", "v/4.json"}
    there.keep_only("place", "v/", {"v/4.json": "1"})
    assert there.find("place", "v/3.json", "1") is None
    assert there.find("place", "v/4.json", "1") == bytes(100)
    assert there.find("place", "v/4.json", "2") is None
    assert there.find("elsewhere", "v/4.json", "1") is None
    there.forget("v")
    assert there.identities("place", "v/") == {}
    assert (tmp_path / "m.db").stat().st_mode & 0o077 == 0


def test_each_has_its_turn_though_a_clock_was_wrong_and_a_vault_is_not_read_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, ids = Memory(tmp_path / "m.db"), [str(number) for number in range(6)]
    for point in ids:
        there.keep("a former vault", f"v/{point}.json", "1", b"document")
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time", lambda: 4e9)
        for point in ids[3:]:
            there.keep("place", f"v/{point}.json", "1", b"document")
    for point in ids[:3]:
        there.keep("place", f"v/{point}.json", "1", b"document")
    for _ in range(2):
        for point in (*ids[3:], *ids[:3]):
            assert there.read_longest_ago("v", ["place"], ids)[0] == point
            there.keep("place", f"v/{point}.json", "1", b"document")


def test_a_document_that_has_no_identity_any_more_is_not_in_the_way_of_others(
    tmp_path: Path,
) -> None:
    there = Memory(tmp_path / "m.db")
    there.keep("place", "v/1.json", "1", b"document")
    there.keep("place", "v/2.json", "1", b"document")
    there.keep_only("place", "v/", {"v/1.json": "", "v/2.json": "1"})
    assert there.read_longest_ago("v", ["place"], ["1", "2"]) == ["2"]


def test_a_memory_that_could_not_be_used_is_of_use_once_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service lives for weeks."""
    monkeypatch.setattr(memory, "AGAIN_S", 0.0)
    there, file = Memory(tmp_path / "m.db"), tmp_path / "m.db"
    file.mkdir()
    there.keep("place", "v/1.json", "1", b"document")
    file.rmdir()
    assert there.find("place", "v/1.json", "1") is None
    there.keep("place", "v/1.json", "1", b"document")
    assert there.find("place", "v/1.json", "1") == b"document"


def test_a_memory_leaves_the_disk_to_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Memory(tmp_path / "m.db")
    with monkeypatch.context() as full:
        full.setattr(memory, "LEAVES_FREE", 1 << 62)
        there.keep("place", "v/1.json", "1", b"document")
    assert there.find("place", "v/1.json", "1") is None
    there.keep("place", "v/1.json", "1", b"document")
    assert there.find("place", "v/1.json", "1") == b"document"


def test_a_memory_without_room_for_a_point_costs_reads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three_points(world)
    monkeypatch.setattr(memory, "MOST_BYTES", 0)
    keep(world, retention={"last": 1})
    assert expire(world)["expired"] == there[:2]


@pytest.mark.parametrize("etag", [True, False])
def test_a_vault_that_gives_no_identity_is_read_each_time(tmp_path: Path, etag: bool) -> None:
    objects = MemoryObjects()
    objects.has_etags = etag
    stored: Any = objects
    vault: Vault = Memory(tmp_path / "m.db").over(SwiftVault(stored, "c", "site-b"))
    vault.put("v/one.json", b"first")
    assert vault.get("v/one.json") == b"first"
    again = Memory(tmp_path / "m.db").over(SwiftVault(stored, "c", "site-b"))
    objects.reads = 0
    assert again.get("v/one.json") == b"first"
    assert objects.reads == (0 if etag else 1)
    assert again.again().get("v/one.json") == b"first"
    assert objects.reads == (1 if etag else 2)
    objects.put("c", "v/one.json", b"other")  # as long
    later = Memory(tmp_path / "m.db").over(SwiftVault(stored, "c", "site-b"))
    assert later.get("v/one.json") == b"other"


def test_statements_are_never_remembered(tmp_path: Path) -> None:
    vault = Memory(tmp_path / "m.db").over(DirectoryVault(tmp_path))
    for name in ("v/one.withdrawn", "v/generation-0000000002.claim"):
        vault.put(name, b"first")
        assert vault.get(name) == b"first"
        assert not vault.remembers(name)
        vault.delete(name)
        with pytest.raises(AntipodeError):
            vault.get(name)

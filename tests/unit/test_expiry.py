# SPDX-License-Identifier: Apache-2.0
"""Expiry removes what no recovery point needs, and nothing else, whatever fails in the middle."""

from __future__ import annotations

import base64
import copy
import functools
import json
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.engine.deployment import Deployment
from antipode.engine.run import Run
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    AntipodeError,
    Busy,
    NotFound,
    RecoveryPointInvalid,
    SiteUnreachable,
    VaultCorrupt,
    VaultError,
)
from antipode.model import point_v2
from antipode.model.point import RecoveryPoint
from antipode.model.point_v2 import POINT_TYPE
from antipode.model.source import BackupChain
from antipode.model.state import Claim, VnfState
from antipode.model.steps import Unrecorded
from antipode.model.topology import Topology
from antipode.model.vnf import Vnf
from antipode.operations import expiry
from antipode.operations.abort import abort
from antipode.operations.failover import failover, prepare
from antipode.operations.protect import protect
from antipode.operations.resume import resume
from antipode.runs import expire as run_kind
from antipode.runs import verify as verify_kind
from antipode.runs.protect import remove_orphans_of
from antipode.store.tables import RunRow
from antipode.transfer import removal
from antipode.vault import (
    Vault,
    generations,
    points,
    sealing,
    signing,
    statements,
    withdrawals,
)
from antipode.vault.directory import DirectoryVault
from antipode.vault.ensemble import Vaults
from antipode.vault.keys import Keyring
from tests.unit import samples
from tests.unit.test_durable_runs import World, made_once, protected, world
from tests.unit.test_kill_matrix import VNF

__all__ = ["world"]

VOLUMES = 3


def with_policy(**policy: Any) -> Vnf:
    """The VNF with a retention; by default each of its backups is a full one."""
    protection = {"option": "quiesced-snapshot", "quiesce": {"timeout": "5m"}, "full_every": 1}
    return Vnf.model_validate(
        VNF.model_dump(mode="json") | {"protections": {**protection, **policy}}
    )


def keep(world: World, **policy: Any) -> None:
    world.here.vnfs.put(with_policy(**policy))


def ids(world: World) -> list[str]:
    return points.list_ids(world.here.vault, "v")


def two_more_points(world: World, **policy: Any) -> list[str]:
    """The ids of three; nothing has expired yet."""
    keep(world, retention="all", **policy)
    for _ in range(2):
        world.protect()
    return ids(world)


@functools.cache
def with_three_points(full_every: int) -> Callable[[], World]:
    def make(world: World) -> None:
        world.becomes(protected())
        two_more_points(world, full_every=full_every)

    return made_once(make)


def three_points(world: World, full_every: int = 1) -> list[str]:
    """The ids of those of a world in which nothing else has happened; nothing has expired yet."""
    world.becomes(with_three_points(full_every)())
    return ids(world)


def expire(world: World, deployment: Deployment | None = None) -> dict[str, Any]:
    return expiry.expire(deployment or world.here, "v", Unobserved())


def documents(world: World) -> list[str]:
    return [path.name for path in (world.folder / "vault" / "v").iterdir()]


def test_a_protection_removes_what_has_expired_and_the_backups_with_it(world: World) -> None:
    keep(world, retention={"last": 1})
    first = ids(world)
    record = world.protect()
    assert record["expired"] == first
    assert ids(world) == [record["recovery_point"]]
    assert set(world.a.backups) == set(points.read(world.here.vault, "v").backups)
    assert f"{first[0]}.json" not in documents(world)


def test_a_chain_stays_as_long_as_a_point_rests_on_it_and_goes_newest_first(world: World) -> None:
    keep(world, retention={"last": 1}, full_every=3)
    for backups in (2, 3):
        world.protect()
        assert len(ids(world)) == 1
        assert len(world.a.backups) == backups * VOLUMES
    world.a.events.clear()
    world.protect()
    assert len(world.a.backups) == VOLUMES
    # Cinder refuses to delete a backup that an increment rests on
    assert len([e for e in world.a.events if e.startswith("delete backup")]) == 3 * VOLUMES


def test_the_records_of_backups_that_are_gone_go_too(world: World) -> None:
    keep(world, retention={"last": 1})
    world.protect()
    kept = points.read(world.here.vault, "v")
    records = [path.name for path in (world.folder / "vault" / "_records" / "v").iterdir()]
    assert sorted(name.split(".")[0] for name in records) == sorted(kept.backups)


def forge(world: World, point: RecoveryPoint) -> None:
    """Put a point into the vault that a stranger has signed."""
    vault = world.here.vaults()
    sealed = sealing.seal(point, vault.keys)
    payload = base64.b64decode(json.loads(sealed.manifest)["payload"])
    for name, document in sealed.records.items():
        vault.put(name, document.encode())
    vault.put(sealed.name, signing.sign(POINT_TYPE, payload, Ed25519PrivateKey.generate()))


def test_a_point_that_nobody_signed_makes_none_expire(world: World) -> None:
    there = three_points(world)
    newest = points.read(world.here.vault, "v", there[2])
    forged = newest.model_copy(update={"id": "20990101T000000Z-ffffff", "generation": 9})
    forge(world, forged)
    keep(world, retention={"last": 1})
    assert expiry.look(world.here, "v").expired == there[:2]
    expire(world)
    assert ids(world) == [there[2], forged.id]


def test_of_points_whose_key_is_not_trusted_here_none_expires_in_favour_of_another(
    world: World,
) -> None:
    # one may be of a host whose kit was not imported yet, the other of a writer of the vault
    there = three_points(world)
    newest = points.read(world.here.vault, "v", there[2])
    for number, generation in enumerate((2, 9)):
        update = {"id": f"2099010{number + 1}T000000Z-ffffff", "generation": generation}
        forge(world, newest.model_copy(update=update))
    keep(world, retention={"last": 1})
    assert expiry.look(world.here, "v").expired == there[:2]


def test_a_point_that_nobody_signed_expires_in_favour_of_signed_ones(world: World) -> None:
    there = three_points(world)
    first = points.read(world.here.vault, "v", there[0])
    forge(world, first.model_copy(update={"id": "20200101T000000Z-000000"}))
    keep(world, retention={"last": 3})
    assert expiry.look(world.here, "v").expired == ["20200101T000000Z-000000"]


def test_a_withdrawn_point_that_nobody_signed_takes_no_backups_of_other_volumes_along(
    world: World,
) -> None:
    others = world.a.add_backup(
        "front-root", volume_id="of-another-vnf", metadata={"antipode:run": "protect-of-another"}
    )
    there = two_more_points(world)
    first = points.read(world.here.vault, "v", there[0])
    topology = first.topology.model_dump()
    volume = topology["servers"][0]["attachments"][0]["volume"]
    of_other = first.chain("db-root")[0].model_copy(
        update={"id": others, "volume_id": "of-another-vnf"}
    )
    sources = {v: s for v, s in first.sources.items() if v != volume["id"]}
    volume["id"] = "of-another-vnf"
    forged = first.model_copy(
        update={
            "id": "20200101T000000Z-000000",
            "topology": Topology.model_validate(topology),
            "sources": {**sources, "of-another-vnf": BackupChain(backups=[of_other])},
        }
    )
    forge(world, forged)
    points.hide(world.here.vault, "v", forged.id, "It has expired.")
    expire(world)
    assert others in world.a.backups
    assert len(world.a.backups) == 3 * VOLUMES + 1


def test_where_nothing_has_expired_there_is_no_run(world: World) -> None:
    assert expire(world)["run"] is None
    assert {row.kind for row in world.here.runs.all()} == {"protect"}


def test_a_dry_run_names_what_would_go_and_changes_nothing(world: World) -> None:
    there = three_points(world)
    keep(world, retention={"last": 1})
    world.a.events.clear()
    found = expiry.look(world.here, "v")
    assert found.expired == there[:2]
    assert found.kept == {there[2]: "last 1"}
    assert len(found.backups) == 2 * VOLUMES
    assert ids(world) == there
    assert world.a.events == []


def test_a_backup_of_somebody_else_is_never_removed(world: World) -> None:
    foreign = world.a.add_backup("db-data")
    two_more_points(world)
    keep(world, retention={"last": 1})
    expire(world)
    assert set(world.a.backups) == {foreign, *points.read(world.here.vault, "v").backups}


def test_a_backup_without_our_mark_is_not_removed_though_a_point_names_it(world: World) -> None:
    first = points.read(world.here.vault, "v", ids(world)[0])
    unmarked = first.chain("db-data")[0].id
    world.a.backups[unmarked]["metadata"] = {}
    two_more_points(world)
    keep(world, retention={"last": 1})
    record = expire(world)
    assert unmarked in world.a.backups
    assert any(unmarked in sentence for sentence in record["left"])


def test_what_an_increment_of_somebody_else_rests_on_stays_until_that_is_gone(
    world: World,
) -> None:
    there = three_points(world)
    first = points.read(world.here.vault, "v", there[0])
    ours = first.chain("db-data")[0].id
    foreign = world.a.add_backup("db-data", parent_id=ours)
    keep(world, retention={"last": 1})
    record = expire(world)
    assert ids(world) == there[2:]
    assert ours in world.a.backups
    assert any(ours in sentence for sentence in record["left"])
    assert f"{there[0]}.json" in documents(world)
    del world.a.backups[foreign]
    assert expire(world)["left"] == []
    assert set(world.a.backups) == set(points.read(world.here.vault, "v").backups)
    assert f"{there[0]}.json" not in documents(world)


def damage(world: World, point: str) -> None:
    (world.folder / "vault" / "v" / f"{point}.json").write_bytes(b"{}")


def test_while_a_point_cannot_be_read_nothing_expires_until_it_is_deleted(world: World) -> None:
    there = three_points(world, full_every=100)
    damage(world, there[1])
    keep(world, retention={"last": 1}, full_every=100)
    backups = set(world.a.backups)
    with pytest.raises(VaultCorrupt, match=there[1]):
        expire(world)
    assert set(world.a.backups) == backups
    assert ids(world) == there
    delete(world, there[1])
    assert ids(world) == [there[0], there[2]]
    # the newest point rests on them
    assert set(world.a.backups) == backups
    keep(world, retention={"last": 1})
    world.protect()
    assert len(ids(world)) == 1
    assert set(world.a.backups) == set(points.read(world.here.vault, "v").backups)


def test_a_damaged_point_that_is_deleted_leaves_no_backups_of_its_own(world: World) -> None:
    there = three_points(world)
    damage(world, there[1])
    delete(world, there[1])
    assert len(world.a.backups) == 2 * VOLUMES
    assert not [name for name in documents(world) if name == f"{there[1]}.json"]


def test_the_plan_of_a_deletion_counts_the_backups_of_a_damaged_point(world: World) -> None:
    there = three_points(world)
    own = points.read(world.here.vault, "v", there[1]).backups
    damage(world, there[1])
    plan = expiry.plan_deletion(world.here, "v", [there[1]])
    assert plan.backups == {i: record.size_gib for i, record in own.items()}


def of_another_vnf(world: World, point: str) -> str:
    """A backup that belongs to a point of another VNF of the project."""
    return world.a.add_backup(
        "front-root",
        volume_id="of-another-vnf",
        metadata={"antipode:run": f"protect-{point}"},
    )


def test_a_damaged_document_with_the_name_of_a_point_of_another_vnf_takes_nothing_of_it_along(
    world: World,
) -> None:
    three_points(world)
    other = "20260101T000000Z-abcdef"
    backup = of_another_vnf(world, other)
    (world.folder / "vault" / "v" / f"{other}.json").write_bytes(b"garbage")
    assert expiry.plan_deletion(world.here, "v", [other]).backups == {}
    delete(world, other)
    assert backup in world.a.backups
    assert len(world.a.backups) == 3 * VOLUMES + 1
    assert f"{other}.json" not in documents(world)


def test_a_point_in_the_folder_of_another_vnf_is_removed_there_and_keeps_its_backups(
    world: World,
) -> None:
    there = three_points(world)
    first = points.read(world.here.vault, "v", there[0])
    other = first.model_copy(
        update={
            "id": "20260101T000000Z-abcdef",
            "vnf": first.vnf.model_copy(update={"vnf": "other"}),
        }
    )
    points.commit(world.here.vault, other)
    # even a backup of a volume that is this VNF's: the point that needs it is intact
    backup = world.a.add_backup("db-data", metadata={"antipode:run": f"protect-{other.id}"})
    vault = world.folder / "vault"
    (vault / "v" / f"{other.id}.json").write_bytes(
        (vault / "other" / f"{other.id}.json").read_bytes()
    )
    assert expiry.plan_deletion(world.here, "v", [other.id]).backups == {}
    delete(world, other.id)
    assert backup in world.a.backups
    assert len(world.a.backups) == 3 * VOLUMES + 1
    assert f"{other.id}.json" not in documents(world)
    assert points.list_ids(world.here.vault, "other") == [other.id]


def test_orphans_of_a_vnf_are_removed_though_the_point_of_one_run_has_expired(
    world: World,
) -> None:
    there = three_points(world)
    runs = [world.here.runs.get(f"protect-{point}") for point in there]
    keep(world, retention={"last": 2})
    expire(world)
    points.hide(world.here.vault, "v", there[1], "It has expired.")
    orphan = world.a.add_backup("db-data", metadata={"antipode:run": runs[2].id})
    remove_orphans_of(world.a.site, world.here.vault, runs, Unrecorded(), lambda row: [])
    assert orphan not in world.a.backups
    # those of the withdrawn point too: what it needs is the expiry's to remove
    assert len(world.a.backups) == 2 * VOLUMES


@pytest.mark.parametrize("streams", [False, True])
def test_a_backup_store_that_is_away_is_asked_last_and_for_runs_that_streamed_only(
    world: World, streams: bool
) -> None:
    [point] = ids(world)
    made = world.here.runs.get(f"protect-{point}")
    request: Any = copy.deepcopy(made.request)
    if streams:
        request["vnf"]["protections"][0]["transfer"] = "change_stream"
    dead = SimpleNamespace(
        id="protect-20991231T000000Z-abcdef", vnf="v", state="failed", ending=None, request=request
    )
    orphan = world.a.add_backup("db-data", metadata={"antipode:run": dead.id})

    def away() -> Any:
        raise SiteUnreachable("the store is away")

    with pytest.raises(SiteUnreachable) if streams else nullcontext():
        remove_orphans_of(
            world.a.site,
            world.here.vault,
            [cast(Any, dead)],
            Unrecorded(),
            lambda row: [],
            away,
        )
    assert orphan not in world.a.backups


def test_a_backup_that_cinder_could_not_delete_stays_and_is_not_waited_for(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [backup, *_] = world.a.backups
    failed = {"status": "error", "fail_reason": "no answer from the store"}
    monkeypatch.setattr(
        world.a.site.backups, "delete_backup", lambda i: world.a.backups[i].update(failed)
    )

    def still_waits(what: str) -> None:
        pytest.fail(what)

    step: Any = SimpleNamespace(waits_for=still_waits)
    done = removal.remove(world.a.site, {backup: removal.Doomed()}, (), step)
    assert (done.gone, list(done.left)) == ({}, [backup])


@pytest.mark.parametrize(
    "wrong", ["yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", ""]
)
def test_a_document_with_a_moment_that_is_none_is_damaged(wrong: str, tmp_path: Path) -> None:
    keys = Keyring(tmp_path)
    keys.prepare()
    sealed = sealing.seal(samples.point(), keys)
    payload = base64.b64decode(json.loads(sealed.manifest)["payload"])
    manifest = json.dumps({**json.loads(payload), "consistent_at": wrong}).encode()
    with pytest.raises(VaultCorrupt, match="consistent_at"):
        point_v2.read_manifest(manifest, sealed.name)
    name, document = next(iter(sealed.records.items()))
    records = json.loads(document)
    records["records"][0]["created_at"] = wrong
    with pytest.raises(VaultCorrupt, match="created_at"):
        point_v2.parsed(
            point_v2.Records, json.dumps(records).encode(), name, point_v2.LARGEST_RECORDS
        )


@pytest.mark.parametrize("kind", [run_kind, verify_kind])
def test_a_bug_with_one_vnf_keeps_no_other_from_being_looked_at(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
) -> None:
    asked: list[str] = []

    def fails(_deployment: Deployment, vnf: Vnf | str, *_: Any, **__: Any) -> None:
        asked.append(vnf if isinstance(vnf, str) else vnf.vnf)
        raise OverflowError("date value out of range")

    monkeypatch.setattr(run_kind, "may_be_due", fails)
    monkeypatch.setattr(verify_kind, "_is_due", fails)
    first = world.here.vnfs.get("v").model_copy(update={"verify_every": 60.0})
    second = first.model_copy(update={"vnf": "w"})
    kind.submit_due(world.here, [first, second], lambda _row: None)
    assert asked == ["v", "w"]


def test_a_note_alone_does_not_cost_the_newest_point_its_backups(world: World) -> None:
    there = three_points(world)
    newest = points.read(world.here.vault, "v")
    points.hide(world.here.vault, "v", there[2], "Written by a stranger.")
    keep(world, retention={"last": 1})
    record = expire(world)
    assert record["expired"] == [there[0]]
    assert any(there[2] in sentence for sentence in record["left"])
    assert set(newest.backups) <= set(world.a.backups)
    # nor the newest of those that are found
    assert ids(world) == [there[1]]
    world.here.vaults().delete(f"v/{there[2]}.withdrawn")
    assert points.read(world.here.vault, "v").id == there[2]


def test_a_note_beside_a_newest_point_that_was_damaged_stops_the_expiry(world: World) -> None:
    there = three_points(world)
    backups = set(world.a.backups)
    damage(world, there[2])
    points.hide(world.here.vault, "v", there[2], "Written by a stranger.")
    keep(world, retention={"last": 1})
    with pytest.raises(VaultCorrupt, match=there[2]):
        expire(world)
    assert set(world.a.backups) == backups
    delete(world, there[2])
    assert len(world.a.backups) == 2 * VOLUMES


def test_a_forged_manifest_in_place_of_the_newest_and_a_note_take_no_backups_along(
    world: World,
) -> None:
    there = three_points(world)
    backups = set(world.a.backups)
    forge(world, points.read(world.here.vault, "v"))
    points.hide(world.here.vault, "v", there[2], "Written by a stranger.")
    assert any(there[2] in sentence for sentence in expire(world)["left"])
    assert set(world.a.backups) == backups


def test_no_point_expires_in_favour_of_one_whose_backups_are_gone(world: World) -> None:
    there = three_points(world)
    newest = points.read(world.here.vault, "v")
    for backup in newest.backups:
        del world.a.backups[backup]
    keep(world, retention={"last": 1})
    assert expire(world)["expired"] == [there[0]]
    assert ids(world) == there[1:]
    assert set(points.read(world.here.vault, "v", there[1]).backups) <= set(world.a.backups)
    # the next one that can be recovered from is kept instead
    made = world.protect()["recovery_point"]
    assert ids(world) == [made]


def test_a_point_that_is_put_back_after_its_withdrawal_costs_no_other_its_backups(
    world: World,
) -> None:
    there = three_points(world)
    manifest = world.folder / "vault" / "v" / f"{there[2]}.json"
    document = manifest.read_bytes()
    records = {p: p.read_bytes() for p in (world.folder / "vault" / "_records").rglob("*.json")}
    expiry.delete(world.here, expiry.plan_deletion(world.here, "v", [there[2]]), Unobserved())
    # a writer of the vault has kept what it saw
    manifest.write_bytes(document)
    manifest.with_suffix(".withdrawn").unlink()
    for path, content in records.items():
        path.write_bytes(content)
    keep(world, retention={"last": 1})
    expire(world)
    assert set(points.read(world.here.vault, "v", there[1]).backups) <= set(world.a.backups)


def test_a_note_in_some_of_the_vaults_does_nothing_that_the_retention_would_not(
    world: World,
) -> None:
    from tests.unit.test_vault_sync import three_vaults

    places = three_vaults(world)
    keep(world, retention="all")
    there = [world.protect()["recovery_point"] for _ in range(3)]
    backups = set(world.a.backups)
    points.hide(DirectoryVault(places.folder / "two"), "v", there[1], "Written by a stranger.")
    assert any(there[1] in sentence for sentence in expire(world)["left"])
    assert set(world.a.backups) == backups
    keep(world, retention={"last": 1})
    assert expire(world)["left"] == []
    assert points.list_ids(world.here.vaults(), "v") == there[2:]
    assert not list((places.folder / "one" / "v").glob(f"{there[1]}.json"))


def test_an_expiry_goes_by_the_retention_of_now(world: World) -> None:
    there = three_points(world)
    keep(world, retention={"last": 1})
    row = run_kind.may_be_due(world.here, world.here.vnfs.get("v"), None)
    assert row is not None
    keep(world, retention={"last": 2})
    with world.here.claims.begin(row) as claim:
        run = claim.run
    resume(world.here, run, Unobserved())
    assert ids(world) == there[1:]


def test_a_damaged_point_stays_while_a_site_that_may_have_its_backups_is_away(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = three_points(world)
    damage(world, there[1])
    unreachable(world, monkeypatch, "site-b")
    assert delete(world, there[1])["left"]
    assert f"{there[1]}.json" in documents(world)
    unreachable(world, monkeypatch)
    assert expire(world)["left"] == []
    assert f"{there[1]}.json" not in documents(world)


def test_a_backup_of_a_damaged_point_that_its_home_refuses_to_delete_stays_elsewhere_too(
    world: World,
) -> None:
    there = three_points(world)
    [backup, *_] = points.read(world.here.vault, "v", there[1]).backups
    world.a.add_backup("db-data", parent_id=backup)
    world.b.backups[backup] = dict(world.a.backups[backup])
    damage(world, there[1])
    delete(world, there[1])
    assert backup in world.a.backups
    assert backup in world.b.backups


def delete(world: World, *wanted: str) -> dict[str, Any]:
    plan = expiry.plan_deletion(world.here, "v", wanted)
    return expiry.delete(world.here, plan, Unobserved())


def test_the_points_that_an_operator_names_are_deleted_and_no_others(world: World) -> None:
    there = three_points(world)
    plan = expiry.plan_deletion(world.here, "v", [there[2]])
    assert (plan.with_newest, plan.left, len(plan.backups)) == (True, 2, VOLUMES)
    assert len(world.a.backups) == 3 * VOLUMES
    record = delete(world, there[2])
    assert record["expired"] == [there[2]]
    assert ids(world) == there[:2]
    assert len(world.a.backups) == 2 * VOLUMES
    with pytest.raises(NotFound):
        delete(world, there[2])
    with pytest.raises(NotFound):
        points.read(world.here.vault, "v", there[2])


def test_a_point_that_a_run_uses_is_neither_deleted_nor_expired(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = three_points(world)
    keep(world, retention={"last": 1})
    in_use = {there[0]: "drill-1"}
    monkeypatch.setattr(run_kind, "users", lambda *_: in_use)
    with pytest.raises(Busy, match="drill-1"):
        delete(world, there[0])
    expire(world)
    assert ids(world) == [there[0], there[2]]
    assert set(points.read(world.here.vault, "v", there[0]).backups) <= set(world.a.backups)


def test_a_run_of_any_kind_that_works_from_a_point_uses_it(world: World) -> None:
    row = prepare_failover(world)
    run = row.id
    world.here.runs.create(row)
    assert run_kind.users(world.here, "v") == {ids(world)[0]: run}


def prepare_failover(world: World) -> RunRow:
    from antipode.operations.failover import request

    return request(prepare(world.here, "v", "site-b", None))


def test_nothing_expires_while_another_host_fails_over(world: World, tmp_path: Path) -> None:
    there = three_points(world)
    keep(world, retention={"last": 1})
    elsewhere = another_host(world, tmp_path)
    world.b.may_import = False
    with pytest.raises(AntipodeError):
        failover(elsewhere, prepare(elsewhere, "v", "site-b", there[0]), Unobserved())
    with pytest.raises(Busy):
        expire(world)
    queued: list[RunRow] = []
    run_kind.submit_due(world.here, world.here.vnfs.all(), queued.append)
    assert queued == []
    assert ids(world) == there


def another_host(world: World, tmp_path: Path) -> Deployment:
    """With a database of its own, and the same vault."""
    folder = tmp_path / "another"
    folder.mkdir(exist_ok=True)
    text = world.config.read_text().replace(f"sqlite:///{world.folder}", f"sqlite:///{folder}")
    (folder / "antipode.yaml").write_text(text)
    deployment = Deployment(config.load(str(folder / "antipode.yaml")))
    deployment.vnfs.put(world.here.vnfs.get("v"))
    return deployment


def test_a_failover_from_a_point_that_is_withdrawn_meanwhile_creates_nothing(world: World) -> None:
    there = three_points(world)
    prepared = prepare(world.here, "v", "site-b", there[0])
    points.hide(world.here.vault, "v", there[0], "It has expired.")
    with pytest.raises(NotFound, match="withdrawn"):
        failover(world.here, prepared, Unobserved())
    assert not [e for e in world.b.events if e.startswith(("import", "restore", "port", "boot"))]


def hidden_once_it_is_claimed(world: World, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """An expiry withdraws a point between a failover's first look at it and its claim."""
    claims = generations.claim

    def claim(*given: Any, **more: Any) -> Claim:
        made = claims(*given, **more)
        points.hide(world.here.vault, "v", point, "It has expired.")
        return made

    monkeypatch.setattr(generations, "claim", claim)


def test_a_failover_whose_point_goes_while_it_claims_gives_its_claim_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three_points(world)
    prepared = prepare(world.here, "v", "site-b", there[0])
    with monkeypatch.context() as patched, pytest.raises(RecoveryPointInvalid) as caught:
        hidden_once_it_is_claimed(world, patched, there[0])
        failover(world.here, prepared, Unobserved())
    assert caught.value.exit_code == 1
    assert not [e for e in world.b.events if e.startswith(("import", "restore", "port", "boot"))]
    now = generations.present(world.here.vault, "v", "site-a")
    assert (now.state, now.active_site) == (VnfState.ACTIVE, "site-a")
    world.protect()


def test_a_failover_that_was_killed_while_it_claimed_gives_the_claim_of_a_lost_point_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three_points(world)
    prepared = prepare(world.here, "v", "site-b", there[0])

    def no_answer(*_: object) -> None:
        raise VaultError("no answer")

    with monkeypatch.context() as patched, pytest.raises(VaultError):
        patched.setattr(generations, "confirm", no_answer)
        failover(world.here, prepared, Unobserved())
    points.hide(world.here.vault, "v", there[0], "It has expired.")
    with pytest.raises(RecoveryPointInvalid):
        resume(world.here, world.here.runs.all()[0].id, Unobserved())
    assert generations.present(world.here.vault, "v", "site-a").state is VnfState.ACTIVE


def test_a_failover_that_has_begun_keeps_its_claim_though_its_point_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three_points(world)
    prepared = prepare(world.here, "v", "site-b", there[0])
    with monkeypatch.context() as patched, pytest.raises(SiteUnreachable):
        patched.setattr(world.b, "before", no_boot)
        failover(world.here, prepared, Unobserved())
    points.hide(world.here.vault, "v", there[0], "It was deleted.")
    run = world.here.runs.all()[0].id
    with pytest.raises(RecoveryPointInvalid) as caught:
        resume(world.here, run, Unobserved())
    assert f"abort {run}" in "".join(caught.value.__notes__)
    now = generations.present(world.here.vault, "v", "site-a")
    assert now.claim is not None and now.claim.run == run
    assert now.state is VnfState.FAILING_OVER


def no_boot(event: str) -> None:
    if event.startswith("boot"):
        raise SiteUnreachable("no answer")


def test_records_that_a_failover_has_imported_go_too(world: World) -> None:
    there = three_points(world)
    world.b.networks = [{"id": "net-2", "name": "net-b"}]
    run = imported_by_an_aborted_failover(world, there[0])
    assert len(world.b.backups) == VOLUMES, run
    keep(world, retention={"last": 1})
    expire(world)
    assert world.b.backups == {}
    assert len(world.a.backups) == VOLUMES


def imported_by_an_aborted_failover(world: World, point: str) -> str:
    def fail(event: str) -> None:
        if event.startswith("boot"):
            raise SiteUnreachable("no answer")

    world.b.before = fail
    with pytest.raises(AntipodeError):
        failover(world.here, prepare(world.here, "v", "site-b", point), Unobserved())
    world.b.before = lambda event: None
    run = world.here.runs.all()[0].id
    abort(world.here, run, Unobserved())
    return run


def unreachable(world: World, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def connect(name: str, _cloud: str) -> Any:
        if name in names:
            raise SiteUnreachable(f"{name} does not answer")
        return {"site-a": world.a, "site-b": world.b}[name].site

    monkeypatch.setattr(cloud_site, "connect", connect)
    world.here = world.process()


def test_with_the_active_site_away_points_go_first_and_their_backups_once_it_answers(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = three_points(world)
    keep(world, retention={"last": 1})
    unreachable(world, monkeypatch, "site-a")
    with pytest.raises(SiteUnreachable):
        expire(world)
    assert ids(world) == there[2:]
    assert f"{there[0]}.json" in documents(world)
    unreachable(world, monkeypatch)
    assert expire(world)["left"] == []
    assert len(world.a.backups) == VOLUMES


def test_with_the_backup_site_away_its_records_go_once_it_answers(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = three_points(world)
    imported_by_an_aborted_failover(world, there[0])
    keep(world, retention={"last": 1})
    unreachable(world, monkeypatch, "site-b")
    assert expire(world)["left"]
    assert len(world.a.backups) == VOLUMES
    assert len(world.b.backups) == VOLUMES
    unreachable(world, monkeypatch)
    assert expire(world)["left"] == []
    assert world.b.backups == {}


def test_a_listing_that_still_has_a_point_which_is_gone_stops_the_expiry(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three_points(world)
    keep(world, retention={"last": 1})
    lists = DirectoryVault.list
    gone = "v/20200101T000000Z-000000.json"
    monkeypatch.setattr(
        DirectoryVault, "list", lambda vault, prefix: sorted([gone, *lists(vault, prefix)])
    )
    backups = set(world.a.backups)
    with pytest.raises(VaultError):
        expire(world)
    assert set(world.a.backups) == backups


def chain_with_a_kept_base(world: World) -> tuple[RecoveryPoint, list[str]]:
    """A point that stays, two on its chain that are to go, and a newest one on another chain."""
    kept, *going = three_points(world, full_every=100)
    protect(world.here, "v", Unobserved(), full=True)
    return points.read(world.here.vault, "v", kept), going


def lists_without(
    monkeypatch: pytest.MonkeyPatch, point: str, numbers: Container[int]
) -> list[str]:
    """The vault lacks a point in the listings whose numbers these are; the listings, as they come.

    Object stores update their listings after the objects, sometimes by hours.
    """
    lists, begun = DirectoryVault.list, list[str]()

    def short(vault: DirectoryVault, prefix: str) -> list[str]:
        found = lists(vault, prefix)
        if prefix != "v/":
            return found
        begun.append(prefix)
        return [n for n in found if not (len(begun) in numbers and n == f"v/{point}.json")]

    monkeypatch.setattr(DirectoryVault, "list", short)
    return begun


def delete_points(world: World, going: list[str]) -> dict[str, Any]:
    deletion = expiry.plan_deletion(world.here, "v", going)
    return expiry.delete(world.here, deletion, Unobserved())


def test_a_kept_point_that_one_listing_lacks_keeps_its_backups(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept, going = chain_with_a_kept_base(world)
    for last in range(1, 100):
        other = World(tmp_path_factory.mktemp("world"))
        other.becomes(world)
        with monkeypatch.context() as patch:
            begun = lists_without(patch, kept.id, [last])
            with suppress(VaultError):
                delete_points(other, going)
        assert set(kept.backups) <= set(other.a.backups), f"listing {last}"
        if len(begun) < last:
            return
    raise AssertionError("an expiry lists its vault without end")


def test_a_kept_point_that_the_vault_does_not_list_keeps_its_backups(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, going = chain_with_a_kept_base(world)
    with monkeypatch.context() as patch:
        lists_without(patch, kept.id, range(1, 1000))
        assert [left for left in delete_points(world, going)["left"] if kept.id in left]
        assert set(kept.backups) <= set(world.a.backups)
    expire(world)
    assert set(kept.backups) <= set(world.a.backups)
    assert [p for p in documents(world) if p.removesuffix(".json") in going] == []


@pytest.mark.parametrize("call", ["create", "delete"])
def test_a_vault_that_fails_in_the_middle_loses_nothing_and_the_next_expiry_ends_it(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    there = three_points(world)
    keep(world, retention={"last": 1})
    does, calls = getattr(DirectoryVault, call), []

    def fails_once(vault: DirectoryVault, name: str, *document: bytes) -> Any:
        calls.append(name)
        if len(calls) == 2:
            raise VaultError("500: internal error")
        return does(vault, name, *document)

    monkeypatch.setattr(DirectoryVault, call, fails_once)
    with pytest.raises(VaultError):
        expire(world)
    assert there[2] in ids(world)
    needed = {b for p in ids(world) for b in points.read(world.here.vault, "v", p).backups}
    assert needed <= set(world.a.backups)
    expire(world)
    assert ids(world) == there[2:]
    assert len(world.a.backups) == VOLUMES


def test_a_point_that_is_hidden_in_one_vault_is_hidden_in_all_by_the_next_try(
    tmp_path: Path,
) -> None:
    one, other = DirectoryVault(tmp_path / "one"), DirectoryVault(tmp_path / "other")
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    vaults = Vaults({"one": lambda: one, "other": lambda: other}, all_needed=True)
    points.hide(one, "v", "p", "It has expired.")
    points.hide(vaults, "v", "p", "It has expired.")
    assert one.list("v/") == other.list("v/") == ["v/p.withdrawn"]


def test_two_hosts_that_expire_at_once_end_as_one(world: World, tmp_path: Path) -> None:
    there = three_points(world)
    keep(world, retention={"last": 1})
    hosts = [world.here, another_host(world, tmp_path)]
    begin, errors = threading.Barrier(2), list[BaseException]()

    def work(deployment: Deployment) -> None:
        begin.wait()
        try:
            expire(world, deployment)
        except AntipodeError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expire(world)
    assert ids(world) == there[2:]
    assert len(world.a.backups) == VOLUMES
    assert not [name for name in documents(world) if name.startswith(there[0]) and "json" in name]


def test_a_point_of_the_future_keeps_all_others(world: World) -> None:
    there = three_points(world)
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    newest = points.read(world.here.vault, "v", there[0])
    future = newest.model_copy(update={"id": "20990101T000000Z-000000", "consistent_at": ahead})
    points.commit(world.here.vault, future)
    keep(world, retention={"last": 1})
    assert expire(world)["run"] is None
    assert ids(world) == [*there, future.id]


def test_an_expiry_that_fails_does_not_make_the_protection_fail(
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    there = three_points(world)
    damage(world, there[0])
    keep(world, retention={"last": 1})
    record = world.protect()
    assert record["expired"] is None
    assert there[0] in caplog.text
    assert world.here.runs.get(record["run"]).state == "succeeded"


def test_an_aborted_expiry_leaves_the_rest_to_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three_points(world)
    keep(world, retention={"last": 1})
    seen, stop = threading.Event(), Run.stop

    def stop_and_tell(run: Run, kind: type[AntipodeError], why: str) -> None:
        stop(run, kind, why)
        seen.set()

    def ask_to_abort(event: str) -> None:
        if event.startswith("delete backup"):
            world.here.runs.request_abort(world.here.runs.open("v")[0].id)
            assert seen.wait(600)

    monkeypatch.setattr(Run, "stop", stop_and_tell)

    world.a.before = ask_to_abort
    with pytest.raises(AntipodeError):
        expire(world)
    world.a.before = lambda event: None
    assert world.here.runs.all()[0].state == "aborted"
    assert set(points.read(world.here.vault, "v").backups) <= set(world.a.backups)
    expire(world)
    assert ids(world) == there[2:]
    assert len(world.a.backups) == VOLUMES


def test_an_expiry_whose_process_died_is_resumed(world: World) -> None:
    three_points(world)
    keep(world, retention={"last": 1})
    row = run_kind.may_be_due(world.here, world.here.vnfs.get("v"), None)
    assert row is not None
    with world.here.claims.begin(row) as claim:
        run = claim.run
    resume(world.here, run, Unobserved())
    assert world.here.runs.get(run).state == "succeeded"
    assert len(world.a.backups) == VOLUMES


def test_the_service_queues_an_expiry_where_one_is_due_and_leaves_a_failed_one_alone(
    world: World,
) -> None:
    three_points(world)
    queued: list[RunRow] = []
    submit: Callable[[], None] = lambda: run_kind.submit_due(  # noqa: E731
        world.here, world.here.vnfs.all(), queued.append
    )
    submit()
    assert queued == []
    keep(world, retention={"last": 1})
    submit()
    assert [row.kind for row in queued] == ["expire"]
    world.a.before = lambda event: (_ for _ in ()).throw(SiteUnreachable("no answer"))
    with pytest.raises(SiteUnreachable):
        expire(world)
    queued.clear()
    submit()
    assert queued == []


def test_notes_of_points_that_are_long_gone_go_too(world: World) -> None:
    three_points(world)
    old, late = "20200101T000000Z-000000", "20200101T000000Z-000002"
    forged, young = "20200101T000000Z-000001", f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-000000"
    put_note(world, old, timedelta(days=8))
    put_note(world, late, timedelta(days=6))
    world.here.vault.put(f"v/{forged}.withdrawn", b"It has expired.\n")
    put_note(world, young, timedelta(0))
    keep(world, retention={"last": 1})
    expire(world)
    left = documents(world)
    assert f"{old}.withdrawn" not in left
    assert f"{forged}.withdrawn" not in left
    assert {f"{late}.withdrawn", f"{young}.withdrawn"} <= set(left)


def test_a_note_stays_while_its_point_is_there_though_it_is_not_listed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_points(world)
    point = "20200101T000000Z-000000"
    put_note(world, point, timedelta(days=8))
    world.here.vaults().put(f"v/{point}.json", b"as it was committed")
    keep(world, retention={"last": 1})
    lists_without(monkeypatch, point, range(1, 1000))
    expire(world)
    assert f"{point}.withdrawn" in documents(world)


def put_note(world: World, point: str, ago: timedelta) -> None:
    """A note as an expiry wrote it a while ago."""
    at = (datetime.now(UTC) - ago).isoformat()
    note = withdrawals.Withdrawal(vnf="v", point=point, at=at, why="It has expired.")
    vault = world.here.vaults()
    vault.put(
        withdrawals.name_of("v", point), statements.sealed(vault.keys, withdrawals.KIND, note)
    )


def test_a_note_that_nobody_has_signed_hides_no_point_and_costs_no_backup(world: World) -> None:
    there = three_points(world)
    for point in there:
        world.here.vault.put(f"v/{point}.withdrawn", b"It has expired.\n")
    assert ids(world) == there
    keep(world, retention={"last": 3})
    backups = set(world.a.backups)
    assert expire(world)["expired"] == []
    assert set(world.a.backups) == backups
    # nor does it keep the true one from being written
    keep(world, retention={"last": 1})
    expire(world)
    assert ids(world) == there[2:]


def test_a_note_of_another_point_hides_none(world: World) -> None:
    there = three_points(world)
    vault = world.here.vaults()
    withdrawals.write(vault, "v", there[0], "It has expired.")
    note = vault.get(withdrawals.name_of("v", there[0]))
    for point in there[1:]:
        vault.put(withdrawals.name_of("v", point), note)
    assert ids(world) == there[1:]


def test_a_note_keeps_its_time_however_often_it_is_written(world: World) -> None:
    [point, *_] = three_points(world)
    put_note(world, point, timedelta(days=5))
    name, vault = withdrawals.name_of("v", point), world.here.vaults()
    before = vault.get(name)
    points.hide(vault, "v", point, "Again.")
    assert vault.get(name) == before
    now = datetime.now(UTC)
    assert withdrawals.is_older(vault, "v", point, now - timedelta(days=4))
    assert not withdrawals.is_older(vault, "v", point, now - timedelta(days=6))


@pytest.mark.parametrize("state", ["holds it", "is silent", "does not have it"])
def test_a_note_stays_while_a_vault_of_the_configuration_may_bring_the_point_back(
    world: World, state: str, tmp_path: Path
) -> None:
    three_points(world)
    (tmp_path / "other").mkdir()
    other, point = DirectoryVault(tmp_path / "other"), "20200101T000000Z-000000"
    if state == "holds it":
        other.put(f"v/{point}.json", b"{}")
    put_note(world, point, timedelta(days=30))

    def every_vault() -> Vault:
        if state == "is silent":
            raise SiteUnreachable("no answer")
        return other

    with patched_every_vault(every_vault):
        keep(world, retention={"last": 1})
        expire(world)
    assert (f"{point}.withdrawn" in documents(world)) is (state != "does not have it")


@contextmanager
def patched_every_vault(every_vault: Callable[[], Vault]) -> Iterator[None]:
    """Expiries find these vaults in the configuration."""
    made = run_kind.expiry_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run_kind,
            "expiry_of",
            lambda run, vnf: replace(made(run, vnf), every_vault=every_vault),
        )
        yield

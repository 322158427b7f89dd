# SPDX-License-Identifier: Apache-2.0
"""Vaults that were away are caught up, and a host that has lost everything learns from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import NotFound, VaultError
from antipode.model.point import RecoveryPoint
from antipode.model.state import ProtectedVnf, VnfState
from antipode.model.vnf import Answers
from antipode.operations import site_check, vaults
from antipode.operations.failover import failover, prepare
from antipode.operations.vaults import Synced
from antipode.runs import protect as run_kind
from antipode.runs.failover_checks import Accepted
from antipode.vault import generations, points, sealing, sync, windows
from antipode.vault.directory import DirectoryVault
from antipode.vault.keys import NO_KEYS
from antipode.vault.sealing import MANIFEST
from tests.unit import samples
from tests.unit.test_cli import Antipode
from tests.unit.test_cli import antipode as antipode  # the fixture
from tests.unit.test_durable_runs import World
from tests.unit.test_durable_runs import world as world  # the fixture
from tests.unit.test_kill_matrix import VNF

NAMES = ("one", "three", "two")


class Places:
    """Three vaults in directories, and a host with a database."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        for name in NAMES:
            (folder / name).mkdir(parents=True)
        listed = "".join(f"  {name}: {{directory: {folder / name}}}\n" for name in NAMES)
        self.config = folder / "antipode.yaml"
        self.config.write_text(
            f"sites:\n  site-a: {{cloud: a}}\n  site-b: {{cloud: b}}\nvaults:\n{listed}"
            f"database: sqlite:///{folder / 'antipode.db'}\n{more}"
        )

    def host(self) -> Deployment:
        return Deployment(config.load(str(self.config)))

    def vault(self, name: str) -> DirectoryVault:
        return DirectoryVault(self.folder / name)

    def away(self, name: str) -> None:
        """The vault does not answer from now on."""
        (self.folder / name).rename(self.folder / f"{name} away")

    def back(self, name: str) -> None:
        (self.folder / f"{name} away").rename(self.folder / name)

    def lose_the_host(self) -> None:
        """Nothing of the host is left but its configuration."""
        for path in self.folder.glob("antipode.db*"):
            path.unlink()

    def held(self) -> list[dict[str, bytes]]:
        """What each vault holds."""
        found = [self.vault(name) for name in NAMES]
        return [{name: vault.get(name) for name in vault.list("")} for vault in found]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "places")


def committable(host: Deployment) -> ProtectedVnf:
    """A VNF that has failed over, which can be undone."""
    points.commit(host.vaults(), samples.point())
    state = generations.present(host.vaults(), "hlr", "site-a")
    mine = generations.claim(host.vaults(), state, "site-b", "failover-1", undo_within_s=3600.0)
    generations.complete(host.vaults(), mine)
    return generations.present(host.vaults(), "hlr", "site-a")


def sealed(point: RecoveryPoint) -> bytes:
    return sealing.seal(point, NO_KEYS).manifest.encode()


def synced(deployment: Deployment, **more: Any) -> dict[str, Synced]:
    return {row.vnf: row for row in vaults.synchronize(deployment, **more)}


def test_a_vault_that_was_away_gets_claims_outcomes_notes_and_points(places: Places) -> None:
    first, second, third = (
        samples.point(f"20261122T16000{n}Z-000000", consistent_at=f"2026-11-22T16:00:0{n}Z")
        for n in range(3)
    )
    host = places.host()
    points.commit(host.vaults(), first)
    places.away("three")
    points.commit(host.vaults(), second)
    points.commit(host.vaults(), third)
    points.withdraw(host.vaults(), "hlr", third.id, on_its_way=True)
    state = generations.present(host.vaults(), "hlr", "site-a")
    mine = generations.claim(host.vaults(), state, "site-b", "failover-1")
    generations.complete(host.vaults(), mine)
    places.back("three")
    done = sync.catch_up(host.vaults(), "hlr")
    assert list(done.written) == [places.vault("three").place]
    assert done.trouble == []
    one, three, two = places.held()
    assert one == two == three
    assert sync.catch_up(host.vaults(), "hlr").written == {}
    alone = places.vault("three")
    assert points.list_ids(alone, "hlr") == [first.id, second.id]
    assert generations.present(alone, "hlr", "site-a").active_site == "site-b"


def test_a_commit_is_brought_to_a_vault_that_was_away(places: Places) -> None:
    host = places.host()
    state = committable(host)
    places.away("three")
    windows.commit(host.vaults(), state)
    places.back("three")
    assert not windows.is_committed(places.vault("three"), state)
    assert sync.catch_up(host.vaults(), "hlr").trouble == []
    assert windows.is_committed(places.vault("three"), state)
    assert sync.catch_up(host.vaults(), "hlr").written == {}


def test_a_commit_that_an_undo_may_not_see_is_said(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = places.host()
    state, create = committable(host), DirectoryVault.create

    def is_full(there: DirectoryVault, name: str, document: bytes) -> bool:
        if name.endswith(windows.COMMITTED) and there.place != places.vault("one").place:
            raise VaultError("it is full")
        return create(there, name, document)

    monkeypatch.setattr(DirectoryVault, "create", is_full)
    with pytest.raises(VaultError):
        windows.commit(host.vaults(), state)
    monkeypatch.setattr(DirectoryVault, "create", create)
    assert sync.catch_up(host.vaults(), "hlr").trouble == []
    assert all(windows.is_committed(places.vault(name), state) for name in NAMES)


def test_a_withdrawn_point_does_not_come_back_from_a_vault_that_was_away(places: Places) -> None:
    host = places.host()
    points.commit(host.vaults(), samples.point())
    places.away("three")
    points.withdraw(host.vaults(), "hlr", samples.point().id, on_its_way=True)
    places.back("three")
    sync.catch_up(host.vaults(), "hlr")
    for name in NAMES:
        assert points.list_ids(places.vault(name), "hlr") == []


def test_what_is_damaged_is_neither_spread_nor_written_over(places: Places) -> None:
    host, name = places.host(), f"hlr/{samples.point().id}.json"
    points.commit(places.vault("one"), samples.point())
    places.vault("one").put(name, b"{}")
    done = sync.catch_up(host.vaults(), "hlr")
    assert len(done.trouble) == 1
    assert points.list_ids(places.vault("three"), "hlr") == []
    points.commit(places.vault("two"), samples.point())
    assert sync.catch_up(host.vaults(), "hlr").trouble == []
    assert points.read(places.vault("three"), "hlr") == samples.point()
    assert places.vault("one").get(name) == b"{}"
    wrong = list(vaults.disagreements(host))
    assert [(d.document, d.place) for d in wrong] == [(name, places.vault("one").place)]


def test_a_listing_that_lags_writes_nothing_over(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = places.host()
    points.commit(host.vaults(), samples.point())
    before = places.held()
    listed = DirectoryVault.list

    def lagging(self: DirectoryVault, prefix: str) -> list[str]:
        return [] if self.place == places.vault("two").place else listed(self, prefix)

    monkeypatch.setattr(DirectoryVault, "list", lagging)
    assert sync.catch_up(host.vaults(), "hlr").written == {}
    monkeypatch.undo()
    assert places.held() == before


def test_no_more_is_written_than_was_allowed_and_the_newest_comes_first(places: Places) -> None:
    made = [samples.point(f"20261122T16000{n}Z-000000") for n in range(5)]
    for point in made:
        points.commit(places.vault("one"), point)
    host = places.host()
    sync.catch_up(host.vaults(), "hlr", at_most=2)
    for name in ("two", "three"):
        assert points.list_ids(places.vault(name), "hlr") == [made[3].id, made[4].id]


def test_a_host_that_has_lost_everything_gets_all_vnfs_their_state_and_points_back(
    places: Places,
) -> None:
    before = places.host()
    before.vnfs.put(samples.vnf())
    points.commit(before.vaults(), samples.point())
    state = generations.present(before.vaults(), "hlr", "site-a")
    mine = generations.claim(before.vaults(), state, "site-b", "failover-1")
    generations.complete(before.vaults(), mine)
    places.lose_the_host()
    after = places.host()
    assert after.vnfs.names() == []
    planned = synced(after, plan=True)["hlr"]
    assert (planned.here, planned.active_site, planned.points) == ("would be added", "site-b", 1)
    assert after.vnfs.names() == []
    assert after.states.all() == {}
    row = synced(after)["hlr"]
    assert (row.here, row.active_site, row.generation, row.points) == ("added", "site-b", 2, 1)
    assert (row.written, row.trouble) == ({}, [])
    assert after.vnfs.get("hlr") == samples.point().vnf.without_commands()
    kept = after.states.find("hlr")
    assert kept is not None
    assert (kept.active_site, kept.generation, kept.state) == ("site-b", 2, VnfState.ACTIVE)
    again = synced(after)["hlr"]
    assert (again.here, again.written, again.trouble) == ("known", {}, [])


def test_a_definition_from_a_vault_executes_nothing(places: Places) -> None:
    vnf = samples.vnf()
    probed = vnf.members[0].model_copy(
        update={"answers": Answers.model_validate({"command": ["/bin/false"]})}
    )
    members = [probed, *vnf.members[1:]]
    commanded = vnf.model_copy(update={"members": members})
    points.commit(places.host().vaults(), samples.point(vnf=commanded))
    host = places.host()
    assert synced(host)["hlr"].here == "added"
    assert host.vnfs.get("hlr").members[0].answers is None


def test_the_definition_of_this_host_is_not_replaced(places: Places) -> None:
    host = places.host()
    ours = samples.vnf(vaults=["one", "two"])
    host.vnfs.put(ours)
    points.commit(host.vaults(["one"]), samples.point())
    row = synced(host)["hlr"]
    assert (row.here, list(row.written)) == ("known", [places.vault("two").place])
    assert host.vnfs.get("hlr") == ours
    assert places.vault("three").list("") == []


def test_a_vnf_of_another_installation_is_left_alone(places: Places) -> None:
    vnf = samples.vnf(primary="site-x")
    points.commit(places.vault("one"), samples.point(vnf=vnf))
    before = places.held()
    host = places.host()
    row = synced(host)["hlr"]
    assert row.here == "not added"
    assert "site-x" in row.trouble[0]
    assert host.vnfs.names() == []
    assert places.held() == before


def test_folders_that_are_no_vnfs_are_passed_over(places: Places) -> None:
    for name in ("lost+found/x", "_records/hlr/1.json", "README"):
        places.vault("one").put(name, b"")
    assert synced(places.host()) == {}
    assert list(vaults.disagreements(places.host())) == []


def test_a_vnf_that_nobody_knows_is_not_found(places: Places) -> None:
    with pytest.raises(NotFound):
        synced(places.host(), only="nobody")


def test_what_disagrees_is_said_and_nothing_is_changed(places: Places) -> None:
    host = places.host()
    points.commit(host.vaults(), samples.point())
    assert list(vaults.disagreements(host, every_point=True)) == []
    newer = samples.point("20261122T170000Z-000000")
    points.commit(places.vault("two"), newer)
    places.vault("three").put(f"hlr/{samples.point().id}.json", sealed(samples.point())[:50])
    before = places.held()
    name = f"hlr/{newer.id}.json"
    quick = list(vaults.disagreements(host))
    assert {(d.document, d.place) for d in quick} == {
        (name, places.vault("one").place),
        (name, places.vault("three").place),
    }
    thorough = list(vaults.disagreements(host, every_point=True))
    assert {(d.document, d.place) for d in thorough} - {(d.document, d.place) for d in quick} == {
        (f"hlr/{samples.point().id}.json", places.vault("three").place)
    }
    assert places.held() == before


def test_site_check_says_whether_the_vaults_agree(places: Places) -> None:
    points.commit(places.host().vaults(), samples.point())
    assert site_check._check_agreement(places.host()).ok
    points.commit(places.vault("two"), samples.point("20261122T170000Z-000000"))
    found = site_check._check_agreement(places.host())
    assert (found.ok, found.needed) == (False, False)
    sync.catch_up(places.host().vaults(), "hlr")
    assert site_check._check_agreement(places.host()).ok


def test_two_versions_of_one_point_are_said(places: Places) -> None:
    points.commit(places.host().vaults(), samples.point())
    other = samples.point(consistent_at="2026-11-22T16:00:09Z")
    places.vault("two").put(f"hlr/{other.id}.json", sealed(other))
    (found,) = vaults.disagreements(places.host())
    assert found.place == places.vault("two").place


def run(antipode: Antipode, places: Places, *arguments: str) -> tuple[int, Any]:
    """A command with `-f json`: its exit code, and its output."""
    antipode.config = places.config
    code = antipode(*arguments, "-f", "json")
    return code, json.loads(antipode.out)


def test_the_commands_end_with_their_exit_codes(antipode: Antipode, places: Places) -> None:
    points.commit(places.vault("one"), samples.point())
    code, listed = run(antipode, places, "vault", "list")
    assert code == 0
    assert [(v["vault"], v["kind"], v["vnfs"], v["points"]) for v in listed] == [
        ("one", "directory", 1, 1),
        ("three", "directory", 0, 0),
        ("two", "directory", 0, 0),
    ]
    code, found = run(antipode, places, "vault", "check")
    assert code == VaultError.exit_code
    manifests = [f["vault"] for f in found if f["document"].startswith("hlr/")]
    assert manifests == [places.vault(name).place for name in ("three", "two")]
    code, rows = run(antipode, places, "vault", "sync", "--plan")
    assert (code, rows[0]["here"], len(rows[0]["written"])) == (0, "would be added", 2)
    code, rows = run(antipode, places, "vault", "sync")
    assert (code, rows[0]["here"], rows[0]["points"]) == (0, "added", 1)
    assert run(antipode, places, "vault", "check") == (0, [])
    code, shown = run(antipode, places, "vault", "show", "two")
    assert (code, shown[0]["newest"], shown[0]["active_site"]) == (0, samples.point().id, "site-a")
    places.away("two")
    for command in ("list", "check", "sync"):
        assert run(antipode, places, "vault", command)[0] == VaultError.exit_code
    code, rows = run(antipode, places, "vault", "sync")
    assert (rows[0]["here"], rows[0]["trouble"]) == ("known", [])


def test_without_any_vault_there_is_an_error(antipode: Antipode, places: Places) -> None:
    for name in NAMES:
        places.away(name)
    antipode.config = places.config
    assert antipode("vault", "sync") == VaultError.exit_code
    assert antipode.error() == VaultError.code


def three_vaults(world: World, more: str = "") -> Places:
    """The world, with three vaults in place of its one and nothing in them."""
    places = Places(world.folder / "places", more)
    world.config = places.config
    world.here = world.process()
    world.here.vnfs.put(VNF)
    return places


def quiesced(world: World) -> Sequence[str]:
    return [event for event in world.a.events if event.startswith("quiesce")]


def ids(places: Places) -> list[list[str]]:
    found = []
    for name in NAMES:
        folder = places.folder / name
        folder = folder if folder.exists() else places.folder / f"{name} away"
        found.append(points.list_ids(DirectoryVault(folder), "v"))
    return found


def test_a_point_that_enough_vaults_have_counts_and_the_next_protection_catches_up(
    world: World,
) -> None:
    places = three_vaults(world, "vaults_needed: 2\n")
    places.away("two")
    first = world.protect()["recovery_point"]
    assert ids(places) == [[first], [first], []]
    places.back("two")
    second = world.protect()["recovery_point"]
    assert ids(places) == [[first, second]] * 3


def test_by_default_every_vault_is_needed_and_nothing_is_frozen_without_one(world: World) -> None:
    places = three_vaults(world)
    places.away("two")
    before = quiesced(world)
    with pytest.raises(VaultError):
        world.protect()
    assert quiesced(world) == before
    assert ids(places) == [[], [], []]


def test_nothing_is_protected_while_the_silent_vaults_could_have_let_it_fail_over(
    world: World,
) -> None:
    places = three_vaults(world, "vaults_needed: 1\n")
    state = generations.present(world.here.vaults(), "v", "site-a")
    places.away("three")
    generations.complete(
        world.here.vaults(), generations.claim(world.here.vaults(), state, "site-b", "failover-1")
    )
    places.back("three")
    # the host of the old copy reaches only the vault that has not heard of it
    places.away("one")
    places.away("two")
    before = quiesced(world)
    row = run_kind.requested(VNF, ProtectedVnf(vnf="v", active_site="site-a", generation=1))
    with pytest.raises(VaultError), world.here.claims.begin(row) as claim:
        execute(world.here, run_kind.KIND, claim, Unobserved())
    assert quiesced(world) == before
    assert ids(places) == [[], [], []]


@pytest.mark.parametrize("more", ["", "vaults_needed: 2\n"])
def test_backups_stay_while_a_silent_vault_may_have_a_point_that_names_them(
    world: World, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    places = three_vaults(world, more)
    first = world.protect()["recovery_point"]
    before = set(world.a.backups)
    put, create = DirectoryVault.put, DirectoryVault.create
    full = {places.vault(name).place for name in ("three", "two")}

    def refused(self: DirectoryVault, name: str) -> None:
        """Two vaults are full, and the third takes nothing after the point."""
        if name.startswith("v/") and name.endswith(MANIFEST) == (self.place in full):
            raise VaultError(f"{self.place} cannot be written: No space left on device")

    def put_or_refuse(self: DirectoryVault, name: str, document: bytes) -> None:
        refused(self, name)
        put(self, name, document)

    def create_or_refuse(self: DirectoryVault, name: str, document: bytes) -> bool:
        refused(self, name)
        return create(self, name, document)

    monkeypatch.setattr(DirectoryVault, "create", create_or_refuse)
    monkeypatch.setattr(DirectoryVault, "put", put_or_refuse)
    with pytest.raises(VaultError):
        world.protect()
    assert set(world.a.backups) > before
    monkeypatch.undo()
    second = world.protect()["recovery_point"]
    assert ids(places) == [[first, second]] * 3
    named = {backup for p in (first, second) for backup in backups_of(places, p)}
    assert set(world.a.backups) == named | before


def backups_of(places: Places, point: str) -> set[str]:
    return set(points.read(places.vault("one"), "v", point).backups)


def test_a_failover_without_the_vaults_that_decide_needs_the_operators_word(world: World) -> None:
    places = three_vaults(world)
    world.protect()
    places.away("one")
    places.away("three")
    with pytest.raises(VaultError):
        failover(world.here, prepare(world.here, "v", "site-b", None), Unobserved())
    assert world.b.servers == {}
    accepted = Accepted(lost_vaults=["one", "three"])
    prepared = prepare(world.here, "v", "site-b", None, accepted)
    assert any("one" in warning and "lost" in warning for warning in prepared.warnings)
    failover(world.here, prepared, Unobserved())
    assert generations.present(places.vault("two"), "v", "site-a").active_site == "site-b"


def test_a_host_that_has_lost_everything_recovers_after_a_sync(world: World) -> None:
    places = three_vaults(world)
    world.protect()
    places.lose_the_host()
    world.here = world.process()
    assert synced(world.here)["v"].here == "added"
    world.failover()
    assert world.b.servers

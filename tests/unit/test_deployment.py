# SPDX-License-Identifier: Apache-2.0
"""Connections: made when they are needed, without a change at the site, and none is in the way of
another.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from antipode import config
from antipode.cloud import health
from antipode.cloud import site as cloud_site
from antipode.config import SiteConfig, StorageConfig
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.errors import Busy, NotFound, PreflightFailed, SiteUnreachable
from antipode.freezes import reaper
from antipode.model.state import ProtectedVnf
from antipode.operations import site_check
from antipode.vault import generations, points
from antipode.vault.sealing import seal
from tests.unit import samples
from tests.unit.fakecloud import FakeCloud
from tests.unit.storages import MemoryObjects

MAPS = """\
sites:
  site-a: {cloud: a, store: at-b}
  site-b: {cloud: b, store: at-a}
vaults:
  a: {swift: {site: site-a}}
  b: {swift: {site: site-b}}
  third: {swift: {cloud: third}}
stores:
  at-a: {cloud: a-backup, site: site-a}
  at-b: {cloud: b-backup, site: site-b}
"""


CLOUDS = ("a", "b", "third", "a-backup", "b-backup")


class Places:
    """The object storages by cloud, those that are dead, and which were connected to."""

    def __init__(self) -> None:
        self.storages: dict[str, Any] = {name: MemoryObjects() for name in CLOUDS}
        self.dead: set[str] = set()
        self.connected: list[str] = []

    def connect_objects(self, place: str, cloud: str) -> Any:
        self.connected.append(cloud)
        if cloud in self.dead:
            raise SiteUnreachable(f"{place} does not answer")
        return self.storages[cloud]


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    places = Places()
    monkeypatch.setattr(cloud_site, "connect_objects", places.connect_objects)
    return places


@pytest.fixture
def deployment(tmp_path: Path, places: Places) -> Deployment:
    path = tmp_path / "antipode.yaml"
    path.write_text(f"{MAPS}database: sqlite:///{tmp_path}/antipode.db\n")
    return Deployment(config.load(str(path)))


def test_nothing_is_connected_to_before_it_is_asked_for(
    deployment: Deployment, places: Places
) -> None:
    deployment.vaults(["a"]), deployment.vault
    assert places.connected == []
    assert deployment.vaults(["b"]).list("") == []
    assert deployment.vaults(["b"]).list("") == []
    assert places.connected == ["b"]


def test_a_vault_at_a_third_place_needs_object_storage_alone(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a whole site was connected to")

    monkeypatch.setattr(cloud_site, "connect", refuse)
    vault = deployment.vaults(["third"])
    points.commit(vault, samples.point())
    assert points.read(vault, "hlr") == samples.point()


def test_the_vault_at_the_failed_site_is_not_asked(deployment: Deployment, places: Places) -> None:
    vault = deployment.vaults(apart_from=["site-a"])
    assert vault.list("hlr/") == []
    assert sorted(places.connected) == ["b", "third"]


def test_the_only_vault_is_asked_wherever_it_is(deployment: Deployment, places: Places) -> None:
    assert deployment.vaults(["a"], apart_from=["site-a"]).list("hlr/") == []
    assert places.connected == ["a"]


def test_a_vault_that_is_not_in_the_configuration_is_named(deployment: Deployment) -> None:
    with pytest.raises(NotFound, match="fourth"):
        deployment.vaults(["fourth"])


def test_points_are_made_with_all_vaults_and_read_with_those_that_answer(
    deployment: Deployment, places: Places
) -> None:
    sealed = seal(samples.point(), deployment.keys)
    points.write(deployment.vaults(all_needed=True), sealed)
    places.dead.add("a")
    deployment._objects.clear()
    assert points.read(deployment.vaults(), "hlr") == samples.point()
    with pytest.raises(SiteUnreachable):
        points.write(deployment.vaults(all_needed=True), sealed)


def test_connecting_to_a_site_unquiesces_nothing_and_site_check_does(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    unquiesced: list[str] = []
    monkeypatch.setattr(reaper, "thaw", lambda _, server: unquiesced.append(server))
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: samples.NamedSite(name))
    monkeypatch.setattr(health, "check", lambda site: [])
    deployment.freezes.freezing("site-a", "srv-db", "db", -60)
    deployment.site("site-a")
    assert unquiesced == []
    found = list(site_check.check_all(deployment))
    assert unquiesced == ["srv-db"]
    assert [(c.site, c.ok) for c in found if c.check == "quiesced servers"] == [("site-a", True)]


def test_a_site_that_hangs_holds_up_no_other(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, begun = threading.Event(), threading.Event()

    def connect(name: str, cloud: str) -> Any:
        if name == "site-a":
            begun.set()
            over.wait()
        return samples.NamedSite(name)

    monkeypatch.setattr(cloud_site, "connect", connect)
    hanging = threading.Thread(target=deployment.site, args=("site-a",))
    hanging.start()
    try:
        begun.wait()
        assert deployment.site("site-b").name == "site-b"
        assert deployment.vaults(["b"]).list("") == []
    finally:
        over.set()
        hanging.join()


def test_site_check_says_on_the_day_what_a_recovery_would_lack(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(name: str, cloud: str) -> Any:
        raise SiteUnreachable(f"{name} does not answer")

    monkeypatch.setattr(cloud_site, "connect", connect)
    deployment.vnfs.put(samples.vnf())
    missing = PreflightFailed("Recovering hlr", ["there is no flavor small"])
    warned = samples.plan(warnings=["flavor small differs"])
    outcomes: list[tuple[Any, list[tuple[bool, bool, str]]]] = [
        (missing, [(False, True, "no flavor small")]),
        (NotFound("hlr has no recovery point"), [(False, False, "no recovery point")]),
        (warned, [(True, True, "could be recovered"), (False, False, "flavor small differs")]),
    ]
    for outcome, expected in outcomes:

        def prepare(*asked: Any, outcome: Any = outcome) -> Any:
            assert asked[1:3] == ("hlr", "site-b")
            if isinstance(outcome, Exception):
                raise outcome
            return SimpleNamespace(point=samples.point(), plan=outcome)

        monkeypatch.setattr(site_check, "prepare", prepare)
        found = [c for c in site_check.check_all(deployment) if c.check == "recovery of hlr"]
        assert [(c.site, c.ok, c.needed) for c in found] == [
            ("site-b", ok, needed) for ok, needed, _ in expected
        ]
        assert all(words in c.detail for c, (_, _, words) in zip(found, expected, strict=True))


def test_site_check_looks_at_every_vault_store_and_vnf(
    deployment: Deployment, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(name: str, cloud: str) -> Any:
        raise SiteUnreachable(f"{name} does not answer")

    monkeypatch.setattr(cloud_site, "connect", connect)
    places.dead.add("third")
    deployment.vnfs.put(samples.vnf())
    found = {(c.check, c.site): c.ok for c in site_check.check_all(deployment)}
    assert found == {
        ("reachable", "site-a"): False,
        ("reachable", "site-b"): False,
        ("recovery of hlr", "site-b"): False,
        ("vault a", "site-a"): True,
        ("vault b", "site-b"): True,
        ("vault third", "-"): False,
        ("vaults agree", "-"): False,
        ("backup store at-a", "site-a"): True,
        ("backup store at-b", "site-b"): True,
        ("places of hlr", "site-a"): True,
        ("keys", "-"): True,
        ("recovery kit", "-"): False,
    }


def test_site_check_looks_at_each_storage_at_each_site(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = {"commands": {v: ["/nowhere/command"] for v in ("status", "reference")}}
    sites: dict[str, dict[str, Any]] = {"site-a": command, "site-b": {"commands": {}}}
    storages = {"pg": StorageConfig(driver="command", sites=sites)}
    config = deployment.config.model_copy(update={"storages": storages})
    monkeypatch.setattr(deployment, "config", config)
    found = {
        c.site: (c.ok, c.detail)
        for c in site_check.check_all(deployment)
        if c.check == "storage pg"
    }
    assert not found["site-a"][0] and "/nowhere/command" in found["site-a"][1]
    assert not found["site-b"][0] and "status" in found["site-b"][1]


def test_site_check_says_whether_changes_of_each_pool_can_be_read(
    deployment: Deployment,
) -> None:
    pools = [
        {"host": "a@rbd#rbd", "command": ["true"]},
        {"host": "b@rbd#rbd", "command": ["false"]},
        {"host": "c@rbd#rbd", "command": ["/nowhere/rbd"]},
    ]
    site = SiteConfig.model_validate({"cloud": "a", "changes": pools})
    config = deployment.config.model_copy(update={"sites": {"site-a": site}})
    changed = cast(Any, SimpleNamespace(config=config))
    found = [(c.ok, c.needed) for c in site_check._check_changes(changed, "site-a")]
    assert found == [(True, False), (False, False), (False, False)]


def test_site_check_asks_for_what_change_streams_need_where_they_are_wanted(
    deployment: Deployment,
) -> None:
    site = cast(Any, SimpleNamespace(name="site-a"))
    for transfer, wanted in (("change_stream", True), ("cinder_backup", False)):
        vnf = samples.vnf(protections=[{"option": "quiesced-snapshot", "transfer": transfer}])
        p = site_check._protecting(deployment, site, vnf, vnf.protections[0], asks_guests=False)
        assert (p.streams, p.store is not None) == (wanted, wanted)


def moved(deployment: Deployment) -> ProtectedVnf:
    """The state after a failover that did not reach the vaults of a site."""
    vault = deployment.vaults(apart_from=["site-a"])
    before = generations.present(vault, "hlr", "site-a")
    generations.complete(vault, generations.claim(vault, before, "site-b", "failover-1"))
    return generations.present(vault, "hlr", "site-a")


def test_a_state_is_kept_and_an_earlier_one_does_not_replace_it(deployment: Deployment) -> None:
    assert deployment.states.find("hlr") is None
    before = ProtectedVnf(vnf="hlr", active_site="site-a", generation=1)
    assert deployment.states.keep(before) == before
    after = moved(deployment)
    assert deployment.states.keep(after) == after
    assert deployment.states.keep(before) == after
    assert deployment.states.find("hlr") == after
    assert deployment.states.all() == {"hlr": after}
    deployment.states.forget("hlr")
    assert deployment.states.find("hlr") is None


def test_before_a_failover_the_vault_of_the_active_site_is_not_asked(
    deployment: Deployment, places: Places
) -> None:
    deployment.vnfs.put(samples.vnf())
    points.commit(deployment.vaults(["b", "third"]), samples.point())
    state, vaults = activity.before_failover(deployment, "hlr", "site-b")
    assert state.active_site == "site-a"
    generations.complete(vaults, generations.claim(vaults, state, "site-b", "failover-1"))
    assert "a" not in places.connected


def test_a_host_that_has_never_heard_of_a_vnf_knows_where_it_is_active_from_the_vaults(
    deployment: Deployment, places: Places
) -> None:
    points.commit(deployment.vaults(["b", "third"]), samples.point())
    places.connected.clear()
    assert activity.before_failover(deployment, "hlr", "site-b").state.active_site == "site-a"
    assert "a" not in places.connected
    moved(deployment)
    assert activity.before_failover(deployment, "hlr", "site-a").state.active_site == "site-b"


def test_a_host_that_has_never_heard_of_a_failover_refuses_to_protect_the_old_copy(
    deployment: Deployment,
) -> None:
    after = moved(deployment)
    state = activity.read(deployment, samples.vnf())
    activity.must_be_active_at(state, "site-b")
    with pytest.raises(Busy) as caught:
        activity.must_be_active_at(state, "site-a")
    assert "site-b" in str(caught.value)
    assert str(after.since) in str(caught.value)


def test_a_vault_that_the_file_does_not_name_any_more_still_tells_where_the_vnf_is_active(
    deployment: Deployment, places: Places
) -> None:
    renamed = samples.vnf(vaults=["b"])
    third = deployment.vaults(["third"])
    before = generations.present(third, "hlr", "site-a")
    generations.complete(third, generations.claim(third, before, "site-b", "failover-1"))
    state = activity.read(deployment, renamed)
    assert (state.active_site, state.generation) == ("site-b", 2)
    with pytest.raises(Busy):
        activity.must_be_active_at(state, "site-a")


def test_a_vault_that_the_file_does_not_name_may_be_dead(
    deployment: Deployment, places: Places
) -> None:
    places.dead |= {"a", "third"}
    assert activity.read(deployment, samples.vnf(vaults=["b"])).active_site == "site-a"


def test_a_vnf_that_is_failing_over_is_protected_nowhere(deployment: Deployment) -> None:
    vault = deployment.vaults()
    before = generations.present(vault, "hlr", "site-a")
    generations.claim(vault, before, "site-b", "failover-1")
    for site in ("site-a", "site-b"):
        with pytest.raises(Busy):
            activity.must_be_active_at(activity.read(deployment, samples.vnf()), site)


def test_a_generation_that_only_the_failed_sites_vault_has_is_known_here_and_counts(
    deployment: Deployment, places: Places
) -> None:
    deployment.vnfs.put(samples.vnf())
    vault = deployment.vaults(["b"])
    before = generations.present(vault, "hlr", "site-a")
    generations.complete(vault, generations.claim(vault, before, "site-b", "failover-1"))
    activity.read(deployment, samples.vnf())
    places.dead.add("b")
    deployment._objects.clear()
    state, vaults = activity.before_failover(deployment, "hlr", "site-a")
    assert (state.active_site, state.generation) == ("site-b", 2)
    mine = generations.claim(vaults, state, "site-a", "failover-2")
    assert mine.generation == 3
    assert generations.present(vaults, "hlr", "site-a").active_site == "site-b"


def test_a_site_knows_whether_its_snapshots_count_gigabytes(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: FakeCloud(name).site)
    assert deployment.site("site-a").snapshots_count_gigabytes
    path = tmp_path / "other.yaml"
    sites = MAPS.replace("cloud: a,", "cloud: a, snapshots_count_gigabytes: false,")
    path.write_text(f"{sites}database: sqlite:///{tmp_path}/other.db\n")
    other = Deployment(config.load(str(path)))
    assert not other.site("site-a").snapshots_count_gigabytes
    assert other.site("site-b").snapshots_count_gigabytes

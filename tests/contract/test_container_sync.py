# SPDX-License-Identifier: Apache-2.0
"""Swift's container sync between two sites, as the driver `swift` of datastores uses it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from antipode.cloud.objects import Objects, Refused
from antipode.cloud.site import Site
from antipode.datastores.application import Data
from antipode.datastores.swift import FOLLOWS, KEY, ROLE, TO, BySwift, Settings
from antipode.datastores.swift_marker import NAME
from antipode.errors import NotFound
from antipode.model.datastore import Health
from tests.contract.conftest import BACKUP, PRIMARY, until


@dataclass(frozen=True)
class Pair:
    """A container at both sites, of which the second is to follow the first."""

    name: str
    a: Objects
    b: Objects
    here: BySwift
    there: BySwift
    data: Data

    def begin(self) -> str:
        """Have it followed; a position that has arrived."""
        self.here.create(self.data)
        self.follow(self.here, self.there)
        return self.arrived(self.here, self.there)

    def follow(self, original: BySwift, copy: BySwift) -> None:
        copy.resync(self.data, original.reference(self.data))
        original.feed(self.data, copy.reference(self.data))

    def arrived(self, original: BySwift, copy: BySwift) -> str:
        position = original.point(self.data, 10)

        def has_arrived() -> bool:
            return copy.has_reached(self.data, original.vouched(self.data, position))

        until(has_arrived, "a position arrives")
        return position

    def health(self, at: BySwift) -> Health:
        return at.status(self.data).health


@pytest.fixture
def pair(site: Site, other_site: Site, prefix: str, tmp_path: Path) -> Iterator[Pair]:
    if not site.objects.clusters():
        pytest.skip("the sites have no container sync: lab up --with replication")
    name = f"{prefix}-synced"
    secret = tmp_path / "secret"
    secret.write_text("contract " * 4)
    secret.chmod(0o600)
    here, there = (
        BySwift("media", at, Settings(cloud=at, containers=[name], secret=secret))
        for at in (PRIMARY, BACKUP)
    )
    yield Pair(name, site.objects, other_site.objects, here, there, Data("v", "media"))
    for objects in (site.objects, other_site.objects):
        try:
            objects.describe(name, {TO: "", KEY: ""})
        except NotFound:
            continue

        def is_gone(objects: Objects = objects) -> bool:
            for item in objects.listing(name):
                objects.delete(name, item.name)
            try:
                objects._send("DELETE", name)
            except Refused as error:
                assert error.status == 409, error  # a late object of the other site
                return False
            return True

        until(is_gone, "the container is gone")


def test_each_site_says_which_cluster_it_is(pair: Pair) -> None:
    for objects, name in ((pair.a, "SITE-A"), (pair.b, "SITE-B")):
        clusters = objects.clusters()
        assert [c.name for c, is_this in clusters.items() if is_this] == [name]
        assert {c.name for c in clusters} == {"SITE-A", "SITE-B"}


def test_objects_arrive_as_they_are_with_their_times(pair: Pair) -> None:
    pair.begin()
    pair.a.put(pair.name, "one/a b", b"first")
    pair.a.put(pair.name, "two", b"second")
    pair.arrived(pair.here, pair.there)
    there = {o.name: o for o in pair.b.listing(pair.name)}
    here = {o.name: o for o in pair.a.listing(pair.name)}
    assert {n: o for n, o in there.items() if n != NAME} == {
        n: o for n, o in here.items() if n != NAME
    }
    assert pair.b.get(pair.name, "one/a b") == b"first"
    assert pair.b.changed_at(pair.name, "two") == pair.a.changed_at(pair.name, "two")


def test_overwritten_and_deleted_objects_arrive(pair: Pair) -> None:
    pair.begin()
    pair.a.put(pair.name, "kept", b"first")
    pair.a.put(pair.name, "gone", b"first")
    pair.arrived(pair.here, pair.there)
    pair.a.put(pair.name, "kept", b"second")
    pair.a.delete(pair.name, "gone")
    pair.arrived(pair.here, pair.there)
    assert pair.b.get(pair.name, "kept") == b"second"
    assert [o.name for o in pair.b.listing(pair.name)] == [NAME, "kept"]


def test_what_was_there_before_is_sent_as_well(pair: Pair) -> None:
    pair.here.create(pair.data)
    pair.a.put(pair.name, "old", b"old")
    pair.begin()
    assert pair.b.get(pair.name, "old") == b"old"


def test_a_container_is_not_sent_to_a_cluster_that_is_not_known(pair: Pair) -> None:
    pair.here.create(pair.data)
    account = pair.there.reference(pair.data).rpartition("/")[2]
    with pytest.raises(Refused) as raised:
        pair.a.describe(pair.name, {TO: f"//antipode/nowhere/{account}/{pair.name}", KEY: "k"})
    assert raised.value.status == 400


def test_only_the_project_sees_where_a_container_is_sent(pair: Pair) -> None:
    pair.begin()
    found = pair.a.properties(pair.name)
    assert found[TO] == f"{pair.there.reference(pair.data)}/{pair.name}"
    assert found[KEY] == pair.b.properties(pair.name)[KEY]
    assert pair.b.properties(pair.name)[ROLE] == FOLLOWS + pair.here.reference(pair.data)


def test_a_key_that_is_wrong_at_the_copy_is_accepted_and_nothing_arrives(pair: Pair) -> None:
    position = pair.begin()
    pair.b.describe(pair.name, {KEY: "another"})
    pair.a.put(pair.name, "lost", b"lost")  # 201
    later = pair.here.vouched(pair.data, pair.here.point(pair.data, 10))
    assert pair.health(pair.there) is Health.BROKEN
    assert pair.there.status(pair.data, position).reached
    assert not pair.there.has_reached(pair.data, later)
    pair.follow(pair.here, pair.there)
    pair.arrived(pair.here, pair.there)
    assert pair.b.get(pair.name, "lost") == b"lost"


def test_a_key_that_is_wrong_at_the_original_is_seen_by_the_marker(pair: Pair) -> None:
    pair.begin()
    pair.a.describe(pair.name, {KEY: "another"})
    pair.a.put(pair.name, "lost", b"lost")
    later = pair.here.vouched(pair.data, pair.here.point(pair.data, 10))
    assert not pair.there.has_reached(pair.data, later)
    with pytest.raises(NotFound):
        pair.b.get(pair.name, "lost")
    pair.follow(pair.here, pair.there)
    pair.arrived(pair.here, pair.there)


def test_a_promoted_copy_takes_nothing_any_more_and_the_other_way_round_it_gives(
    pair: Pair,
) -> None:
    position = pair.begin()
    pair.there.promote(pair.data, position)
    found = pair.there.status(pair.data, position)
    assert (found.health, found.reached) == (Health.WRITABLE, True)
    pair.a.put(pair.name, "late", b"late")
    late = pair.here.point(pair.data, 10)
    pair.b.put(pair.name, "new", b"new")
    assert not pair.there.status(pair.data, late).reached
    # failback: the same headers in the other direction
    pair.a.delete(pair.name, "late")
    pair.follow(pair.there, pair.here)
    back = pair.arrived(pair.there, pair.here)
    assert pair.a.get(pair.name, "new") == b"new"
    assert "late" not in [o.name for o in pair.b.listing(pair.name)]
    assert pair.health(pair.here) is Health.REPLICATING
    assert not pair.here.status(pair.data, late).reached
    pair.there.demote(pair.data)
    pair.here.promote(pair.data, back)
    assert (pair.health(pair.there), pair.health(pair.here)) == (
        Health.STOPPED,
        Health.WRITABLE,
    )


def test_what_was_written_at_the_copy_keeps_a_position_from_being_reached(pair: Pair) -> None:
    pair.begin()
    pair.b.put(pair.name, "stray", b"stray")
    later = pair.here.vouched(pair.data, pair.here.point(pair.data, 10))
    until(lambda: "stray" in pair.there.status(pair.data).detail, "the list arrives")
    assert pair.there.status(pair.data, later).reached
    assert not pair.there.has_reached(pair.data, later)
    pair.b.delete(pair.name, "stray")
    pair.arrived(pair.here, pair.there)


def test_what_antipode_has_made_is_removed_and_the_objects_stay(pair: Pair) -> None:
    pair.begin()
    pair.a.put(pair.name, "kept", b"kept")
    pair.arrived(pair.here, pair.there)
    for driver, objects in ((pair.here, pair.a), (pair.there, pair.b)):
        driver.remove(pair.data)
        assert not {TO, KEY, ROLE} & {n for n, v in objects.properties(pair.name).items() if v}
        assert [o.name for o in objects.listing(pair.name)] == ["kept"]

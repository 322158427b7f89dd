# SPDX-License-Identifier: Apache-2.0
"""Data that is made to follow the active site, at two backup sites and in several datastores."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from antipode.datastores import STORAGES
from antipode.datastores.application import Application, Data, taken_twice
from antipode.datastores.swift import BySwift
from antipode.errors import AntipodeError, InvalidInput, ResourceFailed, SiteUnreachable
from antipode.model.base import Model
from antipode.model.datastore import Health, Standing, StorageAt, Verb
from antipode.model.vnf import Vnf
from antipode.runs.replicating import Replicating
from tests.unit import samples

SITES = ("site-a", "site-b", "site-c")


class Nothing(Model):
    """No settings."""


class Toy(Application):
    """Data that is written at site-a and follows at none."""

    settings = Nothing
    verbs = frozenset(Verb)
    silent: ClassVar[set[str]] = set()
    calls: ClassVar[list[str]] = []

    def problems(self) -> Iterator[str]:
        return iter(())

    def status(self, data: Data, position: str | None = None) -> Standing:
        if self.site in self.silent:
            raise SiteUnreachable(f"{self.site} does not answer")
        is_original = self.site == "site-a"
        return Standing(health=Health.WRITABLE if is_original else Health.ABSENT)

    def reference(self, data: Data) -> str:
        return self.site

    def point(self, data: Data, within_s: float) -> str:
        return "1"

    def promote(self, data: Data, position: str | None = None) -> None:
        self.calls.append(f"promote {self.site}")

    def demote(self, data: Data) -> str | None:
        self.calls.append(f"demote {self.site}")
        return None

    def resync(self, data: Data, origin: str) -> None:
        self.calls.append(f"resync {self.site}")


class OneSet(Toy):
    is_one_set = True
    most_copies = 1


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    Toy.silent, Toy.calls = set(), []
    with STORAGES.registered("toy", Toy), STORAGES.registered("one-set", OneSet):
        yield


def of(driver: str, *names: str, sites: tuple[str, ...] = SITES) -> Any:
    """A deployment, and a VNF whose datastores are on one storage at these sites."""
    there = {"data": StorageAt("data", driver, {})}
    deployment = SimpleNamespace(
        config=SimpleNamespace(storages={"data": SimpleNamespace(sites=dict.fromkeys(sites))}),
        storages_at=lambda site: there,
    )
    stores = {name: {"storage": "data", "kind": "application"} for name in names}
    fields = samples.vnf().model_dump(mode="json") | {"datastores": stores}
    fields |= {"primary": "site-a", "backup": ["site-b", "site-c"]}
    return deployment, Vnf.model_validate(fields), there


def begin(driver: str, *names: str, sites: tuple[str, ...] = SITES) -> None:
    deployment, vnf, _ = of(driver, *names, sites=sites)
    Replicating(deployment, vnf, "site-a", samples.topology(), lambda what: None).begin()


def test_data_is_made_to_follow_at_each_backup_site() -> None:
    begin("toy", "records")
    assert Toy.calls == ["resync site-b", "resync site-c"]


@pytest.mark.parametrize("silent", ["site-b", "site-c"])
def test_a_backup_site_that_is_silent_keeps_no_other_from_following(silent: str) -> None:
    Toy.silent = {silent}
    with pytest.raises(SiteUnreachable):
        begin("toy", "records")
    assert Toy.calls == [f"resync {({'site-b', 'site-c'} - {silent}).pop()}"]


def test_all_that_does_not_follow_is_named() -> None:
    Toy.silent = {"site-b", "site-c"}
    with pytest.raises(ResourceFailed) as caught:
        begin("toy", "records")
    assert all(site in str(caught.value) for site in Toy.silent)


def test_a_storage_with_one_copy_is_not_begun_for_two() -> None:
    with pytest.raises(InvalidInput):
        begin("one-set", "records")
    assert Toy.calls == []
    begin("one-set", "records", sites=("site-a", "site-b"))
    assert Toy.calls == ["resync site-b"]


def test_two_datastores_are_not_the_same_data() -> None:
    with pytest.raises(InvalidInput):
        begin("one-set", "records", "log", sites=("site-a", "site-b"))
    assert Toy.calls == []
    begin("toy", "records", "log", sites=("site-a", "site-b"))
    assert Toy.calls == ["resync site-b"] * 2


def test_datastores_on_one_set_of_data_are_named_once_for_a_storage() -> None:
    _, vnf, there = of("one-set", "records", "log", "cdr")
    (problem,) = taken_twice(vnf, there, "site-a")
    assert all(name in problem for name in ("records", "log", "cdr"))
    assert not list(taken_twice(of("toy", "records", "log")[1], of("toy", "x")[2], "site-a"))


def test_containers_of_swift_are_one_set_with_one_copy() -> None:
    assert (BySwift.is_one_set, BySwift.most_copies) == (True, 1)


def test_a_storage_that_cannot_be_opened_is_an_error() -> None:
    _, vnf, _ = of("toy", "records", "log")
    with pytest.raises(AntipodeError):
        list(taken_twice(vnf, {}, "site-a"))

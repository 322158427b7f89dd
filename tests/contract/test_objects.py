# SPDX-License-Identifier: Apache-2.0
"""Swift, as a vault and its verification call it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from antipode.cloud.objects import Objects
from antipode.cloud.site import Site, connect_objects
from antipode.errors import NotFound
from tests.contract.conftest import BACKUP


@pytest.fixture
def container(other_site: Site, prefix: str) -> Iterator[str]:
    other_site.objects.ensure_container(prefix)
    yield prefix
    for item in other_site.objects.listing(prefix):
        other_site.objects.delete(prefix, item.name)
    other_site.objects._send("DELETE", prefix)


@pytest.fixture
def objects(other_site: Site) -> Objects:
    return other_site.objects


@pytest.mark.core
def test_what_is_put_is_there_to_be_read(objects: Objects, container: str) -> None:
    objects.put(container, "vnf/point 1.json", b'{"a": "\xc3\xa4"}')
    assert objects.get(container, "vnf/point 1.json") == b'{"a": "\xc3\xa4"}'


@pytest.mark.parametrize(("size", "at_most"), [(0, 1), (10, 4), (10, 10), (10, 11), (3 << 20, 9)])
def test_of_a_large_object_only_the_beginning_is_read(
    objects: Objects, container: str, size: int, at_most: int
) -> None:
    content = bytes(i % 251 for i in range(size))
    objects.put(container, "name", content)
    assert objects.get(container, "name", at_most) == content[:at_most]
    assert objects.get(container, "name") == content


def test_a_second_put_replaces_the_first(objects: Objects, container: str) -> None:
    objects.put(container, "name", b"one")
    objects.put(container, "name", b"the other")
    assert objects.get(container, "name") == b"the other"


@pytest.mark.core
def test_what_is_there_is_not_created_again(objects: Objects, container: str) -> None:
    assert objects.create(container, "claim/1", b"one")
    assert not objects.create(container, "claim/1", b"the other")
    assert objects.get(container, "claim/1") == b"one"
    objects.delete(container, "claim/1")
    assert objects.create(container, "claim/1", b"the other")
    assert objects.get(container, "claim/1") == b"the other"


def test_nothing_is_created_where_there_is_no_container(objects: Objects) -> None:
    with pytest.raises(NotFound):
        objects.create("no-such-container-as-this", "name", b"")


@pytest.mark.core
def test_object_storage_is_reached_by_itself(clouds: Path, container: str) -> None:
    alone = connect_objects(BACKUP, BACKUP)
    alone.put(container, "name", b"one")
    assert alone.get(container, "name") == b"one"


@pytest.mark.core
def test_a_listing_is_sorted_and_tells_size_and_md5(objects: Objects, container: str) -> None:
    for name in ("b/2", "a/1", "b/1", "c"):
        objects.put(container, name, name.encode())
    listed = objects.listing(container)
    assert [o.name for o in listed] == ["a/1", "b/1", "b/2", "c"]
    assert [o.name for o in objects.listing(container, "b/")] == ["b/1", "b/2"]
    assert (listed[0].bytes, listed[0].etag) == (3, hashlib.md5(b"a/1").hexdigest())


def test_a_container_may_be_made_twice(objects: Objects, container: str) -> None:
    objects.put(container, "kept", b"here")
    objects.ensure_container(container)
    assert objects.get(container, "kept") == b"here"


@pytest.mark.core
def test_what_is_not_there_is_not_found_and_deleted_without_complaint(
    objects: Objects, container: str
) -> None:
    with pytest.raises(NotFound):
        objects.get(container, "nothing")
    with pytest.raises(NotFound):
        objects.listing("no-such-container-as-this")
    with pytest.raises(NotFound):
        objects.put("no-such-container-as-this", "name", b"")
    objects.delete(container, "nothing")


def test_what_is_deleted_is_gone(objects: Objects, container: str) -> None:
    objects.put(container, "name", b"one")
    objects.delete(container, "name")
    with pytest.raises(NotFound):
        objects.get(container, "name")
    assert "name" not in [o.name for o in objects.listing(container)]


def test_an_empty_object_is_an_object(objects: Objects, container: str) -> None:
    objects.put(container, "empty", b"")
    assert objects.get(container, "empty") == b""
    assert [(o.name, o.bytes) for o in objects.listing(container)] == [("empty", 0)]

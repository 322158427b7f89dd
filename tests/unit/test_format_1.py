# SPDX-License-Identifier: Apache-2.0
"""Documents of format 1: those of antipode 0.1 are recovered from, and bad ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antipode.errors import VaultCorrupt
from antipode.model.point_v1 import canonical, unseal
from antipode.model.source import BackupChain
from antipode.recover.plan import make_plan
from tests.unit import samples
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_recovery import recover

OF_0_1 = (Path(__file__).parent / "data" / "format-1.json").read_bytes()
"""A recovery point that antipode 0.1.0 wrote: three members, two volumes each, one increment."""
Json = dict[str, Any]


def resealed(body: Json) -> bytes:
    """A document whose checksum is right, whatever is in it."""
    import hashlib

    sealed = {"manifest": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}
    return json.dumps(sealed).encode()


def body_of(document: bytes) -> Json:
    body: Json = json.loads(document)["manifest"]
    return body


def test_a_point_of_antipode_0_1_is_recovered() -> None:
    point, checksum = unseal(OF_0_1, "old")
    assert checksum == json.loads(OF_0_1)["sha256"]
    assert point.generation == 1
    assert point.incremental
    assert point.vnf.protections[0].settings == {"quiesce": {"timeout": 12.0}}
    there = FakeCloud("site-b", empty=True)
    there.networks = [{"id": "net-2", "name": "net-b"}]
    there.subnets = [{"id": "sub", "name": "s", "network_id": "net-2", "cidr": "10.0.0.0/24"}]
    there.types = [{"id": "type-2", "name": "standard"}]
    plan = make_plan(point, there.site)
    for server in ("db", "app", "front"):
        recover(there, point, plan, server)
    assert sorted(s["name"] for s in there.servers.values()) == ["app", "db", "front"]
    restored = {v["name"]: v["backup_id"] for v in there.volumes.values()}
    assert restored["db-root"] == point.chain("db-root")[-1].id


def swapped(body: Json) -> None:
    restore = body["restore"]
    one, other = list(restore)[:2]
    restore[one], restore[other] = restore[other], restore[one]


def cycle(body: Json) -> None:
    base = next(b for b in body["backups"].values() if b["parent_id"] is None)
    base["parent_id"] = next(i for i, b in body["backups"].items() if b["parent_id"] == base["id"])


def lost_parent(body: Json) -> None:
    del body["backups"][next(i for i, b in body["backups"].items() if b["parent_id"] is None)]


def lost_volume(body: Json) -> None:
    del body["restore"][next(iter(body["restore"]))]


def lost_server(body: Json) -> None:
    del body["topology"]["servers"][0]


def doubled_server(body: Json) -> None:
    body["topology"]["servers"][1] = body["topology"]["servers"][0]


def other_vnf(body: Json) -> None:
    body["topology"]["vnf"] = "another"


def idle_record(body: Json) -> None:
    record = next(iter(body["backups"].values()))
    body["backups"]["idle"] = {**record, "id": "idle"}


def no_zone(body: Json) -> None:
    body["consistent_at"] = "2026-11-01T00:00:00"


def junk_address(body: Json) -> None:
    body["topology"]["servers"][0]["ports"][0]["fixed"][0]["address"] = "10.0.0.x"


def outside_name(body: Json) -> None:
    body["id"] = "../x"


def newer(body: Json) -> None:
    body["format"] = 99


@pytest.mark.parametrize(
    "change",
    [
        swapped,
        cycle,
        lost_parent,
        lost_volume,
        lost_server,
        doubled_server,
        other_vnf,
        idle_record,
        no_zone,
        junk_address,
        outside_name,
        newer,
    ],
)
def test_a_document_whose_parts_do_not_fit_is_refused_on_reading(change: Any) -> None:
    body = body_of(OF_0_1)
    change(body)
    with pytest.raises(VaultCorrupt):
        unseal(resealed(body), "p")


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"null",
        b'{"manifest": [], "sha256": ""}',
        b'{"manifest": {"format": 1}, "sha256": "x"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        "\ud800".encode("utf-8", "surrogatepass"),
        b"\xff\xfe",
    ],
)
def test_a_document_that_is_no_point_is_refused(document: bytes) -> None:
    with pytest.raises(VaultCorrupt):
        unseal(document, "p")


PLACES = samples.places(body_of(OF_0_1))[1:]
JUNK: Any = st.sampled_from(
    [None, [], {}, "", "\ud800", 0, -1, 1e308, True, [[]], {"id": {}}, "x" * 99]
)


@settings(max_examples=150)
@given(st.sampled_from(PLACES), JUNK)
def test_whatever_is_put_anywhere_into_a_document_gives_a_point_or_is_refused(
    place: tuple[Any, ...], junk: Any
) -> None:
    body = body_of(OF_0_1)
    holder = body
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = junk
    try:
        document = resealed(body)
    except UnicodeEncodeError:
        return  # such a document cannot be written
    try:
        point, _ = unseal(document, "p")
    except VaultCorrupt:
        return
    assert all(isinstance(s, BackupChain) and s.backups for s in point.sources.values())


def test_an_address_with_a_scope_is_refused() -> None:
    body = body_of(OF_0_1)
    body["topology"]["servers"][0]["ports"][0]["fixed"][0]["address"] = "fe80::1%;reboot"
    with pytest.raises(VaultCorrupt):
        unseal(resealed(body), "p")

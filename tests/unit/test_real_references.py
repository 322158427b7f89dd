# SPDX-License-Identifier: Apache-2.0
"""What the storage really calls a volume is found for each driver, kept without secrets, and its
counterpart is refused unless it is for certain the replica.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from antipode.cloud.api import Api, ApiError
from antipode.cloud.site import Site
from antipode.errors import CounterpartRefused, NoCounterpart
from antipode.model import point_v2
from antipode.model.reference import BackendReference
from antipode.model.vnf import Member, Vnf
from antipode.recover.counterparts import BackEnd, counterpart
from antipode.topology.discovery import discover
from tests.unit import samples
from tests.unit.fakecloud import NAME_ID, SECRET, FakeCloud, refuse

Json = dict[str, Any]
REAL = "5a7e0c1e-8d1c-4c65-9f0b-2e7a3d1b9c44"
HOST = "host@rbd#pool"
VNF = Vnf(vnf="v", primary="site-a", backup=["site-b"], members=[Member(server="db")])


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


def reference(cloud: FakeCloud) -> BackendReference:
    """That of the data volume of `db`."""
    server = discover(VNF, cloud.site).server("db")
    (volume,) = [v for v in server.volumes if v.id == "db-data"]
    assert volume.backend is not None
    return volume.backend


# ---- what is found ----


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ({"driver_volume_type": "rbd", "name": f"volumes/volume-{REAL}"}, f"volume-{REAL}"),
        ({"driver_volume_type": "rbd", "name": "volumes/space/any"}, "any"),
        (
            {"driver_volume_type": "nfs", "export": "h:/x", "name": f"volume-{REAL}"},
            f"volume-{REAL}",
        ),
        (
            {
                "driver_volume_type": "iscsi",
                "target_iqn": f"iqn.2010-10.org.openstack:volume-{REAL}",
                "target_lun": 1,
            },
            f"volume-{REAL}",
        ),
        ({"driver_volume_type": "scaleio", "scaleIO_volname": "Wn5+"}, "Wn5+"),
        (
            {
                "driver_volume_type": "iscsi",
                "target_iqn": "iqn.2010-06.com.purestorage:flasharray.1",
                "target_lun": 7,
            },
            None,
        ),
        (
            {"driver_volume_type": "fibre_channel", "target_wwn": ["50", "51"], "target_lun": 0},
            None,
        ),
    ],
)
def test_a_connection_tells_the_real_name_where_the_driver_has_it_there(
    cloud: FakeCloud, info: Json, name: str | None
) -> None:
    cloud.connections["db-data"] = info
    found = reference(cloud)
    assert (found.name, found.driver_volume_type) == (name, info["driver_volume_type"])
    assert found.connection
    assert (found.host, found.location) == (HOST, "ceph:site-a")
    assert bool(found.missing) == (name is None)


def test_a_back_end_is_listed_only_for_volumes_whose_connection_has_no_name(
    cloud: FakeCloud,
) -> None:
    assert reference(cloud).name == "volume-db-data"
    assert sorted(cloud.asked) == ["attachments", "scheduler-stats"]
    cloud.asked.clear()
    cloud.connections["db-data"] = {"driver_volume_type": "fibre_channel", "target_lun": 3}
    cloud.manageable = [row("OS-1", cinder_id="db-data"), row("OS-2")]
    assert reference(cloud).name == "OS-1"
    assert cloud.asked.count("manageable_volumes") == 2  # a page, and its end


def test_the_calls_do_not_grow_with_the_servers(cloud: FakeCloud) -> None:
    members = [Member(server=s) for s in ("db", "app", "front")]
    discover(VNF.model_copy(update={"members": members}), cloud.site)
    assert sorted(cloud.asked) == ["attachments", "scheduler-stats"]


def test_a_volume_that_was_migrated_is_known_by_its_connection_and_its_name_id(
    cloud: FakeCloud,
) -> None:
    cloud.volumes["db-data"][NAME_ID] = REAL
    cloud.connections["db-data"] = {"driver_volume_type": "rbd", "name": f"volumes/volume-{REAL}"}
    found = reference(cloud)
    assert (found.name, found.name_id) == (f"volume-{REAL}", REAL)
    assert str(found) == f"{HOST}/volume-{REAL}"


def test_a_user_who_is_no_administrator_has_the_name_and_is_shown_what_is_missing(
    cloud: FakeCloud,
) -> None:
    cloud.is_admin = False
    found = reference(cloud)
    assert (found.name, found.host, found.location) == ("volume-db-data", None, None)
    assert "administrators" in " ".join(found.missing)


def test_what_is_refused_is_missing_and_hinders_no_discovery(cloud: FakeCloud) -> None:
    cloud.is_admin = False
    cloud.connections["db-data"] = None
    found = reference(cloud)
    assert (found.name, found.connection) == (None, {})
    assert len(found.missing) == 3
    assert str(found) == "unknown"


def test_of_two_connections_that_of_the_attachment_counts(cloud: FakeCloud) -> None:
    """While a server moves to another host, and where several share a volume."""
    (data,) = [a for a in cloud.attachments["id-db"] if a["volumeId"] == "db-data"]
    cloud.attachments["id-app"].append({**data, "device": "/dev/vdc"})
    data["attachment_id"] = "id-db-db-data"
    connections = cloud._connections
    cloud._connections = lambda: [  # type: ignore[method-assign]
        {**c, "connection_info": {"driver_volume_type": "rbd", "name": f"p/{c['id']}"}}
        for c in reversed(connections())
    ]
    assert reference(cloud).name == "id-db-db-data"


# ---- secrets ----


def test_no_secret_of_a_connection_is_in_a_recovery_point(cloud: FakeCloud) -> None:
    info = {
        "driver_volume_type": "iscsi",
        "target_iqn": f"iqn.2010-10.org.openstack:volume-{REAL}",
        "target_lun": 1,
        "auth_method": "CHAP",
        "auth_username": SECRET,
        "auth_password": SECRET,
        "discovery_auth_password": SECRET,
        "encrypted": SECRET,
        "options": f"-o password={SECRET}",
        "a_key_of_a_driver_to_come": SECRET,
        "name": {"nested": SECRET},
    }
    cloud.connections["db-data"] = info
    topology = discover(VNF, cloud.site)
    assert SECRET not in topology.model_dump_json()
    assert SECRET not in repr(topology)


# ---- the recovery point ----


def test_a_point_keeps_the_reference_and_old_readers_need_not_know_it(cloud: FakeCloud) -> None:
    there = reference(cloud)
    base = samples.point()
    servers = list(base.topology.servers)
    attachment = servers[0].attachments[0]
    volume = attachment.volume.model_copy(update={"backend": there})
    servers[0] = servers[0].model_copy(
        update={"attachments": [attachment.model_copy(update={"volume": volume})]}
    )
    topology = base.topology.model_copy(update={"servers": servers})
    point = base.model_copy(update={"topology": topology})
    chains = {v: point_v2.Sealed(backup="b", sha256="0" * 64) for v in point.sources}
    manifest = point_v2.manifest_of(point, chains, "")
    assert not [name for name in manifest.requires if "ackend" in name]
    records = {v: [_record(r) for r in point.chain(v)] for v in point.sources}
    again = point_v2.point_of(manifest, records, None)
    assert again.topology.volumes[0].backend == there
    document = json.loads(point_v2.dumped(manifest))
    for server in document["found"]["servers"]:
        for attached in server["attachments"]:
            del attached["volume"]["backend"]
    older = point_v2.read_manifest(json.dumps(document).encode(), "p")
    assert point_v2.point_of(older, records, None).topology.volumes[0].backend is None


def _record(record: Any) -> point_v2.Record:
    return point_v2.Record.model_validate(record.model_dump(mode="json"))


def with_cinder(cloud: FakeCloud, answer: Any) -> Site:
    """The same site with another Cinder."""
    return Site(
        cloud.site.name,
        project_id="p",
        user_id="u",
        roles=["admin"],
        compute=cloud.site.compute._api,
        volume=Api(cloud.site.name, "block-storage", cloud._transport(answer), (3, 70)),
        network=cloud.site.networks._api,
    )


# ---- the counterpart ----


def row(name: str, **changes: Any) -> Json:
    usual: Json = {
        "reference": {"source-name": name},
        "size": 1,
        "safe_to_manage": True,
        "reason_not_safe": None,
        "cinder_id": None,
        "extra_info": None,
    }
    return {**usual, **changes}


WANTED = BackendReference(name=f"volume-{REAL}", host="cinder-a@rbd1#rbd1", location="ceph:site-a")


@pytest.fixture
def backup() -> FakeCloud:
    """The site where a counterpart is looked for."""
    there = FakeCloud("site-b", empty=True)
    there.manageable = [row("volume-other"), row(f"volume-{REAL}")]
    return there


def found(backup: FakeCloud, wanted: BackendReference = WANTED, size_gib: int = 1) -> Any:
    site: Site = backup.site
    return counterpart(site, HOST, wanted, size_gib)


def owner(backup: FakeCloud, **changes: Any) -> None:
    backup.add_server("other", 0)
    backup.volumes["other-data"].update(changes)


def test_a_counterpart_is_found_by_its_name(backup: FakeCloud) -> None:
    it = found(backup)
    assert (it.reference, it.source_name) == (
        {"source-name": f"volume-{REAL}"},
        f"volume-{REAL}",
    )
    assert (it.size_gib, it.cinder_id, it.safe_to_manage, it.reason) == (1, None, True, None)


def test_a_replica_that_is_not_promoted_and_one_that_is_managed_are_shown_as_such(
    backup: FakeCloud,
) -> None:
    name = f"volume-{REAL}"
    backup.manageable = [row(name, safe_to_manage=False, reason_not_safe="volume in use")]
    it = found(backup)
    assert (it.safe_to_manage, it.reason, it.cinder_id) == (False, "volume in use", None)
    backup.manageable = [row(name, safe_to_manage=False, cinder_id=REAL)]
    assert found(backup).cinder_id == REAL


def test_a_counterpart_is_found_under_the_key_that_its_driver_has(backup: FakeCloud) -> None:
    backup.manageable = [row("x", reference={"source-id": f"volume-{REAL}"})]
    assert found(backup).reference == {"source-id": f"volume-{REAL}"}


@pytest.mark.parametrize(
    ("rows", "size_gib"),
    [
        ([row(f"volume-{REAL}")], 2),
        ([row(f"volume-{REAL}", size=2)], 1),
        ([row(f"volume-{REAL}", size=0.5)], 2),
        ([row(f"volume-{REAL}"), row(f"volume-{REAL}")], 1),
    ],
)
def test_a_counterpart_of_another_size_or_listed_twice_is_refused(
    backup: FakeCloud, rows: list[Json], size_gib: int
) -> None:
    backup.manageable = rows
    with pytest.raises(CounterpartRefused):
        found(backup, size_gib=size_gib)


def test_what_belongs_to_a_volume_that_was_migrated_is_refused_though_it_is_listed_as_safe(
    backup: FakeCloud,
) -> None:
    owner(backup, **{NAME_ID: REAL})
    with pytest.raises(CounterpartRefused) as refused:
        found(backup)
    assert "other-data" in str(refused.value)


def test_what_has_the_id_of_a_volume_in_its_name_is_refused(backup: FakeCloud) -> None:
    owner(backup, id=REAL)
    with pytest.raises(CounterpartRefused):
        found(backup)


def test_what_may_be_the_volume_of_another_is_refused_where_name_ids_are_hidden(
    backup: FakeCloud,
) -> None:
    owner(backup)
    del backup.volumes["other-data"][NAME_ID]
    with pytest.raises(CounterpartRefused):
        found(backup)


def test_the_volume_itself_is_no_counterpart(backup: FakeCloud) -> None:
    with pytest.raises(CounterpartRefused):
        found(backup, WANTED.model_copy(update={"location": "ceph:site-b"}))


@pytest.mark.parametrize("wanted", [BackendReference(name="another"), BackendReference()])
def test_what_is_not_listed_or_has_no_name_has_no_counterpart(
    backup: FakeCloud, wanted: BackendReference
) -> None:
    with pytest.raises(NoCounterpart):
        found(backup, wanted)


def test_several_counterparts_cost_one_listing(backup: FakeCloud) -> None:
    back_end = BackEnd(backup.site, HOST)
    backup.manageable = [row(f"volume-{REAL}"), row("volume-2")]
    for name in (f"volume-{REAL}", "volume-2"):
        back_end.counterpart(WANTED.model_copy(update={"name": name}), 1)
    assert backup.asked.count("manageable_volumes") == 2  # a page, and its end


def test_a_driver_that_lists_everything_whatever_page_it_is_asked_for_is_read_once(
    backup: FakeCloud,
) -> None:
    real = backup._volume

    def unpaged(method: str, path: list[str], body: Json, params: Json) -> Any:
        return real(method, path, body, {**params, "offset": 0})

    assert len(with_cinder(backup, unpaged).backends.manageable_volumes(HOST)) == 2


def test_reverting_what_is_being_reverted_is_fine(backup: FakeCloud) -> None:
    owner(backup, status="reverting")

    def busy(method: str, path: list[str], body: Json, params: Json) -> Any:
        if method == "POST":
            return refuse(409, "Volume's status must be 'available'")
        return {"volume": backup.volumes["other-data"]}

    site = with_cinder(backup, busy)
    site.volumes.revert_to_snapshot("other-data", "s")
    backup.volumes["other-data"]["status"] = "in-use"
    with pytest.raises(ApiError):
        site.volumes.revert_to_snapshot("other-data", "s")

# SPDX-License-Identifier: Apache-2.0
"""Volumes of no server that a VNF file names: captured with the members, and recovered so that no
server has them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from antipode.errors import NotFound, PreflightFailed, ResourceFailed
from antipode.model import marks
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.topology import Topology
from antipode.model.vnf import Vnf
from antipode.protect.checks import unattached_volumes
from antipode.recover import isolation, rollback
from antipode.recover.plan import make_plan
from antipode.recover.recovery import OF_NO_SERVER
from antipode.recover.sources.backup import restore_volumes
from antipode.recover.sources.records import import_chains
from antipode.runs import old_copy_removal
from antipode.runs.verify import throw_away
from antipode.topology.discovery import discover
from antipode.transfer.cinder_backup import back_up
from antipode.vault import generations, old_copies, points
from antipode.vault.keys import NO_KEYS
from antipode.vault.sealing import seal
from tests.unit import parts
from tests.unit.fakecloud import FakeCloud, FakeTimeline
from tests.unit.test_format_2 import opened, payload_of
from tests.unit.test_protect_steps import VNF as PROTECTED
from tests.unit.test_protect_steps import check_protect, recovery_point, snapshots
from tests.unit.test_quiesce_window import Scene
from tests.unit.test_recovery import VNF as MAPPED
from tests.unit.test_recovery import there

__all__ = ["there"]
NAMED = PROTECTED.model_copy(update={"volumes": ["spare"]})


def with_spare(cloud: FakeCloud | None = None, **changes: Any) -> FakeCloud:
    """A cloud with a volume `spare` of no server."""
    cloud = cloud or FakeCloud()
    like = cloud.volumes["db-data"]
    own: dict[str, Any] = {"id": "vol-spare", "name": "spare", "status": "available", "size": 2}
    own |= {"metadata": {"kind": "journal"}, "volume_image_metadata": {"hw_x": "y"}}
    cloud.volumes["vol-spare"] = {**like, **own, **changes}
    return cloud


def found(cloud: FakeCloud | None = None) -> Topology:
    return discover(NAMED, (cloud or with_spare()).site)


@pytest.fixture
def point() -> RecoveryPoint:
    cloud = with_spare()
    topology = found(cloud)
    protecting = parts.protecting(cloud, NAMED, "one", timeline=FakeTimeline())
    made = back_up(protecting, topology, snapshots(cloud, topology, "one"), {}, {})
    mapped = MAPPED.model_copy(update={"volumes": ["spare"]})
    return recovery_point(topology, made, "one").model_copy(update={"vnf": mapped})


def test_a_volume_of_no_server_is_a_volume_of_the_vnf_with_all_that_it_has() -> None:
    (spare,) = found().unattached
    assert (spare.id, spare.name, spare.size_gib) == ("vol-spare", "spare", 2)
    assert (spare.metadata, spare.image_metadata) == ({"kind": "journal"}, {"hw_x": "y"})
    assert [v.id for v in found().volumes][-1] == "vol-spare"
    assert len(found().disks) == 7
    assert discover(PROTECTED, with_spare().site).unattached == []


def test_a_volume_that_is_missing_or_not_the_only_one_of_its_name_is_said() -> None:
    with pytest.raises(NotFound, match="no volume spare"):
        found(FakeCloud())
    twice = with_spare()
    twice.volumes["other"] = {**twice.volumes["vol-spare"], "id": "other"}
    with pytest.raises(NotFound, match="other"):
        found(twice)
    drill = "drill-20261122T160501Z-1a2b3c"
    twice.volumes["other"]["metadata"] = marks.marks(drill, f"{drill}/vol-spare")
    assert [v.id for v in found(twice).unattached] == ["vol-spare"]


@pytest.mark.parametrize("server", ["id-db", "id-stranger"])
def test_a_volume_that_a_server_has_is_refused_and_the_server_named(server: str) -> None:
    with pytest.raises(ResourceFailed, match=server):
        found(with_spare(attachments=[{"server_id": server}], status="in-use"))


def test_one_that_is_not_available_or_not_captured_by_the_option_is_a_problem() -> None:
    check_protect(NAMED, with_spare())
    with pytest.raises(PreflightFailed, match="spare is extending"):
        check_protect(NAMED, with_spare(status="extending"))
    with pytest.raises(PreflightFailed, match="encrypted are: spare"):
        check_protect(NAMED, with_spare(encrypted=True))
    cloud = with_spare()
    assert list(unattached_volumes(found(cloud), cloud.site, are_captured=False))
    assert not list(unattached_volumes(found(cloud), cloud.site, are_captured=True))


def test_it_is_snapshotted_in_the_window_and_ends_it_when_it_is_attached_meanwhile() -> None:
    scene = Scene()
    with_spare(scene.cloud)
    scene.topology = found(scene.cloud)
    assert scene.run().snapshots["vol-spare"]
    assert scene.of("snapshot").count("spare") == 1
    scene = Scene()
    with_spare(scene.cloud)
    scene.topology = found(scene.cloud)
    scene.cloud.volumes["vol-spare"]["attachments"] = [{"server_id": "id-db"}]
    with pytest.raises(ResourceFailed, match="id-db"):
        scene.run()
    assert not scene.cloud.frozen


def provided(there: FakeCloud, point: RecoveryPoint, plan: RecoveryPlan) -> str:
    recovery = parts.recovery(there, point, plan)
    import_chains(recovery, OF_NO_SERVER, ["vol-spare"])
    return restore_volumes(recovery, OF_NO_SERVER, plan.unattached)["vol-spare"]


def test_it_comes_back_with_its_name_and_metadata_and_is_found_again(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    assert [v.source_id for v in plan.unattached] == ["vol-spare"]
    assert RecoveryPlan.model_validate(plan.model_dump(mode="json")) == plan
    made = provided(there, point, plan)
    volume = there.volumes[made]
    assert (volume["name"], volume["metadata"]["kind"]) == ("spare", "journal")
    assert volume["volume_image_metadata"] == {"hw_x": "y"}
    assert provided(there, point, make_plan(point, there.site)) == made


def test_another_volume_of_its_name_is_a_problem_of_the_plan(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.volumes["other"] = {
        **FakeCloud().volumes["db-data"],
        "id": "other",
        "name": "spare",
        "status": "available",
    }
    with pytest.raises(PreflightFailed) as failed:
        make_plan(point, there.site)
    assert any("volume spare already (other)" in p for p in failed.value.problems)


def test_one_that_a_verification_has_made_is_not_in_the_way(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    run = "verify-20261122T160501Z-1a2b3c"
    like = {**FakeCloud().volumes["db-data"], "name": "spare", "status": "available"}
    of_backup = marks.marks("failover-1", "20261122T150000Z/other")
    there.volumes |= {
        "made": {**like, "id": "made", "metadata": marks.marks(run, f"{run}/vol-spare")},
        # while it is being restored its metadata are those of the backup
        "restored": {
            **like,
            "id": "restored",
            "metadata": of_backup,
            "description": marks.words(run, f"{run}/vol-spare"),
        },
    }
    make_plan(point, there.site)


def test_one_that_is_still_being_restored_for_an_attempt_that_was_given_up_holds_up_nothing(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    given_up = {
        **FakeCloud().volumes["db-data"],
        "id": "given-up",
        "name": "spare",
        "status": "downloading",
        "description": marks.words("failover-1", "20261122T150000Z/vol-spare"),
    }
    there.volumes["given-up"] = given_up
    assert any("given-up" in w for w in make_plan(point, there.site).warnings)
    given_up["status"] = "available"
    with pytest.raises(PreflightFailed):
        make_plan(point, there.site)


def test_what_its_type_lacks_is_said(there: FakeCloud) -> None:
    cloud = with_spare(multiattach=True)
    topology = found(cloud)
    protecting = parts.protecting(cloud, NAMED, "one", timeline=FakeTimeline())
    made = back_up(protecting, topology, snapshots(cloud, topology, "one"), {}, {})
    mapped = MAPPED.model_copy(update={"volumes": ["spare"]})
    point = recovery_point(topology, made, "one").model_copy(update={"vnf": mapped})
    assert any("second server" in w for w in make_plan(point, there.site).warnings)


def test_its_quotas_count(point: RecoveryPoint, there: FakeCloud) -> None:
    there.quotas = {"volumes": {"limit": 6}, "gigabytes": {"limit": 7}}
    with pytest.raises(PreflightFailed) as failed:
        make_plan(point, there.site)
    problems = "\n".join(failed.value.problems)
    assert "quota volumes of the project: 7 more" in problems
    assert "quota gigabytes of the project: 8 more" in problems


@pytest.mark.parametrize("moment", ["2020-01-01", "2030-01-01"])
def test_a_second_one_of_a_late_request_is_removed_and_the_one_that_was_filled_stays(
    point: RecoveryPoint, there: FakeCloud, moment: str
) -> None:
    plan = make_plan(point, there.site)
    made = provided(there, point, plan)
    late = {"id": "late", "created_at": moment, "status": "available"}
    key = parts.recovery(there, point, plan).key("vol-spare")
    ours = {"metadata": marks.marks("run", key), "description": marks.words("run", key)}
    there.volumes["late"] = {**there.volumes[made], **late, **ours}
    there.volumes[made]["status"] = "available"
    rollback.remove_twins(there.site, plan, FakeTimeline(), lambda: None)
    assert made in there.volumes and "late" not in there.volumes


def test_in_a_drill_it_does_not_have_the_name_of_production(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    isolated = isolation.isolate(make_plan(point, there.site), point.vnf, there.site, "drill-1")
    assert [v.name for v in isolated.unattached] == ["spare drill-1"]


def test_its_content_is_verified_like_any(point: RecoveryPoint, there: FakeCloud) -> None:
    (volume,) = [v for v in point.captured_disks if v.id == "vol-spare"]
    assert throw_away(point, volume, there.site).source_id == "vol-spare"


def test_a_point_carries_it_and_requires_a_reader_that_knows_it(point: RecoveryPoint) -> None:
    sealed = seal(point, NO_KEYS)
    assert payload_of(sealed)["requires"] == ["Found.unattached"]
    again = opened(sealed).point
    assert (again.topology.unattached, again.vnf.volumes) == (
        point.topology.unattached,
        ["spare"],
    )


def test_the_old_copy_has_that_of_its_generation_and_not_of_the_present_one(
    point: RecoveryPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = point.topology.unattached[0].model_copy(update={"id": "vol-now"})
    present = point.model_copy(
        update={"topology": point.topology.model_copy(update={"unattached": [now]})}
    )
    made = {"old": point, "new": present}
    summaries = [
        ("old", SimpleNamespace(generation=1, site="site-a")),
        ("new", SimpleNamespace(generation=3, site="site-a")),
    ]
    monkeypatch.setattr(generations, "history", lambda vault, vnf: [])
    monkeypatch.setattr(points, "list_points", lambda vault, vnf: summaries)
    monkeypatch.setattr(old_copies, "_read", lambda vault, vnf, name: made[name])
    copy = old_copies.find(None, "v", "site-a", 3)  # type: ignore[arg-type]
    assert copy.unattached == {"vol-spare": "spare"}


def test_a_copy_that_an_undo_has_taken_up_again_has_the_volumes_of_its_newest_point(
    point: RecoveryPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = point.topology.model_copy(update={"unattached": []})
    made = {"old": point, "later": point.model_copy(update={"topology": without})}
    summaries = [
        ("old", SimpleNamespace(generation=1, site="site-a")),
        ("later", SimpleNamespace(generation=3, site="site-a")),
    ]
    monkeypatch.setattr(generations, "history", lambda vault, vnf: [])
    monkeypatch.setattr(points, "list_points", lambda vault, vnf: summaries)
    monkeypatch.setattr(old_copies, "_read", lambda vault, vnf, name: made[name])
    copy = old_copies.find(None, "v", "site-a", 4)  # type: ignore[arg-type]
    assert copy.unattached == {}
    assert copy.replaced is None


def test_that_of_a_copy_which_was_never_protected_is_known_by_the_failover_that_made_it() -> None:
    """As after an undo: no recovery point was made there, and the next failover needs the name."""
    copy = old_copies.OldCopy("b", {}, {"failover-2"}, set(), {"undo-3"}, {}, {"spare"})

    def made(volume: str, run: str, name: str = "spare") -> dict[str, Any]:
        return {
            "id": volume,
            "name": name,
            "metadata": marks.marks(run, f"point/{volume}"),
            "status": "available",
        }

    strangers = [
        made("later", "undo-3"),
        made("other", "failover-2", "of-a-member"),
        made("foreign", "failover-9"),
        {"id": "theirs", "name": "spare", "metadata": {}, "status": "available"},
    ]
    here = SimpleNamespace(vnfs=SimpleNamespace(all=list))
    found, kept = old_copy_removal._of_no_server(
        here,  # type: ignore[arg-type]
        copy,
        [made("ours", "failover-2"), *strangers],
    )
    assert (found, kept) == (["ours"], {})


@pytest.mark.parametrize("volumes", [["a", "a"], [""], ["x" * 256]])
def test_a_file_that_names_none_or_one_twice_is_refused(volumes: list[str]) -> None:
    fields = PROTECTED.model_dump(mode="json") | {"volumes": volumes}
    with pytest.raises(ValidationError):
        Vnf.model_validate(fields)

# SPDX-License-Identifier: Apache-2.0
"""A drill: the VNF is recovered where nothing else is, probed and compared, and nothing of it is
left; production, its protection and its failover go on as if there were no drill.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from antipode.cloud import site as cloud_site
from antipode.cloud.networks import AT_ONCE
from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    Aborted,
    AntipodeError,
    Busy,
    DrillNotPassed,
    Halted,
    InvalidInput,
    NotFound,
    NotIsolated,
    PreflightFailed,
    SiteUnreachable,
)
from antipode.model.vnf import Answers, Mapping
from antipode.operations import failover as failing
from antipode.operations.abort import abort
from antipode.operations.drill import (
    cleanup,
    cleanup_request,
    drill,
    left_by,
    of_another_host,
    prepare,
    request,
    uncleaned,
)
from antipode.operations.protect import protect
from antipode.operations.recovery_points import deep_request
from antipode.operations.resume import resume
from antipode.recover import isolation, probes
from antipode.runs import drill as drill_run
from antipode.runs import drill_cleanup, failover_checks, orphans
from antipode.store.tables import RunRow
from antipode.topology.discovery import discover
from antipode.vault import generations
from tests.unit.test_durable_runs import VNF, InBackground, World, until, world
from tests.unit.test_images_of_root_disks import by_option_2, imaged, source_of
from tests.unit.test_port_fidelity import trunked, vip
from tests.unit.test_verify_run import Digested, store

__all__ = ["imaged", "store", "world"]


@contextmanager
def configured(store: Digested) -> Iterator[None]:
    """The backup store is known to the configuration, and at a third place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Deployment, "store", lambda *_: store)
        patch.setattr(Deployment, "store_of", lambda *_: store)
        patch.setattr(Config, "store_name", lambda *_: "backups")
        patch.setattr(Config, "site_of_store", lambda *_: None)
        patch.setattr(failover_checks, "store_warnings", lambda *_: [])
        yield


def drilled(world: World, keep_s: float | None = None, **wanted: Any) -> dict[str, Any]:
    here = world.process()
    return drill(here, request(prepare(here, "v", **wanted), keep_s), Unobserved())


def cleaned(here: Deployment) -> dict[str, Any]:
    """What drills of the VNF have left is removed; the record of it."""
    site, rows = uncleaned(here, "v")
    return cleanup(here, cleanup_request("v", site, [row.id for row in rows]), Unobserved())


def newest(world: World) -> RunRow:
    return next(r for r in world.here.runs.all("v") if r.kind == "drill")


def probed(world: World, within: float = 60.0) -> None:
    """Have the members probed by their consoles."""
    members = [
        m.model_copy(update={"drill": Answers(console="login:", within=within)})
        for m in VNF.members
    ]
    world.here.vnfs.put(VNF.model_copy(update={"members": members}))


def expect_nothing_left(world: World) -> None:
    assert world.b.servers == {}
    assert world.b.volumes == {}
    assert world.b.ports == {}
    assert [n["name"] for n in world.b.networks] == ["net-b"]
    assert [s["name"] for s in world.b.subnets] == ["s"]
    assert (world.b.server_groups, world.b.keypairs) == ([], {})


def looks(world: World, event: str, look: Callable[[], Any]) -> list[Any]:
    """What is seen whenever an event that begins so is about to happen at the backup site."""
    seen: list[Any] = []

    def before(happens: str) -> None:
        if happens.startswith(event):
            seen.append(look())

    world.b.before = before
    return seen


def test_a_drill_recovers_probes_and_removes_all_of_it(world: World) -> None:
    probed(world)
    before = len(world.a.events)
    record = drilled(world)
    assert record["passed"] is True
    assert [a["ok"] for a in record["answers"]] == [True, True]
    assert record["leaks"] == []
    assert record["appeared_meanwhile"] == {}
    inventories = (record["inventory_before"], record["inventory_after"])
    assert {**inventories[0], "backups": 0} == {**inventories[1], "backups": 0}
    expect_nothing_left(world)
    assert world.a.events[before:] == []
    assert newest(world).state == "succeeded"


def test_members_have_their_addresses_on_networks_that_only_they_are_on(world: World) -> None:
    seen = looks(
        world,
        "boot",
        lambda: (list(world.b.networks), [dict(p) for p in world.b.ports.values()]),
    )
    record = drilled(world)
    networks, ports = seen[-1]
    [its_own] = [n for n in networks if n["name"] != "net-b"]
    ours = [p for p in ports if p.get("device_owner") != "network:dhcp"]
    assert {p["network_id"] for p in ports} == {its_own["id"]}
    taken = {(p["mac_address"], p["fixed_ips"][0]["ip_address"]) for p in ours}
    there = {(p["mac_address"], p["fixed_ips"][0]["ip_address"]) for p in world.a.ports.values()}
    assert taken == there
    for proof in (record["isolation"], record["isolation_in_the_end"]):
        assert proof["ports_of_the_drill"] == 2
        found = ("shared", "external", "routers", "floating_ips", "ports_of_others")
        assert [proof[what] for what in found] == [0] * 5


def test_it_claims_no_generation_and_its_servers_have_names_of_their_own(world: World) -> None:
    seen = looks(world, "delete server", lambda: {s["name"] for s in world.b.servers.values()})
    drilled(world)
    assert not seen[0] & {"db", "front"}
    state = generations.present(world.here.vault, "v", "site-a")
    assert (state.generation, state.active_site) == (1, "site-a")
    assert world.failover()["generation"] == 2


def test_the_active_site_is_not_called(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(name: str, cloud: str) -> Any:
        if name == "site-a":
            raise SiteUnreachable("site-a: black hole")
        return world.b.site

    monkeypatch.setattr(cloud_site, "connect", connect)
    assert drilled(world)["passed"] is True
    expect_nothing_left(world)


def test_a_member_that_does_not_answer_fails_the_drill_and_the_others_are_booted_all_the_same(
    world: World,
) -> None:
    probed(world, within=0.05)
    world.b.console = "kernel panic"
    with pytest.raises(DrillNotPassed):
        drilled(world)
    row = newest(world)
    assert (row.state, row.result["passed"]) == ("failed", False)
    assert [a["ok"] for a in row.result["answers"]] == [False, False]
    assert sum(e.startswith("boot") for e in world.b.events) == 2
    expect_nothing_left(world)


def test_content_is_compared_before_a_guest_writes(world: World, store: Digested) -> None:
    with configured(store):
        record = drilled(world)
    assert [c["ok"] for c in record["content"]] == [True] * 3
    assert record["leaks"] == []
    expect_nothing_left(world)
    of_db = [e for e in world.b.events if e.startswith(("full backup db-", "boot db-"))]
    assert [e.split()[0] for e in of_db] == ["full", "full", "boot"]


def test_content_that_differs_fails_the_drill(world: World, store: Digested) -> None:
    store.restored["db-data"] = ["00" * 32] * 4
    with configured(store), pytest.raises(DrillNotPassed):
        drilled(world)
    found = {c["volume"]: c["ok"] for c in newest(world).result["content"]}
    assert found == {"db-root": True, "db-data": False, "front-root": True}
    expect_nothing_left(world)


def test_without_a_backup_store_it_is_said_that_content_is_not_compared(world: World) -> None:
    assert {c["ok"] for c in drilled(world)["content"]} == {None}


def test_the_image_of_a_root_disk_is_compared_without_a_backup_store_and_stays(
    imaged: World,
) -> None:
    by_option_2(imaged)
    copy = source_of(imaged).copies["site-b"]
    seen = looks(imaged, "delete server", lambda: [*imaged.b.servers.values()])
    record = drilled(imaged)
    assert len(record["content"]) == 3
    assert [c["ok"] for c in record["content"]].count(None) == 2
    assert [c["ok"] for c in record["content"] if "front" in c["volume"]] == [True]
    assert [s["imageRef"] for s in seen[0] if "imageRef" in s] == [copy]
    assert copy in imaged.b.images
    expect_nothing_left(imaged)


def test_an_image_with_other_bytes_than_captured_fails_the_drill(imaged: World) -> None:
    by_option_2(imaged)
    copy = imaged.b.images[source_of(imaged).copies["site-b"]]
    copy["content"] = copy["content"].replace(b"front", b"FRONT")
    with pytest.raises(DrillNotPassed):
        drilled(imaged)
    content = newest(imaged).result["content"]
    assert [c["ok"] for c in content if "front" in c["volume"]] == [False]
    expect_nothing_left(imaged)


def test_an_image_that_is_gone_is_named_before_anything_is_created(imaged: World) -> None:
    by_option_2(imaged)
    imaged.b.images.clear()
    before = list(imaged.b.events)
    with pytest.raises(PreflightFailed, match="front"):
        prepare(imaged.here, "v")
    assert imaged.b.events == before


STRANGER = {
    "id": "port-of-a-stranger",
    "name": "",
    "mac_address": "fa:16:3e:ff:ff:ff",
    "device_id": "somebody",
    "device_owner": "compute:nova",
    "fixed_ips": [],
    "description": "",
}


def test_no_guest_boots_where_somebody_else_has_a_port(world: World) -> None:
    def before(event: str) -> None:
        if event.startswith("change of subnets"):
            network = world.b.networks[-1]["id"]
            world.b.ports["port-of-a-stranger"] = {**STRANGER, "network_id": network}

    world.b.before = before
    with pytest.raises(NotIsolated):
        drilled(world)
    assert not [e for e in world.b.events if e.startswith("boot")]
    owners = {p["device_owner"] for p in world.b.ports.values()}
    assert owners == {"compute:nova", "network:dhcp"}
    assert world.b.volumes == {}
    row = newest(world)
    assert row.state == "failed" and len(row.result["left"]) == 1
    del world.b.ports["port-of-a-stranger"]
    here = world.process()
    assert cleaned(here)["leaks"] == []
    expect_nothing_left(world)


@pytest.mark.parametrize("flag", ["shared", "router:external"])
def test_no_guest_boots_on_a_network_that_leads_elsewhere(world: World, flag: str) -> None:
    def before(event: str) -> None:
        if event.startswith("change of subnets"):
            world.b.networks[-1][flag] = True

    world.b.before = before
    with pytest.raises(NotIsolated):
        drilled(world)
    assert not [e for e in world.b.events if e.startswith("boot")]
    expect_nothing_left(world)


def led_out(world: World, what: str) -> None:
    """Somebody connects the last server of a drill, whose ports stay the drill's, with others."""
    ours = [p for p in world.b.ports.values() if p.get("tags")]
    match what:
        case "router":
            ours[-1] |= {"device_id": "r", "device_owner": "network:router_interface"}
        case "server of somebody":
            world.b.add_server("somebody", 9)
            ours[-1] |= {"device_id": "id-somebody", "device_owner": "compute:nova"}
        case "second interface":
            server, network = ours[-1]["device_id"], world.b.networks[0]["id"]
            world.b.ports["second"] = {**STRANGER, "network_id": network, "device_id": server}
        case "subport":
            network = world.b.networks[0]["id"]
            below = {**STRANGER, "device_owner": "trunk:subport", "network_id": network}
            world.b.ports["below"] = {**below, "id": "below", "device_id": "t"}
            ours[-1]["trunk_details"] = {"trunk_id": "t"}
            world.b.trunks["t"] = {
                "id": "t",
                "name": "",
                "port_id": ours[-1]["id"],
                "sub_ports": [
                    {"port_id": "below", "segmentation_type": "vlan", "segmentation_id": 7}
                ],
            }


@pytest.mark.parametrize("what", ["router", "server of somebody", "second interface", "subport"])
def test_a_drill_that_somebody_has_led_out_of_its_networks_is_not_isolated(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = probes.await_answer

    def then(recovery: Any, server: str, server_id: str) -> None:
        answers(recovery, server, server_id)
        if server == "front":
            led_out(world, what)

    probed(world)
    monkeypatch.setattr(probes, "await_answer", then)
    with pytest.raises(NotIsolated):
        drilled(world)
    assert "isolation_in_the_end" not in newest(world).result


def test_a_drill_that_is_resumed_boots_no_guest_before_its_networks_are_proven_once_more(
    world: World,
) -> None:
    probed(world)
    answers, world.b.console = world.b.console, "not yet"
    row, halt = request(prepare(world.here, "v")), threading.Event()
    with world.here.claims.begin(row) as claim:
        run = claim.run

    def conduct() -> None:
        there = world.process()
        with there.claims.take(run) as claim:
            execute(there, drill_run.KIND, claim, Unobserved(), halt)

    conducting = InBackground(conduct)
    until(lambda: any(e.startswith("boot db-") for e in world.b.events))
    halt.set()
    conducting.join()
    assert isinstance(conducting.error, Halted)
    world.b.console = answers
    router = {"network_id": world.b.networks[-1]["id"], "device_owner": "network:router_interface"}
    world.b.ports["port-of-a-stranger"] = {**STRANGER, **router}
    with pytest.raises(NotIsolated):
        resume(world.process(), run, Unobserved())
    assert sum(e.startswith("boot") for e in world.b.events) == 1
    assert (world.b.servers, world.b.volumes) == ({}, {})


def test_a_failure_in_the_middle_leaves_nothing(world: World) -> None:
    def before(event: str) -> None:
        if event.startswith("boot front"):
            raise SiteUnreachable("site-b: no answer")

    world.b.before = before
    with pytest.raises(SiteUnreachable):
        drilled(world)
    assert newest(world).state == "failed"
    expect_nothing_left(world)


def test_a_drill_that_is_kept_stays_until_it_is_cleaned_up_and_holds_up_no_other(
    world: World,
) -> None:
    record = drilled(world, keep_s=3600.0)
    assert record["kept_until"] > time.time()
    assert len(world.b.servers) == 2
    orphans.collect(world.here)
    drill_cleanup.submit_due(world.here, lambda row: pytest.fail("it has not expired"))
    world.protect()
    assert len(world.b.servers) == 2
    world.failover()
    assert sorted(s["name"] for s in world.b.servers.values())[:1] == ["db"]
    here = world.process()
    told = cleaned(here)
    assert (told["leaks"], told["removed"]["servers"]) == ([], 2)
    assert sorted(s["name"] for s in world.b.servers.values()) == ["db", "front"]
    assert all(v["status"] == "in-use" for v in world.b.volumes.values())
    with pytest.raises(NotFound):
        uncleaned(world.here, "v")


def test_a_drill_that_is_not_passed_and_kept_stays_too(world: World) -> None:
    probed(world, within=0.05)
    world.b.console = "kernel panic"
    with pytest.raises(DrillNotPassed):
        drilled(world, keep_s=3600.0)
    assert newest(world).state == "failed"
    orphans.collect(world.here)
    assert len(world.b.servers) == 2


def test_a_drill_whose_time_is_over_is_removed_by_the_service(world: World) -> None:
    run = drilled(world, keep_s=0.001)["run"]
    queued: list[RunRow] = []
    drill_cleanup.submit_due(world.here, queued.append)
    assert [row.request and row.request["drills"] for row in queued] == [[run]]
    here = world.process()
    cleaned(here)
    expect_nothing_left(world)
    drill_cleanup.submit_due(world.here, lambda row: pytest.fail("it was removed"))


def test_a_failover_has_an_open_drill_aborted(world: World) -> None:
    row = request(prepare(world.here, "v"))
    with world.here.claims.begin(row) as claim:
        run = claim.run
    world.failover()
    assert world.here.runs.get(run).abort_requested_at is not None


def test_it_does_not_begin_beside_a_recovery_or_a_proof(world: World, store: Digested) -> None:
    with (
        configured(store),
        world.here.claims.begin(deep_request(world.here, "v", None)),
        pytest.raises(Busy),
    ):
        prepare(world.here, "v")
    world.die_in("failover")
    with pytest.raises(Busy):
        prepare(world.here, "v")


def test_what_the_site_lacks_is_named_before_anything_is_created(world: World) -> None:
    world.b.flavors = []
    world.b.quotas["volumes"] = {"limit": 1}
    with pytest.raises(PreflightFailed) as caught:
        prepare(world.here, "v")
    assert len(caught.value.problems) >= 2
    assert world.b.events == []


def test_a_quota_of_networks_that_is_short_is_named(world: World) -> None:
    world.b.quotas["network"] = {"limit": 0}
    with pytest.raises(PreflightFailed):
        prepare(world.here, "v")


def test_each_quota_is_counted_once_and_for_all_that_the_drill_creates(world: World) -> None:
    world.b.quotas["network"] = world.b.quotas["subnet"] = {"limit": 9}
    needs = {q.resource: q.needed for q in prepare(world.here, "v").plan.quotas}
    assert len(needs) == len(prepare(world.here, "v").plan.quotas)
    assert (needs["network"], needs["subnet"]) == (1, 1)


def test_the_backups_that_compare_content_are_counted(world: World, store: Digested) -> None:
    drilled(world)  # imports the records, which stay
    world.b.quotas["backups"] = {"limit": 0}
    assert prepare(world.here, "v")
    with configured(store), pytest.raises(PreflightFailed):
        prepare(world.here, "v")


def test_networks_that_a_failover_would_create_are_copied_and_counted_once(world: World) -> None:
    world.b.networks, world.b.subnets = [], []
    world.b.quotas["network"] = {"limit": 1}
    mapping = Mapping(volume_types={"fast": "standard"})
    world.here.vnfs.put(VNF.model_copy(update={"networks": "create", "map": mapping}))
    world.protect()
    record = drilled(world)
    assert record["passed"] is True and record["isolation"]["ports_of_the_drill"] == 2
    assert (world.b.networks, world.b.subnets, world.b.ports) == ([], [], {})


def test_ports_of_no_server_are_on_its_networks_too_and_leave_nothing(world: World) -> None:
    vip(world.a)
    world.a.ports["port-id-db"]["allowed_address_pairs"] = [{"ip_address": "10.0.0.200"}]
    world.protect()
    record = drilled(world)
    assert record["isolation"]["ports_of_the_drill"] == 3
    expect_nothing_left(world)


def test_a_port_that_the_vnf_file_names_is_not_found_in_a_drill(world: World) -> None:
    name = vip(world.a)["name"]
    vnf = VNF.model_copy(update={"ports": [name]})
    world.here.vnfs.put(vnf)
    world.protect()
    drilled(world, keep_s=3600.0)
    world.failover()
    named = [p["id"] for p in world.b.ports.values() if p["name"] == name]
    assert len(named) == 2
    found = discover(vnf, world.b.site).vip_ports
    assert [p.network for p in found] == ["net-b"]


def test_a_trunk_has_its_subports_on_networks_of_the_drill_and_leaves_nothing(
    world: World,
) -> None:
    trunked(world.a)
    world.protect()
    seen = looks(world, "boot", lambda: [*world.b.trunks.values()])
    record = drilled(world)
    assert len(seen[0][0]["sub_ports"]) == 1
    for proof in (record["isolation"], record["isolation_in_the_end"]):
        assert proof["ports_of_the_drill"] == 3
    assert world.b.trunks == {}
    expect_nothing_left(world)


def test_a_name_that_is_as_long_as_it_can_be_keeps_the_drill() -> None:
    name = isolation.named("n" * 255, "drill-1a2b3c")
    assert len(name) == 255 and name.endswith(" drill-1a2b3c")


def test_a_volume_that_somebody_restored_from_a_backup_of_a_drilled_one_is_theirs_and_stays(
    world: World,
) -> None:
    drilled(world, keep_s=3600.0)
    saved = next(iter(world.b.volumes.values()))
    # Cinder gives it all metadata of the volume that was backed up
    world.b.volumes["saved"] = {**saved, "id": "saved", "status": "available"}
    here = world.process()
    assert cleaned(here)["leaks"] == []
    assert list(world.b.volumes) == ["saved"]
    world.failover()
    assert world.b.volumes["saved"]["status"] == "available"
    assert len(world.b.volumes) == 4


def test_a_second_drill_of_the_vnf_does_not_begin_beside_it(world: World) -> None:
    with world.here.claims.begin(request(prepare(world.here, "v"))), pytest.raises(Busy):
        drilled(world)
    assert world.b.servers == {}


def test_drills_of_two_vnfs_with_the_same_names_and_addresses_do_not_meet(world: World) -> None:
    world.here.vnfs.put(VNF.model_copy(update={"vnf": "w"}))
    point = protect(world.process(), "w", Unobserved())["recovery_point"]
    with pytest.raises(NotFound):
        prepare(world.here, "v", point=point)
    drilled(world, keep_s=3600.0)
    kept = {*world.b.servers, *world.b.ports, *world.b.volumes}
    here = world.process()
    record = drill(here, request(prepare(here, "w")), Unobserved())
    assert (record["passed"], record["leaks"]) == (True, [])
    assert kept == {*world.b.servers, *world.b.ports, *world.b.volumes}
    cleaned(here)
    expect_nothing_left(world)


def test_a_protection_goes_on_during_a_drill_and_removes_nothing_of_it(world: World) -> None:
    made: list[Any] = []

    def before(event: str) -> None:
        if event.startswith("boot") and not made:
            made.append(world.protect(world.process()))

    world.b.before = before
    record = drilled(world)
    assert (record["passed"], record["leaks"]) == (True, [])
    assert made[0]["recovery_point"] != record["recovery_point"]
    expect_nothing_left(world)


def test_a_failover_during_a_drill_ends_it_and_has_all_of_its_own(world: World) -> None:
    there = world.process()
    planned = failing.prepare(there, "v", "site-b", None)
    ordered: list[InBackground] = []

    def before(event: str) -> None:
        if event.startswith("boot front-") and not ordered:
            ordered.append(InBackground(lambda: failing.failover(there, planned, Unobserved())))
            until(lambda: newest(world).abort_requested_at is not None)

    world.b.before = before
    with pytest.raises(Aborted):
        drilled(world)
    ordered[0].join()
    assert ordered[0].error is None
    state = generations.present(world.here.vault, "v", "site-a")
    assert (state.generation, state.active_site) == (2, "site-b")
    assert newest(world).state == "aborted"
    assert sorted(s["name"] for s in world.b.servers.values()) == ["db", "front"]
    assert all(v["status"] == "in-use" for v in world.b.volumes.values())
    assert [n["name"] for n in world.b.networks] == ["net-b"]
    assert {p["network_id"] for p in world.b.ports.values()} == {world.b.networks[0]["id"]}


def test_a_drill_that_waited_until_the_vnf_is_active_at_its_site_is_not_made(world: World) -> None:
    row = request(prepare(world.here, "v"))
    world.failover()
    servers = dict(world.b.servers)
    with pytest.raises(InvalidInput):
        drill(world.process(), row, Unobserved())
    assert world.b.servers == servers
    assert [n["name"] for n in world.b.networks] == ["net-b"]


def test_a_failover_that_lacks_room_names_the_drills_that_hold_it(world: World) -> None:
    run = drilled(world, keep_s=3600.0)["run"]
    world.b.quotas["volumes"] = {"limit": 0}
    with pytest.raises(PreflightFailed) as lacks:
        world.failover()
    assert [run in note for note in lacks.value.__notes__] == [True]
    cleaned(world.here)
    world.b.quotas["volumes"] = {"limit": 9}
    world.failover()


def test_a_kept_drill_that_was_not_passed_can_be_aborted(world: World) -> None:
    probed(world, within=0.05)
    world.b.console = "kernel panic"
    with pytest.raises(DrillNotPassed):
        drilled(world, keep_s=3600.0)
    assert len(world.b.servers) == 2
    assert abort(world.process(), newest(world).id, Unobserved())["left"] == []
    expect_nothing_left(world)
    assert not drill_run.is_kept(newest(world))


def test_a_clean_up_that_fails_in_the_middle_is_repeated_and_leaves_nothing(world: World) -> None:
    drilled(world, keep_s=3600.0)

    def before(event: str) -> None:
        if event.startswith("delete volume"):
            raise SiteUnreachable("site-b: no answer")

    world.b.before = before
    with pytest.raises(AntipodeError):
        cleaned(world.process())
    world.b.before = lambda event: None
    assert world.b.volumes
    here = world.process()
    assert cleaned(here)["leaks"] == []
    expect_nothing_left(world)


def test_a_drill_whose_host_and_database_are_lost_is_removed_by_its_marks(world: World) -> None:
    lost, other = drilled(world, keep_s=3600.0)["run"], drilled(world, keep_s=3600.0)["run"]
    for file in world.folder.glob("*.db*"):
        file.unlink()
    here = world.process()
    with pytest.raises(NotFound):
        cleaned(here)
    site = of_another_host(here, "v", "site-b", lost)
    assert len(left_by(here, "v", site, [lost])) == len(left_by(here, "v", site, [other])) > 0
    told = cleanup(here, cleanup_request("v", site, [lost]), Unobserved())
    assert (told["leaks"], told["removed"]["servers"]) == ([], 2)
    assert left_by(here, "v", site, [lost]) == []
    assert len(world.b.servers) == 2
    cleanup(here, cleanup_request("v", site, [other]), Unobserved())
    expect_nothing_left(world)


@pytest.mark.parametrize(
    ("site", "run"), [("site-b", "failover-20261122T160501Z-1a2b3c"), ("site-c", "drill-1")]
)
def test_what_is_no_drill_or_no_site_is_refused(world: World, site: str, run: str) -> None:
    with pytest.raises(AntipodeError):
        of_another_host(world.here, "v", site, run)


def test_a_drill_that_is_under_way_is_not_cleaned_up(world: World) -> None:
    row = request(prepare(world.here, "v"))
    with world.here.claims.begin(row) as claim:
        with pytest.raises(Busy):
            cleanup(world.process(), cleanup_request("v", "site-b", [claim.run]), Unobserved())
        with pytest.raises(Busy):
            of_another_host(world.here, "v", "site-b", claim.run)


@pytest.mark.parametrize(("vnf", "site"), [("v", "site-a"), ("w", "site-b")])
def test_a_drill_that_is_known_is_cleaned_up_for_its_own_vnf_at_its_own_site_only(
    world: World, vnf: str, site: str
) -> None:
    run = drilled(world, keep_s=3600.0)["run"]
    with pytest.raises(InvalidInput):
        of_another_host(world.here, vnf, site, run)
    with pytest.raises(InvalidInput):
        cleanup(world.process(), cleanup_request(vnf, site, [run]), Unobserved())
    assert len(world.b.servers) == 2
    assert [row.id for row in uncleaned(world.here, "v")[1]] == [run]


def test_it_is_not_made_at_the_active_site_or_with_a_point_that_is_not_there(world: World) -> None:
    with pytest.raises(InvalidInput):
        prepare(world.here, "v", to="site-a")
    with pytest.raises(NotFound):
        prepare(world.here, "v", point="20200101T000000Z-000000")


def test_addresses_and_names_in_use_at_the_site_are_not_in_its_way(world: World) -> None:
    world.b.add_server("db", 0)
    assert drilled(world)["passed"] is True
    assert [s["name"] for s in world.b.servers.values()] == ["db"]


def test_nothing_of_it_is_published_or_shared(world: World) -> None:
    world.a.ports["port-id-db"]["dns_domain"] = "vnf.example."
    world.protect()
    seen = looks(world, "boot", lambda: [dict(p) for p in world.b.ports.values()])
    drilled(world)
    assert all(not p.get("dns_domain") for ports in seen for p in ports)
    assert not [e for e in world.b.events if e.startswith(("group", "keypair", "associate"))]


def test_where_many_networks_are_visible_no_query_is_too_long_and_only_ours_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = {**STRANGER, "project_id": "others", "network_id": "other-0"}
    others = [
        {"id": f"other-{n}", "name": f"other-{n}", "project_id": "others"} for n in range(120)
    ]
    world.b.networks += others
    world.b.ports["port-of-a-stranger"] = stranger
    api = world.b.site.networks._api
    send, asked = api._send, list[int]()

    def counted(method: str, path: str, **options: Any) -> Any:
        ids = [v for v in (options.get("params") or {}).values() if isinstance(v, list)]
        asked.extend(len(v) for v in ids)
        return send(method, path, **options)

    monkeypatch.setattr(api, "_send", counted)
    record = drilled(world)
    assert (record["passed"], record["leaks"]) == (True, [])
    assert record["inventory_before"]["ports"] == 0
    assert len(world.b.site.networks.ports_on([n["id"] for n in others])) == 1
    assert max(asked) == AT_ONCE
    assert world.b.ports == {"port-of-a-stranger": stranger}


def test_no_rule_of_the_site_is_about_the_ports_of_a_drill(world: World) -> None:
    within = {"id": "r-1", "direction": "ingress", "ethertype": "IPv4"}
    from_db = {**within, "id": "r-2", "remote_group_id": "db"}
    world.b.groups += [
        {"id": "db", "name": "db", "security_group_rules": []},
        {"id": "others", "name": "others", "project_id": "others", "shared": True},
    ]
    world.b.groups[0]["security_group_rules"] = [{**within, "remote_group_id": "group-1"}, from_db]
    world.a.groups.append({"id": "o", "name": "others"})
    world.a.ports["port-id-db"]["security_groups"] = ["group-1", "o"]
    world.protect()
    there, seen = list(world.b.groups), list[Any]()

    def before(event: str) -> None:
        if event.startswith("boot db-"):
            seen.append((list(world.b.ports.values()), list(world.b.groups)))

    world.b.before = before
    record = drilled(world)
    ports, groups = seen[0]
    [copy] = [g for g in groups if g not in there]
    named = [p["security_groups"] for p in ports if p.get("tags")]
    assert sorted(named) == [[copy["id"]], [copy["id"], "others"]]
    assert {r["remote_group_id"] for r in copy["security_group_rules"]} == {copy["id"], "db"}
    assert (record["passed"], world.b.groups) == (True, there)
    expect_nothing_left(world)


def test_the_proof_has_the_segments_of_its_networks(world: World) -> None:
    def before(event: str) -> None:
        if event.startswith("change of subnets"):
            world.b.networks[-1] |= {
                "provider:network_type": "vlan",
                "provider:segmentation_id": 7,
                "provider:physical_network": "dc",
            }

    world.b.before = before
    assert list(drilled(world)["isolation"]["segments"].values()) == ["vlan 7 dc"]


def test_a_vnf_without_networks_is_drilled(world: World) -> None:
    world.a.ports.clear()
    world.protect()
    seen = looks(world, "boot", lambda: [n["name"] for n in world.b.networks])
    record = drilled(world)
    assert (record["passed"], record["leaks"]) == (True, [])
    assert (record["isolation"]["networks"], seen) == ({}, [["net-b"]] * 2)
    expect_nothing_left(world)


def test_a_member_that_was_off_is_off_in_the_drill_and_said_to_be_so(world: World) -> None:
    probed(world)
    world.a.servers["id-front"]["status"] = "SHUTOFF"
    world.protect()
    seen = looks(world, "delete server", lambda: {s["status"] for s in world.b.servers.values()})
    record = drilled(world)
    db, front = record["answers"]
    assert (db["ok"], front["ok"]) == (True, None)
    assert "ACTIVE" not in front["detail"]
    assert seen[0] == {"ACTIVE", "SHUTOFF"}
    expect_nothing_left(world)


def test_its_points_do_not_expire_and_it_is_no_recovery(world: World) -> None:
    row = request(prepare(world.here, "v"))
    assert drill_run.KIND.points_in_use(row)
    assert not drill_run.KIND.is_recovery

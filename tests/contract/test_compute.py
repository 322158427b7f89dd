# SPDX-License-Identifier: Apache-2.0
"""Nova, as antipode calls it: servers and what belongs to them, and the quiesce add-on."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from antipode.cloud import answers
from antipode.cloud.api import ApiError
from antipode.cloud.site import Site
from tests.contract.conftest import (
    USER_DATA,
    Machine,
    Things,
    compute,
    flavor,
    public_key,
    refused,
    tenant_network,
    there,
    until,
)

NOBODY = str(uuid.UUID(int=7))


def disk(volume: dict[str, Any], boot_index: int = 0) -> dict[str, Any]:
    return {
        "uuid": volume["id"],
        "source_type": "volume",
        "destination_type": "volume",
        "boot_index": boot_index,
    }


def server_body(site: Site, *disks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "contract",
        "flavorRef": flavor(site)["id"],
        "block_device_mapping_v2": list(disks),
        "networks": "none",
        **changes,
    }


# ---- reading servers ----


def test_the_microversion_used_is_one_that_both_sides_know(site: Site) -> None:
    assert (2, 79) <= version(site) <= (2, 100)


def version(site: Site) -> tuple[int, ...]:
    return tuple(map(int, site.compute.version.split(".")))


def test_a_microversion_from_the_future_is_refused_with_406(site: Site) -> None:
    api = compute(site)
    future = type(api)(api.site, api.service, api._send, api.newest)
    future.microversion = (2, 999)
    error = refused(lambda: future.get("/servers/detail"))
    assert error.status == 406
    assert "Version 2.999 is not supported by the API" in error.reason


@pytest.mark.core
def test_a_server_is_listed_with_all_that_is_needed_to_build_it_again(
    site: Site, machine: Machine
) -> None:
    listed = next(s for s in site.compute.servers() if s["id"] == machine.id)
    tiny = flavor(site)
    assert listed["status"] == "ACTIVE"
    assert listed["metadata"] == {"role": "db"}
    assert {
        k: listed["flavor"][k] for k in ("original_name", "vcpus", "ram", "disk", "ephemeral")
    } == {
        "original_name": "tiny",
        "vcpus": tiny["vcpus"],
        "ram": tiny["ram"],
        "disk": tiny["disk"],
        "ephemeral": 0,
    }
    assert listed["flavor"]["extra_specs"] == {}
    assert listed["image"] == ""
    assert listed["key_name"] == machine.keypair
    assert listed["user_id"] == site.user_id
    assert listed["config_drive"] == "True"
    assert listed["tags"] == ["one", "two"]
    assert listed["description"] == "made by the contract suite"
    assert listed["locked"] is False
    assert listed["OS-EXT-SRV-ATTR:root_device_name"] == "/dev/vda"
    assert listed["OS-EXT-SRV-ATTR:user_data"] == USER_DATA
    assert listed["OS-EXT-STS:task_state"] is None
    assert listed["OS-EXT-STS:vm_state"] == "active"
    assert listed["OS-EXT-AZ:availability_zone"] == "nova"
    if site.compute.takes_hostname:
        assert listed["OS-EXT-SRV-ATTR:hostname"] == "contract-host"
    if version(site) >= (2, 96):
        assert listed["pinned_availability_zone"] is None
    if version(site) >= (2, 100):
        hints = {"group": [machine.group], "rack": ["second"]}
        assert listed["scheduler_hints"] == hints
    assert {**listed, "server_groups": [machine.group]} == site.compute.server(machine.id), (
        "the list does not tell the groups"
    )


def test_the_addresses_of_a_server_name_network_address_and_mac(
    site: Site, machine: Machine
) -> None:
    addresses = there(site.compute.server(machine.id))["addresses"]
    assert list(addresses) == [tenant_network(site)["name"]]
    (address,) = next(iter(addresses.values()))
    assert (address["addr"], address["OS-EXT-IPS-MAC:mac_addr"]) == (
        "10.7.0.77",
        machine.port["mac_address"],
    )


def test_only_an_administrator_is_shown_the_root_device_and_the_user_data(
    tenant: Site, machine: Machine
) -> None:
    seen = tenant.compute.server(machine.id)
    assert seen is not None
    assert not [
        k for k in ("OS-EXT-SRV-ATTR:root_device_name", "OS-EXT-SRV-ATTR:user_data") if k in seen
    ]


@pytest.mark.core
def test_attachments_tell_volume_device_tag_and_what_becomes_of_the_volume(
    site: Site, machine: Machine
) -> None:
    attached = {
        a["volumeId"]: (a["device"], a["tag"], a["delete_on_termination"])
        for a in site.compute.attachments(machine.id)
    }
    assert attached == {
        machine.root["id"]: ("/dev/vda", "boot", False),
        machine.data["id"]: ("/dev/vdb", "records", False),
    }


@pytest.mark.core
def test_interfaces_tell_port_mac_and_tag(site: Site, machine: Machine) -> None:
    (interface,) = site.compute.interfaces(machine.id)
    assert (interface["port_id"], interface["mac_addr"]) == (
        machine.port["id"],
        machine.port["mac_address"],
    )
    assert interface["tag"] == "first"


def test_diagnostics_tell_the_order_of_the_interfaces_and_addresses_name_their_networks(
    site: Site, things: Things, image: dict[str, Any]
) -> None:
    ports = [things.port() for _ in range(3)]
    wanted = [{"port": p["id"]} for p in (ports[2], ports[0], ports[1])]
    server = things.server(things.volume(imageRef=image["id"]), networks=wanted)
    macs = [p["mac_address"] for p in (ports[2], ports[0], ports[1])]
    assert site.compute.plugged(server["id"]) == macs
    addresses = there(site.compute.server(server["id"]))["addresses"]
    told = [a["OS-EXT-IPS-MAC:mac_addr"] for of in addresses.values() for a in of]
    assert (list(addresses), told) == ([tenant_network(site)["name"]], macs)
    compute(site).post(f"/servers/{server['id']}/action", {"os-stop": None})
    until(lambda: there(site.compute.server(server["id"]))["status"] == "SHUTOFF", "it is off")
    assert site.compute.plugged(server["id"]) is None


def test_diagnostics_are_for_administrators(tenant: Site, machine: Machine) -> None:
    assert tenant.compute.plugged(machine.id) is None


def test_the_console_log_of_a_server_is_its_guests_words(site: Site, machine: Machine) -> None:
    log = until(
        lambda: "canary: " in (text := site.compute.console(machine.id)) and text,
        "its guest has printed a line",
    )
    assert isinstance(log, str)
    assert refused(lambda: site.compute.console(NOBODY)).status == 404


@pytest.mark.core
def test_the_volumes_of_a_server_are_in_use_and_say_by_whom(site: Site, machine: Machine) -> None:
    volume = there(site.volumes.volume(machine.root["id"]))
    assert volume["status"] == "in-use"
    assert [(a["server_id"], a["device"]) for a in volume["attachments"]] == [
        (machine.id, "/dev/vda")
    ]


def test_the_port_of_a_server_names_it(site: Site, machine: Machine) -> None:
    (port,) = site.networks.ports_of([machine.id])
    assert (port["id"], port["device_id"]) == (machine.port["id"], machine.id)
    assert port["device_owner"].startswith("compute:")


def test_a_server_that_is_not_there_is_none_and_its_deletion_is_fine(site: Site) -> None:
    assert site.compute.server(NOBODY) is None
    site.compute.delete_server(NOBODY)
    assert (
        refused(lambda: site.compute.attachments(NOBODY)).reason
        == f"Instance {NOBODY} could not be found."
    )


def test_servers_are_listed_page_by_page_newest_first(
    things: Things, site: Site, machine: Machine, image: dict[str, Any]
) -> None:
    newer = things.server(things.volume(imageRef=image["id"]))
    pages = compute(site).pages("/servers/detail", answers.SERVERS, {"limit": 1})
    ids = [server["id"] for page in pages for server in page]
    assert ids.index(newer["id"]) < ids.index(machine.id)
    assert len(ids) == len(set(ids))


def test_a_volume_can_be_kept_from_ending_with_its_server(
    things: Things, site: Site, image: dict[str, Any]
) -> None:
    volume = things.volume(imageRef=image["id"])
    server = things.server(
        volume, block_device_mapping_v2=[{**disk(volume), "delete_on_termination": True}]
    )
    assert [a["delete_on_termination"] for a in site.compute.attachments(server["id"])] == [True]
    site.compute.keep_volume(server["id"], volume["id"])
    until(
        lambda: not site.compute.attachments(server["id"])[0]["delete_on_termination"],
        "the volume is kept",
    )


# ---- booting servers ----


def test_a_server_is_not_booted_with_what_does_not_exist(site: Site, machine: Machine) -> None:
    root = disk(machine.root)
    create = site.compute.create_server
    refusals = {
        "flavor": refused(lambda: create(server_body(site, root, flavorRef=NOBODY))),
        "volume": refused(lambda: create(server_body(site, {**root, "uuid": NOBODY}))),
        "port": refused(lambda: create(server_body(site, root, networks=[{"port": NOBODY}]))),
        "keypair": refused(lambda: create(server_body(site, root, key_name="no-such-key"))),
        "group": refused(lambda: create(server_body(site, root), {"group": NOBODY})),
        "zone": refused(lambda: create(server_body(site, root, availability_zone="mars"))),
    }
    assert {what: error.status for what, error in refusals.items()} == dict.fromkeys(refusals, 400)
    assert refusals["flavor"].reason == f"Flavor {NOBODY} could not be found."
    assert (
        refusals["volume"].reason
        == f"Block Device Mapping is Invalid: failed to get volume {NOBODY}."
    )
    assert refusals["keypair"].reason == "Invalid key_name provided."


def test_a_server_is_not_booted_from_a_volume_that_is_in_use(site: Site, machine: Machine) -> None:
    error = refused(lambda: site.compute.create_server(server_body(site, disk(machine.root))))
    assert error.status == 400
    assert "in-use" in error.reason


def test_a_server_is_not_booted_from_a_volume_that_is_not_bootable(
    things: Things, site: Site
) -> None:
    volume = things.volume()
    error = refused(lambda: site.compute.create_server(server_body(site, disk(volume))))
    assert (error.status, error.reason) == (400, f"Block Device {volume['id']} is not bootable.")


def test_a_server_needs_a_boot_sequence_that_begins_at_0(things: Things, site: Site) -> None:
    volume = things.volume()
    error = refused(lambda: site.compute.create_server(server_body(site, disk(volume, 1))))
    assert error.status == 400
    assert (
        "Boot sequence for the instance and image/block device mapping combination is not valid"
        in error.reason
    )


def test_a_port_that_a_server_has_is_not_given_to_another(
    things: Things, site: Site, machine: Machine, image: dict[str, Any]
) -> None:
    volume = things.volume(imageRef=image["id"])
    error = refused(
        lambda: site.compute.create_server(
            server_body(site, disk(volume), networks=[{"port": machine.port["id"]}])
        )
    )
    assert (error.status, error.reason) == (409, f"Port {machine.port['id']} is still in use.")


@pytest.mark.core
def test_a_deleted_server_leaves_its_volumes_available_and_its_ports_free(
    things: Things, site: Site, image: dict[str, Any]
) -> None:
    volume, port = things.volume(imageRef=image["id"]), things.port()
    server = things.server(volume, networks=[{"port": port["id"]}])
    things.remove_server(server["id"])
    until(
        lambda: there(site.volumes.volume(volume["id"]))["status"] == "available",
        "the volume is free",
    )
    ports = site.networks.ports_on([port["network_id"]])
    assert [p["device_id"] for p in ports if p["id"] == port["id"]] == [""]


def test_a_volume_that_ends_with_its_server_is_deleted_with_it(
    things: Things, site: Site, image: dict[str, Any]
) -> None:
    volume = things.volume(imageRef=image["id"])
    disks = [{**disk(volume), "delete_on_termination": True}]
    server = things.server(volume, block_device_mapping_v2=disks)
    things.remove_server(server["id"])
    until(lambda: site.volumes.volume(volume["id"]) is None, "the volume is gone too")


def test_a_quota_that_is_exhausted_refuses_with_403_and_says_which(
    things: Things, site: Site, image: dict[str, Any]
) -> None:
    volume = things.volume(imageRef=image["id"])
    row = site.compute.quota(site.project_id)["instances"]
    path = f"/os-quota-sets/{site.project_id}"
    try:
        compute(site).call("PUT", path, {"quota_set": {"instances": row["in_use"]}})
        error = refused(lambda: site.compute.create_server(server_body(site, disk(volume))))
    finally:
        compute(site).call("PUT", path, {"quota_set": {"instances": row["limit"]}})
    assert error.status == 403
    used = f"Requested 1, but already used {row['in_use']} of {row['in_use']} instances"
    assert error.reason == f"Quota exceeded for instances: {used}"


def test_more_metadata_than_the_quota_is_refused_with_403(
    things: Things, site: Site, image: dict[str, Any]
) -> None:
    volume = things.volume(imageRef=image["id"])
    server = things.server(volume, metadata={"first": "1"})["id"]
    path = f"/os-quota-sets/{site.project_id}"
    limit = site.compute.quota(site.project_id)["metadata_items"]["limit"]
    too_much = server_body(site, disk(volume), metadata={"a": "1", "b": "2", "c": "3"})
    try:
        compute(site).call("PUT", path, {"quota_set": {"metadata_items": 2}})
        boots = refused(lambda: site.compute.create_server(too_much))
        site.compute.mark_server(server, {"second": "2"})
        marks = refused(lambda: site.compute.mark_server(server, {"third": "3"}))
        site.compute.mark_server(server, {"first": "another"})  # no item more
    finally:
        compute(site).call("PUT", path, {"quota_set": {"metadata_items": limit}})
    for error in (boots, marks):
        assert (error.status, error.reason) == (
            403,
            "Maximum number of metadata items exceeds 2",
        )
    metadata = there(site.compute.server(server))["metadata"]
    assert metadata == {"first": "another", "second": "2"}


@pytest.mark.core
def test_quotas_tell_limit_use_and_reservations(site: Site, machine: Machine) -> None:
    quota = site.compute.quota(site.project_id)
    for name in ("instances", "cores", "ram"):
        assert set(quota[name]) >= {"limit", "in_use", "reserved"}
        assert quota[name]["in_use"] > 0


def test_swap_of_a_flavor_takes_a_device_name_and_a_server_tells_its_specs(
    things: Things, site: Site, image: dict[str, Any]
) -> None:
    api, specs = compute(site), {"hw_rng:allowed": "True", "vnf:line": "gold"}
    wanted = {"name": things.name("swaps"), "vcpus": 1, "ram": 192, "disk": 0, "swap": 16}
    made = api.post("/flavors", {"flavor": wanted})["flavor"]["id"]
    things.removals.append(lambda: api.delete(f"/flavors/{made}"))
    api.post(f"/flavors/{made}/os-extra_specs", {"extra_specs": specs})
    (found,) = [f for f in site.compute.flavors() if f["id"] == made]
    assert (found["swap"], found["OS-FLV-EXT-DATA:ephemeral"]) == (16, 0)
    assert found["extra_specs"] == specs
    root, data = things.volume(imageRef=image["id"]), things.volume()
    disks = [disk(root), disk(data, -1)]
    server = things.server(root, flavorRef=made, block_device_mapping_v2=disks)
    shown = there(site.compute.server(server["id"]))["flavor"]
    assert {k: shown[k] for k in ("swap", "ephemeral", "extra_specs")} == {
        "swap": 16,
        "ephemeral": 0,
        "extra_specs": specs,
    }
    attached = site.compute.attachments(server["id"])
    assert {a["volumeId"]: a["device"] for a in attached} == {
        root["id"]: "/dev/vda",
        data["id"]: "/dev/vdc",
    }


def test_flavors_have_what_a_plan_compares(site: Site) -> None:
    assert {"id", "name", "vcpus", "ram", "disk"} <= set(flavor(site))


def test_there_is_an_availability_zone(site: Site) -> None:
    assert "nova" in site.compute.availability_zones()


def test_nova_compute_is_up_and_only_administrators_are_told(site: Site, tenant: Site) -> None:
    (service, *_) = site.compute.services("nova-compute")
    assert (service["binary"], service["state"], service["status"]) == (
        "nova-compute",
        "up",
        "enabled",
    )
    assert site.compute.services("no-such-service") == []
    assert refused(lambda: tenant.compute.services("nova-compute")).status == 403


def test_an_action_that_does_not_exist_is_refused_with_400(site: Site, machine: Machine) -> None:
    error = refused(lambda: compute(site).post(f"/servers/{machine.id}/action", {"levitate": None}))
    assert error.status == 400
    assert "levitate" in error.reason


# ---- keypairs and server groups ----


def test_an_imported_keypair_is_found_by_its_name_also_for_another_user(
    site: Site, tenant: Site, things: Things
) -> None:
    name = things.keypair()
    assert there(site.compute.keypair(name))["name"] == name
    assert there(site.compute.keypair(name))["type"] == "ssh"
    assert tenant.compute.keypair(name) is None
    assert site.compute.keypair(name, tenant.user_id) is None
    assert there(site.compute.keypair(name, site.user_id))["public_key"].startswith("ssh-ed25519 ")


def test_a_second_keypair_of_a_name_is_a_conflict_and_a_broken_key_a_bad_request(
    site: Site, things: Things
) -> None:
    name = things.keypair()
    assert (
        refused(lambda: site.compute.import_keypair(name, public_key("again"), "ssh")).status == 409
    )
    assert (
        refused(lambda: site.compute.import_keypair(f"{name}-2", "not a key", "ssh")).status == 400
    )


@pytest.mark.core
def test_a_server_group_is_in_the_list_with_its_policy_and_its_members(
    site: Site, machine: Machine
) -> None:
    group = next(g for g in site.compute.server_groups() if g["id"] == machine.group)
    assert (group["policy"], group["members"]) == ("soft-anti-affinity", [machine.id])


def test_a_server_group_has_the_rules_that_it_was_made_with(site: Site, things: Things) -> None:
    rules = {"max_server_per_host": 2}
    group = site.compute.create_server_group(things.name(), "anti-affinity", rules)
    things.removals.append(lambda: compute(site).delete(f"/os-server-groups/{group}"))
    listed = next(g for g in site.compute.server_groups() if g["id"] == group)
    assert (listed["policy"], listed["rules"]) == ("anti-affinity", rules)
    error = refused(lambda: site.compute.create_server_group("soft", "soft-affinity", rules))
    assert error.status == 400


def built(site: Site, server: str) -> dict[str, Any]:
    """A server as it is when Nova has built it, or failed to."""
    until(lambda: there(site.compute.server(server))["status"] != "BUILD", "it is built")
    return there(site.compute.server(server))


def test_a_second_server_of_a_hard_group_finds_no_host_where_there_is_one(
    site: Site, things: Things, image: dict[str, Any]
) -> None:
    group = site.compute.create_server_group(things.name(), "anti-affinity")
    things.removals.append(lambda: compute(site).delete(f"/os-server-groups/{group}"))
    booted = []
    for _ in range(2):
        root = things.volume(imageRef=image["id"])
        server = site.compute.create_server(server_body(site, disk(root)), {"group": group})
        things.removals.append(partial(things.remove_server, server))
        booted.append(built(site, server))
    assert [s["status"] for s in booted] == ["ACTIVE", "ERROR"]
    assert "No valid host was found" in booted[1]["fault"]["message"]


# ---- the quiesce add-on ----


def test_the_add_on_tells_its_version_and_its_timeouts(site: Site) -> None:
    support = site.compute.quiesce_support()
    assert support is not None
    assert {"version", "default_timeout", "maximum_timeout"} <= set(support)
    assert support["maximum_timeout"] >= support["default_timeout"] >= 1


def shown_quiesce(site: Site, machine: Machine) -> dict[str, Any]:
    shown: dict[str, Any] = compute(site).get(f"/servers/{machine.id}/os-quiesce")["quiesce"]
    return shown


@pytest.mark.core
def test_a_quiesced_server_says_so_until_it_is_thawed(site: Site, machine: Machine) -> None:
    assert not site.compute.is_quiesced(machine.id)
    nothing = {"quiesced": False, "state": None, "id": None, "since": None, "expires_at": None}
    assert shown_quiesce(site, machine) == nothing
    site.compute.quiesce(machine.id, 60, 60)
    try:
        shown = shown_quiesce(site, machine)
        assert set(shown) == set(nothing)
        assert (shown["quiesced"], shown["state"]) == (True, "quiesced")
        assert shown["since"] < shown["expires_at"]
        assert there(site.compute.server(machine.id))["OS-EXT-STS:task_state"] == "quiesced"
    finally:
        site.compute.unquiesce(machine.id, 60)
    assert shown_quiesce(site, machine) == nothing
    assert there(site.compute.server(machine.id))["OS-EXT-STS:task_state"] is None


@pytest.mark.core
def test_each_quiesce_has_an_id_of_its_own_which_stays_while_nothing_thaws(
    site: Site, machine: Machine
) -> None:
    ids: list[str] = []
    for _ in range(2):
        site.compute.quiesce(machine.id, 60, 60)
        try:
            seen = {shown_quiesce(site, machine)["id"] for _ in range(2)}
        finally:
            site.compute.unquiesce(machine.id, 60)
        assert len(seen) == 1
        ids += seen
    assert all(ids)
    assert ids[0] != ids[1]


def test_a_quiesced_server_is_refused_what_would_hurt_its_guest(
    site: Site, machine: Machine
) -> None:
    site.compute.quiesce(machine.id, 60, 60)
    try:
        bodies: list[dict[str, Any]] = [
            {"os-stop": None},
            {"reboot": {"type": "HARD"}},
            {"lock": None},
        ]
        errors = [
            refused(partial(compute(site).post, f"/servers/{machine.id}/action", body))
            for body in bodies
        ]
        assert site.compute.is_quiesced(machine.id)
    finally:
        site.compute.unquiesce(machine.id, 60)
    said = [(error.status, error.reason) for error in errors]
    assert said == [
        (409, f"Cannot '{name}' instance {machine.id} while it is in task_state quiesced")
        for name in ("stop", "reboot", "lock")
    ]


def test_a_reset_of_the_state_thaws(site: Site, machine: Machine) -> None:
    quiesce, unquiesce = site.compute.quiesce, site.compute.unquiesce
    quiesce(machine.id, 60, 60)
    try:
        compute(site).post(f"/servers/{machine.id}/action", {"os-resetState": {"state": "active"}})
        assert not site.compute.is_quiesced(machine.id)
        until(lambda: accepted(partial(quiesce, machine.id, 60, 60)), "its guest is thawed")
    finally:
        until(lambda: accepted(partial(unquiesce, machine.id, 60)), "it is unquiesced")


def accepted(call: Callable[[], object]) -> bool:
    """Whether a call is no conflict. A reset of the state does not wait for the guest: that is
    thawed a moment later, also where it was quiesced again, and other calls are conflicts until
    then.
    """
    try:
        call()
    except ApiError as error:
        if error.status != 409:
            raise
        return False
    return True


@pytest.mark.core
def test_a_second_quiesce_is_a_conflict_and_leaves_the_first_as_it_was(
    site: Site, machine: Machine
) -> None:
    site.compute.quiesce(machine.id, 60, 60)
    try:
        error = refused(lambda: site.compute.quiesce(machine.id, 60, 60))
        assert error.status == 409
        shown = shown_quiesce(site, machine)
        since, until_at = shown["since"], shown["expires_at"]
        assert (
            error.reason
            == f"Instance {machine.id} is already quiesced, since {since} and until {until_at} "
            "at the latest"
        )
    finally:
        site.compute.unquiesce(machine.id, 60)


def test_thawing_what_is_not_frozen_is_fine(site: Site, machine: Machine) -> None:
    site.compute.unquiesce(machine.id, 60)
    site.compute.unquiesce(machine.id, 60)


@pytest.mark.core
def test_a_server_that_nothing_thaws_is_thawed_by_the_add_on(site: Site, machine: Machine) -> None:
    began = time.monotonic()
    site.compute.quiesce(machine.id, 2, 60)
    until(lambda: not site.compute.is_quiesced(machine.id), "it is thawed by itself", 60)
    assert time.monotonic() - began > 1.5, "it was thawed before its time"


@pytest.mark.parametrize("timeout", [0, -1, 100_000, "soon"])
def test_a_timeout_that_is_none_or_too_long_is_refused_with_400(
    site: Site, machine: Machine, timeout: object
) -> None:
    error = refused(
        lambda: compute(site).post(
            f"/servers/{machine.id}/action", {"quiesce": {"timeout": timeout}}
        )
    )
    assert error.status == 400
    assert not site.compute.is_quiesced(machine.id)


@pytest.mark.core
def test_only_an_administrator_may_quiesce(tenant: Site, machine: Machine) -> None:
    error = refused(lambda: tenant.compute.quiesce(machine.id, 10, 60))
    assert error.status == 403
    assert not tenant.compute.is_quiesced(machine.id)


def test_a_server_that_does_not_exist_is_not_quiesced_and_its_thaw_is_fine(site: Site) -> None:
    assert refused(lambda: site.compute.quiesce(NOBODY, 10, 60)).status == 404
    site.compute.unquiesce(NOBODY, 60)


def test_a_server_without_an_agent_is_refused_with_409(things: Things, site: Site) -> None:
    volume = things.volume()
    site.volumes.set_bootable(volume["id"])
    server = things.server(volume)
    error = refused(lambda: site.compute.quiesce(server["id"], 10, 60))
    assert (error.status, error.reason) == (409, "QEMU guest agent is not enabled")


def test_a_server_that_is_off_is_refused_with_409_and_counts_as_thawed(
    things: Things, site: Site, image: dict[str, Any]
) -> None:
    server = things.server(things.volume(imageRef=image["id"]))
    compute(site).post(f"/servers/{server['id']}/action", {"os-stop": None})
    until(lambda: there(site.compute.server(server["id"]))["status"] == "SHUTOFF", "it is off")
    error = refused(lambda: site.compute.quiesce(server["id"], 10, 60))
    assert (error.status, error.reason) == (
        409,
        f"Cannot 'quiesce' instance {server['id']} while it is in vm_state stopped",
    )
    site.compute.unquiesce(server["id"], 60)
    again = refused(
        lambda: compute(site).post(f"/servers/{server['id']}/action", {"os-stop": None})
    )
    assert (again.status, again.reason) == (
        409,
        f"Cannot 'stop' instance {server['id']} while it is in vm_state stopped",
    )


# ---- what a fence calls ----


@pytest.mark.core
def test_a_locked_server_says_why_and_refuses_members_and_no_administrator(
    things: Things, site: Site, tenant: Site, image: dict[str, Any]
) -> None:
    server = things.server(things.volume(imageRef=image["id"]))["id"]
    site.compute.lock_server(server, "antipode: old copy")
    found = there(site.compute.server(server))
    assert (found["locked"], found["locked_reason"]) == (True, "antipode: old copy")
    site.compute.lock_server(server, "another reason")
    assert there(site.compute.server(server))["locked_reason"] == "antipode: old copy"
    for call in (
        partial(tenant.compute.stop_server, server),
        partial(tenant.compute.mark_server, server, {"a": "b"}),
        partial(tenant.compute.delete_server, server),
    ):
        error = refused(call)
        assert (error.status, error.reason) == (409, f"Instance {server} is locked")
    site.compute.mark_server(server, {"a": "b"})
    site.compute.stop_server(server)
    until(lambda: there(site.compute.server(server))["status"] == "SHUTOFF", "it is off")
    start = partial(compute(tenant).post, f"/servers/{server}/action", {"os-start": None})
    assert refused(start).status == 409
    site.compute.unlock_server(server)
    site.compute.unlock_server(server)
    found = there(site.compute.server(server))
    assert (found["locked"], found["locked_reason"]) == (False, None)
    assert found["metadata"]["a"] == "b"
    tenant.compute.unmark_server(server, "a")
    assert "a" not in there(site.compute.server(server))["metadata"]
    site.compute.unmark_server(server, "a")  # it is not there any more


def test_a_lock_from_another_project_is_known_and_not_released_by_its_owner(
    things: Things, site: Site, tenant: Site, administrator: Any, image: dict[str, Any]
) -> None:
    server = things.server(things.volume(imageRef=image["id"]))["id"]

    def is_others() -> bool:
        return tenant.compute.is_locked_from(server, tenant.project_id)

    assert not is_others()
    tenant.compute.lock_server(server, None)
    assert not is_others()
    tenant.compute.unlock_server(server)
    administrator.compute.lock_server(server)
    assert is_others()
    assert refused(lambda: tenant.compute.unlock_server(server)).status == 403
    site.compute.unlock_server(server)  # as administrator of the server's own project
    assert not is_others()
    assert there(site.compute.server(server))["locked"] is False


def test_what_was_done_to_a_server_says_by_whom_the_newest_first_and_not_what_was_refused(
    things: Things, site: Site, tenant: Site, administrator: Any, image: dict[str, Any]
) -> None:
    server = things.server(things.volume(imageRef=image["id"]))["id"]
    owner, other = tenant.project_id, administrator.current_project_id
    tenant.compute.stop_server(server)
    until(lambda: there(site.compute.server(server))["status"] == "SHUTOFF", "it is off")
    administrator.compute.lock_server(server)
    assert refused(lambda: tenant.compute.start_server(server)).status == 409
    administrator.compute.start_server(server)
    until(lambda: there(site.compute.server(server))["status"] == "ACTIVE", "it is on")
    done = compute(tenant).get(f"/servers/{server}/os-instance-actions")["instanceActions"]
    assert [(d["action"], d["project_id"]) for d in done] == [
        ("start", other),
        ("lock", other),
        ("stop", owner),
        ("create", owner),
    ]
    creator, stopper = done[-1]["user_id"], done[-2]["user_id"]
    assert creator != stopper  # two users of one project
    administrator.compute.unlock_server(server)


@pytest.mark.core
def test_a_server_that_is_being_stopped_can_be_locked(
    things: Things, site: Site, image: dict[str, Any]
) -> None:
    server = things.server(things.volume(imageRef=image["id"]))["id"]
    site.compute.stop_server(server)
    site.compute.lock_server(server, "antipode: old copy")
    until(lambda: there(site.compute.server(server))["status"] == "SHUTOFF", "it is off")
    assert there(site.compute.server(server))["locked"] is True
    site.compute.unlock_server(server)


@pytest.mark.core
def test_the_port_of_a_server_is_put_down_and_up_again(site: Site, machine: Machine) -> None:
    port = machine.port["id"]

    def status() -> str:
        (found,) = site.networks.ports([port])
        assert found["device_id"] == machine.id
        return str(found["status"])

    site.networks.update_port(port, {"admin_state_up": False})
    site.networks.update_port(port, {"admin_state_up": False})
    (found,) = site.networks.ports_of([machine.id])
    assert found["admin_state_up"] is False
    until(lambda: status() == "DOWN", "it is down")
    site.networks.update_port(port, {"admin_state_up": True})
    until(lambda: status() == "ACTIVE", "it is up again")

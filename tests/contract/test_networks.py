# SPDX-License-Identifier: Apache-2.0
"""Neutron, as antipode calls it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from antipode.cloud.site import Site
from tests.contract.conftest import Things, network, refused, tenant_network

NOBODY = str(uuid.UUID(int=7))


def subnet(site: Site) -> dict[str, Any]:
    return site.networks.subnets([tenant_network(site)["id"]])[0]


def test_networks_are_found_by_id_and_tell_whose_they_are(site: Site) -> None:
    home = tenant_network(site)
    assert [n["id"] for n in site.networks.networks([home["id"]])] == [home["id"]]
    assert home["project_id"] == site.project_id
    assert home["shared"] is False
    assert site.networks.networks([NOBODY]) == []


def test_subnets_tell_their_network_and_their_addresses(site: Site) -> None:
    assert {"id", "name", "cidr", "network_id"} <= set(subnet(site))
    assert subnet(site)["cidr"] == "10.7.0.0/24"


@pytest.mark.core
def test_a_port_has_the_addresses_and_the_description_that_were_wanted(
    site: Site, things: Things
) -> None:
    group = next(g for g in site.networks.security_groups(site.project_id) if g["name"] == "canary")
    pair = {"ip_address": "10.7.0.99"}
    port = things.port(
        mac_address="fa:16:3e:aa:bb:cc",
        fixed_ips=[{"ip_address": "10.7.0.66", "subnet_id": subnet(site)["id"]}],
        description="antipode:key=k antipode:run=r",
        security_groups=[group["id"]],
        allowed_address_pairs=[pair],
        tags=["one", "two"],
    )
    assert port["mac_address"] == "fa:16:3e:aa:bb:cc"
    assert port["fixed_ips"] == [{"ip_address": "10.7.0.66", "subnet_id": subnet(site)["id"]}]
    assert port["description"] == "antipode:key=k antipode:run=r"
    assert port["security_groups"] == [group["id"]]
    assert [p["ip_address"] for p in port["allowed_address_pairs"]] == ["10.7.0.99"]
    assert (port["device_id"], port["port_security_enabled"], port["binding:vnic_type"]) == (
        "",
        True,
        "normal",
    )
    assert sorted(network(site).get(f"/ports/{port['id']}")["port"]["tags"]) == ["one", "two"]


@pytest.mark.core
def test_a_port_is_found_by_its_mac_on_its_network(site: Site, things: Things) -> None:
    port = things.port()
    found = site.networks.port_with_mac(port["network_id"], port["mac_address"])
    assert found is not None
    assert found["id"] == port["id"]
    assert site.networks.port_with_mac(port["network_id"], "fa:16:3e:00:00:00") is None


def test_ports_are_listed_by_network_and_by_server(site: Site, things: Things) -> None:
    port = things.port()
    assert port["id"] in {p["id"] for p in site.networks.ports_on([port["network_id"]])}
    assert site.networks.ports_on([NOBODY]) == []
    assert site.networks.ports_of([NOBODY]) == []


def test_a_port_without_wishes_gets_an_address_of_the_pool_and_the_default_group(
    site: Site, things: Things
) -> None:
    port = things.port()
    assert port["fixed_ips"][0]["ip_address"].startswith("10.7.0.2")
    default = next(
        g for g in site.networks.security_groups(site.project_id) if g["name"] == "default"
    )
    assert port["security_groups"] == [default["id"]]


@pytest.mark.core
def test_an_address_in_use_is_a_conflict(site: Site, things: Things) -> None:
    port = things.port()
    wanted = {
        "network_id": port["network_id"],
        "fixed_ips": [{"ip_address": port["fixed_ips"][0]["ip_address"]}],
    }
    error = refused(lambda: site.networks.create_port(wanted))
    assert error.status == 409
    assert port["fixed_ips"][0]["ip_address"] in error.reason


def test_a_mac_in_use_is_a_conflict(site: Site, things: Things) -> None:
    port = things.port()
    error = refused(
        lambda: site.networks.create_port(
            {"network_id": port["network_id"], "mac_address": port["mac_address"]}
        )
    )
    expected = (
        f"Unable to complete operation for network {port['network_id']}. The mac address "
        f"{port['mac_address']} is in use."
    )
    assert (error.status, error.reason) == (409, expected)


def test_an_address_of_no_subnet_is_a_bad_request(site: Site) -> None:
    wanted = {"network_id": tenant_network(site)["id"], "fixed_ips": [{"ip_address": "192.0.2.1"}]}
    error = refused(lambda: site.networks.create_port(wanted))
    assert error.status == 400
    assert "192.0.2.1" in error.reason


def test_what_a_port_is_to_be_of_has_to_exist(site: Site) -> None:
    home = tenant_network(site)["id"]
    group = refused(
        lambda: site.networks.create_port({"network_id": home, "security_groups": [NOBODY]})
    )
    assert (group.status, group.reason) == (404, f"Security group {NOBODY} does not exist")
    nowhere = refused(lambda: site.networks.create_port({"network_id": NOBODY}))
    assert (nowhere.status, nowhere.reason) == (404, f"Network {NOBODY} could not be found.")


def test_a_port_that_is_not_there_is_deleted_without_complaint(site: Site) -> None:
    site.networks.delete_port(NOBODY)
    error = refused(lambda: network(site).get(f"/ports/{NOBODY}"))
    assert (error.status, error.reason) == (404, f"Port {NOBODY} could not be found.")


@pytest.mark.core
def test_security_groups_are_those_of_the_project(site: Site) -> None:
    groups = site.networks.security_groups(site.project_id)
    assert {"default", "canary"} <= {g["name"] for g in groups}
    assert {g["project_id"] for g in groups} == {site.project_id}


def test_the_quota_of_ports_tells_limit_and_use(site: Site, things: Things) -> None:
    before = site.networks.quota(site.project_id)["port"]
    things.port()
    after = site.networks.quota(site.project_id)["port"]
    assert after["used"] == before["used"] + 1
    assert {"limit", "used", "reserved"} <= set(after)


def test_a_quota_that_is_exhausted_is_a_conflict(site: Site) -> None:
    row = site.networks.quota(site.project_id)["port"]
    try:
        network(site).call("PUT", f"/quotas/{site.project_id}", {"quota": {"port": row["used"]}})
        error = refused(
            lambda: site.networks.create_port({"network_id": tenant_network(site)["id"]})
        )
    finally:
        network(site).call("PUT", f"/quotas/{site.project_id}", {"quota": {"port": row["limit"]}})
    assert (error.status, error.reason) == (409, "Quota exceeded for resources: ['port'].")


@pytest.mark.core
def test_an_agent_of_each_kind_is_alive_as_administrators_are_told(site: Site) -> None:
    agents = site.networks.agents()
    assert {"DHCP agent", "Open vSwitch agent"} <= {a["agent_type"] for a in agents}
    assert all(a["host"] for a in agents)
    assert {(a["alive"], a["admin_state_up"]) for a in agents} == {(True, True)}

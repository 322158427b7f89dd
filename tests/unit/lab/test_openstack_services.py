# SPDX-License-Identifier: Apache-2.0
"""What must hold of the OpenStack services' configuration before anything runs."""

from __future__ import annotations

import configparser
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab import extras
from lab.services import (
    barbican,
    cinder,
    heat,
    keystone,
    neutron,
    nova,
    openstack_conf,
    services_of,
    swift,
)
from lab.site import BACKUP_STORE, SITES, Site

PASTE = """\
[composite:openstack_compute_api_v21]
keystone = cors authtoken keystonecontext osapi_compute_app_v21

[composite:openstack_compute_api_v21_legacy_v2_compatible]
keystone = cors authtoken keystonecontext legacy_v2_compatible osapi_compute_app_v21

[filter:keystonecontext]
paste.filter_factory = nova.api.auth:NovaKeystoneContext.factory
"""


@pytest.fixture(params=SITES.values(), ids=lambda site: site.name)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("lab.site.ROOT", tmp_path)
    assert isinstance(request.param, Site)
    return request.param


def read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(path.read_text())
    return parser


def test_keys_are_in_barbican_where_a_site_has_it_and_cinder_vouches_for_its_callers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [s for s in services_of(site) if s.name == "barbican"]
    assert set(barbican.key_manager(site, "cinder")) == {"key_manager"}
    extras.add(site, extras.KEY_MANAGER)
    monkeypatch.setattr(barbican, "packaged", lambda service, name: site.home / name)
    (service,) = [s for s in services_of(site) if s.name == "barbican"]
    barbican.configure(site)
    (program,) = service.programs(site)
    conf = read(site.data / "barbican" / ".barbican" / "barbican.conf")
    assert program.environment["HOME"] == str(site.data / "barbican")
    assert conf.defaults()["host_href"] == site.url(barbican.PORT)
    sections = barbican.key_manager(site, "cinder")
    assert sections["barbican"]["send_service_user_token"] is True
    assert sections["barbican_service_user"]["username"] == "cinder"


def test_a_site_has_heat_on_request_only_and_its_api_finds_its_configuration_at_home(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [s for s in services_of(site) if s.name == "heat"]
    extras.add(site, extras.HEAT)
    monkeypatch.setattr(heat, "packaged", lambda service, name: site.home / name)
    (service,) = [s for s in services_of(site) if s.name == "heat"]
    heat.configure(site)
    api, engine = service.programs(site)
    conf = read(Path(api.environment["HOME"]) / ".heat" / "heat.conf")
    assert conf["DEFAULT"]["deferred_auth_method"] == "trusts"
    assert "project_name" not in conf["trustee"]
    assert str(site.data / "heat" / ".heat" / "heat.conf") in engine.command


def test_programs_that_work_in_another_way_with_an_extra_are_replaced_when_it_is_added(
    site: Site,
) -> None:
    before = environments(site)
    extras.add(site, extras.KEY_MANAGER)
    keyed = environments(site)
    assert {"cinder-volume", "cinder-backup", "cinder-api", "nova-compute"} <= changed(
        before, keyed
    )
    extras.add(site, extras.REPLICATION)
    assert "nova-compute" in changed(keyed, environments(site))


def environments(site: Site) -> dict[str, dict[str, str]]:
    programs = (p for service in services_of(site) for p in service.programs(site))
    return {program.name: dict(program.environment) for program in programs}


def changed(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> set[str]:
    return {name for name in before if after[name] != before[name]}


def test_neutron_has_routers_trunks_and_qos_only_where_they_were_added(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neutron, "packaged", lambda service, name: site.home / name)
    neutron.configure(site)
    plain = read(site.etc / "neutron" / "neutron.conf")
    assert (plain.defaults()["service_plugins"], plain.has_section("ml2_type_flat")) == ("", False)
    assert "neutron-l3-agent" not in environments(site)
    before = environments(site)
    extras.add(site, extras.NETWORK)
    neutron.configure(site)
    conf = read(site.etc / "neutron" / "neutron.conf")
    assert {"router", "trunk", "qos"} <= set(conf.defaults()["service_plugins"].split(","))
    assert "port_security" in conf["ml2"]["extension_drivers"].split(",")
    assert conf["ml2"]["mechanism_drivers"] == plain["ml2"]["mechanism_drivers"]
    assert conf["agent"]["root_helper"] == ""
    assert "neutron-l3-agent" in environments(site)
    assert {p for p in changed(before, environments(site)) if p.startswith("neutron")} == {
        "neutron-api", "neutron-rpc", "neutron-ovs-agent", "neutron-dhcp-agent"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("running", "deleted"),
    [
        (set(), {"qdhcp-1", "qrouter-2"}),
        ({"neutron-l3-agent"}, {"qdhcp-1"}),
        ({"neutron-l3-agent", "neutron-dhcp-agent"}, set()),
    ],
)
def test_only_namespaces_of_agents_that_do_not_run_are_removed(
    site: Site, monkeypatch: pytest.MonkeyPatch, running: set[str], deleted: set[str]
) -> None:
    removed: set[str] = set()

    def run(_: Site, command: list[str], **options: object) -> SimpleNamespace:
        if command[:3] == ["ip", "netns", "delete"]:
            removed.add(command[3])
        listed = "qdhcp-1 (id: 0)\nqrouter-2 (id: 1)\n"
        return SimpleNamespace(stdout=listed if command == ["ip", "netns", "list"] else "")

    monkeypatch.setattr("lab.services.neutron.inside.run", run)
    monkeypatch.setattr("lab.services.neutron.supervision.running", lambda _: running)
    (agents,) = [s for s in services_of(site) if s.name == "neutron-agents"]
    agents.prepare(site)
    assert removed == deleted


def test_booleans_and_lists_are_written_as_oslo_config_reads_them(tmp_path: Path) -> None:
    openstack_conf.write(
        tmp_path / "new" / "x.conf",
        {"DEFAULT": {"debug": False}, "a": {"list": ["x", "y"], "n": 3, "none": ""}},
    )
    conf = read(tmp_path / "new" / "x.conf")
    assert conf.defaults() == {"debug": "false"}
    assert (conf["a"]["list"], conf["a"]["n"], conf["a"]["none"]) == ("x,y", "3", "")


def test_the_quiesce_add_on_follows_keystonecontext_in_both_pipelines_only() -> None:
    adapted = nova._with_quiesce(PASTE)
    assert adapted.count(" keystonecontext quiesce ") == 2
    assert adapted.replace(" quiesce ", " ").startswith(PASTE)
    assert "paste.filter_factory = nova_quiesce:filter_factory" in adapted.removeprefix(PASTE)


def test_site_b_names_no_address_of_site_a_in_any_file(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nova, "packaged", lambda service, name: site.home / name)
    site.home.mkdir()
    (site.home / "api-paste.ini").write_text(PASTE)
    for configure in (
        keystone.configure,
        neutron.configure,
        nova.configure,
        cinder.configure,
        swift.Swift().configure,
    ):
        configure(site)
    others = [other.address for other in SITES.values() if other != site]
    named = {
        path.name
        for path in site.etc.rglob("*")
        if path.is_file() and any(other in path.read_text() for other in others)
    }
    # the backup store, which is at site-b by nature
    assert named == (set() if site == BACKUP_STORE else {"cinder.conf"})


def test_both_sites_keep_backups_in_the_same_account_and_container(site: Site) -> None:
    cinder.configure(site)
    options = read(site.etc / "cinder" / "cinder.conf").defaults()
    assert options["backup_swift_auth_url"] == "http://10.86.0.12:5000/v3"
    assert (options["backup_swift_project"], options["backup_swift_container"]) == (
        "backup",
        "volumebackups",
    )


def test_nova_compute_knows_of_no_database(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nova, "packaged", lambda service, name: site.home / name)
    site.home.mkdir()
    (site.home / "api-paste.ini").write_text(PASTE)
    nova.configure(site)
    assert read(site.etc / "nova" / "nova.conf").has_section("database")
    compute = read(site.etc / "nova" / "nova-compute.conf")
    assert not compute.has_section("database")
    assert not compute.has_section("api_database")


def test_only_the_backup_store_runs_swift_unless_containers_are_synchronized(site: Site) -> None:
    def swift_programs() -> set[str]:
        programs = (p.name for service in services_of(site) for p in service.programs(site))
        return {name for name in programs if name.startswith("swift-")}

    assert bool(swift_programs()) == (site == BACKUP_STORE)
    extras.add(site, extras.REPLICATION)
    assert {"swift-proxy-server", "swift-container-sync"} <= swift_programs()

# SPDX-License-Identifier: Apache-2.0
"""Nova: servers, as QEMU guests of libvirt, with the quiesce add-on in front of the API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab import extras, inside
from lab.service import NotReady, Program, Service
from lab.services import barbican, ceph, identity, mariadb, ovs, rpc, wsgi
from lab.services.openstack_conf import (
    Section,
    credentials,
    daemon,
    database,
    database_url,
    executable,
    messaging,
    oslo,
    packaged,
    service_token,
    state,
    token_validation,
    write,
    write_text,
)
from lab.services.schema import TIMEOUT, Schema
from lab.site import Site

PORT = 8774
API_THREADS = 8


def _conf(site: Site) -> Path:
    return site.etc / "nova" / "nova.conf"


def _compute_conf(site: Site) -> Path:
    return site.etc / "nova" / "nova-compute.conf"


def configure(site: Site) -> None:
    options = _options(site)
    write(_conf(site), options)
    # nova-compute refuses to know of databases
    write(
        _compute_conf(site),
        {
            name: section
            for name, section in options.items()
            if name not in ("database", "api_database")
        },
    )
    write_text(
        site.etc / "nova" / "api-paste.ini",
        _with_quiesce(packaged("nova", "api-paste.ini").read_text()),
    )


def _options(site: Site) -> dict[str, Section]:
    home = state(site, "nova", "instances")
    return {
        "DEFAULT": {
            **messaging(),
            "host": site.compute_host,
            "my_ip": site.address,
            "state_path": home,
            "instances_path": home / "instances",
            "compute_driver": "libvirt.LibvirtDriver",
            "force_raw_images": False,
            "reserved_host_memory_mb": 0,
            "reserved_host_disk_mb": 0,
            "initial_cpu_allocation_ratio": 32.0,
            "initial_ram_allocation_ratio": 4.0,
            "initial_disk_allocation_ratio": 10.0,
            # each site has one compute host
            "allow_resize_to_same_host": True,
            # a busy machine: a server is in ERROR when the switch agent has not wired its port by
            # then
            "vif_plugging_timeout": 300,
            "vif_plugging_is_fatal": True,
            "block_device_allocate_retries": 120,
            "block_device_allocate_retries_interval": 1,
            "service_down_time": 120,
            "running_deleted_instance_action": "noop",
            # a site that was killed and revived has no guests: Nova is to find out soon that they
            # are off
            "sync_power_state_interval": 60,
            "rpc_response_timeout": 120,
        },
        "wsgi": {"api_paste_config": site.etc / "nova" / "api-paste.ini"},
        "api_database": database("nova_api"),
        "database": database("nova"),
        "scheduler": {"workers": 1},
        "conductor": {"workers": 1},
        "filter_scheduler": {"track_instance_changes": False},
        "vnc": {"enabled": False},
        "spice": {"enabled": False},
        "glance": {"valid_interfaces": "public", **credentials(site, "nova")},
        "cinder": {
            "catalog_info": "block-storage:cinder:publicURL",
            "os_region_name": site.region,
            **_without_region(site),
        },
        "neutron": {
            "service_metadata_proxy": False,
            "ovs_bridge": "br-int",
            "valid_interfaces": "public",
            **credentials(site, "nova"),
        },
        "placement": {"valid_interfaces": "public", **credentials(site, "nova")},
        **barbican.key_manager(site, "nova"),
        "libvirt": {
            "virt_type": "qemu",
            "cpu_mode": "none",
            "hw_machine_type": "x86_64=pc",
            "rbd_user": ceph.CLIENT,
            "rbd_secret_uuid": site.ceph_secret,
            "swtpm_enabled": False,
            "wait_soft_reboot_seconds": 10,
        },
        "os_vif_ovs": {"ovsdb_connection": ovs.CONNECTION},
        "workarounds": {"disable_rootwrap": True},
        **token_validation(site, "nova"),
        **service_token(site, "nova"),
        **oslo(site, "nova"),
    }


def _without_region(site: Site) -> dict[str, object]:
    """[cinder] names the region by an option of its own."""
    return {key: value for key, value in credentials(site, "nova").items() if key != "region_name"}


def _with_quiesce(paste: str) -> str:
    """Nova's own api-paste.ini with the add-on after keystonecontext, in the pipelines of /v2.1 and
    of the older /v2.
    """
    adapted = [
        f"{line} ".replace(" keystonecontext ", " keystonecontext quiesce ").rstrip()
        for line in paste.splitlines()
    ]
    return "\n".join(
        [*adapted, "", "[filter:quiesce]", "paste.filter_factory = nova_quiesce:filter_factory", ""]
    )


def _manage(site: Site, *arguments: str) -> None:
    inside.run(
        site,
        [executable("nova-manage"), "--config-file", str(_conf(site)), *arguments],
        timeout=TIMEOUT,
    )


def _migrate(site: Site) -> None:
    """Migrate, and enter the cells too: their addresses are the same at every site."""
    _manage(site, "api_db", "sync")
    _manage(site, "db", "sync", "--local_cell")
    empty = site.run / "nova_cell0.sql"
    mariadb.dump(site, "nova", empty)
    mariadb.load(site, "nova_cell0", empty)
    empty.unlink()
    _manage(site, "cell_v2", "map_cell0", "--database_connection", database_url("nova_cell0"))
    _manage(site, "cell_v2", "create_cell", "--name", "cell1")


class NovaApi(Service):
    name = "nova-api"
    after = ("nova-schema", "keystone", "rabbitmq")

    def prepare(self, site: Site) -> None:
        identity.add_service(site, "nova", site.url(PORT, "/v2.1"), "compute")

    def programs(self, site: Site) -> Sequence[Program]:
        environment = {"OS_NOVA_CONFIG_DIR": str(_conf(site).parent)}
        return [
            wsgi.program(
                site, "nova-api", PORT, "nova.wsgi.osapi_compute", API_THREADS, environment
            )
        ]

    def check_ready(self, site: Site) -> None:
        wsgi.check_answers(site.url(PORT, "/"))


class NovaConductor(Service):
    """nova-compute needs it from its first second."""

    name = "nova-conductor"
    after = ("nova-schema", "rabbitmq")

    def programs(self, site: Site) -> Sequence[Program]:
        return [Program(self.name, daemon(self.name, _conf(site)))]

    def check_ready(self, site: Site) -> None:
        rpc.check_served(site, "conductor")


class NovaScheduler(Service):
    """Looks for the endpoint of Placement once, when it starts."""

    name = "nova-scheduler"
    after = ("nova-schema", "rabbitmq", "nova-api", "placement")

    def programs(self, site: Site) -> Sequence[Program]:
        return [Program(self.name, daemon(self.name, _conf(site)))]

    def check_ready(self, site: Site) -> None:
        rpc.check_served(site, "scheduler")


class NovaCompute(Service):
    name = "nova-compute"
    after = ("nova-conductor", "nova-api", "placement", "libvirt", "ovs", "ceph")

    def programs(self, site: Site) -> Sequence[Program]:
        command = daemon("nova-compute", _compute_conf(site))
        # os-brick looks for iscsiadm once, when it is imported
        other = extras.mark(site, extras.REPLICATION, extras.KEY_MANAGER)
        return [Program("nova-compute", command, other)]

    def check_ready(self, site: Site) -> None:
        rpc.check_served(site, f"compute.{site.compute_host}")
        services = identity.ask(site, PORT, "/v2.1/os-services?binary=nova-compute")["services"]
        if not any(service["state"] == "up" for service in services):
            raise NotReady("Nova has not heard of its nova-compute")

    def populate(self, site: Site) -> None:
        """Let the scheduler know the host at once, not when it would find it by itself some
        time later.
        """
        if not identity.ask(site, PORT, "/v2.1/os-hypervisors")["hypervisors"]:
            _manage(site, "cell_v2", "discover_hosts")


SERVICES: Sequence[Service] = (
    Schema("nova", ["nova_api", "nova", "nova_cell0"], configure, _migrate),
    NovaApi(),
    NovaConductor(),
    NovaScheduler(),
    NovaCompute(),
)

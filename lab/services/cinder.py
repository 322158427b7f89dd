# SPDX-License-Identifier: Apache-2.0
"""Cinder: volumes on the site's own Ceph, backups in the object store of the backup site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab import extras, inside
from lab.service import NotReady, Program, Service
from lab.services import barbican, ceph, glance, identity, rpc, wsgi
from lab.services.openstack_conf import (
    KEYSTONE_PORT,
    PASSWORD,
    Section,
    credentials,
    daemon,
    database,
    executable,
    messaging,
    oslo,
    packaged,
    service_token,
    state,
    token_validation,
    write,
)
from lab.services.schema import TIMEOUT, Schema
from lab.site import BACKUP_STORE, SITES, Site

PORT = 8776
BACKEND = "rbd1"
BACKUP_ACCOUNT = "backup"
"""User, and project, at the backup store's site that all sites keep their backups under."""


def _conf(site: Site) -> Path:
    return site.etc / "cinder" / "cinder.conf"


def _host(site: Site) -> str:
    return f"cinder-{site.short}"


def backend_host(site: Site) -> str:
    """The name of the site's only back end and pool, as Cinder's API wants it."""
    return f"{_host(site)}@{BACKEND}#{BACKEND}"


def configure(site: Site) -> None:
    home = state(site, "cinder", "conversion", "coordination")
    sections: dict[str, Section] = {
        "DEFAULT": {
            **messaging(),
            "host": _host(site),
            "my_ip": site.address,
            "state_path": home,
            "api_paste_config": packaged("cinder", "api-paste.ini"),
            "resource_query_filters_file": packaged("cinder", "resource_filters.json"),
            "rootwrap_config": packaged("cinder", "rootwrap.conf"),
            "glance_api_servers": site.url(glance.PORT),
            "glance_core_properties": "",
            "enabled_backends": BACKEND,
            "default_volume_type": BACKEND,
            "rpc_response_timeout": 120,
            "service_down_time": 120,
            "storage_availability_zone": "nova",
            "target_helper": "fake",
            "image_conversion_dir": home / "conversion",
            "backup_use_same_host": True,
            **_backup_options(),
        },
        **barbican.key_manager(site, "cinder"),
        "database": database("cinder"),
        "nova": {"interface": "public", **credentials(site, "cinder")},
        BACKEND: {
            "volume_driver": "cinder.volume.drivers.rbd.RBDDriver",
            "volume_backend_name": BACKEND,
            "rbd_pool": ceph.POOL,
            "rbd_ceph_conf": ceph.CONF,
            "rbd_user": ceph.CLIENT,
            "rbd_secret_uuid": site.ceph_secret,
            "rbd_flatten_volume_from_snapshot": False,
            "rbd_max_clone_depth": 5,
            "rbd_store_chunk_size": 4,
            "rados_connect_timeout": 30,
            "report_discard_supported": True,
            **_replication_target(site),
        },
        "coordination": {"backend_url": f"file://{home}/coordination"},
        **token_validation(site, "cinder"),
        **service_token(site, "cinder"),
        **oslo(site, "cinder"),
    }
    write(_conf(site), sections)


def _replication_target(site: Site) -> Section:
    """The other site's cluster, to which Cinder can have the back end fail over: as a volume type
    says, a volume is mirrored there. A part of the extra `replication`.
    """
    if not extras.has(site, extras.REPLICATION):
        return {}
    [other] = (s for s in SITES.values() if s != site)
    found = {
        "backend_id": other.name,
        "conf": ceph.configuration_of(other, site),
        "user": ceph.CLIENT,
        "secret_uuid": other.ceph_secret,
    }
    return {"replication_device": ",".join(f"{name}:{value}" for name, value in found.items())}


def _backup_options() -> dict[str, object]:
    """The same at both sites: one account and one container, so that the other site finds the
    objects of an imported record.
    """
    return {
        "backup_driver": "cinder.backup.drivers.swift.SwiftBackupDriver",
        "backup_workers": 1,
        "backup_swift_auth": "single_user",
        "backup_swift_auth_version": 3,
        "backup_swift_auth_url": BACKUP_STORE.url(KEYSTONE_PORT, "/v3"),
        "backup_swift_user": BACKUP_ACCOUNT,
        "backup_swift_key": PASSWORD,
        "backup_swift_project": BACKUP_ACCOUNT,
        "backup_swift_user_domain": "Default",
        "backup_swift_project_domain": "Default",
        "backup_swift_container": "volumebackups",
        # measured: 32 MiB objects take 14-18 s per GiB, 8 MiB ones 18-24 s
        "backup_swift_object_size": 32 * 2**20,
        "backup_swift_block_size": 64 * 2**10,
        "backup_compression_algorithm": "zstd",
        "backup_swift_enable_progress_timer": False,
    }


def _migrate(site: Site) -> None:
    inside.run(
        site,
        [executable("cinder-manage"), "--config-file", str(_conf(site)), "db", "sync"],
        timeout=TIMEOUT,
    )


class CinderApi(Service):
    name = "cinder-api"
    after = ("cinder-schema", "keystone", "rabbitmq")

    def prepare(self, site: Site) -> None:
        identity.add_service(site, "cinder", site.url(PORT, "/v3"), "block-storage", "volumev3")

    def programs(self, site: Site) -> Sequence[Program]:
        return [
            wsgi.program(
                site,
                "cinder-api",
                PORT,
                "cinder.wsgi.api",
                8,
                extras.mark(site, extras.KEY_MANAGER),
                arguments=f"--config-file {_conf(site)}",
            )
        ]

    def check_ready(self, site: Site) -> None:
        wsgi.check_answers(site.url(PORT, "/"))


class CinderStorage(Service):
    """Scheduler, volume and backup.

    The backup store is another site's affair: it is not waited for, and found when it is there.
    """

    name = "cinder-storage"
    after = ("cinder-api", "ceph")

    def programs(self, site: Site) -> Sequence[Program]:
        keys = extras.mark(site, extras.KEY_MANAGER)
        both = extras.mark(site, extras.REPLICATION, extras.KEY_MANAGER)
        return [
            Program("cinder-scheduler", daemon("cinder-scheduler", _conf(site))),
            Program("cinder-volume", daemon("cinder-volume", _conf(site)), both),
            Program("cinder-backup", daemon("cinder-backup", _conf(site)), keys),
        ]

    def check_ready(self, site: Site) -> None:
        rpc.check_served(
            site,
            "cinder-scheduler",
            f"cinder-volume.{_host(site)}@{BACKEND}",
            f"cinder-backup.{_host(site)}",
        )
        services = identity.ask(site, PORT, "/v3/os-services")["services"]
        up = {service["binary"] for service in services if service["state"] == "up"}
        if missing := {"cinder-scheduler", "cinder-volume", "cinder-backup"} - up:
            raise NotReady(f"Cinder has not heard of {', '.join(sorted(missing))}")
        # cinder-volume reports its pools each minute; until then a volume finds no back end
        if not identity.ask(site, PORT, "/v3/scheduler-stats/get_pools")["pools"]:
            raise NotReady("the scheduler knows no pool")


SERVICES: Sequence[Service] = (
    Schema("cinder", ["cinder"], configure, _migrate),
    CinderApi(),
    CinderStorage(),
)

# SPDX-License-Identifier: Apache-2.0
"""Swift behind Keystone, at one site: the store of both sites' backups and the vault of the
manifests. It speaks S3, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab import inside
from lab.service import Program, Service
from lab.services import identity
from lab.services.cinder import BACKUP_ACCOUNT
from lab.services.openstack_conf import (
    KEYSTONE_PORT,
    Sections,
    credentials,
    executable,
    state,
    write,
)
from lab.site import Site

PORT = 8080
STORES = {"account": 6202, "container": 6201, "object": 6200}
PATIENCE = {"conn_timeout": 10, "node_timeout": 60, "container_update_timeout": 60}
"""Seconds. Swift takes a late answer for a broken disk; here it means that two cores are busy."""
LARGE_CHUNKS = dict.fromkeys(
    ("disk_chunk_size", "network_chunk_size", "client_chunk_size", "object_chunk_size"), 2**20
)
"""Bytes.

Objects of 32 MiB in Swift's 64 KiB steps would be a loop in Python that the CPU notices.
"""
PIPELINE = (
    "catch_errors gatekeeper healthcheck cache listing_formats bulk authtoken s3api s3token "
    "keystoneauth copy slo dlo proxy-server"
)


def _etc(site: Site) -> Path:
    return site.etc / "swift"


class Swift(Service):
    """One proxy, one server of each kind, one replica in a plain folder.

    At a site without object store: nothing.
    """

    name = "swift"
    after = ("keystone", "memcached")

    def configure(self, site: Site) -> None:
        if not site.has_object_store:
            return
        state(site, "swift", "disk")
        # no section for limits: an object of Cinder (32 MiB) is far below Swift's own
        write(
            _etc(site) / "swift.conf",
            {"swift-hash": {"swift_hash_path_prefix": "antipode", "swift_hash_path_suffix": "lab"}},
        )
        write(_etc(site) / "proxy-server.conf", _proxy(site))
        for store, port in STORES.items():
            write(_etc(site) / f"{store}-server.conf", _store(site, store, port))

    def prepare(self, site: Site) -> None:
        """Rings, the catalog entry, and the account that Cinder keeps backups under."""
        if not site.has_object_store:
            return
        for store, port in STORES.items():
            if not (_etc(site) / f"{store}.ring.gz").exists():
                _make_ring(site, store, port)
        identity.add_service(
            site, "swift", site.url(PORT, "/v1/AUTH_%(project_id)s"), "object-store"
        )
        cloud = identity.connect(site)
        identity.add_user(
            cloud, BACKUP_ACCOUNT, identity.add_project(cloud, BACKUP_ACCOUNT), "member"
        )

    def programs(self, site: Site) -> Sequence[Program]:
        if not site.has_object_store:
            return ()
        servers = [f"{kind}-server" for kind in (*STORES, "proxy")]
        return [
            Program(
                f"swift-{s}", [executable(f"swift-{s}"), str(_etc(site) / f"{s}.conf"), "--verbose"]
            )
            for s in servers
        ]

    def check_ready(self, site: Site) -> None:
        """Look into the backup account as Cinder will: this needs the proxy, Keystone, memcached
        and the account server.
        """
        if not site.has_object_store:
            return
        identity.ask(
            site, PORT, "/v1/AUTH_{project_id}?format=json", BACKUP_ACCOUNT, BACKUP_ACCOUNT
        )


def _proxy(site: Site) -> Sections:
    filters = {
        name: {"use": f"egg:swift#{egg}"}
        for name, egg in (
            *(
                (name, name)
                for name in (
                    "catch_errors",
                    "gatekeeper",
                    "healthcheck",
                    "listing_formats",
                    "bulk",
                    "s3api",
                    "s3token",
                    "copy",
                    "slo",
                    "dlo",
                )
            ),
            ("cache", "memcache"),
            ("keystoneauth", "keystoneauth"),
        )
    }
    filters["cache"]["memcache_servers"] = "127.0.0.1:11211"
    filters["keystoneauth"]["operator_roles"] = "admin, member"
    # Keystone checks signatures for those only that log in as a service
    filters["s3token"] |= {
        "auth_uri": site.url(KEYSTONE_PORT, "/v3"),
        **{name: str(value) for name, value in credentials(site, "swift").items()},
    }
    authtoken = {
        "paste.filter_factory": "keystonemiddleware.auth_token:filter_factory",
        "www_authenticate_uri": site.url(KEYSTONE_PORT, "/v3"),
        **credentials(site, "swift"),
        "delay_auth_decision": True,
        "include_service_catalog": False,
        "cache": "swift.cache",
    }
    return {
        "DEFAULT": {
            "bind_ip": site.address,
            "bind_port": PORT,
            "workers": 0,
            "swift_dir": _etc(site),
            "user": "root",
            **PATIENCE,
            **LARGE_CHUNKS,
        },
        "pipeline:main": {"pipeline": PIPELINE},
        # there is one device: to avoid it for its errors would be to refuse everything
        "app:proxy-server": {
            "use": "egg:swift#proxy",
            "account_autocreate": True,
            "error_suppression_limit": 10**6,
        },
        **{f"filter:{name}": options for name, options in filters.items()},
        "filter:authtoken": authtoken,
    }


def _store(site: Site, store: str, port: int) -> Sections:
    return {
        "DEFAULT": {
            "bind_ip": "127.0.0.1",
            "bind_port": port,
            "workers": 0,
            "devices": site.data / "swift",
            "mount_check": False,
            "disable_fallocate": True,
            "fallocate_reserve": 0,
            "swift_dir": _etc(site),
            "user": "root",
            **PATIENCE,
            **LARGE_CHUNKS,
        },
        "pipeline:main": {"pipeline": f"{store}-server"},
        f"app:{store}-server": {"use": f"egg:swift#{store}"},
    }


def _make_ring(site: Site, store: str, port: int) -> None:
    """16 partitions, one replica, one device: the folder `disk`."""
    builder = _etc(site) / f"{store}.builder"
    builder.unlink(missing_ok=True)
    for arguments in (
        ["create", "4", "1", "1"],
        ["add", f"r1z1-127.0.0.1:{port}/disk", "1"],
        ["rebalance"],
    ):
        inside.run(site, [executable("swift-ring-builder"), str(builder), *arguments])


SERVICES: Sequence[Service] = (Swift(),)

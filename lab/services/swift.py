# SPDX-License-Identifier: Apache-2.0
"""Swift behind Keystone: the store of both sites' backups and the vault of the manifests. It
speaks S3, too. With the extra `replication` the other site has one as well, and containers are
synchronized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import extras, inside
from lab.service import NotReady, Program, Service
from lab.services import identity
from lab.services.cinder import BACKUP_ACCOUNT
from lab.services.openstack_conf import (
    KEYSTONE_PORT,
    PASSWORD,
    Sections,
    credentials,
    executable,
    state,
    write,
)
from lab.site import BACKUP_STORE, SITES, Site

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
UNSUPPRESSED = {"error_suppression_limit": 10**6}
"""There is one device: to avoid it for its errors would be to refuse everything."""
MEMCACHED = "127.0.0.1:11211"
PIPELINE = (
    "catch_errors gatekeeper healthcheck cache listing_formats bulk authtoken s3api s3token "
    "keystoneauth copy slo dlo proxy-server"
)
REALM = "antipode"
"""The clusters that send each other the objects of synchronized containers."""
SYNC_INTERVAL = 1
"""Seconds between two looks for what is to be sent; Swift's own are 300."""
CONTAINER_SYNC = Path(__file__).parents[1] / "container_sync.py"


def runs_at(site: Site) -> bool:
    """Whether the site has an object store."""
    return site == BACKUP_STORE or _synchronizes(site)


def _synchronizes(site: Site) -> bool:
    return extras.has(site, extras.REPLICATION)


def _etc(site: Site) -> Path:
    return site.etc / "swift"


class Swift(Service):
    """One proxy, one server of each kind, one replica in a plain folder.

    At a site without object store: nothing.
    """

    name = "swift"
    after = ("keystone", "memcached")

    def configure(self, site: Site) -> None:
        if not runs_at(site):
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
        if _synchronizes(site):
            _configure_synchronization(site)

    def prepare(self, site: Site) -> None:
        """Rings, the catalog entry, and the account that Cinder keeps backups under."""
        if not runs_at(site):
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
        if not runs_at(site):
            return ()

        def server(kind: str, environment: Mapping[str, str]) -> Program:
            name = f"swift-{kind}-server"
            conf = str(_etc(site) / f"{kind}-server.conf")
            return Program(name, [executable(name), conf, "--verbose"], environment)

        return [
            *(server(kind, {}) for kind in STORES),
            server("proxy", extras.mark(site, extras.REPLICATION)),
        ]

    def check_ready(self, site: Site) -> None:
        """Look into an account as Cinder will: this needs the proxy, Keystone, memcached and the
        account server.
        """
        if not runs_at(site):
            return
        path = "/v1/AUTH_{project_id}?format=json"
        identity.ask(site, PORT, path, BACKUP_ACCOUNT, BACKUP_ACCOUNT)


class ContainerSync(Service):
    """Sends the other site the objects of containers whose owners want that, and takes its own.

    The other site may be down: what it misses is sent when it is there.
    """

    name = "container-sync"
    after = ("swift",)

    def programs(self, site: Site) -> Sequence[Program]:
        conf = str(_etc(site) / "container-server.conf")
        return [
            Program("swift-container-sync", [executable("python"), "-P", str(CONTAINER_SYNC), conf])
        ]

    def check_ready(self, site: Site) -> None:
        """The proxy knows which cluster it is, and the others."""
        info = identity.ask(site, PORT, "/info").get("container_sync", {})
        clusters = info.get("realms", {}).get(REALM.upper(), {}).get("clusters", {})
        if set(clusters) != {name.upper() for name in SITES}:
            raise NotReady(f"the proxy of {site.name} knows these clusters: {sorted(clusters)}")


def _configure_synchronization(site: Site) -> None:
    clusters = {f"cluster_{s.name}": s.url(PORT, "/v1/") for s in SITES.values()}
    write(
        _etc(site) / "container-sync-realms.conf",
        {"DEFAULT": {"mtime_check_interval": 10}, REALM: {"key": PASSWORD, **clusters}},
    )
    # the proxy inside the daemon, by which it reads what it sends
    write(
        _internal_client(site),
        {
            "DEFAULT": {"swift_dir": _etc(site), **PATIENCE},
            "pipeline:main": {"pipeline": "catch_errors cache symlink proxy-server"},
            "app:proxy-server": {"use": "egg:swift#proxy", **UNSUPPRESSED},
            "filter:catch_errors": {"use": "egg:swift#catch_errors"},
            "filter:cache": {"use": "egg:swift#memcache", "memcache_servers": MEMCACHED},
            "filter:symlink": {"use": "egg:swift#symlink"},
        },
    )


def _internal_client(site: Site) -> Path:
    return _etc(site) / "internal-client.conf"


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
    filters["cache"]["memcache_servers"] = MEMCACHED
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
    pipeline = PIPELINE
    if _synchronizes(site):
        # before authtoken: a request of another cluster is signed with the key of the realm
        pipeline = pipeline.replace(" cache ", " cache container_sync ")
        filters["container_sync"] = {
            "use": "egg:swift#container_sync",
            "current": f"//{REALM}/{site.name}",
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
        "pipeline:main": {"pipeline": pipeline},
        "app:proxy-server": {"use": "egg:swift#proxy", "account_autocreate": True, **UNSUPPRESSED},
        **{f"filter:{name}": options for name, options in filters.items()},
        "filter:authtoken": authtoken,
    }


def _store(site: Site, store: str, port: int) -> Sections:
    synchronization = {
        "interval": SYNC_INTERVAL,
        "container_time": 60,
        "internal_client_conf_path": _internal_client(site),
    }
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
        **({"container-sync": synchronization} if store == "container" else {}),
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
SYNCHRONIZATION: Sequence[Service] = (ContainerSync(),)

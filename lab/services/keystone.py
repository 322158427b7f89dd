# SPDX-License-Identifier: Apache-2.0
"""Keystone: users, projects, roles and the service catalog of a site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab import inside
from lab.service import Program, Service
from lab.services import identity, mariadb, wsgi
from lab.services.openstack_conf import KEYSTONE_PORT, PASSWORD, database, executable, state, write
from lab.services.schema import TIMEOUT, Schema
from lab.site import Site

_OWN_ENDPOINTS = (
    "SELECT count(*) FROM keystone.endpoint JOIN keystone.service ON service.id = "
    "service_id WHERE type = 'identity'"
)


def _conf(site: Site) -> Path:
    return site.etc / "keystone" / "keystone.conf"


def configure(site: Site) -> None:
    keys = state(site, "keystone", "fernet", "credential")
    for folder in ("fernet", "credential"):
        (keys / folder).chmod(0o700)  # Keystone warns at each token of keys that all can read
    write(
        _conf(site),
        {
            "DEFAULT": {
                "debug": False,
                "use_stderr": True,
                "public_endpoint": site.url(KEYSTONE_PORT),
            },
            "database": database("keystone"),
            "token": {"provider": "fernet", "expiration": 86400},
            "fernet_tokens": {"key_repository": keys / "fernet", "max_active_keys": 3},
            "fernet_receipts": {"key_repository": keys / "fernet"},
            "credential": {"key_repository": keys / "credential"},
            "cache": {"enabled": True, "backend": "dogpile.cache.memory"},
            # a password is checked at each login: the strongest hash would only cost CPU here
            "identity": {"password_hash_algorithm": "bcrypt", "password_hash_rounds": 4},
        },
    )


def _manage(site: Site, *arguments: str) -> None:
    inside.run(
        site,
        [executable("keystone-manage"), "--config-file", str(_conf(site)), *arguments],
        timeout=TIMEOUT,
    )


class KeystoneKeys(Service):
    """The keys that tokens and credentials are encrypted with; needs no database."""

    name = "keystone-keys"

    def configure(self, site: Site) -> None:
        configure(site)

    def prepare(self, site: Site) -> None:
        for folder in ("fernet", "credential"):
            if not any((site.data / "keystone" / folder).iterdir()):
                _manage(
                    site, f"{folder}_setup", "--keystone-user", "root", "--keystone-group", "root"
                )


class Keystone(Service):
    name = "keystone"
    after = ("keystone-keys", "keystone-schema")

    def prepare(self, site: Site) -> None:
        """Make the admin and Keystone's own catalog entry, the last of which shows that it was
        done.
        """
        if mariadb.execute(site, _OWN_ENDPOINTS).strip() == "3":
            return
        url = site.url(KEYSTONE_PORT, "/v3")
        urls = [
            f"--bootstrap-{interface}-url={url}" for interface in ("public", "internal", "admin")
        ]
        _manage(
            site,
            "bootstrap",
            "--bootstrap-password",
            PASSWORD,
            "--bootstrap-region-id",
            site.region,
            *urls,
        )

    def programs(self, site: Site) -> Sequence[Program]:
        environment = {"OS_KEYSTONE_CONFIG_FILES": str(_conf(site))}
        return [wsgi.program(site, "keystone", KEYSTONE_PORT, "keystone.wsgi.api", 4, environment)]

    def check_ready(self, site: Site) -> None:
        wsgi.check_answers(site.url(KEYSTONE_PORT, "/v3"))

    def populate(self, site: Site) -> None:
        """Projects `service` and `vnf`; in `vnf` the tenant `demo` and the account of the GR
        software `antipode`.
        """
        cloud = identity.connect(site)
        identity.add_project(cloud, "service")
        vnf = identity.add_project(cloud, "vnf")
        identity.add_user(cloud, "demo", vnf, "member", "reader")
        identity.add_user(cloud, "antipode", vnf, "admin", "member")
        identity.add_user(cloud, "admin", vnf, "admin")


SERVICES: Sequence[Service] = (
    KeystoneKeys(),
    Schema("keystone", ["keystone"], configure, lambda site: _manage(site, "db_sync")),
    Keystone(),
)

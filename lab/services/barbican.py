# SPDX-License-Identifier: Apache-2.0
"""Barbican: keys of encrypted volumes, for Cinder and Nova. The extra `key-manager`.

It reads its configuration from `$HOME/.barbican/barbican.conf` and from no place that is given to
it, so its home is a folder of the site.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import extras, inside
from lab.service import Program, Service
from lab.services import identity, wsgi
from lab.services.openstack_conf import (
    KEYSTONE_PORT,
    Section,
    credentials,
    database,
    executable,
    messaging,
    packaged,
    token_validation,
    write,
    write_text,
)
from lab.services.schema import TIMEOUT, Schema
from lab.site import Site

PORT = 9311
APPLICATION = """\
from paste import deploy

application = deploy.loadapp("config:{paste}")
"""
"""The distribution's own module has the path of the paste file built in."""


def _home(site: Site) -> Path:
    return site.data / "barbican"


def _conf(site: Site) -> Path:
    return _home(site) / ".barbican" / "barbican.conf"


def _kek(site: Site) -> str:
    """The key that payloads are encrypted with: which protects nothing, as all of the lab's."""
    return base64.urlsafe_b64encode(hashlib.sha256(site.name.encode()).digest()).decode()


def configure(site: Site) -> None:
    write(
        _conf(site),
        {
            # else references of secrets say localhost
            "DEFAULT": {**messaging(), "host_href": site.url(PORT)},
            "database": database("barbican"),
            "secretstore": {"enabled_secretstore_plugins": "store_crypto"},
            "crypto": {"enabled_crypto_plugins": "simple_crypto"},
            "simple_crypto_plugin": {"kek": _kek(site)},
            "oslo_policy": {"enforce_scope": True, "enforce_new_defaults": True},
            **token_validation(site, "barbican"),
        },
    )
    paste = packaged("barbican", "barbican-api-paste.ini")
    write_text(_home(site) / "barbican_application.py", APPLICATION.format(paste=paste))


def _migrate(site: Site) -> None:
    command = ["env", f"HOME={_home(site)}", executable("barbican-db-manage"), "upgrade"]
    inside.run(site, command, timeout=TIMEOUT)


class Barbican(Service):
    name = "barbican"
    after = ("barbican-schema", "keystone")

    def prepare(self, site: Site) -> None:
        identity.add_service(site, "barbican", site.url(PORT), "key-manager")

    def programs(self, site: Site) -> Sequence[Program]:
        home = str(_home(site))
        environment = {"HOME": home, "PYTHONPATH": home}
        return [wsgi.program(site, "barbican", PORT, "barbican_application", 4, environment)]

    def check_ready(self, site: Site) -> None:
        wsgi.check_answers(site.url(PORT, "/"))


def key_manager(site: Site, service: str) -> Mapping[str, Section]:
    """The sections by which Cinder or Nova keep keys: in Barbican where the site has it, else one
    key for all volumes in the configuration.

    Cinder vouches for the user's call, so that a restore may outlast the token of its caller.
    """
    if not extras.has(site, extras.KEY_MANAGER):
        backend = f"{service}.keymgr.conf_key_mgr.ConfKeyManager"
        return {"key_manager": {"backend": backend, "fixed_key": "0" * 64}}
    vouched: Section = {k: v for k, v in credentials(site, service).items() if k != "region_name"}
    return {
        "key_manager": {"backend": "barbican"},
        "barbican": {
            "auth_endpoint": site.url(KEYSTONE_PORT, "/v3"),
            "barbican_region_name": site.region,
            "barbican_endpoint_type": "public",
            "send_service_user_token": True,
        },
        "barbican_service_user": vouched,
    }


SERVICES: Sequence[Service] = (Schema("barbican", ["barbican"], configure, _migrate), Barbican())

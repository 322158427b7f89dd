# SPDX-License-Identifier: Apache-2.0
"""Glance: images, kept as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab import inside
from lab.service import Program, Service
from lab.services import identity, wsgi
from lab.services.openstack_conf import (
    database,
    executable,
    oslo,
    packaged,
    state,
    token_validation,
    write,
)
from lab.services.schema import TIMEOUT, Schema
from lab.site import Site

PORT = 9292


def _conf(site: Site) -> Path:
    return site.etc / "glance" / "glance-api.conf"


def configure(site: Site) -> None:
    home = state(site, "glance", "images", "staging", "tasks")
    write(
        _conf(site),
        {
            "DEFAULT": {
                "debug": False,
                "use_stderr": True,
                "enabled_backends": "file1:file",
                "node_staging_uri": f"file://{home}/staging",
                "enabled_import_methods": "[glance-direct,web-download,copy-image]",
            },
            "database": database("glance"),
            "glance_store": {"default_backend": "file1"},
            "file1": {"filesystem_store_datadir": home / "images"},
            "os_glance_staging_store": {"filesystem_store_datadir": home / "staging"},
            "os_glance_tasks_store": {"filesystem_store_datadir": home / "tasks"},
            "paste_deploy": {
                "flavor": "keystone",
                "config_file": packaged("glance", "glance-api-paste.ini"),
            },
            **token_validation(site, "glance"),
            **oslo(site, "glance"),
        },
    )


def _migrate(site: Site) -> None:
    inside.run(
        site,
        [executable("glance-manage"), "--config-file", str(_conf(site)), "db_sync"],
        timeout=TIMEOUT,
    )


class Glance(Service):
    name = "glance"
    after = ("glance-schema", "keystone")

    def prepare(self, site: Site) -> None:
        identity.add_service(site, "glance", site.url(PORT), "image")

    def programs(self, site: Site) -> Sequence[Program]:
        environment = {
            "OS_GLANCE_CONFIG_DIR": str(_conf(site).parent),
            "OS_GLANCE_CONFIG_FILES": _conf(site).name,
        }
        return [wsgi.program(site, "glance", PORT, "glance.wsgi.api", 4, environment)]

    def check_ready(self, site: Site) -> None:
        wsgi.check_answers(site.url(PORT, "/versions"))


SERVICES: Sequence[Service] = (Schema("glance", ["glance"], configure, _migrate), Glance())

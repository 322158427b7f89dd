# SPDX-License-Identifier: Apache-2.0
"""Placement: the free resources of the compute host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab import inside
from lab.service import Program, Service
from lab.services import identity, wsgi
from lab.services.openstack_conf import database, executable, token_validation, write
from lab.services.schema import TIMEOUT, Schema
from lab.site import Site

PORT = 8778


def _conf(site: Site) -> Path:
    return site.etc / "placement" / "placement.conf"


def configure(site: Site) -> None:
    write(
        _conf(site),
        {
            "DEFAULT": {"debug": False, "use_stderr": True},
            "placement_database": database("placement"),
            **token_validation(site, "placement"),
        },
    )


def _migrate(site: Site) -> None:
    inside.run(
        site,
        [executable("placement-manage"), "--config-file", str(_conf(site)), "db", "sync"],
        timeout=TIMEOUT,
    )


class Placement(Service):
    name = "placement"
    after = ("placement-schema", "keystone")

    def prepare(self, site: Site) -> None:
        identity.add_service(site, "placement", site.url(PORT), "placement")

    def programs(self, site: Site) -> Sequence[Program]:
        environment = {"OS_PLACEMENT_CONFIG_DIR": str(_conf(site).parent)}
        return [wsgi.program(site, "placement", PORT, "placement.wsgi.api", 2, environment)]

    def check_ready(self, site: Site) -> None:
        wsgi.check_answers(site.url(PORT, "/"))


SERVICES: Sequence[Service] = (Schema("placement", ["placement"], configure, _migrate), Placement())

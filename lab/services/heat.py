# SPDX-License-Identifier: Apache-2.0
"""Heat: stacks, whose servers can be the members of a VNF. The extra `heat`.

Its API reads its configuration from `$HOME/.heat/heat.conf` and from no place that is given to it,
so its home is a folder of the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab import inside
from lab.service import Program, Service
from lab.services import identity, rpc, wsgi
from lab.services.openstack_conf import (
    KEYSTONE_PORT,
    credentials,
    daemon,
    database,
    executable,
    messaging,
    oslo,
    packaged,
    token_validation,
    write,
)
from lab.services.schema import TIMEOUT, Schema
from lab.site import Site

PORT = 8004
ENGINE = "heat-engine"


def _home(site: Site) -> Path:
    return site.data / "heat"


def _conf(site: Site) -> Path:
    return _home(site) / ".heat" / "heat.conf"


def configure(site: Site) -> None:
    write(
        _conf(site),
        {
            "DEFAULT": {
                **messaging(),
                "region_name_for_services": site.region,
                # what Heat does later for the owner of a stack, it does by a trust
                "deferred_auth_method": "trusts",
                "auth_encryption_key": "0" * 32,
                "num_engine_workers": 1,
                "environment_dir": packaged("heat", "environment.d"),
                "template_dir": packaged("heat", "templates"),
            },
            "database": database("heat"),
            "paste_deploy": {"api_paste_config": packaged("heat", "api-paste.ini")},
            "clients": {"endpoint_type": "publicURL"},
            "clients_keystone": {"auth_uri": site.url(KEYSTONE_PORT)},
            "trustee": _trustee(site),
            **token_validation(site, "heat"),
            **oslo(site, "heat"),
        },
    )


def _trustee(site: Site) -> dict[str, object]:
    """Heat's own user without a project: that of a trust is its owner's."""
    left_out = ("project_name", "project_domain_id", "region_name")
    return {k: v for k, v in credentials(site, "heat").items() if k not in left_out}


def _migrate(site: Site) -> None:
    command = [executable("heat-manage"), "--config-file", str(_conf(site)), "db_sync"]
    inside.run(site, command, timeout=TIMEOUT)


class Heat(Service):
    """The API and the engine."""

    name = "heat"
    after = ("heat-schema", "keystone", "rabbitmq")

    def prepare(self, site: Site) -> None:
        identity.add_service(site, "heat", site.url(PORT, "/v1/%(tenant_id)s"), "orchestration")

    def programs(self, site: Site) -> Sequence[Program]:
        environment = {"HOME": str(_home(site))}
        return [
            wsgi.program(site, "heat-api", PORT, "heat.wsgi.api", 2, environment),
            Program(ENGINE, daemon(ENGINE, _conf(site))),
        ]

    def check_ready(self, site: Site) -> None:
        wsgi.check_answers(site.url(PORT, "/"))
        rpc.check_served(site, "engine")


SERVICES: Sequence[Service] = (Schema("heat", ["heat"], configure, _migrate), Heat())

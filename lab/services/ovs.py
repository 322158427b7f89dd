# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch with its datapath in user space, all of it inside the site's network namespace, at
the usual places in /run.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab import inside
from lab.errors import LabError
from lab.service import NotReady, Program, Service
from lab.site import Site

CONNECTION = "unix:/run/openvswitch/db.sock"
"""What ovs-vsctl uses by itself, and where every other client finds the switch (seen from inside a
site).
"""

DATAPATH_TYPE = "netdev"


def database(site: Site) -> Path:
    # among the things that a site loses when it dies: ports in it would name devices that are gone
    return site.run / "openvswitch.db"


class OpenVSwitch(Service):
    name = "ovs"

    def prepare(self, site: Site) -> None:
        if database(site).exists():
            return
        part = database(site).with_suffix(".part")
        part.unlink(missing_ok=True)
        _database_tool("create", str(part), "/usr/share/openvswitch/vswitch.ovsschema")
        # TCP offload must be on before vswitchd starts: without it TCP from a guest carries
        # unfinished checksums
        row = {
            "external_ids": [
                "map",
                [["hostname", site.compute_host], ["system-id", site.compute_host]],
            ],
            "other_config": ["map", [["userspace-tso-enable", "true"]]],
        }
        _database_tool(
            "transact",
            str(part),
            json.dumps(["Open_vSwitch", {"op": "insert", "table": "Open_vSwitch", "row": row}]),
        )
        part.rename(database(site))

    def programs(self, site: Site) -> Sequence[Program]:
        listen = ["--remote=punix:/run/openvswitch/db.sock", "--remote=ptcp:6640:127.0.0.1"]
        logging = ["-vconsole:warn", "-vfile:off", "-vsyslog:off"]
        return [
            Program(
                "ovsdb-server",
                [
                    "ovsdb-server",
                    str(database(site)),
                    *listen,
                    "--unixctl=/run/openvswitch/ovsdb-server.ctl",
                    *logging,
                ],
            ),
            Program("keep-taps-up", ["keep-taps-up"]),
            Program(
                "ovs-vswitchd",
                [
                    "ovs-vswitchd",
                    CONNECTION,
                    "--unixctl=/run/openvswitch/ovs-vswitchd.ctl",
                    *logging,
                ],
            ),
        ]

    def check_ready(self, site: Site) -> None:
        try:
            inside.run(site, ["ovs-vsctl", "--timeout=5", "show"])
            inside.run(
                site,
                [
                    "ovs-appctl",
                    "--timeout=5",
                    "--target=/run/openvswitch/ovs-vswitchd.ctl",
                    "version",
                ],
            )
        except LabError as e:
            raise NotReady(str(e)) from e


def _database_tool(*arguments: str) -> None:
    done = subprocess.run(["ovsdb-tool", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"ovsdb-tool {' '.join(arguments)} failed: {done.stderr.strip()}")

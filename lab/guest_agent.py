# SPDX-License-Identifier: Apache-2.0
"""Executing scripts in a guest, through its own agent: for tests that spoil something in there."""

from __future__ import annotations

import base64
import json

from lab import inside
from lab.site import Site
from lab.waiting import wait_until


def in_guest(site: Site, server: str, script: str, timeout: float = 120) -> str:
    """Execute a shell script in a guest, within `timeout` seconds, and return what it printed."""

    def agent(command: str, **arguments: object) -> dict[str, object]:
        said = inside.run(
            site,
            [
                "virsh",
                "qemu-agent-command",
                server,
                json.dumps({"execute": command, "arguments": arguments}),
            ],
        )
        result: dict[str, object] = json.loads(said.stdout)["return"]
        return result

    began = agent("guest-exec", path="/bin/sh", arg=["-ec", script], **{"capture-output": True})
    ended: list[dict[str, object]] = []  # the agent tells the end of a process once only

    def has_ended() -> bool:
        status = agent("guest-exec-status", pid=began["pid"])
        ended.extend([status] if status["exited"] else [])
        return bool(ended)

    wait_until(has_ended, f"the script ended in {server}", timeout)
    assert ended[0]["exitcode"] == 0, ended[0]
    return base64.b64decode(str(ended[0].get("out-data", ""))).decode()

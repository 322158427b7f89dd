# SPDX-License-Identifier: Apache-2.0
"""The example VNF on embedded sites: three servers whose records tell whether a recovery point was
consistent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from antipode.sandbox import answer, configuration
from antipode.sandbox.creation import Creation
from antipode.sandbox.guests import records_of
from antipode.sandbox.members import HTTP_PORT, MEMBERS
from antipode.sandbox.records import CHAIN
from antipode.sandbox.site import IMAGE
from antipode.sandbox.supervision import SITES, Sandbox, SandboxError

PERIOD_MS = 50
PATIENCE_S = 180
"""For things that take seconds on an idle machine."""
ANSWER_S = 60
"""For one answer of a member: a busy machine must not be taken for a broken chain."""


def await_that(
    holds: Callable[[], bool], what: str, timeout_s: float, interval_s: float = 0.05
) -> None:
    """Poll until `holds` is true.

    Raises:
        SandboxError: it is still false after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise SandboxError(f"not true after {timeout_s:g} s: {what}")
        time.sleep(interval_s)


def connect(sandbox: Sandbox, cloud: str) -> Any:
    """An openstacksdk connection by the sandbox's clouds.yaml."""
    return configuration.connection(sandbox.directory / "clouds.yaml", cloud)


def create(sandbox: Sandbox, site: str) -> dict[str, str]:
    """Create what of the VNF is missing and start what is off; role -> server id, when all members
    answer and the chain advances.

    Raises:
        SandboxError: a member does not get there.
    """
    from openstack.exceptions import SDKException

    cloud = connect(sandbox, f"{site}-tenant")

    def start(server: Any) -> None:
        if server.status == "SHUTOFF":
            cloud.compute.start_server(server)

    creation = Creation(cloud, site, IMAGE, PERIOD_MS, start, PATIENCE_S, interval_s=0.1)
    try:
        servers = creation.run()
    except SDKException as error:
        raise SandboxError(f"{site}: the canary cannot be created: {error}") from error
    await_work(sandbox, site)
    return servers


def have_at_one_site(sandbox: Sandbox) -> None:
    """Have the VNF run at the site that holds it, at the first site if neither does.

    If both hold it, nothing is done: the operator decides which copy runs.
    """
    holding = [
        site
        for site in SITES
        if any(
            s.name == MEMBERS[0].server
            for s in connect(sandbox, f"{site}-tenant").compute.servers()
        )
    ]
    if len(holding) < 2:
        create(sandbox, holding[0] if holding else SITES[0])


def state(sandbox: Sandbox, site: str) -> dict[str, dict[str, Any]]:
    """The state that each member reports over its network; the head is asked first, so that the
    chain's order holds also while it runs.

    Raises:
        SandboxError: a member does not answer.
    """
    url = sandbox.settings(site).url
    try:
        return {
            m.role: json.loads(answer.ask(url, m.address, HTTP_PORT, timeout_s=ANSWER_S))
            for m in reversed(MEMBERS)
        }
    except OSError as error:
        raise SandboxError(f"{site}: a member of the canary does not answer: {error}") from error


def durable(sandbox: Sandbox, site: str) -> dict[str, int]:
    """The last record that each member has durable."""
    return {role: int(says["durable"]) for role, says in state(sandbox, site).items()}


def fill(sandbox: Sandbox, site: str, mib: int, seed: int = 1) -> None:
    """Have every member write that many MiB (at most 64) of pseudo-random data to its data
    volume.
    """
    for member in MEMBERS:
        answer.ask(
            sandbox.settings(site).url,
            member.address,
            HTTP_PORT,
            f"?mib={mib}&seed={seed}",
            ANSWER_S,
        )


def await_work(sandbox: Sandbox, site: str, timeout_s: float = PATIENCE_S) -> None:
    """Return when all members answer and the chain advances."""
    seen: list[dict[str, int]] = []

    def advances() -> bool:
        try:
            seen.append(durable(sandbox, site))
        except SandboxError:
            return False
        return all(seen[0][role] < seen[-1][role] for role in CHAIN)

    await_that(
        advances, f"all members of the canary answer at {site} and their chain advances", timeout_s
    )


def await_records(sandbox: Sandbox, site: str, more: int, timeout_s: float = PATIENCE_S) -> None:
    """Return when every member has `more` records more than now."""
    before = durable(sandbox, site)

    def has_more() -> bool:
        return all(now >= before[role] + more for role, now in durable(sandbox, site).items())

    await_that(has_more, f"the canary at {site} has {more} more records", timeout_s)


def data_volumes(sandbox: Sandbox, site: str) -> dict[str, str]:
    """role -> id of the member's data volume."""
    cloud = connect(sandbox, f"{site}-tenant")
    servers = {s.name: s for s in cloud.compute.servers()}
    found = {}
    for member in MEMBERS:
        attached = cloud.compute.volume_attachments(servers[member.server])
        found[member.role] = next(str(a.volume_id) for a in attached if a.device == "/dev/vdb")
    return found


def records(sandbox: Sandbox, site: str) -> Mapping[str, bytes]:
    """The records on the volumes of all members now, read behind OpenStack's back; head first, so
    that a running VNF is consistent.
    """
    volumes = data_volumes(sandbox, site)
    return {
        role: records_of(path_of_volume(sandbox, site, volumes[role])) for role in reversed(CHAIN)
    }


def path_of_volume(sandbox: Sandbox, site: str, volume_id: str) -> Path:
    return sandbox.directory / site / "volumes" / f"volume-{volume_id}"


def path_of_snapshot(sandbox: Sandbox, site: str, snapshot_id: str) -> Path:
    (found,) = (sandbox.directory / site / "snapshots").glob(f"*@snapshot-{snapshot_id}")
    return found

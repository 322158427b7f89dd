"""The example VNF on embedded sites: three servers whose records tell whether a recovery point was
consistent.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from antipode.sandbox import answer
from antipode.sandbox.guests import records_of
from antipode.sandbox.members import HTTP_PORT, MEMBERS, NAME, Member
from antipode.sandbox.records import CHAIN
from antipode.sandbox.site import IMAGE
from antipode.sandbox.supervision import SITES, TENANTS, Sandbox, SandboxError

PERIOD_MS = 50
PATIENCE_S = 180
"""For what takes seconds where nothing else runs."""
ANSWER_S = 60
"""For one answer of a member: much more than it takes, as a machine that is busy elsewhere is no
broken chain.
"""
GIB = 1
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGFudGlwb2RlLXNhbmRib3gtY2FuYXJ5LW5vLXNlY3Jl canary"
"""There to be carried to the other site; it has no private half."""


def await_that(
    holds: Callable[[], bool], what: str, timeout_s: float, interval_s: float = 0.05
) -> None:
    """Ask again and again until it is so.

    Raises:
        SandboxError: it is not, after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise SandboxError(f"waited {timeout_s:g} s in vain until {what}")
        time.sleep(interval_s)


def connect(sandbox: Sandbox, cloud: str) -> Any:
    """An openstacksdk connection by the sandbox's clouds.yaml, its services found."""
    import openstack
    from openstack.config import OpenStackConfig

    config = OpenStackConfig(
        config_files=[str(sandbox.directory / "clouds.yaml")], load_envvars=False
    )
    connection = openstack.connection.Connection(config=config.get_one(cloud))
    connection.session.session.trust_env = (
        False  # a proxy of the environment is none to this machine itself
    )
    _ = connection.compute, connection.network, connection.block_storage, connection.image
    return connection


def create(sandbox: Sandbox, site: str) -> dict[str, str]:
    """Make what of the VNF is not there, start what is off; role -> server id, when all members
    answer and the chain goes on.

    Raises:
        SandboxError: it does not get there.
    """
    cloud = connect(sandbox, f"{site}-tenant")
    if not cloud.compute.find_keypair(NAME):
        cloud.compute.create_keypair(name=NAME, public_key=KEY)
    group = next((g for g in cloud.compute.server_groups() if g.name == NAME), None)
    group = group or cloud.compute.create_server_group(name=NAME, policy="soft-anti-affinity")
    there = {s.name: s for s in cloud.compute.servers()}
    with ThreadPoolExecutor(len(MEMBERS)) as pool:
        servers = dict(
            zip(
                CHAIN,
                pool.map(lambda m: _ensure(cloud, site, m, group.id, there.get(m.server)), MEMBERS),
                strict=True,
            )
        )
    await_work(sandbox, site)
    return servers


def have_at_one_site(sandbox: Sandbox) -> None:
    """Have the VNF work where it is, at the first site when it is nowhere.

    Where it is at both, which of them works is not ours to say.
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


def _ensure(cloud: Any, site: str, member: Member, group: str, server: Any) -> str:
    if server is None:
        server = _make(cloud, site, member, group)
    elif server.status == "SHUTOFF":
        cloud.compute.start_server(server)
    cloud.compute.wait_for_server(server, interval=0.1, wait=PATIENCE_S)
    return str(server.id)


def _make(cloud: Any, site: str, member: Member, group: str) -> Any:
    tenant = TENANTS[site]
    network = cloud.network.find_network(tenant.network, ignore_missing=False)
    security_group = cloud.network.find_security_group(NAME, ignore_missing=False)
    image = cloud.image.find_image(IMAGE, ignore_missing=False)
    port = cloud.network.create_port(
        name=member.port,
        network_id=network.id,
        fixed_ips=[{"ip_address": member.address}],
        security_group_ids=[security_group.id],
    )
    root = cloud.block_storage.create_volume(
        name=f"{member.server}-root", size=GIB, image_id=image.id
    )
    data = cloud.block_storage.create_volume(
        name=f"{member.server}-data", size=GIB, volume_type=tenant.volume_type
    )
    for volume in (root, data):
        cloud.block_storage.wait_for_status(
            volume, "available", ["error"], interval=0.1, wait=PATIENCE_S
        )
    disks = [
        {
            "uuid": volume.id,
            "source_type": "volume",
            "destination_type": "volume",
            "boot_index": index,
            "delete_on_termination": False,
        }
        for volume, index in ((root, 0), (data, -1))
    ]
    return cloud.compute.create_server(
        name=member.server,
        flavor_id=cloud.compute.find_flavor("tiny", ignore_missing=False).id,
        networks=[{"port": port.id}],
        block_device_mapping=disks,
        config_drive=True,
        user_data=base64.b64encode(member.user_data(PERIOD_MS).encode()).decode(),
        metadata={"vnf": NAME, "role": member.role},
        key_name=NAME,
        scheduler_hints={"group": group},
    )


def state(sandbox: Sandbox, site: str) -> dict[str, dict[str, Any]]:
    """What each member says of itself, asked over its network; the head first, so that the chain's
    order holds also while it runs.

    Raises:
        SandboxError: one does not answer.
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
    """Return when all members answer and the chain goes on."""
    seen: list[dict[str, int]] = []

    def goes_on() -> bool:
        try:
            seen.append(durable(sandbox, site))
        except SandboxError:
            return False
        return all(seen[0][role] < seen[-1][role] for role in CHAIN)

    await_that(
        goes_on, f"all members of the canary answer at {site} and their chain goes on", timeout_s
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
    return sandbox.directory / site / "snapshots" / f"snapshot-{snapshot_id}"

"""Whether a VNF can be protected: everything that would fail later is found before anything is
frozen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import AntipodeError, PreflightFailed
from antipode.model.topology import Server, Topology, Volume
from antipode.model.vnf import Vnf
from antipode.topology.discovery import find_members

AGENT = "hw_qemu_guest_agent"
AGENT_ANSWER_S = 15.0
"""How long a guest agent may take to answer a thaw when nothing is frozen."""
USABLE = ("in-use", "available")
"""Something is just happening to a volume in any other state, or has gone wrong with it: Cinder
would refuse to snapshot most.
"""


def check_protect(vnf: Vnf, topology: Topology, primary: Site) -> None:
    """Check servers, their guest agents, volumes, the quiesce add-on, cinder-backup and quotas.

    Each guest agent is asked for a thaw, which does nothing to a server that is not frozen.

    Raises:
        PreflightFailed: with everything that is missing.
    """
    problems = [
        *_add_on(vnf, primary),
        *_servers(vnf, topology, primary),
        *_agents(topology, primary),
        *(
            p
            for server in topology.servers
            for volume in server.volumes
            for p in _volume(server, volume)
        ),
        *_busy_volumes(topology, primary),
        *_backup_service(primary),
        *_quotas(topology.volumes, primary.volumes.quota(primary.project_id)),
    ]
    if problems:
        raise PreflightFailed(f"Protecting {vnf.vnf} at {primary.name}", problems)


def _add_on(vnf: Vnf, primary: Site) -> Iterator[str]:
    support = primary.compute.quiesce_support()
    if support is None:
        yield (
            f"{primary.name} cannot quiesce servers: install the nova-quiesce add-on for its "
            "nova-api"
        )
    elif vnf.quiesce.timeout > support["maximum_timeout"]:
        yield (
            f"quiesce timeout {vnf.quiesce.timeout:g} s is longer than {primary.name} allows, "
            f"{support['maximum_timeout']} s"
        )


def _servers(vnf: Vnf, topology: Topology, primary: Site) -> Iterator[str]:
    for name, times in Counter(s.name for s in topology.servers).items():
        if times > 1:
            yield (
                f"{times} members are named {name}; rename them, a recovery tells its servers "
                "apart by name"
            )
    for found, server in zip(find_members(vnf, primary), topology.servers, strict=True):
        name = server.name
        if found["status"] != "ACTIVE":
            yield f"server {name} is {found['status']}; it must be ACTIVE to be quiesced"
        if task := found.get("OS-EXT-STS:task_state"):
            yield f"server {name} is busy ({task}); wait until that is over"
        if found.get("locked") and "admin" not in primary.roles:
            yield f"server {name} is locked; unlock it"
        if found.get("image"):
            yield (
                f"server {name} has its root disk on the hypervisor, not on a volume, which is "
                "not supported"
            )
        elif not any(a.is_root for a in server.attachments):
            yield (
                f"server {name}: its root volume cannot be told; only with the admin role in "
                "the project can root_device_name be seen"
            )
        if found["flavor"].get("ephemeral"):
            yield (
                f"server {name} has an ephemeral disk (flavor {server.flavor.name}), whose "
                "data cannot be protected"
            )
        root = _root(server)
        if root is not None and not _has_agent(root):
            yield (
                f"server {name} has no guest agent: image property {AGENT} of its root volume "
                f"{root.id} is not yes; "
                f"install qemu-guest-agent in it, set the property and boot it anew"
            )
        yield from _ports(server)


def _root(server: Server) -> Volume | None:
    return next((a.volume for a in server.attachments if a.is_root), None)


def _has_agent(root: Volume) -> bool:
    """Whether Nova has been told that there is a guest agent, so that it asks it."""
    return str(root.image_metadata.get(AGENT, "")).lower() in ("yes", "true", "1")


def _agents(topology: Topology, primary: Site) -> Iterator[str]:
    """Ask those agents that Nova knows of, at once."""
    if not primary.compute.quiesce_available():
        return
    asked = [s for s in topology.servers if (root := _root(s)) is not None and _has_agent(root)]
    with ThreadPoolExecutor(8, "guest-agent") as pool:
        for server, silence in zip(
            asked, pool.map(lambda s: _silence(s, primary), asked), strict=True
        ):
            if silence is not None:
                yield (
                    f"server {server.name} cannot be quiesced, its guest agent does not answer "
                    f"({silence}); see to qemu-guest-agent in it"
                )


def _silence(server: Server, primary: Site) -> str | None:
    """Why a server's guest agent does not answer; None when it does, or when the server is
    quiesced, which must not end by this.
    """
    try:
        if not primary.compute.is_quiesced(server.id):
            primary.compute.unquiesce(server.id, AGENT_ANSWER_S)
    except AntipodeError as error:
        return error.reason if isinstance(error, ApiError) else str(error)
    return None


def _ports(server: Server) -> Iterator[str]:
    for port in server.ports:
        if port.vnic_type != "normal":
            yield (
                f"server {server.name}: port {port.id} has vnic type {port.vnic_type}; only "
                "normal is supported"
            )


def _volume(server: Server, volume: Volume) -> Iterator[str]:
    label = f"volume {volume.name or volume.id} of server {server.name}"
    if volume.encrypted:
        yield (
            f"{label} is encrypted, which is not supported: its key would be missing at the "
            "backup site"
        )
    if volume.multiattach:
        yield f"{label} is multiattach, which is not supported"


def _busy_volumes(topology: Topology, primary: Site) -> Iterator[str]:
    status = {v["id"]: v["status"] for v in primary.volumes.volumes()}
    for server in topology.servers:
        for volume in server.volumes:
            if (now := status.get(volume.id, "gone")) not in USABLE:
                yield (
                    f"volume {volume.name or volume.id} of server {server.name} is {now}; it "
                    "must be in-use to be snapshot"
                )


def _backup_service(primary: Site) -> Iterator[str]:
    if not primary.backups.services_up():
        yield f"cinder-backup is not up at {primary.name}"


def _quotas(volumes: list[Volume], quota: Json) -> Iterator[str]:
    """A snapshot counts as one snapshot and, in gigabytes, as a volume; both also for its type."""
    size = sum(v.size_gib for v in volumes)
    needed: Counter[str] = Counter(
        snapshots=len(volumes), gigabytes=size, backups=len(volumes), backup_gigabytes=size
    )
    for volume in volumes:
        needed[f"snapshots_{volume.volume_type}"] += 1
        needed[f"gigabytes_{volume.volume_type}"] += volume.size_gib
    for resource, amount in needed.items():
        if (row := quota.get(resource)) and 0 <= row["limit"] < row["in_use"] + row[
            "reserved"
        ] + amount:
            yield (
                f"quota {resource}: {amount} more are needed, "
                f"{row['limit'] - row['in_use'] - row['reserved']} of {row['limit']} are free"
            )

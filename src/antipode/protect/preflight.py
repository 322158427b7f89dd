"""Whether a VNF can be protected: everything that would fail later is found before anything is frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.errors import PreflightFailed
from antipode.model.topology import Server, Topology, Volume
from antipode.model.vnf import Vnf
from antipode.protect.discover import find_members

AGENT = "hw_qemu_guest_agent"


def check_protect(vnf: Vnf, topology: Topology, primary: Site) -> None:
    """Check servers, volumes, the quiesce add-on, cinder-backup and quotas.

    Whether a guest agent really answers only quiescing tells; here it is whether Nova will ask it.

    Raises:
        PreflightFailed: with everything that is missing.
    """
    problems = [
        *_add_on(vnf, primary),
        *_servers(vnf, topology, primary),
        *(p for server in topology.servers for volume in server.volumes for p in _volume(server, volume)),
        *_backup_service(primary),
        *_quotas(topology.volumes, primary.volumes.quota(primary.project_id)),
    ]
    if problems:
        raise PreflightFailed(f"Protecting {vnf.vnf} at {primary.name}", problems)


def _add_on(vnf: Vnf, primary: Site) -> Iterator[str]:
    support = primary.compute.quiesce_support()
    if support is None:
        yield f"{primary.name} cannot quiesce servers: install the nova-quiesce add-on for its nova-api"
    elif vnf.quiesce.timeout > support["maximum_timeout"]:
        yield f"quiesce timeout {vnf.quiesce.timeout:g} s is longer than {primary.name} allows, {support['maximum_timeout']} s"


def _servers(vnf: Vnf, topology: Topology, primary: Site) -> Iterator[str]:
    for name, times in Counter(s.name for s in topology.servers).items():
        if times > 1:
            yield f"{times} members are named {name}; rename them, a recovery tells its servers apart by name"
    for found, server in zip(find_members(vnf, primary), topology.servers, strict=True):
        name = server.name
        if found["status"] != "ACTIVE":
            yield f"server {name} is {found['status']}; it must be ACTIVE to be quiesced"
        if task := found.get("OS-EXT-STS:task_state"):
            yield f"server {name} is busy ({task}); wait until that is over"
        if found.get("locked") and "admin" not in primary.roles:
            yield f"server {name} is locked; unlock it"
        if found.get("image"):
            yield f"server {name} has its root disk on the hypervisor, not on a volume, which is not supported"
        elif not any(a.is_root for a in server.attachments):
            yield f"server {name}: its root volume cannot be told; only with the admin role in the project can root_device_name be seen"
        if found["flavor"].get("ephemeral"):
            yield f"server {name} has an ephemeral disk (flavor {server.flavor.name}), whose data cannot be protected"
        root = next((a.volume for a in server.attachments if a.is_root), None)
        if root is not None and str(root.image_metadata.get(AGENT, "")).lower() not in ("yes", "true", "1"):
            yield (
                f"server {name} has no guest agent: image property {AGENT} of its root volume {root.id} is not yes; "
                f"install qemu-guest-agent in it, set the property and boot it anew"
            )
        yield from _ports(server)


def _ports(server: Server) -> Iterator[str]:
    for port in server.ports:
        if port.vnic_type != "normal":
            yield f"server {server.name}: port {port.id} has vnic type {port.vnic_type}; only normal is supported"


def _volume(server: Server, volume: Volume) -> Iterator[str]:
    label = f"volume {volume.name or volume.id} of server {server.name}"
    if volume.encrypted:
        yield f"{label} is encrypted, which is not supported: its key would be missing at the backup site"
    if volume.multiattach:
        yield f"{label} is multiattach, which is not supported"


def _backup_service(primary: Site) -> Iterator[str]:
    if not primary.backups.services_up():
        yield f"cinder-backup is not up at {primary.name}"


def _quotas(volumes: list[Volume], quota: Json) -> Iterator[str]:
    """A snapshot counts as one snapshot and, in gigabytes, as a volume; both also for its type."""
    size = sum(v.size_gib for v in volumes)
    needed: Counter[str] = Counter(snapshots=len(volumes), gigabytes=size, backups=len(volumes), backup_gigabytes=size)
    for volume in volumes:
        needed[f"snapshots_{volume.volume_type}"] += 1
        needed[f"gigabytes_{volume.volume_type}"] += volume.size_gib
    for resource, amount in needed.items():
        if (row := quota.get(resource)) and 0 <= row["limit"] < row["in_use"] + row["reserved"] + amount:
            yield f"quota {resource}: {amount} more are needed, {row['limit'] - row['in_use'] - row['reserved']} of {row['limit']} are free"

# SPDX-License-Identifier: Apache-2.0
"""The example VNF on a site: three VMs whose records tell whether a recovery point was consistent.

Made, removed, asked, read here.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antipode.sandbox import configuration
from antipode.sandbox.creation import Creation
from antipode.sandbox.members import HTTP_PORT, MEMBERS, NAME, PAIR, Member
from lab import clouds, guest_access, inside
from lab.checker import CHAIN, check, records_of_image
from lab.errors import LabError
from lab.guest import image
from lab.services.ceph import POOL
from lab.site import ROOT, SITES, Site
from lab.waiting import wait_until

if TYPE_CHECKING:
    from openstack.connection import Connection

PERIOD_MS = 100
DATA_DEVICE = "/dev/vdb"

Records = Mapping[str, bytes]


def connect(site: Site, user: str = "-tenant") -> Connection:
    """The VNF's owner at the site, by the lab's clouds.yaml; with an empty `user` antipode's
    own.
    """
    cloud: Connection = configuration.connection(clouds.PATH, f"{site.name}{user}")
    return cloud


# ---- making and removing it ----


def create(site: Site, timeout: float = 900) -> dict[str, str]:
    """Create what of the VNF is missing, and return role -> server id when all members answer and
    the chain advances.

    Raises LabError when a resource of the VNF is in error, or a member does not answer within
    `timeout` seconds.
    """
    from openstack.exceptions import SDKException

    cloud = connect(site)

    def start(server: Any) -> None:
        # a hard reboot is the only action that works from ACTIVE as well as from SHUTOFF
        if not _is_running(site, server.id):
            cloud.compute.reboot_server(server, "HARD")

    creation = Creation(cloud, site.name, image.NAME, PERIOD_MS, start, 600, interval_s=0.5)
    try:
        with _alone(site):
            servers = creation.run()
    except SDKException as error:
        raise LabError(
            f"{site.name}: the canary cannot be created: {error}; remove it first: python -m "
            f"lab.canary remove {site.name}"
        ) from error
    wait_answers(site, timeout)
    return servers


def remove(site: Site, members: Sequence[Member] = (*MEMBERS, *PAIR)) -> list[str]:
    """Delete the servers, group, ports, volumes (with their snapshots) and keypairs of a VNF with
    these members, recovered and fenced ones too; return what was deleted.
    """
    with _alone(site):
        _unlock(connect(site, "-admin"), members)
        # a keypair belongs to a user: the VNF's to its owner, and where antipode recovers the VNF,
        # it imports one for itself
        return (
            _remove(connect(site), members)
            + _remove_keypair(connect(site, ""))
            + _remove_keypair(connect(site))
        )


def _unlock(cloud: Connection, members: Sequence[Member]) -> None:
    """What an administrator has locked, its owner cannot delete."""
    for server in cloud.compute.servers(all_projects=True):
        if server.is_locked and server.name in [m.server for m in members]:
            cloud.compute.unlock_server(server)


def _remove_keypair(cloud: Connection) -> list[str]:
    keypair = cloud.compute.find_keypair(NAME)
    if keypair:
        cloud.compute.delete_keypair(keypair)
    return [f"keypair {NAME}"] if keypair else []


def _remove(cloud: Connection, members: Sequence[Member]) -> list[str]:
    servers = [s for m in members for s in cloud.compute.servers(name=f"^{m.server}$")]
    ports = {p.id: p for s in servers for p in cloud.network.ports(device_id=s.id)}
    ports |= {p.id: p for m in members for p in cloud.network.ports(name=m.port)}
    attached = {a.volume_id for s in servers for a in cloud.compute.volume_attachments(s)}
    volumes = [
        v
        for v in cloud.block_storage.volumes()
        if v.id in attached or (v.name or "").startswith(f"{NAME}-")
    ]
    groups = [g for g in cloud.compute.server_groups() if g.name == NAME]
    for server in servers:
        cloud.compute.delete_server(server)
    for group in groups:
        cloud.compute.delete_server_group(group)
    for server in servers:
        cloud.compute.wait_for_delete(server, interval=1, wait=600)
    for port in ports.values():
        cloud.network.delete_port(port)
    for volume in volumes:
        _wait_until_deletable(cloud, volume.id)
        cloud.block_storage.delete_volume(volume, cascade=True)
    for volume in volumes:
        cloud.block_storage.wait_for_delete(volume, interval=1, wait=600)
    return [
        f"{type(thing).__name__.lower()} {thing.name}"
        for thing in (*servers, *groups, *ports.values(), *volumes)
    ]


def _wait_until_deletable(cloud: Connection, volume: str) -> None:
    def is_deletable() -> bool:
        status = str(cloud.block_storage.get_volume(volume).status)
        return status == "available" or status.startswith("error")

    wait_until(is_deletable, f"volume {volume} can be deleted", timeout=600, interval=0.5)


@contextmanager
def _alone(site: Site) -> Iterator[None]:
    """One process at a time creates or removes the VNF at a site."""
    with (ROOT / f"canary-{site.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_running(site: Site, server: str) -> bool:
    """Asks libvirt: for minutes after a disaster, Nova reports its guests as ACTIVE."""
    return inside.run(site, ["virsh", "domstate", server], check=False).stdout.strip() == "running"


# ---- asking it ----


def state(site: Site, timeout: float = 30) -> dict[str, dict[str, Any]]:
    """The state that each member reports, within `timeout` seconds each: role -> its JSON (role,
    durable, found, boot, torn, ms, state).

    The head of the chain is asked first, so that front.durable <= app.durable <= db.durable holds
    also for a running VNF.
    """
    return {
        m.role: json.loads(guest_access.answer(site, m.address, HTTP_PORT, timeout))
        for m in reversed(MEMBERS)
    }


def durable(site: Site) -> dict[str, int]:
    """The last record that each member has durable."""
    return {role: int(says["durable"]) for role, says in state(site).items()}


def wait_answers(site: Site, timeout: float = 900) -> None:
    """Return when all members answer, each in its own role, and the chain advances."""
    seen: list[dict[str, int]] = []

    def advances() -> bool:
        try:
            # no longer: one that is just starting is better asked again
            says = state(site, timeout=5)
        except LabError:
            return False
        if swapped := {role: s["role"] for role, s in says.items() if s["role"] != role}:
            raise LabError(f"{site.name}: members answer in another role: {swapped}")
        seen.append({role: s["durable"] for role, s in says.items()})
        return all(seen[0][role] < seen[-1][role] for role in CHAIN)

    wait_until(
        advances,
        f"all members of the canary answer at {site.name} and their chain advances",
        timeout,
        interval=0.3,
    )


def wait_for_records(site: Site, more: int, timeout: float = 600) -> None:
    """Return when every member has `more` records more than now."""
    before = durable(site)

    def has_more() -> bool:
        try:
            return all(now >= before[role] + more for role, now in durable(site).items())
        except LabError:  # a busy machine: asked again until the time is over
            return False

    wait_until(
        has_more, f"the canary at {site.name} has {more} more records", timeout, interval=0.3
    )


def frozen_last(site: Site, timeout: float = 20) -> dict[str, int]:
    """The last durable record of each quiesced member, once it has stood still for two seconds.

    Raises LabError when records still come, or none can be asked for, after `timeout` seconds: it
    is not quiesced.
    """
    samples: list[dict[str, int]] = []

    def stands_still() -> bool:
        try:
            samples.append(durable(site))
        except LabError:  # a busy machine: asked again until the time is over
            return False
        return samples[-1:] == samples[-2:-1]

    wait_until(
        stands_still,
        f"the canary at {site.name} stands still; is it quiesced?",
        timeout,
        interval=2,
    )
    return samples[-1]


def fill(site: Site, mib: int, seed: int = 1) -> None:
    """Have every member write `mib` MiB of pseudo-random data to its data volume, so that backups
    carry real weight.
    """

    def fill_member(member: Member) -> None:
        said = guest_access.answer(
            site, member.address, HTTP_PORT, timeout=60 + mib, path=f"/fill?mib={mib}&seed={seed}"
        )
        if "error" in json.loads(said):
            raise LabError(f"{member.server} cannot write {mib} MiB: {said.strip()}")

    with ThreadPoolExecutor(len(MEMBERS)) as pool:
        list(pool.map(fill_member, MEMBERS))


# ---- reading its volumes, behind OpenStack's back ----


def data_volumes(site: Site) -> dict[str, str]:
    """role -> id of the data volume that the member's server has attached."""
    cloud = connect(site)
    found = {}
    for member in MEMBERS:
        server = cloud.compute.find_server(member.server, ignore_missing=False)
        volumes = [
            a.volume_id for a in cloud.compute.volume_attachments(server) if a.device == DATA_DEVICE
        ]
        if len(volumes) != 1:
            raise LabError(
                f"{member.server} at {site.name} has {len(volumes)} volumes at {DATA_DEVICE}, "
                "one is wanted"
            )
        found[member.role] = str(volumes[0])
    return found


def records_of_snapshot(site: Site, volume_id: str, snapshot_id: str) -> bytes:
    """The record file in a Cinder snapshot, read from the site's Ceph."""
    return _export(site, f"{POOL}/volume-{volume_id}@snapshot-{snapshot_id}")


def records_of_volume(site: Site, volume_id: str) -> bytes:
    """The record file on a volume as it is at this instant, which may be in use: what a power cut
    now would leave.
    """
    return records_of_volumes(site, [volume_id])[volume_id]


def records_of_volumes(site: Site, volume_ids: Sequence[str]) -> dict[str, bytes]:
    """Like `records_of_volume`, of several: their instants follow each other in the order given."""
    snapshots = {volume: f"{POOL}/volume-{volume}@canary-witness" for volume in volume_ids}
    taken: list[str] = []
    try:
        for snapshot in snapshots.values():
            inside.run(site, ["rbd", "snap", "create", "--no-progress", snapshot])
            taken.append(snapshot)
        with ThreadPoolExecutor(len(snapshots)) as pool:
            return dict(
                zip(
                    snapshots,
                    pool.map(lambda snapshot: _export(site, snapshot), snapshots.values()),
                    strict=True,
                )
            )
    finally:
        for snapshot in taken:
            inside.run(site, ["rbd", "snap", "rm", "--no-progress", snapshot])


def records(site: Site) -> Records:
    """The records of all members now, head first, so that a healthy VNF gives a consistent state
    also while it runs.
    """
    volumes = data_volumes(site)
    contents = records_of_volumes(site, [volumes[role] for role in reversed(CHAIN)])
    return {role: contents[volume] for role, volume in volumes.items()}


def _export(site: Site, rbd_image: str) -> bytes:
    with tempfile.TemporaryDirectory(dir=site.home / "tmp", prefix="canary-export-") as folder:
        volume = Path(folder) / "volume.raw"  # to a file and not a pipe: so the zeros are skipped
        inside.run(site, ["rbd", "export", "--no-progress", rbd_image, str(volume)])
        try:
            return records_of_image(volume)
        except LabError as e:
            raise LabError(f"{site.name}: {rbd_image}: {e}") from e


# ---- the command line ----


def main(arguments: Sequence[str] | None = None) -> int:
    from keystoneauth1.exceptions import ClientException
    from openstack.exceptions import SDKException

    actions: dict[str, Callable[[Site], object]] = {
        "create": create,
        "remove": remove,
        "state": state,
        "check": lambda site: check(records(site)).as_json(),
    }
    parser = argparse.ArgumentParser(
        prog="python -m lab.canary", description="The example VNF on a site of the lab."
    )
    parser.add_argument("action", choices=actions)
    parser.add_argument("site", choices=SITES)
    parser.add_argument("-f", "--format", choices=("text", "json"), default="text")
    chosen = parser.parse_args(arguments)
    try:
        result = actions[chosen.action](SITES[chosen.site])
    except (LabError, SDKException, ClientException) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2) if chosen.format == "json" else _as_text(result))
    return 0


def _as_text(result: object) -> str:
    if isinstance(result, Mapping):
        return "\n".join(f"{key}: {value}" for key, value in result.items())
    return "\n".join(map(str, result)) if isinstance(result, Sequence) else str(result)


if __name__ == "__main__":
    sys.exit(main())

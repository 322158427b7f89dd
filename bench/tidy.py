# SPDX-License-Identifier: Apache-2.0
"""The removal of all that a turn of a client leaves: the recovered VNF and the records at the
backup site, snapshots and backups at the primary.

Only resources of the measured VNF are touched (by its members' names, its MACs, its volumes), and
only those that did not exist before the turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from keystoneauth1.exceptions import BadRequest, Conflict, NotFound

from bench.cloud import POLL_S, Cloud, Failed, Json
from bench.floor import thaw

GONE_S = 300.0


@dataclass(frozen=True)
class Vnf:
    """The measured VNF as the floor found it, at its two sites."""

    primary: Cloud
    backup: Cloud
    servers: list[Json]

    @property
    def names(self) -> set[str]:
        return {s["name"] for s in self.servers}

    @property
    def macs(self) -> set[str]:
        return {p["mac"] for s in self.servers for p in s["ports"]}

    @property
    def keypairs(self) -> set[str]:
        return {s["keypair"]["name"] for s in self.servers if s["keypair"]}

    @property
    def volumes(self) -> list[Json]:
        return [v for s in self.servers for v in s["volumes"]]


def belongings(vnf: Vnf) -> dict[str, set[str]]:
    """The ids of the resources that a client may leave behind, by kind and site."""
    ids, names = {v["id"] for v in vnf.volumes}, {v["name"] for v in vnf.volumes}
    return {
        "keypairs": {
            k["keypair"]["name"] for k in vnf.backup.compute.get("/os-keypairs").json()["keypairs"]
        }
        & vnf.keypairs,
        "servers": {s["id"] for s in vnf.backup.servers() if s["name"] in vnf.names},
        "ports": {p["id"] for p in vnf.backup.networks("ports") if p["mac_address"] in vnf.macs},
        "volumes": {v["id"] for v in vnf.backup.volumes() if v["name"] in names},
        "records": {b["id"] for b in vnf.backup.backups() if b["volume_id"] in ids},
        "snapshots": {s["id"] for s in vnf.primary.snapshots() if s["volume_id"] in ids},
        "backups": {b["id"] for b in vnf.primary.backups() if b["volume_id"] in ids},
    }


def standing_in_the_way(vnf: Vnf) -> list[str]:
    """What is at the backup site already and would collide with a recovered VNF, in words; empty
    when there is nothing.
    """
    there = belongings(vnf)
    return [
        f"{len(there[kind])} {kind} of the VNF at {vnf.backup.name}"
        for kind in ("servers", "ports", "volumes")
        if there[kind]
    ]


def remove_new(vnf: Vnf, before: dict[str, set[str]]) -> None:
    """Delete the resources that did not exist `before`: each kind is gone before the one that it
    rests on is deleted.

    Records and backups of one chain share their objects: whichever Cinder deletes first removes
    them, the other one its row.

    Raises:
        Failed: something does not go away.
    """
    a, b = vnf.primary, vnf.backup
    steps: tuple[tuple[str, Callable[[str], object]], ...] = (
        ("servers", lambda i: b.compute.delete(f"/servers/{i}")),
        ("keypairs", lambda i: b.compute.delete(f"/os-keypairs/{i}")),
        ("ports", lambda i: b.network.delete(f"/ports/{i}")),
        ("volumes", lambda i: b.volume.delete(f"/volumes/{i}")),
        ("snapshots", lambda i: a.volume.delete(f"/snapshots/{i}")),
        ("records", lambda i: b.volume.delete(f"/backups/{i}")),
        ("backups", lambda i: a.volume.delete(f"/backups/{i}")),
    )
    for kind, delete in steps:
        _delete_until_gone(kind, delete, partial(_left, vnf, kind, before[kind]))


def _left(vnf: Vnf, kind: str, before: set[str]) -> set[str]:
    """The resources of a kind that did not exist before."""
    return belongings(vnf)[kind] - before


def _delete_until_gone(
    kind: str, delete: Callable[[str], object], left: Callable[[], set[str]]
) -> None:
    deadline, asked = time.monotonic() + GONE_S, set[str]()
    while ids := left():
        if time.monotonic() > deadline:
            raise Failed(f"{kind} do not go away: {', '.join(sorted(ids))}; delete them by hand")
        asked |= _delete(delete, ids - asked)
        time.sleep(5 * POLL_S)


def _delete(delete: Callable[[str], object], ids: Iterable[str]) -> set[str]:
    """Ask for the deletion of each; the ids of those that were accepted.

    One that is refused (a base while its increment still exists) is asked for again.
    """
    taken = set()
    for resource in ids:
        try:
            delete(resource)
        except (BadRequest, Conflict):
            continue
        except NotFound:
            pass
        taken.add(resource)
    return taken


def thaw_all(vnf: Vnf) -> None:
    """Unquiesce every member, frozen or not, after a client has failed."""
    thaw(vnf.primary, vnf.servers)

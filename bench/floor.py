# SPDX-License-Identifier: Apache-2.0
"""The floor: the same OpenStack calls by a minimal concurrent client, which knows no failure, no
database and no manifest.

It quiesces in order, takes all snapshots at once, unquiesces in reverse, backs up all snapshots at
once, exports the records; and it imports chains base first, creates volumes from backups and ports
at once, boots in the order wanted. Each object is asked each 0.1 s.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from keystoneauth1.exceptions import ClientException, NotFound
from ruamel.yaml import YAML

from antipode.model.vnf import Answers, Vnf
from bench.cloud import POLL_S, Cloud, Failed, Json, await_status, until

T = TypeVar("T")
SNAPSHOT_S, BACKUP_S, RESTORE_S, BOOT_S, THAW_S = 60.0, 1200.0, 1200.0, 300.0, 60.0
POOL = ThreadPoolExecutor(max_workers=64)


def read_vnf(file: Path) -> Vnf:
    """The VNF file of an operator."""
    return Vnf.model_validate(YAML(typ="safe").load(file))


def at_once(do: Callable[[Any], T], things: Iterable[Any]) -> list[T]:
    """Do it for all things at once; the first failure is raised without waiting for the others."""
    futures = [POOL.submit(do, thing) for thing in things]
    wait(futures, return_when=FIRST_EXCEPTION)
    if failed := next((f for f in futures if f.done() and f.exception()), None):
        failed.result()
    return [f.result() for f in futures]


def discover(vnf: Vnf, site: Cloud) -> list[Json]:
    """Step 1.1: the members in quiesce order, with their volumes (root first), ports and what
    booting them takes.
    """
    servers, volumes, ports, networks, subnets, groups = (
        f.result()
        for f in (
            POOL.submit(site.servers),
            POOL.submit(site.volumes),
            *(
                POOL.submit(site.networks, c)
                for c in ("ports", "networks", "subnets", "security-groups")
            ),
        )
    )
    by_name = {s["name"]: s for s in servers}
    volume_by_id = {v["id"]: v for v in volumes}
    network_name = {n["id"]: n["name"] for n in networks}
    cidr = {s["id"]: s["cidr"] for s in subnets}
    group_name = {g["id"]: g["name"] for g in groups}

    def member(name: str) -> Json:
        server = by_name[name]
        root = server["OS-EXT-SRV-ATTR:root_device_name"]
        attached = site.compute.get(f"/servers/{server['id']}/os-volume_attachments").json()[
            "volumeAttachments"
        ]
        keypair = None
        if server["key_name"]:
            owner = {"user_id": server["user_id"]}
            keypair = site.compute.get(f"/os-keypairs/{server['key_name']}", params=owner).json()[
                "keypair"
            ]
        attached.sort(key=lambda a: (a["device"] != root, a["device"]))
        return {
            "id": server["id"],
            "name": name,
            "flavor": server["flavor"]["original_name"],
            "keypair": keypair,
            "user_data": server["OS-EXT-SRV-ATTR:user_data"],
            "config_drive": bool(server["config_drive"]),
            "metadata": server["metadata"],
            "volumes": [
                {
                    "id": v["id"],
                    "name": v["name"],
                    "size": v["size"],
                    "type": v["volume_type"],
                    "metadata": v["metadata"],
                }
                for v in (volume_by_id[a["volumeId"]] for a in attached)
            ],
            "ports": [
                {
                    "name": p["name"],
                    "mac": p["mac_address"],
                    "network": network_name[p["network_id"]],
                    "fixed": [
                        {"address": f["ip_address"], "cidr": cidr[f["subnet_id"]]}
                        for f in p["fixed_ips"]
                    ],
                    "groups": [group_name[g] for g in p["security_groups"]],
                }
                for p in ports
                if p["device_id"] == server["id"]
            ],
        }

    return at_once(member, [m.server for m in vnf.members])


def thaw(site: Cloud, servers: Sequence[Json]) -> None:
    """Unquiesce in reverse order, each tried until it is done; the last members are thawed even
    when one refuses.

    Raises:
        Failed: members that could not be thawed, by name.
    """
    handlers = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    left, refused, deadline = list(reversed(servers)), dict[str, str](), time.monotonic() + THAW_S
    while left:
        refused = {s["name"]: e for s in left if (e := _thawed(site, s)) is not None}
        left = [s for s in left if s["name"] in refused]
        if left and time.monotonic() > deadline:
            raise Failed(f"MAY STILL BE FROZEN at {site.name}, unquiesce by hand: {refused}")
        if left:
            time.sleep(POLL_S)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _thawed(site: Cloud, server: Json) -> str | None:
    """Thaw one member; None when it is thawed, else the reason."""
    try:
        site.act(server["id"], "unquiesce")
    except NotFound:
        return None  # a server that is gone is not frozen
    except ClientException as error:
        response = getattr(error, "response", None)
        return str(error) if response is None else f"{error}: {response.text}"
    return None


def snapshot_quiesced(
    site: Cloud, servers: Sequence[Json], name: str
) -> tuple[dict[str, str], float]:
    """Steps 1.2 to 1.4: the snapshot of each volume, and how long the window was in seconds."""

    def snapshot(volume: Json) -> tuple[str, str]:
        made = site.volume.post(
            "/snapshots", json={"snapshot": {"volume_id": volume["id"], "name": name}}
        ).json()["snapshot"]
        await_status(site.volume, "snapshot", made["id"], "available", SNAPSHOT_S)
        return volume["id"], made["id"]

    touched: list[Json] = []
    began = time.monotonic()
    try:
        for server in servers:
            touched.append(server)  # before the call: a call that fails may have frozen it
            site.act(server["id"], "quiesce")
        snapshots = dict(at_once(snapshot, [v for s in servers for v in s["volumes"]]))
    finally:
        thaw(site, touched)
    return snapshots, time.monotonic() - began


def back_up(
    site: Cloud, servers: Sequence[Json], snapshots: dict[str, str], name: str, incremental: bool
) -> dict[str, Json]:
    """Steps 1.5 and 1.6: one backup from each snapshot and its exported record, by volume id."""

    def one(volume: Json) -> tuple[str, Json]:
        body = {
            "volume_id": volume["id"],
            "snapshot_id": snapshots[volume["id"]],
            "name": name,
            "incremental": incremental,
            "force": True,
        }
        made = site.volume.post("/backups", json={"backup": body}).json()["backup"]
        await_status(site.volume, "backup", made["id"], "available", BACKUP_S)
        return volume["id"], {
            "id": made["id"],
            "record": site.volume.get(f"/backups/{made['id']}/export_record").json()[
                "backup-record"
            ],
        }

    return dict(at_once(one, [v for s in servers for v in s["volumes"]]))


def remove_snapshots(site: Cloud, snapshots: dict[str, str]) -> None:
    """Delete the snapshots and await that they are gone."""

    def one(snapshot_id: str) -> None:
        site.volume.delete(f"/snapshots/{snapshot_id}")
        path = f"/snapshots/{snapshot_id}"
        until(
            lambda: (
                "gone"
                if (r := site.volume.get(path, raise_exc=False)).status_code == 404
                else r.json()["snapshot"]["status"]
            ),
            "gone",
            f"snapshot {snapshot_id}",
            SNAPSHOT_S,
        )

    at_once(one, snapshots.values())


def protect(vnf: Vnf, state: Path, name: str, incremental: bool, window_only: bool) -> Json:
    """One recovery point; `state` holds what recovering takes, and the chains that a next increment
    adds to.
    """
    site = Cloud(vnf.primary)
    servers = discover(vnf, site)
    snapshots, window_s = snapshot_quiesced(site, servers, name)
    if not window_only:
        made = back_up(site, servers, snapshots, name, incremental)
        earlier = json.loads(state.read_text())["chains"] if incremental else {}
        chains = {volume: [*earlier.get(volume, []), record] for volume, record in made.items()}
        state.write_text(json.dumps({"servers": servers, "chains": chains}))
    done = time.time()
    remove_snapshots(site, snapshots)
    return {"window_s": window_s, "done_at": done}


def answers(wanted: Answers, site: str, server: Json) -> None:
    """Ask a member each 0.1 s until it answers, as its VNF file says."""
    address = server["ports"][0]["fixed"][0]["address"]
    if wanted.command is None:
        command = [
            sys.executable,
            "-c",
            f"import socket; socket.create_connection(({address!r}, {wanted.tcp}), 2).close()",
        ]
    else:
        command = [
            part.format(site=site, server=server["name"], address=address)
            for part in wanted.command
        ]

    def asked() -> str:
        return (
            "answers"
            if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
            else "silent"
        )

    until(asked, "answers", f"{server['name']} at {site}", wanted.within)


def recover(vnf: Vnf, state: Path) -> Json:
    """Steps 1.7.1 and 1.7.2: the VNF at the backup site, from the records in `state`."""
    site = Cloud(vnf.backup[0])
    saved = json.loads(state.read_text())
    servers: dict[str, Json] = {s["name"]: s for s in saved["servers"]}
    networks, subnets, groups, flavors = (
        f.result()
        for f in (
            *(POOL.submit(site.networks, c) for c in ("networks", "subnets", "security-groups")),
            POOL.submit(lambda: site.compute.get("/flavors").json()["flavors"]),
        )
    )
    network_id = {n["name"]: n["id"] for n in networks}
    subnet_id = {(s["network_id"], s["cidr"]): s["id"] for s in subnets}
    group_id = {g["name"]: g["id"] for g in groups if g["project_id"] == site.project}
    flavor_id = {f["name"]: f["id"] for f in flavors}

    def import_keypairs() -> None:
        wanted = {s["keypair"]["name"]: s["keypair"] for s in servers.values() if s["keypair"]}
        there = {k["keypair"]["name"] for k in site.compute.get("/os-keypairs").json()["keypairs"]}
        for name in wanted.keys() - there:
            keypair = wanted[name]
            site.compute.post(
                "/os-keypairs",
                json={"keypair": {k: keypair[k] for k in ("name", "public_key", "type")}},
            )

    def restored(volume: Json) -> str:
        chain = saved["chains"][volume["id"]]
        for link in chain:
            site.volume.post("/backups/import_record", json={"backup-record": link["record"]})
            await_status(site.volume, "backup", link["id"], "available", RESTORE_S)
        body = {
            "name": volume["name"],
            "size": volume["size"],
            "volume_type": vnf.map.volume_types.get(volume["type"], volume["type"]),
            "metadata": volume["metadata"],
            "backup_id": chain[-1]["id"],
        }
        made: str = site.volume.post("/volumes", json={"volume": body}).json()["volume"]["id"]
        await_status(site.volume, "volume", made, "available", RESTORE_S)
        return made

    def port(wanted: Json) -> str:
        network = network_id[vnf.map.networks.get(wanted["network"], wanted["network"])]
        body = {
            "name": wanted["name"],
            "network_id": network,
            "mac_address": wanted["mac"],
            "fixed_ips": [
                {"subnet_id": subnet_id[network, f["cidr"]], "ip_address": f["address"]}
                for f in wanted["fixed"]
            ],
            "security_groups": [
                group_id[vnf.map.security_groups.get(g, g)] for g in wanted["groups"]
            ],
        }
        made: str = site.network.post("/ports", json={"port": body}).json()["port"]["id"]
        return made

    volumes: dict[str, Future[str]] = {
        v["id"]: POOL.submit(restored, v) for s in servers.values() for v in s["volumes"]
    }
    ports: dict[str, Future[str]] = {
        p["mac"]: POOL.submit(port, p) for s in servers.values() for p in s["ports"]
    }
    keypairs = POOL.submit(import_keypairs)
    booted: dict[str, Future[Json]] = {}
    predecessors = vnf.predecessors()

    def boot(name: str) -> Json:
        server = servers[name]
        disks = [volumes[v["id"]].result() for v in server["volumes"]]
        for before in predecessors[name]:
            booted[before].result()
        keypairs.result()
        body = {
            "name": name,
            "flavorRef": flavor_id[vnf.map.flavors.get(server["flavor"], server["flavor"])],
            "networks": [{"port": ports[p["mac"]].result()} for p in server["ports"]],
            "block_device_mapping_v2": [
                {
                    "uuid": disk,
                    "source_type": "volume",
                    "destination_type": "volume",
                    "boot_index": 0 if i == 0 else -1,
                }
                for i, disk in enumerate(disks)
            ],
            "metadata": server["metadata"],
            "config_drive": server["config_drive"],
            **({"key_name": server["keypair"]["name"]} if server["keypair"] else {}),
            **({"user_data": server["user_data"]} if server["user_data"] else {}),
        }
        restored_at = time.time()
        made = site.compute.post("/servers", json={"server": body}).json()["server"]["id"]
        await_status(site.compute, "server", made, "ACTIVE", BOOT_S)
        active_at = time.time()
        if (wanted := vnf.member(name).answers) is not None:
            answers(wanted, vnf.backup[0], server)
        return {"restored_at": restored_at, "active_at": active_at, "answers_at": time.time()}

    for (
        wave
    ) in vnf.boot_waves():  # in this order a predecessor's future is there before it is waited for
        booted.update({name: POOL.submit(boot, name) for name in wave})
    wait(booted.values(), return_when=FIRST_EXCEPTION)
    marks = {name: future.result() for name, future in booted.items()}
    return {"done_at": max(m["answers_at"] for m in marks.values()), "members": marks}


def stop(number: int, frame: object) -> None:
    """A signal ends the client as an exception does: through every `finally`."""
    raise SystemExit(128 + number)


def main() -> None:
    """One act of the floor; the result is printed as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.floor", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("act", choices=["window", "protect", "recover"])
    parser.add_argument("--vnf", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--name", default="bench-floor")
    parser.add_argument("--incremental", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    vnf = read_vnf(options.vnf)
    if options.act == "recover":
        result = recover(vnf, options.state)
    else:
        result = protect(
            vnf,
            options.state,
            options.name,
            options.incremental,
            window_only=options.act == "window",
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()

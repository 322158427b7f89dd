# SPDX-License-Identifier: Apache-2.0
"""The cost of antipode itself as the work grows: many VNFs on embedded sites without latency,
protected and failed over.

`python -m bench.scale` prints, for 20, 200 and 2,000 volumes, CPU seconds and memory of antipode's
process, HTTP calls per volume, threads, and the exponents with which they grow (1.0: linear). The
embedded sites are processes of their own and do not count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from antipode.cloud.site import Site, connect
from antipode.sandbox import desk
from antipode.sandbox.site import IMAGE
from antipode.sandbox.supervision import SITES, Sandbox

SERVERS, VOLUMES = 10, 2
"""of a VNF unless another number is asked for, and of each server"""
SMALL, MOST_MIB = 50, 200
"""antipode's process takes no more memory than this for so many volumes"""
NETWORK, CIDR = "scale-net", "10.8.0.0/16"
GIB = 1 << 20
"""the bytes of a GiB: what the sites do with bytes is not what is measured"""
_ID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
MEASURES = ("cpu_s", "calls", "memory_mib", "threads", "seconds")
REPORT = Path("build") / "scale.json"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# ---- many VNFs ----


def vnf(number: int, servers: int = SERVERS) -> dict[str, Any]:
    members = [{"server": server_name(number, i)} for i in range(servers)]
    base = {
        "vnf": f"vnf-{number}",
        "primary": SITES[0],
        "backup": SITES[1],
        "store_at_active_site": "accepted",
        "protections": {"option": "quiesced-snapshot", "quiesce": {"timeout": "120s"}},
        "members": members,
    }
    return {**base, "map": {"volume_types": {"fast": "standard"}}}


def server_name(number: int, member: int) -> str:
    return f"vnf-{number}-{member}"


def furnish(vnfs: int, of_each: int = SERVERS) -> None:
    """Make the network at both sites and the servers of all VNFs at the primary."""
    sites = [connect(name, name) for name in SITES]
    networks = [_network(site) for site in sites]
    primary = sites[0]
    import openstack

    image = openstack.connect(cloud=SITES[0]).image.find_image(IMAGE, ignore_missing=False).id
    flavor = next(f["id"] for f in primary.compute.flavors() if f["name"] == "tiny")

    def make(index: int) -> str:
        roots = [
            primary.volumes.create_volume({"size": 1, "name": f"{index}-root", "imageRef": image})
        ]
        data = [
            primary.volumes.create_volume(
                {"size": 1, "name": f"{index}-{i}", "volume_type": "fast"}
            )
            for i in range(1, VOLUMES)
        ]
        address = f"10.8.{1 + index // 200}.{1 + index % 200}"
        port = primary.networks.create_port(
            {"network_id": networks[0], "fixed_ips": [{"ip_address": address}]}
        )
        primary.volumes.watch.wait_for(roots + data, timeout_s=300)
        disks = [
            {
                "uuid": v,
                "source_type": "volume",
                "destination_type": "volume",
                "boot_index": -1 if i else 0,
            }
            for i, v in enumerate(roots + data)
        ]
        name = server_name(index // of_each, index % of_each)
        body = {
            "name": name,
            "flavorRef": flavor,
            "block_device_mapping_v2": disks,
            "networks": [{"port": port}],
            "config_drive": True,
        }
        return primary.compute.create_server(body)

    with ThreadPoolExecutor(8) as pool:
        servers = list(pool.map(make, range(vnfs * of_each)))
    primary.compute.watch.wait_for(servers, wanted=("active",), timeout_s=300)


def _network(site: Site) -> str:
    """A network with addresses enough, and quotas without end, which also spares the site from
    counting.
    """
    project = site.project_id
    unlimited = ("volumes", "snapshots", "gigabytes", "backups", "backup_gigabytes")
    site.volumes._api.call(
        "PUT", f"/os-quota-sets/{project}", {"quota_set": dict.fromkeys(unlimited, -1)}
    )
    site.compute._api.call(
        "PUT",
        f"/os-quota-sets/{project}",
        {"quota_set": dict.fromkeys(("instances", "cores", "ram"), -1)},
    )
    site.networks._api.call("PUT", f"/quotas/{project}", {"quota": {"port": -1}})
    network = str(
        site.networks._api.post("/networks", {"network": {"name": NETWORK}})["network"]["id"]
    )
    pool = [{"start": "10.8.200.1", "end": "10.8.200.250"}]
    subnet = {
        "network_id": network,
        "name": NETWORK,
        "ip_version": 4,
        "cidr": CIDR,
        "gateway_ip": None,
        "allocation_pools": pool,
    }
    site.networks._api.post("/subnets", {"subnet": subnet})
    return network


# ---- antipode, in a process of its own ----


class Threads:
    """The most threads that were alive at once in this process."""

    def __init__(self) -> None:
        self.most = threading.active_count()
        self._start = threading.Thread.start

    def __enter__(self) -> Threads:
        start, threads = self._start, self

        def noted(thread: threading.Thread) -> None:
            start(thread)
            threads.most = max(threads.most, threading.active_count())

        threading.Thread.start = noted  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: object) -> None:
        threading.Thread.start = self._start  # type: ignore[method-assign]


def work(act: str, configuration: str, vnfs: int, at_once: int, servers: int) -> dict[str, float]:
    """Protect or fail over all VNFs, several at once, and what that took of this process."""
    from antipode import config
    from antipode.engine.deployment import Deployment
    from antipode.engine.timeline import Unobserved
    from antipode.model.vnf import Vnf
    from antipode.operations.failover import failover, prepare
    from antipode.operations.protect import protect

    deployment = Deployment(config.load(configuration))

    def one(number: int) -> None:
        name = f"vnf-{number}"
        if act == "protect":
            deployment.vnfs.put(Vnf.model_validate(vnf(number, servers)))
            protect(deployment, name, Unobserved())
        else:
            failover(deployment, prepare(deployment, name, SITES[1], None), Unobserved())

    began = time.monotonic()
    with Threads() as threads, ThreadPoolExecutor(at_once) as pool:
        for _ in pool.map(one, range(vnfs)):
            pass
    spent = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {
        "cpu_s": spent.ru_utime + spent.ru_stime,
        "memory_mib": spent.ru_maxrss / unit,
        "threads": threads.most,
        "seconds": time.monotonic() - began,
    }


class Shape(NamedTuple):
    """What is measured beside the number of volumes."""

    at_once: int
    """runs at once"""
    servers: int = SERVERS
    """of each VNF"""


def measured(
    act: str, sandbox: Sandbox, vnfs: int, shape: Shape, sites: Sequence[str]
) -> dict[str, float]:
    for site in sites:
        sandbox.ask(site, "DELETE", "/calls")
    command = [
        sys.executable,
        "-m",
        "bench.scale",
        "--work",
        act,
        "--vnfs",
        str(vnfs),
        "--at-once",
        str(shape.at_once),
        "--members",
        str(shape.servers),
    ]
    done = subprocess.run(
        [*command, "--config", str(sandbox.directory / desk.CONFIGURATION)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    result["calls"] = calls_of_antipode(sandbox, sites)
    return result


def calls_of_antipode(sandbox: Sandbox, sites: Sequence[str]) -> float:
    """All calls but those by which cinder-backup of a site writes and reads its objects."""
    return float(sum(kinds_of_calls(sandbox, sites).values()))


def kinds_of_calls(sandbox: Sandbox, sites: Sequence[str]) -> Counter[str]:
    """How often antipode has made each kind of call: the service, the method, and the path with
    ids left out.
    """
    found, moved = Counter[str](), ("PUT", "DELETE", "HEAD")
    for site in sites:
        for name, times in sandbox.ask(site, "GET", "/calls").items():
            service, method = name.split()[:2]
            if service != "object-store" or method not in moved:
                found[_ID.sub("ID", name)] += int(times)
    return found


# ---- the bench ----


def rows(sizes: Sequence[int], shape: Shape) -> Iterator[dict[str, Any]]:
    for volumes in sizes:
        vnfs = max(1, volumes // (shape.servers * VOLUMES))
        with tempfile.TemporaryDirectory(prefix="antipode-scale-") as folder:
            sandbox = Sandbox(Path(folder))
            sandbox.up(latency=0, gib=GIB)
            try:
                yield from _of_one_size(sandbox, vnfs, shape)
            finally:
                sandbox.down()


def _of_one_size(sandbox: Sandbox, vnfs: int, shape: Shape) -> Iterator[dict[str, Any]]:
    desk.write(sandbox)
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(sandbox.directory / desk.CLOUDS)
    volumes = vnfs * shape.servers * VOLUMES
    say(f"{vnfs} VNFs, {volumes} volumes")
    furnish(vnfs, shape.servers)
    without_verification(sandbox)
    primary, backup = SITES
    say("  protect")
    yield {
        "volumes": volumes,
        "act": "protect",
        **measured("protect", sandbox, vnfs, shape, SITES),
    }
    sandbox.kill(primary)
    say("  failover")
    yield {
        "volumes": volumes,
        "act": "failover",
        **measured("failover", sandbox, vnfs, shape, [backup]),
    }


def without_verification(sandbox: Sandbox) -> None:
    """Leave the backup store out of the configuration, so that the store is asked by cinder-backup
    and calls can be distinguished.
    """
    path = sandbox.directory / desk.CONFIGURATION
    content = YAML().load(path)
    content.pop("backup_store", None)
    YAML().dump(content, path)


def exponents(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By act and measure, the exponent of its growth with the number of volumes, from the smallest
    to the largest size.
    """
    result: dict[str, dict[str, float]] = {}
    for act in ("protect", "failover"):
        of_act = sorted((r for r in found if r["act"] == act), key=lambda r: int(r["volumes"]))
        if len(of_act) > 1:
            first, last = of_act[0], of_act[-1]
            more = math.log(last["volumes"] / first["volumes"])
            result[act] = {
                measure: round(math.log(last[measure] / first[measure]) / more, 2)
                for measure in MEASURES
            }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument(
        "--volumes",
        type=int,
        nargs="+",
        default=[20, 200, 2000],
        help="sizes (default: 20 200 2000)",
    )
    parser.add_argument(
        "--members",
        type=int,
        default=SERVERS,
        help=f"of each VNF, of {VOLUMES} volumes each (default: {SERVERS})",
    )
    parser.add_argument("--at-once", type=int, default=4, help="runs at once (default: 4)")
    parser.add_argument("--work", choices=("protect", "failover"), help=argparse.SUPPRESS)
    parser.add_argument("--vnfs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--config", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sites are ended too
    if chosen.work:
        of = (chosen.config, chosen.vnfs, chosen.at_once, chosen.members)
        json.dump(work(chosen.work, *of), sys.stdout)
        return 0
    print(
        "| volumes | act | CPU s | CPU ms/volume | calls/volume | memory MiB | threads | s "
        "|\n|---|---|---|---|---|---|---|---|"
    )
    found = []
    for row in rows(chosen.volumes, Shape(chosen.at_once, chosen.members)):
        found.append(row)
        n = row["volumes"]
        per_volume = f"{1000 * row['cpu_s'] / n:.1f} | {row['calls'] / n:.1f}"
        print(
            f"| {n} | {row['act']} | {row['cpu_s']:.1f} | {per_volume} | {row['memory_mib']:.0f} "
            f"| {row['threads']} | {row['seconds']:.1f} |",
            flush=True,
        )
    grown = exponents(found)
    for act, by_measure in grown.items():
        print(
            f"{act}: growth exponents "
            + ", ".join(f"{measure} {value}" for measure, value in by_measure.items())
        )
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps({"rows": found, "exponents": grown}, indent=2) + "\n")
    too_much = [r for r in found if r["volumes"] <= SMALL and r["memory_mib"] > MOST_MIB]
    for row in too_much:
        say(f"{row['act']} of {row['volumes']} volumes took {row['memory_mib']:.0f} MiB")
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main())

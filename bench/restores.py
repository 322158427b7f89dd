# SPDX-License-Identifier: Apache-2.0
"""The two ways in which Cinder brings a backup back, and the cost of a deep verification, beside a
floor: `python -m bench.restores`, on the lab.

A volume is created from a backup (cinder-backup knows it to be new and skips zeros), or a blank one
is created and a backup is restored into it (every byte is written). A deep verification does either
for each volume of a point, backs each up once more and compares the digests; its floor is the same
calls and no comparison.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from bench.clients import client_environment
from bench.cloud import POLL_S, Cloud, Failed, Json, await_status
from bench.spent import Spent, run
from lab import canary
from lab.desk import EXAMPLE, Desk
from lab.site import SITES

BUILD = Path("build")
FILL_MIB, CHANGED_MIB = 200, 5
RESTORE_S, GONE_S = 1200.0, 300.0
VNF = "canary"


def created_from(site: Cloud, backup: str, volume: Json) -> str:
    """The id of a volume that was created from a backup."""
    return _made(site, volume, backup_id=backup)


def restored_into_blank(site: Cloud, backup: str, volume: Json) -> str:
    """The id of a blank volume that a backup was restored into."""
    made = _made(site, volume)
    site.volume.post(f"/backups/{backup}/restore", json={"restore": {"volume_id": made}})
    # it is `available` until cinder-api has taken the request, which it has when it answers
    await_status(site.volume, "volume", made, "available", RESTORE_S)
    # Cinder ends the restore of the backup after that of the volume, and refuses another meanwhile
    await_status(site.volume, "backup", backup, "available", RESTORE_S)
    return made


WAYS: dict[str, Callable[[Cloud, str, Json], str]] = {
    "created from the backup": created_from,
    "blank, then restored": restored_into_blank,
}


def _made(site: Cloud, volume: Json, **more: str) -> str:
    body = {"size": volume["size"], "name": "bench-restores", **more}
    made: str = site.volume.post("/volumes", json={"volume": body}).json()["volume"]["id"]
    await_status(site.volume, "volume", made, "available", RESTORE_S)
    return made


def back_up(site: Cloud, volume: str) -> str:
    """The id of a full backup of a volume."""
    body = {"volume_id": volume, "name": "bench-restores"}
    made: str = site.volume.post("/backups", json={"backup": body}).json()["backup"]["id"]
    await_status(site.volume, "backup", made, "available", RESTORE_S)
    return made


@contextmanager
def timed(spent: list[float]) -> Iterator[None]:
    """Append the seconds that the block took."""
    began = time.monotonic()
    yield
    spent.append(time.monotonic() - began)


def remove(site: Cloud, kind: str, resource: str) -> None:
    """Delete a volume or a backup, and wait until it is gone.

    Raises:
        Failed: it does not go away.
    """
    path, deadline = f"/{kind}s/{resource}", time.monotonic() + GONE_S
    site.volume.delete(path)
    while site.volume.get(path, raise_exc=False).status_code != 404:
        if time.monotonic() > deadline:
            raise Failed(f"{kind} {resource} at {site.name} does not go away; delete it by hand")
        time.sleep(POLL_S)


def measure_ways(site: Cloud, chains: Sequence[Json], rounds: int) -> dict[str, list[float]]:
    """The seconds of each restore, the ways in turn: what drifts hits both alike.

    Args:
        chains: of each volume its size and the id of its newest backup, which the site has.
    """
    samples: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        names = list(WAYS)[number % 2 :] + list(WAYS)[: number % 2]
        for chain in chains:
            for way in names:
                with timed(samples[way]):
                    made = WAYS[way](site, chain["backup"], chain)
                remove(site, "volume", made)
    return samples


def measure_floor(site: Cloud, chains: Sequence[Json], way: str) -> float:
    """The seconds of a deep verification's calls, one volume after another."""
    spent: list[float] = []
    with timed(spent):
        for chain in chains:
            volume = WAYS[way](site, chain["backup"], chain)
            backup = back_up(site, volume)
            remove(site, "backup", backup)
            remove(site, "volume", volume)
    return spent[0]


class Asked(Protocol):
    """An installation of antipode whose command line is asked."""

    def ask(self, *arguments: str) -> Any:
        """The decoded output of `antipode ARGUMENTS -f json`, which must succeed."""


def verified(desk: Desk, folder: Path, number: int) -> Spent:
    """A deep verification of the newest point by antipode's command line."""
    command = [str(Path(sys.executable).with_name("antipode"))]
    command += ["recovery-point", "verify", VNF, "--deep", "-f", "json"]
    where = {**client_environment(), "ANTIPODE_CONFIG": str(desk.configuration)}
    return run(command, where, folder / f"verify-{number}.log")


def chains_of(desk: Asked, site: Cloud) -> list[Json]:
    """The newest backup of each volume of the newest point, and the size of the volume."""
    shown: Any = desk.ask("recovery-point", "show", VNF)
    newest = [volume["chain"][-1] for volume in shown["volumes"] if volume["chain"]]
    sizes = {b["id"]: b["size"] for b in site.backups()}
    return [{"backup": backup, "size": sizes[backup]} for backup in newest]


def report(
    ways: Mapping[str, Sequence[float]],
    deep: Sequence[Spent],
    floors: Mapping[str, Sequence[float]],
    chains: Sequence[Json],
) -> Json:
    """What was measured, as JSON values; times in seconds.

    Args:
        ways: of each way of restoring, the time of each volume in each round.
        deep: each deep verification.
        floors: of each way, the time of a deep verification's calls in each round.
    """
    verified_s = median(spent.wall_s for spent in deep)
    return {
        "ways_s": {way: list(samples) for way, samples in ways.items()},
        "ways_median_s": {way: median(samples) for way, samples in ways.items()},
        "verify_deep_s": [spent.wall_s for spent in deep],
        "verify_deep_cpu_s": [spent.cpu_s for spent in deep],
        "verify_deep_calls": [spent.calls for spent in deep],
        "floor_s": {way: list(samples) for way, samples in floors.items()},
        "verify_deep_by_floor": {
            way: verified_s / median(samples) for way, samples in floors.items()
        },
        "volumes": len(chains),
        "gib": sum(chain["size"] for chain in chains),
    }


def protected(folder: Path) -> Desk:
    """The canary at site-a with a recovery point that is an increment, and an operator's desk."""
    primary = SITES["site-a"]
    canary.create(primary)
    canary.fill(primary, FILL_MIB)
    desk = Desk((folder / "antipode").resolve(), vault=f"antipode-bench-{time.time_ns()}")
    desk.tell("vnf", "add", str(EXAMPLE))
    desk.ask("protect", VNF)
    canary.fill(primary, CHANGED_MIB, seed=time.time_ns())
    desk.ask("protect", VNF)
    return desk


def at_least_one(text: str) -> int:
    """The value of an argument that counts."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.restores",
        description="The two ways in which Cinder brings a backup back, and the cost of a deep"
        " verification, beside a floor; on the lab.",
    )
    parser.add_argument("--rounds", type=at_least_one, default=3, help="3 by default")
    return parser


def main() -> int:
    """Measure, print and write build/restores.json; 0 when all was measured."""
    rounds = arguments().parse_args().rounds
    folder = BUILD / "bench-restores"
    folder.mkdir(parents=True, exist_ok=True)
    desk = protected(folder)
    verified(desk, folder, 0)  # imports the records
    site = Cloud(SITES["site-b"].name)
    chains = chains_of(desk, site)
    ways = measure_ways(site, chains, rounds)
    deep, floors = list[Spent](), {way: list[float]() for way in WAYS}
    for number in range(1, rounds + 1):
        deep.append(verified(desk, folder, number))
        for way in WAYS:
            floors[way].append(measure_floor(site, chains, way))
    text = json.dumps(report(ways, deep, floors, chains), indent=1)
    (BUILD / "restores.json").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

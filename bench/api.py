# SPDX-License-Identifier: Apache-2.0
"""The REST API under load: many clients poll runs and lists of a database with a long history.

`python -m bench.api` fills a database with 1,000 VNFs and 100,000 runs, serves it by `antipode api`
in front of two embedded sites, and has 50 clients poll once a second, each with a token of its own
site. It prints the latencies of each call and of all, those of the first call of each token apart
(a Keystone is asked), and the CPU time of each call. Meanwhile a VNF is protected, which the API
must not slow. In each round that is done three times, in changing order: while no client polls,
while the clients poll the API, and while they poll the floor, a server that only answers what the
API has answered to the same calls (bench/fixed.py): what the clients themselves cost on the same
processors is not the API's. Before that the pages of the console are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
import requests
from ruamel.yaml import YAML
from sqlalchemy import insert

from antipode import config
from antipode.cli.serve import give_way
from antipode.engine.deployment import Deployment
from antipode.sandbox import canary, desk
from antipode.sandbox.demo import Operator
from antipode.sandbox.keystone import OTHER, PASSWORD, PROJECT, STAFF
from antipode.sandbox.supervision import SITES, Sandbox
from antipode.store.tables import RunRow, StepRow, VnfRow
from bench import fixed, pages

PORT, FLOOR_PORT = 19871, 19872
API, FLOOR = (f"http://127.0.0.1:{port}" for port in (PORT, FLOOR_PORT))
GOAL_S = 0.2
"""The p99 of all calls."""
SLOWED = 1.05
"""How many times as long a protection may take while clients poll the API, as while they poll the
floor.
"""
SEARCHED = "vnf-01"
"""That is looked for in the console's list."""
ROUNDS = 7
LEAD_S = 1.0
"""For so long the clients poll before the protection begins."""
FIRST = "first of a token"
"""These calls are among the others, too."""
REPORT = Path("build") / "api.json"
USERS = (("demo", PROJECT), ("operator", STAFF), ("observer", STAFF), ("stranger", OTHER))
KINDS = ("protect", "protect", "protect", "precheck", "drill", "failover", "verify")
BATCH = 5000
STEPS = 40
Taken = dict[str, list[float]]


class Client(NamedTuple):
    """A user of a project, with a token of one site."""

    project: str
    token: str


class Filled(NamedTuple):
    """A run of the database, and the project of its VNF."""

    id: str
    project: str | None


def main() -> int:
    """Measure, print and keep the result; 1 where the goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two polls")
    parser.add_argument("--vnfs", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="antipode-api-") as folder:
        sandbox = Sandbox(Path(folder))
        sandbox.up(latency=0.0)
        try:
            desk.write(sandbox)
            canary.create(sandbox, SITES[0])
            runs = fill(sandbox, asked.vnfs, asked.runs)
            with serving(sandbox) as api:
                started_s = cpu_s(api)
                clients = [token(sandbox, number) for number in range(asked.clients)]
                console = pages.measured(API, "operator", PASSWORD, SEARCHED)
                load = Load(clients, runs, asked.every)
                with floor(sandbox.directory, clients[0], runs) as other:
                    report = measured(sandbox, asked.rounds, load, api, other)
        finally:
            sandbox.down()
    report = {
        "asked": vars(asked),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "console": console,
        "api_start_cpu_s": started_s,
        **report,
    }
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))
    is_slow = report["calls"]["all"]["p99_ms"] > 1000 * GOAL_S
    is_slow |= report["protect_slowed"]["by_the_api"] > SLOWED
    return int(is_slow or bool(pages.missed(console)))


def measured(
    sandbox: Sandbox,
    rounds: int,
    load: Load,
    api: subprocess.Popen[bytes],
    other: subprocess.Popen[bytes],
) -> dict[str, Any]:
    """Protect a VNF in rounds: beside no client, beside those of the floor and of the API."""
    operator = Operator(sandbox.directory)
    operator.tell("vnf", "add", str(sandbox.directory / desk.VNF_FILE))
    protected(operator)  # in full; the others are increments
    servers = {"quiet": None, "floor": (FLOOR, other), "loaded": (API, api)}
    seconds: dict[str, list[float]] = {name: [] for name in servers}
    spent: dict[str, list[float]] = {name: [0.0, 0.0, 0.0] for name in servers}
    taken: Taken = defaultdict(list)
    for number in range(rounds):
        turn = [*servers][number % 3 :] + [*servers][: number % 3]
        for name in turn:
            if (server := servers[name]) is None:
                seconds[name].append(protected(operator))
                continue
            url, process = server
            before = cpu_s(process), own_cpu_s()
            work = partial(protected, operator)
            took, polled = asyncio.run(load.beside(work, url, number))
            seconds[name].append(took)
            calls = sum(len(times) for call, times in polled.items() if call != FIRST)
            after = cpu_s(process), own_cpu_s()
            new = calls, after[0] - before[0], after[1] - before[1]
            spent[name] = [a + b for a, b in zip(spent[name], new, strict=True)]
            if name == "loaded":
                for call, times in polled.items():
                    taken[call] += times
    found = {name: summary(times) for name, times in taken.items()}
    each = [times for name, times in taken.items() if name != FIRST]
    found["all"] = summary([s for times in each for s in times])
    return {
        "calls": found,
        "protect_s": seconds,
        "protect_slowed": {
            "by_the_api": slowed(seconds["loaded"], seconds["floor"]),
            "by_clients_of_the_floor": slowed(seconds["floor"], seconds["quiet"]),
            "by_both": slowed(seconds["loaded"], seconds["quiet"]),
        },
        "cpu_ms_per_call": {
            name: {"server": round(1000 * of_it / n, 2), "clients": round(1000 * ours / n, 2)}
            for name, (n, of_it, ours) in spent.items()
            if n
        },
    }


def slowed(slow: list[float], fast: list[float]) -> float:
    """How many times as long it took: the median of the rounds, so that a drift of the machine is
    in both sides of each.
    """
    return round(statistics.median(s / f for s, f in zip(slow, fast, strict=True)), 3)


def protected(operator: Operator) -> float:
    """Protect the VNF; the seconds that took."""
    began = time.monotonic()
    operator.tell("protect", "canary")
    return round(time.monotonic() - began, 3)


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """The seconds of CPU that a process has spent, its start included."""
    times = psutil.Process(process.pid).cpu_times()
    return round(times.user + times.system, 2)


def own_cpu_s() -> float:
    """The seconds of CPU that this process has spent, of which the clients are most."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def fill(sandbox: Sandbox, vnfs: int, runs: int) -> list[Filled]:
    """Write VNFs and their history to the database; some runs, with steps."""
    path = sandbox.directory / desk.CONFIGURATION
    yaml = YAML()
    yaml.dump({**yaml.load(path), "api": desk.api(PORT) | {"requests_per_minute": 10**6}}, path)
    deployment = Deployment(config.load(str(path)))
    projects = (PROJECT, OTHER, None)
    definition = desk.vnf(sandbox)
    now = time.time()
    names = [f"vnf-{number:04d}" for number in range(vnfs)]
    with deployment.database.begin() as connection:
        rows: list[dict[str, Any]] = [
            {
                "name": name,
                "definition": {**definition, "vnf": name},
                "added_at": now,
                "project": projects[number % 3],
            }
            for number, name in enumerate(names)
        ]
        connection.execute(insert(VnfRow), rows)
    shown: list[Filled] = []
    for begin in range(0, runs, BATCH):
        rows = [run(names, number, runs, now) for number in range(begin, min(begin + BATCH, runs))]
        with deployment.database.begin() as connection:
            connection.execute(insert(RunRow), rows)
            if begin + BATCH >= runs:
                shown = [Filled(row["id"], row["project"]) for row in rows[-300:]]
                connection.execute(
                    insert(StepRow), [step(r.id, n) for r in shown for n in range(STEPS)]
                )
    return shown


def run(names: list[str], number: int, of: int, now: float) -> dict[str, Any]:
    """A run of the history, as it is stored."""
    kind, vnf = KINDS[number % len(KINDS)], number % len(names)
    began = now - (of - number) * 60
    return {
        "id": f"{kind}-{number:07d}",
        "kind": kind,
        "vnf": names[vnf],
        "project": (PROJECT, OTHER, None)[vnf % 3],
        "state": "failed" if number % 50 == 0 else "succeeded",
        "started_at": began,
        "ended_at": began + 50,
        "result": {"recovery_point": f"point-{number}", "volumes": ["x" * 40] * 20},
        "request": {"plan": ["y" * 80] * 30},
        "author": "demo@site-a",
    }


def step(run_id: str, number: int) -> dict[str, Any]:
    """A step of a run, as it is stored."""
    return {
        "id": f"{abs(hash((run_id, number))):032x}"[-32:],
        "run": run_id,
        "number": f"1.{number}",
        "name": "restore volume",
        "resource": f"volume-{number}",
        "state": "succeeded",
        "started_at": float(number),
        "ended_at": number + 1.0,
        "result": {"bytes": number},
    }


@contextmanager
def floor(folder: Path, client: Client, runs: list[Filled]) -> Iterator[subprocess.Popen[bytes]]:
    """The server that answers what the API does to one client, as nice as the API is."""
    run = next(r.id for r in runs if client.project in (STAFF, r.project))
    bodies = {}
    for number in range(len(CALLS)):
        path = call(number, run)[1]
        answer = requests.get(f"{API}{path}", headers={"X-Auth-Token": client.token}, timeout=60)
        answer.raise_for_status()
        bodies[path.replace(run, fixed.RUN)] = answer.text
    answers = folder / "answers.json"
    answers.write_text(json.dumps(bodies))
    command = [sys.executable, "-m", "bench.fixed", str(FLOOR_PORT), str(answers)]
    with subprocess.Popen(command, preexec_fn=give_way) as process:
        try:
            until_it_answers(process, FLOOR)
            yield process
        finally:
            process.kill()


@contextmanager
def serving(sandbox: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    """`antipode api` in a process, once it answers."""
    environment = {
        **os.environ,
        "OS_CLIENT_CONFIG_FILE": str(sandbox.directory / desk.CLOUDS),
        "ANTIPODE_CONFIG": str(sandbox.directory / desk.CONFIGURATION),
    }
    command = [sys.executable, "-m", "antipode.cli.main", "api"]
    with subprocess.Popen(command, env=environment) as process:
        try:
            until_it_answers(process, API)
            yield process
        finally:
            process.kill()


def until_it_answers(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until a server answers, or has ended."""
    while process.poll() is None:
        try:
            if requests.get(f"{url}/healthcheck", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise RuntimeError(f"the server of {url} has ended")


def token(sandbox: Sandbox, number: int) -> Client:
    """A user with a token of one of the sites."""
    user, project = USERS[number % len(USERS)]
    domain = {"name": "Default"}
    who: Any = {"user": {"name": user, "domain": domain, "password": PASSWORD}}
    body: Any = {
        "identity": {"methods": ["password"], "password": who},
        "scope": {"project": {"name": project, "domain": domain}},
    }
    site = SITES[number % len(SITES)]
    url = f"{sandbox.settings(site).auth_url}/auth/tokens"
    answer = requests.post(url, json={"auth": body}, timeout=60)
    answer.raise_for_status()
    return Client(project, answer.headers["X-Subject-Token"])


CALLS = (
    ("runs", "/v1/runs?limit=100"),
    ("run", "/v1/runs/{run}"),
    ("steps", "/v1/runs/{run}/steps"),
    ("open runs", "/v1/runs?state=running"),
    ("vnfs", "/v1/vnfs?limit=100"),
    ("failed drills", "/v1/runs?kind=drill&state=failed"),
)
"""What a client asks for, in turn: a list of runs, a run with its steps, and so on."""


def call(turn: int, run: str) -> tuple[str, str]:
    """The name and the path of a call."""
    name, path = CALLS[turn % len(CALLS)]
    return name, path.format(run=run)


class Load(NamedTuple):
    """The clients, and what they poll."""

    clients: list[Client]
    runs: list[Filled]
    every: float
    """seconds between two polls of a client"""

    async def beside(
        self, work: Callable[[], float], url: str, round_number: int
    ) -> tuple[float, Taken]:
        """Have the clients poll while work is done; what that returns, and the seconds of each
        call, by its name.
        """
        taken: Taken = defaultdict(list)
        over = asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(url, connector=connector) as http,
            asyncio.TaskGroup() as t,
        ):
            for number in range(len(self.clients)):
                t.create_task(self._poll(http, number, round_number, over, taken))
            await asyncio.sleep(LEAD_S)
            try:
                found = await asyncio.to_thread(work)
            finally:
                over.set()
        return found, taken

    async def _poll(
        self,
        http: aiohttp.ClientSession,
        number: int,
        round_number: int,
        over: asyncio.Event,
        taken: Taken,
    ) -> None:
        """Poll as one client until the work is over."""
        project, token = self.clients[number]
        mine = [r.id for r in self.runs if project in (STAFF, r.project)]
        turn = number + round_number * len(CALLS)
        is_first = round_number == 0
        pause_s = self.every * number / len(self.clients)
        while not await over_within(over, pause_s):
            name, path = call(turn, mine[turn % len(mine)])
            began = time.monotonic()
            async with http.get(path, headers={"X-Auth-Token": token}) as answer:
                await answer.read()
                assert answer.status == 200, (path, answer.status)
            seconds = time.monotonic() - began
            taken[name].append(seconds)
            if is_first:
                taken[FIRST].append(seconds)
            is_first, turn = False, turn + 1
            pause_s = max(0.0, self.every - seconds)


async def over_within(over: asyncio.Event, seconds: float) -> bool:
    """Wait so long, but not longer than until it is over; whether it is."""
    try:
        await asyncio.wait_for(over.wait(), seconds)
    except TimeoutError:
        return over.is_set()
    return True


def summary(times: list[float]) -> dict[str, float]:
    """The distribution of some latencies, in milliseconds."""
    ordered = sorted(times)
    return {
        "calls": len(ordered),
        "median_ms": round(1000 * statistics.median(ordered), 1),
        "p99_ms": round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 1),
        "longest_ms": round(1000 * ordered[-1], 1),
    }


if __name__ == "__main__":
    sys.exit(main())

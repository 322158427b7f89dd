# SPDX-License-Identifier: Apache-2.0
"""Drives the week: moves the clock of all hosts, kills and revives them, and keeps accounts."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from sqlalchemy import func, select, text

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.model.vnf import Vnf
from antipode.operations.vnfs import add
from antipode.store.tables import Base, RunRow, StepRow
from bench.week.ledger import Ledger, Moment, Sums
from bench.week.receiver import Receiver

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
HOSTS = ("host-a", "host-b")
START = 1_796_000_400.0
"""the first moment of the week: a slot of every interval that divides an hour"""
TICK_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0
AWAY_S = (120.0, 2700.0)
"""how long a host that was killed is away"""
DIES_WITHIN = 60
"""statements to the database after which a host dies, at most"""
DRILLS_AT, DRILLS = 2 * HOUR_S, 10
"""after the begin of each day, and how many"""
EVERY_S = {"events": 120.0, "readiness": 300.0, "clean-up": 3600.0, "metrics": 600.0}
"""how often a host does what a service does more often: all of it depends on the clock only"""
OPTION = "quiesced-snapshot"


@dataclass(frozen=True)
class Settings:
    vnfs: int = 200
    hours: float = 168.0
    every_s: float = 900.0
    places: int = 16
    """protections at once on each host"""
    kills: int = 14
    seed: int = 1
    history_days: float = 1.0
    keep_at_least: int = 5
    """runs of each VNF, however old"""
    minutes: float | None = None
    """of real time after which it ends early; None: never"""
    url: str | None = None
    """of a database server; a file by default"""


@dataclass(frozen=True)
class Size:
    """How much there is to store after so many hours."""

    hours: float
    mib: float
    rows: dict[str, int]


@dataclass
class Account:
    """All that was seen."""

    sums: Sums
    missed_of_rows: int
    """as the schedules of the database count them"""
    sizes: list[Size]
    rss_mib: float
    rss_early_mib: float
    """the most in the first third"""
    spent: dict[str, float]
    """seconds of CPU, by part"""
    looks: int
    kills: list[str]
    events_lost: list[str]
    events_got: int
    seconds: float
    retried: int
    """runs that were claimed more than once"""


class Host:
    """A process of `bench.week.host`."""

    def __init__(self, name: str, configuration: Path, seed: int, now: float) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.week.host", str(configuration), str(seed), str(now)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, order: Json) -> Json | None:
        """Give an order; None: the host was killed before it had done it.

        Raises:
            RuntimeError: it has ended otherwise.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            answer: Json = json.loads(line)
            return answer
        if (ended := self._process.wait()) != -signal.SIGKILL:
            raise RuntimeError(f"{self.name} has ended with {ended}")
        return None

    def end(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


class Week:
    """One week, or what its settings make of it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._dice = random.Random(settings.seed)
        self._receiver = Receiver()
        self._path = _configured(settings, folder, self._receiver.url)
        self._deployment = Deployment(config.load(str(self._path)))
        self._vnfs = [_vnf(number, settings.every_s) for number in range(settings.vnfs)]
        for vnf in self._vnfs:
            add(self._deployment, vnf)
        schedule = self._vnfs[0].protections[0].schedule
        assert schedule is not None
        self._schedule = schedule
        self._ledger = Ledger(schedule, TICK_S)
        self._hosts: dict[str, Host] = {}
        self._back_at: dict[str, float] = dict.fromkeys(HOSTS, START)
        self._protects: dict[str, int] = {}
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._rss: list[tuple[float, float]] = []
        self._looks, self._kills, self._sizes = 0, list[str](), list[Size]()
        self._failed: set[str] = set()
        self._retried: set[str] = set()
        self._read_until = 0.0
        self._ends_early = False
        steps = int(settings.hours * HOUR_S / TICK_S)
        self._killings = set(self._dice.sample(range(1, steps), min(settings.kills, steps - 1)))
        self._steps = steps

    def play(self) -> Account:
        """Play it to its end; the accounts."""
        began = time.monotonic()
        try:
            with self._receiver, ThreadPoolExecutor(len(HOSTS)) as self._together:
                for step in range(self._steps + 1):
                    self._step(step, START + step * TICK_S)
                    if self._is_over(time.monotonic() - began):
                        self._steps = step
                        break
                return self._account(time.monotonic() - began)
        finally:
            for host in self._hosts.values():
                host.end()

    def end_early(self) -> None:
        """Have it end after the present step, with the accounts of what was played."""
        self._ends_early = True

    def _is_over(self, seconds: float) -> bool:
        most = self._settings.minutes
        return self._ends_early or (most is not None and seconds > 60 * most)

    def _step(self, step: int, now: float) -> None:
        alive_before = set(self._hosts)
        self._revive(now)
        order: Json = {"do": "move", "to": now}
        victim = None
        if step in self._killings and len(self._hosts) == len(HOSTS):
            victim = self._dice.choice(HOSTS)
        self._all(order, now, victim)
        for name in self._dice.sample(sorted(self._hosts), len(self._hosts)):
            self._ask([name], {"do": "conduct"}, now)
        if (now - START) % HOUR_S == 0:
            self._read(now)
        due = [part for part, every in EVERY_S.items() if (now - START) % every == 0]
        self._all({"do": "keep", "parts": due}, now)
        if (now - START) % DAY_S == DRILLS_AT:
            drilled = self._dice.sample([v.vnf for v in self._vnfs], min(DRILLS, len(self._vnfs)))
            self._ask(sorted(self._hosts)[:1], {"do": "drill", "vnfs": drilled}, now)
        self._ledger.moments.append(
            Moment(
                now,
                sum(self._protects.get(name, 0) for name in self._hosts),
                self._settings.places * len(self._hosts),
                set(self._hosts) != alive_before,
            )
        )

    def _all(self, order: Json, now: float, victim: str | None = None) -> None:
        self._ask(sorted(self._hosts), order, now, victim)

    def _ask(
        self, names: Sequence[str], order: Json, now: float, victim: str | None = None
    ) -> None:
        """Give hosts an order, beside each other; a `victim` dies in it or soon after."""
        dies = {"dies_after": self._dice.randint(1, DIES_WITHIN)}
        orders = {name: {**order, **(dies if name == victim else {})} for name in names}
        answers = self._together.map(lambda name: self._hosts[name].ask(orders[name]), names)
        for name, answer in zip(names, answers, strict=True):
            if answer is None:
                self._kills.append(f"{name} in {order['do']} after {(now - START) / HOUR_S:.1f} h")
                self._hosts.pop(name).end()
                self._back_at[name] = now + self._dice.uniform(*AWAY_S)
                continue
            self._protects[name] = answer["protects"]
            self._rss.append((now, answer["rss_mib"]))
            self._looks += order["do"] == "move"
            for part, seconds in answer["spent"].items():
                self._spent[part] += seconds

    def _revive(self, now: float) -> None:
        for name in HOSTS:
            if name not in self._hosts and self._back_at[name] <= now:
                self._hosts[name] = Host(name, self._path, self._settings.seed, now)
                self._protects[name] = 0

    def _read(self, now: float) -> None:
        """Note what has become of the runs, before the history is pruned."""
        rows = [*self._deployment.runs.ended_since(self._read_until), *self._deployment.runs.open()]
        protects = [row for row in rows if row.kind == "protect"]
        began = min((row.started_at for row in protects), default=now)
        self._read_until = now - 2 * TICK_S
        self._ledger.note(protects, self._first_steps(began))
        self._failed |= {row.id for row in protects if row.state == "failed"}
        self._retried |= {row.id for row in rows if row.claim > 1}
        self._sizes.append(Size((now - START) / HOUR_S, self._mib(), self._rows()))
        LOG.info(
            "%g h played: %d protections, %.0f MiB of database, %.0f MiB a host, %d kills",
            self._sizes[-1].hours,
            sum(map(len, self._ledger.runs.values())),
            self._sizes[-1].mib,
            max((mib for at, mib in self._rss if at > now - HOUR_S), default=0.0),
            len(self._kills),
        )

    def _first_steps(self, since: float) -> dict[str, float]:
        """When the first step of each run began that was begun since a moment."""
        of_run = select(StepRow.run, func.min(StepRow.started_at).label("began")).join(
            RunRow, RunRow.id == StepRow.run
        )
        of_run = of_run.where(RunRow.started_at >= since, StepRow.number != "")
        with self._deployment.database.connect() as connection:
            found = connection.execute(of_run.group_by(StepRow.run))
            return {row.run: row.began for row in found}

    def _mib(self) -> float:
        """What the database takes on its disk."""
        engine = self._deployment.database
        if engine.dialect.name == "postgresql":
            with engine.connect() as connection:
                size = connection.execute(text("SELECT pg_database_size(current_database())"))
                return float(size.scalar_one()) / (1 << 20)
        files = [Path(f"{engine.url.database}{end}") for end in ("", "-wal")]
        return sum(f.stat().st_size for f in files if f.exists()) / (1 << 20)

    def _rows(self) -> dict[str, int]:
        with self._deployment.database.connect() as connection:
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in Base.metadata.sorted_tables
            }

    def _account(self, seconds: float) -> Account:
        end = START + self._steps * TICK_S
        if self._read_until < end - 2 * TICK_S:
            self._read(end)
        delays = {v.vnf: self._schedule.delay_s(f"{v.vnf}/{OPTION}") for v in self._vnfs}
        lost = {run for run in self._failed if not self._receiver.has_got(run)}
        early = START + (end - START) / 3
        return Account(
            sums=self._ledger.sums([v.vnf for v in self._vnfs], delays, end),
            missed_of_rows=sum(row.missed for row in self._deployment.schedules.all().values()),
            sizes=self._sizes,
            rss_mib=max(mib for _, mib in self._rss),
            rss_early_mib=max(mib for at, mib in self._rss if at <= early),
            spent=dict(self._spent),
            looks=self._looks,
            kills=self._kills,
            events_lost=sorted(lost - self._ended_lately(end)),
            events_got=len(self._receiver.got),
            seconds=seconds,
            retried=len(self._retried),
        )

    def _ended_lately(self, end: float) -> set[str]:
        """Runs that ended in the last step, whose events nothing has had the time to deliver."""
        return {row.id for row in self._deployment.runs.ended_since(end - 2 * TICK_S)}


def _vnf(number: int, every_s: float) -> Vnf:
    return Vnf.model_validate(
        {
            "vnf": f"vnf-{number:03}",
            "primary": "site-a",
            "backup": "site-b",
            "members": [{"server": f"vnf-{number:03}-{member}"} for member in ("db", "app", "web")],
            "store_at_active_site": "accepted",
            "rpo": 2 * every_s,
            "protections": {
                "option": OPTION,
                "schedule": {"every": every_s, "jitter": every_s * 2 / 3},
                "quiesce": {"budget": "3s"},
            },
        }
    )


def _configured(settings: Settings, folder: Path, url: str) -> Path:
    (folder / "vault").mkdir()
    secret = folder / "secret"
    secret.write_text("a secret of the week, of no other use\n")
    secret.chmod(0o600)
    path = folder / "antipode.yaml"
    YAML().dump(
        {
            "sites": {"site-a": {"cloud": "a"}, "site-b": {"cloud": "b"}},
            "vault": {"directory": str(folder / "vault")},
            "database": settings.url or f"sqlite:///{folder / 'antipode.db'}",
            "state_directory": str(folder),
            "limits": {"runs": settings.places},
            "history": {"days": settings.history_days, "keep_at_least": settings.keep_at_least},
            "readiness": {"every": "30m", "days": settings.history_days},
            "events": {
                "days": 2,
                "webhooks": {
                    "noc": {
                        "url": url,
                        "secret_file": str(secret),
                        "types": ["dr.protect.error", "dr.schedule", "dr.readiness", "dr.drill"],
                    }
                },
            },
        },
        path,
    )
    return path

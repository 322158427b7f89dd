# SPDX-License-Identifier: Apache-2.0
"""One host of the week, a process of its own: it moves its clock as its orders say, and lets the
parts of a service do what is due then; `python -m bench.week.host CONFIG SEED START`.

An order is a line of JSON on standard input, its answer one on standard output.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import prometheus_client
from sqlalchemy import event

from antipode import clock, config
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.errors import Busy
from antipode.model.readiness import Finding, Level
from antipode.runs import KINDS, kind_of
from antipode.runs.looks import Looked, Subject
from antipode.service.conductor import Conductor
from antipode.service.courier import couriers
from antipode.service.daemon import clean_up
from antipode.service.events import Noticer
from antipode.service.metrics import Metrics
from antipode.service.observer import Observer
from antipode.service.queue import enqueue
from antipode.service.readiness import ReadinessLoop
from antipode.service.scheduler import Scheduler
from bench.week.light import LightDrill, LightProtect, chance
from bench.week.pace import Pace

Json = dict[str, Any]
ROUNDS = 5
"""Looks of a conductor at one moment: a run that could not be claimed at the first may be then."""
LIGHTS = {"protect": LightProtect, "drill": LightDrill}


class Host:
    """The parts of a service that follow the clock, without their threads: each is asked when it
    is due, so that a week does not depend on the speed of the machine.
    """

    def __init__(self, path: str, seed: int, pace: Pace) -> None:
        self._pace = pace
        self._seed = seed
        self._deployment = deployment = Deployment(config.load(path))
        observer = Observer(deployment)
        self._metrics = Metrics(deployment, observer)
        self._conductor = Conductor(deployment, self._metrics.run_ended, again_s=0.0)
        self._scheduler = Scheduler(deployment)
        settings = deployment.config.events
        assert settings is not None  # the driver's configuration has a webhook
        self._noticer = Noticer(deployment, settings, observer, lambda: self._conductor.waiting)
        self._couriers = couriers(deployment, settings)
        self._readiness = [
            ReadinessLoop(deployment, site, look=self._looked) for site in deployment.config.sites
        ]
        self.spent: dict[str, float] = {}
        """seconds of CPU of each part since its last answer"""

    def answer(self, order: Json) -> Json:
        """Do what an order says; what there is to tell."""
        self.spent = {}
        if (left := order.get("dies_after")) is not None:
            _die_after(self._deployment, left)
        work: dict[str, Callable[[Json], None]] = {
            "move": self._move,
            "conduct": self._conduct,
            "keep": self._keep_up,
            "drill": self._drill,
        }
        work[order["do"]](order)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return {
            "protects": sum(r.startswith("protect-") for r in self._conductor.under_way()),
            "rss_mib": _rss_mib() or peak / unit,
            "peak_mib": peak / unit,
            "spent": self.spent,
        }

    def _move(self, order: Json) -> None:
        """Let time pass: runs that are over end, and slots that are due are settled."""
        self._pace.advance(order["to"])
        with self._measured("runs"):
            self._settle()
        with self._measured("scheduler"):
            self._scheduler.look()

    def _conduct(self, _: Json) -> None:
        with self._measured("conductor"):
            for _round in range(ROUNDS):
                before = set(self._conductor.under_way())
                self._conductor.look()
                self._settle()
                if set(self._conductor.under_way()) <= before:
                    return

    def _keep_up(self, order: Json) -> None:
        """What a service does beside its runs; `parts` of an order says which of it is due."""
        due = order["parts"]
        if "events" in due:
            with self._measured("events"):
                self._noticer.look()
            with self._measured("deliveries"):
                for courier in self._couriers:
                    while courier.deliver() == 0.0:
                        pass
        if "readiness" in due:
            with self._measured("readiness"):
                for loop in self._readiness:
                    loop.look()
        if "clean-up" in due:
            with self._measured("clean-up"):
                clean_up(self._deployment)
        if "metrics" in due:
            with self._measured("metrics"):
                prometheus_client.generate_latest(self._metrics.registry)

    def _drill(self, order: Json) -> None:
        for vnf in order["vnfs"]:
            request = {"site": "site-b", "confirmed_at": clock.now()}
            try:
                enqueue(self._deployment, new_run(kind_of("drill"), vnf, request))
            except Busy:
                logging.getLogger(__name__).info("a drill of %s is under way", vnf)

    def _looked(self, subject: Subject) -> Looked:
        """A look whether a VNF could be recovered, whose verdict is the seed's."""
        dice = chance(self._seed, subject.vnf, clock.now())
        level = dice.choices((Level.GREEN, Level.YELLOW, Level.RED), (97, 2, 1))[0]
        return Looked([Finding(check="seed", level=level, detail="as the seed says")], None, None)

    def _settle(self) -> None:
        self._pace.settle(lambda: len(self._conductor.under_way()))

    @contextmanager
    def _measured(self, part: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.spent[part] = self.spent.get(part, 0.0) + time.process_time() - began


def _die_after(deployment: Deployment, statements: int) -> None:
    """Have this process killed after so many more statements to the database."""
    left = [statements]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for moment in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(deployment.database, moment, count)


def _rss_mib() -> float | None:
    """What this process has in memory now; None where the system does not say it so."""
    try:
        pages = Path(f"/proc/{os.getpid()}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    except OSError:
        return None


def main(path: str, seed: int, start: float) -> None:
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    pace = Pace(start)
    with clock.following(pace):
        for name, light in LIGHTS.items():
            KINDS.register(name, light(pace, seed))
        host = Host(path, seed, pace)
        for line in sys.stdin:
            print(json.dumps(host.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))

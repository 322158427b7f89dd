# SPDX-License-Identifier: Apache-2.0
"""The service: a conductor, a scheduler, loops for each site, metrics and clean-up, in one process
until it is stopped.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from antipode import __version__, clock, libraries
from antipode.claims.host import Lock
from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.engine.execution import forget_what_has_ended
from antipode.errors import AntipodeError, Busy
from antipode.freezes.reaper import Reaper
from antipode.runs import drill_cleanup, expire, history, orphans, verify
from antipode.service import events, readiness, standing
from antipode.service.conductor import Conductor
from antipode.service.courier import Courier, couriers
from antipode.service.events import Noticer
from antipode.service.metrics import Metrics, served
from antipode.service.observer import Observer
from antipode.service.queue import enqueue
from antipode.service.reachability import Reachability
from antipode.service.readiness import ReadinessLoop
from antipode.service.returning import Returning
from antipode.service.scheduler import Scheduler
from antipode.store.database import server_clock

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
STOPS_WITHIN_S = 90.0
"""Longer than a quiesce window with its unquiesce, and than a call that hangs."""
BEAT_S = 2.0
DEAD_AFTER_S = 30.0
"""A service whose last sign of life is older than this is taken to be dead."""
HANGS_AFTER_S = 300.0
"""A scheduler that has not looked for longer is reported."""
LOOK_HANGS_AFTER_S = 1800.0
"""The same for a look whether a VNF could be recovered, which calls a site and vaults."""
CLEAN_EVERY_S = 600.0
KEPT_S = 30 * 86400.0
"""How long a freeze that is over stays in the ledger, for later investigations."""
CLOCKS_APART_S = 0.8
"""How much a host's clock may differ from the database's, so that two hosts' differ by less than
the ledger's grace.
"""
LONGEST_PAUSE_S = 30.0


@dataclass
class Status:
    """What the service says of itself; moments are seconds since the epoch."""

    host: str
    pid: int
    version: str
    started_at: float
    beat_at: float
    runs: list[str] = field(default_factory=list)
    trouble: dict[str, str] = field(default_factory=dict)
    """what does not work, and why"""

    @property
    def is_alive(self) -> bool:
        return time.time() - self.beat_at < DEAD_AFTER_S


def status_of(config: Config) -> Status | None:
    """The last status that the service of this host has written; None if there is none."""
    try:
        return Status(**json.loads(_status_file(config).read_text()))
    except FileNotFoundError:
        return None


def serve(deployment: Deployment, stop: threading.Event) -> bool:
    """Execute runs and unquiesce what is overdue until `stop` is set; whether all runs had stopped
    by the end.

    Raises:
        Busy: a service runs on this host with the same state directory.
        AntipodeError: this host's clock differs from the database's, a library is of a release
            that does not fit, or metrics cannot be served where the configuration says.
    """
    libraries.check(libraries.TASKFLOW, libraries.FLOWS)
    must_agree_on_time(deployment)
    with _only_service(deployment.config):
        observer = Observer(deployment)
        sites = [Reachability(deployment, name) for name in deployment.config.sites]
        metrics = Metrics(deployment, observer, sites)
        conductor = Conductor(deployment, metrics.run_ended)
        scheduler = Scheduler(deployment)
        threads = [threading.Thread(target=conductor.conduct, name="conductor", daemon=True)]
        threads.append(
            threading.Thread(target=scheduler.follow, args=(stop,), name="scheduler", daemon=True)
        )
        threads.append(
            threading.Thread(
                target=_clean_up, args=(deployment, stop), name="clean-up", daemon=True
            )
        )
        returning = [Returning(deployment, name) for name in deployment.config.sites]
        threads += [
            threading.Thread(
                target=look.follow, args=(stop,), name=f"old copies at {look.site}", daemon=True
            )
            for look in returning
        ]
        threads.append(
            threading.Thread(
                target=standing.follow, args=(deployment, stop), name="standing", daemon=True
            )
        )
        ready = [ReadinessLoop(deployment, name) for name in deployment.config.sites]
        threads += [
            threading.Thread(
                target=look.follow, args=(stop,), name=f"readiness at {look.site}", daemon=True
            )
            for look in ready
        ]
        if deployment.config.metrics is not None:
            threads += [
                threading.Thread(
                    target=look.follow,
                    args=(stop,),
                    name=f"reachability of {look.site}",
                    daemon=True,
                )
                for look in sites
            ]
        events = _Events(deployment, observer, conductor)
        threads.append(
            threading.Thread(target=observer.follow, args=(stop,), name="observer", daemon=True)
        )
        threads += events.threads(stop)
        with _Reapers(deployment) as reapers, served(metrics, deployment.config.metrics):
            for thread in threads:
                thread.start()
            tell_systemd("READY=1")
            status = Status(
                socket.gethostname(), os.getpid(), __version__, time.time(), time.time()
            )
            parts = Parts(conductor, scheduler, reapers, observer, events, returning, ready)
            _beat(deployment, status, parts)
            LOG.info(
                "antipode %s serves: %d runs at once", __version__, deployment.config.limits.runs
            )
            while not stop.wait(BEAT_S):
                _beat(deployment, status, parts)
                metrics.waits_for_input(len(conductor.waiting))
            LOG.info("stopping: runs continue to their next safe point")
            tell_systemd("STOPPING=1")
            conductor.halt.set()
            threads[0].join(STOPS_WITHIN_S)
            left = conductor.wait(STOPS_WITHIN_S)
        if left:
            LOG.error(
                "not stopped within %.0f s: %s; they are resumed like those of a killed process",
                STOPS_WITHIN_S,
                ", ".join(left),
            )
        with suppress(FileNotFoundError):
            _status_file(deployment.config).unlink()
        return not left


def must_agree_on_time(deployment: Deployment) -> None:
    """See that this host's clock and the database's agree, where several hosts share it.

    Raises:
        AntipodeError: they do not: a server might be unquiesced here in the middle of another
            host's snapshots.
    """
    try:
        with deployment.database.connect() as connection:
            # so that connecting is not measured
            connection.execute(select(func.count()).select_from(text("runs")))
            before = time.time()
            there = server_clock(connection)
            after = time.time()
    except SQLAlchemyError as error:
        raise AntipodeError(f"the database does not answer: {error.__cause__ or error}") from error
    if there is None:
        return
    apart = max(before - there, there - after, 0)
    if apart > CLOCKS_APART_S:
        raise AntipodeError(
            f"the clock of this host and that of the database differ by {apart:.1f} s; "
            f"{CLOCKS_APART_S} s are allowed, as deadlines of"
            " frozen servers are compared between hosts. Have both kept by NTP (chrony), then "
            "start again"
        )


def tell_systemd(state: str) -> None:
    """Report the state of the service to systemd (sd_notify), if systemd has started it."""
    if not (address := os.environ.get("NOTIFY_SOCKET")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        try:
            there.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            LOG.warning("%s could not be reported to systemd: %s", state, error)


class _Reapers:
    """A reaper for each site of the configuration, so that a site that does not answer does not
    delay the others.

    A site is connected to when the ledger has an overdue server there, and not before.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._failed: dict[str, tuple[float, float]] = {}
        self.trouble: dict[str, str] = {}
        self._reapers = {
            name: Reaper(deployment.freezes, partial(self._where_overdue, name))
            for name in deployment.config.sites
        }

    def __enter__(self) -> _Reapers:
        for reaper in self._reapers.values():
            reaper.__enter__()
        return self

    def dead(self) -> list[str]:
        """The sites whose reaper has ended, which it never should."""
        return [name for name, reaper in self._reapers.items() if not reaper.is_alive]

    def __exit__(self, *error: object) -> None:
        for reaper in self._reapers.values():
            reaper.__exit__(None, None, None)

    def _where_overdue(self, name: str) -> list[Site]:
        """The connections to the projects of a site that have overdue servers. One that cannot be
        made delays no other, and is tried again after longer and longer pauses.
        """
        try:
            projects = {row.project for row in self._deployment.freezes.overdue(name)}
        except SQLAlchemyError as error:
            self._failed_at(name, error)
            return []
        here = {name if p is None else f"{name}, project {p}": p for p in projects}
        for place in [p for p in self.trouble if p.partition(",")[0] == name and p not in here]:
            self.trouble.pop(place, None)
        connected = (self._connected(name, place, project) for place, project in here.items())
        return [site for site in connected if site is not None]

    def _connected(self, name: str, place: str, project: str | None) -> Site | None:
        if time.monotonic() < self._failed.get(place, (0.0, 0.5))[0]:
            return None
        try:
            site = self._deployment.site_in(name, project)
        except (AntipodeError, SQLAlchemyError) as error:
            self._failed_at(place, error)
            return None
        self._failed.pop(place, None)
        self.trouble.pop(place, None)
        return site

    def _failed_at(self, place: str, error: Exception) -> None:
        _, pause = self._failed.get(place, (0.0, 0.5))
        if place not in self.trouble:
            LOG.error(
                "servers at %s are past their freeze deadline and cannot be unquiesced now; "
                "trying again: %s",
                place,
                error,
            )
        self.trouble[place] = str(error)
        self._failed[place] = (time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE_S))


class _Events:
    """The parts that note and deliver events, if the configuration names any."""

    def __init__(self, deployment: Deployment, observer: Observer, conductor: Conductor) -> None:
        """
        Raises:
            InvalidInput: the secret of a webhook cannot be read.
        """
        self._noticer: Noticer | None = None
        self._couriers: list[Courier] = []
        if (settings := deployment.config.events) is not None:
            self._noticer = Noticer(deployment, settings, observer, lambda: conductor.waiting)
            self._couriers = couriers(deployment, settings)

    def threads(self, stop: threading.Event) -> list[threading.Thread]:
        """A thread for each of them, not started."""
        work = {f"events for {courier.name}": courier.follow for courier in self._couriers}
        if self._noticer is not None:
            work["events"] = self._noticer.follow
        return [
            threading.Thread(target=follow, args=(stop,), name=name, daemon=True)
            for name, follow in work.items()
        ]

    def trouble(self) -> dict[str, str]:
        """What does not work, and why."""
        found = {f"events for {c.name}": c.trouble for c in self._couriers if c.trouble is not None}
        if self._noticer is not None and self._noticer.trouble is not None:
            found["events"] = self._noticer.trouble
        return found


def _clean_up(deployment: Deployment, stop: threading.Event) -> None:
    """Clean up every CLEAN_EVERY_S until `stop` is set."""
    while True:
        try:
            clean_up(deployment)
        except AntipodeError as error:
            LOG.error("%s", error)
        except Exception:
            LOG.exception("cleaning up failed; trying again in %.0f s", CLEAN_EVERY_S)
        if stop.wait(CLEAN_EVERY_S):
            return


def clean_up(deployment: Deployment) -> None:
    """Delete the flows of runs that have ended and freezes that are long over, compare the clocks,
    remove orphans at the sites, prune the history, and queue what expires or is to be verified.

    Raises:
        AntipodeError: the clocks differ, or the rest cannot be done now.
        SQLAlchemyError: the database does not answer.
    """
    forget_what_has_ended(deployment)
    deployment.freezes.forget(KEPT_S)
    must_agree_on_time(deployment)
    orphans.collect(deployment)
    while history.prune(deployment) == history.MOST:
        pass  # more runs may end than one step of it deletes
    events.clean_up(deployment)
    readiness.prune(deployment)
    deployment.audit.prune(clock.now() - deployment.config.history.audit_days * 86400)
    vnfs = deployment.vnfs.all()
    expire.submit_due(deployment, vnfs, partial(enqueue, deployment))
    verify.submit_due(deployment, vnfs, partial(enqueue, deployment))
    drill_cleanup.submit_due(deployment, partial(enqueue, deployment))


@dataclass(frozen=True)
class Parts:
    """What works in a service, each part in threads of its own."""

    conductor: Conductor
    scheduler: Scheduler
    reapers: _Reapers
    observer: Observer
    events: _Events
    returning: Sequence[Returning] = ()
    readiness: Sequence[ReadinessLoop] = ()

    def trouble(self) -> dict[str, str]:
        """What does not work, and why."""
        found = {f"site {name}": why for name, why in self.reapers.trouble.items()}
        found |= {f"run {run}": why for run, why in self.conductor.waiting.items()}
        found |= self.observer.trouble
        found |= self.events.trouble()
        found |= {
            f"old copy of {vnf} at {look.site}": why
            for look in self.returning
            for vnf, why in look.trouble.items()
        }
        found |= {
            f"readiness {f'of {vnf} ' if vnf else ''}at {look.site}": why
            for look in self.readiness
            for vnf, why in look.trouble.items()
        }
        found |= {
            f"readiness at {look.site}": f"its last look began {silent:.0f} s ago, and hangs"
            for look in self.readiness
            if (silent := time.monotonic() - look.looked_at) > LOOK_HANGS_AFTER_S
        }
        found |= {f"schedules of {vnf}": why for vnf, why in self.scheduler.damaged.items()}
        found |= {
            f"reaper of {name}": "its thread has ended; restart the service"
            for name in self.reapers.dead()
        }
        if self.conductor.trouble is not None:
            found["conductor"] = self.conductor.trouble
        if self.scheduler.trouble is not None:
            found["scheduler"] = self.scheduler.trouble
        elif (silent_s := time.monotonic() - self.scheduler.looked_at) > HANGS_AFTER_S:
            found["scheduler"] = f"its last look was {silent_s:.0f} s ago; restart the service"
        return found


def _beat(deployment: Deployment, status: Status, parts: Parts) -> None:
    """Give a sign of life, as old as the conductor's last look."""
    status.beat_at, status.runs = parts.conductor.looked_at, parts.conductor.under_way()
    status.trouble = parts.trouble()
    path = _status_file(deployment.config)
    part = path.with_suffix(".part")
    try:
        part.touch(mode=0o600)
        part.write_text(json.dumps(asdict(status)))
        part.rename(path)
    except OSError as error:
        # a full disk must not end the service, as servers may be frozen
        LOG.warning("the status of the service cannot be written: %s", error)
    tell_systemd("WATCHDOG=1" if status.is_alive else "STATUS=the conductor hangs")


def _status_file(config: Config) -> Path:
    return config.state_dir / "service.json"


@contextmanager
def _only_service(config: Config) -> Iterator[None]:
    try:
        handle = Lock(config.state_dir / "locks" / "service").take("the service")
    except Busy as error:
        raise Busy(
            f"a service already runs on this host with {config.state_dir}; see: antipode "
            "service status"
        ) from error
    try:
        yield
    finally:
        os.close(handle)


def queue_size(deployment: Deployment, rows: Sequence[RunRow]) -> dict[str, Any]:
    """How many of the open runs are queued, running (here or elsewhere), and lost."""
    held = {r.id: deployment.claims.is_held(r) for r in rows if r.state == "running"}
    return {
        "queued": sum(r.state == "queued" for r in rows),
        "running": sum(h is not False for h in held.values()),
        "lost": sum(h is False for h in held.values()),
    }

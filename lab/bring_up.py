# SPDX-License-Identifier: Apache-2.0
"""Bringing sites up: every service as soon as those it needs are there, all at once, healing what
is down.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from lab import power, supervision
from lab.errors import LabError
from lab.progress import Progress
from lab.service import NotReady, Program, Service
from lab.services import services_of
from lab.site import Site

READY_TIMEOUT = 900
"""Seconds that a service may take from the start of its programs to its first right answer, on a
machine that is slow and busy.
"""

REASON_EVERY = 60
"""Seconds between two messages about a service that is still not ready, with the reason."""

LOG_LINES = 25
"""How much of its logs is shown of a service that failed."""


class ServiceFailed(LabError):
    """A service did not come up; the text holds the end of its logs."""

    def __init__(self, site: Site, service: Service, reason: str) -> None:
        logs = "".join(
            f"\n--- end of {log}\n{tail(log)}"
            for log in (log_of(site, program) for program in service.programs(site))
        )
        super().__init__(f"{site.name}: {service.name} did not come up: {reason}{logs}")


class _Aborted(Exception):
    """Another service failed; this one is left where it is."""


def log_of(site: Site, program: Program) -> Path:
    return site.log / f"{program.name}.log"


def tail(log: Path, lines: int = LOG_LINES) -> str:
    if not log.exists():
        return "(no log yet)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 300 * lines))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def bring_up(sites: Sequence[Site], progress: Progress) -> bool:
    """Bring all services of the sites up.

    Returns whether anything had to be done; raises ServiceFailed.
    """
    ascents = [_Ascent(site, progress) for site in sites]
    for ascent in ascents:
        ascent.switch_on()
    abort = threading.Event()
    threads = [
        threading.Thread(
            target=ascent.bring_up,
            args=(service, abort),
            name=f"{ascent.site.name} {service.name}",
            daemon=True,
        )
        for ascent in ascents
        for service in ascent.services
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ascent in ascents:
        if ascent.failure:
            raise ascent.failure
    return any(ascent.changed for ascent in ascents)


class _Ascent:
    """One site on its way up."""

    def __init__(self, site: Site, progress: Progress) -> None:
        self.site = site
        self.progress = progress
        self.services = services_of(site)
        self.through = {service.name: threading.Event() for service in self.services}
        self.changed = False
        self.failure: LabError | None = None
        for service in self.services:
            if unknown := set(service.after) - set(self.through):
                raise LabError(
                    f"{service.name} of {site.name} comes after {', '.join(sorted(unknown))}, "
                    f"which {site.name} does not have"
                )

    def switch_on(self) -> None:
        """Configure all services and start the supervisor, or let the running one know what
        changed.
        """
        power.make_folders(self.site)
        for service in self.services:
            service.configure(self.site)
        supervision.write_configuration(
            self.site, [p for service in self.services for p in service.programs(self.site)]
        )
        self.changed |= power.on(self.site)
        supervision.reload_configuration(self.site)

    def bring_up(self, service: Service, abort: threading.Event) -> None:
        """Wait for what the service needs, then take it through all its steps.

        Runs in a thread of its own.
        """
        try:
            for needed in service.after:
                while not self.through[needed].wait(0.5):
                    _stop_if(abort)
            _stop_if(abort)
            began = time.monotonic()
            if self._is_outdated(service):
                supervision.stop(
                    self.site, [program.name for program in service.programs(self.site)]
                )
            if self._is_through(service):
                self._await_ready(service, abort)
            else:
                self.changed = True
                self._take_through(service, abort)
                self.progress.ready(self.site, service, time.monotonic() - began)
            self.through[service.name].set()
        except _Aborted:
            return
        except Exception as e:
            reason = (
                str(e)
                if isinstance(e, LabError | NotReady)
                else "".join(traceback.format_exception(e))
            )
            if not abort.is_set():
                self.failure = ServiceFailed(self.site, service, reason)
            abort.set()

    def _is_through(self, service: Service) -> bool:
        names = {program.name for program in service.programs(self.site)}
        return self._marker(service).exists() and names <= supervision.running(self.site)

    def _is_outdated(self, service: Service) -> bool:
        """Whether a service that this one must be restarted with has been started later."""
        known = supervision.processes(self.site)
        own = [known[program.name]["start"] for program in service.programs(self.site)]
        bound = [s for s in self.services if s.name in service.restart_with]
        return any(
            known[program.name]["start"] > min(own)
            for s in bound
            for program in s.programs(self.site)
        )

    def _take_through(self, service: Service, abort: threading.Event) -> None:
        self._marker(service).unlink(missing_ok=True)
        service.prepare(self.site)
        supervision.start(self.site, service.programs(self.site))
        self._await_ready(service, abort)
        service.populate(self.site)
        self._marker(service).parent.mkdir(exist_ok=True)
        self._marker(service).touch()

    def _await_ready(self, service: Service, abort: threading.Event) -> None:
        programs = service.programs(self.site)
        deadline = time.monotonic() + READY_TIMEOUT
        next_reason = time.monotonic() + REASON_EVERY
        pause = 0.2
        while True:
            _stop_if(abort)
            try:
                return service.check_ready(self.site)
            except NotReady as e:
                if given_up := supervision.given_up(self.site, programs):
                    raise LabError(f"{', '.join(given_up)} ended again and again") from e
                if time.monotonic() > deadline:
                    raise LabError(f"not ready after {READY_TIMEOUT} s: {e}") from e
                if time.monotonic() > next_reason:
                    next_reason += REASON_EVERY
                    self.progress.say(f"{self.site.name}  {service.name} is not ready yet: {e}")
            abort.wait(pause)
            pause = min(2.0, pause * 1.3)

    def _marker(self, service: Service) -> Path:
        """A file that exists once the service has finished all its steps. It is lost, with its
        folder, when the site is switched on again.
        """
        return self.site.run / "through" / service.name


def _stop_if(abort: threading.Event) -> None:
    if abort.is_set():
        raise _Aborted

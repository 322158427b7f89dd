# SPDX-License-Identifier: Apache-2.0
"""A service of a site: how it is configured, prepared, run and known to be ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lab.site import Site


class NotReady(Exception):
    """Raised by `Service.check_ready`: what the service answered, or that it did not."""


@dataclass(frozen=True)
class Program:
    """One supervised process of a site.

    It must stay in the foreground and log to stdout or stderr.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"


class Service:
    """One service of a site. A subclass says how; `lab.bring_up` decides when.

    Order of the calls for one service, on each `up`: `configure`, `prepare`, (its programs are
    started), `check_ready` until it returns, `populate`. A service is only begun when all named in
    `after` are through `populate`. All methods are idempotent: `up` calls them again on a lab that
    is half there. They are executed outside the site's namespaces; commands for the inside are run
    through `lab.inside.run(site, [...])`.
    """

    name: str
    after: Sequence[str] = ()
    restart_with: Sequence[str] = ()
    """Of those in `after`: services whose later restart leaves ours broken, so that `up` restarts
    it, too.
    """

    def configure(self, site: Site) -> None:
        """Write the service's files below `site.etc`; must not need any running service."""

    def prepare(self, site: Site) -> None:
        """Make what must be there before the programs start: databases, schemas, keys (services in
        `after` are up).
        """

    def programs(self, site: Site) -> Sequence[Program]:
        """The processes to supervise; empty when the service only prepares something."""
        return ()

    def check_ready(self, site: Site) -> None:
        """Return when the service really answers, asked once without waiting; raise `NotReady`
        otherwise.
        """

    def populate(self, site: Site) -> None:
        """Make through the running service what the others need of it: users, catalog, networks,
        types.
        """

"""One antipode installation: configuration, database, and connections to sites, vault and backup store, each made when needed."""

from __future__ import annotations

import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING

from antipode.cloud import site as cloud_site
from antipode.config import Config
from antipode.engine.reaper import reap
from antipode.store.database import open_database
from antipode.store.freezes import Freezes
from antipode.store.runs import Runs
from antipode.store.vnfs import Vnfs
from antipode.vault import Vault
from antipode.vault.directory import DirectoryVault
from antipode.vault.swift import SwiftVault

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site


class Deployment:
    """What a command works with. Nothing is connected to before it is asked for, so that a dead site is in nobody's way."""

    def __init__(self, config: Config) -> None:
        self.config = config
        database = open_database(config.database)
        self.vnfs = Vnfs(database)
        self.runs = Runs(database)
        self.freezes = Freezes(database)
        self._sites: dict[str, Site] = {}
        self._lock = threading.RLock()

    def site(self, name: str) -> Site:
        """The connection to a site. What is overdue in the freeze ledger there is thawed when it is made.

        Raises:
            NotFound: no such site in the configuration.
            SiteUnreachable: it does not answer.
        """
        with self._lock:
            if name not in self._sites:
                site = cloud_site.connect(name, self.config.site(name).cloud)
                reap(self.freezes, site, time.time())
                self._sites[name] = site
            return self._sites[name]

    def connected_sites(self) -> list[Site]:
        with self._lock:
            return list(self._sites.values())

    @cached_property
    def vault(self) -> Vault:
        """The vault of the configuration.

        Raises:
            SiteUnreachable: the site that it is at does not answer.
        """
        if (swift := self.config.vault.swift) is not None:
            return SwiftVault(self.site(swift.site).objects, swift.container, swift.site)
        assert self.config.vault.directory is not None  # the configuration has exactly one of the two
        return DirectoryVault(self.config.vault.directory)

    @cached_property
    def backup_store(self) -> Objects | None:
        """The object store that holds the backups, if one is configured.

        Raises:
            SiteUnreachable: it does not answer.
        """
        if (store := self.config.backup_store) is None:
            return None
        return cloud_site.connect(f"backup store {store.cloud}", store.cloud).objects

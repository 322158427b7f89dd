# SPDX-License-Identifier: Apache-2.0
"""What a recovery finds at its site: listed once for all servers of the VNF, each resource by the
key of what it was made for.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.model.marks import KEY, WRITTEN_FOR, is_copied, is_half_written, key_said
from antipode.model.standing import Standing
from antipode.recover import standing

ByKey = dict[str, list[Json]]


class Found:
    """Servers, volumes and backups of a site as they were when each kind was first asked for. Safe
    to use from several threads.

    What comes after that is this run's own, or that of a request which came through late: see
    `removal.remove_twins`.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._listed: dict[str, ByKey] = {}
        self._lock = threading.RLock()
        self._volumes: list[Json] | None = None

    def servers(self, key: str) -> list[Json]:
        """The servers that carry a key."""
        return self._once(
            "servers", lambda: by_key(self._site.compute.servers(), _key_of_server)
        ).get(key, [])

    def volumes(self, key: str) -> list[Json]:
        """The volumes that carry a key."""
        return self._once("volumes", lambda: by_key(self._all_volumes(), keys_of)).get(key, [])

    def standing(self, vnf: str, source_id: str) -> list[Standing]:
        """The standing volumes of a volume of a VNF, the best of them first."""
        return standing.listed(self._all_volumes(), vnf).get(source_id, [])

    def half_written(self, run: str, key: str) -> list[Json]:
        """The volumes that a run has had the mover write for a key, and not to the end."""
        return [
            v
            for v in self._all_volumes()
            if is_half_written(v, run) and v["metadata"][WRITTEN_FOR] == key
        ]

    def _all_volumes(self) -> list[Json]:
        with self._lock:
            if self._volumes is None:
                self._volumes = self._site.volumes.volumes()
            return self._volumes

    def backup(self, backup_id: str) -> Json | None:
        """The backup of this id, if it is known at the site."""
        there = self._once(
            "backups", lambda: by_key(self._site.backups.backups(), lambda backup: [backup["id"]])
        )
        return there[backup_id][0] if backup_id in there else None

    def _once(self, kind: str, list_all: Callable[[], ByKey]) -> ByKey:
        with self._lock:
            if kind not in self._listed:
                self._listed[kind] = list_all()
            return self._listed[kind]


def by_key(resources: Iterable[Json], keys: Callable[[Json], Iterable[str]]) -> ByKey:
    """Resources by the keys that they carry."""
    found: defaultdict[str, list[Json]] = defaultdict(list)
    for resource in resources:
        for key in keys(resource):
            found[key].append(resource)
    return dict(found)


def _key_of_server(server: Json) -> list[str]:
    key = (server.get("metadata") or {}).get(KEY)
    return [key] if key else []


def keys_of(volume: Json) -> set[str]:
    """The keys by which a volume may be found.

    Its description tells what it was made for while its metadata are those of the backup. A volume
    that somebody has restored is not ours by the metadata of another.
    """
    description = volume.get("description")
    if (said := key_said(description)) is not None:
        return {said}
    carried = {
        None if is_copied(volume) else (volume.get("metadata") or {}).get(KEY),
        description,
    }  # the latter as antipode 0.1.0 has marked it
    return {str(key) for key in carried if key}

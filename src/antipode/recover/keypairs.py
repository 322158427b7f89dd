# SPDX-License-Identifier: Apache-2.0
"""The keypairs of servers at the backup site: the name that each has there, and its import.

Keypairs are a user's. The members of a VNF may be of several users, with keypairs of one name, and
at the backup site all belong to antipode's user, which may have others of these names.
"""

from __future__ import annotations

import hashlib
import threading

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.topology import Keypair

_one_at_a_time = threading.Lock()
"""Servers boot at the same time and may share a keypair, which must be made once."""


class Keypairs:
    """The keypairs of one plan."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._planned: dict[Keypair, Keypair] = {}
        """keypair of the primary -> the same as it is called here"""
        self._to_import: dict[str, Keypair] = {}
        self.warnings: list[str] = []

    @property
    def to_import(self) -> list[Keypair]:
        """Those that are not there, under the names that they get."""
        return list(self._to_import.values())

    def planned(self, keypair: Keypair) -> Keypair:
        """A keypair under the name that it can have here."""
        if keypair in self._planned:
            return self._planned[keypair]
        planned = keypair
        if not self._is_free(planned):
            digest = hashlib.sha256(keypair.public_key.encode()).hexdigest()[:8]
            planned = keypair.model_copy(update={"name": f"{keypair.name}-{digest}"})
            whose = (
                f"servers of the VNF have different keypairs {keypair.name}"
                if keypair.name in self._to_import
                else f"antipode's user has another keypair {keypair.name} here"
            )
            self.warnings.append(f"{whose}; the servers get theirs as {planned.name}")
        if planned.name not in self._to_import and _there(self._site, planned) is None:
            self._to_import[planned.name] = planned
        self._planned[keypair] = planned
        return planned

    def _is_free(self, keypair: Keypair) -> bool:
        """Whether no other keypair has its name, here or in the plan."""
        other = self._to_import.get(keypair.name)
        there = _there(self._site, keypair)
        if other is not None and _key(other.public_key) != _key(keypair.public_key):
            return False
        return there is None or _is(there, keypair)


def ensure(site: Site, keypair: Keypair) -> None:
    """See that a planned keypair is there.

    Raises:
        ResourceFailed: another one has its name.
        ApiError: it cannot be imported.
    """
    with _one_at_a_time:
        there = _there(site, keypair)
        if there is None:
            try:
                site.compute.import_keypair(keypair.name, keypair.public_key, keypair.type)
            except ApiError:
                there = _there(site, keypair)
                if there is None:
                    raise  # else another process was faster, or one that died
        if there is not None and not _is(there, keypair):
            raise ResourceFailed(
                f"{site.name}: antipode's user has another keypair {keypair.name}, made since the"
                " recovery was planned; remove it, which changes no server, and resume the run"
            )


def _there(site: Site, keypair: Keypair) -> Json | None:
    """What has its name here."""
    return site.compute.keypair(keypair.name)


def _is(there: Json, keypair: Keypair) -> bool:
    return _key(there["public_key"]) == _key(keypair.public_key)


def _key(public_key: str) -> list[str]:
    """Type and key; the comment after them identifies nothing."""
    words = public_key.split()
    return words if public_key.startswith("-----BEGIN") else words[:2]

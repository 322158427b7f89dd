# SPDX-License-Identifier: Apache-2.0
"""Plans over many VNFs as documents of the vaults, `_plans/<plan>/<serial>.json`: signed, and
encrypted, as the commands of their steps may say more than anybody should read.

Each change is a document of its own, which is created once: the latest counts. A plan that was
removed is such a change, too, so that a vault that was away does not bring it back.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationError

from antipode.errors import Busy, KeyMissing, NotFound, Stopped, VaultCorrupt, VaultError
from antipode.model.base import Model, Name
from antipode.model.plan_file import PlanFile, mistakes
from antipode.model.state import Moment
from antipode.vault import Vault, points, reserve
from antipode.vault.keys import Keyring

LOG = logging.getLogger(__name__)
FOLDER = "_plans"
"""No VNF can be named like it."""
PAYLOAD_TYPE = "application/vnd.antipode.plan+json"
LARGEST_BYTES = 4 << 20
HIGHEST_SERIAL = 10**6 - 1
ATTEMPTS = 5
_SERIAL = re.compile(r"(\d{6})\.json")


class PlanDocument(Model):
    """A plan as it is written to the vaults."""

    format: Literal[1] = 1
    plan: Name
    serial: Annotated[int, Field(ge=1, le=HIGHEST_SERIAL)]
    at: Moment
    by: Annotated[str, Field(max_length=255)]
    """the identity that has put it there"""
    secret: Annotated[str, Field(max_length=LARGEST_BYTES)] | None
    """the plan itself, encrypted; None: it was removed"""


class KeptPlan(NamedTuple):
    """A plan as the vaults have it."""

    plan: PlanFile
    serial: int
    at: str
    by: str
    signed_by: str
    """the id of the key"""
    places: Sequence[str]
    """the vaults that have this version"""


def names(vault: Vault) -> list[str]:
    """The plans of which the vaults have a document, removed ones among them.

    Raises:
        VaultError: no vault answers.
    """
    listed = (name.split("/") for name in vault.list(f"{FOLDER}/"))
    return sorted({parts[1] for parts in listed if len(parts) == 3})


def read(vault: Vault, name: str) -> KeptPlan:
    """A plan in its newest version that counts.

    Raises:
        NotFound: there is none, or it was removed.
        KeyMissing: no identity of this host opens it.
        VaultCorrupt: it is no plan.
        VaultError: no vault answers.
    """
    found = _newest(vault, name)
    if found is None:
        raise NotFound(f"{vault.place} has no plan {name}; see: antipode plan list")
    kept = found.content
    if kept.secret is None:
        raise NotFound(f"plan {name} was removed by {kept.by} at {kept.at}")
    plan = _plan_of(kept, vault.keys)
    return KeptPlan(plan, kept.serial, kept.at, kept.by, found.signed_by, found.places)


def lacking(vault: Vault, name: str) -> list[Vault]:
    """The vaults that lack the newest version of a plan, or of its removal.

    Raises:
        VaultError: no vault answers.
    """
    found = _newest(vault, name)
    return [] if found is None else _without(vault, found)


def catch_up(vault: Vault, name: str) -> list[str]:
    """Write the newest version of a plan, or of its removal, to each vault that lacks it; the
    places of these. Safe to repeat.

    Raises:
        VaultError: it could not be written to one.
    """
    found = _newest(vault, name)
    if found is None:
        return []
    without = _without(vault, found)
    for copy in without:
        _make_room(copy, name, found.content.serial, vault.keys)
        _have(copy, _name(name, found.content.serial), found.document)
    return [copy.place for copy in without]


class _Found(NamedTuple):
    """The newest document of a plan that counts."""

    content: PlanDocument
    document: bytes
    signed_by: str
    places: Sequence[str]

    @property
    def moment(self) -> tuple[datetime, int, bytes]:
        """That of a later version is greater. The number alone is not enough: of vaults that were
        away in turn, one may have counted further with older versions. Of two of one moment each
        host takes the same one.
        """
        return datetime.fromisoformat(self.content.at), self.content.serial, self.document


def _without(vault: Vault, found: _Found) -> list[Vault]:
    return [copy for copy in vault.copies() if copy.place not in found.places]


def _newest(vault: Vault, name: str) -> _Found | None:
    newest: _Found | None = None
    for serial in _serials(vault, name):
        for place, document in vault.versions(_name(name, serial)):
            try:
                content, signed_by = _opened(document, name, serial, vault.keys)
            except VaultCorrupt as error:
                LOG.warning("%s: %s. It counts for nothing", place, error)
                continue
            found = _Found(content, document, signed_by, [place])
            if newest is not None and document == newest.document:
                newest = newest._replace(places=[*newest.places, place])
            elif newest is None or found.moment > newest.moment:
                newest = found
    return newest


def write(vault: Vault, name: str, plan: PlanFile | None, at: str, by: str) -> int:
    """Write a new version of a plan to each of the vaults that answer, and remove older ones; its
    serial. Keys that this host lacks are generated, as for a recovery point.

    Args:
        plan: None: that it was removed.
        at: RFC 3339.
        by: the identity that does it.

    Raises:
        KeyMissing: this host has no keys, and the plan, or a recovery point of its VNFs, is signed
            by another host's.
        KeyUnusable: a key cannot be used.
        Busy: others write it all the time.
        VaultError: it was not written, or that is unknown.
    """
    is_foreign = bool(_serials(vault, name)) and _newest(vault, name) is None
    vnfs = [] if plan is None else plan.vnfs
    points.prepare_keys(vault, *vnfs, foreign=f"plan {name}" if is_foreign else None)
    for left in range(ATTEMPTS, -1, -1):
        try:
            return _write(vault, name, plan, at, by)
        except Busy:
            # another host has written that version at the same moment, to some vaults at least: the
            # next one replaces both, in all of them
            if not left:
                raise
    raise AssertionError("unreachable")


def _write(vault: Vault, name: str, plan: PlanFile | None, at: str, by: str) -> int:
    keys = vault.keys
    earlier, newest = _serials(vault, name), _newest(vault, name)
    serial = _next(name, earlier, newest)
    if newest is not None and newest.moment[0] > datetime.fromisoformat(at):
        at = newest.content.at  # the clock of that host is ahead of this one's
    secret = None if plan is None else keys.encrypt(plan.model_dump_json().encode())
    document = PlanDocument(plan=name, serial=serial, at=at, by=by, secret=secret)
    sealed = keys.sign(PAYLOAD_TYPE, document.model_dump_json().encode())

    path = _name(name, serial)
    if not all(vault.each(lambda copy: _has(copy, path, sealed))):
        raise Busy(f"another host has written {path} at the same moment; look at it")
    for old in earlier:
        try:
            vault.delete(_name(name, old))
        except Stopped:
            raise
        except VaultError as error:
            LOG.warning("an older version of plan %s stays: %s", name, error)
    return serial


def _next(name: str, earlier: Sequence[int], newest: _Found | None) -> int:
    """The serial of another version.

    Raises:
        VaultError: there is none.
    """
    if not earlier or earlier[-1] < HIGHEST_SERIAL:
        return max(earlier, default=0) + 1
    # no plan is changed so often: this one is there to be in the way
    above = range((newest.content.serial if newest else 0) + 1, HIGHEST_SERIAL)
    for serial in above:
        if serial not in earlier:
            return serial
    raise VaultError(f"plan {name} has no free number any more; give it another name")


def _make_room(copy: Vault, name: str, serial: int, keys: Keyring) -> None:
    """Delete what a vault has in the place of a version that is newer: two hosts have given their
    versions the same number, while vaults were away. What this host does not trust stays.

    Raises:
        PointUntrusted, VaultCorrupt: it stays, and is in the way.
        VaultError: the vault does not answer.
    """
    path = _name(name, serial)
    if path in copy.list(f"{FOLDER}/{name}/"):
        _opened(copy.get(path), name, serial, keys)
        copy.delete(path)


def _has(copy: Vault, path: str, document: bytes) -> bool:
    """Have a document in one vault; whether it is that one, and not another host's."""
    try:
        _have(copy, path, document)
    except Busy as error:
        LOG.info("%s", error)
        return False
    return True


def _have(copy: Vault, path: str, document: bytes) -> None:
    """Have a document in one vault, which is created only.

    Raises:
        Busy: another one is there.
    """
    reserve.write(copy, lambda: copy.create(path, document))
    if copy.get(path) != document:
        raise Busy(f"{copy.place}: another host has written {path} at the same moment; look at it")


def _serials(vault: Vault, name: str) -> list[int]:
    folder = f"{FOLDER}/{name}/"
    found = (_SERIAL.fullmatch(path.removeprefix(folder)) for path in vault.list(folder))
    return sorted(int(serial[1]) for serial in found if serial)


def _name(name: str, serial: int) -> str:
    return f"{FOLDER}/{name}/{serial:06d}.json"


def _opened(document: bytes, name: str, serial: int, keys: Keyring) -> tuple[PlanDocument, str]:
    """A document that a trusted key has signed, and the id of the key.

    Raises:
        PointUntrusted, VaultCorrupt: it counts for nothing.
    """
    path = _name(name, serial)
    if len(document) > LARGEST_BYTES:
        raise VaultCorrupt(f"{path} is larger than {LARGEST_BYTES >> 20} MiB")
    signed = keys.open_envelope(document, path, PAYLOAD_TYPE)
    try:
        found = PlanDocument.model_validate_json(signed.payload)
    except (ValidationError, ValueError) as error:
        raise VaultCorrupt(f"{path} is not valid ({type(error).__name__})") from error
    if (found.plan, found.serial) != (name, serial):
        raise VaultCorrupt(f"{path} holds version {found.serial} of plan {found.plan}")
    return found, signed.key


def _plan_of(kept: PlanDocument, keys: Keyring) -> PlanFile:
    plain = keys.decrypt(kept.secret or "")
    if plain is None:
        raise KeyMissing(
            f"plan {kept.plan} is encrypted, and no identity of this host opens it. Import the"
            " recovery kit: antipode key import KIT; or give its file: --file FILE"
        )
    try:
        plan = PlanFile.model_validate_json(plain)
    except (ValidationError, ValueError) as error:
        raise VaultCorrupt(
            f"plan {kept.plan} is not valid ({type(error).__name__}); another version of antipode"
            " wrote it"
        ) from error
    if plan.plan != kept.plan or (wrong := next(mistakes(plan), None)) is not None:
        raise VaultCorrupt(f"plan {kept.plan} is not valid: {plan.plan}, {wrong}")
    return plan

# SPDX-License-Identifier: Apache-2.0
"""Expiry of recovery points of one VNF: which have expired, and the removal of all that only they
need.

A point is withdrawn first: a note beside its manifest, created only, hides it from every host. Then
its backups are removed, except those that a point which counts needs, and last its manifest. What
is still to be done is to be seen in the vault at any moment, so that whichever process comes next
continues.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Literal, NamedTuple

from antipode.cloud.api import ApiError, Json
from antipode.cloud.images import why_not_whole
from antipode.cloud.site import Site
from antipode.datastores import storage_at
from antipode.errors import (
    Busy,
    InvalidInput,
    NotFound,
    PointMisplaced,
    PreflightFailed,
    ResourceFailed,
    SiteUnreachable,
    VaultCorrupt,
    VaultError,
    VaultFull,
)
from antipode.model.marks import made_by
from antipode.model.point import RecoveryPoint
from antipode.model.point_v2 import Records
from antipode.model.quota import QuotaNeed
from antipode.model.retention import Dated, Heirs, Retention, judge
from antipode.model.room import Room
from antipode.model.source import (
    BackupRecord,
    Delta,
    Image,
    MadeAgain,
    ReplicatedState,
    backup_chain,
)
from antipode.model.state import ProtectedVnf, VnfState
from antipode.model.steps import Steps, Timeline
from antipode.model.vnf import Vnf
from antipode.protect import base_images
from antipode.protect.snapshots import remove_all
from antipode.protect.volume_keys import is_of
from antipode.transfer import images, removal, replication, stream_expiry
from antipode.transfer.removal import Doomed
from antipode.vault import CLOCKS_DIFFER_BY, Vault, generations, points, sealing, withdrawals
from antipode.vault.points import Examined

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects

LOG = logging.getLogger(__name__)
MOST_POINTS = 50
"""Points that are withdrawn in one run, so that it has an end."""
MOST_HEIRS = 32
"""Points that are read in one run because others expire in their favour; one that expires has fewer
than that."""
MOST_LOOKS = 20
"""How often points are judged in one run, as each reading may show something else."""
READ_IN_TURN = 4
"""Further kept points that are read in a run in which others expire: those that were read longest
ago. So each is read again some day."""
NOTES_STAY = timedelta(days=7)
"""How long after a point was withdrawn it is noted, when it is gone."""
OF_BACKUPS = ("backups", "backup_gigabytes")
"""The quotas that chains of backups take."""
_USABLE = ("available", "restoring")
"""The states of a backup that can be restored."""


@dataclass(frozen=True)
class Reading:
    """The recovery points that are known, each examined once: a point never changes. What it needs
    stays known, whatever becomes of its document meanwhile.
    """

    examined: dict[str, Examined] = field(default_factory=dict)
    """by id; by what this host remembers of the vault, where its listing says that it is the same
    """
    read: set[str] = field(default_factory=set)
    """those of which manifest and records were read from the vault, and not remembered"""
    in_turn: set[str] = field(default_factory=set)
    """those that are read because they were read longest ago"""
    remembered: dict[str, Records] = field(default_factory=dict)
    """their records, by the name of their document"""
    records: dict[str, Records] = field(default_factory=dict)
    """those that were read from the vault"""


class Seen(NamedTuple):
    """What a process remembers of a recovery point that it has read, to find out whether an expiry
    is worth a run. Nothing is removed by it.
    """

    dated: Dated
    trusted: bool


@dataclass(frozen=True)
class Expiry:
    """All that the expiry of one VNF works with."""

    vnf: Vnf
    vault: Vault
    """every vault of the VNF, each of which must answer"""
    every_vault: Callable[[], Vault]
    """connects to all vaults of the configuration, each of which must answer"""
    site: Callable[[str], Site]
    """connects to a site; raises NotFound for one that is not configured"""
    users: Callable[[], Mapping[str, str]]
    """the recovery points that runs use now, and the run"""
    timeline: Timeline
    go_on: Callable[[], None]
    """called before each change; raises when the run must stop"""
    store: Callable[[str], Objects | None] = lambda site: None
    """the backup store of what is protected at a site, if one is configured"""
    asked: Collection[str] = ()
    """points that an operator wants removed"""
    maker_of_points: Callable[[], str | None] = lambda: None
    """another run, if one is open, that is making a point of the VNF"""
    longest_ago: Callable[[Collection[str], Collection[str]], Sequence[str]] = (
        lambda _places, _points: ()
    )
    """those of these points that are remembered of vaults at these places, the one that was read
    longest ago first
    """
    reading: Reading = field(default_factory=Reading, repr=False)

    def examined(self, point: str) -> Examined:
        """As `points.examine`, once; not read where this host remembers the point, and the vault
        lists the same documents.
        """
        found = self.reading.examined
        if point not in found and (remembered := self._remembered(point)) is not None:
            found[point] = remembered
        return found[point] if point in found else self.verified(point)

    def verified(self, point: str) -> Examined:
        """As `points.examine`: all of it was read from the vault, once."""
        known = self.reading
        if point not in known.read:
            found = points.examine(self.again, self.vnf.vnf, point, known.records)
            known.examined[point] = found
            known.read.add(point)
        return known.examined[point]

    def in_turn(self, among: Collection[str]) -> Sequence[str]:
        """Those of these points that are remembered, the one that was read longest ago first."""
        return self.longest_ago([copy.place for copy in self._copies], among)

    def _remembered(self, point: str) -> Examined | None:
        """A point by what is remembered of it: only one that proves to be signed and whole."""
        name = sealing.manifest_name(self.vnf.vnf, point)
        if not any(copy.remembers(name) for copy in self._copies):
            return None
        try:
            found = points.examine(self.vault, self.vnf.vnf, point, self.reading.remembered)
        except (NotFound, VaultCorrupt) as error:
            LOG.info("recovery point %s of %s is read again: %s", point, self.vnf.vnf, error)
            return None
        return found if found.trusted else None

    @cached_property
    def again(self) -> Vault:
        """The vault, where each document is read."""
        return self.vault.again()

    @cached_property
    def _copies(self) -> Sequence[Vault]:
        return self.vault.copies()


@dataclass
class Outcome:
    """What an expiry has done."""

    backups: set[str] = field(default_factory=set)
    """the backups that were removed, by id"""
    freed_gib: int = 0
    """what they counted of the quota, at all sites"""
    images: set[str] = field(default_factory=set)
    """the images of root disks that were removed, by id"""
    states: set[str] = field(default_factory=set)
    """the snapshots of replicated storage that were removed, by id"""
    left: list[str] = field(default_factory=list)
    """what is still to be removed, and why, in sentences"""


class Verdict(NamedTuple):
    """What becomes of the recovery points of a VNF."""

    kept: Mapping[str, str]
    """point -> why"""
    expired: list[str]
    """the oldest first"""
    ready: list[str]
    """those of them that may be withdrawn now: all in whose favour they expire was read in this run
    """


def judged(expiry: Expiry, now: datetime) -> Verdict:
    """Which recovery points are kept, and why, and which have expired.

    All that the vault lists are known; those in whose favour others expire are read, and so are a
    few more, in turn.

    Raises:
        Busy: the VNF is failing over.
        VaultCorrupt: a point cannot be read, so its needs are unknown.
        VaultError: a vault cannot be read completely.
    """
    state = _must_not_fail_over(expiry)
    recoverable = _Recoverable(expiry, state.active_site)
    reading = expiry.reading
    for _ in range(MOST_LOOKS):
        verdict, heirs = _judged(expiry, now, recoverable)
        if not verdict.ready:
            return verdict
        if not reading.in_turn:
            others = (p for p in expiry.in_turn(verdict.kept) if p not in heirs)
            reading.in_turn.update(islice(others, READ_IN_TURN))
        wanted = (heirs | reading.in_turn) - reading.read
        unread = [point for point in verdict.kept if point in wanted]
        if not unread:
            return verdict
        for point in unread:
            _standing(expiry, point, expiry.verified)
    raise VaultError(
        f"{expiry.vault.place}: recovery points of {expiry.vnf.vnf} come and go while they are"
        " read; try again in some minutes"
    )


class _Recoverable:
    """Which points can be recovered from; sites are asked once for each."""

    def __init__(self, expiry: Expiry, active: str) -> None:
        self._expiry, self._active = expiry, active
        self._asked: set[str] = set()
        self._gone: set[str] = set()

    def of(self, found: Collection[RecoveryPoint]) -> list[RecoveryPoint]:
        """Those of the points."""
        if unknown := [p for p in found if p.id not in self._asked]:
            whole = recoverable(self._expiry, self._active, unknown)
            self._asked |= {p.id for p in unknown}
            self._gone |= {p.id for p in unknown} - {p.id for p in whole}
        return [p for p in found if p.id not in self._gone]


def _judged(expiry: Expiry, now: datetime, recoverable: _Recoverable) -> tuple[Verdict, set[str]]:
    """A verdict by what is known, and the points in whose favour those that are ready expire."""
    found, doubtful = standing(expiry), withdrawn(expiry).doubtful
    seen = [_seen(p) for p in found]
    users = expiry.users()
    kept = _kept_by_policy(expiry, seen, now, users)
    # None expires in favour of one that is hidden from every host, and stays.
    found_by_all = [p.point for p in found if p.trusted and p.point.id not in doubtful]
    kept |= _kept_by_policy(expiry, _only(seen, found_by_all), now, users)
    whole = found_by_all
    if len(kept) < len(found):
        # Nor in favour of one that cannot be recovered from.
        whole = recoverable.of(found_by_all)
        kept |= _kept_by_policy(expiry, _only(seen, whole), now, users)
    expired = [p.point.id for p in found if p.point.id not in kept]
    of_point = {p.dated.id: p.dated for p in seen}
    heirs = Heirs([of_point[p.id] for p in whole if p.id in kept], _policies(expiry))
    ready: list[str] = []
    read = set[str]()
    for point in expired[:MOST_POINTS]:
        if len(more := read | heirs.of(of_point[point])) > MOST_HEIRS:
            break
        ready.append(point)
        read = more
    return Verdict(kept, expired, ready), read


def seen_points(expiry: Expiry, known: Mapping[str, Seen]) -> dict[str, Seen]:
    """The recovery points that are listed, by id. Those that are not known are read.

    Args:
        known: what is remembered of points, by id.

    Raises:
        VaultCorrupt, VaultError: as `standing`.
    """
    found: dict[str, Seen] = {}
    for point in points.list_ids(expiry.vault, expiry.vnf.vnf):
        if point in known:
            found[point] = known[point]
        elif (examined := _standing(expiry, point, expiry.examined)) is not None:
            found[point] = _seen(examined)
    return found


def may_have_expired(expiry: Expiry, found: Collection[Seen], now: datetime) -> bool:
    """Whether any of these recovery points has expired by the policy. `judged` keeps no fewer.

    Raises:
        Busy: the VNF is failing over.
    """
    _must_not_fail_over(expiry)
    if len(_kept_by_policy(expiry, found, now, {})) == len(found):
        return False  # the runs that use points only make it keep more
    return len(_kept_by_policy(expiry, found, now, expiry.users())) < len(found)


def _seen(found: Examined) -> Seen:
    return Seen(dated(found.point), found.trusted)


def _kept_by_policy(
    expiry: Expiry, found: Collection[Seen], now: datetime, users: Mapping[str, str]
) -> dict[str, str]:
    """The points that the policy keeps, and why. One that no trusted key has signed may claim to be
    the newest: it makes none expire, and each of these expires in favour of signed ones only.
    """
    policies = _policies(expiry)

    def kept_among(points: Sequence[Dated]) -> Mapping[str, str]:
        return judge(points, policies, now + CLOCKS_DIFFER_BY, users).kept

    signed = [p.dated for p in found if p.trusted]
    kept = dict(kept_among(signed))
    for unsigned in (p.dated for p in found if not p.trusted):
        if (why := kept_among([*signed, unsigned]).get(unsigned.id)) is not None:
            kept[unsigned.id] = why
    return kept


def _policies(expiry: Expiry) -> Mapping[str, Retention | Literal["all"]]:
    return {p.option: p.keeps for p in expiry.vnf.protections}


def _only(seen: Iterable[Seen], signed: Iterable[RecoveryPoint]) -> list[Seen]:
    """What was seen, with these signed points only."""
    ids = {point.id for point in signed}
    return [p for p in seen if not p.trusted or p.dated.id in ids]


def recoverable(
    expiry: Expiry, active: str, found: Collection[RecoveryPoint]
) -> list[RecoveryPoint]:
    """The points without those that sites have lost backups, images or states of: deleted by hand,
    or with a point that was put back into the vault since.

    Args:
        active: the site where the VNF is active.
    """
    gone = _without_backups(expiry, active, found) | _without_images(expiry, found)
    gone |= _without_base_images(expiry, found) | _without_states(expiry, found)
    gone |= stream_expiry.without_deltas(found, expiry.store)
    if gone:
        LOG.warning(
            "backups, images or states of recovery points of %s are gone, and no other expires in"
            " their favour: %s",
            expiry.vnf.vnf,
            ", ".join(sorted(gone)),
        )
    return [point for point in found if point.id not in gone]


def _without_backups(expiry: Expiry, active: str, found: Collection[RecoveryPoint]) -> set[str]:
    """The points whose backups are gone at the site where the VNF is active. It is unknown of other
    sites, which may be gone for good, and of one that does not answer.
    """
    try:
        listed = expiry.site(active).backups.backups()
    except (NotFound, SiteUnreachable) as error:
        LOG.warning("whether backups at %s are gone is unknown: %s", active, error)
        return set()
    there = {str(b["id"]) for b in listed if b["status"] in _USABLE}
    return {p.id for p in found if p.site == active and not there.issuperset(p.backups)}


def _without_images(expiry: Expiry, found: Collection[RecoveryPoint]) -> set[str]:
    """The points of which an image of a root disk is gone, or has other bytes by Glance's account,
    at a site that answers.
    """
    images = [(p.id, s) for p in found for s in p.sources.values() if isinstance(s, Image)]
    gone: set[str] = set()
    for site in sorted({name for _, source in images for name in source.copies}):
        try:
            listed = {str(i["id"]): i for i in expiry.site(site).images.images()}
        except (NotFound, SiteUnreachable) as error:
            LOG.warning("whether images at %s are gone is unknown: %s", site, error)
            continue
        gone |= {
            point
            for point, source in images
            if site in source.copies and why_not_whole(listed.get(source.copies[site]), source)
        }
    return gone


def _without_base_images(expiry: Expiry, found: Collection[RecoveryPoint]) -> set[str]:
    """The points with a root disk that is to be made again, where a site that answers has no image
    for it.
    """
    wanted: defaultdict[str, list[tuple[str, MadeAgain]]] = defaultdict(list)
    for point in found:
        for source in point.sources.values():
            if isinstance(source, MadeAgain):
                for site in source.sites:
                    wanted[site].append((point.id, source))
    gone: set[str] = set()
    for name, sources in sorted(wanted.items()):
        each = {s.known_by: s for _, s in sources}
        try:
            lacking = base_images.missing_at(expiry.site(name), each.values())
        except (NotFound, SiteUnreachable) as error:
            LOG.warning("whether images at %s are gone is unknown: %s", name, error)
            continue
        keys = {s.known_by for s in lacking}
        gone |= {point for point, s in sources if s.known_by in keys}
    return gone


def _without_states(expiry: Expiry, found: Collection[RecoveryPoint]) -> set[str]:
    """The points of which a state is gone from the storage of a site that answers, or is not whole
    there.
    """
    wanted: defaultdict[tuple[str, str], list[tuple[str, ReplicatedState]]] = defaultdict(list)
    for point in found:
        for state in point.states.values():
            for site in state.sites:
                wanted[site, state.storage].append((point.id, state))
    gone: set[str] = set()
    for (site, storage), states in sorted(wanted.items()):
        try:
            there = storage_at(expiry.site(site), storage)
            whole = there.listed_whole({state.image for _, state in states})
        except (InvalidInput, SiteUnreachable, ResourceFailed) as error:
            LOG.warning("whether states at %s are gone is unknown: %s", site, error)
            continue
        gone |= {point for point, state in states if state.state not in whole[state.image]}
    return gone


def room(expiry: Expiry, need: QuotaNeed, new: Mapping[str, int]) -> Room:
    """The room that a quota of backups has for more recovery points.

    Args:
        need: of the quota, of one more point.
        new: what the backups of one more point count, by volume.

    Raises:
        VaultCorrupt, VaultError: as `judged`.
    """
    found = standing(expiry)
    weighted = [
        (dated(e.point), {i: _weight(need, r) for i, r in e.point.backups.items()}) for e in found
    ]
    ours = sum({b: w for _, weights in weighted for b, w in weights.items()}.values())
    return Room(weighted, _policies(expiry), new, need.limit - max(need.used - ours, 0))


def _weight(need: QuotaNeed, record: BackupRecord) -> int:
    return 1 if need.resource == "backups" else record.size_gib


class Withdrawn(NamedTuple):
    """Points that were withdrawn, and whose manifests are still there, by what their notes prove.

    Anybody that can write to a vault can write a note: one alone must not cost the newest point.
    """

    certain: list[str]
    """their backups may go"""
    doubtful: dict[str, str]
    """these need their backups, although no host finds them; and why"""


def withdrawn(expiry: Expiry) -> Withdrawn:
    """The points that were withdrawn. A point that an operator wants removed is not doubtful.

    Raises:
        VaultError: a vault cannot be read.
    """
    vault, vnf = expiry.vault, expiry.vnf.vnf
    there = points.list_all(vault, vnf)
    if not there.hidden:
        return Withdrawn([], {})
    newest, unproven = _newest_signed(expiry, [*there.ids, *there.hidden])
    doubtful: dict[str, str] = {}
    for point in there.hidden:
        if point in expiry.asked:
            continue
        if not points.is_hidden_everywhere(vault, vnf, point):
            doubtful[point] = "only some of the vaults have the note that it was withdrawn"
        elif point == newest or (point in unproven and point > newest):
            doubtful[point] = "it may be the newest point, which does not expire"
    return Withdrawn([point for point in there.hidden if point not in doubtful], doubtful)


def _newest_signed(expiry: Expiry, ids: Iterable[str]) -> tuple[str, set[str]]:
    """The newest of these points that a key trusted here has signed, empty if none is; and those
    that cannot be read, or that none has signed: another may have been there in their place.
    """
    signed, unproven = _by_signature(expiry, ids, expiry.examined)
    for age in sorted(signed, key=lambda age: age.key, reverse=True):
        # what is remembered of it does not decide that an older one may go
        read, unsigned = _by_signature(expiry, [age.id], expiry.verified)
        unproven |= unsigned
        if read:
            return age.id, unproven
    return "", unproven


def _by_signature(
    expiry: Expiry, ids: Iterable[str], examine: Callable[[str], Examined]
) -> tuple[list[points.Age], set[str]]:
    """The ages of the points that a key trusted here has signed, and the others of those that are
    there.
    """
    signed: list[points.Age] = []
    unproven: set[str] = set()
    for point in ids:
        try:
            age = _age_if_signed(expiry, point, examine)
        except NotFound:
            continue
        if age is None:
            unproven.add(point)
        else:
            signed.append(age)
    return signed, unproven


def _age_if_signed(
    expiry: Expiry, point: str, examine: Callable[[str], Examined]
) -> points.Age | None:
    """What the age of a point goes by; None if no key trusted here has signed it. Its records need
    not be there for that.
    """
    try:
        found = examine(point)
        if not found.trusted:
            return None
        return points.Age(found.point.generation, found.point.consistent_at, point)
    except VaultCorrupt:
        try:
            summary = points.summary(expiry.again, expiry.vnf.vnf, point)
        except VaultCorrupt:
            return None
        if summary.signed_by is None:
            return None
        return points.Age(summary.generation, summary.consistent_at, point)


def standing(expiry: Expiry, apart_from: Collection[str] = ()) -> list[Examined]:
    """Every recovery point that counts; those too of which it is doubtful that they were withdrawn.

    Args:
        apart_from: points that are going to be withdrawn.

    Raises:
        VaultCorrupt: one cannot be read, so the backups that it needs are unknown.
        VaultError: one that is listed is not there.
    """
    vault, vnf = expiry.vault, expiry.vnf.vnf
    found: list[Examined] = []
    for point in sorted({*points.list_ids(vault, vnf), *withdrawn(expiry).doubtful}):
        if point in apart_from:
            continue
        if (examined := _standing(expiry, point, expiry.examined)) is not None:
            found.append(examined)
    return found


def _standing(expiry: Expiry, point: str, examine: Callable[[str], Examined]) -> Examined | None:
    """A recovery point that was listed; None if it has gone since. Raises as `standing`."""
    vault, vnf = expiry.vault, expiry.vnf.vnf
    try:
        return examine(point)
    except VaultCorrupt as error:
        raise VaultCorrupt(
            f"recovery point {point} of {vnf} cannot be read, so nothing expires: it is unknown"
            f" which backups it needs. Put it back from another vault, or remove it: antipode"
            f" recovery-point delete {vnf} {point}. {error}"
        ) from error
    except NotFound as error:
        if point in points.list_ids(vault, vnf):
            raise VaultError(
                f"{vault.place} lists recovery point {point} of {vnf} and does not have it; its"
                " listing may lag behind. Nothing expires; try again in some minutes"
            ) from error
        return None


def dated(point: RecoveryPoint) -> Dated:
    """What the retention of a recovery point goes by."""
    consistent_at = datetime.fromisoformat(point.consistent_at)
    chains = [backup_chain(source) for source in point.sources.values()]
    made = [_moment(chain[-1].created_at) for chain in chains if chain]
    stored_at = max(made, default=consistent_at)
    return Dated(point.id, point.option, point.generation, consistent_at, stored_at, point.serial)


def _moment(text: str) -> datetime:
    """A moment as Cinder gives it: of UTC, with or without a zone."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or UTC)


def needless(
    expiry: Expiry, going: Collection[str], staying: Collection[Examined]
) -> dict[str, int]:
    """The backups that would go with points, and the GiB that each counts. What damaged ones were
    made of is looked for at the sites that answer.
    """
    work = _work(expiry, going, staying, expiry.examined)
    found = {
        backup: record.size_gib
        for point in work.hidden
        for backup, record in point.backups.items()
        if backup not in work.needed
    }
    for name in expiry.vnf.sites if work.damaged else ():
        try:
            found |= work.strays(expiry.site(name))
        except (NotFound, SiteUnreachable) as error:
            LOG.warning("backups of damaged recovery points at %s are not counted: %s", name, error)
    return found


def backups_of(found: Iterable[Examined]) -> set[str]:
    """The ids of all backups that points rest on."""
    return {backup for examined in found for backup in examined.point.backups}


def withdraw(expiry: Expiry, going: Sequence[str], why: str) -> list[str]:
    """Withdraw recovery points; `why` is a sentence. Safe to repeat.

    Returns:
        those that are withdrawn: not all, where a vault is full before that. The removal of these
        makes room for the others.

    Raises:
        VaultFull: a vault has no room for the first one.
        VaultError: it is unknown whether all are withdrawn.
    """
    done: list[str] = []
    if not going:
        return done
    with expiry.timeline.step(Steps.WITHDRAW_POINTS, expiry.vnf.vnf) as step:
        for point in going:
            expiry.go_on()
            try:
                points.hide(expiry.vault, expiry.vnf.vnf, point, why)
            except VaultFull as error:
                if not done:
                    raise
                LOG.warning(
                    "%d points are left to the next expiry: %s", len(going) - len(done), error
                )
                break
            done.append(point)
        step.result(recovery_points=len(done))
    return done


def finish(expiry: Expiry, state: ProtectedVnf) -> Outcome:
    """Remove what withdrawn points have left: their backups, except those that another point needs,
    and then the points.

    Args:
        state: of the VNF; the site where it is active must answer.

    Raises:
        Busy: the VNF is failing over: it may do so from one of these points.
        VaultCorrupt, VaultError: as `standing`; nothing was removed.
        AntipodeError: not all could be removed.
    """
    outcome, vnf = Outcome(), expiry.vnf.vnf
    there = points.list_all(expiry.vault, vnf)
    _forget_old_notes(expiry, there.notes)
    if not there.hidden:
        return outcome
    certain, doubtful = withdrawn(expiry)
    outcome.left += [
        f"recovery point {i}: {why}. No host finds it; to remove it: antipode recovery-point delete"
        f" {vnf} {i}"
        for i, why in doubtful.items()
    ]
    if not certain:
        return outcome
    # After the notes were written: a failover claims first and looks for a note then, so that one
    # of the two sees the other.
    _must_not_fail_over(expiry)
    staying = standing(expiry)
    # A run is kept before it reads its point: it finds the note, or is found here.
    used = {i: run for i, run in expiry.users().items() if i in certain}
    outcome.left += [f"recovery point {i}: used by {run}" for i, run in sorted(used.items())]
    staying += [expiry.examined(point) for point in used]
    counted = {*certain, *(found.point.id for found in staying)}
    staying += [
        found  # the listing of now lacks it
        for point, found in expiry.reading.examined.items()
        if point not in counted and _is_there(expiry, point)
    ]
    going = [point for point in certain if point not in used]
    work = _work(expiry, going, staying, expiry.verified)
    stuck: set[str] = set()
    for home in sorted({point.site for point in work.hidden} | {state.active_site}):
        stuck |= _remove_everywhere(expiry, work, home, state.active_site, outcome)
    stuck |= _remove_images(expiry, work, state.active_site, outcome)
    stuck |= _remove_states(expiry, work, state.active_site, outcome)
    stuck |= _remove_keys(expiry, work, state.active_site, outcome)
    stuck |= _remove_streams(expiry, work, state.active_site, outcome)
    done = [p.id for p in work.hidden if not stuck.intersection(p.needed_ids())]
    done += [*work.misplaced, *([] if stuck else work.damaged)]
    if done:
        with expiry.timeline.step(Steps.FORGET_POINTS, vnf) as step:
            gone = work.gone(done)
            records = points.forget_records(expiry.vault, vnf, gone) if gone else 0
            for point in done:
                expiry.go_on()
                points.forget(expiry.vault, vnf, point)
            step.result(recovery_points=len(done), records=records)
    return outcome


@dataclass(frozen=True)
class _Work:
    """What is to be removed."""

    hidden: Sequence[RecoveryPoint]
    damaged: Collection[str]
    """withdrawn points that cannot be read: what they named is found by its marks"""
    misplaced: Collection[str]
    """withdrawn names under which another point was put: of them only the name goes"""
    needed: Collection[str]
    """backups, images and snapshots that a point which counts needs"""
    volumes: Collection[str]
    """the volumes of the points of this VNF that a key trusted here has signed"""
    is_unlisted: Callable[[str], bool]
    """whether the vault has a point that it did not list"""

    def why_needed(self, made: Json, maker: str | None = None) -> str | None:
        """Why a backup, or what `maker` has made, must stay; None if it need not: listings of
        object stores may lack a point for hours, and points that are withdrawn may rest on it.
        """
        point = (maker or made_by(made) or "").partition("-")[2]
        if point and self.is_unlisted(point):
            return f"recovery point {point}, which the vault has and does not list, needs it"
        return None

    def doomed(self, home: str) -> dict[str, Doomed]:
        """The backups that go, of those that were made at a site."""
        return {
            backup: Doomed(record.volume_id, record.parent_id)
            for point in self.hidden
            if point.site == home
            for backup, record in point.backups.items()
            if backup not in self.needed
        }

    def states(self, home: str) -> dict[str, ReplicatedState]:
        """The states that go, of those that were made at a site, by the ids of their snapshots."""
        return {
            snapshot: state
            for point in self.hidden
            if point.site == home
            for snapshot, state in point.states.items()
            if snapshot not in self.needed
        }

    def is_misnamed(self, snapshot: Json) -> bool:
        """Whether a withdrawn point names a snapshot as one of another volume than it is of: the
        document of a point that no key has signed may name any.
        """
        named = {
            volume
            for point in self.hidden
            for volume, source in point.sources.items()
            if isinstance(source, ReplicatedState) and source.snapshot_id == snapshot["id"]
        }
        return bool(named) and named != {snapshot["volume_id"]}

    def gone(self, done: Collection[str]) -> set[str]:
        """The backups that are gone with these points."""
        there = {b for p in self.hidden if p.id not in done for b in p.backups}
        there |= set(self.needed)
        return {b for p in self.hidden if p.id in done for b in p.backups} - there

    def strays(self, site: Site) -> dict[str, int]:
        """The backups at a site that damaged points were made of, and that no other needs, and the
        GiB that each counts.

        What a document is named proves nothing: its name may be that of a point of another VNF. So
        only backups of volumes that are known to be this VNF's are looked for.
        """
        if not self.damaged:
            return {}
        listed = site.backups.backups()
        return {str(b["id"]): int(b["size"] or 0) for b in listed if self.is_stray(b)}

    def is_stray(self, made: Json) -> bool:
        """Whether a damaged point was made of a backup or snapshot, and no other needs it."""
        return (
            (made_by(made) or "").partition("-")[2] in self.damaged
            and made["volume_id"] in self.volumes
            and made["id"] not in self.needed
        )


def _must_not_fail_over(expiry: Expiry) -> ProtectedVnf:
    state = generations.present(expiry.vault, expiry.vnf.vnf, expiry.vnf.primary)
    if state.state is VnfState.FAILING_OVER:
        raise Busy(f"{state}. Nothing expires meanwhile, as it may recover from any point")
    return state


def _forget_old_notes(expiry: Expiry, notes: Iterable[str]) -> None:
    """Remove notes on points that were withdrawn long ago and that no vault of the configuration
    holds any more: one that the VNF does not name now may be named again.
    """
    vnf, before = expiry.vnf.vnf, datetime.now(UTC) - NOTES_STAY
    made_before = [point for point in notes if point < f"{before:%Y%m%dT%H%M%SZ}"][:MOST_POINTS]
    # the points of the next ones were withdrawn later, but for those that were deleted by hand
    old = list(takewhile(lambda i: withdrawals.is_older(expiry.vault, vnf, i, before), made_before))
    if not old:
        return
    try:
        everywhere = expiry.every_vault()
        listed = set(everywhere.list(f"{vnf}/"))
        names = {point: sealing.manifest_name(vnf, point) for point in old}
        gone = [p for p, n in names.items() if n not in listed and not everywhere.versions(n)]
    except (VaultError, SiteUnreachable) as error:
        LOG.warning("notes of withdrawn recovery points of %s stay: %s", vnf, error)
        return
    expiry.go_on()
    withdrawals.forget(expiry.vault, vnf, gone)


def _work(
    expiry: Expiry,
    ids: Collection[str],
    staying: Collection[Examined],
    examine: Callable[[str], Examined],
) -> _Work:
    """What is to be removed of withdrawn points.

    Backups that only an unsigned point names go if they are of a volume that a signed one has:
    else a writer of the vault could have backups of another VNF deleted.
    """
    found: list[Examined] = []
    damaged: list[str] = []
    misplaced: list[str] = []
    for point in ids:
        try:
            found.append(examine(point))
        except NotFound:
            continue  # another host has finished with it
        except PointMisplaced as error:
            LOG.warning("only the name of withdrawn recovery point %s goes: %s", point, error)
            misplaced.append(point)
        except VaultCorrupt as error:
            LOG.warning("withdrawn recovery point %s cannot be read: %s", point, error)
            damaged.append(point)
    ours = {v for e in (*staying, *found) if e.trusted for v in e.point.sources}
    foreign = [e.point.id for e in found if not (e.trusted or ours.issuperset(e.point.sources))]
    if foreign:
        LOG.warning(
            "withdrawn recovery points of %s stay, as no key that is trusted here has signed them,"
            " and they name volumes that no signed point has: %s",
            expiry.vnf.vnf,
            ", ".join(foreign),
        )
    hidden = [e.point for e in found if e.point.id not in foreign]
    needed = {i for e in staying for i in e.point.needed_ids()}
    known = {*ids, *(e.point.id for e in staying)}
    is_unlisted = cache(lambda point: point not in known and _is_there(expiry, point))
    return _Work(hidden, damaged, misplaced, needed, ours, is_unlisted)


def _is_there(expiry: Expiry, point: str) -> bool:
    """Whether the vault has a point that counts, whatever it lists."""
    vnf = expiry.vnf.vnf
    return bool(
        expiry.again.versions(sealing.manifest_name(vnf, point))
    ) and not withdrawals.places_of(expiry.vault, vnf, point)


def _remove_images(expiry: Expiry, work: _Work, active: str, outcome: Outcome) -> set[str]:
    """Remove the images of root disks of withdrawn points at each site; those that are still there.

    Only a copy that antipode has made for this VNF goes, and none that a server boots from. Those
    of damaged points are found by their marks. A site that does not answer, and is not the active
    one, may be gone for good: the others continue.
    """
    doomed: dict[str, set[str]] = {name: set() for name in expiry.vnf.sites if work.damaged}
    for point in work.hidden:
        for image, name in point.images.items():
            if image not in work.needed:
                doomed.setdefault(name, set()).add(image)
    stuck: set[str] = set()
    if doomed and (maker := expiry.maker_of_points()) is not None:
        # It may use them again in its point. One that begins now finds the points withdrawn.
        outcome.left.append(f"images of root disks stay while {maker} may need them")
        return {*work.damaged, *(i for ids in doomed.values() for i in ids)}
    for name, ids in sorted(doomed.items()):
        try:
            site = expiry.site(name)
            with expiry.timeline.step(images.ImageSteps.REMOVE, name) as step:
                found = images.copies_at(site, expiry.vnf.vnf, ids, work.damaged)
                there = {i: image for i, image in found.items() if i not in work.needed}
                why = {i: work.why_needed(m, images.maker_of(m)) for i, m in there.items()}
                left = images.remove(site, [m for i, m in there.items() if not why[i]])
                left |= {i: needed for i, needed in why.items() if needed}
                step.result(images=len(there) - len(left))
        except NotFound as error:
            LOG.info("images at %s are not removed: %s", name, error)
        except SiteUnreachable as error:
            if name == active:
                raise
            stuck |= {*ids, *work.damaged}
            outcome.left.append(f"images of root disks at {name}: {error}")
        else:
            outcome.images |= set(there) - set(left)
            outcome.left += [f"image {i} at {name}: {why}" for i, why in sorted(left.items())]
            stuck |= set(left)
    return stuck


def _remove_keys(expiry: Expiry, work: _Work, active: str, outcome: Outcome) -> set[str]:
    """Remove the keys of encrypted volumes that only withdrawn points name; those that are still
    there. A document may name any secret: only one that antipode has made for this VNF goes.
    """
    doomed: dict[str, set[str]] = {}
    for point in work.hidden:
        for secret, name in point.keys.items():
            if secret not in work.needed:
                doomed.setdefault(name, set()).add(secret)
    if doomed and (maker := expiry.maker_of_points()) is not None:
        outcome.left.append(f"keys of encrypted volumes stay while {maker} may need them")
        return {secret for ids in doomed.values() for secret in ids}
    stuck: set[str] = set()
    for name, ids in sorted(doomed.items()):
        try:
            keys = expiry.site(name).keys
            ours = [i for i in sorted(ids) if is_of(expiry.vnf.vnf, keys.name_of(i))]
            for secret in ours:
                keys.delete(secret)
        except (NotFound, PreflightFailed) as error:
            LOG.info("keys of encrypted volumes at %s are not removed: %s", name, error)
        except SiteUnreachable as error:
            if name == active:
                raise
            stuck |= ids
            outcome.left.append(f"keys of encrypted volumes at {name}: {error}")
        except ApiError as error:  # as a right that is missing: it holds up nothing else
            stuck |= ids
            outcome.left.append(f"keys of encrypted volumes at {name}: {error}")
    return stuck


def _remove_states(expiry: Expiry, work: _Work, active: str, outcome: Outcome) -> set[str]:
    """Remove the snapshots of withdrawn points in replicated storage, at the site that made them;
    those that are still there. The storage removes them elsewhere.

    None goes on which a clone rests, of a drill or of a recovery: its replication would halt.
    """
    stuck: set[str] = set()
    for home in sorted({point.site for point in work.hidden} | {active}):
        doomed = work.states(home)
        if not (doomed or work.damaged):
            continue
        left = replication.states_in_use(doomed, expiry.site, active)
        try:
            site = expiry.site(home)
        except NotFound as error:
            LOG.info("snapshots at %s are not removed: %s", home, error)
            continue
        except SiteUnreachable as error:
            if home == active:
                raise
            stuck |= set(doomed)
            outcome.left.append(f"{len(doomed)} snapshots at {home}: {error}")
            continue
        listed = [s for s in site.volumes.snapshots() if made_by(s) is not None]
        left |= {s["id"]: "it is of another volume" for s in listed if work.is_misnamed(s)}
        going = doomed.keys() - left.keys()
        wanted = {s["id"] for s in listed if s["id"] in going or work.is_stray(s)}
        remove_all(site, partial(_is_of, wanted), expiry.timeline)
        outcome.states |= wanted
        outcome.left += [f"snapshot {i} at {home}: {why}" for i, why in sorted(left.items())]
        stuck |= set(left)
    return stuck


def _remove_streams(expiry: Expiry, work: _Work, active: str, outcome: Outcome) -> set[str]:
    """Remove the deltas that only withdrawn points name, and the snapshots at which they end; the
    deltas that are still there. Those of damaged points are found by the runs that made them.
    """
    doomed = {i: d for p in work.hidden for i, d in p.deltas.items()}
    if not (doomed or work.damaged):
        return set()
    if (maker := expiry.maker_of_points()) is not None:
        # it may build on them. One that begins now finds the points withdrawn
        outcome.left.append(f"change streams stay while {maker} may need them")
        return {*doomed, *work.damaged} - set(work.needed)
    stuck: set[str] = set()
    homes = {p.site for p in work.hidden if p.deltas}
    for home in sorted(homes | set(expiry.vnf.sites if work.damaged else ())):
        here = {i: d for p in work.hidden if p.site == home for i, d in p.deltas.items()}
        stuck |= _remove_deltas(expiry, work, home, here, outcome)
        if home not in homes:
            continue
        try:
            why = stream_expiry.remove_snapshots(
                expiry.site(home), expiry.vnf.vnf, work.hidden, work.needed, expiry.timeline
            )
        except (NotFound, SiteUnreachable) as error:
            if home == active:
                raise
            why = str(error)
        if why is not None:
            outcome.left.append(f"snapshots of change streams at {home}: {why}")
    return stuck - set(work.needed)


def _remove_deltas(
    expiry: Expiry, work: _Work, home: str, here: Mapping[str, Delta], outcome: Outcome
) -> set[str]:
    """Remove the deltas of withdrawn points that were made at a site; those that are still there,
    and the damaged points of which that is unknown.
    """
    doomed = stream_expiry.Doomed(list(here.values()), work.damaged)
    try:
        store = expiry.store(home)
        if store is None and not here:
            return set()
        left = (
            dict.fromkeys(here, "no backup store is configured for them")
            if store is None
            else stream_expiry.remove_deltas(
                expiry.vnf.vnf, doomed, work.needed, store, expiry.timeline
            )
        )
    except NotFound as error:
        left = dict.fromkeys(here, str(error))
    except SiteUnreachable as error:
        left = dict.fromkeys([*here, *work.damaged], str(error))
    outcome.left += [f"change streams of {home}: {why}" for why in sorted(set(left.values()))]
    return set(left)


def _is_of(wanted: Collection[str], resource: Json) -> bool:
    return resource["id"] in wanted


def _remove_everywhere(
    expiry: Expiry, work: _Work, home: str, active: str, outcome: Outcome
) -> set[str]:
    """Remove the backups that were made at one site, there and wherever their records were
    imported; those that are still somewhere, and the damaged points of which that is unknown.

    At the site that made them first: the Cinder there knows what rests on them, and deleting an
    imported record deletes the objects in the store too. A site that does not answer, and is not
    the active one, may be gone for good: nothing is made there, and the others continue.
    """
    refused: set[str] = set()
    unknown: set[str] = set()
    for name in (home, *(s for s in expiry.vnf.sites if s != home)):
        wanted = {i: d for i, d in work.doomed(home).items() if i not in refused}
        if not (wanted or work.damaged):
            break
        try:
            refused |= _remove_at(expiry, name, work, wanted, refused, outcome)
        except NotFound as error:
            LOG.info("backups at %s are not removed: %s", name, error)
        except SiteUnreachable as error:
            if name == active:
                raise
            unknown |= {*wanted, *work.damaged}
            outcome.left.append(f"{len(wanted)} backups at {name}: {error}")
    return refused | unknown


def _remove_at(
    expiry: Expiry,
    name: str,
    work: _Work,
    wanted: Mapping[str, Doomed],
    refused: Collection[str],
    outcome: Outcome,
) -> set[str]:
    """Remove backups at one site, but for those that another has refused to delete; those that are
    left there.
    """
    site = expiry.site(name)
    with expiry.timeline.step(Steps.REMOVE_EXPIRED, name) as step:
        strays = [backup for backup in work.strays(site) if backup not in refused]
        removed = removal.remove(site, wanted, strays, step, work.why_needed)
        step.result(backups=len(removed.gone), gib=sum(removed.gone.values()))
    outcome.backups |= set(removed.gone)
    outcome.freed_gib += sum(removed.gone.values())
    outcome.left += [f"backup {i} at {name}: {why}" for i, why in sorted(removed.left.items())]
    return set(removed.left)

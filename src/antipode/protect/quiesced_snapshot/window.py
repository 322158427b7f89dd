# SPDX-License-Identifier: Apache-2.0
"""The quiesce window: freeze the members in order, snapshot all their volumes at once, thaw in
reverse order, whatever happens.

Steps 1.2 to 1.4 are ONE function, never spread over tasks of a flow, so that one `finally` guards
them all. While members are frozen nothing is done but the calls of these steps: connections, token
and threads are ready before, and the timeline is written afterwards.

The window runs in a thread of its own, and signals are only noted while it does. An interrupt
(Ctrl-C, SIGTERM) therefore never breaks into a call, which would leave open whether a member is
frozen: the window ends after the call it is in, and thaws.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from antipode.cloud.api import ApiError
from antipode.cloud.compute import Freeze
from antipode.cloud.site import Site
from antipode.errors import (
    AntipodeError,
    PreflightFailed,
    QuiesceFailed,
    ResourceFailed,
    SiteUnreachable,
    UnexpectedAnswer,
)
from antipode.freezes.unquiesce import HANGS_AFTER_S, THAW_CALL_S, one_after_another
from antipode.model.capture import Capture, QuiesceWindow
from antipode.model.marks import KEY, RUN, words
from antipode.model.steps import Steps, Timeline
from antipode.model.topology import Server, Topology
from antipode.protect.option import FreezeLedger
from antipode.protect.quiesced_snapshot.settings import Quiesce
from antipode.protect.quiesced_snapshot.terms import Terms
from antipode.protect.snapshots import remove_snapshots
from antipode.protect.uninterrupted import run_uninterrupted

AT_ONCE = 32
"""How many calls about members, and how many about volumes, are under way at most."""
POLL_S = 0.15
"""Between two looks at the snapshots.

Each look costs the API some 50 ms, which the snapshots then wait for.
"""
THAW_LONGEST_S = 60.0
"""How long thaws are tried again when the window's own time is over already."""
THAW_PAUSE_S = 0.5
AS_USUAL = Terms()
LEDGER_GRACE_S = 2.0
"""How much later than the window ends by itself a reaper thaws: never while snapshots that may
still count are being taken.
"""


def quiesced_snapshots(
    site: Site,
    topology: Topology,
    quiesce: Quiesce,
    marked: Mapping[str, str],
    ledger: FreezeLedger,
    timeline: Timeline,
    terms: Terms = AS_USUAL,
) -> Capture:
    """Freeze the members one after another, snapshot all volumes at once, thaw in reverse order
    (steps 1.2, 1.3, 1.4).

    Args:
        site: where the VNF runs.
        topology: its members in quiesce order. The volumes of one that is off are snapshotted with
            the others, and it must stay off; those of one that the terms name, too, as it runs.
        quiesce: its timeout is the longest time from the first quiesce call until every snapshot is
            available.
        marked: the marks of the snapshots; those of an earlier, interrupted attempt with the same
            key are removed first.
        ledger: gets a note of each member before the first is frozen, and when it is unquiesced.
        terms: what is particular about this window.

    Returns:
        the snapshots, all available, and how long the window was.

    Raises:
        QuiesceFailed: a member could not be frozen, or may still be frozen: the message names it.
            All others are thawed.
        ResourceFailed: a snapshot or a position failed or was not ready in time, a volume was
            attached to a member or detached from it since the discovery, or a member that was off
            was started.
            All members are thawed.

    Of a window that failed snapshots may be left, for the caller to remove: it knows whether that
    is worth waiting for.
    """
    remove_snapshots(site, marked[KEY], timeline)
    window = _Window(site, topology, quiesce, dict(marked), terms)
    # A call that hangs must not keep an unquiesce from a thread: these have a pool of their own.
    servers, of_volumes = min(len(topology.servers), AT_ONCE), min(len(topology.volumes), AT_ONCE)
    with (
        ThreadPoolExecutor(servers, "window-members") as members,
        ThreadPoolExecutor(of_volumes or 1, "window-volumes") as volumes,
        ThreadPoolExecutor(servers, "window-unquiesce") as ends,
    ):
        pools = _Pools(members, volumes, ends)
        _make_ready(site, pools, topology, quiesce)
        if window.members:
            _must_quiesce(site)
        window.end_by(time.monotonic() + quiesce.timeout + LEDGER_GRACE_S)
        rows = _announce(site, [m.server for m in window.members], quiesce, ledger)
        try:
            _run_uninterrupted(window, pools)
        finally:
            for member in window.members:
                if not member.may_be_frozen:
                    ledger.thawed(rows[member.server.id])
            window.tell(timeline)
    return window.result()


def _make_ready(site: Site, pools: _Pools, topology: Topology, quiesce: Quiesce) -> None:
    """Start the threads, and have the token, a connection for each thread and the services' caches
    ready.
    """
    site.stay_authorized(quiesce.timeout + THAW_LONGEST_S)
    threads = {
        pools.members: min(len(topology.servers), AT_ONCE),
        pools.volumes: min(len(topology.volumes), AT_ONCE),
        pools.ends: min(len(topology.servers), AT_ONCE),
    }
    all_started = threading.Barrier(sum(threads.values()))

    def warm() -> None:
        all_started.wait(30)
        site.volumes.warm()

    for future in [p.submit(warm) for p, size in threads.items() for _ in range(size)]:
        future.result()


def _must_quiesce(site: Site) -> None:
    if not site.compute.quiesce_available():
        raise PreflightFailed(
            "Quiescing",
            [
                f"{site.name} cannot quiesce servers: install the nova-quiesce add-on for its "
                "nova-api"
            ],
        )


def _announce(
    site: Site, servers: Sequence[Server], quiesce: Quiesce, ledger: FreezeLedger
) -> dict[str, str]:
    """Write a ledger row for every member that is quiesced; the row's key by server id.

    On failure nothing is left in the ledger.
    """
    lasts_s = quiesce.timeout + LEDGER_GRACE_S
    rows: dict[str, str] = {}
    try:
        for server in servers:
            rows[server.id] = ledger.freezing(site.name, server.id, server.name, lasts_s)
    except BaseException:
        for row in rows.values():
            ledger.thawed(row)
        raise
    return rows


def _run_uninterrupted(window: _Window, pools: _Pools) -> None:
    """Run the window to its end; a signal makes it end soon, and is raised when all that can be
    thawed is thawed.
    """
    run_uninterrupted(partial(window.run, pools), window.note_signal, "quiesce-window")
    if window.signal is not None:
        window.error = KeyboardInterrupt(window.signal)


class _Pools(NamedTuple):
    """Threads for looks at members, for snapshots of volumes, and for ending freezes."""

    members: ThreadPoolExecutor
    volumes: ThreadPoolExecutor
    ends: ThreadPoolExecutor


@dataclass
class _Moment:
    """Wall clock for people, monotonic clock for durations."""

    at: datetime
    s: float

    @classmethod
    def now(cls) -> _Moment:
        return cls(datetime.now(UTC), time.monotonic())


@dataclass
class _Member:
    server: Server
    asked: _Moment | None = None
    frozen: _Moment | None = None
    thawing: _Moment | None = None
    thawed: _Moment | None = None
    freeze: Freeze | None = None
    """as it was seen when all members were frozen"""
    denied: bool = False
    """the quiesce call was answered, with 4xx, and the member was not quiesced then; else the call
    may have frozen it
    """
    not_ours: bool = False
    """it cannot be quiesced at all, or it was unquiesced and quiesced again from outside
    """
    error: str | None = None
    thaw_error: str | None = None

    @property
    def may_be_frozen(self) -> bool:
        """By us: from before the quiesce call is made until a thaw is confirmed."""
        return self.asked is not None and self.thawed is None and not self.not_ours


class _Interrupted(AntipodeError):
    """Somebody asked the window to end."""


class _Window:
    """One quiesce window, from the first quiesce call to the last confirmed thaw."""

    def __init__(
        self,
        site: Site,
        topology: Topology,
        quiesce: Quiesce,
        metadata: dict[str, str],
        terms: Terms,
    ) -> None:
        self.members = [
            _Member(server)
            for server in topology.servers
            if not server.is_off and server.id not in terms.bare
        ]
        self._off = [server for server in topology.servers if server.is_off]
        self.signal: str | None = None
        """the signal that asks the window to end"""
        self.error: BaseException | None = None
        self._site = site
        self._topology = topology
        self._timeout_s = quiesce.timeout
        self._metadata = metadata
        self._deadline = math.inf
        self._consistent: _Moment | None = None
        self._available: _Moment | None = None
        self._begun_snapshots = False
        self._snapshots: Mapping[str, str] = {}
        """volume -> snapshot"""
        self._terms = terms
        self._positions: Mapping[str, str] = {}

    def end_by(self, latest: float) -> None:
        """Set the moment (monotonic) after which a reaper may thaw the members, so that snapshots
        taken then do not count.
        """
        self._deadline = latest

    def note_signal(self, name: str) -> None:
        """Have the window end soon."""
        self.signal = name

    def run(self, pools: _Pools) -> None:
        """Freeze, snapshot, thaw. An error is kept in `error` for the thread that waits."""
        try:
            self._see_that_none_is_frozen(pools.members)
            self._deadline = min(self._deadline, time.monotonic() + self._timeout_s)
            for member in self.members:
                self._freeze(member)
            self._see_that_all_are_frozen(pools.members)
            at_rest = self._look_at_those_off(pools.members)
            self._consistent = _Moment.now()
            attached = self._ask_what_is_attached(pools.members)
            users = self._ask_what_has_shared_volumes(pools.members)
            marking = pools.members.submit(self._terms.positions, self._remaining(), self._go_on)
            self._snapshot(pools.volumes)
            self._positions = self._awaited(marking)
            self._see_that_all_stayed_frozen(pools.members)
            self._see_that_those_off_stayed_so(at_rest, pools.members)
            self._see_that_no_volume_came_or_went(attached)
            self._see_that_no_stranger_has_one(users)
            self._available = _Moment.now()
        except BaseException as error:
            self.error = error
        finally:
            self._thaw_all(pools.ends)

    def result(self) -> Capture:
        """The snapshots, or the error that the window ended with; a member that may be frozen is
        always an error.
        """
        if left := [m for m in self.members if m.may_be_frozen]:
            names = ", ".join(f"{m.server.name} ({m.server.id}): {m.thaw_error}" for m in left)
            raise QuiesceFailed(
                f"{self._site.name}: members that may still be frozen: {names}. antipode tries "
                "again; the quiesce add-on unquiesces by itself after "
                f'{math.ceil(self._timeout_s)} s, or use: POST /servers/ID/action {{"unquiesce": '
                f"null}}"
            ) from self.error
        if self.error is not None:
            raise self.error
        assert self._consistent is not None
        first = next((m.asked for m in self.members), None)
        lengths = [_seconds(first, m.thawed) for m in self.members]
        window = QuiesceWindow(
            total_s=round(max(lengths, default=0.0), 3),
            per_member_s={
                m.server.name: round(_seconds(m.asked, m.thawed), 3) for m in self.members
            },
        )
        return Capture(
            snapshots=dict(self._snapshots),
            positions=self._positions,
            consistency=self._terms.label(self._topology),
            consistent_at=self._consistent.at.isoformat(),
            window=window if self.members else None,  # without a member, there was none
        )

    def tell(self, timeline: Timeline) -> None:
        """Put what happened on the timeline, now that no member is frozen."""
        now = _Moment.now()
        for m in self.members:
            if m.asked:
                error = m.error if m.frozen is None else None
                timeline.past(
                    Steps.QUIESCE,
                    m.server.name,
                    started=m.asked.at,
                    ended=(m.frozen or m.thawing or now).at,
                    error=error,
                )
        if self._consistent and self._begun_snapshots:
            end = self._available or next(
                (m.thawing for m in reversed(self.members) if m.thawing), now
            )
            failed = None if self._available else str(self.error)
            timeline.past(
                Steps.SNAPSHOT,
                "",
                started=self._consistent.at,
                ended=end.at,
                error=failed,
                volumes=len(self._topology.volumes),
                group=self._terms.group,
            )
        for m in reversed(self.members):
            if m.thawing:
                failed = m.thaw_error if m.may_be_frozen else None
                facts = {} if failed else {"frozen_s": round(_seconds(m.asked, m.thawed or now), 3)}
                timeline.past(
                    Steps.UNQUIESCE,
                    m.server.name,
                    started=m.thawing.at,
                    ended=(m.thawed or now).at,
                    error=failed,
                    **facts,
                )

    def _freeze(self, member: _Member) -> None:
        self._go_on()
        member.asked = _Moment.now()  # before the call: from now on it may be frozen
        try:
            self._site.compute.quiesce(member.server.id, self._timeout_s, self._remaining())
        except (ApiError, SiteUnreachable) as error:
            member.error = error.reason if isinstance(error, ApiError) else str(error)
            member.denied = (
                isinstance(error, ApiError)
                and 400 <= error.status < 500
                and self._is_known_not_to_be_frozen(member)
            )
            raise QuiesceFailed(
                f"{self._site.name}: server {member.server.name} could not be quiesced: "
                f"{member.error}"
            ) from error
        member.frozen = _Moment.now()

    def _is_known_not_to_be_frozen(self, member: _Member) -> bool:
        """Asked after a refusal.

        A member that is frozen now is so by us: none was before the window, and a request may
        come twice.
        """
        try:
            return (
                self._site.compute.freeze_of(member.server.id, min(THAW_CALL_S, self._remaining()))
                is None
            )
        except (ApiError, SiteUnreachable, UnexpectedAnswer):
            return False

    def _snapshot(self, pool: ThreadPoolExecutor) -> None:
        """Start the snapshots of all volumes at once, or one of their group, and wait for them with
        one list call at a time.
        """
        self._go_on()
        self._begun_snapshots = True
        group = self._terms.group
        self._snapshots = self._of_group(group, pool) if group else self._of_each(pool)
        self._site.volumes.snapshot_watch.wait_for(
            list(self._snapshots.values()),
            timeout_s=self._remaining(),
            interval_s=POLL_S,
            between=self._go_on,
        )
        if time.monotonic() > self._deadline:
            # The add-on may have thawed a member already: these snapshots might not be of one
            # moment.
            raise ResourceFailed(
                f"{self._site.name}: the snapshots were not ready within the quiesce timeout of "
                f"{self._timeout_s:g} s"
            )

    def _of_each(self, pool: ThreadPoolExecutor) -> dict[str, str]:
        posts: dict[str, Future[str]] = {}
        for volume in self._topology.volumes:
            name = f"antipode {self._topology.vnf} {volume.name or volume.id}"[:255]
            posts[volume.id] = pool.submit(
                self._site.volumes.create_snapshot,
                volume.id,
                name,
                self._metadata,
                self._remaining(),
            )
        self._wait_for_posts(posts)
        return {volume: post.result() for volume, post in posts.items()}

    def _of_group(self, group: str, pool: ThreadPoolExecutor) -> dict[str, str]:
        """One snapshot of all volumes: its parts have no metadata, and our marks as a description.

        Raises:
            ResourceFailed: it is refused, or of other volumes than those of the members.
        """
        name = f"antipode {self._topology.vnf}"[:255]
        described = words(self._metadata[RUN], self._metadata[KEY])
        create = self._site.groups.create_snapshot
        post = pool.submit(create, group, name, described, self._remaining())
        while not post.done():
            self._go_on()
            wait([post], timeout=min(0.5, self._remaining()))
        if (error := post.exception()) is not None:
            raise ResourceFailed(
                f"{self._site.name}: volume group {group} could not be snapshotted: {error}"
            ) from error
        captured = {v.id for v in self._topology.volumes}
        parts = self._site.groups.parts(post.result(), self._remaining(), len(captured))
        if set(parts) != captured:
            raise ResourceFailed(
                f"{self._site.name}: volume group {group} has other volumes than the members by"
                " now. Protect the VNF again"
            )
        return parts

    def _awaited(self, positions: Future[Mapping[str, str]]) -> Mapping[str, str]:
        while not positions.done():
            self._go_on()
            wait([positions], timeout=min(0.5, self._remaining()))
        return positions.result()

    def _see_that_none_is_frozen(self, pool: ThreadPoolExecutor) -> None:
        """A member that is frozen now was frozen from outside: it is not ours to thaw, and what is
        frozen later is not his.
        """
        if frozen := [m.server.name for m, freeze in self._look(pool) if freeze is not None]:
            raise QuiesceFailed(
                f"{self._site.name}: quiesced already by another request: {', '.join(frozen)}. "
                "This run froze no member; try again later"
            )

    def _see_that_all_are_frozen(self, pool: ThreadPoolExecutor) -> None:
        for member, freeze in self._look(pool):
            member.freeze = freeze
        self._refuse_thawed([m for m in self.members if m.freeze is None or not m.freeze.is_steady])

    def _see_that_all_stayed_frozen(self, pool: ThreadPoolExecutor) -> None:
        """An unquiesce from outside while snapshots are taken tears them: by an operator, or by a
        process that was paused in an earlier window.
        """
        now = self._look(pool)
        for member, freeze in now:
            assert member.freeze is not None
            member.not_ours = freeze is not None and freeze.id != member.freeze.id
        self._refuse_thawed([m for m, freeze in now if freeze != m.freeze])

    def _look_at_those_off(self, pool: ThreadPoolExecutor) -> list[str]:
        """When each member that is off was changed last, asked at once.

        Raises:
            ResourceFailed: one is not off any more, and is not quiesced.
        """
        power = self._site.compute.power_of
        asked = [pool.submit(power, s.id, self._remaining()) for s in self._off]
        answers = [answer.result() for answer in asked]
        if started := [
            s.name for s, (is_off, _) in zip(self._off, answers, strict=True) if not is_off
        ]:
            raise ResourceFailed(
                f"{self._site.name}: members that were off when the VNF was discovered, and are "
                f"on now: {', '.join(started)}. Protect the VNF again"
            )
        return [changed for _, changed in answers]

    def _see_that_those_off_stayed_so(
        self, at_rest: Sequence[str], pool: ThreadPoolExecutor
    ) -> None:
        """A member that was started and stopped meanwhile has written while its volumes were
        snapshotted.
        """
        now = self._look_at_those_off(pool)
        changed = [s.name for s, a, b in zip(self._off, at_rest, now, strict=True) if a != b]
        if changed:
            raise ResourceFailed(
                f"{self._site.name}: members that are off changed while the snapshots were "
                f"taken: {', '.join(changed)}. Protect the VNF again"
            )

    def _ask_what_is_attached(self, pool: ThreadPoolExecutor) -> list[Future[set[str]]]:
        """The volumes of each member now; answered while the snapshots are taken, so that the
        window does not wait for it.
        """
        attached = self._site.compute.attached_volumes
        return [
            pool.submit(attached, server.id, self._remaining()) for server in self._topology.servers
        ]

    def _see_that_no_volume_came_or_went(self, attached: Sequence[Future[set[str]]]) -> None:
        """A volume attached since the discovery has no snapshot, and one detached since belongs to
        another application, or to none.
        """
        changes: list[str] = []
        for server, answer in zip(self._topology.servers, attached, strict=True):
            names = {v.id: v.name for v in server.volumes}
            now = answer.result()
            for change, volumes in (("attached", now - set(names)), ("detached", set(names) - now)):
                changes += [
                    f"volume {' '.join(filter(None, (names.get(v), f'({v})')))} was {change}, "
                    f"server {server.name}"
                    for v in sorted(volumes)
                ]
        if changes:
            raise ResourceFailed(
                f"{self._site.name}: the volumes of the members changed after they were "
                f"discovered: {'; '.join(changes)}. Protect the VNF again"
            )

    def _ask_what_has_shared_volumes(self, pool: ThreadPoolExecutor) -> dict[str, Future[set[str]]]:
        """The servers that have each volume which more than one may have, or none has; by its
        id.
        """
        users = self._site.volumes.users
        free = {volume.id for volume in self._topology.unattached}
        return {
            volume.id: pool.submit(users, volume.id, self._remaining())
            for volume in self._topology.volumes
            if volume.multiattach or volume.id in free
        }

    def _see_that_no_stranger_has_one(self, users: Mapping[str, Future[set[str]]]) -> None:
        """A server that is no member, and is not quiesced, writes to the volumes that it has."""
        having: dict[str, set[str]] = {}
        for server in self._topology.servers:
            for volume in server.volumes:
                having.setdefault(volume.id, set()).add(server.id)
        for volume_id, answer in users.items():
            if strangers := sorted(answer.result() - having.get(volume_id, set())):
                raise ResourceFailed(
                    f"{self._site.name}: volume {volume_id} was attached to"
                    f" {', '.join(strangers)} after the VNF was discovered. Protect the VNF again"
                )

    def _refuse_thawed(self, members: Sequence[_Member]) -> None:
        if members:
            names = ", ".join(m.server.name for m in members)
            raise ResourceFailed(
                f"{self._site.name}: unquiesced by another request while the snapshots were "
                f"taken: {names}. Try again"
            )

    def _look(self, pool: ThreadPoolExecutor) -> list[tuple[_Member, Freeze | None]]:
        """In which freeze each member is, asked at once."""
        asked = [
            (m, pool.submit(self._site.compute.freeze_of, m.server.id, self._remaining()))
            for m in self.members
        ]
        return [(m, answer.result()) for m, answer in asked]

    def _remaining(self) -> float:
        return max(self._deadline - time.monotonic(), 0)

    def _wait_for_posts(self, posts: Mapping[str, Future[str]]) -> None:
        names = {v.id: v.name or v.id for v in self._topology.volumes}
        pending: set[Future[str]] = set(posts.values())
        while pending:
            self._go_on()
            done, pending = wait(
                pending, timeout=min(0.5, self._remaining()), return_when=FIRST_EXCEPTION
            )
            for volume, post in posts.items():
                if post in done and (error := post.exception()) is not None:
                    raise ResourceFailed(
                        f"{self._site.name}: volume {names[volume]} ({volume}) could not be "
                        f"snapshotted: {error}"
                    ) from error

    def _go_on(self) -> None:
        if self.signal is not None:
            raise _Interrupted(f"the quiesce window was interrupted by {self.signal}")
        if time.monotonic() > self._deadline:
            raise ResourceFailed(
                f"{self._site.name}: the snapshots were not ready within the quiesce timeout of "
                f"{self._timeout_s:g} s"
            )

    def _thaw_all(self, pool: ThreadPoolExecutor) -> None:
        """Thaw in reverse order.

        A thaw that fails is tried again after all others, until it succeeds or time is over.
        """
        until = (
            max(self._deadline, time.monotonic() + THAW_LONGEST_S)
            if self._deadline < math.inf
            else math.inf
        )
        while left := self._left_to_thaw():
            one_after_another(pool, [partial(self._thaw, member, until) for member in left])
            if time.monotonic() > until:
                return
            if self._left_to_thaw():
                # a refused thaw has no state to wait for; nova-compute may need a moment
                time.sleep(THAW_PAUSE_S)

    def _left_to_thaw(self) -> list[_Member]:
        return [m for m in reversed(self.members) if m.may_be_frozen]

    def _thaw(self, member: _Member, until: float) -> None:
        member.thawing = member.thawing or _Moment.now()
        try:
            self._site.compute.unquiesce(
                member.server.id, min(THAW_CALL_S, max(until - time.monotonic(), HANGS_AFTER_S))
            )
        except BaseException as error:
            # Whatever it is, the others must be thawed too; it is kept, tried again, and reported
            # if it stays.
            member.thaw_error = (
                error.reason if isinstance(error, ApiError) else f"{type(error).__name__}: {error}"
            )
            if member.denied and isinstance(error, ApiError) and 400 <= error.status < 500:
                member.not_ours = True  # neither frozen nor thawed: it cannot be quiesced at all
        else:
            member.thawed = _Moment.now()


def _seconds(start: _Moment | None, end: _Moment | None) -> float:
    assert start is not None and end is not None
    return end.s - start.s

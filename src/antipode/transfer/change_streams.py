# SPDX-License-Identifier: Apache-2.0
"""Transfer by change streams: what the storage says has changed of a volume goes into the backup
store, in packs. What cannot go so is backed up by Cinder.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from antipode.change_stream import INDEX, Base
from antipode.config import ChangesConfig
from antipode.datastores.rbd_changes import NoSuchState, RbdChanges
from antipode.errors import AntipodeError, Interrupted, NotFound, ResourceFailed, Stopped
from antipode.model.capture import Capture, Transferred
from antipode.model.point import RecoveryPoint
from antipode.model.quota import QuotaNeed
from antipode.model.source import ChangeStream, Delta, deltas_of
from antipode.model.steps import StepName, Timeline
from antipode.model.topology import Topology, Volume
from antipode.protect import tracked
from antipode.protect.option import Protecting
from antipode.transfer import Earlier, Transfer
from antipode.transfer.cinder_backup import TRANSFER as BACKUPS
from antipode.vault.packer import Packer, Place
from antipode.vault.verify import stored_delta, verify_deltas

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
CONTAINER = "antipode-streams"
"""In the backup store: none of Cinder's, which would take the objects for its own."""
LONGEST = 200
"""Deltas of a chain, which its recovery points name one by one."""


class StreamSteps(StepName):
    STREAM = "1.6", "stream changes of volumes"
    REMOVE = "", "remove change streams"


class StreamsAndBackups(Transfer):
    """Change streams where a protection wants them, and where they can be had; else backups. A
    protection that does not want them is transferred by backups alone.
    """

    name = "streams-and-backups"

    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        yield from BACKUPS.check(protecting, topology)
        if not protecting.streams:
            return
        if protecting.store is None:
            yield (
                f"change streams need a backup store, and none is configured for"
                f" {protecting.site.name}"
            )
        elif not protecting.site.changes:
            yield (
                f"this host reads changes of no pool at {protecting.site.name}: give the site"
                " `changes` in antipode.yaml, or take `transfer` out of the VNF file"
            )

    def needs(self, protecting: Protecting, topology: Topology) -> list[QuotaNeed]:
        return BACKUPS.needs(protecting, topology)

    def transfer(
        self,
        protecting: Protecting,
        topology: Topology,
        capture: Capture,
        earlier: Earlier,
    ) -> Transferred:
        p = protecting
        if not p.streams or p.store is None:
            return BACKUPS.transfer(p, topology, capture, earlier)
        job = _Job(p, p.store, capture)
        with p.timeline.step(StreamSteps.STREAM, p.vnf.vnf) as step:
            made = job.stream(topology)
            labels = {v.id: v.name or v.id for v in topology.volumes}
            step.result(
                volumes=len(made),
                bytes=sum(s.last.stored.bytes for s in made.values()),
                incremental=sum(s.incremental for s in made.values()),
                backed_up_instead={labels[v]: why for v, why in job.refused.items()},
            )
        rest = _without(topology, made)
        full_because = {v: why for v, why in job.full_because.items() if v in made}
        if not rest.volumes:
            return Transferred(sources=made, full_because=full_because)
        others = BACKUPS.transfer(p, rest, capture, earlier)
        return others.model_copy(
            update={
                "sources": {**others.sources, **made},
                "full_because": {**others.full_because, **full_because},
            }
        )

    def roll_back(self, protecting: Protecting) -> Collection[str]:
        p = protecting
        try:
            return BACKUPS.roll_back(p)
        finally:  # whatever Cinder says: no orphan of theirs is looked for
            if p.streams and p.store is not None:
                _forget_run(p, p.store)

    def remove_orphans(
        self,
        site: Site,
        runs: Collection[str],
        needed: Callable[[], Collection[str]],
        timeline: Timeline,
    ) -> Collection[str]:
        # a snapshot of theirs that stays goes with the release of the next point that has streams
        return BACKUPS.remove_orphans(site, runs, needed, timeline)

    def remove_stored(
        self,
        store: Objects,
        vnf: str,
        runs: Collection[str],
        needed: Callable[[], Collection[str]],
        timeline: Timeline,
    ) -> int:
        # nothing rests on the deltas of a run but its own point, and those that came after that
        try:
            names = [o.name for r in runs for o in store.listing(CONTAINER, f"{vnf}/{r}/")]
        except NotFound:  # nothing was streamed yet
            return 0
        deltas = {"/".join(parts[:3]): parts[2] for n in names if len(parts := n.split("/")) > 3}
        if not deltas:
            return 0
        kept = needed()
        dead = sorted(f"{prefix}/" for prefix, delta in deltas.items() if delta not in kept)
        return remove_objects(store, dead, timeline)


TRANSFER = StreamsAndBackups()


def remove_objects(store: Objects, prefixes: Collection[str], timeline: Timeline) -> int:
    """Remove the objects of deltas; how many there were. Safe to repeat.

    Args:
        prefixes: what their names begin with.
    """
    try:
        doomed = [o.name for prefix in prefixes for o in store.listing(CONTAINER, prefix)]
    except NotFound:  # nothing was streamed yet
        return 0
    if not doomed:
        return 0
    with timeline.step(StreamSteps.REMOVE, CONTAINER) as step:
        # an index first: a delta without one does not exist
        for name in sorted(doomed, key=lambda n: not n.endswith(f"/{INDEX}")):
            store.delete(CONTAINER, name)
        step.result(objects=len(doomed))
    return len(doomed)


def _forget_run(p: Protecting, store: Objects) -> None:
    """Remove the deltas of a run, and the snapshots at which they end."""
    try:
        remove_objects(store, [f"{p.vnf.vnf}/{p.run}/"], p.timeline)
    finally:
        tracked.drop_of_run(p.site, p.run, p.timeline)


@dataclass
class _Job:
    """What all deltas of one recovery point have in common."""

    p: Protecting
    store: Objects
    capture: Capture
    refused: dict[str, str] = field(default_factory=dict)
    """volume id -> why it does not go by a stream"""
    full_because: dict[str, str] = field(default_factory=dict)

    def stream(self, topology: Topology) -> dict[str, ChangeStream]:
        """Those volumes that can be streamed, by id."""
        pools: dict[str, ChangesConfig] = {}
        for volume in topology.volumes:
            found = self._pool_of(volume)
            if isinstance(found, ChangesConfig):
                pools[volume.id] = found
            else:
                self.refused[volume.id] = found
        volumes = [v for v in topology.volumes if v.id in pools]
        if not volumes:
            return {}
        try:
            self.store.ensure_container(CONTAINER)
            # of an earlier try of this run: what it wrote may be of another snapshot
            remove_objects(self.store, [f"{self.p.vnf.vnf}/{self.p.run}/"], self.p.timeline)
        except (Stopped, Interrupted):
            raise
        except AntipodeError as error:
            LOG.warning("no changes of %s are streamed: %s", self.p.vnf.vnf, error)
            self.refused |= dict.fromkeys(pools, str(error))
            return {}
        previous = self.p.streamed([v.id for v in volumes])

        def one(volume: Volume) -> ChangeStream | None:
            with self.p.slots:
                return self._streamed(volume, pools[volume.id], previous.get(volume.id))

        with ThreadPoolExecutor(self.p.at_once, "stream") as pool:
            work = {v.id: pool.submit(one, v) for v in volumes}
        made = {volume: done.result() for volume, done in work.items()}
        return {volume: stream for volume, stream in made.items() if stream is not None}

    def _pool_of(self, volume: Volume) -> ChangesConfig | str:
        """The pool that a volume is in, or why it is not streamed."""
        if volume.encrypted:
            return "it is encrypted"
        if volume.multiattach:
            return "several servers may have it"
        if volume.id not in self.capture.snapshots:
            return "there is no snapshot of it"
        if volume.backend is None or not volume.backend.name:
            return "how the storage calls it is not known"
        for settings in self.p.site.changes:
            if settings.host == volume.backend_host:
                return settings
        return f"changes of back end {volume.backend_host} cannot be read by this host"

    def _streamed(
        self, volume: Volume, pool: ChangesConfig, point: RecoveryPoint | None
    ) -> ChangeStream | None:
        """A volume as a change stream; None: Cinder is to back it up."""
        try:
            chain, why = self._chain(volume, point)
            try:
                delta = self._delta(volume, pool, chain)
            except NoSuchState as error:
                if not chain:
                    raise
                chain, why = [], f"the snapshot at which its changes begin is gone: {error}"
                delta = self._delta(volume, pool, chain)
        except (Stopped, Interrupted):
            raise
        except AntipodeError as error:
            LOG.warning(
                "volume %s is backed up by Cinder: its changes cannot be streamed: %s",
                volume.name or volume.id,
                error,
            )
            self.refused[volume.id] = str(error)
            return None
        if why:
            self.full_because[volume.id] = why
        return ChangeStream(
            volume_id=volume.id,
            gib=volume.size_gib,
            deltas=[*chain, delta],
            backend_reference=volume.backend_reference,
        )

    def _chain(self, volume: Volume, point: RecoveryPoint | None) -> tuple[Sequence[Delta], str]:
        """The deltas that the next one may rest on; none, and why, where a new chain begins."""
        if point is None:
            return [], "no recovery point has a change stream of this volume"
        source = point.sources[volume.id]
        chain = deltas_of(source)
        if self.p.full:
            return [], "a full one was asked for"
        if source.size_gib != volume.size_gib:
            return [], f"the volume has grown from {source.size_gib} to {volume.size_gib} GiB"
        made_at = datetime.fromisoformat(chain[0].made_at)
        age_s = (datetime.now(UTC) - made_at).total_seconds()
        if (why := self.p.full_every.reason(len(chain), age_s)) is not None:
            return [], why
        if len(chain) >= LONGEST:
            return [], f"its chain has {LONGEST} deltas"
        for finding in verify_deltas(volume.name, chain, self.store):
            if not finding.ok:
                return [], f"recovery point {point.id}: {finding.detail}"
        return chain, ""

    def _delta(self, volume: Volume, pool: ChangesConfig, chain: Sequence[Delta]) -> Delta:
        """Write a delta of a volume up to its snapshot; its index last.

        Raises:
            NoSuchState: the storage does not have the snapshot at which it begins, or ends.
            AntipodeError: it cannot be written whole; nothing is left of it, as far as the store
                answers.
        """
        p, snapshot = self.p, self.capture.snapshots[volume.id]
        assert volume.backend is not None and volume.backend.name is not None  # see `_pool_of`
        name = str(uuid.uuid4())
        prefix = f"{p.vnf.vnf}/{p.run}/{name}"
        state = f"snapshot-{snapshot}"
        base = chain[-1] if chain else None
        packer = Packer(self.store, Place(CONTAINER, prefix), name, volume.id)
        changes = RbdChanges(p.site.name, pool, p.go_on)
        try:
            since = base.state if base else None
            with changes.between(volume.backend.name, state, since) as (found, about):
                for offset, length, data in found:
                    if data is None:
                        packer.zeros(offset, length)
                    else:
                        packer.data(offset, data)
            if about.size != volume.size_gib << 30:
                raise ResourceFailed(
                    f"image {volume.backend.name} has {about.size} bytes, and the volume"
                    f" {volume.size_gib} GiB"
                )
            rests_on = Base(base.id, base.prefix, base.sha256) if base else None
            index = packer.end(about.size, rests_on)
            stored = stored_delta(CONTAINER, prefix, self.store)
            if (stored.objects, stored.bytes) != (packer.objects, packer.bytes):
                # a listing that lags behind: what is sealed of it would never be found again
                raise ResourceFailed(
                    f"the backup store lists {stored.objects} objects of {stored.bytes} bytes of"
                    f" delta {prefix}, and {packer.objects} of {packer.bytes} were written"
                )
            tracked.keep(p.site, p.vnf.vnf, snapshot)
        except AntipodeError:
            self._discard(f"{prefix}/")
            raise
        return Delta(
            id=name,
            run=p.run,
            container=CONTAINER,
            prefix=prefix,
            sha256=hashlib.sha256(index).hexdigest(),
            stored=stored,
            state=state,
            snapshot_id=snapshot,
            made_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    def _discard(self, prefix: str) -> None:
        try:
            self.store.delete(CONTAINER, f"{prefix}{INDEX}")  # a listing may lack it
            remove_objects(self.store, [prefix], self.p.timeline)
        except AntipodeError as error:
            # they are of no delta, as the index came last or is gone, and cost room only
            LOG.warning("objects of %s are left in the backup store: %s", prefix, error)


def _without(topology: Topology, volumes: Mapping[str, object]) -> Topology:
    """A topology without these volumes."""
    servers = [
        s.model_copy(
            update={"attachments": [a for a in s.attachments if a.volume.id not in volumes]}
        )
        for s in topology.servers
    ]
    unattached = [v for v in topology.unattached if v.id not in volumes]
    return topology.model_copy(update={"servers": servers, "unattached": unattached})

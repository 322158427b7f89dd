# SPDX-License-Identifier: Apache-2.0
"""Volumes from change streams: standing ones as they are, else new ones that the mover writes.
Cinder knows nothing of these streams, so that no other road is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from antipode import libraries
from antipode.errors import AntipodeError, RecoveryPointInvalid, ResourceFailed
from antipode.model.plan import VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.source import VolumeSource, deltas_of
from antipode.model.steps import Timeline
from antipode.protect import volume_keys
from antipode.recover.recovery import Recovery
from antipode.recover.sources import VolumeProvider, standing, written
from antipode.recover.standing import StandingSteps, keep_taken
from antipode.vault.verify import Finding, lost_deltas, verify_deltas

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site


class FromChangeStreams(VolumeProvider):
    kind = "change-stream"
    volume_step = written.WrittenSteps.WRITE
    standing_step = StandingSteps.TAKE
    proves_in_store = True

    def check(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        if not site.attaches:
            yield (
                f"volumes of {point.id} come from change streams, which this host writes, and it"
                f" attaches no volumes at {site.name}: give the site `mover` in antipode.yaml"
            )
        yield from _unfit_types(point, site)

    def missing(self, point: RecoveryPoint, store: Objects) -> list[str]:
        return [f"delta {delta.id}" for delta in lost_deltas(point.deltas.values(), store)]

    def provide(
        self, recovery: Recovery, server: str, volumes: Sequence[VolumePlan]
    ) -> dict[str, str]:
        mover = recovery.mover
        if mover is None or mover.missing:
            why = "nothing writes them here" if mover is None else mover.missing
            raise ResourceFailed(
                f"{recovery.site.name}: volumes of {server} come from change streams, and {why}"
            )
        ready = standing.provided(recovery, server, volumes)
        others = [v for v in volumes if v.source_id not in ready]
        return {**ready, **written.all_written(recovery, mover, server, others)}

    def settle(self, recovery: Recovery) -> list[str]:
        left = written.remove_half_written(recovery.site, recovery.run)
        return [*left, *keep_taken(recovery.site, recovery.run)]

    def remove_unfinished(self, site: Site, run: str, timeline: Timeline) -> None:
        standing.remove_snapshots(site, run, timeline)

    def moved_bytes(self, source: VolumeSource) -> int:
        return source.size_gib << 30

    def verify(
        self,
        volume: str,
        source: VolumeSource,
        store: Objects | None,
        site: Callable[[str], Site],
    ) -> list[Finding]:
        return verify_deltas(volume, deltas_of(source), store)

    def unprovable(self, source: VolumeSource) -> str | None:
        return None

    def prove(
        self, recovery: Recovery, volume: VolumePlan, source: VolumeSource, store: Objects | None
    ) -> Finding:
        """Fetch all of a stream, and compare each extent with its digest of the capture: the mover
        writes no other bytes.
        """
        libraries.need("ijson", "mover", "a deep verification of change streams")
        from antipode.mover.stream import prove_stream, read_stream

        assert store is not None  # `proves_by_store`
        deltas = deltas_of(source)
        try:
            compared = prove_stream(read_stream(deltas, store), store, recovery.go_on)
        except RecoveryPointInvalid as error:
            return Finding(volume=volume.label, backup=deltas[-1].id, ok=False, detail=str(error))
        return Finding(
            volume=volume.label,
            backup=deltas[-1].id,
            ok=True,
            objects=sum(d.stored.objects for d in deltas),
            bytes=compared,
            detail="all extents of its change stream are in the store as they were captured",
        )


PROVIDER = FromChangeStreams()


def _unfit_types(point: RecoveryPoint, site: Site) -> Iterator[str]:
    """What keeps volumes of their types from being written; nothing where they are plain."""
    names = point.vnf.map_between(point.site, site.name).volume_types
    of_streams = {
        v.name or v.id: names.get(v.volume_type, v.volume_type)
        for v in point.topology.disks
        if deltas_of(point.source_of(v.id))
    }
    wanted = {kind for kind in of_streams.values() if kind}
    try:
        encrypted = volume_keys.encrypted_types(site, wanted) if wanted else set()
    except AntipodeError as error:
        yield f"whether volume types at {site.name} are encrypted is not known: {error}"
        return
    for volume, kind in of_streams.items():
        if kind in encrypted:
            yield (
                f"volume {volume} comes from a change stream, which is written into no encrypted"
                f" volume, and type {kind} at {site.name} is encrypted: map it to another"
            )

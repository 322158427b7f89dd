# SPDX-License-Identifier: Apache-2.0
"""Providers: how the volumes of a recovery come from their sources, one for each kind of source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from antipode.errors import ResourceFailed
from antipode.model.plan import RecoveryPlan, RestoreWay, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.source import VolumeSource
from antipode.model.steps import StepName, Timeline
from antipode.recover.recovery import Recovery
from antipode.registry import Registry
from antipode.vault.verify import Finding

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site


class VolumeProvider(ABC):
    """Provides volumes from sources of one kind. An instance has no state."""

    kind: ClassVar[str]
    makes_volumes: ClassVar[bool] = True
    """whether it provides volumes; else what a server boots from without one"""
    proves_in_store: ClassVar[bool] = False
    """whether a proof reads the store alone, and makes neither a volume nor a backup"""
    proves_by_store: ClassVar[bool] = True
    """whether the digests that `prove` compares with are in the backup store"""
    takes_turns: ClassVar[bool] = False
    """whether volumes of one source, as those of clones are, come one after another"""
    volume_step: ClassVar[StepName | None] = None
    """the step in which a volume comes, whose time is measured; None: it takes none"""
    standing_step: ClassVar[StepName | None] = None
    """the same, where it stands at the recovery point already"""
    written_step: ClassVar[StepName | None] = None
    """the same, where the mover writes it"""

    @abstractmethod
    def check(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        """Look for everything that would fail later; one sentence for each problem.

        Called once for each recovery point that has sources of this kind.
        """

    def remarks(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        """What differs at a site from what was captured, and keeps nothing from being recovered;
        one sentence for each. Called as `check`.
        """
        yield from ()

    def missing(self, point: RecoveryPoint, store: Objects) -> list[str]:
        """What a point needs and the backup store lacks, as far as a quick look shows it.

        Called once for each recovery point that has sources of this kind.

        Raises:
            AntipodeError: the store does not answer.
        """
        return []

    def quotas(self, point: RecoveryPoint, site: Site) -> Counter[str]:
        """How much more of Cinder's quotas is needed, beside that of the volumes themselves."""
        return Counter()

    def way(self, source: VolumeSource, site: Site) -> RestoreWay:
        """How a volume is brought back from a source at a site, so that its bytes are right."""
        return RestoreWay()

    def moved_bytes(self, source: VolumeSource) -> int:
        """How many bytes `volume_step` writes for a source; 0: its time does not depend on any."""
        return 0

    def is_written(self, source: VolumeSource) -> bool:
        """Whether the mover writes volumes from a source, where a host has it do so."""
        return False

    def records(self, source: VolumeSource) -> int:
        """How many records of backups are imported for a source at a site that knows none."""
        return 0

    @abstractmethod
    def provide(
        self, recovery: Recovery, server: str, volumes: Sequence[VolumePlan]
    ) -> dict[str, str]:
        """Have volumes of a server that are available or in use at the site of the recovery.

        Volumes that an earlier attempt with the same recovery point made are found by their key
        and used.

        Returns:
            volume id at the former site -> id of the volume at this one.

        Raises:
            ResourceFailed: one cannot be provided; the message names it and the reason.
        """

    def roll_back(
        self,
        site: Site,
        run: str,
        plan: RecoveryPlan,
        timeline: Timeline,
        go_on: Callable[[], None],
    ) -> list[str]:
        """Undo what providing did beyond creating volumes, which are removed with all that carries
        the mark of the run.

        Returns:
            what stays at the site, and why.
        """
        return []

    def remove_unfinished(  # noqa: B027 - what most kinds need not do
        self, site: Site, run: str, timeline: Timeline
    ) -> None:
        """Remove what providing volumes began, and no service of OpenStack knows, of a run whose
        volumes are gone. Safe to repeat.

        Raises:
            ResourceFailed: not all could be removed.
        """

    def settle(self, recovery: Recovery) -> list[str]:
        """Finish what does not have to be finished before the VNF is active: it is when this is
        called. Safe to repeat.

        Returns:
            what could not be finished, why, and how that is done later.
        """
        return []

    @abstractmethod
    def verify(
        self,
        volume: str,
        source: VolumeSource,
        store: Objects | None,
        site: Callable[[str], Site],
    ) -> list[Finding]:
        """Check that a source still holds what it held when the point was made.

        Args:
            volume: its name, for the findings.
            store: the backup store, if one is configured.
            site: connects to a site, for what is not in the store.
        """

    def unprovable(self, source: VolumeSource) -> str | None:
        """Why what a source brings back cannot be compared with what was captured; None when it
        can.
        """
        return f"a source of kind {source.kind} carries no digests"

    def prove(
        self, recovery: Recovery, volume: VolumePlan, source: VolumeSource, store: Objects | None
    ) -> Finding:
        """Bring a volume back as a throw-away one and compare each block with what was captured.

        Called for sources that are not `unprovable`; safe to repeat. The volume is marked as all
        that the run creates, and removed by the run.

        Args:
            store: the backup store; None where there is none and `proves_by_store` is false.

        Raises:
            ResourceFailed: it cannot be brought back or compared.
            RecoveryPointInvalid: there is nothing to compare with.
        """
        raise ResourceFailed(f"volume {volume.label}: {self.unprovable(source)}")

    def remove_proofs(
        self, site: Site, run: str, timeline: Timeline, volumes: Collection[str] | None
    ) -> int:
        """Remove what `prove` created beyond volumes; how much that was. Safe to repeat.

        Args:
            volumes: of these throw-away volumes only; None: of all.

        Raises:
            ResourceFailed: not all could be removed.
        """
        return 0


PROVIDERS: Registry[VolumeProvider] = Registry(
    "kind of volume source",
    {
        "base-image": "antipode.recover.sources.base_image:PROVIDER",
        "backup-chain": "antipode.recover.sources.backup:PROVIDER",
        "change-stream": "antipode.recover.sources.change_stream:PROVIDER",
        "image": "antipode.recover.sources.image:PROVIDER",
        "named-image": "antipode.recover.sources.base_image:BY_NAME",
        "replicated-head": "antipode.recover.sources.head:PROVIDER",
        "replicated-state": "antipode.recover.sources.replicated:PROVIDER",
    },
)

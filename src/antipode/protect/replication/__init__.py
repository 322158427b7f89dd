# SPDX-License-Identifier: Apache-2.0
"""Option 3: storage replicates the volumes by itself; a recovery point is a state of all of them
that has arrived at a backup site.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from antipode.datastores import storages_of
from antipode.errors import InvalidInput
from antipode.model.advice import (
    FREQUENT_S,
    Cost,
    Facts,
    Remark,
    Weight,
    shared_remarks,
    window_remarks,
)
from antipode.model.base import Model
from antipode.model.capture import Capture, Consistency
from antipode.model.marks import carries, marks
from antipode.model.schedule import DailyHours
from antipode.model.steps import Timeline
from antipode.model.topology import Topology
from antipode.model.vnf import Vnf
from antipode.protect import snapshots
from antipode.protect.option import Option, Protecting
from antipode.protect.quiesced_snapshot import checks, window
from antipode.protect.quiesced_snapshot.terms import Terms, bare_of
from antipode.protect.replication.settings import Settings

if TYPE_CHECKING:
    from antipode.cloud.site import Site


class Replication(Option):
    """The window is that of option 1. The snapshots of replicated volumes stay, as they are the
    recovery point; volumes in no datastore are backed up from theirs, which are temporary.
    """

    name = "replication"
    settings = Settings
    transfer = "replication"
    captures_members_that_are_off = True
    captures_a_part = False
    captures_as_they_run = True

    def advise(self, facts: Facts) -> Iterator[Remark]:
        yield from window_remarks(facts)
        yield from shared_remarks(facts)
        if not facts.replicated:
            words = (
                "none of its volumes is on a storage of antipode.yaml that replicates to another"
                " site of it"
            )
            yield Remark(Weight.RULES_OUT, words)
            return
        words = f"{facts.replicated} of its {facts.volumes} volumes are on storage that replicates"
        every = facts.replicated == facts.volumes
        yield Remark(Weight.FOR if every else Weight.AGAINST, words)
        if facts.rpo_s is not None and facts.rpo_s < FREQUENT_S:
            words = f"an RPO of {facts.rpo_s:.0f} s: storage carries changes all the time"
            yield Remark(Weight.FOR, words)
        carries_s = facts.carries_in_s()
        if carries_s is not None and carries_s > (facts.rpo_s or 0.0) / 2:
            yield Remark(Weight.FOR, "it changes faster than backups bring it away in time")
        if facts.rto_s is not None and (facts.restores_in_s or 0.0) > facts.rto_s:
            words = "volumes are cloned and not restored, which takes the time of a recovery"
            yield Remark(Weight.FOR, words)

    def cost(self, facts: Facts) -> Cost:
        # quiesce and unquiesce; a snapshot of each volume, and its removal as it expires
        return Cost(2 * facts.members + 2 * facts.volumes, facts.replicated < facts.volumes)

    def backs_up(self, vnf: Vnf) -> bool:
        return all(d.volumes != "all" for d in vnf.datastores_of_volumes.values())

    def avoids(self, settings: Model) -> Sequence[DailyHours]:
        return _settings(settings).quiesce.avoid

    def budget_s(self, settings: Model) -> float | None:
        return _settings(settings).quiesce.budget

    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        yield from checks.problems(protecting, topology, _settings(protecting.settings).quiesce)
        if not protecting.vnf.datastores:
            yield (
                f"VNF {protecting.vnf.vnf} has no datastores, so nothing of it is replicated; add"
                " datastores to its file, or choose another option"
            )
            return
        for volume in topology.shared_volumes:
            yield (
                f"volume {volume} is attached to several members, and this option brings no such"
                " volume back; choose another"
            )
        try:
            storages_of(protecting.vnf, topology.volumes)
        except InvalidInput as error:
            yield str(error)

    def label(self, protecting: Protecting, topology: Topology) -> Consistency:
        return Terms(bare_of(protecting, topology)).label(topology)

    def warnings(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        yield from checks.warnings(protecting, topology)

    def capture(self, protecting: Protecting, topology: Topology) -> Capture:
        p = protecting
        quiesce = _settings(p.settings).quiesce
        marked, terms = marks(p.run, p.run), Terms.of(p, topology)
        return window.quiesced_snapshots(
            p.site, topology, quiesce, marked, p.ledger, p.timeline, terms
        )

    def release(self, protecting: Protecting, kept: Callable[[], Collection[str]]) -> None:
        """Remove the snapshots that were only backed up. Which these are the point says: by now a
        volume may have another name than the datastore has.
        """
        p = protecting
        if not self.backs_up(p.vnf):
            return
        needed = kept()
        snapshots.remove_all(
            p.site, lambda s: carries(s, p.run) and s["id"] not in needed, p.timeline
        )

    def remove_orphans(self, site: Site, runs: Collection[str], timeline: Timeline) -> None:
        """All snapshots are the transfer's, which knows those that recovery points need."""


def _settings(settings: Model) -> Settings:
    assert isinstance(settings, Settings)
    return settings


OPTION = Replication()

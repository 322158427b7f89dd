# SPDX-License-Identifier: Apache-2.0
"""Option 1: the whole VNF is quiesced, snapshotted at once and unquiesced."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from antipode.model.advice import (
    Cost,
    Facts,
    Remark,
    Weight,
    backup_remarks,
    window_remarks,
)
from antipode.model.base import Model
from antipode.model.capture import Capture, Consistency
from antipode.model.marks import marks
from antipode.model.schedule import DailyHours
from antipode.model.steps import Timeline
from antipode.model.topology import Topology
from antipode.protect import snapshots, tracked, volume_groups
from antipode.protect.option import Option, Protecting
from antipode.protect.quiesced_snapshot import checks, window
from antipode.protect.quiesced_snapshot.settings import Settings
from antipode.protect.quiesced_snapshot.terms import Terms, bare_of

if TYPE_CHECKING:
    from antipode.cloud.site import Site


class QuiescedSnapshot(Option):
    name = "quiesced-snapshot"
    settings = Settings
    transfer = "streams-and-backups"
    captures_members_that_are_off = True
    captures_encrypted = True
    captures_unattached = True
    captures_as_they_run = True

    def streams(self, settings: Model) -> bool:
        assert isinstance(settings, Settings)
        return settings.transfer == "change_stream"

    def avoids(self, settings: Model) -> Sequence[DailyHours]:
        assert isinstance(settings, Settings)
        return settings.quiesce.avoid

    def budget_s(self, settings: Model) -> float | None:
        assert isinstance(settings, Settings)
        return settings.quiesce.budget

    def advise(self, facts: Facts) -> Iterator[Remark]:
        yield from window_remarks(facts)
        yield from backup_remarks(facts)
        if facts.members > 1 and not facts.without_agent:
            yield Remark(Weight.FOR, "the VNF needs to know nothing of replication")

    def cost(self, facts: Facts) -> Cost:
        # quiesce and unquiesce; snapshot, backup, and the removal of the snapshot
        return Cost(2 * facts.members + 3 * facts.volumes, True)

    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        yield from checks.problems(protecting, topology, _settings(protecting).quiesce)

    def label(self, protecting: Protecting, topology: Topology) -> Consistency:
        bare = bare_of(protecting, topology)
        group = volume_groups.standing(protecting.site, topology.volumes).group if bare else None
        return Terms(bare, group=group).label(topology)

    def warnings(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        yield from checks.warnings(protecting, topology)

    def capture(self, protecting: Protecting, topology: Topology) -> Capture:
        p = protecting
        group = volume_groups.standing(p.site, topology.volumes).group
        marked, terms = marks(p.run, p.run), Terms.of(p, topology, group)
        return window.quiesced_snapshots(
            p.site, topology, _settings(p).quiesce, marked, p.ledger, p.timeline, terms
        )

    def release(self, protecting: Protecting, kept: Callable[[], Collection[str]]) -> None:
        p = protecting
        snapshots.remove_snapshots(p.site, p.run, p.timeline)
        if p.streams and (needed := kept()):
            tracked.drop_older(p.site, p.vnf.vnf, needed, p.timeline)

    def remove_orphans(self, site: Site, runs: Collection[str], timeline: Timeline) -> None:
        snapshots.remove_snapshots_of(site, runs, timeline)


def _settings(protecting: Protecting) -> Settings:
    assert isinstance(protecting.settings, Settings)
    return protecting.settings


OPTION = QuiescedSnapshot()

# SPDX-License-Identifier: Apache-2.0
"""Option 2: Nova makes an image of one member after another, and the VNF stays up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from antipode.model.advice import Cost, Facts, Remark, Weight, backup_remarks, shared_remarks
from antipode.model.base import Model
from antipode.model.capture import Capture, Consistency
from antipode.model.steps import Timeline
from antipode.model.topology import Topology
from antipode.model.vnf import Vnf
from antipode.protect import snapshots
from antipode.protect.option import Option, Protecting
from antipode.protect.server_snapshot import checks, holdings, pace
from antipode.protect.server_snapshot.image_booted import ImageBootedCapture
from antipode.protect.server_snapshot.member import MemberCapture
from antipode.protect.server_snapshot.order import members_after, members_in_order
from antipode.protect.server_snapshot.settings import Settings

if TYPE_CHECKING:
    from antipode.cloud.site import Site


class ServerSnapshot(Option):
    name = "server-snapshot"
    settings = Settings
    transfer = "images-and-backups"
    captures_members_that_are_off = True
    captures_root_disks = True

    def advise(self, facts: Facts) -> Iterator[Remark]:
        yield from shared_remarks(facts)
        if facts.without_agent:
            words = (
                f"{facts.without_agent} members have no guest agent: they are captured without"
                " being quiesced, with `quiesce: {required: false}` only"
            )
            yield Remark(Weight.AGAINST, words)
        if facts.members == 1:
            yield Remark(Weight.FOR, "it has one member, and needs no moment for several")
        else:
            words = (
                f"its {facts.members} members are captured one after another: a recovery point is"
                " of no one moment"
            )
            yield Remark(Weight.AGAINST, words)
        if facts.has_roles:
            yield Remark(Weight.FOR, "standby members are captured first, and the VNF stays up")
        if facts.root_disks:
            words = f"it protects the {facts.root_disks} root disks on hypervisors"
            yield Remark(Weight.FOR, words)
        if facts.has_add_on is False:
            yield Remark(Weight.FOR, "it needs no quiesce add-on at the active site")
        yield from backup_remarks(facts)

    def cost(self, facts: Facts) -> Cost:
        # an image and its removal; backup of each volume, and the removal of its snapshot
        return Cost(2 * facts.members + 2 * facts.volumes, True)

    def batches(self, vnf: Vnf, settings: Model) -> list[list[str]]:
        return [[member] for member in members_in_order(vnf)]

    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        p = protecting
        yield from checks.problems(p, topology, _settings(p).quiesce)
        yield from pace.silent_members(p, topology)

    def label(self, protecting: Protecting, topology: Topology) -> Consistency:
        p = protecting
        return checks.label(topology, _settings(p).quiesce)

    def warnings(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        p = protecting
        yield from checks.warnings(p.site, p.vnf, topology, _settings(p).quiesce)

    def await_turn(
        self, protecting: Protecting, topology: Topology, batch: Collection[str]
    ) -> None:
        if members_in_order(protecting.vnf)[0] not in batch:  # the check has just seen them
            pace.await_others(protecting, topology, batch)

    def capture(self, protecting: Protecting, topology: Topology) -> Capture:
        (server,) = topology.servers
        p = protecting
        quiesce = _settings(p).quiesce
        taken = (
            MemberCapture(p.site, server, p.run, quiesce, p.ledger, p.timeline).capture()
            if server.root_disk is None
            else ImageBootedCapture(p, server, topology, quiesce).capture()
        )
        member = next(m for m in p.vnf.members if m.server in (server.name, server.id))
        following = members_after(p.vnf, member.server)
        if following and not server.is_off:
            pace.await_health(p, member, server, following)
        return taken

    def release(self, protecting: Protecting, kept: Callable[[], Collection[str]]) -> None:
        p = protecting
        self.remove_orphans(p.site, {p.run}, p.timeline)

    def remove_orphans(self, site: Site, runs: Collection[str], timeline: Timeline) -> None:
        try:
            holdings.remove_of_runs(site, runs, timeline)
        finally:  # of members that boot from an image
            snapshots.remove_snapshots_of(site, runs, timeline)


def _settings(protecting: Protecting) -> Settings:
    assert isinstance(protecting.settings, Settings)
    return protecting.settings


OPTION = ServerSnapshot()

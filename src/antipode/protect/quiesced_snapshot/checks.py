# SPDX-License-Identifier: Apache-2.0
"""Whether a VNF can be quiesced and snapshotted: everything that would fail later is found before
anything is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.model.topology import Topology
from antipode.protect import guest_agents, snapshot_quotas, volume_groups
from antipode.protect.option import Protecting
from antipode.protect.quiesced_snapshot.settings import Quiesce
from antipode.protect.quiesced_snapshot.terms import as_they_run


def problems(protecting: Protecting, topology: Topology, quiesce: Quiesce) -> Iterator[str]:
    """Check the quiesce add-on, the guest agents and the quotas for snapshots."""
    site = protecting.site
    bare = {s.id for s in as_they_run(protecting, topology)}
    running = [s for s in topology.servers if not s.is_off and s.id not in bare]
    if running:
        yield from _add_on(site, quiesce)
    yield from guest_agents.problems(protecting, topology.model_copy(update={"servers": running}))
    yield from snapshot_quotas.problems(topology.volumes, site)


def warnings(protecting: Protecting, topology: Topology) -> Iterator[str]:
    """What limits the protection and does not keep it from being made."""
    if bare := as_they_run(protecting, topology):
        names = ", ".join(s.name for s in bare)
        volumes = topology.volumes
        if len(volumes) > 1 and (
            why_not := volume_groups.standing(protecting.site, volumes).why_not
        ):
            yield f"its volumes are not snapshotted at one moment: {why_not}"
        why = "no guest agent" if protecting.quiesces else "quiesced in no hours to avoid"
        yield (
            f"{names}: {why}, so they are captured as they run, without being quiesced, as the VNF"
            f" file accepts ({protecting.accepts})"
        )


def _add_on(site: Site, quiesce: Quiesce) -> Iterator[str]:
    support = site.compute.quiesce_support()
    if support is None:
        yield (
            f"{site.name} cannot quiesce servers: install the nova-quiesce add-on for its nova-api"
        )
    else:
        yield from timeout_problems(site, support, quiesce.timeout)


def timeout_problems(site: Site, support: Json, timeout_s: float) -> Iterator[str]:
    """Whether the quiesce add-on of a site allows a window to be so long."""
    if timeout_s > support["maximum_timeout"]:
        yield (
            f"quiesce timeout {timeout_s:g} s is longer than {site.name} allows, "
            f"{support['maximum_timeout']:g} s"
        )

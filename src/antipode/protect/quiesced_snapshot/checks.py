# SPDX-License-Identifier: Apache-2.0
"""Whether a VNF can be quiesced and snapshotted: everything that would fail later is found before
anything is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.model.topology import Topology
from antipode.protect import guest_agents, snapshot_quotas
from antipode.protect.option import Protecting
from antipode.protect.quiesced_snapshot.settings import Quiesce


def problems(protecting: Protecting, topology: Topology, quiesce: Quiesce) -> Iterator[str]:
    """Check the quiesce add-on, the guest agents and the quotas for snapshots."""
    site = protecting.site
    running = [s for s in topology.servers if not s.is_off]
    if running:
        yield from _add_on(site, quiesce)
    yield from guest_agents.problems(protecting, topology.model_copy(update={"servers": running}))
    yield from snapshot_quotas.problems(topology.volumes, site)


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

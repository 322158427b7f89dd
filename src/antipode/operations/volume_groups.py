# SPDX-License-Identifier: Apache-2.0
"""Preparing the active site of a VNF: all its volumes in one group that is snapshotted at once."""

from __future__ import annotations

from dataclasses import dataclass

from antipode.engine.deployment import Deployment
from antipode.errors import Busy
from antipode.model.steps import Unrecorded
from antipode.operations.inspect import status
from antipode.protect import volume_groups
from antipode.protect.partial import Part, choose
from antipode.protect.volume_groups import Prepared
from antipode.topology import discovery


@dataclass(frozen=True)
class PreparedAt:
    site: str
    prepared: Prepared


def prepare(deployment: Deployment, name: str) -> PreparedAt:
    """Have all captured volumes of a VNF in one group at its active site; safe to repeat.

    Raises:
        NotFound: the VNF is not known here, or a member is not there.
        Busy: a run of it is under way.
        PreflightFailed: the storage cannot do it, or the user may not; nothing was made.
        AntipodeError: Cinder refuses something, or does not answer.
    """
    vnf = deployment.vnfs.get(name)
    active = status(deployment, name).state.active_site
    if row := next(iter(deployment.runs.open(name)), None):
        raise Busy(f"{row.id} of {name} has not ended; its volumes stay as they are meanwhile")
    site = deployment.site(active, vnf)
    known = discovery.resolve(vnf, site)
    part = Part(known, choose(known, site).untouched if known.capture else {})
    topology = part.of(discovery.discover(known, site))
    return PreparedAt(active, volume_groups.prepare(site, name, topology.volumes, Unrecorded()))

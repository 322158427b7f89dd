"""What a VNF looks like: as it runs at its primary, or as the newest recovery point has it when the
primary does not answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from antipode.engine.deployment import Deployment
from antipode.errors import NotFound, SiteUnreachable
from antipode.model.topology import Topology
from antipode.model.vnf import Vnf
from antipode.topology import discovery
from antipode.vault import points


@dataclass(frozen=True)
class Look:
    vnf: Vnf
    topology: Topology
    source: str
    """where the topology is from, in words"""


def look(deployment: Deployment, name: str) -> Look:
    """The VNF and its topology.

    Raises:
        NotFound: it is neither known here nor has it a recovery point.
        SiteUnreachable: the primary does not answer, and there is no recovery point to show
            instead.
    """
    vnf = deployment.vnfs.find(name)
    if vnf is None:
        return _from_vault(deployment, name, "it is not known here")
    try:
        return Look(
            vnf, discovery.discover(vnf, deployment.site(vnf.primary)), f"live at {vnf.primary}"
        )
    except SiteUnreachable as error:
        try:
            return _from_vault(deployment, name, str(error))
        except NotFound:
            raise error from None


def _from_vault(deployment: Deployment, name: str, reason: str) -> Look:
    point = points.read(deployment.vault, name)
    return Look(point.vnf, point.topology, f"recovery point {point.id}, because {reason}")

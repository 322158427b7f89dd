# SPDX-License-Identifier: Apache-2.0
"""Looking whether a VNF could be recovered at a site now."""

from __future__ import annotations

from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Observer
from antipode.errors import InvalidInput
from antipode.runs import precheck as run_kind
from antipode.store.tables import RunRow

Json = dict[str, Any]


def request(deployment: Deployment, vnf: str, to: str | None = None) -> RunRow:
    """The run that looks; neither kept nor begun.

    Args:
        to: where the VNF would be recovered; by default its first site at which it is not active.

    Raises:
        NotFound: there is no such site, or none was named and this host has no file of the VNF.
        InvalidInput: the VNF is not recovered at this site.
    """
    site = to or run_kind.default_site(deployment, vnf)
    deployment.config.site(site)
    local = deployment.vnfs.find(vnf)
    if local is not None and site not in local.sites:
        raise InvalidInput(f"{site} is no site of {vnf}: {', '.join(local.sites)}")
    return run_kind.requested(vnf, site)


def precheck(deployment: Deployment, row: RunRow, observer: Observer) -> Json:
    """Look; a record with the verdict (green, yellow, red) and the findings.

    Raises:
        Busy: another precheck of the VNF is under way.
        AntipodeError: it stopped before it had looked at everything.
    """
    with deployment.claims.begin(row) as claim:
        return execute(deployment, run_kind.KIND, claim, observer)

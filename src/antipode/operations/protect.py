# SPDX-License-Identifier: Apache-2.0
"""Making a recovery point of a VNF."""

from __future__ import annotations

import logging
from typing import Any

from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Observer
from antipode.errors import AntipodeError, Stopped
from antipode.operations.expiry import expire
from antipode.runs import protect as run_kind
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
Json = dict[str, Any]


def request(
    deployment: Deployment, name: str, *, option: str | None = None, full: bool = False
) -> RunRow:
    """The run that is asked for now; neither kept nor begun.

    Args:
        option: which of the VNF's protections; the first by default.
        full: whether every volume is transferred whole.

    Raises:
        NotFound: the VNF is not known here.
        InvalidInput: it has no such protection.
        Busy: a recovery of it has not ended, here or on another host.
        VaultError, SiteUnreachable: where it is active cannot be read from its vaults.
    """
    vnf = deployment.vnfs.get(name)
    run_kind.no_run_in_the_way(deployment, name)
    state = activity.read(deployment, vnf)
    activity.must_be_active_at(state, state.active_site)
    return run_kind.requested(vnf, state, option=option, full=full)


def protect(
    deployment: Deployment,
    name: str,
    observer: Observer,
    *,
    option: str | None = None,
    full: bool = False,
) -> Json:
    """Make a recovery point of a VNF; a record of it. Arguments as for `request`.

    Older points that have expired by then are removed. That this fails is no failure: it is logged,
    and the next expiry continues.

    Raises:
        Busy: another protection of the VNF is under way, or a recovery of it has not ended.
        AntipodeError: it could not be made; then nothing is frozen, and there is no recovery point.
    """
    row = request(deployment, name, option=option, full=full)
    with deployment.claims.begin(row) as claim:
        record = execute(deployment, run_kind.KIND, claim, observer)
    return record | {"expired": _expire(deployment, name, observer)}


def _expire(deployment: Deployment, name: str, observer: Observer) -> list[str] | None:
    """The recovery points that expired; None if that failed."""
    try:
        return list(expire(deployment, name, observer, again=False)["expired"])
    except Stopped as error:
        LOG.warning("the recovery point is made; expired ones are removed later: %s", error)
    except AntipodeError as error:
        LOG.warning("the recovery point is made, but expired ones could not be removed: %s", error)
    return None

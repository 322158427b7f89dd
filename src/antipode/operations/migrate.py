# SPDX-License-Identifier: Apache-2.0
"""Moving a VNF to another site while both answer: plan, confirm, execute."""

from __future__ import annotations

from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Observer
from antipode.operations.approvals import carried_out, wanted
from antipode.runs import migrate as run_kind
from antipode.runs import migrate_preparation
from antipode.runs.migrate import Asked
from antipode.runs.migrate_preparation import Prepared
from antipode.store.tables import RunRow

__all__ = ["Prepared", "migrate", "prepare", "request"]
Json = dict[str, Any]


def prepare(
    deployment: Deployment,
    vnf: str,
    to: str | None = None,
    option: str | None = None,
    *,
    back: bool = False,
) -> Prepared:
    """Plan a migration, as `migrate_preparation.prepare`."""
    return migrate_preparation.prepare(deployment, vnf, to, option, back=back)


def request(prepared: Prepared) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun."""
    asked = Asked(
        prepared.option,
        None if prepared.removes is None else prepared.removes.ids,
        [planned.step for planned in prepared.steps],
        prepared.returns,
        prepared.vnf.digest,
    )
    return wanted(run_kind.requested(prepared.state, prepared.to, asked), [prepared.vnf])


def migrate(deployment: Deployment, row: RunRow, observer: Observer) -> Json:
    """Move the VNF; a record of it.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: another run of the VNF is under way, or it has moved since.
        AntipodeError: it stopped; the copy at the other site was removed, and the members were
            switched on again, unless the error says otherwise.
    """
    return carried_out(deployment, run_kind.KIND, row, observer)

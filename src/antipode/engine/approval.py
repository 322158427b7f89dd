# SPDX-License-Identifier: Apache-2.0
"""Whether a run may begin: as many others than its author as it needs have approved its request as
it is.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from antipode.errors import NotApproved
from antipode.identity import person
from antipode.store.tables import RunRow

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment


def plan_of(row: RunRow) -> str:
    """The SHA-256 of all that was asked for, and of what its author was shown: an approval covers
    this and nothing else.
    """
    asked = row.request or {}
    covered = asked if row.shown is None else [asked, row.shown]
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def must_be_approved(deployment: Deployment, row: RunRow) -> None:
    """See that a run that a process has claimed was approved.

    Raises:
        NotApproved: it was not, or its request was changed since.
    """
    if not row.approvals_needed:
        return
    plan, author = plan_of(row), person(row.author or "")
    counted = [a for a in deployment.approvals.of(row.id) if a.plan == plan and a.person != author]
    if len(counted) < row.approvals_needed:
        raise NotApproved(
            f"run {row.id} needs {row.approvals_needed} approvals of what it is to do now, and has"
            f" {len(counted)}; nothing was changed. Plan it again: a changed plan needs a new"
            " approval"
        )

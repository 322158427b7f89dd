# SPDX-License-Identifier: Apache-2.0
"""What drills and verifications have compared with what was captured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antipode.store.tables import RunRow


def findings(row: RunRow) -> list[Mapping[str, Any]]:
    """What a run has compared, a finding each; its `ok` is None where that could not be done."""
    found = row.result.get("content") or row.result.get("volumes")
    return [f for f in found if isinstance(f, dict)] if isinstance(found, list) else []


def is_proven(row: RunRow) -> bool | None:
    """Whether all that a run could compare is what was captured; None: it could compare nothing."""
    judged = [f["ok"] for f in findings(row) if f.get("ok") is not None]
    return all(judged) if judged else None

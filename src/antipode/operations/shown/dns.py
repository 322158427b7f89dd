# SPDX-License-Identifier: Apache-2.0
"""The plan of a switch of DNS records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antipode.model.dns import DnsChange
    from antipode.operations.dns import Prepared


def record(prepared: Prepared) -> dict[str, Any]:
    """The plan as a record."""
    return {
        "vnf": prepared.state.vnf,
        "site": prepared.state.active_site,
        "recovery_point": prepared.recovery_point,
        "changes": changes(prepared.changes),
        "problems": prepared.problems,
        "warnings": prepared.warnings,
    }


def lines(prepared: Prepared) -> Iterator[str]:
    """The plan for the operator, a line each."""
    yield str(prepared.state)
    yield from (f"  {one}" for one in prepared.changes)
    yield from (f"  WARNING: {line}" for line in (*prepared.problems, *prepared.warnings))


def changes(found: Sequence[DnsChange]) -> list[dict[str, Any]]:
    """Changes as records."""
    return [
        {
            "record": one.key,
            "provider": one.provider,
            "old": None if one.old is None else one.old.model_dump(mode="json"),
            "old_is_known": one.is_known,
            "new": one.new.model_dump(mode="json"),
        }
        for one in found
    ]

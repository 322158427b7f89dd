# SPDX-License-Identifier: Apache-2.0
"""An event: something that has happened to a VNF, a run, a site or a vault, as a CloudEvent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SOURCE = "antipode"


@dataclass(frozen=True)
class Event:
    """Something that has happened."""

    id: str
    """the same from every host that notices it"""
    type: str
    """such as `dr.failover.start`"""
    subject: str
    """such as `vnf/hlr`"""
    at: float
    """seconds since the epoch"""
    data: Mapping[str, Any]

    def document(self, source: str = SOURCE) -> dict[str, Any]:
        """It in the JSON format of CloudEvents 1.0.

        Args:
            source: a URI reference that tells one installation from another.
        """
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": source,
            "type": self.type,
            "subject": self.subject,
            "time": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds"),
            "datacontenttype": "application/json",
            "data": dict(self.data),
        }

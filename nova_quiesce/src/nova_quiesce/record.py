# SPDX-License-Identifier: Apache-2.0
"""The record that a server is quiesced: kept with the server in its cell's database, where every nova-api process finds it."""

from __future__ import annotations

import datetime
import json
import uuid
from dataclasses import asdict, dataclass
from typing import Any, Optional

from oslo_utils import timeutils

# A key of the instance's system metadata: no API shows it, no image inherits it, and it goes away with the server.
KEY = "nova_quiesce"


@dataclass(frozen=True)
class FreezeRecord:
    """One quiesce of one server. The token tells it from a later quiesce of the same server; times are UTC, ISO 8601."""

    token: str
    since: str
    expires_at: str

    @classmethod
    def beginning_now(cls, timeout: int) -> FreezeRecord:
        """Return the record of a quiesce that begins now and ends by itself in `timeout` seconds."""
        now = timeutils.utcnow().replace(microsecond=0)
        return cls(uuid.uuid4().hex, _iso(now), _iso(now + datetime.timedelta(seconds=timeout)))

    @classmethod
    def of(cls, instance: Any) -> Optional[FreezeRecord]:  # noqa: UP045 - the oldest Python of a supported Nova
        """Return the record that `instance`, as it was loaded, carries; None when it is not quiesced."""
        stored = instance.system_metadata.get(KEY)
        return cls(**json.loads(stored)) if stored else None

    @property
    def expired(self) -> bool:
        """Whether the time after which the server should have been thawed is over."""
        return self.expires_at < _iso(timeutils.utcnow())

    def write(self, instance: Any) -> None:
        """Store this record with `instance`, over any other."""
        instance.system_metadata[KEY] = json.dumps(asdict(self))
        instance.save()


def erase(instance: Any) -> None:
    """Remove the record from `instance`, if it has one."""
    if instance.system_metadata.pop(KEY, None):
        instance.save()


def _iso(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

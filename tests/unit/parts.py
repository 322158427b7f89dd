# SPDX-License-Identifier: Apache-2.0
"""The contexts that the parts of a protection and of a recovery work with, over a fake cloud."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.vnf import Vnf
from antipode.protect.option import Protecting
from antipode.protect.quiesced_snapshot.settings import Settings
from antipode.recover.existing import Found
from antipode.recover.recovery import Recovery
from tests.unit.fakecloud import FakeCloud, FakeLedger, FakeTimeline

POOL = ThreadPoolExecutor(4, "volume")


class NoLimit(nullcontext[None]):
    """Slots for everybody."""

    def at(self, _place: int) -> NoLimit:
        return self

    def hold(self) -> NoLimit:
        return self


def protecting(cloud: FakeCloud, vnf: Vnf, run: str, **changes: Any) -> Protecting:
    """The context of a protection by option 1."""
    values: dict[str, Any] = {
        "run": run,
        "vnf": vnf,
        "settings": Settings.model_validate(vnf.protections[0].settings),
        "site": cloud.site,
        "ledger": FakeLedger(),
        "timeline": FakeTimeline(),
        "store": None,
        "slots": NoLimit(),
        "at_once": 8,
    }
    return Protecting(**{**values, **changes})


def recovery(
    cloud: FakeCloud, point: RecoveryPoint, plan: RecoveryPlan, **changes: Any
) -> Recovery:
    """The context of a recovery, which has looked at the site just now."""
    values: dict[str, Any] = {
        "run": "run",
        "point": point,
        "plan": plan,
        "site": cloud.site,
        "found": Found(cloud.site),
        "slots": NoLimit(),
        "pool": POOL,
        "timeline": FakeTimeline(),
    }
    return Recovery(**{**values, **changes})

# SPDX-License-Identifier: Apache-2.0
"""Volumes from the newest data that has arrived of them: as from states of replicated storage, once
all replicas are promoted (`antipode.recover.heads`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from antipode.errors import AntipodeError, Stopped
from antipode.model.point import RecoveryPoint
from antipode.recover import heads
from antipode.recover.recovery import Recovery
from antipode.recover.sources.replicated import FromReplicatedStates, back_ends_down

if TYPE_CHECKING:
    from antipode.cloud.site import Site


class FromHeads(FromReplicatedStates):
    kind = "replicated-head"

    def check(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        yield from heads.problems(point, site)
        yield from back_ends_down(point, site)

    def settle(self, recovery: Recovery) -> list[str]:
        try:
            left = super().settle(recovery)
        except Stopped:
            raise
        except AntipodeError as error:
            left = [str(error)]
        # whatever is left: a replica that stays writable is a second original
        return [*left, *heads.settled(recovery)]


PROVIDER = FromHeads()

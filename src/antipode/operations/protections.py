# SPDX-License-Identifier: Apache-2.0
"""The protections of VNFs with their schedules: listed, paused, resumed."""

from __future__ import annotations

from dataclasses import dataclass

from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput
from antipode.model.vnf import Protection, Vnf
from antipode.runs import protect
from antipode.store import database
from antipode.store.tables import ScheduleRow


@dataclass(frozen=True)
class Scheduled:
    """A protection, and how far its schedule has come; moments are seconds since the epoch."""

    vnf: str
    protection: Protection
    next_at: float | None
    """when the next run begins, at the earliest; None without a schedule, or while it is paused"""
    progress: ScheduleRow | None
    """None where no service has followed the schedule yet"""

    @property
    def paused_at(self) -> float | None:
        return self.progress.paused_at if self.progress else None


def protections(deployment: Deployment, name: str | None = None) -> list[Scheduled]:
    """The protections of all VNFs that were added here and can be read, or of one of them.

    Raises:
        NotFound: the VNF is not known here.
        InvalidInput: its stored definition cannot be read.
    """
    vnfs = deployment.vnfs.all() if name is None else [deployment.vnfs.get(name)]
    now, known = database.now(deployment.database), deployment.schedules.all()
    return [
        _scheduled(vnf, protection, known.get((vnf.vnf, protection.option)), now)
        for vnf in vnfs
        for protection in vnf.protections
    ]


def _scheduled(
    vnf: Vnf, protection: Protection, progress: ScheduleRow | None, now: float
) -> Scheduled:
    schedule, next_at = protection.schedule, None
    if schedule is not None and (progress is None or progress.paused_at is None):
        delay_s = schedule.delay_s(f"{vnf.vnf}/{protection.option}")
        next_at = schedule.slot_after(now - delay_s) + delay_s
    return Scheduled(vnf.vnf, protection, next_at, progress)


def pause(
    deployment: Deployment, name: str, option: str | None = None, because: str | None = None
) -> str | None:
    """Have the service begin no run for the protections of a VNF, until they are resumed.

    Args:
        option: which of them; by default all that have a schedule.
        because: why, for people.

    Returns:
        the run that is under way, which is not stopped, if there is one.

    Raises:
        NotFound, InvalidInput: the VNF is not known here, or has no such protection with a
            schedule.
    """
    for protection in _with_schedules(deployment, name, option):
        deployment.schedules.pause((name, protection.option), because)
    return protect.under_way(deployment, name)


def resume(deployment: Deployment, name: str, option: str | None = None) -> list[str]:
    """Have the service follow the schedules of a VNF again, from the next slot on; the options that
    were paused. Arguments and errors as for `pause`.
    """
    return [
        protection.option
        for protection in _with_schedules(deployment, name, option)
        if deployment.schedules.resume((name, protection.option))
    ]


def _with_schedules(deployment: Deployment, name: str, option: str | None) -> list[Protection]:
    vnf = deployment.vnfs.get(name)
    wanted = [p for p in vnf.protections if p.schedule is not None and option in (None, p.option)]
    if not wanted:
        of = f"protection {option}" if option else "protection"
        raise InvalidInput(
            f"VNF {name} has no {of} with a schedule; see: antipode protection list {name}",
            resource=f"VNF {name}",
        )
    return wanted

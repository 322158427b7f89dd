# SPDX-License-Identifier: Apache-2.0
"""Options: the ways to capture the state of a VNF, and all that a capture works with."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import ValidationError

from antipode.errors import InvalidInput
from antipode.model.advice import Cost, Facts, Remark
from antipode.model.base import Model
from antipode.model.capture import OF_RUNNING_MEMBERS, Capture, Consistency
from antipode.model.datastore import StorageAt
from antipode.model.full_every import DEFAULT_FULL_EVERY, FullEvery
from antipode.model.schedule import DailyHours
from antipode.model.steps import Timeline
from antipode.model.topology import Topology
from antipode.model.vnf import Protection, Vnf
from antipode.registry import Registry

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site
    from antipode.model.point import RecoveryPoint


class FreezeLedger(Protocol):
    """The servers that may be frozen, kept so that another process can unquiesce them."""

    def freezing(self, site: str, server_id: str, server: str, lasts_s: float) -> str:
        """Note that a member is about to be frozen, and must be unquiesced in so many seconds.

        The note is durable when this returns its key.
        """
        ...

    def thawed(self, row: str) -> None:
        """Note that the member is unquiesced."""
        ...

    def due(self, row: str) -> None:
        """Note that the member must be unquiesced from now on, whatever time it was given."""
        ...

    def is_frozen_rightly(self, site: str, server_id: str) -> bool:
        """Whether a server may be frozen now by a window, of any host, whose time is not over."""
        ...


@dataclass(frozen=True)
class Protecting:
    """All that the parts of one protection work with."""

    run: str
    """the run; its id is the key of every resource that it creates"""
    vnf: Vnf
    settings: Model
    """of the option"""
    site: Site
    """the active site"""
    ledger: FreezeLedger
    timeline: Timeline
    store: Objects | None
    """the backup store, if one is configured"""
    slots: AbstractContextManager[None]
    """entered for each volume while its bytes are transferred, by several threads at once"""
    at_once: int
    """how many volumes this run transfers at once"""
    stalls_after_s: Callable[[int], float] = lambda size_gib: math.inf
    """by the size of a volume in GiB: seconds after which a transfer without any change is given up
    """
    accepts: Consistency | None = None
    """the consistency that a point must have at least; None: whatever can be had"""
    quiesces: bool = True
    """whether members that run are quiesced at all: not by a run of a schedule in hours to avoid"""
    full: bool = False
    """whether all bytes are transferred, whatever the other site has already"""
    full_every: FullEvery = DEFAULT_FULL_EVERY
    """when a chain ends"""
    no_room: str = ""
    """why all chains end now, so that the quota has room for the next points; empty if they go on
    """
    asks_guests: bool = True
    """whether guest agents may be asked by an unquiesce: not while another run protects the VNF"""
    go_on: Callable[[], None] = lambda: None
    """called in waits; raises when the run must stop"""
    elsewhere: Callable[[], Sequence[Site]] = lambda: ()
    """connects to the other sites of the VNF, for that which must be there beforehand"""
    streams: bool = False
    """whether the changes that the storage tells of are sent, where it does, and no backups made"""
    streamed: Callable[[Collection[str]], Mapping[str, RecoveryPoint]] = lambda volumes: {}
    """of volumes, by id: the newest recovery point that has a change stream of each, if any has"""
    storages_at: Callable[[str], Mapping[str, StorageAt]] = lambda site: {}
    """the storages of the configuration at a site, by name; no service is asked"""


class Option(ABC):
    """One way to capture a VNF. An instance has no state: all of it is in `Protecting`."""

    name: ClassVar[str]
    settings: ClassVar[type[Model]]
    transfer: ClassVar[str] = "cinder-backup"
    """how what it captures reaches the other site; see `antipode.transfer`"""
    captures_members_that_are_off: ClassVar[bool] = False
    captures_root_disks: ClassVar[bool] = False
    """whether a member may have its root disk on the hypervisor, as it boots from an image"""

    captures_encrypted: ClassVar[bool] = False
    """whether encrypted volumes are captured, where their keys can be kept at the backup sites"""

    captures_unattached: ClassVar[bool] = False
    """whether volumes of no server are captured with the members"""

    captures_as_they_run: ClassVar[bool] = False
    """whether it heeds `quiesces` of `Protecting`"""

    captures_a_part: ClassVar[bool] = True
    """whether members may be left out, which are recovered from those that are captured"""

    def batches(self, vnf: Vnf, settings: Model) -> list[list[str]]:
        """The members by the name in the VNF file, in batches that are captured one after another.

        All members in one batch by default.
        """
        return [[m.server for m in vnf.members]]

    def backs_up(self, vnf: Vnf) -> bool:
        """Whether any bytes of the VNF go to a backup store."""
        return True

    def streams(self, settings: Model) -> bool:
        """Whether change streams are wanted in the place of backups."""
        return False

    def avoids(self, settings: Model) -> Sequence[DailyHours]:
        """Hours of the day at which a schedule has no member quiesced; by its time zone."""
        return ()

    def budget_s(self, settings: Model) -> float | None:
        """How long members should be frozen at most, in seconds; None where nothing is said."""
        return None

    def advise(self, facts: Facts) -> Iterator[Remark]:
        """What speaks for this option and against it, for a VNF of which this was measured."""
        yield from ()

    def cost(self, facts: Facts) -> Cost:
        """What one recovery point takes."""
        return Cost(0, True)

    @abstractmethod
    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        """Look for everything that would fail later; one sentence for each problem."""

    def label(self, protecting: Protecting, topology: Topology) -> Consistency:
        """The best consistency that a point can have as things are now."""
        return "application"

    def warnings(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        """That which keeps nothing from being protected, and the operator should know; none by
        default.
        """
        return iter(())

    def await_turn(
        self, protecting: Protecting, topology: Topology, batch: Collection[str]
    ) -> None:
        """Return when a batch may be captured; at once by default.

        Args:
            topology: the whole VNF.
            batch: its members, by the name in the VNF file.

        Raises:
            ResourceFailed: neither this batch nor those that follow must be captured now.
        """
        return

    @abstractmethod
    def capture(self, protecting: Protecting, topology: Topology) -> Capture:
        """Capture a batch.

        Resources that an earlier try of the same run created are found by the run's id and used
        or removed, so that nothing is made twice. Whatever fails, no member stays frozen.

        Args:
            topology: the VNF with the servers of the batch only.
        """

    @abstractmethod
    def release(self, protecting: Protecting, kept: Callable[[], Collection[str]]) -> None:
        """Remove the resources of the captures of this run: the point is committed, or never will
        be.

        Args:
            kept: gives the ids of all that the point needs; none where there is no point.
        """

    @abstractmethod
    def remove_orphans(self, site: Site, runs: Collection[str], timeline: Timeline) -> None:
        """Remove what captures of runs that have ended left at a site."""


OPTIONS: Registry[Option] = Registry(
    "option",
    {
        "quiesced-snapshot": "antipode.protect.quiesced_snapshot:OPTION",
        "replication": "antipode.protect.replication:OPTION",
        "server-snapshot": "antipode.protect.server_snapshot:OPTION",
    },
)


def settings_of(protection: Protection) -> Model:
    """The settings of a protection, checked by its option.

    Raises:
        InvalidInput: the option is unknown, or a setting is wrong; the message names the field.
    """
    option = OPTIONS.get(protection.option)
    try:
        return option.settings.model_validate(protection.settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"protection {protection.option}: {field}: {first['msg']}") from error


def wrong_settings(vnf: Vnf) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """The settings of the protections of a VNF file that are wrong: where in the file, and why."""
    for index, protection in enumerate(vnf.protections):
        where = ("protections", index)
        if protection.option not in OPTIONS:
            known = ", ".join(OPTIONS.names)
            yield (*where, "option"), f"there is no option {protection.option}; known: {known}"
            continue
        option = OPTIONS.get(protection.option)
        try:
            checked = option.settings.model_validate(protection.settings)
            if protection.schedule is None and option.avoids(checked):
                yield where, "hours to avoid need a schedule, which there is none of"
        except ValidationError as error:
            known = ", ".join([*Protection.model_fields, *option.settings.model_fields])
            for found in error.errors():
                if found["type"] == "extra_forbidden":
                    yield (*where, *found["loc"]), f"unknown field; known here: {known}"
                else:
                    yield (*where, *found["loc"]), found["msg"].removeprefix("Value error, ")


def avoided_hours(protection: Protection, moment: float) -> DailyHours | None:
    """The hours to avoid that a moment is in, if the protection has a schedule and names any.

    Args:
        moment: seconds since the epoch.

    Raises:
        InvalidInput: as `settings_of`.
    """
    if protection.schedule is None:
        return None
    local = protection.schedule.local(moment)
    avoided = OPTIONS.get(protection.option).avoids(settings_of(protection))
    return next((hours for hours in avoided if hours.has(local)), None)


def closed_hours(protection: Protection, moment: float) -> DailyHours | None:
    """The hours that a moment is in, if the schedule begins no run in them: they are to be avoided,
    and the file accepts no point of members that are captured as they run.

    Args:
        moment: seconds since the epoch.

    Raises:
        InvalidInput: as `settings_of`.
    """
    return None if may_capture_as_they_run(protection) else avoided_hours(protection, moment)


def may_capture_as_they_run(protection: Protection) -> bool:
    """Whether the file accepts points of members that run and are not quiesced, and its option
    makes such points.
    """
    option = OPTIONS.get(protection.option)
    return option.captures_as_they_run and protection.consistency in OF_RUNNING_MEMBERS

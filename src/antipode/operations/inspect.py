# SPDX-License-Identifier: Apache-2.0
"""The state of VNFs, and their topology: as they run at their active sites, or as their newest
recovery points have it when those sites do not answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from antipode.cloud.site import Site
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, InvalidInput, NotFound, PreflightFailed, SiteUnreachable
from antipode.freezes.reaper import reap
from antipode.model.point import RecoveryPoint
from antipode.model.rpo import Rpo, RpoState, rpo
from antipode.model.state import ProtectedVnf
from antipode.model.topology import Topology
from antipode.model.vnf import NAME, Vnf
from antipode.protect import checks
from antipode.protect.option import OPTIONS
from antipode.protect.partial import choose
from antipode.recover.plan import of_different_moments
from antipode.runs import standing_status, transitions
from antipode.runs.transitions import Transition
from antipode.topology import discovery
from antipode.topology.losses import losses
from antipode.vault import points, windows


@dataclass(frozen=True)
class Status:
    """Where a VNF is active and how well it is protected, as its vaults and this host know it."""

    vnf: Vnf
    state: ProtectedVnf
    newest: RecoveryPoint | None
    trouble: str | None
    """why the vaults could not be read; then the state is the last that is known here"""
    old_copies: Mapping[str, float] = field(default_factory=dict)
    """the sites at which the service has seen an old copy of it run, and since when (seconds since
    the epoch)
    """
    transition: Transition | None = None
    """what it is in the middle of, or what of that has failed, as this host knows it"""
    undo_until: float | None = None
    """until when its newest failover can be undone, in seconds since the epoch; None: it cannot"""
    is_moving: bool = False
    """whether a recovery of it was begun that has not ended"""

    @property
    def name(self) -> str:
        """The name of its state."""
        return transitions.state_name(self.state, self.transition)

    @property
    def rpo(self) -> Rpo:
        """What the VNF would lose now, against its target."""
        if self.trouble is not None:
            return Rpo(self.vnf.rpo, None, RpoState.UNKNOWN)
        return rpo(self.vnf.rpo, self.state, self.newest, time.time(), is_moving=self.is_moving)


@dataclass(frozen=True)
class Look:
    status: Status
    topology: Topology
    source: str
    """where the topology is from, in words"""
    untouched: Mapping[str, str] = field(default_factory=dict)
    """members that are not captured -> how they come back, as `Member.recover` says it"""
    trouble: Sequence[str] = ()
    """why no member could be chosen to be captured"""

    @property
    def warnings(self) -> list[str]:
        """What does not come back as it is; empty when the file has other members by now."""
        servers = [(s.name, s.id) for s in self.topology.servers]
        members = [m.server for m in self.status.vnf.members]
        if len(servers) != len(members) or any(
            m not in named for m, named in zip(members, servers, strict=True)
        ):
            return []
        options = [OPTIONS.get(p.option) for p in self.status.vnf.protections]
        left_out = [] if any(o.captures_root_disks for o in options) else self._root_disks_left_out
        lost = losses(self.status.vnf, self.topology)
        return [*self.trouble, *lost, *left_out, *self._moments_apart]

    @property
    def _moments_apart(self) -> list[str]:
        newest = self.status.newest
        if newest is None or not newest.moments_apart_s:
            return []
        return [f"in recovery point {newest.id} {of_different_moments(newest)}"]

    @property
    def _root_disks_left_out(self) -> list[str]:
        members = zip(self.status.vnf.members, self.topology.servers, strict=True)
        captured = [
            (m, s) for m, s in members if not {m.server, s.name, s.id} & self.untouched.keys()
        ]
        vnf = self.status.vnf.model_copy(update={"members": [m for m, _ in captured]})
        topology = self.topology.model_copy(update={"servers": [s for _, s in captured]})
        return list(checks.root_disks_left_out(vnf, topology))


def statuses(deployment: Deployment) -> dict[str, Status | InvalidInput]:
    """The status of every VNF that was added here or has a recovery point, by name; or what is
    wrong with the definition that is kept of it, or with its documents.
    """
    stored = deployment.vnfs.stored()
    try:
        listed = deployment.vaults().list("")
    except AntipodeError:
        listed = []  # the status of each VNF says so
    found: dict[str, Status | InvalidInput] = {}
    folders = {n.partition("/")[0] for n in listed if "/" in n}
    for name in sorted({*stored, *filter(_is_a_name, folders)}):
        if isinstance(damaged := stored.get(name), InvalidInput):
            found[name] = damaged
            continue
        try:
            found[name] = status(deployment, name)
        except NotFound as error:
            if name in stored:  # else a folder of something else
                found[name] = InvalidInput(str(error))
        except AntipodeError as error:
            found[name] = InvalidInput(str(error))
    return found


def only_in_vaults(deployment: Deployment) -> list[str]:
    """The names of VNFs that have something in the vaults and were never added here, as on a new
    host after a disaster. No more than one listing of each vault is read.

    Raises:
        VaultError, SiteUnreachable: no vault answers.
    """
    known = deployment.vnfs.names()
    folders = {n.partition("/")[0] for n in deployment.vaults().list("") if "/" in n}
    return sorted(name for name in folders - set(known) if _is_a_name(name))


def _is_a_name(folder: str) -> bool:
    """Whether a folder of a vault may be that of a VNF."""
    return re.fullmatch(NAME, folder) is not None


def status(deployment: Deployment, name: str) -> Status:
    """The status of a VNF.

    Raises:
        NotFound: it is neither known here nor has it a recovery point.
        VaultError, SiteUnreachable: it is not known here, and the vaults cannot be read.
    """
    vnf, running = deployment.vnfs.find(name), activity.two_copies(deployment).get(name, {})
    try:
        vaults = deployment.vaults(vnf.vaults if vnf else ())
        newest = points.newest_or_none(vaults, name)
        if vnf is None and newest is None:
            raise NotFound(f"VNF {name} is not known here, and {vaults.place} has no point of it")
        vnf = vnf or (newest.vnf if newest else None)
        assert vnf is not None  # one of the two is there
        state = activity.read(deployment, vnf, vaults)
        until = windows.open_until(vaults, state)
        found = Status(vnf, state, newest, None, running, undo_until=until)
    except NotFound:
        raise
    except AntipodeError as error:
        if vnf is None:
            raise
        initial = ProtectedVnf(vnf=name, active_site=vnf.primary, generation=1)
        known = deployment.states.find(name) or initial
        found = Status(vnf, known, None, str(error), running)
    return replace(
        found,
        transition=transitions.all_of(deployment, {name: found.state}, name).get(name),
        is_moving=bool(transitions.being_moved(deployment.runs.open(name))),
    )


def look(deployment: Deployment, name: str) -> Look:
    """The status of a VNF and its topology. Servers at the active site that are past their freeze
    deadline are unquiesced.

    Raises:
        NotFound: it is neither known here nor has it a recovery point.
        SiteUnreachable: the active site does not answer, and there is no recovery point to show
            instead.
    """
    known = deployment.vnfs.find(name)
    found = status(deployment, name)
    if known is None:
        return _from_vault(found, "it is not known here")
    active = found.state.active_site
    try:
        site = deployment.site(active, known)
        reap(deployment.freezes, site)
        now = discovery.resolve(known, site)
        topology = discovery.discover(now, site)
        untouched, trouble = _untouched(now, site)
        return Look(replace(found, vnf=now), topology, f"live at {active}", untouched, trouble)
    except SiteUnreachable as error:
        if found.newest is None:
            raise
        return _from_vault(found, str(error))


def remembered(deployment: Deployment, name: str) -> Look:
    """A VNF as its newest recovery point has it. Its active site is not asked, and neither is a
    vault there where there are others.

    Raises:
        NotFound: there is no recovery point of it.
        VaultError, SiteUnreachable: the vaults cannot be read.
    """
    vnf, known = deployment.vnfs.find(name), deployment.states.find(name)
    active = known.active_site if known is not None else (vnf.primary if vnf else None)
    vaults = deployment.vaults(vnf.vaults if vnf else (), apart_from={active} if active else ())
    if (newest := points.newest_or_none(vaults, name)) is None:
        raise NotFound(f"there is no recovery point of {name} that has its topology yet")
    state = known or ProtectedVnf(vnf=name, active_site=newest.site, generation=newest.generation)
    found = Status(newest.vnf, state, newest, None)
    return Look(found, newest.topology, f"recovery point {newest.id}", newest.not_captured)


def _untouched(vnf: Vnf, site: Site) -> tuple[dict[str, str], list[str]]:
    """The members that a protection leaves untouched now -> how they come back; and why it would
    not begin.
    """
    try:
        return (choose(vnf, site).untouched if vnf.capture else {}), []
    except PreflightFailed as error:
        return {}, list(error.problems)


def _from_vault(found: Status, reason: str) -> Look:
    assert found.newest is not None  # the status of a VNF that is not known here is made of it
    source = f"recovery point {found.newest.id}, because {reason}"
    return Look(found, found.newest.topology, source, found.newest.not_captured)


def standing_summary(deployment: Deployment, vnf: Vnf) -> dict[str, Any]:
    """What this installation knows of the standing volumes of a VNF, by site; empty where none are
    wanted. No site is called.
    """
    return standing_status.summary(deployment, vnf)

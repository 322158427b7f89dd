# SPDX-License-Identifier: Apache-2.0
"""Undoes a fence: ports that it has put down are up again, and servers are unlocked and started in
their boot order, each as it was before.

What it was is written to the servers and ports themselves, by `fencing`. A release may be lost at
any moment and repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError, Json
from antipode.errors import ResourceFailed
from antipode.model.marks import FENCED, FENCED_FROM, fenced_tag
from antipode.model.steps import Step, Steps, Timeline
from antipode.recover import fencing
from antipode.recover.switching import Switching, switch

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.vault.old_copies import OldCopy

RUNNING = "ACTIVE"
"""The status of a server before it was fenced with which it is started again."""


@dataclass(frozen=True)
class Release:
    """What a release works with."""

    vnf: str
    run: str | None
    """the run whose fence is undone; what others have fenced stays so. None: every fence is"""
    site: Site
    copy: OldCopy
    waves: Sequence[Sequence[str]]
    """ids of members in the waves in which they boot; others are started last"""
    timeline: Timeline
    may: Callable[[], object]
    """raises when the copy must not run any more, or that is not known; asked before each change"""
    go_on: Callable[[], None]


def release(wanted: Release) -> list[str]:
    """Undo a fence; the members that are not as they were, and why.

    Raises:
        ResourceFailed: a member does not start, or a change was refused; what could be undone is.
        SiteUnreachable: the site does not answer.
        AntipodeError: what `may` or `go_on` raised; nothing was changed since.
    """
    site = wanted.site
    with wanted.timeline.step(Steps.RELEASE_FENCE, site.name) as step:
        servers = fenced_by(site, wanted.copy, wanted.run)
        problems = list(_ports_up(wanted, servers))
        problems += _unlocked(wanted, servers)
        problems += _started(wanted, servers, step)
        problems += _locked_again(wanted, servers)
        if not problems:
            problems += _unmarked(wanted, servers)
        step.result(servers=len(servers))
        if problems:
            raise ResourceFailed(
                f"{site.name}: the fence is not undone for all members: {'; '.join(problems)}"
            )
    return [
        f"server {server['name']} ({server['id']}) was {_was(server)} before it was fenced"
        for server in servers.values()
        if server["status"] == "SHUTOFF" and _was(server).split()[0] not in (RUNNING, "SHUTOFF")
    ]


def fenced_by(site: Site, copy: OldCopy, run: str | None) -> dict[str, Json]:
    """The members of a copy that carry the mark of a fence, of any with no `run`; by id.

    Raises:
        SiteUnreachable: Nova does not answer.
    """
    marked = {
        s["id"]: s for s in fencing.members(site, copy) if FENCED in (s.get("metadata") or {})
    }
    return {i: s for i, s in marked.items() if run in (None, s["metadata"][FENCED])}


def _was(server: Json) -> str:
    """The status and the lock of a server before it was fenced."""
    return str(server["metadata"].get(FENCED_FROM) or "SHUTOFF locked")


def _ports_up(wanted: Release, servers: dict[str, Json]) -> Iterator[str]:
    """Put the ports up that the fence has put down; which could not be.

    A port carries the mark until it is up.
    """
    networks = wanted.site.networks
    members = [s["id"] for s in fencing.members(wanted.site, wanted.copy)]
    for port in fencing.ports_of(wanted.site, sorted({*members, *servers})):
        tags = list(port.get("tags") or [])
        ours = [tag for tag in tags if _is_mark(tag, wanted.run)]
        if not ours:
            continue
        wanted.may()
        try:
            if not fencing.is_up(port):
                networks.update_port(port["id"], {"admin_state_up": True})
            networks.tag_port(port["id"], [tag for tag in tags if tag not in ours])
        except ApiError as error:
            yield f"port {port['id']} is not up again: {error.reason}"


def _is_mark(tag: str, run: str | None) -> bool:
    """Whether a tag of a port says that a fence, of any run without `run`, has put it down."""
    return tag.startswith(f"{FENCED}=") if run is None else tag == fenced_tag(run)


def _unlocked(wanted: Release, servers: dict[str, Json]) -> Iterator[str]:
    """Unlock the servers that the fence has locked, and for now those that were locked before and
    ran: without the admin role a server that is locked cannot be started. Which could not be.
    """
    is_admin = "admin" in wanted.site.roles
    for server in servers.values():
        if not server.get("locked") or (_was_locked(server) and (is_admin or not _ran(server))):
            continue
        wanted.may()
        try:
            wanted.site.compute.unlock_server(server["id"])
        except ApiError as error:
            yield f"server {server['name']} is not unlocked: {error.reason}"


def _locked_again(wanted: Release, servers: dict[str, Json]) -> Iterator[str]:
    """Lock those again that were locked before the fence, and that this or an earlier release has
    unlocked to start them; which could not be.
    """
    held = {s["id"]: s for s in fencing.members(wanted.site, wanted.copy) if s["id"] in servers}
    for id_, server in servers.items():
        if FENCED_FROM not in server["metadata"]:
            continue  # an earlier release has done it all, but for the other mark
        if not _was_locked(server) or id_ not in held or held[id_].get("locked"):
            continue
        wanted.may()
        try:
            reason = server.get("locked_reason") or f"it was locked before {wanted.vnf} was fenced"
            wanted.site.compute.lock_server(id_, str(reason))
        except ApiError as error:
            yield f"server {server['name']} is not locked again: {error.reason}"


def _was_locked(server: Json) -> bool:
    return _was(server).endswith(" locked")


def needs_unlocking(server: Json, *, starts: bool, is_admin: bool) -> bool:
    """Whether a release must unlock a server, which an administrator need not do to start it.

    Args:
        server: as Nova shows it.
        starts: whether it is to run afterwards.
    """
    if not server.get("locked") or is_admin:
        return False
    if FENCED in (server.get("metadata") or {}):
        return _ran(server) or not _was_locked(server)
    return starts and server["status"] != RUNNING


def _ran(server: Json) -> bool:
    return _was(server).split()[0] == RUNNING


def _started(wanted: Release, servers: dict[str, Json], step: Step) -> list[str]:
    """Start the servers that ran, in their boot order; which do not run."""
    ran = [id_ for id_, server in servers.items() if _ran(server)]
    ordered = [id_ for wave in wanted.waves for id_ in wave]
    rest = [id_ for id_ in ran if id_ not in ordered]
    switching = Switching(wanted.vnf, wanted.site, step, wanted.may, wanted.go_on)
    problems: list[str] = []
    for wave in (*wanted.waves, rest):
        if ids := [id_ for id_ in wave if id_ in ran]:
            problems += switch(switching, ids, RUNNING)
    return problems


def _unmarked(wanted: Release, servers: dict[str, Json]) -> Iterator[str]:
    """Take the marks of the fence off the servers, at the end: until then it is known what they
    were; which could not be.
    """
    for server in servers.values():
        wanted.may()
        try:
            for mark in (FENCED_FROM, FENCED):  # the one by which it is found goes last
                wanted.site.compute.unmark_server(server["id"], mark)
        except ApiError as error:
            yield f"server {server['name']} keeps the mark of the fence: {error.reason}"

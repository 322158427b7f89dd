# SPDX-License-Identifier: Apache-2.0
"""Whether the guest agents of members are known to Nova, and answer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from antipode.cloud.api import ApiError
from antipode.cloud.site import Site
from antipode.errors import AntipodeError
from antipode.model.topology import Server, Topology, Volume
from antipode.protect import snapshots
from antipode.protect.option import Protecting

AGENT = "hw_qemu_guest_agent"
AGENT_ANSWER_S = 15.0
"""How long a guest agent may take to answer an unquiesce when nothing is frozen."""


def problems(protecting: Protecting, topology: Topology) -> Iterator[str]:
    """One sentence for each member without an agent, or whose agent does not answer.

    Each guest agent is asked for an unquiesce, which does nothing to a server that is not frozen,
    and ends the freeze of one that is. So none is asked whose server may be frozen, by the add-on
    or by Nova: the point of that capture would be less consistent than it says. Where the add-on is
    not installed, none can be asked.
    """
    for server in lacking(topology):
        root = root_of(server)
        yield (
            f"server {server.name} has no guest agent: image property {AGENT} of its root "
            f"volume {root.id if root else ''} is not yes; install qemu-guest-agent in it, set the "
            "property and boot it again"
        )
    yield from _silent(topology, protecting)


def lacking(topology: Topology) -> list[Server]:
    """The servers of which Nova knows no guest agent."""
    roots = [(server, root_of(server)) for server in topology.servers]
    return [server for server, root in roots if root is not None and not says_yes(root, AGENT)]


def root_of(server: Server) -> Volume | None:
    """The volume that it boots from, or its root disk on the hypervisor."""
    return server.root_disk or next((a.volume for a in server.attachments if a.is_root), None)


def says_yes(root: Volume, image_property: str) -> bool:
    """Whether an image property of a root volume is set."""
    return str(root.image_metadata.get(image_property, "")).lower() in ("yes", "true", "1")


def _silent(topology: Topology, p: Protecting) -> Iterator[str]:
    """Ask those agents, at once, that Nova knows of and whose servers are not frozen."""
    site = p.site
    if not p.asks_guests or not site.compute.quiesce_available():
        return
    known = [s for s in topology.servers if (r := root_of(s)) is not None and says_yes(r, AGENT)]
    captured = {server.id for server, *_ in snapshots.being_created(site, known)}
    asked = [
        server
        for server in known
        if server.id not in captured and not p.ledger.is_frozen_rightly(site.name, server.id)
    ]
    with ThreadPoolExecutor(8, "guest-agent") as pool:
        for server, silence in zip(
            asked, pool.map(lambda s: _silence(s, site), asked), strict=True
        ):
            if silence is not None:
                yield (
                    f"server {server.name} cannot be quiesced, its guest agent does not answer "
                    f"({silence}); see to qemu-guest-agent in it"
                )


def _silence(server: Server, site: Site) -> str | None:
    """Why a server's guest agent does not answer; None when it does, or when the server is
    quiesced, which must not end by this.
    """
    try:
        if not site.compute.is_quiesced(server.id):
            site.compute.unquiesce(server.id, AGENT_ANSWER_S)
    except AntipodeError as error:
        return error.reason if isinstance(error, ApiError) else str(error)
    return None

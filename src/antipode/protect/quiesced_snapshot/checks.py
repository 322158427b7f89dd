# SPDX-License-Identifier: Apache-2.0
"""Whether a VNF can be quiesced and snapshotted: everything that would fail later is found before
anything is frozen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from antipode.cloud.api import ApiError
from antipode.cloud.site import Site
from antipode.errors import AntipodeError
from antipode.model.quota import quota_needs
from antipode.model.topology import Server, Topology, Volume
from antipode.protect.quiesced_snapshot.settings import Quiesce

AGENT = "hw_qemu_guest_agent"
AGENT_ANSWER_S = 15.0
"""How long a guest agent may take to answer an unquiesce when nothing is frozen."""


def problems(site: Site, topology: Topology, quiesce: Quiesce) -> Iterator[str]:
    """Check the quiesce add-on, the guest agents and the quotas for snapshots.

    Each guest agent is asked for an unquiesce, which does nothing to a server that is not frozen.
    """
    yield from _add_on(site, quiesce)
    for server in topology.servers:
        root = _root(server)
        if root is not None and not _has_agent(root):
            yield (
                f"server {server.name} has no guest agent: image property {AGENT} of its root "
                f"volume {root.id} is not yes; install qemu-guest-agent in it, set the property "
                "and boot it again"
            )
    yield from _agents(topology, site)
    yield from _quotas(topology.volumes, site)


def _add_on(site: Site, quiesce: Quiesce) -> Iterator[str]:
    support = site.compute.quiesce_support()
    if support is None:
        yield (
            f"{site.name} cannot quiesce servers: install the nova-quiesce add-on for its nova-api"
        )
    elif quiesce.timeout > support["maximum_timeout"]:
        yield (
            f"quiesce timeout {quiesce.timeout:g} s is longer than {site.name} allows, "
            f"{support['maximum_timeout']} s"
        )


def _root(server: Server) -> Volume | None:
    return next((a.volume for a in server.attachments if a.is_root), None)


def _has_agent(root: Volume) -> bool:
    """Whether Nova knows of a guest agent, so that it calls it."""
    return str(root.image_metadata.get(AGENT, "")).lower() in ("yes", "true", "1")


def _agents(topology: Topology, site: Site) -> Iterator[str]:
    """Ask those agents that Nova knows of, at once."""
    if not site.compute.quiesce_available():
        return
    asked = [s for s in topology.servers if (root := _root(s)) is not None and _has_agent(root)]
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


def _quotas(volumes: list[Volume], site: Site) -> Iterator[str]:
    """A snapshot counts as one snapshot and, in gigabytes, as a volume; both also for its type."""
    needed = Counter(snapshots=len(volumes), gigabytes=sum(v.size_gib for v in volumes))
    for volume in volumes:
        needed[f"snapshots_{volume.volume_type}"] += 1
        needed[f"gigabytes_{volume.volume_type}"] += volume.size_gib
    needs = quota_needs(needed, site.volumes.quota(site.project_id))
    yield from (str(need) for need in needs if need.is_short)

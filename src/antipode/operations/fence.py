# SPDX-License-Identifier: Apache-2.0
"""Fencing the old copy of a VNF at a site: plan, confirm, execute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Observer
from antipode.model.runbook import RunbookStep
from antipode.model.state import ProtectedVnf
from antipode.model.vnf import Vnf
from antipode.operations.approvals import carried_out, definition_of, wanted
from antipode.recover import fencing
from antipode.runs import fence as run_kind
from antipode.runs import runbook
from antipode.store.tables import RunRow

Json = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A fencing that may begin once the operator has confirmed it: nothing was changed."""

    definition: Vnf | None
    """of the VNF; None where neither this host nor a recovery point has one"""
    state: ProtectedVnf
    site: str
    servers: list[Json]
    """each with its id, name, status and lock, and what is going to be done with it"""
    ports: list[Json]
    """those that are up, each with its server"""
    gone: list[str]
    """names of members of the old copy that are not at the site any more"""
    strangers: list[str]
    """servers at the site that have the name of a member, and that nothing proves to be old: they
    are left alone
    """
    steps: Sequence[RunbookStep] = ()
    """of the runbook of this host"""
    lost_vaults: Sequence[str] = ()

    def record(self) -> Json:
        """As JSON."""
        return {
            "vnf": self.state.vnf,
            "site": self.site,
            "active_site": self.state.active_site,
            "generation": self.state.generation,
            "servers": self.servers,
            "ports": self.ports,
            "gone": self.gone,
            "left_alone": self.strangers,
            "steps": runbook.in_words(self.steps),
        }


def prepare(
    deployment: Deployment, vnf: str, site: str, lost_vaults: Sequence[str] = ()
) -> Prepared:
    """Find the old copy of a VNF at a site.

    Raises:
        NotFound: there is no such site, nothing is known of the VNF, or nothing says which servers
            the old copy has.
        InvalidInput: the VNF is active at that site, or has never moved.
        Busy: it is failing over.
        VaultError, SiteUnreachable: too few vaults answer to be sure, or the site does not.
    """
    deployment.config.site(site)
    standing = run_kind.must_be_old(deployment, vnf, site, lost=lost_vaults)
    copy = run_kind.old_copy(deployment, standing, site)
    there = deployment.site(site, vnf)
    listed = there.compute.servers()
    members = [server for server in listed if copy.has(server)]
    ids = {server["id"] for server in members}
    names = {server["id"]: server["name"] for server in members}
    known = set(copy.servers.values())
    return Prepared(
        definition_of(deployment, standing.vaults, vnf),
        standing.state,
        site,
        [_planned(server) for server in members],
        [
            {"id": port["id"], "server": names.get(port["device_id"], port["device_id"])}
            for port in fencing.ports_of(there, sorted(ids))
            if fencing.is_up(port)
        ],
        sorted(name for id_, name in copy.servers.items() if id_ not in ids),
        [
            f"{server['name']} ({server['id']})"
            for server in listed
            if server["id"] not in ids and server["name"] in known
        ],
        runbook.around(deployment.config, deployment.vnfs.find(vnf), "fence", site),
        lost_vaults,
    )


def _planned(server: Json) -> Json:
    does = [] if fencing.is_off(server) else ["stop"]
    locked = bool(server.get("locked"))
    return {
        "id": server["id"],
        "server": server["name"],
        "status": server["status"],
        "locked": locked,
        "does": does if locked else [*does, "lock"],
    }


def request(prepared: Prepared) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun."""
    row = run_kind.requested(prepared.state, prepared.site, prepared.lost_vaults, prepared.steps)
    return wanted(row, [prepared.definition])


def fence(deployment: Deployment, row: RunRow, observer: Observer) -> Json:
    """Fence the old copy; a record of it, with what each server and port was before.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: another fencing of the VNF is under way, or the VNF has moved since.
        VaultError: too few vaults answer to be sure that the copy is old; nothing was changed
            since.
        ResourceFailed, SiteUnreachable: not all of it is fenced. It can be tried again.
    """
    return carried_out(deployment, run_kind.KIND, row, observer)

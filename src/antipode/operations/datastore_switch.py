# SPDX-License-Identifier: Apache-2.0
"""The storage of a VNF is switched to its copy, or back, while its site lives: a back end that is
lost, or one that is to be serviced. The VNF stays at its site.
"""

from __future__ import annotations

from dataclasses import dataclass

from antipode.datastores.switched import Switch, SwitchedStorage, of_switched
from antipode.engine.deployment import Deployment
from antipode.errors import Busy, InvalidInput, NotFound, ResourceFailed
from antipode.operations.inspect import look
from antipode.runs.replicating import driver, volumes_of


@dataclass(frozen=True)
class Planned:
    """A switch as an operator is asked to confirm it."""

    vnf: str
    datastore: str
    site: str
    storage: SwitchedStorage
    volumes: list[str]
    """of the VNF, by id"""
    members: list[str]
    """with these volumes"""
    switch: Switch
    back: bool


def prepare(deployment: Deployment, name: str, datastore: str, *, back: bool) -> Planned:
    """See what a switch would do; nothing is changed.

    Args:
        back: from the copy to the storage itself.

    Raises:
        NotFound: the VNF or the datastore is not known here.
        InvalidInput: the datastore is of another kind, or its storage is not at the active site.
        Busy: a run of the VNF is open.
        SiteUnreachable: the active site does not answer: without it there is no such switch.
        ResourceFailed: members are on, or the storage cannot be switched.
    """
    vnf = deployment.vnfs.get(name)
    if datastore not in vnf.datastores_of_volumes:
        known = ", ".join(vnf.datastores_of_volumes) or "none"
        raise NotFound(f"VNF {name} has no datastore {datastore} of volumes; it has: {known}")
    _must_be_at_rest(deployment, name)
    seen = look(deployment, name)
    site = seen.status.state.active_site
    if not seen.source.startswith("live"):
        deployment.site(site, vnf)  # raises, with the reason
    defined = vnf.datastores[datastore]
    storage = of_switched(driver(deployment, defined.storage, site))
    volumes = {v.id for v in volumes_of(vnf, seen.topology)[datastore]}
    members = [s for s in seen.topology.servers if volumes & {v.id for v in s.volumes}]
    if on := [s.name for s in members if not s.is_off]:
        raise ResourceFailed(
            f"{', '.join(on)} of {name} is on, and what it writes meanwhile would be lost. Stop all"
            " members, then switch the datastore"
        )
    switch = storage.look(volumes, back=back)
    return Planned(
        name, datastore, site, storage, sorted(volumes), [s.name for s in members], switch, back
    )


def switch(deployment: Deployment, planned: Planned, *, loses_others: bool) -> None:
    """Do what was planned, and wait for its end. Safe to repeat.

    Args:
        loses_others: whether volumes that have no copy may go into `error`.

    Raises:
        Busy: a run of the VNF has begun.
        InvalidInput: volumes would be lost, and may not be, or were not in the plan.
        ResourceFailed: members are on by now, Cinder has refused it, or it has failed.
    """
    # the operator may have taken long to confirm it
    now = prepare(deployment, planned.vnf, planned.datastore, back=planned.back).switch
    seen = planned.switch
    new = {*now.others} - {*seen.others, *seen.lost} | {*now.lost} - {*seen.lost}
    if new:
        raise InvalidInput(
            f"{planned.storage.label}: {'; '.join(sorted(new))} would be switched, too, or would be"
            " lost, which was not in the plan; plan again"
        )
    if now.lost and not loses_others and not now.is_done:
        raise InvalidInput(
            f"{planned.storage.label}: Cinder puts volumes that have no copy into error:"
            f" {'; '.join(now.lost)}. Move them first, or say --lose-others"
        )
    planned.storage.switch(
        back=planned.back, go_on=lambda: _must_be_at_rest(deployment, planned.vnf)
    )


def _must_be_at_rest(deployment: Deployment, name: str) -> None:
    if runs := deployment.runs.open(name):
        raise Busy(
            f"run {runs[0].id} of VNF {name} has not ended; its storage stays until it has",
            resource=f"run {runs[0].id}",
        )

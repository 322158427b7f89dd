# SPDX-License-Identifier: Apache-2.0
"""Forgetting the definition of a VNF; recovery points, backups and servers stay."""

from __future__ import annotations

from dataclasses import dataclass

from antipode.engine.deployment import Deployment
from antipode.errors import Busy, NotFound


@dataclass(frozen=True)
class Removed:
    """A VNF that is no longer known here.

    `stays`: what was left, and where, in sentences.
    """

    vnf: str
    stays: tuple[str, ...]


def check(deployment: Deployment, name: str) -> None:
    """Check that a VNF may be removed.

    Raises:
        NotFound: it was never added here.
        Busy: a run of it has not ended.
    """
    if name not in deployment.vnfs.names():
        raise NotFound(
            f"VNF {name} is not known here; see: antipode vnf list", resource=f"VNF {name}"
        )
    if runs := deployment.runs.open(name):
        run = runs[0].id
        raise Busy(
            f"run {run} of VNF {name} has not ended. Wait for it (antipode run watch {run}) or "
            f"abort it: antipode run abort {run}",
            resource=f"run {run}",
        )


def remove(deployment: Deployment, name: str) -> Removed:
    """Forget the definition of a VNF. No site and no vault is asked, so that a VNF of a site that
    is gone can be removed.

    Raises:
        NotFound: it was never added here.
        Busy: a run of it has not ended.
    """
    check(deployment, name)
    deployment.vnfs.remove(name)
    deployment.schedules.forget(name)
    deployment.readiness.forget(name)
    deployment.memory.forget(name)
    return Removed(name, tuple(_what_stays(deployment, name)))


def _what_stays(deployment: Deployment, name: str) -> list[str]:
    config = deployment.config
    vaults = ", ".join(vault.place for vault in config.all_vaults.values())
    stores = ", ".join(
        f"container {store.container} of cloud {store.cloud}"
        for store in config.all_stores.values()
    )
    return [
        f"recovery points: in {vaults}; antipode failover {name} still finds them",
        f"backups: in {stores or 'the backup stores of its sites'}, with their records in Cinder",
        "servers, volumes and networks: at the sites",
        f"runs: in the database; see antipode run list --vnf {name}",
    ]

# SPDX-License-Identifier: Apache-2.0
"""Policies: made by an administrator, chosen for a VNF by its project."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from antipode import identity
from antipode.engine.deployment import Deployment
from antipode.errors import Busy, InvalidInput, NotFound
from antipode.model.policy import Policy
from antipode.model.vnf import Vnf
from antipode.operations.vnfs import must_fit

Json = dict[str, Any]


def put(deployment: Deployment, policy: Policy) -> list[str]:
    """Keep a policy, and protect the VNFs that have chosen it as it says now; those VNFs.

    Raises:
        InvalidInput: it does not fit one of those VNFs; nothing was changed.
    """
    unknown = [p for p in policy.projects if p not in _projects(deployment)]
    if unknown:
        raise InvalidInput(f"antipode.yaml has no project {', '.join(unknown)} under api")
    chosen = deployment.vnfs.chosen_by(policy.policy)
    changed = [_under(deployment, deployment.vnfs.get(name), policy) for name in chosen]
    deployment.policies.put(policy, identity.current())
    for vnf in changed:
        deployment.vnfs.put(vnf, policy.policy)
    return chosen


def remove(deployment: Deployment, name: str) -> None:
    """Remove a policy.

    Raises:
        NotFound: there is none of this name.
        Busy: VNFs have chosen it.
    """
    deployment.policies.get(name)
    if chosen := deployment.vnfs.chosen_by(name):
        raise Busy(f"policy {name} is the choice of {len(chosen)} VNFs; the first is {chosen[0]}")
    deployment.policies.remove(name)


def choose(deployment: Deployment, name: str, policy: str) -> Vnf:
    """Protect a VNF as a policy says; its definition then.

    Raises:
        NotFound: there is no such VNF, or no such policy for its project.
        InvalidInput: the policy does not fit the VNF; nothing was changed.
    """
    vnf = deployment.vnfs.get(name)
    found = deployment.policies.get(policy)
    if not found.may_be_chosen_by(vnf.project):
        raise NotFound(f"there is no policy {policy}", resource=f"policy {policy}")
    changed = _under(deployment, vnf, found)
    deployment.vnfs.put(changed, policy)
    return changed


def _under(deployment: Deployment, vnf: Vnf, policy: Policy) -> Vnf:
    try:
        changed = Vnf.model_validate({**vnf.model_dump(mode="json"), **policy.decided()})
    except ValidationError as error:
        why = "; ".join(one["msg"] for one in error.errors())
        raise InvalidInput(f"policy {policy.policy} does not fit VNF {vnf.vnf}: {why}") from error
    must_fit(changed, deployment.config)
    return changed


def _projects(deployment: Deployment) -> list[str]:
    api = deployment.config.api
    return [] if api is None else list(api.projects)

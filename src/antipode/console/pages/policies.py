# SPDX-License-Identifier: Apache-2.0
"""Policies: how VNFs are protected, made by an administrator and chosen by projects."""

from __future__ import annotations

from collections import Counter

from starlette.responses import Response

from antipode.console.pages.overview import seen
from antipode.console.web import Asked, route

MOST = 200


def _list(asked: Asked) -> Response:
    asked.must_here("policy:list")
    found = [
        policy
        for policy in asked.deployment.policies.page(MOST)
        if asked.caller.all_projects or policy.may_be_chosen_by(asked.caller.project)
    ]
    used = Counter(
        policy.policy
        for policy in found
        for known in seen(asked).vnfs
        if [p.model_dump() for p in known.vnf.protections]
        == [p.model_dump() for p in policy.protections]
    )
    return asked.page("policies.html", policies=found, used=used)


ROUTES = [route("/policies", _list)]

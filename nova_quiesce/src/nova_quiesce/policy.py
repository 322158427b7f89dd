# SPDX-License-Identifier: Apache-2.0
"""The rules for quiescing, unquiescing and showing, in Nova's own policy enforcer."""

from __future__ import annotations

import threading
from typing import Any

from nova import policy as nova_policy
from nova.policies import base
from oslo_policy import policy

QUIESCE = "os_compute_api:os-quiesce:quiesce"
UNQUIESCE = "os_compute_api:os-quiesce:unquiesce"
SHOW = "os_compute_api:os-quiesce:show"

_RULES = [
    policy.DocumentedRuleDefault(
        name=QUIESCE,
        check_str=base.ADMIN,
        description="Freeze the file systems of a server's guest",
        operations=[{"path": "/servers/{server_id}/action (quiesce)", "method": "POST"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=UNQUIESCE,
        check_str=base.ADMIN,
        description="Thaw the file systems of a server's guest",
        operations=[{"path": "/servers/{server_id}/action (unquiesce)", "method": "POST"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=SHOW,
        check_str=base.PROJECT_READER_OR_ADMIN,
        description="Show whether a server is quiesced, since when and until when",
        operations=[{"path": "/servers/{server_id}/os-quiesce", "method": "GET"}],
        scope_types=["project"],
    ),
]

_registering = threading.Lock()


def list_rules() -> list[policy.DocumentedRuleDefault]:
    """Return the rules for oslopolicy-sample-generator."""
    return _RULES


def authorize(context: Any, rule: str, instance: Any) -> None:
    """Raise nova.exception.PolicyNotAuthorized unless the policy lets `context` apply `rule` to
    `instance`.
    """
    _register()
    context.can(rule, target={"project_id": instance.project_id, "user_id": instance.user_id})


def allows(context: Any, rule: str, instance: Any) -> bool:
    """Return whether the policy lets `context` apply `rule` to `instance`."""
    _register()
    return bool(
        context.can(
            rule,
            target={"project_id": instance.project_id, "user_id": instance.user_id},
            fatal=False,
        )
    )


def _register() -> None:
    # Nova has no hook for rules of an add-on, and may rebuild its enforcer: hence at each check,
    # not once.
    nova_policy.init()
    with _registering:
        enforcer = nova_policy._ENFORCER
        if QUIESCE not in enforcer.registered_rules:
            enforcer.register_defaults(_RULES)

# SPDX-License-Identifier: Apache-2.0
"""Rules for what users of the API may see and do, as oslo.policy has them. Roles count in the
project of the token only, unless antipode.yaml says that it covers all projects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from oslo_config import cfg
from oslo_policy import policy

from antipode.api.identity import Caller
from antipode.errors import Forbidden, InvalidInput

SERVICE = "disaster-recovery"
COVERED = "rule:covered"
STAFF = "all_projects:True"


class Persona(NamedTuple):
    """Users with one task, and how they are known."""

    name: str
    roles: str
    about: str


PERSONAS = (
    Persona(
        "observer",
        "role:reader or role:dr_observer or rule:member or rule:approver",
        "looks at what is there, and changes nothing",
    ),
    Persona(
        "member",
        "role:member or role:dr_member or rule:operator",
        "protects VNFs and rehearses their recovery",
    ),
    Persona(
        "operator",
        "role:dr_operator or rule:admin",
        "recovers, moves and fences VNFs, and answers what runs ask",
    ),
    Persona(
        "approver",
        "role:dr_approver or rule:admin",
        "approves and rejects runs of others",
    ),
    Persona("admin", "role:admin or role:dr_admin", "makes VNFs, policies and plans"),
)


class Rule(NamedTuple):
    """What one rule allows, and to which persona by default."""

    name: str
    check: str
    about: str
    operations: tuple[tuple[str, str], ...]


def _of(persona: str) -> str:
    return f"rule:{persona} and {COVERED}"


def _staff(persona: str) -> str:
    return f"rule:{persona} and {STAFF}"


RULES: list[Rule] = [
    Rule("site:list", "rule:observer", "List the sites.", (("GET", "/v1/sites"),)),
]


def defaults() -> list[policy.RuleDefault]:
    """All rules with their defaults, for an enforcer and for `oslopolicy-sample-generator`."""
    found: list[policy.RuleDefault] = [
        policy.RuleDefault(
            "covered",
            f"{STAFF} or project:%(project)s",
            "The thing belongs to the project of the token, or that covers all projects.",
        )
    ]
    found += [
        policy.RuleDefault(persona.name, persona.roles, f"A user that {persona.about}.")
        for persona in PERSONAS
    ]
    for rule in RULES:
        found.append(
            policy.DocumentedRuleDefault(
                f"{SERVICE}:{rule.name}",
                rule.check,
                rule.about,
                [{"method": method, "path": path} for method, path in rule.operations],
                scope_types=["project"],
            )
        )
    return found


class Rules:
    """The rules in force: the defaults, and what a policy file has in their place."""

    def __init__(self, policy_file: Path | None) -> None:
        """
        Raises:
            InvalidInput: the file is missing or wrong.
        """
        conf = cfg.ConfigOpts()
        conf([], project="antipode", default_config_files=[], default_config_dirs=[])
        if policy_file is not None and not policy_file.is_file():
            raise InvalidInput(f"the policy file {policy_file} of api is missing")
        self._enforcer = policy.Enforcer(
            conf,
            policy_file=None if policy_file is None else str(policy_file),
            use_conf=policy_file is not None,
        )
        self._enforcer.suppress_default_change_warnings = True
        self._enforcer.register_defaults(defaults())
        try:
            self._enforcer.load_rules(force_reload=True)
            if not self._enforcer.check_rules(raise_on_violation=True):
                raise ValueError("rules are wrong")
        except (policy.PolicyNotAuthorized, policy.InvalidDefinitionError, ValueError) as error:
            raise InvalidInput(f"the policy file {policy_file} of api: {error}") from error

    def allows(self, caller: Caller, rule: str, project: str | None) -> bool:
        """Whether a caller may do what a rule is about to a thing of this project.

        Args:
            rule: as in `RULES`.
            project: None: of no project.
        """
        who: dict[str, Any] = {
            "user_id": caller.user_id,
            "roles": sorted(caller.roles),
            "all_projects": caller.all_projects,
        }
        if caller.project is not None:
            who["project"] = caller.project
        # a thing without a project has no such key, so that no caller without one is its owner
        target = {} if project is None else {"project": project}
        return bool(self._enforcer.authorize(f"{SERVICE}:{rule}", target, who))

    def must_allow(self, caller: Caller, rule: str, project: str | None) -> None:
        """See that a caller may do it; arguments as for `allows`.

        Raises:
            Forbidden: the rules do not allow it.
        """
        if not self.allows(caller, rule, project):
            raise Forbidden(
                f"the rule {SERVICE}:{rule} does not allow this with the roles of"
                f" {caller.identity} in its project"
            )

# SPDX-License-Identifier: Apache-2.0
"""Rules for what users of the API may see and do, as oslo.policy has them. Roles count in the
project of the token only, unless antipode.yaml says that it covers all projects.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from oslo_config import cfg
from oslo_policy import policy

from antipode.api.identity import Caller
from antipode.errors import Forbidden, InvalidInput
from antipode.runs import KINDS, kind_of

SERVICE = "disaster-recovery"
COVERED = "rule:covered"
STAFF = "all_projects:True"
MOST_DECIDED = 20_000
"""Decisions that are remembered."""


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
    operations: tuple[str, ...]
    """each a method and a path; none: it is asked beside another rule"""


def _of(persona: str) -> str:
    return f"rule:{persona} and {COVERED}"


def _staff(persona: str) -> str:
    return f"rule:{persona} and {STAFF}"


def _of_kinds() -> list[Rule]:
    """A rule for each name under which runs are asked for."""
    by_persona: dict[str, list[str]] = {persona.name: [] for persona in PERSONAS}
    for kind in map(kind_of, KINDS.names):
        if kind.persona is not None:
            by_persona[kind.persona] += [kind.name, *kind.also_asked_as]
    return [
        Rule(f"run:{name}", _of(persona), f"Begin, abort and resume a run: {name}.", ())
        for persona, names in by_persona.items()
        for name in sorted(names)
    ]


RULES: list[Rule] = [
    Rule("site:list", _of("observer"), "List the sites.", ("GET /v1/sites",)),
    Rule(
        "site:check",
        _staff("operator"),
        "Look whether the sites, vaults, stores and VNFs are as they have to be.",
        ("POST /v1/site_checks",),
    ),
    Rule(
        "site:forecast",
        _of("observer"),
        "Forecast the loss of a site, for the VNFs of the project.",
        ("GET /v1/sites/{site}/forecast",),
    ),
    Rule(
        "site:history",
        _staff("observer"),
        "Look how all VNFs of a site were protected.",
        ("GET /v1/sites/{site}/history",),
    ),
    Rule(
        "vnf:list",
        _of("observer"),
        "List the VNFs of the project.",
        ("GET /v1/vnfs", "GET /v1/readiness"),
    ),
    Rule(
        "vnf:get",
        _of("observer"),
        "Look at a VNF: its state, protections, readiness, forecast and history.",
        (
            "GET /v1/vnfs/{vnf}",
            "GET /v1/vnfs/{vnf}/protections",
            "GET /v1/vnfs/{vnf}/readiness",
            "GET /v1/vnfs/{vnf}/forecast",
            "GET /v1/vnfs/{vnf}/forecasts",
            "GET /v1/vnfs/{vnf}/advice",
            "GET /v1/vnfs/{vnf}/history",
            "GET /v1/vnfs/{vnf}/standing",
            "GET /v1/vnfs/{vnf}/standing_volumes",
            "GET /v1/vnfs/{vnf}/datastores",
            "GET /v1/vnfs/{vnf}/datastore_copies",
        ),
    ),
    Rule(
        "volume:get",
        _staff("observer"),
        "Look what the storage of each site calls a volume of a VNF.",
        ("GET /v1/vnfs/{vnf}/volumes/{volume}",),
    ),
    Rule(
        "vnf:definition",
        _staff("admin"),
        "Look at the whole definition of a VNF, with its commands.",
        ("GET /v1/vnfs/{vnf}/definition",),
    ),
    Rule(
        "vnf:put",
        _staff("admin"),
        "Add a VNF, or change its definition.",
        ("PUT /v1/vnfs/{vnf}/definition",),
    ),
    Rule("vnf:delete", _staff("admin"), "Remove a VNF.", ("DELETE /v1/vnfs/{vnf}",)),
    Rule(
        "vnf:choose",
        _of("member"),
        "Choose the policy by which a VNF is protected.",
        ("PUT /v1/vnfs/{vnf}/policy",),
    ),
    Rule(
        "protection:pause",
        _of("member"),
        "Pause and resume the schedule of a protection.",
        ("PUT /v1/vnfs/{vnf}/protections/{option}/schedule",),
    ),
    Rule(
        "point:get",
        _of("observer"),
        "Look at the recovery points of a VNF.",
        (
            "GET /v1/vnfs/{vnf}/recovery_points",
            "GET /v1/vnfs/{vnf}/recovery_points/{point}",
            "GET /v1/vnfs/{vnf}/recovery_points/{point}/findings",
        ),
    ),
    Rule(
        "run:list",
        _of("observer"),
        "List the runs of the project.",
        ("GET /v1/runs", "GET /v1/vnfs/{vnf}/runs"),
    ),
    Rule(
        "run:get",
        _of("observer"),
        "Look at a run, its steps, parts, questions and approvals.",
        (
            "GET /v1/runs/{run}",
            "GET /v1/runs/{run}/steps",
            "GET /v1/runs/{run}/events",
            "GET /v1/runs/{run}/parts",
            "GET /v1/runs/{run}/questions",
            "GET /v1/runs/{run}/approvals",
        ),
    ),
    Rule(
        "run:report",
        _of("observer"),
        "Have the report of a run.",
        ("GET /v1/runs/{run}/report",),
    ),
    Rule(
        "run:create",
        f"(rule:member or rule:operator) and {COVERED}",
        "Begin a run of a VNF; the rule of its kind is asked too.",
        ("POST /v1/vnfs/{vnf}/runs", "POST /v1/vnfs/{vnf}/previews"),
    ),
    *_of_kinds(),
    Rule(
        "run:recovery-point-delete",
        _staff("admin"),
        "Delete a recovery point.",
        (),
    ),
    Rule(
        "run:answer",
        _of("operator"),
        "Answer a question of a run.",
        ("POST /v1/runs/{run}/answers",),
    ),
    Rule(
        "run:abort",
        f"(rule:member or rule:operator) and {COVERED}",
        "Abort a run; the rule of its kind is asked too.",
        ("POST /v1/runs/{run}/abort",),
    ),
    Rule(
        "run:resume",
        f"(rule:member or rule:operator) and {COVERED}",
        "Resume a run; the rule of its kind is asked too.",
        ("POST /v1/runs/{run}/resume",),
    ),
    Rule(
        "run:approve",
        _of("approver"),
        "Approve a run of somebody else.",
        ("POST /v1/runs/{run}/approvals",),
    ),
    Rule(
        "run:reject",
        f"(rule:approver or rule:operator) and {COVERED}",
        "Reject a run that awaits approval.",
        ("POST /v1/runs/{run}/rejections",),
    ),
    Rule(
        "run:other",
        _staff("operator"),
        "Abort or resume a run of a kind without a rule of its own, such as an expiry.",
        (),
    ),
    Rule(
        "policy:list",
        _of("observer"),
        "List the policies that the project may choose.",
        ("GET /v1/policies", "GET /v1/policies/{policy}"),
    ),
    Rule(
        "policy:put",
        _staff("admin"),
        "Make, change and remove policies.",
        ("PUT /v1/policies/{policy}", "DELETE /v1/policies/{policy}"),
    ),
    Rule(
        "quota:get",
        _of("observer"),
        "Look at the quota of the project.",
        ("GET /v1/quota",),
    ),
    Rule(
        "plan:get",
        _staff("observer"),
        "Look at the plans over many VNFs.",
        ("GET /v1/plans", "GET /v1/plans/{plan}"),
    ),
    Rule(
        "plan:put",
        _staff("admin"),
        "Make, change and remove plans.",
        ("PUT /v1/plans/{plan}", "DELETE /v1/plans/{plan}"),
    ),
    Rule(
        "plan:run",
        _staff("operator"),
        "Carry a plan out.",
        ("POST /v1/plans/{plan}/runs", "POST /v1/plans/{plan}/previews"),
    ),
    Rule(
        "vault:get",
        _staff("observer"),
        "Look at the vaults, what they hold, and what they do not agree about.",
        ("GET /v1/vaults", "GET /v1/vaults/{vault}", "GET /v1/vault_disagreements"),
    ),
    Rule("event:list", _staff("observer"), "Look at the events.", ("GET /v1/events",)),
    Rule("service:get", _staff("observer"), "Look at the service.", ("GET /v1/service",)),
    Rule("audit:list", _staff("admin"), "Read the audit trail.", ("GET /v1/audit",)),
]
_OF_KINDS = frozenset(rule.name for rule in RULES if not rule.operations)


def rule_of_kind(kind: str) -> str:
    """The rule that is asked before a run of a kind is begun, aborted or resumed."""
    own = f"run:{kind}"
    return own if own in _OF_KINDS else "run:other"


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
        asked = rule.operations or ("POST /v1/vnfs/{vnf}/runs",)
        found.append(
            policy.DocumentedRuleDefault(
                f"{SERVICE}:{rule.name}",
                rule.check,
                rule.about,
                [
                    {"method": method, "path": path}
                    for method, path in (operation.split() for operation in asked)
                ],
                scope_types=["project"],
            )
        )
    return found


class _Case(NamedTuple):
    """All that a rule looks at."""

    rule: str
    project: str | None
    """of the thing"""
    user_id: str
    roles: frozenset[str]
    all_projects: bool
    own_project: str | None
    """of the caller"""


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
        conf.set_override("policy_dirs", [], "oslo_policy")  # no other files than that one
        self._file, self._written_at = policy_file, 0
        self._enforcer.suppress_default_change_warnings = True
        self._enforcer.register_defaults(defaults())
        try:
            self._enforcer.load_rules(force_reload=True)
            if not self._enforcer.check_rules(raise_on_violation=True):
                raise ValueError("rules are wrong")
            if unknown := self._unknown():
                raise ValueError(f"there is no rule {', '.join(unknown)}")
        except (
            Exception
        ) as error:  # oslo.policy looks at a file without checking its kinds of values
            raise InvalidInput(f"the policy file {policy_file} of api: {error}") from error
        # the built-in rules never change, and look at nothing but what is in _Case; a file does
        # when it is edited, and may ask other servers
        self._decided: Callable[[_Case], bool] = (
            self._asked if policy_file else lru_cache(MOST_DECIDED)(self._asked)
        )

    def allows(self, caller: Caller, rule: str, project: str | None) -> bool:
        """Whether a caller may do what a rule is about to a thing of this project.

        Args:
            rule: as in `RULES`.
            project: None: of no project.
        """
        return self._decided(
            _Case(rule, project, caller.user_id, caller.roles, caller.all_projects, caller.project)
        )

    def _asked(self, case: _Case) -> bool:
        if self._file is not None:
            self._look_at(self._file)
        who: dict[str, Any] = {
            "user_id": case.user_id,
            "roles": sorted(case.roles),
            "all_projects": case.all_projects,
        }
        if case.own_project is not None:
            who["project"] = case.own_project
        # a thing without a project has no such key, so that no caller without one is its owner
        target = {} if case.project is None else {"project": case.project}
        return bool(self._enforcer.authorize(f"{SERVICE}:{case.rule}", target, who))

    def _unknown(self) -> list[str]:
        """The rules of this service that the file names and that there are not: a restriction that
        is misspelt would restrict nothing.
        """
        named, known = self._enforcer.file_rules, self._enforcer.registered_rules
        return sorted(n for n in named if n.startswith(f"{SERVICE}:") and n not in known)

    def _look_at(self, file: Path) -> None:
        """Have a file read as oslo.policy would not: of one that is gone it takes the defaults,
        which may allow what was denied, and one that is older than the one before it does not see.
        """
        try:
            written_at = file.stat().st_mtime_ns
        except OSError:
            self._enforcer.use_conf = False
            return
        self._enforcer.use_conf = True
        is_older, self._written_at = written_at < self._written_at, written_at
        if is_older:
            self._enforcer.load_rules(force_reload=True)

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

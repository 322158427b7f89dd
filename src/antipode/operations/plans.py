# SPDX-License-Identifier: Apache-2.0
"""Plans over many VNFs: kept, looked at, confirmed and carried out."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from antipode import identity, logs, yamlfile
from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Observer
from antipode.errors import (
    AntipodeError,
    Busy,
    InvalidInput,
    NotFound,
    PreflightFailed,
    SiteUnreachable,
    VaultError,
)
from antipode.model import plan_file
from antipode.model.plan_file import Group, PlanFile
from antipode.model.quota import QuotaNeed
from antipode.operations.approvals import carried_out, wanted
from antipode.runs import find_kind, runners
from antipode.runs import plan as run_kind
from antipode.runs.failover_fence import FenceFirst
from antipode.runs.plan import Plan, PlanRequest
from antipode.runs.plan_verbs import Given, Look, PlanVerb
from antipode.store.tables import RunRow
from antipode.vault import plans
from antipode.vault.ensemble import Vaults
from antipode.vault.plans import KeptPlan

Json = dict[str, Any]
LOOKS_AT_ONCE = 8
"""VNFs of a plan that are looked at at the same time."""


class Source(NamedTuple):
    """A plan, and where it comes from."""

    plan: PlanFile
    words: str


@dataclass(frozen=True)
class Prepared:
    """A plan that may begin once the operator has confirmed it: nothing was changed."""

    kind: Plan
    source: Source
    to: str | None
    looks: Mapping[str, Look]
    """by VNF, those that nothing stands in the way of"""
    in_the_way: Mapping[str, AntipodeError]
    """by VNF, what stands in the way of the others"""
    problems: Sequence[str] = ()
    """what stands in the way of all of them together"""
    lost_vaults: Sequence[str] = ()
    fence: FenceFirst | None = None

    @property
    def plan(self) -> PlanFile:
        return self.source.plan

    def must_begin(self, *, without: bool) -> None:
        """See that the plan may begin.

        Args:
            without: whether it begins without the VNFs that something stands in the way of.

        Raises:
            PreflightFailed: it may not; all that stands in the way is named.
            InvalidInput: there is nothing to do.
        """
        found = [] if without else [f"VNF {vnf}: {why}" for vnf, why in self.in_the_way.items()]
        if found or self.problems:
            raise PreflightFailed(
                f"{self.kind.verb.name} of plan {self.plan.plan}", [*self.problems, *found]
            )
        if all(look.done is not None for look in self.looks.values()):
            raise InvalidInput(
                f"nothing is to be done for plan {self.plan.plan}: each of its VNFs is done, or"
                " left out"
            )


# ---- plans as they are kept ----


def read_file(path: Path, config: Config) -> PlanFile:
    """The plan in a plan file.

    Raises:
        InvalidFile: the file cannot be read, is wrong, or does not fit the configuration; every
            mistake is named with its line and field.
    """
    return yamlfile.read(path, PlanFile, lambda plan: _mistakes(plan, config))


def read_document(document: Json, config: Config) -> PlanFile:
    """The plan in a document, as of a plan file.

    Raises:
        InvalidInput: it is wrong, or does not fit the configuration; every mistake is named.
    """
    try:
        plan = PlanFile.model_validate(document)
    except ValidationError as error:
        found = [(one["loc"], one["msg"]) for one in error.errors()]
    else:
        found = list(_mistakes(plan, config))
        if not found:
            return plan
    words = "; ".join(f"{'.'.join(map(str, place))}: {why}" for place, why in found[:10])
    raise InvalidInput(f"the plan is wrong: {words}")


def put(deployment: Deployment, plan: PlanFile) -> Json:
    """Keep a plan in the vaults, signed and encrypted; a record of it. One of the same name is
    replaced. Each vault that answers gets it, also where it had this version before.

    Raises:
        KeyMissing: this host has no keys, and another host has signed what the vaults have of the
            plan or its VNFs.
        KeyUnusable: a key cannot be used.
        VaultError, SiteUnreachable: no vault answers.
    """
    vaults = _vaults(deployment)
    was = _is_there(vaults, plan.plan)
    serial = plans.write(vaults, plan.plan, plan, _now(), identity.current())
    kept = plans.read(vaults, plan.plan)
    return {
        "plan": plan.plan,
        "was": "replaced" if was else "added",
        "version": serial,
        "vnfs": len(plan.vnfs),
        "vaults": list(kept.places),
        "not_in": list(vaults.left_out),
        "unknown_vnfs": sorted(set(plan.vnfs) - set(deployment.vnfs.names())),
    }


def listed(deployment: Deployment) -> Iterator[Json]:
    """A record of each plan in the vaults; `damaged` says why one cannot be read.

    Raises:
        VaultError, SiteUnreachable: no vault answers.
    """
    vaults = _vaults(deployment)
    for name in plans.names(vaults):
        try:
            kept = plans.read(vaults, name)
        except NotFound:
            continue  # it was removed
        except AntipodeError as error:
            yield {"plan": name, "damaged": str(error)}
            continue
        yield {
            "plan": name,
            "to": kept.plan.to,
            "groups": len(kept.plan.groups),
            "vnfs": len(kept.plan.vnfs),
            "version": kept.serial,
            "at": kept.at,
            "by": kept.by,
            "damaged": None,
        }


def show(deployment: Deployment, name: str) -> Json:
    """A plan in the vaults, whole.

    Raises:
        NotFound: there is none.
        KeyMissing, VaultCorrupt: it cannot be read.
        VaultError, SiteUnreachable: no vault answers.
    """
    kept = plans.read(_vaults(deployment), name)
    return {
        "plan": name,
        "version": kept.serial,
        "at": kept.at,
        "by": kept.by,
        "signed_by": kept.signed_by,
        "vaults": list(kept.places),
        "to": kept.plan.to,
        "at_once": kept.plan.at_once,
        "on_failure": kept.plan.on_failure,
        "groups": [g.model_dump(mode="json", exclude_none=True) for g in kept.plan.groups],
        "steps": [plan_file.words(step) for step in kept.plan.steps],
    }


def must_be_there(deployment: Deployment, name: str) -> None:
    """See that the vaults have a plan, readable or not.

    Raises:
        NotFound: they have none, or it was removed.
        VaultError, SiteUnreachable: no vault answers.
    """
    if not _is_there(_vaults(deployment), name):
        raise NotFound(
            f"the vaults have no plan {name}, or it was removed; see: antipode plan list"
        )


def _is_there(vaults: Vaults, name: str) -> bool:
    """Whether the vaults have a plan that was not removed, readable or not."""
    try:
        plans.read(vaults, name)
    except NotFound:
        return False
    except AntipodeError:
        if name not in plans.names(vaults):
            raise
    return True


def remove(deployment: Deployment, name: str) -> Json:
    """Remove a plan from the vaults; a record of it. Its runs stay in the history.

    Raises:
        NotFound: there is none.
        VaultError, SiteUnreachable: no vault answers.
    """
    must_be_there(deployment, name)
    plans.write(_vaults(deployment), name, None, _now(), identity.current())
    return {"plan": name, "removed": True}


def find(
    deployment: Deployment,
    name: str,
    verb: str,
    to: str | None = None,
    file: Path | None = None,
    lost: Collection[str] = (),
) -> Source:
    """A plan, from a file of this host, else from the vaults.

    Args:
        to: the site where its VNFs are recovered.
        file: of this host.
        lost: vaults that the operator has given up: they are not asked.

    Raises:
        InvalidFile: the file has mistakes.
        InvalidInput: it is of another plan.
        NotFound, KeyMissing, VaultCorrupt: the vaults have no such plan that can be used.
        VaultError, SiteUnreachable: no vault answers.
    """
    if file is not None:
        plan = read_file(file, deployment.config)
        if plan.plan != name:
            raise InvalidInput(f"file {file} has plan {plan.plan}, not {name}")
        return Source(plan, f"from file {file}")
    failed: set[str] = set()
    if not run_kind.OF_VERB[verb].verb.calls_active_site:
        states = deployment.states.all().values()
        failed = {state.active_site for state in states} - {to}
    kept = _read(deployment, name, failed, lost)
    goals = {to} if to else {kept.plan.to, *(group.to for group in kept.plan.groups)}
    if failed & goals:  # others are active there, and its vault is needed
        kept = _read(deployment, name, failed - goals, lost)
    mistakes = list(_mistakes(kept.plan, deployment.config))
    if mistakes:
        raise InvalidInput(f"plan {name} does not fit this host: {mistakes[0][1]}")
    return Source(
        kept.plan,
        f"version {kept.serial} of {kept.at} by {kept.by}, signed by key {kept.signed_by[:16]}",
    )


def _read(deployment: Deployment, name: str, failed: set[str], lost: Collection[str]) -> KeptPlan:
    """A plan from the vaults apart from those at some sites; from all of them where that does not
    help. Raises as `plans.read`.
    """
    try:
        return plans.read(_vaults(deployment, failed, lost), name)
    except (NotFound, VaultError, SiteUnreachable):
        if not failed:
            raise
    return plans.read(_vaults(deployment, lost=lost), name)


def _mistakes(plan: PlanFile, config: Config) -> Iterator[yamlfile.Problem]:
    yield from plan_file.mistakes(plan)
    known = ", ".join(config.sites)
    places: list[tuple[tuple[int | str, ...], str | None]] = [(("to",), plan.to)]
    places += [(("groups", n, "to"), group.to) for n, group in enumerate(plan.groups)]
    for place, site in places:
        if site is not None and site not in config.sites:
            yield place, f"site {site} is not in the configuration; sites there: {known}"
    for number, step in enumerate(plan.steps):
        for problem in runners.missing(config, [step]):
            yield ("steps", number, "script", "runner"), problem


def _vaults(
    deployment: Deployment, apart_from: Collection[str] = (), lost: Collection[str] = ()
) -> Vaults:
    return deployment.vaults(apart_from=apart_from, lost=lost)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# ---- plans that are carried out ----


def prepare(
    deployment: Deployment,
    source: Source,
    verb: str,
    to: str | None = None,
    lost_vaults: Sequence[str] = (),
    fence: FenceFirst | None = None,
) -> Prepared:
    """Look at each VNF of a plan. Nothing is changed.

    Args:
        verb: precheck, drill, failover, migrate or failback.
        to: the site where they are recovered; by default as the plan says.
        lost_vaults: vaults that the operator has given up.
        fence: whether each failover fences the copy that it leaves first.

    Raises:
        NotFound: there is no such site.
        InvalidInput: no site is named where one must be.
    """
    kind, plan = run_kind.OF_VERB[verb], source.plan
    if to is not None:
        deployment.config.site(to)
    sites = {vnf: _site(kind.verb, plan, group, to) for group in plan.groups for vnf in group.vnfs}
    elsewhere = _in_other_plans(deployment, kind.verb)
    given = Given(list(lost_vaults), fence)
    look = partial(_look, deployment, kind.verb, given, sites, elsewhere)
    with ThreadPoolExecutor(
        LOOKS_AT_ONCE, "look", initializer=logs.adopt, initargs=(logs.current_run(),)
    ) as pool:
        found = dict(zip(plan.vnfs, pool.map(look, plan.vnfs), strict=True))
    looks = {vnf: one for vnf, one in found.items() if isinstance(one, Look)}
    return Prepared(
        kind,
        source,
        to or plan.to,
        looks,
        {vnf: one for vnf, one in found.items() if not isinstance(one, Look)},
        list(_quotas_together(looks)) if kind.verb.adds_up else [],
        list(lost_vaults),
        fence,
    )


def request(prepared: Prepared) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun. VNFs that something stands
    in the way of are left out.
    """
    looks = prepared.looks
    row = run_kind.requested(
        prepared.kind,
        PlanRequest(
            plan=prepared.plan,
            to=prepared.to,
            targets=[look.target for look in looks.values() if look.done is None],
            done={vnf: look.done for vnf, look in looks.items() if look.done is not None},
            left_out={vnf: str(why) for vnf, why in prepared.in_the_way.items()},
            source=prepared.source.words,
            lost_vaults=list(prepared.lost_vaults),
            fence=prepared.fence,
            confirmed_at=time.time(),
        ),
    )
    return wanted(row, [look.definition for look in looks.values() if look.done is None])


def carry_out(deployment: Deployment, kind: Plan, row: RunRow, observer: Observer) -> Json:
    """Carry a plan out; a record of it.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: the same is done with the plan already.
        AntipodeError: VNFs have failed, or a step has; the others are as they are, and the run can
            be resumed.
    """
    return carried_out(deployment, kind, row, observer)


def _site(verb: PlanVerb, plan: PlanFile, group: Group, to: str | None) -> str | None:
    """The site where the VNFs of a group are recovered.

    Raises:
        InvalidInput: none is named, and one must be.
    """
    if verb.name == "failback":
        return to  # the others name where it comes from
    site = to or group.to or plan.to
    if site is None and verb.wants_site:
        raise InvalidInput(
            f"plan {plan.plan} does not say where group {group.name} is recovered: name the site"
            " with --to, or put `to` into the plan"
        )
    return site


def _look(
    deployment: Deployment,
    verb: PlanVerb,
    given: Given,
    sites: Mapping[str, str | None],
    elsewhere: Mapping[str, str],
    vnf: str,
) -> Look | AntipodeError:
    """One VNF, or what stands in its way."""
    try:
        if (other := elsewhere.get(vnf)) is not None:
            raise Busy(
                f"{other} has it in its plan and has not ended. If its process died: antipode run"
                f" resume {other}, or antipode run abort {other}"
            )
        _no_run_in_the_way(deployment, verb, vnf)
        return verb.look(deployment, vnf, sites[vnf], given)
    except AntipodeError as error:
        return error


def _no_run_in_the_way(deployment: Deployment, verb: PlanVerb, vnf: str) -> None:
    for row in deployment.runs.open(vnf):
        other = find_kind(row.kind)
        if row.kind == verb.child.name or (other and not verb.child.may_begin_beside(other)):
            raise Busy(f"{row.id} is under way; wait for it, or see: antipode run show {row.id}")
        if other and other.is_recovery and verb.child.is_recovery:
            raise Busy(f"{row.id} is under way, and moves it; see: antipode run show {row.id}")


def _in_other_plans(deployment: Deployment, verb: PlanVerb) -> dict[str, str]:
    """The VNFs of plans under way beside which a verb does not begin, with the run."""
    of_verbs = run_kind.OF_VERB.values()
    kinds = {kind.name for kind in of_verbs if not verb.may_begin_beside(kind.verb)}
    return {
        target["vnf"]: row.id
        for row in deployment.runs.open()
        if row.kind in kinds
        for target in (row.request or {}).get("targets", ())
    }


def _quotas_together(looks: Mapping[str, Look]) -> Iterator[str]:
    """The quotas that suffice for each VNF, and not for all of them."""
    needs: dict[tuple[str, str], list[QuotaNeed]] = {}
    for look in looks.values():
        for need in (n for n in look.quotas if n.adds_up):
            needs.setdefault((look.target.site, need.resource), []).append(need)
    for (site, _), alike in sorted(needs.items()):
        needed, freed = sum(n.needed for n in alike), sum(n.freed for n in alike)
        whole = alike[0].model_copy(update={"needed": needed, "freed": freed})
        if whole.is_short and not any(need.is_short for need in alike):
            yield f"{site}: {whole}, for {len(alike)} VNFs together"

# SPDX-License-Identifier: Apache-2.0
"""The kind of run that looks whether a VNF could be recovered at a site now. It creates nothing,
and does not call the active site.
"""

from __future__ import annotations

from antipode.engine.deployment import Deployment
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import NotFound
from antipode.model.base import Model
from antipode.runs import looks, preparation
from antipode.store.tables import RunRow


class PrecheckRequest(Model):
    """A precheck as it was asked for."""

    site: str
    """where the VNF would be recovered"""
    part_of: str | None = None
    """the run that it is a part of"""


def requested(vnf: str, site: str) -> RunRow:
    """A precheck of a VNF for a site that is not kept yet."""
    return new_run(KIND, vnf, PrecheckRequest(site=site).model_dump(mode="json"))


class Precheck(RunKind):
    name = "precheck"
    flow_version = 1
    priority = Priority.UPKEEP
    persona = Persona.MEMBER
    rolls_back_failures = True
    works_at_active_site = False
    creates = ""

    def site_of(self, row: RunRow) -> str:
        return PrecheckRequest.model_validate(row.request or {}).site

    def execute(self, run: Run) -> None:
        _precheck(run)

    def roll_back(self, run: Run) -> list[str]:
        return []

    def point_of_no_return(self, run: Run) -> str | None:
        return None


KIND = Precheck()


def _precheck(run: Run) -> None:
    site = PrecheckRequest.model_validate(run.request).site
    run.result.update(vnf=run.vnf, site=site)
    seen = looks.look(
        looks.Subject(run.deployment, run.vnf, site, run.site, run.go_on), run.timeline
    )
    if seen.recovery_point is not None:
        run.result.update(recovery_point=seen.recovery_point, age_s=seen.age_s)
    run.result.update(
        estimated_s=preparation.earlier_rto_s(run.deployment, run.vnf),
        verdict=seen.level.value,
        findings=[f.model_dump(mode="json") for f in seen.findings],
    )


def default_site(deployment: Deployment, vnf: str) -> str:
    """The first site of a VNF, in the order of its file, at which it is not active as far as this
    host knows. No site and no vault is called.

    Raises:
        NotFound: this host has no file of the VNF.
    """
    local, known = deployment.vnfs.find(vnf), deployment.states.find(vnf)
    if local is None:
        raise NotFound(f"this host has no file of VNF {vnf}: name the site with --to SITE")
    active = known.active_site if known else local.primary
    return next(site for site in local.sites if site != active)

# SPDX-License-Identifier: Apache-2.0
"""The kind of run that removes the standing volumes of a VNF at a site, so that from then on none
are said to stand there.
"""

from __future__ import annotations

from pydantic import ValidationError

from antipode.engine.deployment import Deployment
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import Busy, InvalidInput
from antipode.model.base import Model
from antipode.model.standing import is_standing_of
from antipode.recover.standing import Hands, StandingSteps, remove_all
from antipode.runs import find_kind
from antipode.runs.standing_status import REMOVAL
from antipode.store.tables import RunRow


class RemovalRequest(Model):
    site: str

    @classmethod
    def of(cls, row: RunRow) -> RemovalRequest:
        """The request of a run.

        Raises:
            InvalidInput: this antipode cannot read it.
        """
        try:
            return cls.model_validate(row.request or {})
        except ValidationError as error:
            raise InvalidInput(f"the request of {row.id} for {row.vnf} cannot be read") from error


def requested(deployment: Deployment, vnf: str, site: str) -> RunRow:
    """A run that is not kept yet.

    Raises:
        Busy: a run that uses the volumes has not ended.
    """
    for row in deployment.runs.open(vnf):
        kind = find_kind(row.kind)
        if kind is not None and (kind.is_recovery or kind.gives_way):
            raise Busy(f"{row.id} of {vnf} has not ended, and may use its standing volumes")
    return new_run(KIND, vnf, RemovalRequest(site=site).model_dump(mode="json"))


class StandingRemoval(RunKind):
    name = REMOVAL
    flow_version = 1
    priority = Priority.UPKEEP
    persona = Persona.OPERATOR
    rolls_back_failures = True
    works_at_active_site = False
    creates = ""

    @property
    def command(self) -> str:
        return "standing remove"

    @property
    def gives_way(self) -> bool:
        return True

    def site_of(self, row: RunRow) -> str:
        return RemovalRequest.of(row).site

    def execute(self, run: Run) -> None:
        site = run.site(RemovalRequest.of(run.row).site)
        vnf = run.deployment.vnfs.get(run.vnf)
        mover = run.deployment.mover(site, vnf.primary, vnf.store, None)
        there = [v for v in site.volumes.volumes() if is_standing_of(v, run.vnf)]
        run.touches_clouds()
        with run.timeline.step(StandingSteps.REMOVE, site.name) as step:
            left = remove_all(Hands(site, run.vnf, mover, run.timeline, run.go_on))
            step.result(volumes=len(there), left=left)
        run.result.update(vnf=run.vnf, site=site.name, volumes=len(there), left=left)

    def roll_back(self, run: Run) -> list[str]:
        """Nothing is undone: what is left goes the next time."""
        return []

    def point_of_no_return(self, run: Run) -> str | None:
        return None


KIND = StandingRemoval()

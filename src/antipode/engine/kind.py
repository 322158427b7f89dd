# SPDX-License-Identifier: Apache-2.0
"""A kind of run: everything that the engine, the service and the operations decide by kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, ClassVar

from antipode.config import Config
from antipode.model.steps import StepName, Timeline
from antipode.store.tables import USUAL_PRIORITY

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment
    from antipode.engine.run import Run
    from antipode.model.runbook import Deliberate
    from antipode.store.tables import RunRow


class Priority(IntEnum):
    """The order in which runs begin, and get slots and calls; the lowest first."""

    RECOVERY = 0
    PROTECTION = USUAL_PRIORITY
    UPKEEP = 20


class Persona(StrEnum):
    """Users of the API with one task."""

    MEMBER = "member"
    OPERATOR = "operator"


class RunKind(ABC):
    """One kind of run. An instance has no state: all of it is in the run."""

    name: ClassVar[str]
    flow_version: ClassVar[int]
    """raised when a run that an older antipode began cannot be resumed by this one"""
    priority: ClassVar[Priority]
    rolls_back_failures: ClassVar[bool]
    """whether a run that fails is rolled back at once; else it can be resumed"""
    works_at_active_site: ClassVar[bool]
    """whether it needs the site where the VNF runs"""
    creates: ClassVar[str]
    """the resources that a rollback removes, for people; empty where it removes none"""
    transition: ClassVar[str] = ""
    """the name of the state of a VNF while such a run is open; empty where there is none"""
    volume_step: ClassVar[tuple[StepName, str] | None] = None
    """the step in which the bytes of a volume move, and a participle for volumes after it"""
    measures_recovery: ClassVar[bool] = False
    """whether it brings a VNF back, so that its steps say how long that takes"""
    compare_step: ClassVar[StepName | None] = None
    """the step in which the content of a disk is compared, before its server is booted"""
    is_clean_when_done: ClassVar[bool] = False
    """whether a run that one process has executed from its begin to a success, with all its steps,
    has left nothing; there are too many of some kinds to look at each
    """
    adds_points: ClassVar[bool] = False
    """whether it makes recovery points, after which others may expire"""
    persona: ClassVar[Persona | None] = None
    """whose default roles allow to ask for it over the API; None: nothing asks for it by a name"""
    also_asked_as: ClassVar[Sequence[str]] = ()
    """further names under which it is asked for"""

    @property
    def command(self) -> str:
        """The command that begins such a run, without the VNF."""
        return self.name

    def asked_for(self, row: RunRow, name: str) -> str:
        """The command that asks for a run like this one.

        Args:
            name: of what it is about: a VNF, or a plan over many.
        """
        return f"{self.command} {name}"

    @property
    def lane(self) -> str:
        """Runs of one lane share the limit of runs that a service executes at once."""
        return self.name

    @property
    def is_recovery(self) -> bool:
        return self.priority is Priority.RECOVERY

    @property
    def gives_way(self) -> bool:
        """Whether a recovery asks such runs to abort, and they do not begin while one is open."""
        return self.works_at_active_site

    def may_begin_beside(self, other: RunKind) -> bool:
        """Whether a run of this kind may begin while one of another kind is open for its VNF."""
        return not (self.gives_way and other.is_recovery)

    def displaces(self, other: RunKind) -> bool:
        """Whether a run of this kind asks an open one of another kind to abort when it begins."""
        return self.is_recovery and other.gives_way

    def confirmation_lasts_s(self, config: Config) -> float | None:
        """For how many seconds an operator's confirmation is valid; None: it needs none."""
        return None

    def approved_as(self, row: RunRow) -> Sequence[Deliberate]:
        """The verbs whose approvals a run needs that an operator asks for: of all of them, where it
        does what goes by several names.
        """
        return ()

    def words(self, row: RunRow) -> list[str]:
        """What a run is going to do, for those that approve it; a line each."""
        return []

    def points_in_use(self, row: RunRow) -> Mapping[str, str]:
        """The recovery points that a run works from, by VNF: they must not go while the run has not
        ended.
        """
        point = (row.request or {}).get("recovery_point")
        return {} if point is None else {row.vnf: str(point)}

    @abstractmethod
    def site_of(self, row: RunRow) -> str:
        """The site at which a run creates resources."""

    @abstractmethod
    def execute(self, run: Run) -> None:
        """Begin, or resume from the last step that was finished. Fills the run's result."""

    def rolls_back(self, run: Run) -> bool:
        """Whether a run that has failed is rolled back at once."""
        return self.rolls_back_failures

    @abstractmethod
    def roll_back(self, run: Run) -> list[str]:
        """Remove everything that the run created; it may be called again.

        Returns:
            what stays, and why.

        Raises:
            AntipodeError: the rollback must be tried again.
        """

    @abstractmethod
    def point_of_no_return(self, run: Run) -> str | None:
        """Why the run cannot be rolled back any more; None while it can.

        Raises:
            AntipodeError: this cannot be known now.
        """

    def may_have_orphans(self, row: RunRow) -> bool:
        """Whether resources may exist that a run which has ended should not have left."""
        return False

    def remove_orphans(
        self,
        deployment: Deployment,
        rows: Sequence[RunRow],
        timeline: Timeline,
        alone: Callable[[], None],
    ) -> list[str]:
        """Remove what runs of this kind and of one VNF and site left; may be called again.

        Args:
            rows: runs that have ended and for which `may_have_orphans` is true.
            alone: called before each change; raises when another run of the VNF is open.

        Returns:
            what stays, and why.
        """
        return []

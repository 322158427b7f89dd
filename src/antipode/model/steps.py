# SPDX-License-Identifier: Apache-2.0
"""The steps of runs: their names, and the timeline as protect and recover see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import Protocol


class StepName(Enum):
    """A step: its number in the mission (empty for what the mission does not number), its words.

    An option or a kind of run that has steps of its own defines them in an enum of this class.
    """

    def __init__(self, number: str, words: str) -> None:
        self.number = number
        self.words = words


class Steps(StepName):
    """The steps of the runs that antipode brings along."""

    CONNECT = "", "connect"
    CONNECT_ELSEWHERE = "", "connect to the other sites"
    CHOOSE_CAPTURED = "1.1", "choose the members that are captured"
    SELECT_MEMBERS = "1.1", "select members"
    DISCOVER = "1.1", "discover servers and volumes"
    CHECK = "", "check before anything is frozen"
    QUIESCE = "1.2", "quiesce"
    SNAPSHOT = "1.3", "snapshot all volumes"
    UNQUIESCE = "1.4", "unquiesce"
    START_BACKUP = "1.5", "volume from snapshot, by cinder-backup"
    COMPARE_CHAINS = "1.6", "compare the chains with the backup store"
    BACK_UP = "1.6", "back up and export record"
    VERIFY_BACKUPS = "1.6", "verify the backups in the store"
    COMMIT = "", "commit the recovery point"
    REMOVE_SNAPSHOTS = "1.5", "remove temporary snapshots"
    REMOVE_BACKUPS = "1.6", "remove unfinished backups"
    JUDGE_POINTS = "", "see which recovery points expire"
    WITHDRAW_POINTS = "", "withdraw recovery points"
    REMOVE_EXPIRED = "", "remove backups that no recovery point needs"
    FORGET_POINTS = "", "remove withdrawn recovery points from the vault"
    CLAIM_GENERATION = "", "claim the next generation"
    IMPORT_RECORDS = "1.7.1", "import backup records"
    RESTORE_VOLUME = "1.7.1", "restore volume"
    CREATE_NETWORKS = "1.7.2", "create networks and security groups"
    START_DHCP = "1.7.2", "have DHCP serve the new subnets"
    CREATE_PORTS = "1.7.2", "create ports"
    LOOK_FOR_OTHER_COPY = "1.7.2", "see whether another copy answers"
    BOOT_SERVER = "1.7.2", "boot server"
    SWITCH_OFF = "1.7.2", "switch off server"
    CUT_OFF = "1.7.2", "see what answers without the port"
    PROBE = "1.7.2", "await answer"
    COMPLETE_GENERATION = "", "make this the active site"
    SWITCH_DNS = "", "switch DNS record"
    PUT_DNS_BACK = "", "put DNS record back"
    RELEASE_GENERATION = "", "give the VNF back to its former site"
    REMOVE_FAILED_SERVER = "1.7.2", "remove server in ERROR"
    REMOVE_SERVERS = "", "remove servers"
    REMOVE_PORTS = "", "remove ports"
    REMOVE_NETWORKS = "", "remove networks and security groups"
    REMOVE_VOLUMES = "", "remove volumes"
    FIND_OLD_COPY = "", "find the old copy"
    FENCE = "", "cut off, stop and lock the old copy"
    RELEASE_FENCE = "", "undo the fence"
    REMOVE_SECOND_VOLUMES = "", "remove second volumes"


class Step(Protocol):
    """One step under way."""

    def result(self, **facts: object) -> None:
        """Keep facts (JSON values; names carry units: `bytes`, `seconds`) with the step."""

    def waits_for(self, what: str) -> None:
        """Say what the step waits for now; the same words again say that it still does."""


class Timeline(Protocol):
    """Where the steps of a run are kept: name, resource, start, end, result."""

    @contextmanager
    def step(self, name: StepName, resource: str = "") -> Iterator[Step]:
        """A step that starts now and ends with the block.

        An exception that leaves the block is the step's failure. Called from several threads.
        """
        ...

    def past(
        self,
        name: StepName,
        resource: str,
        *,
        started: datetime,
        ended: datetime,
        error: str | None = None,
        **facts: object,
    ) -> None:
        """Keep a step that is already over.

        Nothing is written while members are frozen, so the steps of the quiesce window are kept
        afterwards.

        Args:
            started: when it began, aware UTC.
            ended: when it was over, aware UTC.
            error: why it failed; None when it did not.
        """
        ...


class Unrecorded:
    """A timeline that keeps nothing; satisfies `Timeline` and `Step`."""

    @contextmanager
    def step(self, name: StepName, resource: str = "") -> Iterator[Unrecorded]:
        yield self

    def past(self, name: StepName, resource: str, **facts: object) -> None:
        """Nothing is kept."""

    def result(self, **facts: object) -> None:
        """Nothing is kept."""

    def waits_for(self, what: str) -> None:
        """Nothing is kept."""

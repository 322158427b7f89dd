# SPDX-License-Identifier: Apache-2.0
"""The record that a server is quiesced: its task state, and one row of its system metadata, changed
together or not at all.

The task state is Nova's own lock: while a server has one, whatever part of Nova is asked refuses
what would hurt a frozen guest, and of two requests that set it at once one wins. It is also
indexed, so that the quiesced servers of a whole cell are found at no cost.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid
from typing import Any

import sqlalchemy
from nova.compute import vm_states
from nova.db.main import api as main_db
from nova.db.main import models
from oslo_db import api as oslo_db_api
from oslo_utils import timeutils

QUIESCING, QUIESCED, UNQUIESCING = STATES = ("quiescing", "quiesced", "unquiescing")
"""The task states: a freeze is under way, the guest is frozen, a thaw is under way or due.

In each of them it may be frozen.
"""

LOST = "lost"
"""No task state: of a record that is stored no more, since an admin has reset the state, while its
guest may be frozen.
"""

# Between two attempts to thaw a server: soon, since it is an outage, but no flood in the log.
RETRY_SECONDS = 5

# So long at least is it tried to thaw a guest that may or may not be frozen: an agent
# that died is started again in seconds, one that waits for its storage answers when that is back.
GIVE_UP_SECONDS = 120

KEY = "nova_quiesce"
"""A key of system metadata: no API shows those, no image inherits this one, and it goes away with
the server.
"""

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_LONG_AGO = "1970-01-01T00:00:00Z"


@dataclasses.dataclass(frozen=True)
class Record:
    """One quiesce of one server, as it is stored. Times are UTC in ISO 8601, to the second."""

    state: str
    id: str
    """tells this quiesce from any other of the same server; empty when Nova has lost our row"""
    since: str
    expires_at: str
    free_at: str
    """no other process acts before this moment; a freeze or thaw still under way then belongs to a
    dead process
    """
    given_up_at: str | None = None
    """an agent that is silent until then is not asked to thaw again; None when its guest is known
    to be frozen: then it always is
    """

    @classmethod
    def new(cls, state: str, expires_in: float, free_in: float) -> Record:
        """Return the record of a quiesce that begins now and is not confirmed yet; both times in
        seconds.
        """
        now, given_up_at = (
            timeutils.utcnow().strftime(_FORMAT),
            in_seconds(max(expires_in, GIVE_UP_SECONDS)),
        )
        return cls(
            state, uuid.uuid4().hex, now, in_seconds(expires_in), in_seconds(free_in), given_up_at
        )

    @property
    def due_at(self) -> str:
        """The moment from which on anybody is to thaw the server."""
        return max(self.expires_at, self.free_at) if self.state == QUIESCED else self.free_at

    @property
    def is_due(self) -> bool:
        return seconds_until(self.due_at) <= 0

    @property
    def is_given_up(self) -> bool:
        return self.given_up_at is not None and seconds_until(self.given_up_at) <= 0

    @property
    def is_busy(self) -> bool:
        """Whether somebody freezes or thaws the guest right now, or will in some seconds, so that
        everybody else keeps away.
        """
        return self.state != QUIESCED and not self.is_due

    def become(self, state: str, **changes: Any) -> Record:
        """Return this record in another state, with other times."""
        return dataclasses.replace(self, state=state, **changes)

    def lost(self) -> Record:
        """Return the record of a server that is to be thawed now and does not have it any more."""
        return self.become(
            LOST, free_at=self.since, given_up_at=max(self.expires_at, in_seconds(GIVE_UP_SECONDS))
        )

    @property
    def row(self) -> str:
        """The text stored beside the state; a value of system metadata has at most 255
        characters.
        """
        return json.dumps([self.id, self.since, self.expires_at, self.free_at, self.given_up_at])

    @classmethod
    def read(cls, state: str, row: str | None) -> Record:
        # A Nova process that saves the system metadata that it had loaded before we added our row
        # removes it: such a server is due now. Fields that a newer release may have appended
        # are left to it.
        return (
            cls(state, *json.loads(row)[:5])
            if row
            else cls(state, "", _LONG_AGO, _LONG_AGO, _LONG_AGO)
        )


def in_seconds(seconds: float) -> str:
    """Return the moment in so many seconds as records keep it, never too early."""
    return (
        timeutils.utcnow() + datetime.timedelta(seconds=seconds, microseconds=999_999)
    ).strftime(_FORMAT)


def seconds_until(moment: str) -> float:
    """Return how many seconds are left until a moment that a record keeps; negative when it is
    over.
    """
    return (datetime.datetime.strptime(moment, _FORMAT) - timeutils.utcnow()).total_seconds()


def of(context: Any, server_id: str) -> Record | None:
    """Return the record of a server; None when it is not quiesced.

    The context is targeted at the server's cell.
    """
    found: dict[str, Record] = _found(context, models.Instance.uuid == server_id)
    return found.get(server_id)


def all_of_cell(context: Any) -> dict[str, Record]:
    """Return the records of all quiesced servers, by their ids, of the cell that the context is
    targeted at.
    """
    found: dict[str, Record] = _found(context)
    return found


@main_db.pick_context_manager_reader
def _found(context: Any, *which: Any) -> dict[str, Record]:
    ours = sqlalchemy.and_(
        models.InstanceSystemMetadata.instance_uuid == models.Instance.uuid,
        models.InstanceSystemMetadata.key == KEY,
        models.InstanceSystemMetadata.deleted == 0,
    )
    query = context.session.query(
        models.Instance.uuid, models.Instance.task_state, models.InstanceSystemMetadata.value
    )
    query = query.outerjoin(models.InstanceSystemMetadata, ours)
    query = query.filter(
        models.Instance.deleted == 0, models.Instance.task_state.in_(STATES), *which
    )
    return {server_id: Record.read(state, row) for server_id, state, row in query}


def replace(context: Any, server_id: str, old: Record | None, new: Record | None) -> bool:
    """Make `new` of `old` in one transaction; None is a server without a task. False, and no
    change, when it is not `old` any more.

    :param context: a request context targeted at the server's cell
    """
    try:
        _replace(context, server_id, old, new)
    except _Lost:
        return False
    return True


class _Lost(Exception):
    """Undoes the transaction: the record is not what it was taken for."""


@oslo_db_api.wrap_db_retry(max_retries=5, retry_on_deadlock=True)
@main_db.pick_context_manager_writer
def _replace(context: Any, server_id: str, old: Record | None, new: Record | None) -> None:
    servers = context.session.query(models.Instance).filter_by(
        uuid=server_id, deleted=0, task_state=old.state if old else None
    )
    if old is None:
        servers = servers.filter_by(vm_state=vm_states.ACTIVE)
    if not servers.update({"task_state": new.state if new else None}, synchronize_session=False):
        raise _Lost
    rows = context.session.query(models.InstanceSystemMetadata).filter_by(
        instance_uuid=server_id, key=KEY
    )
    if old and old.id:
        # Compared on its own, since a database may judge all of one statement by what it saw before
        # it waited for another transaction.
        same = rows.filter_by(value=old.row, deleted=0)
        if not (
            same.update({"value": new.row}, synchronize_session=False)
            if new
            else same.delete(synchronize_session=False)
        ):
            raise _Lost
    else:
        rows.delete(synchronize_session=False)
        if new:
            context.session.add(
                models.InstanceSystemMetadata(instance_uuid=server_id, key=KEY, value=new.row)
            )


@main_db.pick_context_manager_writer
def forget(context: Any, server_id: str | None = None) -> list[Record]:
    """Remove the rows to which no task state belongs any more, of one server or of the whole cell;
    return their records.

    An admin's reset of the state leaves such a row, or an evacuation.
    """
    quiesced = sqlalchemy.exists().where(
        models.Instance.uuid == models.InstanceSystemMetadata.instance_uuid,
        models.Instance.task_state.in_(STATES),
    )
    rows = context.session.query(models.InstanceSystemMetadata).filter(
        models.InstanceSystemMetadata.key == KEY, ~quiesced
    )
    if server_id:
        rows = rows.filter_by(instance_uuid=server_id)
    found = [Record.read(LOST, row.value).lost() for row in rows]
    rows.delete(synchronize_session=False)
    return found

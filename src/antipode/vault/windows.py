# SPDX-License-Identifier: Apache-2.0
"""The time in which a failover can be undone, as its claim says it, and its early end: a signed
statement in the vaults, `<vnf>/window-0000000002.committed`, which is never changed or removed.
"""

from __future__ import annotations

import logging
import socket
import time
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field

from antipode.errors import InvalidInput, VaultError
from antipode.model.base import Model
from antipode.model.state import HIGHEST_GENERATION, Moment, ProtectedVnf
from antipode.model.vnf import Name
from antipode.vault import Vault, statements
from antipode.vault.statements import Kind

COMMITTED = ".committed"
LOG = logging.getLogger(__name__)


class Commitment(Model):
    """A generation that is not going to be undone."""

    format: Literal[1] = 1
    vnf: Name
    generation: Annotated[int, Field(ge=2, le=HIGHEST_GENERATION)]
    host: str
    since: Moment


COMMITMENT = Kind(
    Commitment,
    "application/vnd.antipode.commitment+json",
    lambda c: _name(c.vnf, c.generation),
)


def open_until(vault: Vault, state: ProtectedVnf, now: float | None = None) -> float | None:
    """Until when the newest failover of a VNF can be undone; None where it cannot, or no longer.

    Args:
        now: seconds since the epoch; by the clock of this host by default.

    Returns:
        seconds since the epoch.

    Raises:
        VaultError: the vaults cannot be read.
    """
    until = state.undo_until
    if until is None or until <= (time.time() if now is None else now):
        return None
    return None if is_committed(vault, state) else until


def is_committed(vault: Vault, state: ProtectedVnf) -> bool:
    """Whether the time in which the newest failover of a VNF can be undone was ended.

    Raises:
        VaultError: the vaults cannot be read.
    """
    name = _name(state.vnf, state.generation)
    return bool(statements.read(vault, vault.keys, COMMITMENT, name))


def must_be_open(vault: Vault, state: ProtectedVnf) -> float:
    """See that the newest failover of a VNF can be undone; until when (seconds since the epoch).

    Raises:
        InvalidInput: it cannot, and why.
        VaultError: the vaults cannot be read.
    """
    if (until := open_until(vault, state)) is not None:
        return until
    if state.undo_until is None:
        why = "its last move has no time to undo it: antipode failover --undo-within gives one"
    elif state.undo_until <= time.time():
        why = f"it could be undone until {_moment(state.undo_until)}"
    else:
        why = "that was committed"
    raise InvalidInput(
        f"{state}; {why}. To move it back without loss: antipode failback {state.vnf}",
        resource=f"VNF {state.vnf}",
    )


def commit(vault: Vault, state: ProtectedVnf) -> None:
    """End the time in which the newest failover of a VNF can be undone. Safe to repeat.

    Raises:
        VaultError: too few vaults have it for every undo to see it: it reads none at the site that
            it leaves.
    """
    wanted = Commitment(
        vnf=state.vnf,
        generation=state.generation,
        host=socket.gethostname(),
        since=_moment(time.time()),
    )
    having: list[str] = []
    for there in vault.copies():
        try:
            statements.create(there, vault.keys, COMMITMENT, wanted)
            having.append(there.place)
        except VaultError as error:
            LOG.warning("%s does not have that %s is committed: %s", there.place, state.vnf, error)
    if not having:
        raise VaultError(f"no vault has accepted that {state.vnf} is committed; try again")
    if not vault.decides(having, state.active_site):
        raise VaultError(
            f"only {', '.join(having)} has accepted that {state.vnf} is committed, and an undo may"
            " not see it there. Once the others work: antipode vault sync"
        )


def _name(vnf: str, generation: int) -> str:
    return f"{vnf}/window-{generation:010d}{COMMITTED}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

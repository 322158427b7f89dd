# SPDX-License-Identifier: Apache-2.0
"""The quiesce add-on of an embedded site: freezes and thaws guests, as nova-quiesce has a real Nova
do it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from antipode.sandbox.conditions import OperationFailed
from antipode.sandbox.database import Json
from antipode.sandbox.guests import GuestFrozen, GuestSilent
from antipode.sandbox.http import Call, Part, Refused, Route
from antipode.sandbox.nova.servers import TASK, Servers

LOG = logging.getLogger(__name__)

QUIESCING, QUIESCED, UNQUIESCING = STATES = ("quiescing", "quiesced", "unquiescing")
"""The task states of a server whose guest may be frozen."""
DEFAULT_TIMEOUT_S, MAXIMUM_TIMEOUT_S = 60, 600
RETRY_S = 5.0
"""After which a thaw that failed is tried again."""
RPC_TIMEOUT_S = 60.0
"""How long the add-on waits for nova-compute at most."""


class Quiescing(Part):
    """Quiesces and unquiesces the servers of a site; the task state says which are quiesced, as in
    Nova.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._conditions = servers.conditions
        self._hypervisor = servers.hypervisor
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def routes(self) -> Sequence[Route]:
        return [
            Route("GET", "/v2.1/os-quiesce", self._support),
            Route("GET", "/v2.1/servers/{item}/os-quiesce", self._show),
        ]

    async def _support(self, call: Call) -> Json:
        return {
            "quiesce": {
                "version": "1.0.0",
                "default_timeout": DEFAULT_TIMEOUT_S,
                "maximum_timeout": MAXIMUM_TIMEOUT_S,
            }
        }

    async def _show(self, call: Call, item: str) -> Json:
        """Whether the server is quiesced, by which quiesce and until when."""
        server = self._servers.find(call, item)
        if server[TASK] not in STATES:
            return {
                "quiesce": {
                    "quiesced": False,
                    "state": None,
                    "id": None,
                    "since": None,
                    "expires_at": None,
                }
            }
        return {"quiesce": {"quiesced": True, "state": server[TASK], **server["_quiesced"]}}

    async def act(self, call: Call, item: str, action: str) -> None:
        """Quiesce or unquiesce, as the action says."""
        timeout_s = _asked_timeout(call.body) if action == "quiesce" else 0
        server = self._servers.find(call, item)
        if not call.caller.is_admin:
            raise Refused(
                403, f"Policy doesn't allow os_compute_api:os-quiesce:{action} to be performed."
            )
        await (self._quiesce(server, timeout_s) if action == "quiesce" else self._unquiesce(server))

    async def _quiesce(self, server: Json, timeout_s: int) -> None:
        """Freeze the guest's file systems, for so long at most.

        Raises:
            Refused: 409, as the add-on words it; 504: nova-compute did not answer in time, and the
                guest is thawed.
        """
        if server[TASK] in (QUIESCING, QUIESCED):
            known = server["_quiesced"]
            since, until = known["since"], known["expires_at"]
            raise Refused(
                409,
                f"Instance {server['id']} is already {server[TASK]}, since {since} and until "
                f"{until} at the latest",
            )
        self._refuse_unless_idle(server, "quiesce")
        now = self._conditions.now()
        record = {
            "id": uuid.uuid4().hex,
            "since": _iso(now),
            "expires_at": _iso(now + timedelta(seconds=timeout_s, microseconds=999_999)),
        }
        self._keep(server, QUIESCING, _quiesced=record)
        try:
            async with asyncio.timeout(min(timeout_s, RPC_TIMEOUT_S)):
                self._refuse_without_agent(server)
                await self._conditions.take("server.quiesce")
                self._hypervisor.freeze(server["id"])
        except TimeoutError:
            self._thaw_unasked(server, record)
            message = (
                "The compute service did not confirm in time that instance "
                f"{server['id']} was quiesced. It is being unquiesced."
            )
            raise Refused(504, message) from None
        except (Refused, GuestSilent, GuestFrozen, OperationFailed) as error:
            self._become(server, record, None)
            raise (
                error
                if isinstance(error, Refused)
                else Refused(409, f"Failed to quiesce instance: {error}")
            ) from error
        if not self._become(server, record, QUIESCED):
            self._thaw_if_up(server)
            raise Refused(
                409,
                f"Another request changed instance {server['id']} at the same moment. Try again",
            )
        self._thaw_in(timeout_s, server, record)

    async def _unquiesce(self, server: Json) -> None:
        """Thaw the guest's file systems, also when they are not frozen.

        Raises:
            Refused: 409, as the add-on words it; a guest that was frozen still is, and is thawed by
                itself soon.
        """
        if server[TASK] != QUIESCED:
            self._refuse_unless_idle(server, "unquiesce")
        found = server["_quiesced"] if server[TASK] == QUIESCED else None
        claim = found or {
            "id": uuid.uuid4().hex,
            "since": _iso(self._conditions.now()),
            "expires_at": _iso(self._conditions.now()),
        }
        self._keep(server, UNQUIESCING, _quiesced=claim)
        try:
            self._refuse_without_agent(server)
            async with self._hypervisor.agent_of(server["id"]):
                await self._conditions.take("server.unquiesce")
                self._hypervisor.thaw(server["id"])
        except (Refused, GuestSilent, OperationFailed) as error:
            if not found:
                self._become(server, claim, None)
            elif self._become(server, claim, UNQUIESCING):
                self._thaw_in(RETRY_S, server, claim)
            raise (
                error
                if isinstance(error, Refused)
                else Refused(409, f"Failed to quiesce instance: {error}")
            ) from error
        self._become(server, claim, None)

    def thaw_after_reset(self, server: Json) -> None:
        """Thaw a server whose state an admin resets, if it was quiesced."""
        if server[TASK] in STATES:
            self._become(server, server["_quiesced"], None)
            self._thaw_if_up(server)

    def _refuse_unless_idle(self, server: Json, action: str) -> None:
        if (state := server["OS-EXT-STS:vm_state"]) != "active":
            raise Refused(
                409, f"Cannot '{action}' instance {server['id']} while it is in vm_state {state}"
            )
        self._servers.refuse_task(server, action)

    def _refuse_without_agent(self, server: Json) -> None:
        if not self._servers.has_agent(server):
            raise Refused(409, "QEMU guest agent is not enabled")

    def _become(self, server: Json, record: Json, state: str | None) -> bool:
        """Change the state of a quiesce; False, and no change, when it is over: the server was
        deleted, switched off or reset.
        """
        if (
            server["id"] not in self._servers.table
            or server[TASK] not in STATES
            or server["_quiesced"]["id"] != record["id"]
        ):
            return False
        if state is None and (timer := self._timers.pop(server["id"], None)):
            timer.cancel()
        self._keep(server, state)
        return True

    def _keep(self, server: Json, state: str | None, **more: Json) -> None:
        """Nova's database notes the moment of each change of a server."""
        now = self._conditions.timestamp()
        self._servers.table.keep(server, updated=now, **{TASK: state}, **more)

    def _thaw_in(self, seconds: float, server: Json, record: Json) -> None:
        if timer := self._timers.pop(server["id"], None):
            timer.cancel()
        self._timers[server["id"]] = asyncio.get_running_loop().call_later(
            seconds, self._thaw_unasked, server, record
        )

    def _thaw_unasked(self, server: Json, record: Json) -> None:
        """The add-on's own thaw, when no unquiesce came in time."""
        if self._become(server, record, None):
            self._thaw_if_up(server)

    def _thaw_if_up(self, server: Json) -> None:
        try:
            self._hypervisor.thaw(server["id"])
        except GuestSilent:
            LOG.info("server %s is not up, so nothing is frozen", server["id"])


def _asked_timeout(body: Json) -> int:
    """The timeout that the body of a quiesce asks for, in seconds; refused with 400 as the add-on
    does.
    """
    wanted = {} if body["quiesce"] is None else body["quiesce"]
    timeout = (
        wanted.get("timeout", DEFAULT_TIMEOUT_S)
        if isinstance(wanted, dict) and set(wanted) <= {"timeout"}
        else None
    )
    if type(timeout) is not int or timeout < 1:
        raise Refused(
            400,
            f"Invalid input for field/attribute quiesce. Value: {wanted}. {wanted} is not valid "
            "under any of the given schemas",
        )
    if timeout > MAXIMUM_TIMEOUT_S:
        raise Refused(
            400, f"Timeout {timeout} s is longer than this cloud allows, {MAXIMUM_TIMEOUT_S} s"
        )
    return timeout


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

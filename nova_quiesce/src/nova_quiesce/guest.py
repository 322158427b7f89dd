# SPDX-License-Identifier: Apache-2.0
"""Calls to the nova-compute that hosts a guest: freeze and thaw its file systems, each confirmed by
an answer.
"""

from __future__ import annotations

from typing import Any

import oslo_messaging
from nova import exception, rpc
from nova.compute import rpcapi
from nova.conf import CONF

# What libvirt says when it could not reach the agent and has not sent it the command. When it says
# something else (or this in another language, or as libvirt 9.0 and older do, which make no
# difference), the agent may have taken the command.
_NEVER_SENT = ("agent is not connected", "respond to synchronization")

# What it says when the agent, or libvirt itself, has vanished after that; Nova makes the same
# exception of it as of an agent's refusal.
_PERHAPS_TAKEN = (
    "respond to command",
    "[Error Code 38]",
    "[Error Code 39]",
    "client socket is closed",
    "event on socket",
)


class Guest:
    """Freezes and thaws guests through the RPC methods that Nova's compute manager has for its own
    volume snapshots.
    """

    def __init__(self) -> None:
        self._compute = rpcapi.ComputeAPI()
        # The first client of a process registers rpc_response_timeout; ours may be asked for it
        # before any other client is made.
        rpc.get_client(oslo_messaging.Target(topic=rpcapi.RPC_TOPIC))

    def freeze(self, context: Any, instance: Any, timeout: int) -> None:
        """Freeze all file systems of the guest.

        :param context: a request context targeted at the instance's cell
        :param timeout: seconds to wait for the answer; the message bus drops a call that
            nova-compute has not fetched by then
        :raises nova.exception.NovaException, NotImplementedError: nova-compute refused or
            failed; see `may_be_frozen_after`
        :raises oslo_messaging.MessagingException: no answer came: the guest may be frozen
        """
        self._call(context, instance, "quiesce_instance", timeout)

    def thaw(self, context: Any, instance: Any) -> None:
        """Thaw all file systems of the guest and return when that is done; errors as for
        `freeze`.
        """
        # Nova's own ComputeAPI.unquiesce_instance casts, so that it stays unknown whether the guest
        # was thawed.
        self._call(context, instance, "unquiesce_instance", CONF.rpc_response_timeout, mapping=None)

    def is_running(self, context: Any, instance: Any) -> bool:
        """Whether the hypervisor says that the guest runs: Nova's database does not tell, while the
        server has a task state.
        """
        try:
            self._compute.get_diagnostics(context, instance)
        except exception.InstanceInvalidState:
            return False
        except exception.NovaException:
            return True
        return True

    def _call(
        self, context: Any, instance: Any, method: str, timeout: int, **arguments: Any
    ) -> None:
        client = self._compute.router.client(context)
        version = "6.0" if client.can_send_version("6.0") else "5.0"
        client.prepare(server=instance.host, version=version, timeout=timeout).call(
            context, method, instance=instance, **arguments
        )


def may_be_frozen_after(error: Exception) -> bool:
    """Whether the agent may have taken a freeze that failed.

    A guest that it refuses to freeze may be frozen by something else.
    """
    if isinstance(error, exception.InstanceQuiesceFailed):
        return not any(text in reason(error) for text in _NEVER_SENT)
    if isinstance(error, exception.InternalError):
        return any(text in reason(error) for text in _PERHAPS_TAKEN)
    return not isinstance(error, (exception.NovaException, NotImplementedError))


def has_no_agent(error: Exception) -> bool:
    """Whether a freeze or thaw failed because the guest is one that Nova cannot freeze."""
    never = (
        exception.QemuGuestAgentNotEnabled,
        exception.InstanceQuiesceNotSupported,
        NotImplementedError,
    )
    return isinstance(error, never) or "agent is not configured" in reason(error)


def reason(error: BaseException) -> str:
    """What an error says, without the traceback that the text of one from another service has."""
    return str(
        error.format_message() if isinstance(error, exception.NovaException) else error
    ).rstrip(".")

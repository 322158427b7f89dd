# SPDX-License-Identifier: Apache-2.0
"""What a refusal by Nova or by the add-on says about the freeze of a server."""

from __future__ import annotations

from antipode.cloud.api import ApiError

_NEVER_SENT = ("agent is not connected", "respond to synchronization")
"""What libvirt says when it has not sent a freeze to the agent; see the add-on's guest.py."""
_WRONG_STATE = ("while it is in task_state", "while it is in vm_state", "in an invalid state for")
"""What Nova says of a server of which it makes no image now: it has asked for no freeze."""
_LOCKED = ("is locked",)
_NO_AGENT = ("agent is not enabled", "agent is not configured", "Quiescing is not supported")


def has_frozen_nothing(error: ApiError) -> bool:
    """Whether a createImage that failed has certainly sent no freeze to the guest agent.

    Nova answers with a conflict, and does not thaw, also when the agent has vanished after it took
    the freeze; and a quota or a volume may be at fault when the guest is frozen already.
    """
    return error.status == 409 and _says(error, (*_NEVER_SENT, *_WRONG_STATE, *_LOCKED))


def cannot_be_frozen(error: BaseException) -> bool:
    """Whether an unquiesce was refused as Nova cannot freeze the server at all."""
    return isinstance(error, ApiError) and 400 <= error.status < 500 and _says(error, _NO_AGENT)


def _says(error: ApiError, texts: tuple[str, ...]) -> bool:
    return any(text in error.reason for text in texts)

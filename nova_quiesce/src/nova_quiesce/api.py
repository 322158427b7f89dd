# SPDX-License-Identifier: Apache-2.0
"""The add-on's part of the Compute API, as a controller like Nova's own: requests in, answers and
faults out.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from nova import exception
from nova.api import validation
from nova.api.openstack import common, wsgi
from nova.compute import api as compute_api
from nova.conf import CONF
from nova.i18n import _
from webob import exc

import nova_quiesce
from nova_quiesce import policy, record
from nova_quiesce.quiescing import NoAnswer, Quiescing

_ACTIONS = {
    "quiesce": {
        "type": "object",
        "properties": {"timeout": {"type": "integer", "minimum": 1}},
        "additionalProperties": False,
    },
    "unquiesce": {"type": "object", "additionalProperties": False},
}


def _body_schema(action: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {action: {"oneOf": [{"type": "null"}, _ACTIONS[action]]}},
        "required": [action],
        "additionalProperties": False,
    }


class QuiesceController(wsgi.Controller):
    """The actions quiesce and unquiesce, their state, and other requests for a quiesced server."""

    def __init__(self, quiescing: Quiescing) -> None:
        super().__init__()
        self._compute_api = compute_api.API()
        self._quiescing = quiescing

    @wsgi.expected_errors(())
    def index(self, req: wsgi.Request) -> dict[str, Any]:
        """Show to every valid token the add-on's version and its timeouts in seconds."""
        return {
            "quiesce": {
                "version": nova_quiesce.__version__,
                "default_timeout": CONF.quiesce.default_timeout,
                "maximum_timeout": CONF.quiesce.maximum_timeout,
            }
        }

    @wsgi.expected_errors(404)
    def show(self, req: wsgi.Request, server_id: str) -> dict[str, Any]:
        """Show whether a server was quiesced through this API and not yet thawed."""
        context, instance = self._instance(req, server_id)
        policy.authorize(context, policy.SHOW, instance)
        found = record.of(context, instance.uuid)
        return {
            "quiesce": {
                "quiesced": found is not None,
                "state": found and found.state,
                "id": found and found.id,
                "since": found and found.since,
                "expires_at": found and found.expires_at,
            }
        }

    @wsgi.response(202)
    @wsgi.expected_errors((400, 404, 409, 504))
    @wsgi.action("quiesce")
    @validation.schema(_body_schema("quiesce"))
    def _quiesce(self, req: wsgi.Request, id: str, body: dict[str, Any]) -> None:
        timeout = self._timeout(body["quiesce"] or {})
        context, instance = self._instance(req, id)
        policy.authorize(context, policy.QUIESCE, instance)
        with _as_http("quiesce", id):
            self._quiescing.quiesce(context, instance, timeout)

    @wsgi.response(202)
    @wsgi.expected_errors((400, 404, 409, 504))
    @wsgi.action("unquiesce")
    @validation.schema(_body_schema("unquiesce"))
    def _unquiesce(self, req: wsgi.Request, id: str, body: dict[str, Any]) -> None:
        context, instance = self._instance(req, id)
        policy.authorize(context, policy.UNQUIESCE, instance)
        with _as_http("unquiesce", id):
            self._quiescing.unquiesce(context, instance)

    def refuse_if_quiesced(self, req: wsgi.Request, server_id: str, action: str, rule: str) -> None:
        """Raise a conflict for an action that Nova would do to a server in whatever task state, if
        this one is quiesced.

        :param rule: the rule by which Nova allows it; a caller that it refuses is refused by Nova
        """
        try:
            context, instance = self._instance(req, server_id)
        except exc.HTTPNotFound:
            return
        if instance.task_state in record.STATES and policy.allows(context, rule, instance):
            state = exception.InstanceInvalidState(
                attr="task_state", instance_uuid=server_id, state=instance.task_state, method=action
            )
            common.raise_http_conflict_for_instance_invalid_state(state, action, server_id)

    def thaw_after_reset(self, req: wsgi.Request, server_id: str) -> None:
        """Have a server thawed whose state was reset by an admin, if it was quiesced."""
        context, instance = self._instance(req, server_id)
        self._quiescing.thaw_after_reset(context, instance)

    def _timeout(self, arguments: dict[str, Any]) -> int:
        timeout: int = arguments.get("timeout", CONF.quiesce.default_timeout)
        if "timeout" in arguments and timeout > CONF.quiesce.maximum_timeout:
            raise exc.HTTPBadRequest(
                explanation=_(
                    "Timeout %(timeout)d s is longer than this cloud allows, %(maximum)d s"
                )
                % {"timeout": timeout, "maximum": CONF.quiesce.maximum_timeout}
            )
        return timeout

    def _instance(self, req: wsgi.Request, server_id: str) -> tuple[Any, Any]:
        """Return a context targeted at the server's cell, and the server."""
        # Loading an instance targets the context at its cell for good: a copy keeps the request's
        # own as it was.
        context = copy.copy(req.environ["nova.context"])
        return context, common.get_instance(
            self._compute_api, context, server_id, expected_attrs=["services", "system_metadata"]
        )


@contextlib.contextmanager
def _as_http(action: str, server_id: str) -> Iterator[None]:
    """Turn Nova's exceptions into the answers that Nova gives for them in its own actions."""
    try:
        yield
    except exception.InstanceIsLocked as error:
        raise exc.HTTPConflict(explanation=error.format_message()) from error
    except exception.InstanceInvalidState as error:
        common.raise_http_conflict_for_instance_invalid_state(error, action, server_id)
    except exception.InstanceNotFound as error:
        raise exc.HTTPNotFound(explanation=error.format_message()) from error
    except NotImplementedError as error:
        raise exc.HTTPConflict(
            explanation=_("Quiescing is not supported by the hypervisor of instance %s") % server_id
        ) from error
    except NoAnswer as error:
        raise exc.HTTPGatewayTimeout(explanation=error.format_message()) from error
    except (exception.Invalid, exception.InternalError, exception.HypervisorUnavailable) as error:
        # Host or hypervisor down, no agent, agent silent, already frozen (libvirt's refusal is an
        # InternalError).
        raise exc.HTTPConflict(explanation=error.format_message()) from error

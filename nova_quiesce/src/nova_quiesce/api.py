# SPDX-License-Identifier: Apache-2.0
"""The add-on's part of the Compute API, as a controller like Nova's own: requests in, answers and faults out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from nova import context as nova_context
from nova import exception
from nova.api import validation
from nova.api.openstack import common, wsgi
from nova.compute import api as compute_api
from nova.conf import CONF
from nova.i18n import _
from webob import exc

import nova_quiesce
from nova_quiesce import policy
from nova_quiesce.quiescing import NoAnswer, Quiescing, one_at_a_time
from nova_quiesce.record import FreezeRecord

_ACTIONS = {
    "quiesce": {"type": "object", "properties": {"timeout": {"type": "integer", "minimum": 1}}, "additionalProperties": False},
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
    """quiesce, unquiesce, and what can be asked about them."""

    def __init__(self) -> None:
        super().__init__()
        self._compute_api = compute_api.API()
        self._quiescing = Quiescing()

    @wsgi.expected_errors(())
    def index(self, req: wsgi.Request) -> dict[str, Any]:
        """Tell that the add-on is here, to everybody who has a token: its version and its timeouts in seconds."""
        return {
            "quiesce": {
                "version": nova_quiesce.__version__,
                "default_timeout": CONF.quiesce.default_timeout,
                "maximum_timeout": CONF.quiesce.maximum_timeout,
            }
        }

    @wsgi.expected_errors(404)
    def show(self, req: wsgi.Request, server_id: str) -> dict[str, Any]:
        """Tell whether a server was quiesced through this API and not yet thawed."""
        _context, instance = self._authorized_instance(req, server_id, policy.SHOW)
        record = FreezeRecord.of(instance)
        return {
            "quiesce": {
                "quiesced": record is not None,
                "since": record and record.since,
                "expires_at": record and record.expires_at,
            }
        }

    @wsgi.response(202)
    @wsgi.expected_errors((400, 404, 409, 504))
    @wsgi.action("quiesce")
    @validation.schema(_body_schema("quiesce"))
    def _quiesce(self, req: wsgi.Request, id: str, body: dict[str, Any]) -> None:
        timeout = self._timeout(body["quiesce"] or {})
        with _as_http("quiesce", id), one_at_a_time(id):
            context, instance = self._authorized_instance(req, id, policy.QUIESCE)
            self._quiescing.quiesce(context, instance, timeout)

    @wsgi.response(202)
    @wsgi.expected_errors((400, 404, 409, 504))
    @wsgi.action("unquiesce")
    @validation.schema(_body_schema("unquiesce"))
    def _unquiesce(self, req: wsgi.Request, id: str, body: dict[str, Any]) -> None:
        with _as_http("unquiesce", id), one_at_a_time(id):
            context, instance = self._authorized_instance(req, id, policy.UNQUIESCE)
            self._quiescing.unquiesce(context, instance)

    def _timeout(self, arguments: dict[str, Any]) -> int:
        timeout: int = arguments.get("timeout", CONF.quiesce.default_timeout)
        if "timeout" in arguments and timeout > CONF.quiesce.maximum_timeout:
            raise exc.HTTPBadRequest(
                explanation=_("Timeout %(timeout)d s is longer than this cloud allows, %(maximum)d s")
                % {"timeout": timeout, "maximum": CONF.quiesce.maximum_timeout}
            )
        return timeout

    def _authorized_instance(self, req: wsgi.Request, server_id: str, rule: str) -> tuple[Any, Any]:
        """Return a context targeted at the server's cell, and the server, if the policy allows `rule` on it."""
        # Loading an instance targets the context at its cell for good: a copy keeps the request's own as it was.
        with nova_context.target_cell(req.environ["nova.context"], None) as context:
            instance = common.get_instance(self._compute_api, context, server_id, expected_attrs=["services", "system_metadata"])
        policy.authorize(context, rule, instance)
        return context, instance


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
        raise exc.HTTPConflict(explanation=_("Quiescing is not supported by the hypervisor of instance %s") % server_id) from error
    except NoAnswer as error:
        raise exc.HTTPGatewayTimeout(explanation=error.format_message()) from error
    except (exception.Invalid, exception.InternalError) as error:
        # Host down, no agent, agent silent, already frozen (libvirt's refusal is an InternalError).
        raise exc.HTTPConflict(explanation=error.format_message()) from error

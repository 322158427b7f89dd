# SPDX-License-Identifier: Apache-2.0
"""The WSGI filter: sends the add-on's own requests to its controller and everything else, untouched, on to Nova."""

from __future__ import annotations

import json
import sys
from typing import Any, Optional

import webob.dec
from nova.api.openstack import ProjectMapper, wsgi
from nova.conf import CONF
from oslo_log import log as logging

from nova_quiesce import options
from nova_quiesce.api import QuiesceController

LOG = logging.getLogger(__name__)


class QuiesceFilter:
    """Stands directly before Nova's application, so that tokens, request ids, size limits and faults are Nova's."""

    def __init__(self, application: Any) -> None:
        options.register(CONF)
        _warn_without_native_threads()
        self._application = application
        controller = QuiesceController()
        self._actions = frozenset(controller.wsgi_actions)
        self._resource = wsgi.Resource(controller)
        self._mapper = _routes()

    @webob.dec.wsgify(RequestClass=wsgi.Request)
    def __call__(self, req: wsgi.Request) -> Any:
        route = self._own_route(req)
        if route is None:
            return self._application
        req.environ["wsgiorg.routing_args"] = ((), route)
        return self._resource

    def _own_route(self, req: wsgi.Request) -> Optional[dict[str, str]]:  # noqa: UP045 - the oldest Python of a supported Nova
        matched = self._mapper.routematch(environ=req.environ)
        if matched is None:
            return None
        route: dict[str, str] = matched[0]
        if route["action"] == "action" and _action_named(req.body) not in self._actions:
            return None
        return route


def _routes() -> ProjectMapper:
    mapper = ProjectMapper()
    for path, method, action in (
        ("/servers/{id}/action", "POST", "action"),
        ("/servers/{server_id}/os-quiesce", "GET", "show"),
        ("/os-quiesce", "GET", "index"),
    ):
        mapper.create_route(path, method, "quiesce", action)
    return mapper


def _action_named(body: bytes) -> Optional[str]:  # noqa: UP045 - the oldest Python of a supported Nova
    """Return the action that a request body names; None for a body that Nova is to refuse."""
    try:
        decoded = json.loads(body)
    except ValueError:
        return None
    return next(iter(decoded)) if isinstance(decoded, dict) and len(decoded) == 1 else None


def _warn_without_native_threads() -> None:
    patcher = sys.modules.get("eventlet.patcher")
    if patcher and patcher.is_monkey_patched("thread"):
        LOG.warning(
            "nova-api runs with eventlet: under uwsgi or mod_wsgi an idle process does not run timers, so a server left quiesced may be "
            "thawed late. Set OS_NOVA_DISABLE_EVENTLET_PATCHING=1 or [DEFAULT] concurrency_backend=threading where this Nova knows it."
        )

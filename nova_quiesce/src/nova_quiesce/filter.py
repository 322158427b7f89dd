# SPDX-License-Identifier: Apache-2.0
"""The WSGI filter: sends the add-on's own requests to its controller and everything else,
untouched, on to Nova.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import webob.dec
from nova.api.openstack import ProjectMapper, wsgi
from nova.conf import CONF
from oslo_log import log as logging
from webob import exc

from nova_quiesce import options, watch
from nova_quiesce.api import QuiesceController
from nova_quiesce.assisted_snapshots import AssistedSnapshots
from nova_quiesce.quiescing import Quiescing

LOG = logging.getLogger(__name__)

# Nova locks a server in whatever task state; then a member could not unquiesce it. And its
# notifications of that, and of tags, cannot name a task state that it does not know.
_REFUSED_ACTIONS = ("lock", "unlock")

_ROUTES = (
    ("/servers/{id}/action", "POST", "quiesce", "action"),
    ("/servers/{server_id}/os-quiesce", "GET", "quiesce", "show"),
    ("/os-quiesce", "GET", "quiesce", "index"),
    ("/servers/{id}/tags", "PUT", "tags", "update_all"),
    ("/servers/{id}/tags", "DELETE", "tags", "delete_all"),
    ("/servers/{id}/tags/{tag}", "PUT", "tags", "update"),
    ("/servers/{id}/tags/{tag}", "DELETE", "tags", "delete"),
    ("/os-assisted-volume-snapshots", "POST", "assisted_snapshots", "create"),
    ("/os-assisted-volume-snapshots/{id}", "DELETE", "assisted_snapshots", "delete"),
)


class QuiesceFilter:
    """Stands directly before Nova's application, so that tokens, request ids, size limits and
    faults are Nova's.
    """

    def __init__(self, application: Any) -> None:
        options.register(CONF)
        self._application = application
        quiescing = _of_this_process()
        self._controller = QuiesceController(quiescing)
        self._resources = {
            "quiesce": wsgi.Resource(self._controller),
            "assisted_snapshots": wsgi.Resource(AssistedSnapshots()),
        }
        self._mapper = ProjectMapper()
        for path, method, controller, action in _ROUTES:
            self._mapper.create_route(path, method, controller, action)
        self._watch = quiescing.watch
        self._threads_run = watch.threads_run()
        if self._threads_run:
            watch.in_each_worker(self._watch.run_in_thread)
        else:
            LOG.warning(
                "nova-api runs with eventlet in a WSGI server that is not Nova's own: this "
                "process unquiesces servers left quiesced only after it has served a request. "
                "Run 'nova-quiesce watch' as a service, or run nova-api without eventlet."
            )

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if self._threads_run:
            self._watch.run_in_thread()
            answer: Iterable[bytes] = self._answer(environ, start_response)
            return answer
        return _Then(self._answer(environ, start_response), self._watch.look_if_time)

    @webob.dec.wsgify(RequestClass=wsgi.Request)
    def _answer(self, req: wsgi.Request) -> Any:
        matched = self._mapper.routematch(environ=req.environ)
        if matched is None:
            return self._application
        route: dict[str, str] = matched[0]
        if route["controller"] == "tags":
            return self._pass_unless_quiesced(
                req,
                route["id"],
                "change tags of",
                f"os_compute_api:os-server-tags:{route['action']}",
            )
        if route["action"] == "action":
            action = _action_named(req.body)
            if action == "os-resetState":
                return self._reset(req, route["id"])
            if action in _REFUSED_ACTIONS:
                return self._pass_unless_quiesced(
                    req, route["id"], action, f"os_compute_api:os-lock-server:{action}"
                )
            if action not in self._controller.wsgi_actions:
                return self._application
        req.environ["wsgiorg.routing_args"] = ((), route)
        return self._resources[route["controller"]]

    def _reset(self, req: wsgi.Request, server_id: str) -> Any:
        """Nova answers first: it decides which caller may reset the state, and a reset must not
        depend on the guest.
        """
        answer = req.get_response(self._application)
        if answer.status_code == 202:
            self._controller.thaw_after_reset(req, server_id)
        return answer

    def _pass_unless_quiesced(
        self, req: wsgi.Request, server_id: str, action: str, rule: str
    ) -> Any:
        try:
            self._controller.refuse_if_quiesced(req, server_id, action, rule)
        except exc.HTTPConflict as conflict:
            return wsgi.Fault(conflict)
        return self._application


@functools.cache
def _of_this_process() -> Quiescing:
    """Nova loads each of its pipelines with a filter of its own, and one watch is enough."""
    return Quiescing()


class _Then:
    """The body of an answer; something is done when the server has sent it."""

    def __init__(self, body: Iterable[bytes], then: Callable[[], None]) -> None:
        self._body = body
        self._then = then

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        try:
            getattr(self._body, "close", lambda: None)()
        finally:
            self._then()


def _action_named(body: bytes) -> str | None:
    """Return the action that a request body names; None for a body that Nova is to refuse."""
    try:
        decoded = json.loads(body)
    except ValueError:
        return None
    return next(iter(decoded)) if isinstance(decoded, dict) and len(decoded) == 1 else None

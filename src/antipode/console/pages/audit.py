# SPDX-License-Identifier: Apache-2.0
"""What was asked for by which user, as the audit trail has it."""

from __future__ import annotations

from starlette.responses import Response

from antipode.console.web import Asked, route

NEWEST = 200


def _list(asked: Asked) -> Response:
    asked.must("audit:list", None)
    return asked.page("audit.html", rows=asked.deployment.audit.page(NEWEST))


ROUTES = [route("/audit", _list)]

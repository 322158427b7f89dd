# SPDX-License-Identifier: Apache-2.0
"""The one way into the API."""

from __future__ import annotations

from tests.unit.api.conftest import Clients


def test_no_token_no_answer(clients: Clients) -> None:
    answer = clients.with_token(None).get("/v1/sites")
    assert answer.status_code == 401
    assert answer.json()["error"]["kind"] == "not-authenticated"
    assert answer.headers["X-Openstack-Request-Id"].startswith("req-")


def test_the_sites_are_listed(clients: Clients) -> None:
    answer = clients.user("tenant-observer").get("/v1/sites")
    assert [site["name"] for site in answer.json()["sites"]] == ["site-a", "site-b"]


def test_a_project_that_is_not_configured_sees_nothing(clients: Clients) -> None:
    assert clients.user("backup").get("/v1/sites").status_code == 403

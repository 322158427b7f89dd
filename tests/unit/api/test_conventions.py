# SPDX-License-Identifier: Apache-2.0
"""The habits of an OpenStack service."""

from __future__ import annotations

import gzip
import re
from typing import Any

import pytest

from antipode.api.gate import Installation
from tests.unit.api.conftest import Clients, Things, definition, run_of

HOSTILE = [
    *("../../etc/passwd", "hlr'; DROP TABLE runs;--", "<script>alert(1)</script>", "hlr\0"),
    *("%00", "hlr\r\nX-Evil: 1", "{{7*7}}", "ümlaut", "a" * 5000, "-rf", "$(reboot)", "hlr/../hlr"),
]


def test_versions_are_discovered_without_a_token(clients: Clients) -> None:
    anybody = clients.with_token(None)
    [version] = anybody.get("/").json()["versions"]
    assert (version["id"], version["status"]) == ("v1", "CURRENT")
    assert version["min_version"] == "1.0"
    assert anybody.get("/v1").json()["version"] == version
    assert anybody.get("/healthcheck").json() == {"status": "OK"}
    assert anybody.get("/openapi.json").json()["openapi"].startswith("3.1")


@pytest.mark.parametrize(
    ("asked", "status", "used"),
    [
        ("disaster-recovery 1.0", 200, "1.0"),
        ("disaster-recovery 1.1", 200, "1.1"),
        ("disaster-recovery latest", 200, "1.2"),
        ("compute 2.96, disaster-recovery 1.0", 200, "1.0"),
        ("compute 2.96", 200, "1.0"),
        ("disaster-recovery 1.99", 406, "1.2"),
        ("disaster-recovery 2.0", 406, "1.2"),
        ("disaster-recovery one", 400, "1.2"),
    ],
)
def test_a_microversion_is_understood_or_refused(
    clients: Clients, asked: str, status: int, used: str
) -> None:
    answer = clients.user("demo").get("/v1/sites", headers={"OpenStack-API-Version": asked})
    assert answer.status_code == status
    assert answer.headers["OpenStack-API-Version"] == f"disaster-recovery {used}"
    assert "OpenStack-API-Version" in answer.headers["Vary"]


def test_each_answer_has_an_id_of_its_request(clients: Clients) -> None:
    found = {
        clients.user("demo").get(path).headers["X-Openstack-Request-Id"]
        for path in ("/v1/sites", "/v1/none", "/")
    }
    assert len(found) == 3
    assert all(re.fullmatch(r"req-[0-9a-f-]{36}", one) for one in found)


def test_a_list_comes_in_pages(
    clients: Clients, installation: Installation, things: Things
) -> None:
    for number in range(1, 7):
        installation.deployment.runs.create(run_of("hlr", number))
    client, seen = clients.user("demo"), []
    path: str | None = "/v1/runs?limit=3&kind=protect"
    while path is not None:
        answer = client.get(path).json()
        seen += [run["id"] for run in answer["runs"]]
        [*following] = answer["runs_links"]
        path = following[0]["href"].removeprefix(clients.url) if following else None
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == len(set(seen)) == 7


def test_runs_that_began_at_one_moment_are_all_listed(
    clients: Clients, installation: Installation, things: Things
) -> None:
    for number in range(1, 5):
        installation.deployment.runs.create(run_of("hlr", number, started_at=5.0))
    client = clients.user("demo")
    first = client.get("/v1/runs?limit=3").json()["runs"]
    rest = client.get(f"/v1/runs?limit=9&marker={first[-1]['id']}").json()["runs"]
    assert len({run["id"] for run in first + rest}) == 5


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1001", "marker=none", "state=odd"])
def test_a_wrong_query_is_refused(clients: Clients, things: Things, query: str) -> None:
    assert clients.user("demo").get(f"/v1/runs?{query}").status_code == 400


def test_runs_are_filtered(clients: Clients, installation: Installation, things: Things) -> None:
    installation.deployment.vnfs.put(definition("second", "vnf"))
    installation.deployment.runs.create(run_of("second", 2, kind="drill", state="failed"))
    client = clients.user("demo")
    for query in ("vnf=second", "kind=drill", "state=failed"):
        [run] = client.get(f"/v1/runs?{query}").json()["runs"]
        assert run["vnf"] == "second"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_not_found_and_does_no_harm(
    clients: Clients, things: Things, name: str
) -> None:
    from urllib.parse import quote

    client = clients.user("boss")
    for path in ("/v1/vnfs/{}", "/v1/runs/{}", "/v1/policies/{}", "/v1/vnfs/hlr/runs?marker={}"):
        answer = client.get(path.format(quote(name, safe="")))
        assert answer.status_code in (400, 404), path
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/v1/runs").json()["runs"]


def test_a_body_that_is_too_large_is_refused(clients: Clients, things: Things) -> None:
    client = clients.user("demo")
    big = b'{"run": "' + b"x" * (2 << 20) + b'"}'
    headers = {"Content-Type": "application/json"}
    assert client.ask("POST", "/v1/vnfs/hlr/runs", data=big, headers=headers).status_code == 413
    chunks = (big[at : at + 65536] for at in range(0, len(big), 65536))
    assert client.ask("POST", "/v1/vnfs/hlr/runs", data=chunks, headers=headers).status_code == 413


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"run": {}}', b'{"run": {"kind": "none"}}', b"\xff\xfe", b'{"a": NaN}'],
)
def test_a_wrong_body_is_refused(clients: Clients, things: Things, body: bytes) -> None:
    answer = clients.user("demo").ask(
        "POST", "/v1/vnfs/hlr/runs", data=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["kind"] == "invalid-input"


def test_a_compressed_body_is_not_unpacked(clients: Clients, things: Things) -> None:
    body = gzip.compress(b'{"run": {"kind": "protect"}}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = clients.user("demo").ask("POST", "/v1/vnfs/hlr/runs", data=body, headers=headers)
    assert answer.status_code == 400


def test_what_was_sent_is_not_repeated_in_a_refusal(clients: Clients, things: Things) -> None:
    secret: dict[str, Any] = {"run": {"kind": "protect", "password": "hunter2"}}
    answer = clients.user("demo").post("/v1/vnfs/hlr/runs", secret)
    assert answer.status_code == 400
    assert "hunter2" not in answer.text


@pytest.fixture
def few(settings: dict[str, Any]) -> None:
    settings["requests_per_minute"] = 5


def test_a_user_that_asks_too_often_is_refused(few: None, clients: Clients) -> None:
    eager, other = clients.user("demo"), clients.user("stranger")
    statuses = [eager.get("/v1/sites").status_code for _ in range(7)]
    assert statuses[:5] == [200] * 5
    answer = eager.get("/v1/sites")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert other.get("/v1/sites").status_code == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "query.limit"),
        ("limit=many", "query.limit"),
        ("marker=-", "query.marker"),
        ("state=lost", "query.state"),
    ],
)
def test_a_wrong_parameter_of_a_list_is_named(clients: Clients, query: str, field: str) -> None:
    answer = clients.user("demo").get(f"/v1/runs?{query}")
    assert answer.status_code == 400
    assert [one["field"] for one in answer.json()["error"]["mistakes"]] == [field]


def test_of_a_parameter_that_comes_twice_the_last_counts(clients: Clients) -> None:
    assert clients.user("demo").get("/v1/runs?limit=0&limit=1").status_code == 200
    assert clients.user("demo").get("/v1/runs?limit=1&limit=0").status_code == 400

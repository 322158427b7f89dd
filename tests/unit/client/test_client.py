# SPDX-License-Identifier: Apache-2.0
"""The client of the REST API: pages, repeated requests, refusals, and a run that is followed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
import responses
from antipode_client.client import Client
from antipode_client.errors import Fault
from antipode_client.osc.v1 import tables
from keystoneauth1.session import Session
from keystoneauth1.token_endpoint import Token

from antipode_client import watching

API = "http://127.0.0.1:8778"
Json = dict[str, Any]


@pytest.fixture
def api() -> Any:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def client() -> Client:
    return Client(Session(Token(API, "a-token")), endpoint_override=API + "/")


def run(state: str) -> Json:
    return {"run": {"id": "protect-1", "state": state, "reason": None}}


def step(number: int, state: str) -> Json:
    return {
        "id": f"s{number}",
        "number": str(number),
        "name": "Snapshot",
        "resource": "db",
        "state": state,
        "seconds": 1.0,
    }


def test_all_pages_of_a_list_are_read(api: Any, client: Client) -> None:
    more = [{"rel": "next", "href": f"{API}/v1/vnfs?limit=200&marker=a%20b"}]
    api.get(f"{API}/v1/vnfs", json={"vnfs": [{"name": "a b"}], "vnfs_links": more})
    api.get(f"{API}/v1/vnfs", json={"vnfs": [{"name": "c"}], "vnfs_links": []})
    assert [vnf["name"] for vnf in client.pages("vnfs")] == ["a b", "c"]
    assert api.calls[1].request.params["marker"] == "a b"


def test_what_is_said_of_a_run_steers_no_terminal(api: Any, client: Client) -> None:
    hostile = {**step(1, "succeeded"), "resource": "db\x1b[2J\nrun protect-1: succeeded\u202e"}
    api.get(f"{API}/v1/runs/protect-1", json=run("failed"))
    api.get(f"{API}/v1/runs/protect-1/steps", json={"steps": [hostile], "steps_links": []})
    said: list[str] = []
    watching.follow(client, "protect-1", said.append)
    assert all(line.isprintable() for line in said)
    _, (cell,) = tables.details({"name": hostile["resource"]})
    assert str(cell).isprintable()
    assert cell.machine_readable() == hostile["resource"]


def test_no_more_pages_are_read_than_are_wanted(api: Any, client: Client) -> None:
    more = [{"rel": "next", "href": f"{API}/v1/vnfs?marker=b"}]
    api.get(f"{API}/v1/vnfs", json={"vnfs": [{"name": "a"}, {"name": "b"}], "vnfs_links": more})
    assert len(list(client.pages("vnfs", limit=2))) == 2
    assert len(api.calls) == 1
    assert api.calls[0].request.params["limit"] == "2"


def test_a_request_repeated_after_a_broken_connection_has_the_same_key(
    api: Any, client: Client
) -> None:
    api.post(f"{API}/v1/vnfs/hlr/runs", body=requests.ConnectionError("broken"))
    api.post(f"{API}/v1/vnfs/hlr/runs", json=run("queued"), status=202)
    client.post("vnfs", "hlr", "runs", body={"run": {"kind": "protect"}})
    first, second = (call.request.headers["Idempotency-Key"] for call in api.calls)
    assert first == second


def test_two_requests_have_two_keys(api: Any, client: Client) -> None:
    api.post(f"{API}/v1/vnfs/hlr/runs", json=run("queued"), status=202)
    for _ in range(2):
        client.post("vnfs", "hlr", "runs", body={})
    first, second = (call.request.headers["Idempotency-Key"] for call in api.calls)
    assert first != second


def test_a_refusal_has_its_kind_and_all_problems(api: Any, client: Client) -> None:
    error = {"code": 409, "message": "no", "kind": "preflight-failed", "problems": ["one", "two"]}
    headers = {"X-Openstack-Request-Id": "req-1"}
    api.get(f"{API}/v1/vnfs/hlr", json={"error": error}, status=409, headers=headers)
    with pytest.raises(Fault) as caught:
        client.get("vnfs", "hlr")
    fault = caught.value
    assert (fault.status, fault.kind, fault.request_id) == (409, "preflight-failed", "req-1")
    assert fault.problems == ["one", "two"]
    assert "two" in str(fault)


@pytest.mark.parametrize("body", ["<html>Bad Gateway</html>", "[]", '{"error": "no"}', ""])
def test_a_refusal_that_is_not_of_the_api_is_one_too(api: Any, client: Client, body: str) -> None:
    api.get(f"{API}/v1/sites", body=body, status=502, content_type="application/json")
    with pytest.raises(Fault) as caught:
        client.get("sites")
    assert caught.value.status == 502


def test_a_name_stays_one_part_of_a_path(api: Any, client: Client) -> None:
    api.get(f"{API}/v1/vnfs/..%2Fpolicies%3Fa", json={"vnf": {}})
    assert client.get("vnfs", "../policies?a") == {"vnf": {}}


def test_a_run_is_followed_to_its_end_and_each_step_is_shown_once(api: Any, client: Client) -> None:
    for state in ("running", "waiting_for_input", "succeeded"):
        api.get(f"{API}/v1/runs/protect-1", json=run(state))
    for steps in (
        [step(1, "running")],
        [step(1, "succeeded")],
        [step(1, "succeeded"), step(2, "failed")],
    ):
        api.get(f"{API}/v1/runs/protect-1/steps", json={"steps": steps, "steps_links": []})
    said: list[str] = []
    found = watching.follow(client, "protect-1", said.append, pause=lambda _: None)
    assert found["state"] == "succeeded"
    assert sum("Snapshot" in line for line in said) == 2
    assert any("question list protect-1" in line for line in said)
    assert json.dumps(said).count("failed") == 1


def test_a_warning_of_a_run_is_shown_once(api: Any, client: Client) -> None:
    warned = {"run": {**run("queued")["run"], "warnings": ["no service works here"]}}
    for answer in (warned, warned, run("succeeded")):
        api.get(f"{API}/v1/runs/protect-1", json=answer)
    api.get(f"{API}/v1/runs/protect-1/steps", json={"steps": [], "steps_links": []})
    said: list[str] = []
    watching.follow(client, "protect-1", said.append, pause=lambda _: None)
    assert sum("no service works here" in line for line in said) == 1

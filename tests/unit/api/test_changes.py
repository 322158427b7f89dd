# SPDX-License-Identifier: Apache-2.0
"""What clients change: runs that they ask for once and approve by two, and the trail of it."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from antipode.api import run_requests
from antipode.api.gate import Installation
from antipode.operations.submit import submit
from antipode.store.tables import QuestionRow
from tests.unit.api.conftest import Clients, Things, definition, run_of
from tests.unit.keystones import PROJECTS

PRECHECK = {"run": {"kind": "precheck", "to": "site-b"}}


def key(words: str) -> dict[str, str]:
    return {"Idempotency-Key": words}


def test_a_run_is_queued_and_found_at_its_location(clients: Clients, things: Things) -> None:
    client = clients.user("demo")
    answer = client.post("/v1/vnfs/hlr/runs", PRECHECK)
    assert answer.status_code == 202
    run = answer.json()["run"]
    assert (run["state"], run["author"], run["project"]) == ("queued", "demo@site-a", "vnf")
    there = client.get(answer.headers["Location"].removeprefix(clients.url))
    assert there.json()["run"]["id"] == run["id"]


def test_a_second_run_of_a_kind_is_in_the_way_of_the_first(
    clients: Clients, things: Things
) -> None:
    client = clients.user("demo")
    assert client.post("/v1/vnfs/hlr/runs", PRECHECK).status_code == 202
    answer = client.post("/v1/vnfs/hlr/runs", PRECHECK)
    assert answer.status_code == 409
    assert answer.json()["error"]["kind"] == "busy"


def test_a_request_with_a_key_makes_one_run_at_all_sites(
    clients: Clients, installation: Installation, things: Things
) -> None:
    made = [
        clients.user("demo", site).post("/v1/vnfs/hlr/runs", PRECHECK, headers=key("once"))
        for site in ("site-a", "site-b", "site-a")
    ]
    assert {answer.status_code for answer in made} == {202}
    assert len({answer.json()["run"]["id"] for answer in made}) == 1
    assert len(installation.deployment.runs.open("hlr")) == 1


def test_requests_with_a_key_at_once_make_one_run(
    clients: Clients, installation: Installation, things: Things
) -> None:
    together, answers = threading.Barrier(6), []

    def ask() -> None:
        client = clients.user("demo")
        together.wait()
        answers.append(client.post("/v1/vnfs/hlr/runs", PRECHECK, headers=key("once")))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["run"]["id"] for answer in answers}) == 1


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_request_whose_process_died_is_repeated_with_its_key(
    clients: Clients,
    installation: Installation,
    things: Things,
    monkeypatch: pytest.MonkeyPatch,
    is_kept: bool,
) -> None:
    """Killed just before the run is kept, or just after it."""
    real = submit

    def dies(*given: Any) -> None:
        if is_kept:
            real(*given)
        raise RuntimeError("killed")

    client = clients.user("demo")
    with monkeypatch.context() as patched:
        patched.setattr(run_requests, "submit", dies)
        assert client.post("/v1/vnfs/hlr/runs", PRECHECK, headers=key("k")).status_code == 500
    kept = [row.id for row in installation.deployment.runs.open("hlr")]
    answer = client.post("/v1/vnfs/hlr/runs", PRECHECK, headers=key("k"))
    assert answer.status_code == 202
    [run] = installation.deployment.runs.open("hlr")
    assert answer.json()["run"]["id"] == run.id
    assert kept == ([run.id] if is_kept else [])


def test_a_key_is_its_users_and_its_requests(clients: Clients, things: Things) -> None:
    client = clients.user("demo")
    assert client.post("/v1/vnfs/hlr/runs", PRECHECK, headers=key("k")).status_code == 202
    other = {"run": {"kind": "precheck"}}
    assert client.post("/v1/vnfs/hlr/runs", other, headers=key("k")).status_code == 422
    answer = clients.user("tenant-operator").post("/v1/vnfs/hlr/runs", PRECHECK, headers=key("k"))
    assert answer.status_code == 409


def test_a_failover_is_confirmed_by_the_name(
    clients: Clients, installation: Installation, things: Things
) -> None:
    client = clients.user("tenant-operator")
    for confirm in ({}, {"confirm": "other"}, {"confirm": None}):
        asked = {"run": {"kind": "failover", "to": "site-b", **confirm}}
        answer = client.post("/v1/vnfs/hlr/runs", asked)
        assert answer.json()["error"]["kind"] == "not-confirmed"
    assert not installation.deployment.runs.open("hlr")


def awaiting(installation: Installation, author: str = "demo@site-a", needed: int = 1) -> str:
    row = run_of("hlr", 9, kind="failover", author=author, ended_at=None)
    row.approvals_needed, row.approve_before = needed, 4e9
    row.request = {"site": "site-b"}
    row.id = "failover-20261130T190000Z-abcdef"
    installation.deployment.approvals.ask(row)
    return "failover-20261130T190000Z-abcdef"


@pytest.fixture
def plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is put in words though its request is none of a real one."""
    from antipode.runs.failover import Failover

    monkeypatch.setattr(Failover, "words", lambda self, row: [])
    monkeypatch.setattr(Failover, "site_of", lambda self, row: "site-b")


def test_nobody_approves_a_run_of_their_own(
    clients: Clients, installation: Installation, things: Things, plain_words: None
) -> None:
    run = awaiting(installation, "approver@site-a")
    for site in ("site-a", "site-b"):
        client = clients.user("approver", site)
        plan = client.get(f"/v1/runs/{run}/approvals").json()["approvals"]["plan"]
        answer = client.post(f"/v1/runs/{run}/approvals", {"approval": {"plan": plan}})
        assert answer.status_code == 409
        assert answer.json()["error"]["state"] == "awaiting_approval"


def test_a_user_of_the_host_is_the_user_of_the_api(
    clients: Clients, installation: Installation, things: Things, plain_words: None
) -> None:
    run = awaiting(installation, "Approver@some-host")
    client = clients.user("approver")
    plan = client.get(f"/v1/runs/{run}/approvals").json()["approvals"]["plan"]
    answer = client.post(f"/v1/runs/{run}/approvals", {"approval": {"plan": plan}})
    assert answer.status_code == 409


def test_a_second_person_approves_what_was_shown(
    clients: Clients, installation: Installation, things: Things, plain_words: None
) -> None:
    run = awaiting(installation, needed=2)
    client = clients.user("approver")
    shown = client.get(f"/v1/runs/{run}/approvals").json()["approvals"]
    wrong = client.post(f"/v1/runs/{run}/approvals", {"approval": {"plan": "0" * 64}})
    assert wrong.status_code == 409
    given = {"approval": {"plan": shown["plan"]}}
    assert client.post(f"/v1/runs/{run}/approvals", given).status_code == 201
    again = clients.user("approver", "site-b").post(f"/v1/runs/{run}/approvals", given)
    assert again.status_code == 409
    answer = clients.user("boss").post(f"/v1/runs/{run}/approvals", given)
    assert [a["by"] for a in answer.json()["approvals"]["given"]] == [
        "approver@site-a",
        "boss@site-a",
    ]
    assert client.get(f"/v1/runs/{run}").json()["run"]["state"] == "queued"


def test_a_run_is_rejected(
    clients: Clients, installation: Installation, things: Things, plain_words: None
) -> None:
    run = awaiting(installation)
    asked = {"rejection": {"reason": "site-a answers again"}}
    answer = clients.user("approver").post(f"/v1/runs/{run}/rejections", asked)
    assert answer.status_code == 201
    assert answer.json()["run"]["state"] == "rejected"
    assert "approver@site-a" in answer.json()["run"]["reason"]
    late = clients.user("approver").post(f"/v1/runs/{run}/rejections", asked)
    assert (late.status_code, late.json()["error"]["state"]) == (409, "rejected")


def test_a_question_is_answered_by_its_user(
    clients: Clients, installation: Installation, things: Things
) -> None:
    row = run_of("hlr", 3, state="running", ended_at=None)
    run = row.id
    installation.deployment.runs.create(row)
    question = QuestionRow(
        run=run, whole=run, step="power", message="Is power back?", wants="yes-no"
    )
    question.asked_at, question.expires_at = 1.0, 4e9
    installation.deployment.questions.ask(question)
    asked = {"answer": {"step": "power", "value": True}}
    assert clients.user("demo").post(f"/v1/runs/{run}/answers", asked).status_code == 403
    answer = clients.user("tenant-operator").post(f"/v1/runs/{run}/answers", asked)
    assert answer.status_code == 201
    assert answer.json()["question"]["answered_by"] == "tenant-operator@site-a"


def test_a_run_that_is_over_is_not_aborted(clients: Clients, things: Things) -> None:
    answer = clients.user("demo").post(f"/v1/runs/{things.mine}/abort")
    assert (answer.status_code, answer.json()["error"]["state"]) == (409, "succeeded")
    answer = clients.user("demo").post(f"/v1/runs/{things.mine}/resume", {})
    assert (answer.status_code, answer.json()["error"]["state"]) == (409, "succeeded")


def test_a_queued_run_is_left_to_a_service(
    clients: Clients, installation: Installation, things: Things
) -> None:
    row = run_of("hlr", 4, state="queued", ended_at=None)
    run = row.id
    installation.deployment.runs.create(row)
    answer = clients.user("demo").post(f"/v1/runs/{run}/resume", {})
    assert (answer.status_code, answer.json()["error"]["state"]) == (409, "queued")
    assert installation.deployment.runs.get(run).state == "queued"


def test_a_member_does_not_abort_a_failover(
    clients: Clients, installation: Installation, things: Things
) -> None:
    row = run_of("hlr", 3, kind="failover", state="queued", ended_at=None)
    run = row.id
    installation.deployment.runs.create(row)
    for verb in ("abort", "resume"):
        assert clients.user("demo").post(f"/v1/runs/{run}/{verb}", {}).status_code == 403


def test_a_policy_is_made_by_the_staff_and_chosen_by_a_project(
    clients: Clients, installation: Installation, things: Things
) -> None:
    boss, member = clients.user("boss"), clients.user("demo")
    gold = {"about": "often", "protections": [{"option": "quiesced-snapshot"}], "rpo": "15m"}
    assert boss.put("/v1/policies/gold", {"policy": gold}).status_code == 200
    asked = {"policy": {"name": "gold"}}
    assert member.put("/v1/vnfs/hlr/policy", asked).json()["vnf"]["policy"] == "gold"
    assert installation.deployment.vnfs.get("hlr").rpo == 900
    assert boss.put("/v1/policies/gold", {"policy": {**gold, "rpo": 60}}).status_code == 200
    assert installation.deployment.vnfs.get("hlr").rpo == 60
    assert boss.ask("DELETE", "/v1/policies/gold").status_code == 409
    assert boss.put("/v1/policies/bad", {"policy": {"protections": [{}] * 2}}).status_code == 400


def test_a_policy_of_another_project_is_not_seen(clients: Clients, things: Things) -> None:
    boss, member = clients.user("boss"), clients.user("demo")
    closed = {"projects": ["other"], "protections": [{"option": "quiesced-snapshot"}]}
    assert boss.put("/v1/policies/closed", {"policy": closed}).status_code == 200
    assert member.get("/v1/policies").json()["policies"] == []
    assert member.get("/v1/policies/closed").status_code == 404
    asked = {"policy": {"name": "closed"}}
    assert member.put("/v1/vnfs/hlr/policy", asked).status_code == 404
    [seen] = clients.user("stranger").get("/v1/policies").json()["policies"]
    assert seen["projects"] is None


def test_a_vnf_is_added_and_removed_by_the_staff(
    clients: Clients, installation: Installation, things: Things
) -> None:
    boss = clients.user("boss")
    given = {"definition": definition("new", "vnf").model_dump(mode="json")}
    answer = boss.put("/v1/vnfs/new/definition", given)
    assert answer.status_code == 200, answer.text
    assert clients.user("demo").get("/v1/vnfs/new").status_code == 200
    assert clients.user("stranger").get("/v1/vnfs/new").status_code == 404
    assert boss.ask("DELETE", "/v1/vnfs/new").status_code == 204
    wrong = {"definition": {**given["definition"], "project": "none"}}
    assert boss.put("/v1/vnfs/new/definition", wrong).status_code == 400


def test_a_run_stays_with_the_project_that_asked_for_it(
    clients: Clients, installation: Installation, things: Things
) -> None:
    installation.deployment.vnfs.put(definition("hlr", "other"))
    stranger, member = clients.user("stranger"), clients.user("demo")
    assert stranger.get("/v1/vnfs/hlr").status_code == 200
    assert stranger.get(f"/v1/runs/{things.mine}").status_code == 404
    assert things.mine not in stranger.get("/v1/vnfs/hlr/runs").text
    assert member.get("/v1/vnfs/hlr").status_code == 404
    assert member.get(f"/v1/runs/{things.mine}").status_code == 200


@pytest.fixture
def little(settings: dict[str, Any]) -> None:
    small = {**PROJECTS["vnf"], "quota": {"vnfs": 1, "open_runs": 1}}
    settings["projects"] = {**PROJECTS, "vnf": small}


def test_a_project_has_no_more_than_its_quota(
    little: None, clients: Clients, things: Things
) -> None:
    client, boss = clients.user("demo"), clients.user("boss")
    given = {"definition": definition("new", "vnf").model_dump(mode="json")}
    answer = boss.put("/v1/vnfs/new/definition", given)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (403, "quota-exceeded")
    assert client.post("/v1/vnfs/hlr/runs", PRECHECK).status_code == 202
    drill = {"run": {"kind": "protect"}}
    quota = client.get("/v1/quota").json()["quota"]
    assert (quota["vnfs_used"], quota["open_runs_used"]) == (1, 1)
    answer = client.post("/v1/vnfs/hlr/runs", drill)
    assert answer.status_code in (403, 503), answer.text


def test_each_change_and_refusal_is_in_the_trail(
    clients: Clients, installation: Installation, things: Things
) -> None:
    clients.user("demo").post("/v1/vnfs/hlr/runs", PRECHECK)
    clients.user("tenant-observer").post("/v1/vnfs/hlr/runs", PRECHECK)
    clients.with_token("no-token").get("/v1/vnfs")
    clients.user("demo").get("/v1/vnfs")
    assert clients.user("demo").get("/v1/audit").status_code == 403
    records = clients.user("boss").get("/v1/audit").json()["audit"]
    assert [(r["initiator"], r["action"], r["reason_code"]) for r in reversed(records)] == [
        ("demo@site-a", "run:create", 202),
        ("tenant-observer@site-a", "run:create", 403),
        (None, "vnf:list", 401),
        ("demo@site-a", "audit:list", 403),
    ]
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert clients.user("boss").ask(method, "/v1/audit").status_code == 405
        there = f"/v1/audit/{records[0]['id']}"
        assert clients.user("boss").ask(method, there).status_code == 404


def test_no_token_is_in_the_log_or_the_trail(
    clients: Clients, things: Things, caplog: pytest.LogCaptureFixture
) -> None:
    client = clients.user("demo")
    with caplog.at_level(logging.DEBUG):
        client.post("/v1/vnfs/hlr/runs", PRECHECK)
        clients.with_token("a-wrong-token").get("/v1/sites")
    written = caplog.text + clients.user("boss").get("/v1/audit").text
    assert "run:create" in written
    assert str(client.token) not in written
    assert "a-wrong-token" not in written

# SPDX-License-Identifier: Apache-2.0
"""What the API shows beside runs and VNFs, and to whom: checks, forecasts of sites, vaults, events,
plans, copies of data.
"""

from __future__ import annotations

from typing import Any

import pytest

from antipode.api import changes
from antipode.api.gate import Installation
from antipode.model.event import Event
from antipode.operations import standing
from tests.unit.api.conftest import Clients, Things, run_of

PLAN = {"groups": [{"name": "first", "vnfs": ["hlr"]}], "to": "site-b"}


def test_the_staffs_operator_has_the_sites_checked(clients: Clients, things: Things) -> None:
    answer = clients.user("operator").post("/v1/site_checks")
    checks = answer.json()["checks"]
    assert {one["site"] for one in checks} >= {"site-a", "site-b"}
    assert not all(one["ok"] for one in checks)
    for user in ("observer", "demo", "tenant-operator"):
        assert clients.user(user).post("/v1/site_checks").status_code == 403, user


def test_a_tenant_sees_of_a_lost_site_its_own_vnfs(clients: Clients, things: Things) -> None:
    seen = {}
    for user in ("demo", "stranger", "observer"):
        found = clients.user(user).get("/v1/sites/site-a/forecast").json()
        seen[user] = {one["vnf"] for one in found["forecasts"]}
        assert bool(found["all"]) == (user == "observer")
    assert seen == {
        "demo": {"hlr"},
        "stranger": {"theirs"},
        "observer": {"hlr", "theirs", "staffs"},
    }
    assert clients.user("demo").get("/v1/sites/site-z/forecast").status_code == 404


def test_vaults_are_shown_to_the_staff(clients: Clients, things: Things) -> None:
    observer = clients.user("observer")
    [vault] = observer.get("/v1/vaults").json()["vaults"]
    assert (vault["vnfs"], vault["trouble"]) == (0, None)
    assert observer.get(f"/v1/vaults/{vault['name']}").json() == {"holdings": []}
    assert observer.get("/v1/vaults/none").status_code == 404
    assert observer.get("/v1/vault_disagreements").json() == {"disagreements": []}
    assert clients.user("demo").get("/v1/vaults").status_code == 403


def test_a_run_has_its_events_and_no_others(
    clients: Clients, installation: Installation, things: Things
) -> None:
    events = installation.deployment.events
    for number, run in enumerate((things.mine, things.theirs, things.mine)):
        data = {"run": run, "reason": "token=s3cret"}
        event = Event(f"event-{number}", "dr.protect.end", "vnf/x", 2_000_000.0 + number, data)
        assert events.note(event, ["pager"])
    path = f"/v1/runs/{things.mine}/events"
    found = clients.user("boss").get(path).json()["events"]
    assert [one["id"] for one in found] == ["event-2", "event-0"]
    assert found[0]["data"]["reason"] == "token=s3cret"
    for user in ("demo", "operator"):
        assert "s3cret" not in clients.user(user).get(path).text, user
    every = clients.user("observer").get("/v1/events")
    assert len(every.json()["events"]) == 3 and "s3cret" not in every.text
    assert clients.user("demo").get("/v1/events").status_code == 403


def test_a_plan_is_made_changed_and_removed_by_an_admin(clients: Clients, things: Things) -> None:
    boss, path = clients.user("boss"), "/v1/plans/all-is-lost"
    for wrong in ({}, {**PLAN, "to": "site-z"}, {**PLAN, "more": 1}):
        assert boss.put(path, {"plan": wrong}).status_code == 400
    first = boss.put(path, {"plan": PLAN})
    assert first.status_code == 200, first.text
    assert first.json()["plan"]["was"] == "added"
    assert boss.put(path, {"plan": PLAN}).json()["plan"]["was"] == "replaced"
    [listed] = boss.get("/v1/plans").json()["plans"]
    assert (listed["plan"], listed["vnfs"], listed["damaged"]) == ("all-is-lost", 1, None)
    assert clients.user("operator").ask("DELETE", path).status_code == 403
    assert boss.ask("DELETE", path).status_code == 204
    assert boss.get(path).status_code == 404


def test_only_an_admin_of_the_staff_deletes_a_recovery_point(
    clients: Clients, installation: Installation, things: Things
) -> None:
    asked = {"run": {"kind": "recovery-point-delete", "recovery_point": "p-1", "confirm": "hlr"}}
    for user in ("demo", "tenant-operator", "operator"):
        assert clients.user(user).post("/v1/vnfs/hlr/runs", asked).status_code == 403, user
    assert clients.user("boss").post("/v1/vnfs/hlr/runs", asked).status_code == 404
    assert not installation.deployment.runs.open("hlr")


@pytest.fixture
def stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume stands at each site."""
    one = {"volume": "standing-1", "stands_for": "volume-1"}
    monkeypatch.setattr(standing, "volumes", lambda *_: [one])


@pytest.mark.usefixtures("stands")
def test_the_removal_of_standing_volumes_is_a_run_that_is_confirmed(
    clients: Clients, installation: Installation, things: Things
) -> None:
    operator, path = clients.user("tenant-operator"), "/v1/vnfs/hlr/runs"
    asked = {"kind": "standing-removal", "site": "site-b"}
    for confirm in ({}, {"confirm": "theirs"}, {"confirm": ""}):
        answer = operator.post(path, {"run": {**asked, **confirm}})
        assert answer.json()["error"]["kind"] == "not-confirmed"
    confirmed = {"run": {**asked, "confirm": "hlr"}}
    assert clients.user("demo").post(path, confirmed).status_code == 403
    assert installation.deployment.runs.open("hlr") == []
    answer = operator.post(path, confirmed)
    assert answer.status_code == 202
    [row] = installation.deployment.runs.open("hlr")
    assert answer.headers["Location"].endswith(f"/v1/runs/{row.id}")
    assert (row.kind, row.state, row.request) == (asked["kind"], "queued", {"site": "site-b"})


@pytest.mark.usefixtures("stands", "things")
def test_a_request_whose_run_was_made_while_it_was_planned_gets_that_run(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, made = clients.user("tenant-operator"), list[str]()
    asked = {"run": {"kind": "standing-removal", "site": "site-b", "confirm": "hlr"}}

    def ask() -> str:
        answer = operator.post("/v1/vnfs/hlr/runs", asked, headers={"Idempotency-Key": "once"})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["run"]["id"])

    def planned(*given: Any) -> Any:
        monkeypatch.setattr(changes, "planned", real)
        made.append(ask())
        return real(*given)

    real = changes.planned
    monkeypatch.setattr(changes, "planned", planned)
    assert [ask()] == made


@pytest.mark.usefixtures("stands")
def test_a_run_that_uses_standing_volumes_keeps_them(
    clients: Clients, installation: Installation, things: Things
) -> None:
    failing = run_of("hlr", 2, kind="failover", id="failover-1", state="running", ended_at=None)
    installation.deployment.runs.create(failing)
    asked = {"run": {"kind": "standing-removal", "site": "site-b", "confirm": "hlr"}}
    answer = clients.user("operator").post("/v1/vnfs/hlr/runs", asked)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (409, "busy")


def test_one_vnf_is_checked_with_the_sites(clients: Clients, things: Things) -> None:
    operator = clients.user("operator")
    about = [
        {one["check"] for one in operator.post(f"/v1/site_checks{query}").json()["checks"]}
        for query in ("", "?vnf=hlr")
    ]
    assert about[1] - about[0] >= {"places of hlr"}
    assert not any("hlr" in one for one in about[0])
    assert operator.post("/v1/site_checks?vnf=none").status_code == 404


def test_the_service_that_does_not_run_is_shown_so(
    clients: Clients, installation: Installation, things: Things
) -> None:
    installation.deployment.runs.create(run_of("hlr", 5, state="queued", ended_at=None))
    service = clients.user("observer").get("/v1/service").json()["service"]
    assert (service["service"], service["queued"]) == ("not running", 1)

# SPDX-License-Identifier: Apache-2.0
"""Every route that there is, by the OpenAPI document: none lets a tenant see or do anything of
another project. A new route without a rule fails here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from antipode.api.app import rooms
from antipode.api.gate import Installation
from antipode.api.rules import RULES, rule_of_kind
from antipode.operations import proposals
from antipode.runs import KINDS
from antipode.runs.actions import RunbookSteps
from antipode.store.tables import StepRow
from tests.unit.api.conftest import Client, Clients, Things, run_of

OPEN = {"GET /", "GET /v1", "GET /healthcheck", "GET /openapi.json"}
NAMES = {
    "option": "quiesced-snapshot",
    "point": "newest",
    "policy": "gold",
    "plan": "all-is-lost",
    "site": "site-a",
    "vault": "third",
    "volume": "data",
}
ASK_SITES = ("/advice", "/datastore_copies", "/standing_volumes", "/volumes/{volume}")
"""Ends of paths whose answer is of services that are not there in these tests."""


def every() -> list[tuple[str, str, str | None]]:
    """Method, path and rule of each route."""
    routes: list[Any] = [route for room in rooms() for route in room.routes]
    return [
        (method, route.path, (route.openapi_extra or {}).get("x-rule"))
        for route in routes
        for method in sorted(route.methods - {"HEAD"})
    ]


ROUTES = every()
BEHIND = [(method, path) for method, path, rule in ROUTES if rule is not None]
ABOUT_ONE = [(m, p) for m, p in BEHIND if "{vnf}" in p or "{run}" in p]
OF_STAFF = [
    (m, p)
    for m, p in BEHIND
    if any(f"{m} {p}" in r.operations and "all_projects:True" in r.check for r in RULES)
]


def path_of(path: str, **names: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: {**NAMES, **names}[found[1]], path)


def refusal(client: Client, method: str, path: str, *secret: str) -> tuple[int, dict[str, Any]]:
    """The status and the fault of an answer, without the names that were asked for."""
    answer = client.ask(method, path, json={} if method in ("POST", "PUT") else None)
    text = answer.text
    for name in sorted(secret, key=len, reverse=True):
        text = text.replace(name, "NAME")
    return answer.status_code, {"text": text}


def test_each_route_has_a_rule_or_is_known_to_be_open() -> None:
    assert {f"{m} {p}" for m, p, rule in ROUTES if rule is None} == OPEN


def test_each_rule_is_of_routes_that_there_are() -> None:
    there = {f"{method} {path}" for method, path in BEHIND}
    named = {operation for rule in RULES for operation in rule.operations}
    assert named == there


def test_each_route_asks_the_rule_that_names_it() -> None:
    for method, path, rule in ROUTES:
        if rule is None:
            continue
        [of_route] = [r.name for r in RULES if f"{method} {path}" in r.operations]
        assert rule == f"disaster-recovery:{of_route}"


def test_no_route_answers_without_a_token(clients: Clients, things: Things) -> None:
    nobody = clients.with_token(None)
    for method, path in BEHIND:
        there = path_of(path, vnf="hlr", run=things.mine)
        assert refusal(nobody, method, there)[0] == 401, f"{method} {path}"


def test_a_thing_of_another_project_is_as_if_it_were_not_there(
    clients: Clients, things: Things
) -> None:
    stranger = clients.user("stranger")
    for method, path in ABOUT_ONE:
        answers = [
            refusal(stranger, method, path_of(path, vnf=vnf, run=run), vnf, run)
            for vnf, run in (
                ("hlr", things.mine),
                ("staffs", things.staffs),
                ("absent", "no-such-run"),
            )
        ]
        assert answers[0][0] == 404, f"{method} {path}"
        assert answers[0] == answers[1] == answers[2], f"{method} {path}"


def test_what_is_the_staffs_is_closed_to_tenants(clients: Clients, things: Things) -> None:
    for user in ("stranger", "tenant-operator", "antipode"):
        client = clients.user(user)
        for method, path in OF_STAFF:
            there = path_of(path, vnf="hlr", run=things.mine)
            assert refusal(client, method, there)[0] in (403, 404), f"{user}: {method} {path}"


def test_what_commands_say_is_read_by_those_that_may_read_the_commands(
    clients: Clients, installation: Installation, things: Things
) -> None:
    runs = installation.deployment.runs
    said = "runbook step x: /bin/check ended with exit code 1: token=s3cret"
    values = {"state": "failed", "reason": f"failed: {said}", "claim": 1}
    runs.create(run_of("hlr", 9, id="failover-spoke", kind="failover", **values))
    step = StepRow(
        id="spoke-1",
        run="failover-spoke",
        number="1",
        name=RunbookSteps.DO.words,
        resource="x",
        state="failed",
        started_at=1.0,
        ended_at=2.0,
        result={"exit_code": 1, "output": "token=s3cret", "error": said},
    )
    runs.keep("failover-spoke", 1, [step])
    for path in ("/v1/runs", "/v1/runs/failover-spoke", "/v1/runs/failover-spoke/steps"):
        assert "s3cret" in clients.user("boss").get(path).text, path
        for user in ("tenant-observer", "tenant-operator", "operator"):
            answer = clients.user(user).get(path)
            assert "failed" in answer.text and "s3cret" not in answer.text, f"{user}: {path}"


def test_what_a_part_has_said_is_in_no_list_either(
    clients: Clients, installation: Installation, things: Things
) -> None:
    """A plan fails by a drill, and that by a command: each repeats what it was given."""
    runs = installation.deployment.runs
    ids = [f"{kind}-20261130T180000Z-00000{n}" for n, kind in enumerate(("migrate", "drill", "x"))]
    said = "/bin/check ended with exit code 1: token=s3cret"
    for number, (run, below) in enumerate(zip(ids, [*ids[1:], "x"], strict=True)):
        values = {"state": "failed", "reason": f"failed: {said}", "claim": 1}
        runs.create(run_of("hlr", 10 + number, id=run, kind="drill", **values))
        is_last = number == len(ids) - 1
        step = StepRow(
            id=f"step-{number}",
            run=run,
            number="1",
            name=RunbookSteps.DO.words if is_last else "do a part",
            resource=below,
            state="failed",
            started_at=1.0,
            ended_at=2.0,
            result={"output": "token=s3cret", "error": said} if is_last else {},
        )
        runs.keep(run, 1, [step])
    for path in ("/v1/runs", "/v1/vnfs/hlr/runs", f"/v1/runs/{ids[0]}"):
        assert "s3cret" in clients.user("boss").get(path).text, path
        for user in ("tenant-observer", "operator"):
            answer = clients.user(user).get(path)
            assert "failed: " in answer.text and "s3cret" not in answer.text, f"{user}: {path}"


@pytest.fixture
def loose(tmp_path: Path, settings: dict[str, Any]) -> None:
    """A policy file that allows all to everybody."""
    path = tmp_path / "policy.yaml"
    path.write_text("".join(f'"disaster-recovery:{rule.name}": "@"\n' for rule in RULES))
    settings["policy_file"] = str(path)


def test_no_policy_file_opens_things_of_all_projects(
    loose: None, clients: Clients, things: Things
) -> None:
    tenant, staff = clients.user("tenant-observer"), clients.user("observer")
    for method, path in OF_STAFF:
        if "{vnf}" not in path and "{run}" not in path:
            where = f"{method} {path}"
            assert refusal(tenant, method, path_of(path))[0] == 403, where
            assert refusal(staff, method, path_of(path))[0] != 403, where
    own = {"primary": "site-a", "backup": "site-b", "members": [{"server": "db"}]}
    for project in (None, "other"):
        given = {"definition": {**own, "project": project}}
        assert tenant.put("/v1/vnfs/hlr/definition", given).status_code == 403, project
    given = {"definition": {**own, "project": "vnf"}}
    assert tenant.put("/v1/vnfs/hlr/definition", given).status_code == 200


def test_no_list_names_a_thing_of_another_project(clients: Clients, things: Things) -> None:
    stranger = clients.user("stranger")
    for method, path in BEHIND:
        if method != "GET" or "{" in path:
            continue
        for query in ("", "?vnf=hlr", f"?marker={things.mine}", "?limit=1000"):
            text = stranger.get(f"{path}{query}").text.replace(f"marker {things.mine}", "")
            assert "hlr" not in text, f"{path}{query}"
            assert "staffs" not in text, f"{path}{query}"


def test_an_observer_changes_nothing(clients: Clients, things: Things) -> None:
    for user in ("tenant-observer", "observer"):
        client = clients.user(user)
        for method, path in BEHIND:
            if method == "GET":
                continue
            there = path_of(path, vnf="hlr", run=things.mine)
            status, _ = refusal(client, method, there)
            assert status == 403, f"{user}: {method} {path}"


def test_the_staff_reaches_each_thing(clients: Clients, things: Things) -> None:
    boss = clients.user("boss")
    for method, path in ABOUT_ONE:
        for run, vnf in things.vnfs.items():
            if method != "GET":
                continue
            status, _ = refusal(boss, method, path_of(path, vnf=vnf, run=run))
            gone = "{point}" in path  # there is none
            if path.endswith(ASK_SITES):
                assert status in (404, 409, 503), f"{method} {path} of {vnf}"
            else:
                assert status == (404 if gone else 200), f"{method} {path} of {vnf}"


def kinds() -> Iterator[tuple[str, str]]:
    for kind in ("protect", "precheck", "drill", "drill-cleanup", "verify", "standing"):
        yield kind, "member"
    for kind in ("failover", "migrate", "failback", "fence", "reprotect", "undo", "commit"):
        yield kind, "operator"
    for kind in ("dns-switch", "standing-removal"):
        yield kind, "operator"


@pytest.mark.parametrize(("kind", "persona"), list(kinds()))
def test_a_kind_of_run_is_for_its_persona(
    clients: Clients, things: Things, installation: Installation, kind: str, persona: str
) -> None:
    more = {"failover": {"to": "site-b"}, "fence": {"site": "site-a"}}.get(kind, {})
    asked = {"run": {"kind": kind, "confirm": "no", **more}}
    if kind in ("protect", "precheck", "verify", "standing"):
        del asked["run"]["confirm"]
    rules, users = installation.rules, {}
    for user in ("tenant-observer", "demo", "tenant-operator"):
        client = clients.user(user)
        caller = installation.keystones.validate(str(client.token))
        users[user] = rules.allows(caller, f"run:{kind}", "vnf")
        if not users[user]:
            assert client.post("/v1/vnfs/hlr/runs", asked).status_code == 403
    assert users == {
        "tenant-observer": False,
        "demo": persona == "member",
        "tenant-operator": True,
    }


def test_each_name_of_a_run_has_a_rule_of_its_own() -> None:
    names = {rule.name for rule in RULES}
    assert {f"run:{name}" for name in proposals.OF_VNF} <= names


def test_a_kind_without_a_persona_is_the_staffs() -> None:
    [of_others] = [rule for rule in RULES if rule.name == "run:other"]
    assert "all_projects:True" in of_others.check
    for name in KINDS.names:
        has_own = rule_of_kind(name) != of_others.name
        assert has_own is (KINDS.get(name).persona is not None), name


def test_a_thing_of_no_project_is_of_no_caller_without_one(
    installation: Installation, sites: Any
) -> None:
    caller = installation.keystones.validate(sites["site-a"].token("backup"))
    assert caller.project is None
    for rule in RULES:
        assert not installation.rules.allows(caller, rule.name, None), rule.name
        assert not installation.rules.allows(caller, rule.name, "vnf"), rule.name
        assert not installation.rules.allows(caller, rule.name, "None"), rule.name

# SPDX-License-Identifier: Apache-2.0
"""The REST API on embedded sites, with real tokens over real HTTP: a VNF is protected, its site
dies, and two people recover it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from ruamel.yaml import YAML

from antipode.sandbox import canary, desk
from antipode.sandbox.keystone import PASSWORD, PROJECT, STAFF
from tests.ports import free_port
from tests.sandbox.conftest import BACKUP, PRIMARY, World, quiesced_within, until

pytestmark = pytest.mark.sandbox
EXAMPLES = 2
"""That schemathesis makes for each route, on top of those at the edges of the document."""
ALIKE = ("/v1/vnfs/{vnf}/runs", "/v1/plans/{plan}/runs")
"""Routes that take the bodies of previews: their edges are tried there, and here examples only."""


class Api:
    """The API of a world, as users of its sites ask it."""

    def __init__(self, world: World, port: int) -> None:
        self._world = world
        self.url = f"http://127.0.0.1:{port}"

    def token(self, site: str, user: str, project: str) -> str:
        """A new token of a site."""
        domain: Any = {"name": "Default"}
        who: Any = {"user": {"name": user, "domain": domain, "password": PASSWORD}}
        body = {
            "identity": {"methods": ["password"], "password": who},
            "scope": {"project": {"name": project, "domain": domain}},
        }
        url = f"{self._world.sandbox.settings(site).auth_url}/auth/tokens"
        answer = requests.post(url, json={"auth": body}, timeout=60)
        assert answer.status_code == 201, answer.text
        return answer.headers["X-Subject-Token"]

    def user(self, site: str, user: str, project: str = STAFF) -> requests.Session:
        """A session of a user, by a token of a site."""
        session = requests.Session()
        session.headers["X-Auth-Token"] = self.token(site, user, project)
        return session

    def ask(self, user: requests.Session, method: str, path: str, body: Any = None) -> Any:
        """The answer to a request that succeeds."""
        answer = user.request(method, f"{self.url}{path}", json=body, timeout=120)
        assert answer.ok, answer.text
        return answer.json()

    def carried_out(self, user: requests.Session, run: dict[str, Any]) -> dict[str, Any]:
        """A run once it has succeeded."""
        state: dict[str, Any] = {}

        def is_over() -> bool:
            state.update(self.ask(user, "GET", f"/v1/runs/{run['id']}")["run"])
            return state["state"] in ("succeeded", "failed", "aborted")

        until(is_over, "the run is over", 300)
        assert state["state"] == "succeeded", state
        return state


@contextmanager
def serving(world: World, command: str, **settings: Any) -> Iterator[Api]:
    """A process that answers to the API, until it is stopped as systemd stops it."""
    port, path = free_port(), world.sandbox.directory / desk.CONFIGURATION
    configuration = YAML().load(path)
    YAML().dump({**configuration, "api": desk.api(port), **settings}, path)
    api = Api(world, port)
    with world.operator.begin(command) as process:
        try:
            until(lambda: answers(api, process), "the API answers", 120)
            yield api
        finally:
            process.terminate()
            _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def answers(api: Api, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None
    try:
        return requests.get(f"{api.url}/healthcheck", timeout=5).ok
    except requests.ConnectionError:
        return False


def know(world: World) -> None:
    world.know(project=PROJECT, **quiesced_within(120))


def test_two_people_recover_a_vnf_of_a_dead_site(own_world: World) -> None:
    know(own_world)
    with serving(own_world, "serve", approvals={"failover": 1}) as api:
        member = api.user(PRIMARY, "demo", PROJECT)
        asked = {"run": {"kind": "protect"}}
        made = api.ask(member, "POST", "/v1/vnfs/canary/runs", asked)["run"]
        point = api.carried_out(member, made)["recovery_point"]
        own_world.sandbox.kill(PRIMARY)
        operator, approver = api.user(BACKUP, "operator"), api.user(BACKUP, "approver")
        failover = {"kind": "failover", "to": BACKUP, "recovery_point": point}
        preview = api.ask(operator, "POST", "/v1/vnfs/canary/previews", {"run": failover})
        assert preview["preview"]["approvals_needed"] == 1
        assert preview["preview"]["details"]["recovery_point"] == point
        asked = {"run": {**failover, "confirm": "canary"}}
        run = api.ask(operator, "POST", "/v1/vnfs/canary/runs", asked)["run"]
        assert run["state"] == "awaiting_approval"
        place = f"/v1/runs/{run['id']}/approvals"
        shown = api.ask(approver, "GET", place)["approvals"]
        api.ask(approver, "POST", place, {"approval": {"plan": shown["plan"]}})
        done = api.carried_out(operator, run)
        assert done["author"] == f"operator@{BACKUP}"
        assert api.ask(operator, "GET", "/v1/vnfs/canary")["vnf"]["active_site"] == BACKUP
        report = api.ask(operator, "GET", f"/v1/runs/{run['id']}/report")
        assert [a["by"] for a in report["approvals"]] == [f"approver@{BACKUP}"]
        canary.await_work(own_world.sandbox, BACKUP)


def test_a_silent_site_delays_no_user_of_the_other(own_world: World) -> None:
    know(own_world)
    with serving(own_world, "api") as api:
        own_world.sandbox.isolate(PRIMARY)
        user = api.user(BACKUP, "demo", PROJECT)
        [vnf] = api.ask(user, "GET", "/v1/vnfs")["vnfs"]
        assert vnf["name"] == "canary"
        own_world.sandbox.rejoin(PRIMARY)


def test_the_api_answers_as_its_document_says(own_world: World) -> None:
    know(own_world)
    run = own_world.protect()["run"]
    # a name of each kind that there is, so that handlers are reached
    names = f'[parameters]\n"path.vnf" = "canary"\n"path.run" = "{run}"\n'
    edges = "".join(
        f'[[operations]]\ninclude-path = "{path}"\ninclude-method = "POST"\n'
        "phases.coverage.enabled = false\n"
        for path in ALIKE
    )
    (own_world.sandbox.directory / "schemathesis.toml").write_text(names + edges)
    with serving(own_world, "serve") as api:  # `api` gives way to all else on a busy machine
        token = api.token(PRIMARY, "boss", STAFF)
        checked = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/openapi.json"),
                *("--header", f"X-Auth-Token: {token}", "--phases", "coverage,fuzzing"),
                *("--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"),
                *("--checks", CHECKS, "--request-timeout", "60", "--suppress-health-check", "all"),
                *("--generation-database", "none", "--exclude-method", "DELETE"),
            ],
            cwd=own_world.sandbox.directory,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert checked.returncode == 0, checked.stdout[-6000:] + checked.stderr[-2000:]
    assert own_world.frozen() == set()


CHECKS = ",".join(
    [
        *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
        *("response_schema_conformance", "response_headers_conformance", "ignored_auth"),
        "unsupported_method",
    ]
)

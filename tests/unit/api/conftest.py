# SPDX-License-Identifier: Apache-2.0
"""The REST API over a database, in front of the Keystones of two embedded sites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from antipode.api.gate import Installation
from antipode.api.server import serving
from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.model.serving import ApiConfig
from antipode.model.vnf import Vnf
from antipode.store.tables import RunRow
from tests.ports import free_port
from tests.unit import keystones
from tests.unit.keystones import Served


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Served]]:
    with keystones.served(tmp_path, monkeypatch) as both:
        yield both


@pytest.fixture
def settings() -> dict[str, Any]:
    """The part `api` of the configuration."""
    return {"port": free_port(), "projects": keystones.PROJECTS, "identity": {"timeout": 3.0}}


def definition(name: str, project: str | None) -> Vnf:
    """A VNF of a project."""
    return Vnf.model_validate(
        {
            "vnf": name,
            "project": project,
            "primary": "site-a",
            "backup": "site-b",
            "members": [{"server": "db"}],
            "protections": [{"option": "quiesced-snapshot", "schedule": {"every": "15m"}}],
        }
    )


def run_of(vnf: str, number: int = 0, **values: Any) -> RunRow:
    """A run as it is stored, by itself one that has succeeded."""
    given = {
        "id": f"protect-20261130T18{number // 60:02d}{number % 60:02d}Z-{vnf:.6}",
        "kind": "protect",
        "vnf": vnf,
        "state": "succeeded",
        "started_at": 1_000_000.0 + number,
        "ended_at": 1_000_001.0 + number,
        "result": {"recovery_point": f"point-{number}"},
        "request": {},
        "author": "demo@site-a",
    }
    return RunRow(**{**given, **values})


@dataclass(frozen=True)
class Things:
    """What there is: a VNF of each project, and a run of each."""

    mine: str
    """of the project vnf"""
    theirs: str
    """of the project other"""
    staffs: str
    """of no project"""

    @property
    def vnfs(self) -> dict[str, str]:
        """The VNF of each run."""
        return {self.mine: "hlr", self.theirs: "theirs", self.staffs: "staffs"}


@pytest.fixture
def things(installation: Installation) -> Things:
    deployment, runs = installation.deployment, []
    for name, project in (("hlr", "vnf"), ("theirs", "other"), ("staffs", None)):
        deployment.vnfs.put(definition(name, project))
        row = run_of(name)
        runs.append(row.id)
        deployment.runs.create(row)
    return Things(*runs)


@pytest.fixture
def installation(
    tmp_path: Path, sites: dict[str, Served], settings: dict[str, Any]
) -> Iterator[Installation]:
    (tmp_path / "vault").mkdir()
    config = Config.model_validate(
        {
            "sites": {site: {"cloud": site} for site in sites},
            "vault": {"directory": str(tmp_path / "vault")},
            "database": f"sqlite:///{tmp_path / 'antipode.db'}",
            "api": settings,
        }
    )
    assert isinstance(config.api, ApiConfig)
    made = Installation(Deployment(config), config.api)
    try:
        yield made
    finally:
        made.keystones.close()


class Client:
    """A user of the API, with a token of one site."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url
        self.token = token
        self._http = requests.Session()
        self._http.trust_env = False
        if token is not None:
            self._http.headers["X-Auth-Token"] = token

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request; the answer."""
        return self._http.request(method, f"{self._url}{path}", timeout=30, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.ask("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> requests.Response:
        return self.ask("POST", path, json=body, **options)

    def put(self, path: str, body: object = None, **options: Any) -> requests.Response:
        return self.ask("PUT", path, json=body, **options)


class Clients:
    """The users of the embedded sites."""

    def __init__(self, url: str, sites: dict[str, Served]) -> None:
        self.url = url
        self._sites = sites

    def user(self, name: str, site: str = "site-a") -> Client:
        return Client(self.url, self._sites[site].token(name))

    def with_token(self, token: str | None) -> Client:
        return Client(self.url, token)


@pytest.fixture
def clients(installation: Installation, sites: dict[str, Served]) -> Iterator[Clients]:
    with serving(installation) as url:
        yield Clients(url, sites)

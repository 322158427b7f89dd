# SPDX-License-Identifier: Apache-2.0
"""The REST API over a database, in front of the Keystones of two embedded sites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from antipode.api.gate import Installation
from antipode.api.server import serving
from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.model.serving import ApiConfig
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
    return {"port": free_port(), "projects": keystones.PROJECTS, "identity": {"timeout": 1.0}}


@pytest.fixture
def installation(
    tmp_path: Path, sites: dict[str, Served], settings: dict[str, Any]
) -> Iterator[Installation]:
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

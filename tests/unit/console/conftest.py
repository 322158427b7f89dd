# SPDX-License-Identifier: Apache-2.0
"""The console over a database, in front of the Keystones of two embedded sites."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
import requests

from antipode.api.gate import Installation
from antipode.api.server import Beside, serving
from antipode.console import snapshot
from antipode.console.app import console
from antipode.console.sessions import Session
from antipode.console.web import COOKIE, ROOT, Console
from antipode.engine.deployment import Deployment
from antipode.store.tables import RunRow, StepRow
from tests.ports import free_port
from tests.unit import keystones
from tests.unit.api import conftest as api
from tests.unit.keystones import PASSWORD, PROJECT, Served
from tests.unit.samples import vnf

installation, sites = api.installation, api.sites
__all__ = ["installation", "sites"]


@pytest.fixture
def settings() -> dict[str, Any]:
    """The part `api` of the configuration."""
    return {"port": free_port(), "projects": keystones.PROJECTS, "identity": {"timeout": 20.0}}


class Page(HTMLParser):
    """What a browser would make of an answer."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]


class Visitor:
    """A browser without a window."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = requests.Session()
        self.http.trust_env = False

    @property
    def cookie(self) -> str:
        """The name of its session."""
        return str(self.http.cookies[COOKIE])

    def get(self, path: str, *, fragment: bool = False, **options: Any) -> requests.Response:
        headers = {"X-Fragment": "1"} if fragment else {}
        return self.http.get(
            f"{self.url}{ROOT}{path}",
            headers=headers,
            allow_redirects=False,
            timeout=30,
            **options,
        )

    def page(self, path: str) -> Page:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return Page(answer.text)

    def csrf(self, path: str = "/") -> str:
        """The token of the forms of a page."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path).text)
        assert found is not None
        return found[1]

    def post(
        self, path: str, form: dict[str, Any] | None = None, **headers: str
    ) -> requests.Response:
        """Send a form, with the token of this visitor's session unless it has another."""
        sent = form or {}
        if "csrf" not in sent:
            sent = {"csrf": self.csrf(), **sent}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(
            f"{self.url}{ROOT}{path}", data=sent, headers=named, allow_redirects=False, timeout=30
        )

    def log_in(self, user: str, password: str = PASSWORD, **more: str) -> requests.Response:
        form = {"csrf": self.csrf("/login"), "user": user, "password": password, **more}
        return self.post("/login", form)


class House:
    """The console, and visitors of it."""

    def __init__(self, url: str, installation: Installation, app: Console) -> None:
        self.url, self.installation, self.app = url, installation, app

    @property
    def deployment(self) -> Deployment:
        return self.installation.deployment

    def visitor(self) -> Visitor:
        return Visitor(self.url)

    def session_of(self, visitor: Visitor) -> Session:
        """The session of somebody that has logged in."""
        found = self.app.sessions.find(visitor.cookie, by_person=True)
        assert found is not None
        return found

    def logged_in(self, user: str) -> Visitor:
        found = self.visitor()
        answer = found.log_in(user)
        assert answer.status_code == 303, answer.text
        return found


@pytest.fixture
def house(
    installation: Installation, sites: dict[str, Served], monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    for name in ("FRESH_S", "AS_LONG"):
        monkeypatch.setattr(snapshot, name, 0.0)  # each page shows what is there now
    made = console(installation)
    with serving(installation, Beside(ROOT, lambda _: made)) as url:
        yield House(url, installation, made.console)


@pytest.fixture
def known(house: House) -> House:
    """With a VNF of the tenant, and one of the staff."""
    house.deployment.vnfs.put(vnf(project=PROJECT))
    house.deployment.vnfs.put(vnf(vnf="smsc"))
    return house


def run(name: str, **changes: Any) -> RunRow:
    """A run of the VNF of the tenant that has succeeded."""
    now = time.time()
    values: dict[str, Any] = {
        "id": name,
        "kind": name.partition("-")[0],
        "vnf": "hlr",
        "state": "succeeded",
        "started_at": now - 60,
        "ended_at": now - 30,
        "result": {},
        "request": {},
        "priority": 10,
        "claim": 1,
        "author": "tenant-operator@site-a",
        "approvals_needed": 0,
    }
    return RunRow(**{**values, **changes})


def step(of: str, number: int, **changes: Any) -> StepRow:
    now = time.time()
    values: dict[str, Any] = {
        "id": f"{of[-20:]}-{number}"[-32:],
        "run": of,
        "number": "1.1",
        "name": "discover servers and volumes",
        "resource": "hlr",
        "state": "succeeded",
        "started_at": now - 50,
        "ended_at": now - 40,
        "result": {},
    }
    return StepRow(**{**values, **changes})

# SPDX-License-Identifier: Apache-2.0
"""An entry of clouds.yaml that cannot be used is the operator's to mend: exit code 2, with the
field; and nothing secret is in a log.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from keystoneauth1.adapter import Adapter
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.session import Session
from requests.adapters import BaseAdapter

from antipode.cloud.site import _check_region, connect, connect_objects
from antipode.cloud.transport import Login
from antipode.errors import InvalidInput

USER = "auth_url: http://127.0.0.1:9/v3, username: u, project_name: p, user_domain_id: default"
CREDENTIAL = "auth_type: v3applicationcredential, auth: {auth_url: http://127.0.0.1:9/v3"
UNUSABLE = {
    "no clouds": ("clouds:", "clouds"),
    "no file content": ("", "clouds"),
    "clouds is a list": ("clouds: [here]", "clouds"),
    "null entry": ("clouds: {here: }", "entry"),
    "null auth": ("clouds: {here: {auth: }}", "auth"),
    "auth is text": ("clouds: {here: {auth: text}}", "auth"),
    "no such auth type": (f"clouds: {{here: {{auth_type: nope, auth: {{{USER}}}}}}}", "nope"),
    "no password": (f"clouds: {{here: {{auth: {{{USER}}}}}}}", "password"),
    "no auth_url": ("clouds: {here: {auth: {username: u, password: x}}}", "auth_url"),
    "no secret": (
        f"clouds: {{here: {{{CREDENTIAL}, application_credential_id: i}}}}}}",
        "application_credential_secret",
    ),
    "no credential": (
        f"clouds: {{here: {{{CREDENTIAL}, application_credential_secret: s}}}}}}",
        "application_credential_id",
    ),
    "no YAML": ("clouds: {here: [", "clouds.yaml"),
    "another entry": ("clouds: {there: {auth: {}}}", "here"),
}


@pytest.mark.parametrize("case", UNUSABLE)
@pytest.mark.parametrize("how", [connect, connect_objects])
def test_an_entry_that_cannot_be_used_is_named_with_its_field(
    case: str, how: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, field = UNUSABLE[case]
    path = tmp_path / "clouds.yaml"
    path.write_text(content)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput) as failure:
        how("site", "here")
    assert failure.value.exit_code == 2
    assert field in str(failure.value)
    assert "clouds.yaml" in str(failure.value)


def test_a_region_that_the_site_does_not_have_is_named_with_those_it_has() -> None:
    endpoints = {"compute": [{"region": "east"}], "identity": [{"region": None}]}
    catalog = SimpleNamespace(get_endpoints=lambda: endpoints)
    _check_region("site", "here", "east", catalog)
    _check_region("site", "here", None, catalog)
    with pytest.raises(InvalidInput, match=r"region_name west.*east"):
        _check_region("site", "here", "west", catalog)


class Wire(BaseAdapter):
    """Answers every request with a server whose user data are secret."""

    def send(self, request: Any, *args: Any, **options: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url
        response.headers["Content-Type"] = "application/json"
        response._content = b'{"server": {"user_data": "ANSWERED"}}'
        return response

    def close(self) -> None:
        """Nothing is open."""


class Known(BaseIdentityPlugin):
    def get_token(self, session: Any, **_: Any) -> str:
        return "TOKEN"

    def get_headers(self, session: Any, **_: Any) -> dict[str, str]:
        return {"X-Auth-Token": "TOKEN"}

    def get_auth_ref(self, session: Any, **_: Any) -> Any:
        raise AssertionError("the token is good")


class Proxy(Adapter):
    """As openstacksdk's proxies take a request."""

    def request(self, url: str, method: str, skip_cache: bool = False, **options: Any) -> Any:
        return super().request(url, method, **options)


def test_debug_logs_have_the_call_and_neither_bodies_nor_tokens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    session = Session(auth=Known())
    session.session.mount("http://", Wire())
    proxy = Proxy(session, endpoint_override="http://nova")
    body = {"server": {"user_data": "SENT", "adminPass": "SENT"}}
    Login(session).ask(proxy, "/servers", "POST", json=body)
    assert "POST /servers: 200" in caplog.text
    for secret in ("SENT", "ANSWERED", "TOKEN"):
        assert secret not in caplog.text

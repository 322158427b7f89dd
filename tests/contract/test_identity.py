# SPDX-License-Identifier: Apache-2.0
"""Keystone and the catalog, as antipode finds its way by them."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from ruamel.yaml import YAML

from antipode.cloud.site import Site, connect
from antipode.errors import InvalidInput
from tests.contract.conftest import PRIMARY


@pytest.fixture
def changed_clouds(clouds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a clouds.yaml in which the primary's entry says something else."""

    def change(**auth: str) -> None:
        copy = tmp_path / "clouds.yaml"
        shutil.copy(clouds, copy)
        content = YAML().load(copy)
        content["clouds"][PRIMARY]["auth"].update(auth)
        YAML().dump(content, copy)
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(copy))

    return change


@pytest.mark.core
def test_a_token_tells_project_user_and_roles(site: Site, tenant: Site) -> None:
    assert site.project_id == tenant.project_id
    assert site.user_id != tenant.user_id
    assert "admin" in site.roles
    assert "admin" not in tenant.roles
    assert "member" in tenant.roles


@pytest.mark.parametrize(
    "wrong", [{"password": "wrong"}, {"username": "nobody"}, {"project_name": "no-such-project"}]
)
def test_wrong_credentials_are_refused(changed_clouds: Any, wrong: dict[str, str]) -> None:
    changed_clouds(**wrong)
    with pytest.raises(InvalidInput):
        connect(PRIMARY, PRIMARY)


@pytest.mark.core
def test_the_catalog_leads_to_all_services_that_antipode_needs(
    site: Site, other_site: Site
) -> None:
    assert site.compute.version.startswith("2.")
    assert site.volumes.version.startswith("3.")
    assert site.networks.networks()
    assert other_site.objects is not None


def test_a_new_token_can_be_had_before_a_window(site: Site) -> None:
    site.stay_authorized(10 * 365 * 24 * 3600)
    assert site.networks.networks()


@dataclass(frozen=True)
class Asking:
    """Calls to the Keystone of the primary."""

    url: str

    def token(self, method: dict[str, Any]) -> str:
        """A new token by a method of authentication, with the scope that comes with it."""
        answer = requests.post(f"{self.url}/auth/tokens", json={"auth": method}, timeout=30)
        assert answer.status_code == 201, answer.text
        return answer.headers["X-Subject-Token"]

    def validate(self, asker: str, subject: str) -> requests.Response:
        headers = {"X-Auth-Token": asker, "X-Subject-Token": subject}
        return requests.get(f"{self.url}/auth/tokens", headers=headers, timeout=30)


@pytest.fixture
def keystone(clouds: Path) -> Asking:
    url = YAML().load(clouds)["clouds"][PRIMARY]["auth"]["auth_url"].rstrip("/")
    return Asking(url if url.endswith("/v3") else f"{url}/v3")


def _by_password(clouds: Path, entry: str) -> dict[str, Any]:
    auth = YAML().load(clouds)["clouds"][entry]["auth"]
    domain = {"name": "Default"}
    user = {"name": auth["username"], "domain": domain, "password": auth["password"]}
    return {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": {"name": auth["project_name"], "domain": domain}},
    }


@pytest.mark.core
def test_a_token_may_ask_about_itself(keystone: Asking, clouds: Path, tenant: Site) -> None:
    token = keystone.token(_by_password(clouds, f"{PRIMARY}-tenant"))
    answer = keystone.validate(token, token)
    assert answer.status_code == 200
    seen = answer.json()["token"]
    assert seen["project"]["id"] == tenant.project_id
    assert seen["user"]["id"] == tenant.user_id
    assert "member" in [role["name"] for role in seen["roles"]]
    assert datetime.fromisoformat(seen["expires_at"]) > datetime.now(UTC)


def test_no_token_may_ask_about_one_of_somebody_else(keystone: Asking, clouds: Path) -> None:
    tenants = keystone.token(_by_password(clouds, f"{PRIMARY}-tenant"))
    operators = keystone.token(_by_password(clouds, PRIMARY))
    assert keystone.validate(tenants, operators).status_code == 403
    assert keystone.validate(operators, tenants).status_code == 200


def test_what_is_no_token_cannot_ask_about_itself(keystone: Asking) -> None:
    assert keystone.validate("no-token", "no-token").status_code == 401


@pytest.mark.core
def test_an_application_credential_gives_a_token_of_its_project(
    keystone: Asking, clouds: Path, tenant: Site
) -> None:
    token = keystone.token(_by_password(clouds, f"{PRIMARY}-tenant"))
    place = f"{keystone.url}/users/{tenant.user_id}/application_credentials"
    headers = {"X-Auth-Token": token}
    asked = {"application_credential": {"name": f"contract-{uuid.uuid4().hex[:6]}"}}
    answer = requests.post(place, json=asked, headers=headers, timeout=30)
    assert answer.status_code == 201
    made = answer.json()["application_credential"]
    try:
        given = {"id": made["id"], "secret": made["secret"]}
        method = {"methods": ["application_credential"], "application_credential": given}
        by_it = keystone.token({"identity": method})
        seen = keystone.validate(by_it, by_it).json()["token"]
        assert seen["project"]["id"] == tenant.project_id
        assert seen["user"]["id"] == tenant.user_id
    finally:
        gone = requests.delete(f"{place}/{made['id']}", headers=headers, timeout=30)
    assert gone.status_code == 204

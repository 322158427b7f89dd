# SPDX-License-Identifier: Apache-2.0
"""Keystone and the catalog, as antipode finds its way by them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
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

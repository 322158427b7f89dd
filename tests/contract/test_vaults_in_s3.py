# SPDX-License-Identifier: Apache-2.0
"""A vault in an S3 bucket: on the lab that of Swift's s3api, else moto's in its place."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from antipode.config import S3Vault as Settings
from antipode.errors import VaultError
from antipode.vault.s3 import S3Vault
from tests.unit.s3server import S3Server
from tests.vault_suite import *  # noqa: F403 the tests that run over all back ends

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A service that speaks S3, and whose credentials there are; the bucket is another one."""
    folder = tmp_path_factory.mktemp("s3")
    if request.config.getoption("--sites") == "lab":
        return of_the_lab(folder)
    server = S3Server(folder)
    request.addfinalizer(server.down)
    return server.settings("unused")


def of_the_lab(folder: Path) -> Settings:
    from lab.services import identity, swift
    from lab.services.tenant import PROJECT
    from lab.site import SITES

    site = SITES["site-b"]
    access, secret = identity.s3_keys(identity.connect(site, "antipode", PROJECT))
    path = folder / "credentials"
    path.touch(0o600)
    path.write_text(f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")
    return Settings(bucket="unused", endpoint=site.url(swift.PORT), credentials_file=path)


@pytest.fixture
def vault(service: Settings, prefix: str) -> Iterator[S3Vault]:
    made = S3Vault(service.model_copy(update={"bucket": f"{prefix}-{next(_numbers)}"}))
    made._s3.create_bucket(Bucket=made._bucket)
    yield made
    for page in made._s3.get_paginator("list_objects_v2").paginate(Bucket=made._bucket):
        for item in page.get("Contents", ()):
            made._s3.delete_object(Bucket=made._bucket, Key=item["Key"])
    made._s3.delete_bucket(Bucket=made._bucket)


def test_a_bucket_of_our_own_is_open_to_no_others(vault: S3Vault) -> None:
    assert vault.remarks() == []


def test_a_bucket_that_is_not_there_is_said_to_be_missing(vault: S3Vault) -> None:
    name = f"{vault._bucket}-none"
    other = S3Vault(vault._settings.model_copy(update={"bucket": name}))
    with pytest.raises(VaultError, match=name):
        other.list("")

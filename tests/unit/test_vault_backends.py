# SPDX-License-Identifier: Apache-2.0
"""What every back end of a vault keeps: one suite over a directory, Swift's rules and an S3 API."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from antipode.errors import InvalidInput, Stopped, VaultError
from antipode.operations import site_check
from antipode.vault import Vault
from antipode.vault.directory import DirectoryVault
from antipode.vault.ensemble import Vaults
from antipode.vault.s3 import S3Vault
from antipode.vault.swift import SwiftVault
from tests.unit import storages
from tests.unit.s3server import KEY, SECRET, S3Server
from tests.vault_suite import *  # noqa: F403 the tests that run over all back ends

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.down()


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A new bucket."""
    name = f"bucket-{next(_numbers)}"
    s3.make(name)
    return name


@pytest.fixture(params=["directory", "swift", "s3"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    if request.param == "directory":
        return DirectoryVault(tmp_path)
    if request.param == "swift":
        objects: Any = storages.MemoryObjects()
        return SwiftVault(objects, "c", "site-b")
    server: S3Server = request.getfixturevalue("s3")
    return server.vault(request.getfixturevalue("bucket"))


def test_more_names_than_one_answer_has_are_all_listed(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = s3.vault(bucket)
    names = [f"hlr/{number}" for number in range(5)]
    for name in names:
        vault.put(name, b"")
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    s3.calls.clear()
    assert vault.list("hlr/") == names
    assert len(s3.calls) == 3


def test_a_service_that_ignores_if_none_match_is_refused_before_anything_is_written(
    s3: S3Server, bucket: str
) -> None:
    vault = s3.vault(bucket)
    s3.ignored_headers = {"HTTP_IF_NONE_MATCH"}
    try:
        vault.put("hlr/one", b"first")
        for attempt in (lambda: vault.create("hlr/one", b"second"), vault.check):
            with pytest.raises(VaultError, match="If-None-Match"):
                attempt()
        assert vault.get("hlr/one") == b"first"
        assert vault.list("") == ["hlr/one"]
    finally:
        s3.ignored_headers = set()


def test_the_service_is_probed_once(s3: S3Server, bucket: str) -> None:
    vault = s3.vault(bucket)
    vault.create("hlr/one", b"")
    s3.calls.clear()
    vault.create("hlr/two", b"")
    assert [method for method, _ in s3.calls] == ["PUT", "GET"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("507", "InsufficientStorage"),
        ("413", "EntityTooLarge"),
        ("403", "AccessDenied"),
        ("500", "InternalError"),
        ("501", "NotImplemented"),
        ("400", "QuotaExceeded"),
    ],
)
def test_a_write_that_is_refused_says_so_and_leaves_what_was_there(
    s3: S3Server, bucket: str, status: str, code: str
) -> None:
    vault = s3.vault(bucket)
    vault.put("hlr/one", b"first")
    with s3.refusing("PUT", r"/hlr/", status, code):
        for attempt in (
            lambda: vault.put("hlr/one", b"second"),
            lambda: vault.create("hlr/two", b"second"),
        ):
            with pytest.raises(VaultError, match=f"{status} {code}"):
                attempt()
    assert vault.list("") == ["hlr/one"]
    assert vault.get("hlr/one") == b"first"


def test_what_cannot_be_read_is_not_taken_for_missing(s3: S3Server, bucket: str) -> None:
    vault = s3.vault(bucket)
    vault.put("hlr/one", b"first")
    with s3.refusing("GET", bucket, "403", "AccessDenied"):
        for read in (
            lambda: vault.get("hlr/one"),
            lambda: vault.versions("hlr/one"),
            lambda: vault.list(""),
        ):
            with pytest.raises(VaultError):
                read()


def test_a_write_beside_another_of_the_same_name_is_tried_again_and_given_up(
    s3: S3Server, bucket: str
) -> None:
    vault = s3.vault(bucket)
    vault.create("hlr/one", b"")
    with (
        s3.refusing("PUT", r"/hlr/", "409", "ConditionalRequestConflict"),
        pytest.raises(VaultError, match="being written"),
    ):
        vault.create("hlr/two", b"")


def test_a_bucket_that_is_not_there_is_an_error_and_not_empty(s3: S3Server) -> None:
    vault = s3.vault("no-such-bucket")
    for attempt in (vault.check, lambda: vault.list(""), lambda: vault.get("hlr/one")):
        with pytest.raises(VaultError, match="no-such-bucket"):
            attempt()


def test_a_service_that_does_not_answer_is_an_error_of_the_vault(tmp_path: Path) -> None:
    server = S3Server(tmp_path)
    vault = server.vault("bucket")
    server.down()
    with pytest.raises(VaultError, match=server.endpoint):
        vault.list("")


def test_a_run_that_has_lost_its_claim_writes_nothing(s3: S3Server, bucket: str) -> None:
    def lost() -> None:
        raise Stopped("the claim is lost")

    vault = S3Vault(s3.settings(bucket), lost)
    for attempt in (
        lambda: vault.put("hlr/one", b""),
        lambda: vault.create("hlr/one", b""),
        lambda: vault.delete("hlr/one"),
    ):
        with pytest.raises(Stopped):
            attempt()
    assert s3.vault(bucket).list("") == []


def test_documents_are_locked_where_the_settings_say_so_and_probes_are_not(s3: S3Server) -> None:
    s3.make("locked", lock=True)
    vault = s3.vault("locked", lock={"days": 30, "mode": "compliance"})
    vault.check()
    vault.put("hlr/one", b"first")
    client = s3.client("locked")
    held = client.head_object(Bucket="locked", Key="hlr/one")
    assert held["ObjectLockMode"] == "COMPLIANCE"
    days = (held["ObjectLockRetainUntilDate"] - held["LastModified"]).total_seconds() / 86400
    assert round(days) == 30
    version = held["VersionId"]
    with pytest.raises(client.exceptions.ClientError):
        client.delete_object(Bucket="locked", Key="hlr/one", VersionId=version)
    vault.delete("hlr/one")
    assert vault.list("") == []
    kept = client.list_object_versions(Bucket="locked", Prefix="hlr/")["Versions"]
    assert [item["VersionId"] for item in kept] == [version]
    assert vault.create("hlr/one", b"again")


def test_a_bucket_without_lock_is_refused_where_the_settings_want_one(
    s3: S3Server, bucket: str
) -> None:
    with pytest.raises(VaultError, match="lock"):
        s3.vault(bucket, lock={"days": 30}).check()


def test_a_lock_that_is_not_used_is_remarked(s3: S3Server, bucket: str) -> None:
    s3.make("lockable", lock=True)
    assert s3.vault(bucket).remarks() == []
    assert len(s3.vault("lockable").remarks()) == 1
    assert s3.vault("lockable", lock={"days": 1}).remarks() == []
    s3.client("lockable").put_object_lock_configuration(
        Bucket="lockable",
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 7}},
        },
    )
    assert s3.vault("lockable").remarks() == []


def test_credentials_are_in_no_message_and_in_no_log(
    s3: S3Server, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    from antipode import logs

    for name in logs.NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    with caplog.at_level(logging.DEBUG), s3.refusing("GET", bucket, "403", "SignatureDoesNotMatch"):
        vault = s3.vault(bucket)
        with pytest.raises(VaultError) as caught:
            vault.get("hlr/one")
    for secret in (KEY, SECRET):
        assert secret not in str(caught.value) + caplog.text + repr(vars(vault))


def test_a_credentials_file_that_others_can_read_is_refused(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    copy = tmp_path / "credentials"
    copy.write_text(s3.credentials.read_text())
    for mode in (0o644, 0o640):
        copy.chmod(mode)
        with pytest.raises(InvalidInput, match="chmod 600"):
            s3.vault(bucket, credentials_file=copy)
    with pytest.raises(InvalidInput):
        s3.vault(bucket, credentials_file=tmp_path / "none")


def test_a_profile_that_is_not_there_is_named(s3: S3Server, bucket: str) -> None:
    with pytest.raises(InvalidInput, match="nobody"):
        s3.vault(bucket, profile="nobody")


def test_without_botocore_the_extra_is_named(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antipode.libraries.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"antipode\[s3\]"):
        s3.vault(bucket)


def test_a_container_that_others_may_use_is_remarked() -> None:
    storage: Any = storages.MemoryObjects()
    vault = SwiftVault(storage, "c", "site-b")
    assert vault.remarks() == []
    storage.facts = storage.facts._replace(writers="tenants:*", readers=".r:*")
    written, read = vault.remarks()
    assert "tenants:*" in written
    assert ".r:*" in read


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_vault_with_a_wrong_clock_is_remarked(hours: int) -> None:
    storage: Any = storages.MemoryObjects()
    there = datetime.now(UTC) + timedelta(hours=hours)
    storage.facts = storage.facts._replace(date=format_datetime(there, usegmt=True))
    (remark,) = SwiftVault(storage, "c", "site-b").remarks()
    assert "clock" in remark
    storage.facts = storage.facts._replace(date="yesterday")
    assert SwiftVault(storage, "c", "site-b").remarks() == []


def test_a_bucket_that_is_open_to_everybody_is_remarked(s3: S3Server, bucket: str) -> None:
    vault = s3.vault(bucket)
    assert vault.remarks() == []
    s3.client(bucket).put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    (remark,) = vault.remarks()
    assert bucket in remark


def test_a_container_in_the_project_of_the_vnfs_is_remarked() -> None:
    """The account that a site's entry of clouds.yaml has is the one of the VNFs."""
    storage: Any = storages.MemoryObjects()
    vaults = Vaults({"b": lambda: SwiftVault(storage, "c", "site-b")}, all_needed=True)
    site: Any = SimpleNamespace(name="site-b", objects=SimpleNamespace(account=storage.account))
    deployment: Any = SimpleNamespace(connected_sites=lambda: [site])
    (remark,) = site_check._projects_remarks(deployment, vaults)
    assert "site-b" in remark
    site.objects.account = "https://b/v1/AUTH_2"
    assert list(site_check._projects_remarks(deployment, vaults)) == []

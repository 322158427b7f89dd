# SPDX-License-Identifier: Apache-2.0
"""The one way into the API."""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from antipode.api import server
from antipode.api.gate import Installation
from antipode.api.rate import Buckets
from antipode.model.serving import ApiConfig
from antipode.operations import protections
from tests.unit.api.conftest import Clients, Things


def test_no_token_no_answer(clients: Clients) -> None:
    answer = clients.with_token(None).get("/v1/sites")
    assert answer.status_code == 401
    assert answer.json()["error"]["kind"] == "not-authenticated"
    assert answer.headers["X-Openstack-Request-Id"].startswith("req-")


def test_the_sites_are_listed(clients: Clients) -> None:
    answer = clients.user("tenant-observer").get("/v1/sites")
    assert [site["name"] for site in answer.json()["sites"]] == ["site-a", "site-b"]


def test_a_project_that_is_not_configured_sees_nothing(clients: Clients) -> None:
    assert clients.user("backup").get("/v1/sites").status_code == 403


def test_strangers_do_not_fill_the_trail(clients: Clients, installation: Installation) -> None:
    stranger = clients.with_token(None)
    for _ in range(70):
        assert stranger.get("/v1/sites").status_code == 401
    assert 0 < len(installation.deployment.audit.page(1000)) < 70


def test_a_user_that_asks_too_often_does_not_fill_the_trail(
    clients: Clients, installation: Installation
) -> None:
    user = clients.user("demo")
    installation.of_users = Buckets(3)
    found = [user.post("/v1/vnfs/none/previews", {}).status_code for _ in range(8)]
    assert found.count(429) >= 4
    assert len(installation.deployment.audit.page(100)) == 8 - found.count(429)


def test_a_fault_of_antipode_has_an_id_and_is_in_the_trail(
    clients: Clients,
    things: Things,
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("boom, at /etc/secret")

    monkeypatch.setattr(protections, "pause", fails)
    path = "/v1/vnfs/hlr/protections/quiesced-snapshot/schedule"
    answer = clients.user("boss").put(path, {"schedule": {"paused": True}})
    assert answer.status_code == 500 and "boom" not in answer.text
    assert answer.json()["error"]["kind"] == "unexpected"
    (kept,) = installation.deployment.audit.page(10)
    assert (kept.action, kept.status) == ("protection:pause", 500)
    assert kept.request_id == answer.headers["X-Openstack-Request-Id"]
    assert kept.request_id in caplog.text and "boom" in caplog.text


def test_without_its_database_the_api_says_so(
    clients: Clients, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OperationalError("SELECT 1", {}, Exception("disk I/O error"))

    monkeypatch.setattr(installation.deployment.database, "connect", fails)
    monkeypatch.setattr(installation.deployment.vnfs, "page", fails)
    assert clients.with_token(None).get("/healthcheck").status_code == 503
    answer = clients.user("demo").get("/v1/vnfs")
    assert answer.status_code == 503
    assert "disk" not in answer.text


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    ],
)
def test_a_client_that_sends_no_whole_request_loses_its_connection(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "SENT_WITHIN_S", 0.1)
    with socket.create_connection(("127.0.0.1", urlsplit(clients.url).port), 10) as connection:
        connection.sendall(sent)
        received = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(4096):
                received += piece
    assert b" 200 " not in received


@pytest.mark.parametrize("head", [b"GET /healthcheck?", b"GET /healthcheck HTTP/1.1\r\nX: "])
def test_a_head_without_an_end_is_refused(clients: Clients, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(clients.url).port), 10) as connection:
        received = b""
        with suppress(ConnectionError):
            connection.sendall(head)
            for _ in range(64):
                connection.sendall(b"x" * (64 << 10))
            while piece := connection.recv(4096):
                received += piece
    assert b" 200 " not in received
    assert clients.with_token(None).get("/healthcheck").status_code == 200


@pytest.fixture
def certified(tmp_path: Path, settings: dict[str, Any]) -> Path:
    """A certificate of this host that signs itself, in the settings."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    address = x509.IPAddress(IPv4Address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "api.pem").write_bytes(certificate.public_bytes(pem))
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "api.key").write_bytes(private)
    settings |= {"certificate": tmp_path / "api.pem", "key": tmp_path / "api.key"}
    return tmp_path / "api.pem"


def test_the_api_is_encrypted_by_its_own_certificate(certified: Path, clients: Clients) -> None:
    assert clients.url.startswith("https://")
    answer = requests.get(f"{clients.url}/healthcheck", verify=str(certified), timeout=30)
    assert answer.json() == {"status": "OK"}
    plain = clients.url.replace("https://", "http://")
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{plain}/healthcheck", timeout=30)


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "0.0.0.0"},
        {"certificate": "/etc/api.pem"},
        {"certificate": "api.pem", "key": "api.key"},
        {"projects": {"a": {"sites": {"s": "1"}}, "b": {"sites": {"s": "1"}}}},
        {"projects": {"a": {"sites": {}}}},
        {"url": "https://user:secret@host"},
        {"port": 0},
    ],
)
def test_settings_that_are_not_safe_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ApiConfig.model_validate({"port": 9871, **wrong})

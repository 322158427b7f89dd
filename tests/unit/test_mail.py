# SPDX-License-Identifier: Apache-2.0
"""Events as mails, to a real SMTP server on this host: what comes there, and what comes later."""

from __future__ import annotations

import datetime
import email
import ipaddress
import json
import socket
import ssl
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from antipode import config
from antipode.config import ALARMS, EventsConfig, Mail
from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput
from antipode.model.event import Event
from antipode.service import mail as mailing
from antipode.service.courier import PAUSES_S, couriers
from antipode.service.events import receivers
from antipode.service.mail import MailReceiver
from antipode.service.receiver import NotDelivered
from tests.ports import free_port
from tests.unit import samples
from tests.unit.test_events import NOON

PASSWORD = "a password that is in no log"


class Server:
    """A mail server that answers as the test has it."""

    def __init__(self, **how: Any) -> None:
        self.got: list[tuple[list[str], EmailMessage]] = []
        self.answers: list[str] = []
        self.refused: set[str] = set()
        self.farewell = "221 Bye"
        self.port = free_port()
        self.controller = Controller(
            self, hostname="127.0.0.1", port=self.port, ready_timeout=60, **how
        )
        self.controller.start()

    async def handle_RCPT(
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 there is no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_QUIT(self, server: Any, session: Session, envelope: Envelope) -> str:
        return self.farewell

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        if self.answers:
            return self.answers.pop(0)
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.got.append((list(envelope.rcpt_tos), mail))
        return "250 taken"


def settings(at_port: int, **changes: Any) -> Mail:
    usual = {"sender": "antipode@example.net", "to": ["duty@example.net", "boss@example.net"]}
    plain = {"host": "127.0.0.1", "port": at_port, "security": "none"}
    return Mail.model_validate({**usual, **plain, **changes})


def an_event(**data: Any) -> Event:
    return Event(
        "failover-1/failed/1", "dr.failover.error", "vnf/hlr", NOON, {"vnf": "hlr", **data}
    )


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.controller.stop()


def test_an_event_is_one_mail_to_all_recipients_with_its_data(server: Server) -> None:
    receiver = MailReceiver(settings(server.port), "//antipode.example/test")
    receiver.give(an_event(reason="Nova is broken"), NOON)
    ((to, mail),) = server.got
    assert to == ["duty@example.net", "boss@example.net"]
    assert (mail["From"], mail["To"]) == (
        "antipode@example.net",
        "duty@example.net, boss@example.net",
    )
    assert "dr.failover.error" in mail["Subject"] and "vnf/hlr" in mail["Subject"]
    assert mail["Auto-Submitted"] == "auto-generated"
    body = mail.get_content()
    assert "reason: Nova is broken" in body
    document = json.loads(body[body.index("{") :])
    assert document == an_event(reason="Nova is broken").document("//antipode.example/test")


def test_each_attempt_has_the_same_message_id_and_each_event_its_own(server: Server) -> None:
    receiver = MailReceiver(settings(server.port), "here")
    for event in (an_event(), an_event(), Event("other", "dr.x", "vnf/a", NOON, {})):
        receiver.give(event, NOON)
    ids = [mail["Message-ID"] for _, mail in server.got]
    assert ids[0] == ids[1] != ids[2]


def test_text_of_a_cloud_adds_no_header_and_no_control_character(server: Server) -> None:
    hostile = "x\r\nBcc: evil@example.net\r\n\r\nhello \x1b[31m\u202e"
    event = Event("1", "dr.x", f"vnf/{hostile}", NOON, {"name": hostile, "long": "y" * 5000})
    MailReceiver(settings(server.port), "here").give(event, NOON)
    # what an encoded word says is no header either
    encoded = Event("2", "dr.x", f"vnf/=?utf-8?q?=0d=0aBcc:?=q{'é' * 90}", NOON, {})
    MailReceiver(settings(server.port), "here").give(encoded, NOON)
    (to, mail), (_, other) = server.got
    assert other["Bcc"] is None
    assert "=0d=0aBcc" in other["Subject"]
    assert to == ["duty@example.net", "boss@example.net"]
    assert mail["Bcc"] is None
    assert not any(c in mail["Subject"] + mail.get_content() for c in "\x1b\u202e")


@pytest.mark.parametrize("answer", ["451 try again later", "554 refused"])
def test_what_the_server_does_not_take_is_not_delivered(server: Server, answer: str) -> None:
    server.answers = [answer]
    receiver = MailReceiver(settings(server.port), "here")
    with pytest.raises(NotDelivered, match=answer[:3]):
        receiver.give(an_event(), NOON)
    receiver.give(an_event(), NOON)
    assert len(server.got) == 1


def test_a_recipient_that_is_refused_keeps_no_mail_from_the_others(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.refused = {"boss@example.net"}
    receiver = MailReceiver(settings(server.port), "here")
    receiver.give(an_event(), NOON)
    assert [to for to, _ in server.got] == [["duty@example.net"]]
    assert "boss@example.net" in caplog.text
    server.refused |= {"duty@example.net"}
    with pytest.raises(NotDelivered):
        receiver.give(an_event(), NOON)


def test_a_mail_that_was_taken_is_not_sent_again_for_a_bad_farewell(server: Server) -> None:
    server.farewell = "421 too busy to say goodbye"
    MailReceiver(settings(server.port), "here").give(an_event(), NOON)
    assert len(server.got) == 1


def test_a_mail_that_is_refused_for_good_keeps_no_other_waiting(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(config.load(str(samples.write_config(tmp_path))))
    made = EventsConfig.model_validate(
        {"mail": {"duty": settings(server.port).model_dump(mode="json")}}
    )
    (courier,) = couriers(deployment, made)
    now = NOON
    courier._now = lambda: now
    for number in range(3):
        event = Event(f"{number}", "dr.x.error", f"vnf/{number}", NOON + number, {})
        deployment.events.note(event, ["duty"])
    now += 3
    refusing = True

    async def refuses_the_first(server_: Any, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        if refusing and "vnf/0" in mail["Subject"]:
            return "554 looks like spam"
        server.got.append(([], mail))
        return "250 taken"

    monkeypatch.setattr(server, "handle_DATA", refuses_the_first)
    for _ in range(20):
        now += max(courier.deliver(), 0.01)
    assert [mail["Subject"][-5:] for _, mail in server.got] == ["vnf/1", "vnf/2"]
    refusing = False
    while deployment.events.pending():
        now += max(courier.deliver(), 0.01)
    assert len(server.got) == 3


def test_a_server_that_is_not_there_or_says_nothing_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(NotDelivered):
        MailReceiver(settings(free_port()), "here").give(an_event(), NOON)
    monkeypatch.setattr(mailing, "ANSWERS_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(NotDelivered):
            MailReceiver(settings(port), "here").give(an_event(), NOON)


# Encryption and login.


class Certificate:
    """A certificate that has signed itself."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.path = folder / "certificate.pem"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret = folder / "key.pem"
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.path, secret)


def let_in(_server: Any, _session: Any, _envelope: Any, _how: str, given: Any) -> AuthResult:
    assert isinstance(given, LoginPassword)
    known = (given.login, given.password) == (b"antipode", PASSWORD.encode())
    return AuthResult(success=known)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path)


@pytest.fixture
def guarded(certificate: Certificate) -> Iterator[Server]:
    """A server that takes mail after STARTTLS and a login only."""
    made = Server(
        tls_context=certificate.context,
        require_starttls=True,
        auth_required=True,
        authenticator=let_in,
    )
    yield made
    made.controller.stop()


def account(folder: Path, password: str) -> dict[str, Any]:
    (folder / "password").write_text(f"{password}\nanother line\n")
    return {"user": "antipode", "password_file": str(folder / "password")}


def test_it_logs_in_after_starttls_with_a_certificate_that_it_trusts(
    guarded: Server, certificate: Certificate, tmp_path: Path
) -> None:
    secure = {"security": "starttls", "ca": str(certificate.path)}
    right = settings(guarded.port, **secure, **account(tmp_path, PASSWORD))
    MailReceiver(right, "here").give(an_event(), NOON)
    assert len(guarded.got) == 1


def test_a_wrong_password_is_not_delivered_and_in_no_message(
    guarded: Server, certificate: Certificate, tmp_path: Path
) -> None:
    secure = {"security": "starttls", "ca": str(certificate.path)}
    wrong = settings(guarded.port, **secure, **account(tmp_path, "not the password"))
    with pytest.raises(NotDelivered) as error:
        MailReceiver(wrong, "here").give(an_event(), NOON)
    assert "not the password" not in str(error.value)
    assert guarded.got == []


def test_a_certificate_that_is_not_trusted_is_refused_before_the_password_is_sent(
    guarded: Server, tmp_path: Path
) -> None:
    unknown = settings(guarded.port, security="starttls", **account(tmp_path, PASSWORD))
    with pytest.raises(NotDelivered, match="SSL"):
        MailReceiver(unknown, "here").give(an_event(), NOON)
    assert guarded.got == []


def test_a_server_without_encryption_is_refused_where_it_is_wanted(
    server: Server, tmp_path: Path
) -> None:
    wanted = settings(server.port, security="starttls", **account(tmp_path, PASSWORD))
    with pytest.raises(NotDelivered):
        MailReceiver(wanted, "here").give(an_event(), NOON)
    assert server.got == []


# The configuration, and the way to it.


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "mail.example"},  # in the clear
        {"to": []},
        {"to": ["x@example.net\r\nBcc: evil@example.net"]},
        {"sender": "nobody"},
        {"user": "antipode"},
        {"password_file": "/etc/secret"},
        {"security": "starttls", "ca": "relative.pem"},
        {"types": []},
    ],
)
def test_what_would_leak_or_go_nowhere_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(25, **wrong)


def test_a_password_that_cannot_be_read_is_an_error_at_the_start(tmp_path: Path) -> None:
    missing = settings(25, user="x", password_file=str(tmp_path / "missing"))
    with pytest.raises(InvalidInput):
        MailReceiver(missing, "here")


@pytest.mark.parametrize("password", ["", "  ", "geheim-\u00e4\u00f6"])
def test_a_password_that_can_never_work_is_an_error_at_the_start(
    tmp_path: Path, password: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        MailReceiver(settings(25, **account(tmp_path, password)), "here")
    assert "geheim" not in str(error.value)


def test_ports_are_the_usual_ones_and_names_are_of_one_receiver() -> None:
    usual = {"host": "mail.example", "port": None}
    assert settings(1, **usual, security="starttls").port_used == 587
    assert settings(1, **usual, security="tls").port_used == 465
    mail = settings(25).model_dump(mode="json")
    hook = {"url": "https://noc.example/", "secret_file": "/etc/secret"}
    with pytest.raises(ValidationError):
        EventsConfig.model_validate({"mail": {"noc": mail}, "webhooks": {"noc": hook}})
    with pytest.raises(ValidationError):
        EventsConfig.model_validate({"mail": {"log": mail}})


def test_it_gets_what_calls_for_a_person_by_default() -> None:
    made = EventsConfig.model_validate({"mail": {"duty": settings(25).model_dump(mode="json")}})
    assert receivers(made, "dr.protect.end") == []
    assert receivers(made, "dr.readiness.green") == []
    assert all(receivers(made, beginning) == ["duty"] for beginning in ALARMS)


def test_what_is_not_taken_comes_later_from_the_queue(server: Server, tmp_path: Path) -> None:
    deployment = Deployment(config.load(str(samples.write_config(tmp_path))))
    made = EventsConfig.model_validate(
        {"mail": {"duty": settings(server.port).model_dump(mode="json")}}
    )
    (courier,) = couriers(deployment, made)
    now = NOON
    courier._now = lambda: now
    deployment.events.note(an_event(), receivers(made, "dr.failover.error"))
    server.answers = ["451 try again later"]
    assert courier.deliver() == PAUSES_S[0]
    assert courier.trouble is not None
    now += PAUSES_S[0]
    assert courier.deliver() == 0
    assert len(server.got) == 1 and not courier.trouble
    assert deployment.events.pending() == {}

# SPDX-License-Identifier: Apache-2.0
"""Asking a recovered member whether it answers: what a check prints or leaves behind does not
matter, and an answer that the other site may have given is marked as such.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from antipode.cloud.api import ApiError
from antipode.errors import InvalidInput, ResourceFailed
from antipode.model.probe import Probe, asked_address
from antipode.model.topology import Topology
from antipode.model.vnf import Answers, Member
from antipode.recover import probes
from antipode.recover.other_copies import OtherCopies
from antipode.topology import answering
from tests.unit import samples
from tests.unit.fakecloud import FakeTimeline


class Networks:
    """Neutron of the recovering site, with the ports of the server."""

    def __init__(self, *ports: dict[str, Any]) -> None:
        self._ports = list(ports)

    def ports_of(self, server_ids: list[str]) -> list[dict[str, Any]]:
        assert server_ids == ["new-srv-db"]
        return self._ports


class Recovering(samples.NamedSite):
    def __init__(self, *ports: dict[str, Any]) -> None:
        super().__init__("site-b")
        self.networks = Networks(*ports)


ACTIVE = {"id": "p", "mac_address": "fa:16:3e:00:00:04", "status": "ACTIVE"}
DOWN = {**ACTIVE, "status": "DOWN"}


def ask(answers: Answers, site: Any = None, address: str = "10.0.0.4") -> dict[str, object]:
    """Ask db; the result of the step."""
    topology = samples.topology().model_dump()
    topology["servers"][0]["ports"][0]["fixed"][0]["address"] = address
    plan = samples.plan()
    asked = plan.servers[0].model_copy(update={"answers": answers})
    recovery: Any = SimpleNamespace(
        site=site or Recovering(ACTIVE),
        plan=plan.model_copy(update={"servers": [asked, plan.servers[1]]}),
        point=SimpleNamespace(topology=Topology.model_validate(topology)),
        timeline=(timeline := FakeTimeline()),
        go_on=lambda: None,
        others=OtherCopies(),
    )
    probes.await_answer(recovery, "db", "new-srv-db")
    (told,) = timeline.facts.values()
    return told


def python(code: str, within: float = 60.0) -> Answers:
    return Answers(command=[sys.executable, "-c", code], within=within)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import os; os.write(1, b'\\xff\\x00')", id="prints what is not text"),
        pytest.param("import sys; sys.exit(len(sys.stdin.read()))", id="reads its input"),
        pytest.param("import os; os.write(1, b'x' * 1_000_000)", id="prints a megabyte"),
        pytest.param("import os; os.close(1); os.close(2)", id="closes its output"),
    ],
)
def test_a_check_that_exits_with_0_succeeds(code: str) -> None:
    assert ask(python(code))["reaches"] == "command"


def test_a_check_that_leaves_a_child_with_its_output_succeeds(fifo: Path) -> None:
    child = f"open({str(fifo)!r}).read()"
    try:
        ask(python(f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"))
    finally:
        fifo.open("w").close()  # ends the child


SHOWS = "import os, sys; sys.exit(' '.join(k for k in ('TOKEN', 'PLACE') if k in os.environ))"


@pytest.mark.parametrize(
    ("named", "known"), [([], ""), ("PLACE", "PLACE"), ("all", "TOKEN PLACE"), (["all"], "")]
)
def test_a_check_gets_the_variables_that_are_named_and_no_others(
    monkeypatch: pytest.MonkeyPatch, named: object, known: str
) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    monkeypatch.setenv("PLACE", "here")
    answers = Answers.model_validate({**python(SHOWS, 0).model_dump(), "variables": named})
    with pytest.raises(ResourceFailed) as caught:
        ask(answers)
    assert str(caught.value).endswith(f"exit code 1: {known}")


def test_a_plan_says_which_variables_a_check_gets() -> None:
    answers = {"command": ["check"], "variables": ["PLACE"]}
    probe = Probe.of(Answers.model_validate(answers), "site-b", "db", "")
    assert str(probe) == "check, with PLACE"
    every = Probe.of(Answers(command=["check"], variables="all"), "site-b", "db", "")
    assert str(every) != "check"


@pytest.mark.parametrize(
    "wrong", [{"tcp": 22, "variables": ["A"]}, {"command": ["c"], "variables": ["A=b"]}]
)
def test_variables_that_no_command_can_get_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Answers.model_validate(wrong)


def test_a_check_that_fails_is_quoted_without_control_characters() -> None:
    with pytest.raises(ResourceFailed) as caught:
        ask(python("import os; os.write(2, b'\\x1b[2Jno\\xff'); os._exit(3)", within=0))
    assert "exit code 3" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("command", [["a\0b"], ["/nowhere/at/all"]])
def test_a_check_that_cannot_be_run_is_silence(command: list[str]) -> None:
    with pytest.raises(ResourceFailed):
        ask(Answers(command=command, within=0))


def test_a_check_that_hangs_is_killed_with_its_children(
    monkeypatch: pytest.MonkeyPatch, fifo: Path
) -> None:
    monkeypatch.setattr(answering, "TRY_S", 3.0)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    code = (
        f"import os, subprocess, sys, time; fifo = os.open({str(fifo)!r}, os.O_WRONLY)\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "subprocess.Popen(sleep, pass_fds=[fifo]); time.sleep(600)"
    )
    with pytest.raises(ResourceFailed):
        ask(python(code, within=0))
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b"", "every process that had the fifo has ended"
    os.close(reader)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        yield server.getsockname()[1]


def _accept(server: socket.socket) -> None:
    try:
        while True:
            server.accept()[0].close()
    except OSError:
        return  # the test is over


def test_an_answer_of_an_address_of_both_sites_is_marked(port: int) -> None:
    told = ask(Answers(tcp=port, within=60), address="127.0.0.1")
    assert told["reaches"] == "either-site"


@pytest.mark.parametrize("ports", [[DOWN], []])
def test_an_answer_does_not_count_while_the_port_is_not_active(
    port: int, ports: list[dict[str, Any]]
) -> None:
    with pytest.raises(ResourceFailed):
        ask(Answers(tcp=port, within=0), Recovering(*ports), address="127.0.0.1")


def test_an_address_of_the_recovering_site_is_used_in_place_of_the_shared_one(port: int) -> None:
    answers = Answers(tcp=port, at={"site-b": "127.0.0.1"}, within=60)
    told = ask(answers, Recovering(), address="192.0.2.1")
    assert told == {"asked": f"TCP 127.0.0.1:{port}", "reaches": "this-site"}


@pytest.mark.parametrize(
    ("ports", "asked"),
    [
        ([["10.0.0.4"]], "10.0.0.4"),
        ([[], ["10.0.0.4"]], "10.0.0.4"),  # a first interface on a network without subnet
        ([["fd00::4", "10.0.0.4", "10.0.0.5"]], "10.0.0.4"),
        ([["fd00::4"], ["10.0.0.4"]], "fd00::4"),
        ([[], []], ""),
        ([], ""),
    ],
)
def test_the_address_that_is_asked_is_of_the_first_port_that_has_any_and_ipv4_if_it_has_that(
    ports: list[list[str]], asked: str
) -> None:
    assert asked_address(ports) == asked


def test_a_port_of_a_server_without_an_address_is_silence() -> None:
    with pytest.raises(ResourceFailed):
        ask(Answers(tcp=80, within=0), address="")


@pytest.mark.parametrize(
    ("server", "address"),
    [("-oProxyCommand=x", "10.0.0.4"), ("db;x", "10.0.0.4"), ("db", "::1%;x"), ("$(x)", "")],
)
def test_a_name_that_is_more_than_a_word_does_not_become_part_of_a_command(
    server: str, address: str
) -> None:
    answers = Answers(command=["ssh", "{server}", "{address}"])
    with pytest.raises(InvalidInput):
        Probe.of(answers, "site-b", server, address)
    assert Probe.of(answers, "site-b", "db-1.x", "2001:db8::1").command[1] == "db-1.x"


class Console(Recovering):
    """A site whose server prints a line more at each look."""

    def __init__(self, *lines: str) -> None:
        super().__init__()
        self.lines, self.looks = list(lines), 0
        self.compute = SimpleNamespace(console=self.read)

    def read(self, server_id: str) -> str:
        assert server_id == "new-srv-db"
        self.looks += 1
        return "\n".join(self.lines[: self.looks])


def test_a_text_in_the_console_log_is_an_answer_of_this_site(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering, "PAUSE_S", 0.0)
    site = Console("[    0.0] Linux", "[  OK  ] Reached target", "db login: ")
    assert ask(Answers(console="db login:"), site)["reaches"] == "this-site"
    assert site.looks == 3


def test_a_text_that_is_not_in_the_console_log_in_time_is_no_answer() -> None:
    with pytest.raises(ResourceFailed) as caught:
        ask(Answers(console="login:", within=0), Console("kernel \x1b[31mpanic"))
    assert "panic" in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_console_log_that_cannot_be_read_is_no_answer() -> None:
    site = Console()
    refusal = ApiError("site-b", "POST /servers/new-srv-db/action", 501, "no console")

    def refuse(server_id: str) -> str:
        raise refusal

    site.compute.console = refuse
    with pytest.raises(ResourceFailed):
        ask(Answers(console="login:", within=0), site)


@pytest.mark.parametrize(
    ("text", "line", "is_in"),
    [
        ("login:", "db login: ", True),
        ("[  OK  ]*network", "[  OK  ] Reached target network", True),
        ("a*b", "b a", False),
        ("a*b", "a\nb", False),
        ("(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", False),
    ],
)
def test_a_star_stands_for_any_text_within_a_line_and_nothing_else_is_special(
    text: str, line: str, is_in: bool
) -> None:
    probe = Probe.of(Answers(console=text), "site-b", "db", "")
    assert probe.is_in(f"first\n{line}\nlast") is is_in


@pytest.mark.parametrize(
    "wrong",
    [
        {"answers": {"console": "x", "tcp": 1}},
        {"answers": {}},
        {"answers": {"console": ""}},
        {"answers": {"console": "x", "at": {"site-b": "10.0.0.1"}}},
        {"drill": {"tcp": 22}},
        {"drill": {"command": ["true"]}},
    ],
)
def test_a_member_is_asked_in_one_way_and_in_a_drill_by_its_console(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Member.model_validate({"server": "db", **wrong})
    Member.model_validate({"server": "db", "answers": {"tcp": 22}, "drill": {"console": "x"}})


# By HTTP.


class Web:
    """A server of one answer; a port of 127.0.0.1 and of ::1 each."""

    def __init__(self, answer: bytes, context: ssl.SSLContext | None = None) -> None:
        self.got: list[bytes] = []
        self._answer, self._context = answer, context
        self._threads: list[threading.Thread] = []
        self.pause_s = 0.0
        self.over = threading.Event()

    def port(self, address: str = "127.0.0.1") -> int:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.create_server((address, 0), family=family)
        thread = threading.Thread(target=self._serve, args=(listening,))
        thread.start()
        self._threads.append(thread)
        return int(listening.getsockname()[1])

    def close(self) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _serve(self, listening: socket.socket) -> None:
        listening.settimeout(0.05)
        with listening:
            while not self.over.is_set():
                with suppress(OSError):
                    connection, _ = listening.accept()
                    with connection:
                        connection.settimeout(60)
                        self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        self.got.append(connection.recv(65536))
        for at in range(len(self._answer)) if self.pause_s else ():
            connection.sendall(self._answer[at : at + 1])
            self.over.wait(self.pause_s)
        if not self.pause_s:
            connection.sendall(self._answer)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)


def page(status: int = 200, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} so", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


@pytest.fixture
def web() -> Iterator[Callable[..., Web]]:
    made: list[Web] = []

    def make(*arguments: Any) -> Web:
        made.append(Web(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


def by_http(port: int, at: str = "127.0.0.1", within: float = 60.0, **http: Any) -> Answers:
    return Answers.model_validate(
        {"http": {"port": port, **http}, "at": {"site-b": at}, "within": within}
    )


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_member_answers_by_http_over_both_versions_of_ip(
    web: Callable[..., Web], address: str
) -> None:
    server = web(page(200, "state: ready, all of it"))
    told = ask(by_http(server.port(address), at=address, path="/up?x=1", body="state: *, all"))
    assert told["reaches"] == "this-site"
    request = server.got[0].decode()
    assert request.startswith("GET /up?x=1 HTTP/1.1\r\n")
    assert f"Host: {'[::1]' if ':' in address else address}:" in request


@pytest.mark.parametrize(
    ("answer", "http"),
    [
        (page(503), {}),
        (page(200), {"status": [204, 301]}),
        (page(200, "state: starting"), {"body": "ready"}),
        (page(302, "", "Location: http://127.0.0.1:1/"), {}),
        (b"what is this", {}),
        (b"", {}),
    ],
)
def test_an_answer_that_is_not_the_expected_one_does_not_count(
    web: Callable[..., Web], answer: bytes, http: dict[str, Any]
) -> None:
    with pytest.raises(ResourceFailed):
        ask(by_http(web(answer).port(), within=0.0, **http))


def test_a_status_that_is_expected_is_no_error(web: Callable[..., Web]) -> None:
    assert ask(by_http(web(page(401)).port(), status=401))


def test_no_proxy_of_the_environment_answers_in_the_place_of_a_member(
    web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, member = web(page(200)), web(page(503))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port()}")
    with pytest.raises(ResourceFailed):
        ask(by_http(member.port(), within=0.0))
    assert proxy.got == []


@pytest.mark.parametrize("tls", [False, True])
def test_an_answer_that_drips_is_not_waited_for_longer_than_an_attempt_may_take(
    web: Callable[..., Web],
    certificate: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    tls: bool,
) -> None:
    monkeypatch.setattr(answering, "TRY_S", 0.3)
    server = web(page(200, "x" * 10_000), certificate if tls else None)
    server.pause_s = 0.1  # within the limit of each read, and 1000 s in all
    began = time.monotonic()
    with pytest.raises(ResourceFailed):
        ask(by_http(server.port(), within=0.0, tls=tls, verify=not tls, body="ready"))
    assert time.monotonic() - began < 60


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """What a server has that signs its own certificate, for the name db.example."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "db.example")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("db.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + signed.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.file = file  # type: ignore[attr-defined]
    return context


def test_a_certificate_counts_if_it_is_valid_for_the_host_or_is_not_to_be_verified(
    web: Callable[..., Web], certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = web(page(200), certificate)
    port = server.port()
    assert ask(by_http(port, tls=True, verify=False))
    with pytest.raises(ResourceFailed):
        ask(by_http(port, within=0.0, tls=True, host="db.example"))  # its signer is not known
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))  # type: ignore[attr-defined]
    assert ask(by_http(port, tls=True, host="db.example"))
    assert b"Host: db.example:" in server.got[-1]
    for other in (None, "front.example"):
        with pytest.raises(ResourceFailed):
            ask(by_http(port, within=0.0, tls=True, host=other))


def test_an_answer_of_a_shared_address_counts_only_while_its_port_is_active(
    web: Callable[..., Web],
) -> None:
    answers = Answers.model_validate({"http": {"port": web(page(200)).port()}, "within": 0})
    assert ask(answers, Recovering(ACTIVE), "127.0.0.1")["reaches"] == "either-site"
    with pytest.raises(ResourceFailed):
        ask(answers, Recovering(DOWN), "127.0.0.1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"http": {"path": "up"}},
        {"http": {"path": "/a b"}},
        {"http": {"path": "/\r\nX: y"}},
        {"http": {"verify": False}},
        {"http": {"port": 0}},
        {"http": {"status": []}},
        {"http": {"status": [42]}},
        {"http": {"host": "a b"}},
        {"http": {}, "tcp": 80},
    ],
)
def test_a_probe_by_http_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Answers.model_validate(wrong)


def test_a_probe_by_http_does_not_reach_into_a_drill() -> None:
    with pytest.raises(ValidationError):
        Member.model_validate({"server": "db", "drill": {"http": {}}})

# SPDX-License-Identifier: Apache-2.0
"""Real DNS servers for the tests: BIND, each in a folder of its own, on a free port of loopback, as
nobody.
"""

from __future__ import annotations

import base64
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype

from antipode.config import Config
from tests.distributed.packages import program
from tests.distributed.servers import folder_unattached, running, until
from tests.ports import free_port

ZONE = "vnf.example"
KEY = "antipode"
ZONE_FILE = f"""\
$TTL 300
@ IN SOA ns.{ZONE}. admin.{ZONE}. 1 3600 600 86400 300
@ IN NS ns.{ZONE}.
ns IN A 127.0.0.1
"""


@dataclass
class Bind:
    """A server of the zone."""

    port: int
    folder: Path
    secret: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode())
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def values(self, name: str, kind: str = "A") -> list[str]:
        """The values that it has of a name."""
        question = dns.message.make_query(f"{name}.", kind)
        answer = dns.query.tcp(question, "127.0.0.1", 10, self.port)
        wanted = dns.rdatatype.from_text(kind)
        return sorted(d.to_text() for a in answer.answer if a.rdtype == wanted for d in a)

    @property
    def serial(self) -> int:
        return int(self.values(ZONE, "SOA")[0].split()[2])

    def key_file(self, folder: Path, secret: str | None = None, name: str = KEY) -> Path:
        """The key as tsig-keygen prints it, in a file."""
        path = folder / f"{name}.key"
        path.write_text(
            f'key "{name}" {{\n\talgorithm hmac-sha256;\n\tsecret "{secret or self.secret}";\n}};\n'
        )
        path.chmod(0o600)
        return path

    def answers(self) -> bool:
        with suppress(Exception):
            return bool(self.values(ZONE, "SOA"))
        return False


def configuration(bind: Bind, key_file: Path, **more: object) -> Config:
    """A configuration with the zone of a server as its only DNS provider."""
    rfc2136 = {"server": bind.address, "zone": ZONE, "key_file": str(key_file)}
    return Config.model_validate(
        {
            "sites": {"site-a": {"cloud": "a"}, "site-b": {"cloud": "b"}},
            "vault": {"directory": str(key_file.parent)},
            "dns": {"core": {"rfc2136": rfc2136, "timeout": 5, "within": 60, **more}},
        }
    )


@contextmanager
def primary(grants: str = f"subdomain {ZONE}. A AAAA CNAME") -> Iterator[Bind]:
    """A primary server that takes updates signed with its key; `grants`: which."""
    with folder_unattached() as folder:
        bind = Bind(free_port(), folder)
        _write(bind, f"type primary; update-policy {{ grant {KEY} {grants}; }};")
        with _served(bind):
            yield bind


@contextmanager
def secondary(of: Bind) -> Iterator[Bind]:
    """A secondary that asks its primary for changes each second."""
    with folder_unattached() as folder:
        bind = Bind(free_port(), folder)
        source = f"primaries {{ 127.0.0.1 port {of.port}; }};"
        _write(bind, f"type secondary; {source} max-refresh-time 1; min-refresh-time 1;")
        with _served(bind):
            yield bind


@contextmanager
def restarted(bind: Bind, stack: ExitStack) -> Iterator[None]:
    """The server killed while the block runs, and started again afterwards."""
    assert bind.process is not None
    bind.process.kill()
    bind.process.wait()
    yield
    stack.enter_context(_served(bind))


@contextmanager
def _served(bind: Bind) -> Iterator[None]:
    command = [program("named"), "-g", "-n", "1", "-c", str(bind.folder / "named.conf")]
    with running(command, bind.folder, bind.answers) as bind.process:
        until("the zone to be there", bind.answers)
        yield


def _write(bind: Bind, zone: str) -> None:
    (bind.folder / "named.conf").write_text(
        f'key "{KEY}" {{ algorithm hmac-sha256; secret "{bind.secret}"; }};\n'
        f'options {{ directory "{bind.folder}"; pid-file none; session-keyfile none;\n'
        f'  managed-keys-directory "{bind.folder}"; dnssec-validation no; recursion no;\n'
        f"  listen-on port {bind.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n"
        "  notify no; allow-transfer { any; }; minimal-responses yes; };\n"
        "controls { };\n"
        f'zone "{ZONE}" {{ file "zone"; {zone} }};\n'
    )
    if "primary" in zone:
        (bind.folder / "zone").write_text(ZONE_FILE)
    for path in (bind.folder, *bind.folder.iterdir()):
        path.chmod(0o777)

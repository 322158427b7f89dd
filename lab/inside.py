# SPDX-License-Identifier: Apache-2.0
"""Executing commands inside a site: in all its namespaces, with the environment its services
have.
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.errors import LabError, SiteDown
from lab.site import VENV, Site

BIN = Path(__file__).parent / "bin"

AS_ROOT = ("--setuid=0", "--setgid=0")
"""Options of nsenter. libvirtd refuses a client whose group has no name, and a caller of the lab
may be root with a group like that.
"""

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def environment(site: Site) -> dict[str, str]:
    """The environment of every process of the site, and nothing of the environment that the lab was
    called from.
    """
    return {
        "PATH": f"{BIN}:{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(site.home),
        "TMPDIR": str(site.home / "tmp"),
        "LC_ALL": "C.UTF-8",
        "PYTHONWARNINGS": "ignore",
        "ANTIPODE_SITE": site.name,
    }


def supervisor_conf(site: Site) -> Path:
    return site.etc / "supervisord.conf"


def init_pid(site: Site) -> int | None:
    """The pid, seen from outside, of the site's first process; None when the site is not running.

    It is found by what it is (first of a pid namespace, running the site's supervisor), not by a
    pid file that may be stale.
    """
    conf = str(supervisor_conf(site)).encode()
    for process in _processes():
        try:
            if conf in (process / "cmdline").read_bytes().split(b"\0") and _inner_pid(process) == 1:
                return int(process.name)
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
    return None


def require_init_pid(site: Site) -> int:
    pid = init_pid(site)
    if pid is None:
        raise SiteDown(site.name)
    return pid


def pids(site: Site) -> dict[int, int]:
    """All processes of the site: pid inside -> pid outside.

    Those that `exec` put there from outside included.
    """
    init = init_pid(site)
    if init is None:
        return {}
    namespace = (Path("/proc") / str(init) / "ns" / "pid").readlink()
    found: dict[int, int] = {}
    for process in _processes():
        try:
            if (process / "ns" / "pid").readlink() == namespace and (
                inner := _inner_pid(process)
            ) is not None:
                found[inner] = int(process.name)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended while we looked, or the machine's own, which even root may not look at
    return found


def command(site: Site, argv: Sequence[str]) -> list[str]:
    """The command line that executes `argv` in the site's namespaces when it is started outside."""
    return [
        "nsenter",
        f"--target={require_init_pid(site)}",
        "--mount",
        "--net",
        "--pid",
        "--uts",
        f"--wdns={site.home}",
        *AS_ROOT,
        "--",
        *argv,
    ]


def popen(
    site: Site, argv: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start `argv` inside the site; `env` is added to the environment that its services have."""
    return subprocess.Popen(command(site, argv), env=environment(site) | dict(env or {}), **options)


def run(
    site: Site,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 600,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Execute `argv` inside the site and return what it wrote.

    Raises LabError when it fails (with `check`) or takes longer than `timeout` seconds, with the
    end of its output.
    """
    try:
        done = subprocess.run(
            command(site, argv),
            env=environment(site) | dict(env or {}),
            input=stdin,
            timeout=timeout,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired as e:
        raise LabError(f"{site.name}: {' '.join(argv)}: not done after {timeout:.0f} s") from e
    if check and done.returncode:
        output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise LabError(f"{site.name}: {' '.join(argv)}: exit code {done.returncode}\n{output}")
    return done


def _processes() -> Iterator[Path]:
    return (p for p in Path("/proc").iterdir() if p.name.isdigit())


def _inner_pid(process: Path) -> int | None:
    for line in (process / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            numbers = line.split()[1:]
            return int(numbers[-1]) if len(numbers) > 1 else None
    return None


def connect(site: Site, port: int, address: str = "127.0.0.1", timeout: float = 5) -> socket.socket:
    """A TCP connection made from inside the site, e.g. to a service on its loopback.

    Raises OSError like any connect.
    """
    return connect_from(
        Path("/proc") / str(require_init_pid(site)) / "ns" / "net", address, port, timeout
    )


def connect_from(namespace: Path, address: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection made from inside a network namespace; only the thread that makes the socket
    has to be in it.
    """
    result: list[socket.socket | OSError] = []

    def enter_and_connect() -> None:
        try:
            with namespace.open() as handle:
                if _libc.setns(handle.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
            result.append(socket.create_connection((address, port), timeout))
        except OSError as e:
            result.append(e)

    # a thread of its own: it stays in that namespace for the rest of its life
    thread = threading.Thread(target=enter_and_connect, daemon=True)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]

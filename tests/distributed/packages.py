# SPDX-License-Identifier: Apache-2.0
"""Installs the servers and tools that these tests run, where they are missing: Debian packages,
none of which may start a service of the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from lab import debian

PACKAGES = {
    "etcd": "etcd-server",
    "initdb": "postgresql",
    "mariadbd": "mariadb-server",
    "redis-server": "redis-server",
    "openssl": "openssl",
    "age": "age",
    "jq": "jq",
    "promtool": "prometheus",
    "named": "bind9",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "podman": "podman",
    "runc": "runc",
    "busybox": "busybox-static",
}


def program(name: str, packages: Mapping[str, str] = PACKAGES) -> str:
    """The path of a server's program; Debian keeps PostgreSQL's out of the way."""
    places = [
        *os.environ["PATH"].split(":"),
        "/usr/sbin",
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
    ]
    if (found := shutil.which(name, path=":".join(places))) is None:
        raise FileNotFoundError(
            f"{name} is not installed: apt-get install {packages.get(name, name)}"
        )
    return found


def install(packages: Mapping[str, str]) -> int:
    """Install what is missing of these programs, each with its package; the exit code."""
    if not (missing := sorted(set(_missing(packages)))):
        return 0
    if os.geteuid() != 0:
        print(
            f"missing: {', '.join(missing)}; as root: apt-get install {' '.join(missing)}",
            file=sys.stderr,
        )
        return 1
    print(f"installing {', '.join(missing)}", flush=True)
    debian.install(missing, lambda command, env: subprocess.run(command, check=True, env=env))
    return 0


def _missing(packages: Mapping[str, str]) -> Iterator[str]:
    for name, package in packages.items():
        try:
            program(name, packages)
        except FileNotFoundError:
            yield package


if __name__ == "__main__":
    sys.exit(install(PACKAGES))

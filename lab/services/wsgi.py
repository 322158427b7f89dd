# SPDX-License-Identifier: Apache-2.0
"""OpenStack APIs as uWSGI processes: how one is run, and asked whether its application is
loaded.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping

from lab.service import NotReady, Program
from lab.services.openstack_conf import executable
from lab.site import VENV, Site


def program(
    site: Site,
    name: str,
    port: int,
    module: str,
    threads: int,
    environment: Mapping[str, str] | None = None,
    arguments: str = "",
) -> Program:
    """An API as one process with threads.

    `arguments` become the application's sys.argv (Cinder reads its configuration so).
    """
    command = [
        executable("uwsgi"), "--http-socket", f"{site.address}:{port}", "--venv", str(VENV),
        "--module", f"{module}:application",
        "--threads", str(threads), "--enable-threads", "--single-interpreter", "--thunder-lock",
        "--need-app", "--die-on-term",
        "--buffer-size", "65535", "--listen", "100", "--disable-logging",
        # uWSGI closes the connection after each answer without saying so; a client that reuses it
        # would meet a reset
        "--add-header", "Connection: close",
        # nova-compute uploads images in chunks larger than the 1 MiB that uWSGI takes, and pauses
        # between them for longer than its 4 s
        "--chunked-input-limit", str(64 * 2**20), "--chunked-input-timeout", "120",
    ]  # fmt: skip
    if arguments:
        command += ["--pyargv", arguments]
    return Program(name, command, environment or {})


def check_answers(url: str, timeout: float = 10) -> None:
    """Ask once; uWSGI opens its port seconds before the application is loaded, so only an answer of
    the application counts.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            answer.read()
    except urllib.error.HTTPError as refusal:
        if refusal.code != 300:  # "multiple choices" is how an API lists its versions
            raise NotReady(f"{url} answers {refusal.code} {refusal.reason}") from refusal
    except (OSError, http.client.HTTPException) as failure:
        raise NotReady(f"{url} does not answer: {failure}") from failure

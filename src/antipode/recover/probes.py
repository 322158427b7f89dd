"""Waits until a recovered member answers, in the way its VNF's file names (the end of step
1.7.2).
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Callable

from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.point import Manifest
from antipode.model.steps import Timeline
from antipode.model.topology import Server
from antipode.model.vnf import Answers

TRY_S = 10.0
"""How long one attempt may take."""
PAUSE_S = 0.5


def await_answer(
    site: Site,
    manifest: Manifest,
    server: str,
    timeline: Timeline,
    go_on: Callable[[], None] = lambda: None,
) -> None:
    """Ask a member again and again until it answers; return at once when its file does not say how
    to ask.

    `go_on` is called between two tries; what it raises ends them.

    Raises:
        ResourceFailed: it does not answer within the time that its file gives it.
    """
    recovered = manifest.topology.server(server)
    member = manifest.vnf.members[manifest.topology.servers.index(recovered)]
    answers = member.answers
    if answers is None:
        return
    with timeline.step("1.7.2", "await answer", server) as step:
        deadline = time.monotonic() + answers.within
        while (silence := _ask(answers, site.name, recovered)) is not None:
            if time.monotonic() > deadline:
                raise ResourceFailed(
                    f"{site.name}: server {server} does not answer after {answers.within:g} s: "
                    f"{silence}"
                )
            step.waits_for(f"an answer: {silence}")
            go_on()
            time.sleep(PAUSE_S)  # nothing tells when an application is up, it must be asked


def _ask(answers: Answers, site: str, server: Server) -> str | None:
    """Ask once; None is the answer wanted, else why there is none."""
    address = server.ports[0].fixed[0].address if server.ports and server.ports[0].fixed else ""
    if answers.tcp is not None:
        return _connect(address, answers.tcp)
    return _run(
        [
            _filled_in(word, {"{site}": site, "{server}": server.name, "{address}": address})
            for word in answers.command or []
        ]
    )


def _filled_in(word: str, values: dict[str, str]) -> str:
    """Not `str.format`: a command may have braces of its own."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], word)


def _connect(address: str, port: int) -> str | None:
    try:
        with socket.create_connection((address, port), timeout=TRY_S):
            return None
    except OSError as error:
        return f"TCP {address}:{port}: {error}"


def _run(command: list[str]) -> str | None:
    label = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRY_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{label}: no end after {TRY_S:g} s"
    except OSError as error:
        return f"{label}: {error}"
    if done.returncode == 0:
        return None
    return f"{label}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}"

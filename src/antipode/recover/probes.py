"""Waits until a recovered member answers, in the way its VNF's file names (the end of step
1.7.2).
"""

from __future__ import annotations

import re
import socket
import subprocess
import time

from antipode.errors import ResourceFailed
from antipode.model.steps import Steps
from antipode.model.topology import Server
from antipode.model.vnf import Answers
from antipode.recover.recovery import Recovery

TRY_S = 10.0
"""How long one attempt may take."""
PAUSE_S = 0.5


def await_answer(recovery: Recovery, server: str) -> None:
    """Probe a member again and again until it answers; return at once when its file names no probe.

    Raises:
        ResourceFailed: it does not answer within the time that its file gives it.
    """
    site, answers = recovery.site, recovery.plan.server(server).answers
    if answers is None:
        return
    recovered = recovery.point.topology.server(server)
    with recovery.timeline.step(Steps.PROBE, server) as step:
        deadline = time.monotonic() + answers.within
        while (silence := _ask(answers, site.name, recovered)) is not None:
            if time.monotonic() > deadline:
                raise ResourceFailed(
                    f"{site.name}: server {server} does not answer after {answers.within:g} s: "
                    f"{silence}"
                )
            step.waits_for(f"an answer: {silence}")
            recovery.go_on()
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

# SPDX-License-Identifier: Apache-2.0
"""Whether a server of a VNF answers at a site, asked in the way that its VNF file names."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from antipode import processes
from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.probe import Probe, Reach, asked_address
from antipode.model.topology import Server
from antipode.model.vnf import Answers
from antipode.pace import Pace
from antipode.processes import SHOWN
from antipode.screen import visible
from antipode.topology import web

TRY_S = 10.0
"""How long one attempt may take."""
PAUSE_S = 0.5


@dataclass(frozen=True)
class Wait:
    """What is done while a server does not answer yet."""

    tell: Callable[[str], None]
    """called after each attempt with what is waited for, in words"""
    go_on: Callable[[], None]
    """called between two attempts; what it raises ends the wait"""
    environment: Mapping[str, str] = field(default_factory=dict)
    """variables of a probe's command, beside those that it inherits"""
    not_ours: Callable[[str, Callable[[], str | None]], str | None] = lambda port, ask: None
    """asked after an answer at an address of both sites: why it may be that of another copy, None
    when it is the server's. It takes the id of the port, and that which asks once more
    """


def await_answer(
    site: Site,
    server: Server,
    server_id: str,
    answers: Answers,
    wait: Wait,
    *,
    is_moved: bool = False,
) -> Probe:
    """Ask a server until it answers; the probe that it has answered.

    Args:
        server: as it was found, at this site or at its former one; its name and its fixed
            address are those of the probe.
        server_id: of the server at this site.
        wait: what is done meanwhile, and how.
        is_moved: whether no other copy has its address.

    Raises:
        ResourceFailed: it does not answer within the time that its VNF file gives it.
    """
    probe = Probe.of(answers, site.name, server.name, fixed_address(server), is_moved=is_moved)
    deadline, pace = time.monotonic() + answers.within, Pace(PAUSE_S)
    while (silence := _ask(probe, site, server, server_id, wait)) is not None:
        if time.monotonic() > deadline:
            raise ResourceFailed(
                f"{site.name}: server {server.name} does not answer after {answers.within:g} s: "
                f"{silence}",
                resource=f"server {server.name}",
            )
        wait.tell(f"an answer: {silence}")
        wait.go_on()
        pace.pause()  # an application does not notify: it must be asked
    return probe


def fixed_address(server: Server) -> str:
    """The address of a server that is probed; empty where it has none."""
    return asked_address([fixed.address for fixed in port.fixed] for port in server.ports)


def _ask(probe: Probe, site: Site, server: Server, server_id: str, wait: Wait) -> str | None:
    """Ask once; None when the member answers, else why it does not count as answering."""
    if probe.console is not None:
        return _read(probe, site, server_id)
    if probe.port is None:
        return _run(probe, wait.environment)
    if not probe.address:
        return f"server {server.name} has no fixed address to connect to"
    if probe.reaches is not Reach.EITHER_SITE:
        return _reach(probe)
    port = port_of(site, server, server_id)
    if port is None:
        return f"server {server.name} has no port with address {probe.address}"
    if port.get("status") != "ACTIVE":
        return f"port {port['id']} is {port.get('status')}, not ACTIVE"
    return _reach(probe) or wait.not_ours(port["id"], partial(_reach, probe))


def _reach(probe: Probe) -> str | None:
    """Connect to the address of a probe once; why that is no answer, None if it is one."""
    assert probe.port is not None
    return web.get(probe, TRY_S) if probe.http else connect(probe.address, probe.port, TRY_S)


def _read(probe: Probe, site: Site, server_id: str) -> str | None:
    """Look for the text in the console log."""
    try:
        log = site.compute.console(server_id)
    except ApiError as error:
        return f"the console log cannot be read: {error.reason}"
    if probe.is_in(log):
        return None
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
    return f"not yet {probe}; its last line: {visible(last.strip()[-SHOWN:])}"


def port_of(site: Site, server: Server, server_id: str) -> Json | None:
    """The port that has the address of a server which is probed, at the site where it runs."""
    asked = fixed_address(server)
    mac_address = next(
        p.mac_address for p in server.ports if asked in (fixed.address for fixed in p.fixed)
    )
    ports = site.networks.ports_of([server_id])
    return next((p for p in ports if p.get("mac_address") == mac_address), None)


def connect(address: str, port: int, within_s: float) -> str | None:
    """Connect by TCP once; why that fails, None if it does not."""
    try:
        with socket.create_connection((address, port), timeout=within_s):
            return None
    except (OSError, UnicodeError) as error:  # the latter for a name that DNS does not allow
        return f"TCP {address}:{port}: {error}"


def _run(probe: Probe, environment: Mapping[str, str]) -> str | None:
    """Run the command of a probe once; None when it exits with 0."""
    try:
        ended = processes.run(
            probe.command,
            TRY_S,
            environment=environment,
            inherited=processes.of_this_process(probe.variables),
        )
    except (OSError, ValueError) as error:  # the latter for a character that no command may have
        return f"{probe}: {error}"
    if ended.code is None:
        return f"{probe}: no end after {TRY_S:g} s"
    return f"{probe}: exit code {ended.code}: {ended.output}" if ended.code else None

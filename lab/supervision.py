# SPDX-License-Identifier: Apache-2.0
"""The processes of a site under its supervisor (supervisord): configuration from the services'
programs, and its XML-RPC interface.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.states import ProcessStates  # type: ignore[import-untyped]
from supervisor.xmlrpc import Faults, SupervisorTransport  # type: ignore[import-untyped]

from lab import inside
from lab.errors import LabError
from lab.service import Program
from lab.site import Site
from lab.waiting import wait_until

ALIVE = (
    ProcessStates.STARTING,
    ProcessStates.RUNNING,
    ProcessStates.BACKOFF,
    ProcessStates.STOPPING,
)


def write_configuration(site: Site, programs: Sequence[Program]) -> None:
    """Write the supervisor's configuration file.

    Nothing starts by itself: `lab.bring_up` knows the order.
    """
    site.etc.mkdir(parents=True, exist_ok=True)
    inside.supervisor_conf(site).write_text(
        "\n".join([_frame(site), *(_section(site, p) for p in programs)])
    )


def reload_configuration(site: Site) -> None:
    """Have the running supervisor read its changed configuration; changed programs are stopped."""
    rpc = _rpc(site)
    [[added, changed, removed]] = rpc.supervisor.reloadConfig()
    for name in [*changed, *removed]:
        rpc.supervisor.stopProcessGroup(name)
        rpc.supervisor.removeProcessGroup(name)
    for name in [*added, *changed]:
        rpc.supervisor.addProcessGroup(name)


def answers(site: Site) -> bool:
    try:
        _rpc(site).supervisor.getState()
    except (OSError, Fault):
        return False
    return True


def processes(site: Site) -> dict[str, Mapping[str, Any]]:
    """The supervisor's information on every program of the site, by name."""
    return {p["name"]: p for p in _rpc(site).supervisor.getAllProcessInfo()}


def running(site: Site) -> set[str]:
    return {name for name, p in processes(site).items() if p["state"] == ProcessStates.RUNNING}


def start(site: Site, programs: Sequence[Program]) -> None:
    """Start the programs that are not alive; returns without waiting until they run."""
    known = processes(site)
    for program in programs:
        if known[program.name]["state"] in (ProcessStates.STARTING, ProcessStates.RUNNING):
            continue
        try:
            _rpc(site).supervisor.startProcess(program.name, False)
        except Fault as fault:
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise LabError(
                    f"{site.name}: the supervisor cannot start {program.name}: {fault.faultString}"
                ) from fault


def stop(site: Site, names: Sequence[str]) -> None:
    """Stop programs and wait until they have ended."""
    alive = [name for name, p in processes(site).items() if name in names and p["state"] in ALIVE]
    for name in alive:
        _rpc(site).supervisor.stopProcess(name, False)
    wait_until(
        lambda: not any(processes(site)[name]["state"] in ALIVE for name in alive),
        f"{', '.join(alive)} of {site.name} ended",
        timeout=180,
    )


def send(site: Site, name: str, number: signal.Signals) -> None:
    """Send a signal to all processes of a program that runs."""
    os.killpg(inside.pids(site)[processes(site)[name]["pid"]], number)


def stop_all(site: Site) -> None:
    """Ask every program to end, all at once; returns without waiting."""
    _rpc(site).supervisor.stopAllProcesses(False)


def anything_alive(site: Site) -> bool:
    return any(p["state"] in ALIVE for p in processes(site).values())


def given_up(site: Site, programs: Sequence[Program]) -> list[str]:
    """Those of the programs that ended again and again, so that the supervisor starts them no
    more.
    """
    known = processes(site)
    return [
        p.name
        for p in programs
        if known[p.name]["state"] in (ProcessStates.FATAL, ProcessStates.UNKNOWN)
    ]


def _rpc(site: Site) -> Any:  # every call makes its own: a proxy is not for use by several threads
    return ServerProxy(
        "http://localhost",
        transport=SupervisorTransport(serverurl=f"unix://{site.run}/supervisor.sock"),
    )


def _frame(site: Site) -> str:
    return f"""\
[supervisord]
logfile = {site.log}/supervisord.log
logfile_maxbytes = 5MB
logfile_backups = 1
pidfile = {site.run}/supervisord.pid
childlogdir = {site.log}
identifier = {site.name}

[unix_http_server]
file = {site.run}/supervisor.sock
chmod = 0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""


def _section(site: Site, program: Program) -> str:
    environment = ",".join(
        f'{key}="{_escape(value)}"' for key, value in sorted(program.environment.items())
    )
    return f"""\
[program:{program.name}]
command = {_escape(shlex.join(map(str, program.command)))}
environment = {environment}
directory = {site.home}
autostart = false
autorestart = true
startsecs = 1
startretries = 4
stopsignal = {program.stop_signal}
stopwaitsecs = 10
stopasgroup = true
killasgroup = true
redirect_stderr = true
stdout_logfile = {site.log}/{program.name}.log
stdout_logfile_maxbytes = 20MB
stdout_logfile_backups = 1
"""


def _escape(text: str) -> str:
    return text.replace("%", "%%")

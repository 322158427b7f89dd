# SPDX-License-Identifier: Apache-2.0
"""The three clients that are measured, each run as a process of its own with the same duties and
the same way of counting.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from keystoneauth1.adapter import Adapter

from antipode.model.steps import Steps
from antipode.model.vnf import Vnf
from bench.cloud import Cloud, clouds_file
from bench.spent import ClientFailed, Spent, run
from lab.desk import Desk
from lab.site import VENV

Act = Literal["window", "full", "incremental", "recover"]


@dataclass(frozen=True)
class Turn:
    """The cost of one act of a client."""

    seconds: float
    """from the start of the process until the recovery point exists or the last member answers"""
    window_s: float | None
    cpu_s: float
    calls: int


class Client(Protocol):
    """One of the three.

    Acts of one round share a chain: `full`, then `incremental`, then `recover`.
    """

    name: str

    def act(self, act: Act, round: int) -> Turn: ...


def client_environment() -> dict[str, str]:
    """The environment of all three: the clouds, and this `python` for an `answers` command."""
    return {
        "OS_CLIENT_CONFIG_FILE": str(clouds_file()),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def turn_of(spent: Spent) -> Turn:
    """Of a client that prints `{"window_s": …, "done_at": epoch}`."""
    said = json.loads(spent.output)
    return Turn(said["done_at"] - spent.began, said.get("window_s"), spent.cpu_s, spent.calls)


def committed_at(desk: Desk, run_id: str) -> float:
    """When a protection has committed its recovery point, in epoch seconds."""
    return _committed(desk.ask("run", "show", run_id))


def _committed(shown: Mapping[str, Any]) -> float:
    """The same of a run as `run show` has it."""
    ended = next(s["ended_at"] for s in shown["steps"] if s["step"] == Steps.COMMIT.words)
    return datetime.fromisoformat(ended).timestamp()


class Floor:
    """`bench.floor`: the same calls, and nothing else."""

    name = "floor"

    def __init__(self, vnf_file: Path, folder: Path) -> None:
        self._vnf_file, self._folder = vnf_file, folder

    def act(self, act: Act, round: int) -> Turn:
        verb = "protect" if act in ("full", "incremental") else act
        state = [
            "--vnf",
            str(self._vnf_file),
            "--state",
            str(self._folder / f"floor-{round}.json"),
            "--name",
            f"bench-floor-{round}",
        ]
        command = [
            sys.executable,
            "-m",
            "bench.floor",
            verb,
            *state,
            *(["--incremental"] if act == "incremental" else []),
        ]
        log = self._folder / f"floor-{round}-{act}.log"
        return turn_of(run(command, client_environment(), log))


class CommandLine:
    """`openstack-cli.sh`: a runbook with the plain `openstack` command."""

    name = "cli"

    def __init__(self, vnf: Vnf, folder: Path) -> None:
        self._vnf, self._folder = vnf, folder
        self._openstack = os.environ.get("OPENSTACK", str(VENV / "bin/openstack"))

    def act(self, act: Act, round: int) -> Turn:
        state = self._folder / f"cli-{round}"
        state.mkdir(exist_ok=True)
        (state / "vnf.json").write_text(self._vnf.model_dump_json())
        for member in self._vnf.members:
            (state / f"answers-{member.server}").write_text(self._answers(member.server))
        environment = {
            **client_environment(),
            "PRIMARY": self._vnf.primary,
            "BACKUP": self._vnf.backup[0],
            "MEMBERS": " ".join(m.server for m in self._vnf.members),
            "BOOT": " ".join(name for wave in self._vnf.boot_waves() for name in wave),
            "VNF": str(state / "vnf.json"),
            "STATE": str(state),
            "NAME": f"bench-cli-{round}",
            "OPENSTACK": self._openstack,
        }
        script = str(Path(__file__).with_name("openstack-cli.sh"))
        return turn_of(
            run(["bash", script, act], environment, self._folder / f"cli-{round}-{act}.log")
        )

    def _answers(self, server: str) -> str:
        wanted = self._vnf.member(server).answers
        if wanted is None:
            return "true\n"
        if wanted.command is None:
            raise ValueError(f"{server}: the bench asks members by command only, not by tcp")
        said = {"site": self._vnf.backup[0], "server": server, "address": "ADDRESS"}
        return (
            shlex.join(part.format(**said) for part in wanted.command).replace("ADDRESS", '"$1"')
            + " >&2\n"
        )


class Antipode:
    """antipode's own command line, with a configuration, a database, a vault and VNF names of the
    bench's own.
    """

    name = "antipode"

    def __init__(self, vnf: Vnf, folder: Path, mark: str) -> None:
        self._vnf, self._folder, self._mark = vnf, folder, mark
        self.vault = f"antipode-bench-{mark}"
        self._desk = Desk((folder / "antipode").resolve(), vault=self.vault)

    def act(self, act: Act, round: int) -> Turn:
        name = f"bench-{self._mark}-{round}"
        if act in ("window", "full"):
            file = self._folder / f"{name}.yaml"
            # JSON is YAML
            file.write_text(
                json.dumps(
                    {**self._vnf.model_dump(mode="json", exclude_none=True), "vnf": name}, indent=1
                )
            )
            self._desk.tell("vnf", "add", str(file))
        arguments = (
            ["failover", name, "--to", self._vnf.backup[0], "--yes"]
            if act == "recover"
            else ["protect", name]
        )
        command = [str(Path(sys.executable).with_name("antipode")), *arguments, "-f", "json"]
        environment = {**client_environment(), "ANTIPODE_CONFIG": str(self._desk.configuration)}
        return self._turn(
            act, run(command, environment, self._folder / f"antipode-{round}-{act}.log")
        )

    def _turn(self, act: Act, spent: Spent) -> Turn:
        """Its clock starts with the process, like that of the others, and stops when its timeline
        says that the thing is done.
        """
        said = json.loads(spent.output)
        shown = self._desk.ask("run", "show", said["run"])
        # the recovery point exists with its manifest; removing the snapshots comes after. A
        # failover ends with the last answer
        done = (
            datetime.fromisoformat(shown["ended_at"]).timestamp()
            if act == "recover"
            else _committed(shown)
        )
        if act == "incremental":
            must_be_incremental(said)
        return Turn(done - spent.began, said.get("quiesce_window_s"), spent.cpu_s, spent.calls)


def must_be_incremental(said: Mapping[str, Any]) -> None:
    """See that what a protection has made rests on the backups before.

    Args:
        said: what the command has printed.

    Raises:
        ClientFailed: it does not.
    """
    if not said["incremental"]:
        raise ClientFailed(
            f"antipode made a full backup where an increment was wanted; see run {said['run']}"
        )


def remove_vault(site: Cloud, vault: str) -> None:
    """Remove the container with the manifests; the backups they name are gone by then."""
    store = Adapter(site.session, service_type="object-store", interface="public")
    path = f"/{vault}"
    listed = store.get(path, params={"format": "json"}, raise_exc=False)
    if listed.status_code == 404:
        return
    for found in listed.json():
        store.delete(f"{path}/{found['name']}")
    store.delete(path)

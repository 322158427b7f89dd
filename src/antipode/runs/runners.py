# SPDX-License-Identifier: Apache-2.0
"""How the script of a runbook is run elsewhere: the command line of its runner."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence

from antipode.config import Config, PodmanRunner, Runner, SshRunner
from antipode.errors import PreflightFailed
from antipode.model.runbook import PlannedStep, RunbookStep


def missing(config: Config, steps: Iterable[RunbookStep]) -> list[str]:
    """The runners of scripts that this host lacks, in words."""
    return [
        f"runner {step.script.runner} of runbook step {step.name} is not in antipode.yaml of this"
        " host"
        for step in steps
        if step.script is not None and step.script.runner not in config.runners
    ]


def must_be_known(config: Config, steps: Iterable[PlannedStep], what: str) -> None:
    """See that this host has the runners of all scripts.

    Args:
        what: cannot begin without them, for people.

    Raises:
        PreflightFailed: it lacks some; all are named.
    """
    if lacking := missing(config, [planned.step for planned in steps]):
        raise PreflightFailed(what, lacking)


def argv(
    runner: Runner, command: Sequence[str], environment: Mapping[str, str], within_s: float
) -> list[str]:
    """The command line that has a runner run a command.

    Args:
        environment: variables that the command gets; those of this process stay here.
        within_s: seconds after which it is to be ended where it runs, too.
    """
    if runner.ssh is not None:
        return _ssh(runner.ssh, command, environment, within_s)
    assert runner.podman is not None  # it is one of the two
    return _podman(runner.podman, command, environment, within_s)


def _ssh(
    ssh: SshRunner, command: Sequence[str], environment: Mapping[str, str], within_s: float
) -> list[str]:
    """OpenSSH gives the words to a shell of the other host: they are quoted for it. The program
    does not end with the connection, so `timeout` of coreutils ends it there.
    """
    options = ["-T", "-p", str(ssh.port), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    if ssh.identity is not None:
        options += ["-i", str(ssh.identity), "-o", "IdentitiesOnly=yes"]
    if ssh.known_hosts is not None:
        options += ["-o", f"UserKnownHostsFile={ssh.known_hosts}"]
    if ssh.user is not None:
        options += ["-l", ssh.user]
    variables = [f"{name}={value}" for name, value in environment.items()]
    limit = ["timeout", "-k", "5", str(math.ceil(within_s))]
    return ["ssh", *options, "--", ssh.host, shlex.join(["env", *variables, *limit, *command])]


def _podman(
    podman: PodmanRunner, command: Sequence[str], environment: Mapping[str, str], within_s: float
) -> list[str]:
    """The container is named by the key of the step: another attempt replaces one that a process
    that died has left running.
    """
    name = hashlib.sha256(environment["ANTIPODE_KEY"].encode()).hexdigest()[:24]
    variables = [word for k, v in environment.items() for word in ("--env", f"{k}={v}")]
    volumes = [word for volume in podman.volumes for word in ("--volume", volume)]
    options = ["--rm", "--replace", "--name", f"antipode-{name}", "--network", podman.network]
    limit = ["--timeout", str(math.ceil(within_s))]
    return ["podman", "run", *options, *limit, *variables, *volumes, podman.image, *command]

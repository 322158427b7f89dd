# SPDX-License-Identifier: Apache-2.0
"""Scripts of a runbook on another host, by a real sshd on loopback, and in a container, by a real
Podman: words and variables arrive as they are, nothing else of this host does, and what takes too
long is ended there.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from antipode import processes
from antipode.config import Runner
from antipode.runs import runners
from tests.distributed.packages import program
from tests.distributed.servers import answers, until
from tests.ports import free_port

VARIABLES = {"ANTIPODE_KEY": "run-1/step", "ANTIPODE_VNF": 'it\'s a "v" $HOME'}


@dataclass
class Sshd:
    """A server that lets the key of the tests in, as the user of the tests."""

    folder: Path
    port: int

    def runner(self, **changes: object) -> Runner:
        known = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "identity": str(self.folder / "id"),
            "known_hosts": str(self.folder / "known_hosts"),
        }
        return Runner.model_validate({"ssh": known | changes})

    def run(
        self, *command: str, runner: Runner | None = None, within_s: float = 60.0
    ) -> processes.Ended:
        argv = runners.argv(runner or self.runner(), command, VARIABLES, within_s)
        return processes.run(argv, 120.0, environment={"OS_PASSWORD": "secret"})


def key(path: Path) -> str:
    """A new key in a file; the public one."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path.with_suffix(".pub").read_text()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it insists on this place
    server = Sshd(tmp_path_factory.mktemp("sshd"), free_port())
    (server.folder / "authorized").write_text(key(server.folder / "id"))
    of_host = " ".join(key(server.folder / "host").split()[:2])
    (server.folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {of_host}\n")
    (server.folder / "config").write_text(
        f"Port {server.port}\nListenAddress 127.0.0.1\nHostKey {server.folder}/host\n"
        f"AuthorizedKeysFile {server.folder}/authorized\nPidFile none\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\n"
    )
    command = [program("sshd"), "-D", "-e", "-f", str(server.folder / "config")]
    with (server.folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        until("sshd to answer", lambda: answers(server.port))
        yield server
    finally:
        process.terminate()
        process.wait()


def expect_words_and_variables(run: Callable[..., processes.Ended]) -> None:
    words = ["a b", "$HOME", "it's", '"', "; exit 3", "*", "\\n", ""]
    ended = run("printf", "%s|", *words, "end")
    assert (ended.code, ended.output) == (0, "|".join([*words, "end"]) + "|")
    assert run("sh", "-c", 'printf %s "$ANTIPODE_VNF"').output == VARIABLES["ANTIPODE_VNF"]


def test_words_and_variables_arrive_on_another_host_as_they_are(sshd: Sshd) -> None:
    expect_words_and_variables(sshd.run)


def test_nothing_else_of_the_environment_of_this_host_is_there(sshd: Sshd) -> None:
    assert "secret" not in sshd.run("env").output


def test_the_exit_code_of_the_script_is_that_of_the_runner(sshd: Sshd) -> None:
    assert sshd.run("sh", "-c", "echo no >&2; exit 7") == processes.Ended(7, "no")


def test_a_script_that_takes_too_long_is_ended_on_the_other_host(
    sshd: Sshd, tmp_path: Path
) -> None:
    mine = tmp_path / "pid"
    ended = sshd.run("sh", "-c", f"echo $$ > {mine}; exec sleep 3600", within_s=2)
    assert ended.code == 124
    pid = int(mine.read_text())
    until("the script to be gone", lambda: not Path(f"/proc/{pid}").exists())


def test_a_host_whose_key_is_not_known_is_not_spoken_to(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("")
    stranger = sshd.runner(known_hosts=str(tmp_path / "known_hosts"))
    ended = sshd.run("touch", str(tmp_path / "done"), runner=stranger)
    assert ended.code == 255
    assert not (tmp_path / "done").exists()
    assert (tmp_path / "known_hosts").read_text() == ""


def test_a_key_that_is_not_let_in_fails_without_a_question(sshd: Sshd, tmp_path: Path) -> None:
    key(tmp_path / "other")
    other = sshd.runner(identity=str(tmp_path / "other"))
    assert sshd.run("true", runner=other).code == 255


# ---- in a container ----

IMAGE = "localhost/antipode-tests:latest"
TOOLS = ("sh", "env", "printf", "sleep", "touch", "cat")
ENGINE = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
"""What a host of CI allows, which is itself a container more often than not."""
STORAGE = """\
[storage]
driver = "vfs"
graphroot = "{0}/graph"
runroot = "{0}/run"
"""


@dataclass
class Podman:
    """Podman with images and containers of its own, and one image: busybox, made of nothing."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }

    def __call__(self, *arguments: str) -> str:
        return subprocess.run(
            [program("podman"), *arguments],
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def running(self) -> list[str]:
        return self("ps", "--quiet").split()

    def run(
        self, *command: str, within_s: float = 120.0, patience_s: float = 240.0, **settings: object
    ) -> processes.Ended:
        runner = Runner.model_validate({"podman": {"image": IMAGE, **settings}})
        argv = runners.argv(runner, command, VARIABLES, within_s)
        return processes.run(
            argv, patience_s, inherited={**self.environment, "OS_PASSWORD": "secret"}
        )


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    podman = Podman(tmp_path_factory.mktemp("podman"))
    (podman.folder / "containers.conf").write_text(ENGINE)
    (podman.folder / "storage.conf").write_text(STORAGE.format(podman.folder))
    with tarfile.open(podman.folder / "image.tar", "w") as image:
        image.add(program("busybox"), "bin/busybox")
        for tool in TOOLS:
            link = tarfile.TarInfo(f"bin/{tool}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            image.addfile(link)
    podman("import", str(podman.folder / "image.tar"), IMAGE)
    return podman


def test_words_and_variables_arrive_in_a_container_as_they_are(podman: Podman) -> None:
    expect_words_and_variables(podman.run)


def test_a_container_has_neither_the_secrets_of_this_host_nor_its_network(podman: Podman) -> None:
    assert "secret" not in podman.run("env").output
    devices = podman.run("cat", "/proc/net/dev").output
    assert "lo:" in devices and "eth" not in devices


def test_the_exit_code_of_a_script_in_a_container_is_that_of_the_runner(podman: Podman) -> None:
    assert podman.run("sh", "-c", "echo no >&2; exit 7") == processes.Ended(7, "no")


def test_a_container_sees_the_volumes_of_its_runner_only(podman: Podman, tmp_path: Path) -> None:
    there = f"{tmp_path}:/given"
    assert podman.run("touch", "/given/made", volumes=[there]).code == 0
    assert (tmp_path / "made").exists()
    assert podman.run("touch", "/given/more", volumes=[f"{there}:ro"]).code
    assert not (tmp_path / "more").exists()


def test_a_script_that_takes_too_long_is_ended_with_its_container(podman: Podman) -> None:
    assert podman.run("sleep", "3600", within_s=1).code
    assert podman.running() == []


def test_another_attempt_takes_the_place_of_a_container_that_was_left(podman: Podman) -> None:
    assert podman.run("sleep", "3600", patience_s=0).code is None  # its process was killed
    (left,) = podman.running() or [""]
    assert podman.run("printf", "done").output == "done"
    assert left not in podman.running() and podman.running() == []


def test_an_image_that_is_not_there_is_an_error_and_no_script_runs(podman: Podman) -> None:
    assert podman.run("true", image="localhost/antipode-tests:none").code == 125

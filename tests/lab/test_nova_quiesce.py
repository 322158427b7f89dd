# SPDX-License-Identifier: Apache-2.0
"""nova-quiesce with real guests: their agents tell whether they are frozen, whatever is asked at
once and whatever is killed meanwhile.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab import canary, inside, supervision
from lab.desk import PROJECT
from lab.guest_agent import in_guest
from lab.service import NotReady
from lab.services import identity, mariadb, nova, tenant, wsgi
from lab.site import VENV, Site
from lab.waiting import wait_until
from lab.witness import is_frozen

pytestmark = pytest.mark.lab

ROUNDS = 200
SECOND_PORT = 8784
LOOKED_FOR_WITHIN_S = 15 * 1.2 + 5
"""How long after its time a server is thawed at the latest when the process that has quiesced it is
dead: see `look_interval`.
"""

BUSY_S = 60
"""What a machine that is busy with other things may take in addition to that."""


@dataclass
class NovaApi:
    """One nova-api process of a site, asked as antipode's user."""

    site: Site
    port: int
    session: Any

    def act(self, server: str, **body: Any) -> Any:
        """POST an action and return the response whatever its status."""
        return self.session.post(
            self._url(f"/servers/{server}/action"), json=body, raise_exc=False, connect_retries=0
        )

    def quiesce(self, server: str, timeout: int = 60) -> int:
        return int(self.act(server, quiesce={"timeout": timeout}).status_code)

    def unquiesce(self, server: str) -> int:
        return int(self.act(server, unquiesce=None).status_code)

    def shown(self, server: str) -> dict[str, Any]:
        state: dict[str, Any] = self.session.get(self._url(f"/servers/{server}/os-quiesce")).json()[
            "quiesce"
        ]
        return state

    def pids(self) -> list[int]:
        return processes(self.site, f":{self.port}")

    def _url(self, path: str) -> str:
        return self.site.url(self.port, f"/v2.1{path}")


def processes(site: Site, argument: str) -> list[int]:
    """The processes of a site, by their pids here, of which an argument ends so."""
    found = []
    for pid in inside.pids(site).values():
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(each.endswith(argument) for each in arguments):
            found.append(pid)
    return found


def kill(pids: Sequence[int]) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: not any(Path(f"/proc/{pid}/fd/0").exists() for pid in pids),
        "they are dead",
        timeout=BUSY_S,
    )


def answers(api: NovaApi) -> bool:
    try:
        wsgi.check_answers(api.site.url(api.port, "/"))
    except NotReady:
        return False
    return True


@pytest.fixture(scope="module")
def first(site_a: Site) -> NovaApi:
    """The nova-api of the lab; its supervisor starts it again when it dies."""
    return NovaApi(site_a, nova.PORT, identity.connect(site_a, "antipode", tenant.PROJECT).session)


@pytest.fixture
def second(site_a: Site, first: NovaApi) -> Iterator[NovaApi]:
    """Another nova-api process, with the database and the message bus of the site. It is not
    started again when it dies.
    """
    [program] = nova.NovaApi().programs(site_a)
    command = [argument.replace(f":{nova.PORT}", f":{SECOND_PORT}") for argument in program.command]
    log = (site_a.log / "nova-api-second.log").open("ab")
    inside.popen(
        site_a, command, program.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    api = NovaApi(site_a, SECOND_PORT, first.session)
    wait_until(lambda: answers(api), "the second nova-api answers", timeout=300, interval=1)
    yield api
    if api.pids():
        kill(api.pids())


@pytest.fixture(autouse=True)
def all_is_well_before_and_after(
    site_a: Site, servers: dict[str, str], first: NovaApi
) -> Iterator[None]:
    assert_nothing_is_left(site_a, servers)
    yield
    subprocess.run([sys.executable, "-m", "lab", "up"], cwd=PROJECT, check=True)
    wait_until(lambda: answers(first), "nova-api answers", timeout=300)
    assert_nothing_is_left(site_a, servers)
    canary.wait_for_records(site_a, 3)


def assert_nothing_is_left(site: Site, servers: dict[str, str]) -> None:
    assert [role for role, server in servers.items() if is_frozen(site, server)] == []
    assert records(site) == (0, 0)


def records(site: Site) -> tuple[int, int]:
    """How many servers have a task state of the add-on, and how many rows of it are in the cell's
    database.
    """
    tasks = (
        "SELECT COUNT(*) FROM nova.instances WHERE deleted=0 AND task_state IN "
        "('quiescing','quiesced','unquiescing');"
    )
    rows = (
        "SELECT COUNT(*) FROM nova.instance_system_metadata WHERE `key`='nova_quiesce' AND "
        "deleted=0;"
    )
    return int(mariadb.execute(site, tasks)), int(mariadb.execute(site, rows))


def image_status(nova: NovaApi, server: str, create: dict[str, str]) -> int:
    """The status of Nova's answer to a request for an image of a server."""
    return nova.act(server, createImage=create).status_code


def all_available(cloud: Any, snapshots: list[str]) -> bool:
    return all(cloud.block_storage.get_snapshot(s).status == "available" for s in snapshots)


def at_once(*calls: Callable[[], int]) -> list[int]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def test_whatever_is_asked_at_once_of_the_same_and_different_servers_none_is_left_frozen(
    site_a: Site, servers: dict[str, str], first: NovaApi, second: NovaApi
) -> None:
    began = time.monotonic()
    chance = random.Random(ROUNDS)
    apis = (first, second)

    def one_round(server: str, number: int) -> None:
        quiesces = [lambda api=api: api.quiesce(server) for api in apis]
        if number % 4 == 0:
            statuses = at_once(*quiesces, lambda: chance.choice(apis).unquiesce(server))
            assert set(statuses) <= {202, 409}, statuses
        else:
            statuses = at_once(*quiesces)
            assert sorted(statuses) == [202, 409], statuses
            shown = chance.choice(apis).shown(server)
            assert shown["state"] == "quiesced"
            assert is_frozen(site_a, server)
            assert chance.choice(apis).act(server, createImage={"name": "never"}).status_code == 409
            assert chance.choice(apis).shown(server) == shown
        thaws = at_once(*(lambda api=api: api.unquiesce(server) for api in apis))
        assert 202 in thaws, thaws
        assert set(thaws) <= {202, 409}, thaws
        assert not is_frozen(site_a, server)

    with ThreadPoolExecutor(len(servers)) as pool:
        for number in range(ROUNDS):
            for done in [pool.submit(one_round, server, number) for server in servers.values()]:
                done.result()
    print(f"{ROUNDS} rounds with {len(servers)} servers: {time.monotonic() - began:.0f} s")


def test_a_create_image_that_begins_with_a_quiesce_leaves_no_server_frozen(
    site_a: Site, servers: dict[str, str], first: NovaApi, second: NovaApi
) -> None:
    cloud = identity.connect(site_a, "antipode", tenant.PROJECT)
    server = servers["front"]
    before = {snapshot.id for snapshot in cloud.block_storage.snapshots()}
    try:
        for number in range(6):
            create = {"name": f"nova-quiesce-test-{number}"}
            image, quiesce = at_once(
                partial(image_status, first, server, create),
                lambda: second.quiesce(server, timeout=30),
            )
            # 500 is what Nova makes of libvirt's refusal when its own quiesce comes second and the
            # image requires it
            assert image in (202, 409, 500) and quiesce in (202, 409)
            # Nova's own quiesce for the image may have come first; then it also thaws, when the
            # snapshots are there
            wait_until(
                lambda: first.unquiesce(server) == 202, "it can be unquiesced", timeout=BUSY_S
            )
            wait_until(lambda: not is_frozen(site_a, server), "it is thawed", timeout=BUSY_S)
            made = [s.id for s in cloud.block_storage.snapshots() if s.id not in before]
            wait_until(
                partial(all_available, cloud, made),
                "snapshots are there",
                300,
            )
    finally:
        for image in cloud.image.images():
            if image.name.startswith("nova-quiesce-test-"):
                cloud.image.delete_image(image)
        for snapshot in cloud.block_storage.snapshots():
            if snapshot.id not in before:
                cloud.block_storage.delete_snapshot(snapshot)
                cloud.block_storage.wait_for_delete(snapshot, interval=1, wait=300)


def await_thaw(site: Site, server: str, within: float) -> float:
    """Wait until the guest's agent says that it is thawed; return how many seconds that took."""
    began = time.monotonic()
    wait_until(
        lambda: not is_frozen(site, server), "it is thawed", timeout=within + BUSY_S, interval=0.3
    )
    return time.monotonic() - began


def await_forgotten(site: Site, within: float) -> None:
    wait_until(
        lambda: records(site) == (0, 0), "no record is left", timeout=within + BUSY_S, interval=1
    )


def test_a_server_that_nothing_unquiesces_is_thawed_when_its_time_is_over(
    site_a: Site, servers: dict[str, str], first: NovaApi
) -> None:
    server, timeout = servers["app"], 10
    began = time.monotonic()
    assert first.quiesce(server, timeout) == 202
    assert is_frozen(site_a, server)
    await_thaw(site_a, server, within=timeout)
    assert time.monotonic() - began >= timeout
    await_forgotten(site_a, within=5)


def test_when_the_nova_api_that_quiesced_it_is_killed_another_thaws_it(
    site_a: Site, servers: dict[str, str], first: NovaApi, second: NovaApi
) -> None:
    server, timeout = servers["app"], 15
    assert second.quiesce(server, timeout) == 202
    kill(second.pids())
    assert is_frozen(site_a, server)
    assert first.quiesce(server) == 409
    took = await_thaw(site_a, server, within=timeout + LOOKED_FOR_WITHIN_S)
    print(f"thawed {took - timeout:.1f} s after its time")
    await_forgotten(site_a, within=5)


@pytest.mark.core
def test_when_every_nova_api_is_killed_the_next_one_thaws_it_before_it_is_asked_anything(
    site_a: Site, servers: dict[str, str], first: NovaApi
) -> None:
    server = servers["app"]
    assert first.quiesce(server, timeout=5) == 202
    kill(first.pids())
    took = await_thaw(site_a, server, within=60)
    print(f"thawed {took:.1f} s after nova-api was killed")
    await_forgotten(site_a, within=5)


@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.2, 0.4])
def test_a_nova_api_killed_while_it_freezes_or_thaws_leaves_it_to_another(
    site_a: Site, servers: dict[str, str], first: NovaApi, second: NovaApi, after_s: float
) -> None:
    server, timeout = servers["app"], 4

    def freeze_and_thaw() -> None:
        second.quiesce(server, timeout)
        second.unquiesce(server)

    asked = threading.Thread(
        target=lambda: suppress_connection_errors(freeze_and_thaw), daemon=True
    )
    asked.start()
    time.sleep(after_s)  # not to wait for a state, but to hit one or another
    kill(second.pids())
    asked.join()
    # an unfinished thaw is taken over after the time that one may take at most
    await_forgotten(site_a, within=150 + LOOKED_FOR_WITHIN_S)
    assert not is_frozen(site_a, server)


def await_reports(site: Site, since: datetime) -> None:
    """Wait until Nova's and Cinder's services have reported again. A report that was on its way
    when RabbitMQ died takes two minutes to fail, and a host without reports gets no server.
    """
    cloud = identity.connect(site)

    def all_have() -> bool:
        services = [*cloud.compute.services(), *cloud.block_storage.services()]
        return all(
            datetime.fromisoformat(s.updated_at).replace(tzinfo=UTC) > since and s.state == "up"
            for s in services
        )

    wait_until(
        all_have,
        f"all services of {site.name} have reported since {since:%H:%M:%S}",
        timeout=300,
        interval=2,
    )


def suppress_connection_errors(call: Callable[[], None]) -> None:
    from keystoneauth1.exceptions import ConnectFailure, UnknownConnectionError

    try:
        call()
    except (ConnectFailure, UnknownConnectionError) as expected:
        print(f"as expected of a nova-api that was killed: {expected}")


def test_when_nova_compute_is_killed_inside_the_window_the_server_is_thawed_as_soon_as_it_is_back(
    site_a: Site, servers: dict[str, str], first: NovaApi
) -> None:
    server, timeout = servers["app"], 10
    assert first.quiesce(server, timeout) == 202
    kill(processes(site_a, "bin/nova-compute"))
    assert is_frozen(site_a, server)
    took = await_thaw(site_a, server, within=180)
    print(f"thawed {took:.1f} s after nova-compute was killed")
    await_forgotten(site_a, within=150)


def test_when_rabbitmq_is_restarted_inside_the_window_the_server_is_thawed_as_soon_as_it_is_back(
    site_a: Site, servers: dict[str, str], first: NovaApi
) -> None:
    server, timeout = servers["app"], 20  # longer than the supervisor waits for a program to end
    assert first.quiesce(server, timeout) == 202
    supervision.stop(site_a, ["rabbitmq"])
    assert is_frozen(site_a, server)
    subprocess.run([sys.executable, "-m", "lab", "up"], cwd=PROJECT, check=True)
    back = datetime.now(UTC)
    took = await_thaw(site_a, server, within=180)
    print(f"thawed {took:.1f} s after RabbitMQ was back")
    await_forgotten(site_a, within=180)
    await_reports(site_a, back)


AGENT = "/etc/init.d/guest-agent"
HOOK = "/etc/qemu/fsfreeze-hook"
SILENT_S = 30

# The agent calls it before it freezes, and says in a file of its own that it is about to. To sync
# what is dirty takes a while, in which it is killed: it dies with the file system frozen, and has
# not answered.
DIES_IN_THE_FREEZE = """
echo "$1 $(cut -d' ' -f1 /proc/uptime)" >>/run/spoilt.log
[ $1 = freeze ] || exit 0
agent=$PPID
dd if=/dev/zero of=/data/dirty bs=1M count=16 2>/dev/null
(while [ ! -e /run/qga.state.isfrozen ]; do :; done; kill -KILL $agent) &
"""

# It stands still before it freezes, and freezes when no caller waits for it any longer.
SLEEPS_BEFORE_THE_FREEZE = f"""
echo "$1 $(cut -d' ' -f1 /proc/uptime)" >>/run/spoilt.log
[ $1 = freeze ] || exit 0
agent=$PPID
(sleep {SILENT_S}; kill -CONT $agent) &
kill -STOP $agent
"""

COMES_BACK_LATE = f"sleep {SILENT_S}; exec /run/guest-agent"


@pytest.fixture
def spoilt_agent(site_a: Site, servers: dict[str, str]) -> Iterator[Callable[[str], None]]:
    """Gives the agent of `app` another hook, and has it come back late when it dies; undone when it
    is back.
    """
    server = servers["app"]
    mounted = ((HOOK, "/run/hook"), (AGENT, "/run/late-agent"))

    def spoil(hook: str) -> None:
        scripts = {"/run/hook": hook, "/run/late-agent": COMES_BACK_LATE}
        write = [
            f"cat >{path} <<'END'\n#!/bin/sh\n{script}\nEND\nchmod +x {path}"
            for path, script in scripts.items()
        ]
        mount = [f"mount -o bind {ours} {theirs}" for theirs, ours in mounted]
        in_guest(
            site_a,
            server,
            "\n".join([f"cp {AGENT} /run/guest-agent", "rm -f /run/spoilt.log", *write, *mount]),
        )

    yield spoil
    wait_until(
        lambda: agent_answers(site_a, server) and not is_frozen(site_a, server),
        "the agent of app runs",
        180,
        interval=1,
    )
    for theirs, _ in mounted:
        in_guest(
            site_a,
            server,
            f"while grep -q ' {theirs} ' /proc/mounts; do umount {theirs}; done; rm -f /data/dirty",
        )


def agent_answers(site: Site, server: str) -> bool:
    ping = ["virsh", "qemu-agent-command", server, '{"execute": "guest-ping"}', "--timeout", "2"]
    return inside.run(site, ping, check=False, timeout=15).returncode == 0


def is_connected(site: Site, server: str) -> bool:
    """Whether somebody in the guest has opened the channel of the agent, as libvirt knows."""
    return (
        "name='org.qemu.guest_agent.0' state='connected'"
        in inside.run(site, ["virsh", "dumpxml", server]).stdout
    )


def assert_frozen_for(site: Site, server: str, seconds: float) -> None:
    """Check by the hook's own clock that the guest was frozen, and thawed not before that."""
    log = dict(line.split() for line in in_guest(site, server, "cat /run/spoilt.log").splitlines())
    assert float(log["thaw"]) - float(log["freeze"]) > seconds, log


@pytest.mark.parametrize("reset", [False, True])
def test_an_agent_that_dies_in_the_freeze_is_told_to_thaw_as_soon_as_it_is_back(
    site_a: Site,
    servers: dict[str, str],
    first: NovaApi,
    spoilt_agent: Callable[[str], None],
    reset: bool,
) -> None:
    server = servers["app"]
    spoilt_agent(DIES_IN_THE_FREEZE)
    answer = first.act(server, quiesce={"timeout": 10})
    assert answer.status_code == 409, answer.text
    assert "Traceback" not in answer.text
    assert first.shown(server)["state"] == "unquiescing"
    # The agent dies while it freezes: the kernel ends that after the agent is gone.
    canary.frozen_last(site_a, timeout=SILENT_S - 5)
    if reset:
        admin = NovaApi(site_a, nova.PORT, identity.connect(site_a).session)
        assert admin.act(server, **{"os-resetState": {"state": "active"}}).status_code == 202
        assert records(site_a) == (0, 0)
    wait_until(
        lambda: agent_answers(site_a, server),
        "the agent is back",
        timeout=SILENT_S + BUSY_S,
        interval=0.5,
    )
    took = await_thaw(site_a, server, within=15)
    print(f"thawed {took:.1f} s after the agent was back")
    assert_frozen_for(site_a, server, SILENT_S - 2)
    await_forgotten(site_a, within=10)


def test_a_freeze_that_comes_after_its_time_is_thawed(
    site_a: Site, servers: dict[str, str], first: NovaApi, spoilt_agent: Callable[[str], None]
) -> None:
    server = servers["app"]
    spoilt_agent(SLEEPS_BEFORE_THE_FREEZE)
    assert first.quiesce(server, timeout=5) == 504
    assert first.shown(server)["state"] == "unquiescing"
    await_forgotten(site_a, within=150)
    assert not is_frozen(site_a, server)
    assert_frozen_for(site_a, server, SILENT_S - 2)


def test_an_agent_that_is_not_there_is_a_conflict_at_once_and_nothing_is_left(
    site_a: Site, servers: dict[str, str], first: NovaApi, spoilt_agent: Callable[[str], None]
) -> None:
    server = servers["app"]
    spoilt_agent("")
    in_guest(site_a, server, "(sleep 1; kill -KILL $(pidof qemu-ga)) >/dev/null 2>&1 &")
    wait_until(
        lambda: not is_connected(site_a, server),
        "the agent is gone",
        timeout=SILENT_S,
        interval=0.2,
    )
    answer = first.act(server, quiesce=None)
    assert answer.status_code == 409, answer.text
    assert "agent is not connected" in answer.text
    assert records(site_a) == (0, 0)


def test_the_command_lists_and_thaws_what_is_quiesced_and_leaves_nothing(
    site_a: Site, servers: dict[str, str], first: NovaApi
) -> None:
    def command(name: str) -> str:
        configuration = str(site_a.etc / "nova" / "nova.conf")
        return inside.run(
            site_a, [str(VENV / "bin" / "nova-quiesce"), "--config-file", configuration, name]
        ).stdout

    for server in servers.values():
        assert first.quiesce(server, timeout=300) == 202
    listed = command("list")
    assert all(f"{server}  cell1  quiesced" in listed for server in servers.values())
    unquiesced = command("unquiesce")
    assert all(f"{server}  unquiesced" in unquiesced for server in servers.values())
    assert command("list") == ""
    assert_nothing_is_left(site_a, servers)

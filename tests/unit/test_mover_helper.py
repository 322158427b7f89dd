# SPDX-License-Identifier: Apache-2.0
"""The mover writes into the disks of a helper server by SFTP, and into no other: a server of SFTP
on this machine stands for its guest.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import asyncssh
import pytest
from pydantic import ValidationError

from antipode.cloud.api import ApiError
from antipode.config import HELPER_AT_ONCE, HelperConfig, MoverConfig
from antipode.errors import (
    AntipodeError,
    HelperFailed,
    HelperUnreachable,
    HelperUntrusted,
    ResourceFailed,
)
from antipode.mover import guest as guest_module
from antipode.mover import helper, release
from antipode.mover.guest import ZEROS_AT_LEAST, Guest
from antipode.mover.helper import NovaAttached
from antipode.operations.site_check import check_helper
from antipode.sandbox import helper_guest
from antipode.sandbox.helper_guest import Disk, Off

VOLUME = "10000000-0000-4000-8000-000000000001"
OTHER = "20000000-0000-4000-8000-000000000002"
SERVER = "30000000-0000-4000-8000-000000000003"
SIZE = 3 << 20
STEP = 16 << 10
"""Bytes of a write; SIZE has more of them than are under way at once."""


class Helper:
    """A helper server with its guest, its Nova and its Cinder."""

    name, helper = "site-b", SERVER

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disks: dict[str, Disk] = {}
        self.is_off = False
        self.calls: list[str] = []
        self.status = "available"
        self.on_attach: Callable[[], None] = lambda: self.plug(VOLUME)
        self.project_id = "ours"
        self.shown: Any = {"name": "helper", "status": "ACTIVE", "tenant_id": "ours"}
        self.volumes = self.attachments = self.watch = self
        self.compute = SimpleNamespace(
            attach_volume=self.attach_volume,
            detach_volume=lambda server, volume: self.detach_volume(server, volume),
            server=lambda server: self.shown,
            attachments=lambda server: [],
        )
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.key.write_private_key(folder / "key")
        self.served = self.serve()

    def serve(self, **more: Any) -> helper_guest.Guest:
        def disks() -> dict[str, Disk]:
            if self.is_off:
                raise Off
            return self.disks

        authorized = self.key.export_public_key().decode()
        serving = asyncio.run_coroutine_threadsafe(
            helper_guest.listen(disks, authorized, **more), self.loop
        )
        self.served = serving.result()
        (self.folder / "known_hosts").write_text(self.served.host_key)
        return self.served

    def plug(self, volume: str, name: str = "vdb") -> None:
        path = self.folder / volume
        if not path.exists():
            path.write_bytes(b"x" * SIZE)
        self.disks[name] = Disk(volume, path)

    def content(self, volume: str = VOLUME) -> bytes:
        return (self.folder / volume).read_bytes()

    def settings(self, **more: Any) -> HelperConfig:
        return HelperConfig(
            **{
                "server": SERVER,
                "address": "127.0.0.1",
                "port": self.served.port,
                "user": helper_guest.USER,
                "key": self.folder / "key",
                "known_hosts": self.folder / "known_hosts",
                **more,
            }
        )

    def attached(self, **more: Any) -> Any:
        return NovaAttached(cast(Any, self), self.settings(**more))(VOLUME)

    # ---- Nova and Cinder ----

    def attach_volume(self, server: str, volume: str) -> None:
        if self.status != "available":
            raise ApiError(self.name, "attach", 400, "it is not available")
        self.calls.append("attach")
        self.status = "in-use"
        self.on_attach()

    def detach_volume(self, server: str, volume: str) -> None:
        self.calls.append("detach")
        self.disks = {n: d for n, d in self.disks.items() if d.volume != volume}
        self.status = "available"

    def of(self, volume: str) -> dict[str, str | None]:
        return {"a": SERVER} if self.status == "in-use" else {}

    def wait_for(
        self, ids: list[str], wanted: tuple[str, ...] = ("available",), **how: Any
    ) -> dict[str, Any]:
        if self.status not in wanted:
            raise ResourceFailed(f"{ids} is {self.status}")
        return {VOLUME: {"status": self.status}}


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Helper]:
    made = Helper(tmp_path)
    yield made
    made.loop.call_soon_threadsafe(made.served.listener.close)
    asyncio.run_coroutine_threadsafe(made.served.listener.wait_closed(), made.loop).result()
    made.loop.call_soon_threadsafe(made.loop.stop)


def test_what_is_written_is_in_the_volume_and_the_volume_is_detached(there: Helper) -> None:
    with there.attached() as target:
        assert target.size == SIZE
        for at in range(0, SIZE, STEP):
            target.write(at, at.to_bytes(4, "big") * (STEP // 4))
        assert target.read(SIZE - 4, 4) == (SIZE - STEP).to_bytes(4, "big")
        target.flush()
        target.write(0, b"after a flush")
        target.flush()
        assert target.read(0, 13) == b"after a flush"
    assert there.content()[:13] == b"after a flush"
    assert there.content()[STEP:] == b"".join(
        at.to_bytes(4, "big") * (STEP // 4) for at in range(STEP, SIZE, STEP)
    )
    assert (there.calls, there.disks) == (["attach", "detach"], {})


@pytest.mark.parametrize("runs", [True, False], ids=["by a command", "by SFTP alone"])
def test_zeros_are_zeros_also_where_the_guest_runs_no_command(there: Helper, runs: bool) -> None:
    there.serve(runs=runs)
    with there.attached() as target:
        target.write(0, b"y" * SIZE)
        target.zero(4096, ZEROS_AT_LEAST)
        target.zero(2 * ZEROS_AT_LEAST, 512)
        target.flush()
    content = there.content()
    for begin, length in ((4096, ZEROS_AT_LEAST), (2 * ZEROS_AT_LEAST, 512)):
        assert content[begin : begin + length] == bytes(length)
    assert content.count(0) == ZEROS_AT_LEAST + 512


def test_zeros_are_known_where_the_guest_compares_them(there: Helper) -> None:
    with there.attached() as target:
        target.write(0, bytes(2 * ZEROS_AT_LEAST))
        target.write(2 * ZEROS_AT_LEAST, b"x")
        assert target.is_known_as_zeros(0, 2 * ZEROS_AT_LEAST)
        assert not target.is_known_as_zeros(ZEROS_AT_LEAST, ZEROS_AT_LEAST + 1)
        assert not target.is_known_as_zeros(0, 512)  # that is read as soon


def test_the_disk_of_another_volume_is_never_written(
    there: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_module, "APPEARS_S", 0.0)
    there.plug(OTHER, "vdb")
    there.on_attach = lambda: None  # the guest does not see it
    attached = there.attached()
    with pytest.raises(HelperFailed), attached:
        pytest.fail("there is no such disk")
    assert there.content(OTHER) == b"x" * SIZE
    assert there.calls == ["attach", "detach"]


def test_a_disk_that_is_there_before_nova_has_attached_it_is_refused(there: Helper) -> None:
    there.plug(VOLUME)
    with pytest.raises(HelperFailed), there.attached():
        pytest.fail("it was attached by something else")
    assert there.calls == []


def test_two_disks_that_say_to_be_the_volume_are_refused(there: Helper) -> None:
    def twice() -> None:
        there.plug(VOLUME, "vdb")
        there.plug(VOLUME, "vdc")

    there.on_attach = twice
    with pytest.raises(HelperFailed), there.attached():
        pytest.fail("one of them is another")
    assert there.calls == ["attach", "detach"]


def closed(there: Helper) -> HelperConfig:
    there.served.listener.close()
    return there.settings(port=1)


def of_another_host(there: Helper) -> HelperConfig:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (there.folder / "known_hosts").write_text(f"[127.0.0.1]:{there.served.port} {other}")
    return there.settings()


def of_no_host(there: Helper) -> HelperConfig:
    (there.folder / "known_hosts").write_text("")
    return there.settings()


def without_known_hosts(there: Helper) -> HelperConfig:
    return there.settings(known_hosts=there.folder / "none")


def with_another_key(there: Helper) -> HelperConfig:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(there.folder / "key")
    return there.settings()


def without_a_key(there: Helper) -> HelperConfig:
    (there.folder / "key").write_text("no key")
    return there.settings()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (closed, HelperUnreachable),
        (of_another_host, HelperUntrusted),
        (of_no_host, HelperUntrusted),
        (without_known_hosts, HelperFailed),
        (with_another_key, HelperFailed),
        (without_a_key, HelperFailed),
    ],
)
def test_nothing_is_attached_to_a_helper_that_cannot_be_used(
    there: Helper, wrong: Callable[[Helper], HelperConfig], error: type[AntipodeError]
) -> None:
    settings = wrong(there)
    with pytest.raises(error) as raised, NovaAttached(cast(Any, there), settings)(VOLUME):
        pytest.fail("it cannot be used")
    assert type(raised.value) is error
    assert there.calls == []


def test_a_helper_that_is_shut_down_in_the_midst_is_said_and_the_volume_is_detached(
    there: Helper,
) -> None:
    with pytest.raises(HelperFailed), there.attached() as target:
        target.write(0, b"y")
        target.flush()
        there.is_off = True
        target.write(1, b"y")
        target.flush()
    assert there.calls == ["attach", "detach"]


def test_what_arrives_after_the_volume_was_detached_is_not_written(there: Helper) -> None:
    with pytest.raises(HelperFailed), there.attached() as target:
        there.detach_volume(SERVER, VOLUME)  # as one that has found the writer dead
        target.write(0, b"late")
        target.flush()
    assert there.content() == b"x" * SIZE


def another_comes_in_its_place(there: Helper) -> None:
    """As where a process that was stopped lives again."""
    there.detach_volume(SERVER, VOLUME)
    there.plug(OTHER, "vdb")


def test_a_volume_that_got_the_name_of_the_disk_before_it_was_opened_is_not_written(
    there: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    appeared = Guest._appeared

    def late(guest: Guest, *how: Any) -> Any:
        found = appeared(guest, *how)
        another_comes_in_its_place(there)
        return found

    monkeypatch.setattr(Guest, "_appeared", late)
    with pytest.raises(HelperFailed), there.attached() as target:
        target.write(0, b"late")
        target.flush()
    assert there.content(OTHER) == b"x" * SIZE


def test_a_volume_that_got_the_name_of_the_disk_at_a_flush_is_neither_read_nor_written(
    there: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = guest_module.Disk.close

    def late(disk: guest_module.Disk) -> None:
        close(disk)
        another_comes_in_its_place(there)

    with there.attached() as target:
        monkeypatch.setattr(guest_module.Disk, "close", late)
        with pytest.raises(HelperFailed):
            target.flush()
        monkeypatch.setattr(guest_module.Disk, "close", close)
    assert there.content(OTHER) == b"x" * SIZE


def test_a_late_command_does_nothing_to_a_volume_that_got_the_name_of_the_disk(
    there: Helper,
) -> None:
    with pytest.raises(HelperFailed), there.attached() as target:
        another_comes_in_its_place(there)
        target.zero(0, ZEROS_AT_LEAST)
        target.flush()
    assert there.content(OTHER) == there.content() == b"x" * SIZE


def held(there: Helper) -> None:
    """The guest finds LVM or RAID on the disk, and assembles it."""
    there.disks["vdb"] = there.disks["vdb"]._replace(holders=("md127",))


def test_a_disk_of_which_the_guest_has_made_something_is_not_written(there: Helper) -> None:
    def attach() -> None:
        there.plug(VOLUME)
        held(there)

    there.on_attach = attach
    with pytest.raises(HelperFailed), there.attached():
        pytest.fail("it may be written by the guest")
    assert there.calls == ["attach", "detach"]


def test_a_disk_of_which_the_guest_makes_something_later_does_not_count_as_written(
    there: Helper,
) -> None:
    with pytest.raises(HelperFailed), there.attached() as target:
        target.write(0, b"y")
        held(there)
        target.flush()
    assert there.calls == ["attach", "detach"]


def test_a_volume_that_another_has_attached_stays_attached(there: Helper) -> None:
    there.status = "in-use"
    with pytest.raises(ResourceFailed), there.attached():
        pytest.fail("another has it")
    assert there.calls == []


def test_a_volume_that_nova_could_not_attach_is_said(there: Helper) -> None:
    def fails() -> None:
        there.status = "available"

    there.on_attach = fails
    with pytest.raises(HelperFailed), there.attached():
        pytest.fail("there is no room")
    assert there.calls == ["attach"]


def test_a_guest_that_keeps_its_disk_is_said(
    there: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper, "LETS_GO_S", 0.0)
    monkeypatch.setattr(there, "detach_volume", lambda *_: there.calls.append("kept"))
    with pytest.raises(ResourceFailed), there.attached():
        pass
    assert there.calls == ["attach", "kept"]


def test_the_volume_of_another_server_is_not_detached() -> None:
    site = SimpleNamespace(attachments=SimpleNamespace(of=lambda volume: {"a": "another"}))
    assert not release.let_go(cast(Any, site), VOLUME, SERVER, 1.0)


def test_site_check_says_that_a_helper_can_be_used_and_attaches_nothing(there: Helper) -> None:
    found = check_helper(cast(Any, there), there.settings())
    assert (found.ok, there.calls) == (True, [])


@pytest.mark.parametrize("wrong", [closed, of_another_host, with_another_key])
def test_site_check_says_that_a_helper_cannot_be_used(
    there: Helper, wrong: Callable[[Helper], HelperConfig]
) -> None:
    assert not check_helper(cast(Any, there), wrong(there)).ok


@pytest.mark.parametrize(
    "shown", [None, {"status": "SHUTOFF"}, {"tenant_id": "another"}], ids=["gone", "off", "foreign"]
)
def test_site_check_asks_no_guest_of_a_server_that_is_not_there(
    there: Helper, shown: dict[str, str] | None
) -> None:
    there.shown = None if shown is None else {**there.shown, **shown}
    assert not check_helper(cast(Any, there), there.settings(port=1)).ok


def test_a_helper_takes_no_more_volumes_at_once_than_it_has_disks(there: Helper) -> None:
    helper = there.settings()
    assert MoverConfig(helper=helper, at_once=HELPER_AT_ONCE).at_once == HELPER_AT_ONCE
    with pytest.raises(ValidationError):
        MoverConfig(helper=helper, at_once=HELPER_AT_ONCE + 1)
    for wrong in ({"key": "key"}, {"server": "its name"}, {"address": "-oProxyCommand=x"}):
        with pytest.raises(ValidationError):
            there.settings(**wrong)

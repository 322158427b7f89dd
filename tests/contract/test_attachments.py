# SPDX-License-Identifier: Apache-2.0
"""Volumes that are attached to a host without a server, and the mover that writes them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import asyncssh
import pytest

from antipode.cloud.site import Site
from antipode.config import HelperConfig
from antipode.model.source import BackupRecord
from antipode.model.standing import CLAIM, new_claim
from antipode.mover import lock
from antipode.mover.child import ChildMover
from antipode.mover.job import Access, Outcome, VolumeJob
from antipode.mover.release import let_go
from antipode.sandbox.supervision import Sandbox
from antipode.vault.verify import stored_objects
from tests.contract.conftest import (
    BACKUP,
    PATIENCE_S,
    STORE,
    Machine,
    Things,
    refused,
    storage,
    there,
    until,
)
from tests.contract.test_backups import backup_of, record_of

CONNECTOR = {
    "host": "mover.example",
    "ip": "127.0.0.1",
    "platform": "x86_64",
    "os_type": "linux",
    "multipath": False,
    "do_local_attach": False,
}


@pytest.fixture
def attached(
    other_site: Site, other_things: Things
) -> Iterator[Callable[[str], tuple[str, dict[str, Any]]]]:
    made: list[str] = []

    def attach(volume: str) -> tuple[str, dict[str, Any]]:
        attachment = other_site.attachments.create(volume, CONNECTOR)
        made.append(attachment.id)
        return attachment.id, dict(attachment.connection)

    yield attach
    for attachment in made:
        other_site.attachments.delete(attachment)


@pytest.mark.core
def test_a_volume_that_is_attached_to_a_host_is_taken(
    other_site: Site,
    other_things: Things,
    attached: Callable[[str], tuple[str, dict[str, Any]]],
) -> None:
    volume = other_things.volume()["id"]
    attachment, connection = attached(volume)
    assert connection["driver_volume_type"]
    assert other_site.attachments.of(volume) == {attachment: None}
    before = refused(lambda: other_site.attachments.create(volume, CONNECTOR))
    other_site.attachments.complete(attachment)
    shown = there(other_site.volumes.volume(volume))
    assert (shown["status"], [a["server_id"] for a in shown["attachments"]]) == ("in-use", [None])
    after = refused(lambda: other_site.attachments.create(volume, CONNECTOR))
    assert (before.status, after.status) == (400, 400)
    assert refused(lambda: other_site.volumes.delete_volume(volume)).status == 400
    other_site.attachments.delete(attachment)
    assert there(other_site.volumes.volume(volume))["status"] == "available"
    other_site.attachments.delete(attachment)  # once more


def test_an_attachment_takes_no_null_for_a_server(other_site: Site, other_things: Things) -> None:
    volume = other_things.volume()["id"]
    wanted = {"volume_uuid": volume, "connector": CONNECTOR, "instance_uuid": None}
    error = refused(lambda: storage(other_site).post("/attachments", {"attachment": wanted}))
    assert error.status == 400


def test_keys_of_a_volumes_metadata_are_set_beside_the_others(
    other_site: Site, other_things: Things
) -> None:
    volume = other_things.volume(metadata={"a": "1", "b": "2"})["id"]
    other_site.volumes.merge_metadata(volume, {"b": "3", "c": "4"})
    assert there(other_site.volumes.volume(volume))["metadata"] == {"a": "1", "b": "3", "c": "4"}


@pytest.fixture
def mover(request: pytest.FixtureRequest, tmp_path: Path) -> ChildMover:
    settings: dict[str, Any] = {}
    if request.config.getoption("--sites") == "lab":
        from lab import storage
        from lab.site import SITES

        if storage.missing:
            pytest.skip(storage.missing)
        settings = storage.mover(SITES[BACKUP])
    access = Access(site=BACKUP, cloud=BACKUP, store=STORE, store_cloud=STORE, **settings)
    return ChildMover(access, tmp_path / "locks", nullcontext)


def test_a_volume_that_nova_attaches_to_a_server_is_taken_until_the_guest_lets_it_go(
    site: Site, things: Things, machine: Machine
) -> None:
    volume = things.volume()["id"]
    site.compute.attach_volume(machine.id, volume)
    watch = site.volumes.watch
    found = watch.wait_for([volume], wanted=("in-use", "available"), timeout_s=PATIENCE_S)
    assert found[volume]["status"] == "in-use"  # it was reserved before the answer
    assert list(site.attachments.of(volume).values()) == [machine.id]
    again = refused(lambda: site.compute.attach_volume(machine.id, volume))
    assert again.status in (400, 409)
    assert refused(lambda: site.attachments.create(volume, CONNECTOR)).status == 400
    assert not let_go(site, volume, None, PATIENCE_S)  # it is another server's
    assert let_go(site, volume, machine.id, PATIENCE_S)
    assert there(site.volumes.volume(volume))["status"] == "available"
    assert site.attachments.of(volume) == {}
    site.compute.detach_volume(machine.id, volume)  # once more


def helper_server(things: Things, root: dict[str, Any], **wanted: Any) -> str:
    """A server to which volumes are attached; it has no more than its root disk."""
    things.site.volumes.set_bootable(root["id"])
    return str(things.server(root, **wanted)["id"])


class HelperGuest(NamedTuple):
    """A helper server, and where its SSH is."""

    server: str
    port: int
    host_key: str
    """as `known_hosts` has it"""


@pytest.fixture
def helper_guest(
    sandbox: Sandbox | None, other_things: Things, key: asyncssh.SSHKey
) -> Iterator[HelperGuest]:
    authorized = key.export_public_key().decode()
    if sandbox is None:
        with of_the_lab(other_things, authorized) as guest:
            yield guest
        return
    server = helper_server(other_things, other_things.volume())
    guest = sandbox.ask(BACKUP, "POST", f"/servers/{server}/ssh", {"authorized": authorized})
    yield HelperGuest(server, guest["port"], guest["host_key"])


@contextmanager
def of_the_lab(things: Things, authorized: str) -> Iterator[HelperGuest]:
    """A guest of the lab with an SSH server, which serves from then on."""
    from lab import guest_access, helper
    from lab.services import identity
    from lab.site import SITES

    address = "10.7.0.78"
    images = identity.connect(SITES[BACKUP])
    image = images.create_image(
        things.name(helper.NAME),
        filename=str(helper.build()),
        disk_format="raw",
        container_format="bare",
        visibility="public",
        wait=True,
        **helper.PROPERTIES,
    )
    things.removals.append(lambda: images.image.delete_image(image.id))
    port = things.port(fixed_ips=[{"ip_address": address}])
    server = helper_server(
        things,
        things.volume(imageRef=image.id),
        networks=[{"port": port["id"]}],
        config_drive=True,
        user_data=base64.b64encode(authorized.encode()).decode(),
    )
    with guest_access.forwarded(SITES[BACKUP], address, helper.SSH_PORT) as local:
        seen = until(lambda: host_key(local), "the guest serves SSH", 2 * PATIENCE_S)
        yield HelperGuest(server, local, f"[127.0.0.1]:{local} {seen}")


def host_key(port: int) -> str:
    """The host key of an SSH server, as `ssh-keyscan` asks for it; empty while none serves."""

    async def ask() -> str:
        found = await asyncssh.get_server_host_key("127.0.0.1", port)
        return "" if found is None else found.export_public_key().decode().strip()

    try:
        return asyncio.run(asyncio.wait_for(ask(), 60))
    except (OSError, asyncssh.Error, TimeoutError):
        return ""


@pytest.fixture
def key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def helped(helper_guest: HelperGuest, key: asyncssh.SSHKey, tmp_path: Path) -> ChildMover:
    """A mover that has volumes attached to a helper server."""
    key.write_private_key(tmp_path / "key")
    (tmp_path / "known_hosts").write_text(f"{helper_guest.host_key}\n")
    helper = HelperConfig(
        server=UUID(helper_guest.server),
        address="127.0.0.1",
        port=helper_guest.port,
        key=tmp_path / "key",
        known_hosts=tmp_path / "known_hosts",
    )
    access = Access(site=BACKUP, cloud=BACKUP, store=STORE, store_cloud=STORE, helper=helper)
    return ChildMover(access, tmp_path / "locks", nullcontext)


def sealed(site: Site, store: Any, backup: dict[str, Any]) -> BackupRecord:
    record = record_of(site, backup)
    return record.model_copy(update={"stored": stored_objects(record, store)})


def moved(mover: ChildMover, site: Site, volume: str, **wanted: Any) -> Outcome:
    claim = new_claim()
    lock.prepare(mover.locks / claim)
    site.volumes.merge_metadata(volume, {CLAIM: claim})
    job = VolumeJob(volume=volume, claim=claim, **wanted)
    with mover.turn(1) as turn:
        return turn.carry(claim, [job], lambda: None)[volume]


@pytest.mark.core
def test_the_mover_brings_a_volume_to_a_backup_of_the_other_site(
    site: Site,
    things: Things,
    other_site: Site,
    other_things: Things,
    store: Any,
    image: dict[str, Any],
    mover: ChildMover,
) -> None:
    brought(Two(site, things, other_site, other_things), store, image, mover)


def test_so_does_a_mover_with_a_helper_server(
    site: Site,
    things: Things,
    other_site: Site,
    other_things: Things,
    store: Any,
    image: dict[str, Any],
    helped: ChildMover,
) -> None:
    brought(Two(site, things, other_site, other_things), store, image, helped, reads=False)


class Two(NamedTuple):
    """Both sites, and what a test makes there."""

    site: Site
    things: Things
    other_site: Site
    other_things: Things


def brought(
    two: Two, store: Any, image: dict[str, Any], mover: ChildMover, *, reads: bool = True
) -> None:
    """`reads`: whether all of the volume is read, which takes its time by SFTP."""
    site, things, other_site, other_things = two
    source = things.volume(imageRef=image["id"])["id"]
    record = sealed(site, store, backup_of(things, source))
    volume = other_things.volume()["id"]
    full = moved(mover, other_site, volume, chain=[record], is_new=True)
    assert (full.code, full.problem) == ("", "")
    assert full.written > 0
    again = moved(mover, other_site, volume, chain=[record], holds=record, reads=reads)
    assert (again.code, again.blocks, again.foreign) == ("", 0, 0)
    shown = there(other_site.volumes.volume(volume))
    assert (shown["status"], other_site.attachments.of(volume)) == ("available", {})

# SPDX-License-Identifier: Apache-2.0
"""A volume that Cinder encrypts, its key in Barbican: refused while site-b could not bring it back,
and byte by byte there after every process of site-a was killed, with a key of site-b.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.cloud.site import connect
from antipode.sandbox.members import PAIR
from lab import canary, clouds, extras, inside, pair, power
from lab.desk import EXAMPLE, PROJECT, Desk
from lab.guest import image
from lab.guest_agent import in_guest
from lab.services import identity, tenant
from lab.services.openstack_conf import database_url, executable
from lab.site import SITES, Site
from tests.lab import with_extra

pytestmark = pytest.mark.lab
VNF, NAME = "pair", f"{image.NAME}-vault"
MEMBER = PAIR[0]
LUKS = {"provider": "luks", "cipher": "aes-xts-plain64", "key_size": 256}
PAGE = Path("docs/concepts/encrypted-volumes.md")
PATIENCE_S = 600


@pytest.fixture(scope="module", autouse=True)
def key_managers(sites: None) -> None:
    with_extra.add(extras.KEY_MANAGER)


def owner(site: Site) -> Any:
    return identity.connect(site, "antipode", tenant.PROJECT)


@dataclass
class Types:
    """One volume type of both sites, of one id: removed when the test is over."""

    name: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")
    id: str = ""

    def make(self, site: Site) -> None:
        """As anyone does at the first site."""
        storage = owner(site).block_storage
        self.id = str(storage.create_type(name=self.name).id)

    def make_of_same_id(self, site: Site) -> None:
        """As the page of encrypted volumes says, on a controller of Cinder."""
        (script,) = re.findall(r"```python\n(.*?)```", (PROJECT / PAGE).read_text(), re.DOTALL)
        wanted = f"ID, NAME = {self.id!r}, {self.name!r}\n"
        database = {"OS_DATABASE__CONNECTION": database_url("cinder")}
        inside.run(site, [executable("python"), "-c", wanted + script], env=database, timeout=300)

    def encrypt(self, site: Site, **luks: Any) -> None:
        wanted = {**LUKS, "control_location": "front-end", **luks}
        path = f"/types/{self.id}/encryption"
        answer = owner(site).block_storage.post(path, json={"encryption": wanted})
        answer.raise_for_status()

    def change(self, site: Site, **luks: Any) -> None:
        """Its id cannot be used again when the type is deleted, but its encryption changes."""
        storage, path = owner(site).block_storage, f"/types/{self.id}/encryption"
        found = storage.get(path).json()["encryption_id"]
        changed = storage.put(f"{path}/{found}", json={"encryption": {**LUKS, **luks}})
        changed.raise_for_status()

    def remove(self, site: Site) -> None:
        answer = owner(site).block_storage.delete(f"/types/{self.id}")
        assert answer.status_code in (202, 404), answer.text


@pytest.fixture
def types() -> Iterator[Types]:
    for site in SITES.values():
        canary.remove(site)
    made = Types()
    yield made
    for site in SITES.values():
        canary.remove(site)
        if made.id:
            made.remove(site)


@pytest.fixture
def desk(tmp_path: Path, types: Types) -> Desk:
    desk = Desk(tmp_path / "desk", f"antipode-test-{time.time_ns()}")
    example = yaml.safe_load(EXAMPLE.read_text())
    known = pair.vnf(example, option="quiesced-snapshot", members=[MEMBER])
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump(known))
    desk.tell("vnf", "add", str(file))
    return desk


def attach_encrypted(site: Site, server: str, types: Types) -> str:
    """The id of an encrypted volume that the member has as its third disk."""
    cloud = owner(site)
    made = cloud.block_storage.create_volume(name=NAME, size=1, volume_type=types.name)
    cloud.block_storage.wait_for_status(made, "available", ["error"], 0.5, PATIENCE_S)
    cloud.compute.create_volume_attachment(server, volume_id=made.id)
    cloud.block_storage.wait_for_status(made, "in-use", ["error"], 0.5, PATIENCE_S)
    in_guest(site, server, "until test -b /dev/vdc; do sleep 1; done")
    return str(made.id)


def write(site: Site, server: str, mib: int, at_mib: int) -> None:
    """Have the guest write what no compression makes smaller on its encrypted disk."""
    script = f"dd if=/dev/urandom of=/dev/vdc bs=1048576 count={mib} seek={at_mib} && sync"
    in_guest(site, server, script, PATIENCE_S)


def digest(site: Site, server: str) -> str:
    """Of each byte of the encrypted disk, as the guest reads it."""
    return in_guest(site, server, "md5sum < /dev/vdc", PATIENCE_S).split()[0]


def refusal(desk: Desk, *arguments: str) -> str:
    """What is in the way; it is found before anything is made."""
    done = desk.run(*arguments, "-f", "json")
    assert done.returncode != 0, done.stdout
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["code"] == "preflight-failed", error
    return json.dumps(error)


def volume_named(site: Site) -> Any:
    (found,) = owner(site).block_storage.volumes(name=NAME)
    return found


def key_of(site: Site, volume: str) -> tuple[str, bytes]:
    """The id of the key of a volume, and the key, from the key manager of its site."""
    there = connect(site.name, site.name)
    key_id = str((there.volumes.volume(volume) or {})["encryption_key_id"])
    return key_id, there.keys.payload(key_id)


def everything_kept(desk: Desk, site: Site) -> Iterator[bytes]:
    """What antipode itself keeps: its own files, and all of the vault."""
    yield from (path.read_bytes() for path in desk.folder.rglob("*") if path.is_file())
    container = yaml.safe_load(desk.configuration.read_text())["vault"]["swift"]["container"]
    store = owner(site).object_store
    for kept in store.objects(container):
        yield bytes(store.download_object(kept.name, container))


def test_an_encrypted_volume_is_refused_until_site_b_can_bring_it_back_and_then_comes_back_whole(
    types: Types,
    desk: Desk,
    site_a: Site,
    site_b: Site,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds.PATH))
    server = pair.create(site_a, [MEMBER])[str(MEMBER.name)]
    types.make(site_a)
    types.encrypt(site_a)
    source = attach_encrypted(site_a, server, types)
    write(site_a, server, 8, 0)

    assert types.id in refusal(desk, "protect", VNF), "no type of this id"
    types.make_of_same_id(site_b)
    assert "not encrypted" in refusal(desk, "protect", VNF)
    types.encrypt(site_b, key_size=512)
    assert "512" in refusal(desk, "protect", VNF)
    assert list(owner(site_a).block_storage.snapshots(volume_id=source)) == []
    types.change(site_b)

    assert desk.ask("protect", VNF)["incremental"] is False
    write(site_a, server, 4, 512)
    before = digest(site_a, server)
    held, key = key_of(site_a, source)
    there = connect(site_b.name, site_b.name)
    (kept,) = there.keys.named(f"antipode:{VNF}:{held}")
    there.keys.delete(kept)
    assert kept in refusal(desk, "failover", VNF, "--to", site_b.name, "--plan")
    assert desk.ask("protect", VNF)["incremental"] is True  # which keeps the key again
    (kept,) = there.keys.named(f"antipode:{VNF}:{held}")
    assert there.keys.payload(kept) == key
    written = [key, key.hex().encode(), base64.b64encode(key)]
    assert not [
        form for all_of_it in everything_kept(desk, site_b) for form in written if form in all_of_it
    ]

    assert power.off(site_a)
    try:
        recovered = desk.ask("failover", VNF, "--to", site_b.name, "--yes")
        pair.wait_for_records(site_b, MEMBER, 5)
        volume = volume_named(site_b)
        assert (volume.is_encrypted, volume.volume_type) == (True, types.name)
        new_id, new_key = key_of(site_b, volume.id)
        assert (new_key, new_id in (held, kept)) == (key, False)
        assert digest(site_b, recovered["servers"][MEMBER.server]) == before
        of_chain = [b for b in there.backups.backups() if b["volume_id"] == source]
        of_records = {str(b["encryption_key_id"]) for b in of_chain}
        assert len(of_records) == len(of_chain) == 2
        assert all(there.keys.payload(one) == key for one in of_records)
    finally:
        revive = [sys.executable, "-m", "lab", "revive", site_a.name]
        subprocess.run(revive, cwd=PROJECT, check=True)

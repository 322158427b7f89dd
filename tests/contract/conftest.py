# SPDX-License-Identifier: Apache-2.0
"""The sites that the contract suite asks (`--sites sandbox` or `--sites lab`), and what its tests
make there and remove again.
"""

from __future__ import annotations

import base64
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from antipode.cloud.api import Api, ApiError, Json
from antipode.cloud.site import Site, connect
from antipode.sandbox import desk
from antipode.sandbox.supervision import Sandbox
from tests import keys

keys.share()
PRIMARY, BACKUP = "site-a", "site-b"
STORE = f"{BACKUP}-backup"
CONTAINER = "volumebackups"
PATIENCE_S = 300.0


def there(found: Json | None) -> Json:
    """The answer of a call that may find nothing, where it must find something."""
    assert found is not None
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sites",
        choices=("sandbox", "lab"),
        default="sandbox",
        help="which sites the contract is tested on",
    )


@pytest.fixture(scope="session")
def sandbox(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sandbox | None]:
    """The embedded sites, if the contract is tested on those."""
    if request.config.getoption("--sites") == "lab":
        yield None
        return
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    try:
        sandbox.up(latency=0.05, gib=1 << 30)
        desk.write(sandbox)
        yield sandbox
    finally:
        sandbox.down()


@pytest.fixture(scope="session", autouse=True)
def clouds(sandbox: Sandbox | None) -> Path:
    """The clouds.yaml of the sites, which is where antipode finds them."""
    if sandbox:
        path = sandbox.directory / desk.CLOUDS
    else:
        from lab.clouds import PATH as path
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(path)
    return path


@pytest.fixture
def backups_under_way(sandbox: Sandbox | None) -> AbstractContextManager[None]:
    """While it is entered no backup of the primary comes to its end; those of real sites take long
    enough to look at one meanwhile.
    """
    return _stuck(sandbox, r"^backup\.create$") if sandbox else nullcontext()


@contextmanager
def _stuck(sandbox: Sandbox, operation: str) -> Iterator[None]:
    rule = sandbox.ask(
        PRIMARY, "POST", "/faults", {"on": operation, "effect": "stuck", "times": None}
    )["id"]
    try:
        yield
    finally:
        sandbox.ask(PRIMARY, "DELETE", f"/faults/{rule}")


@pytest.fixture(scope="session")
def site(clouds: Path) -> Site:
    """The primary, as antipode's own user sees it: an administrator in the tenant's project."""
    return connect(PRIMARY, PRIMARY)


@pytest.fixture(scope="session")
def other_site(clouds: Path) -> Site:
    return connect(BACKUP, BACKUP)


@pytest.fixture(scope="session")
def tenant(clouds: Path) -> Site:
    """The primary, as the project's own user sees it, who is no administrator."""
    return connect(PRIMARY, f"{PRIMARY}-tenant")


@pytest.fixture(scope="session")
def administrator(clouds: Path) -> Any:
    """The primary, as its administrator sees it from a project of its own."""
    import openstack

    return openstack.connect(cloud=f"{PRIMARY}-admin")


@pytest.fixture(scope="session")
def store(clouds: Path) -> Any:
    """The object store that holds the backups."""
    return connect(STORE, STORE).objects


def compute(site: Site) -> Api:
    return site.compute._api


def storage(site: Site) -> Api:
    return site.volumes._api


def network(site: Site) -> Api:
    return site.networks._api


def refused(call: Callable[[], Any]) -> ApiError:
    """The error that a call is refused with."""
    with pytest.raises(ApiError) as raised:
        call()
    return raised.value


def until(holds: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Ask again and again until it is so, and return what was so."""
    deadline = time.monotonic() + patience_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited {patience_s:g} s in vain until {what}"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="session")
def prefix() -> str:
    """What the names of all that this run makes begin with."""
    return f"contract-{uuid.uuid4().hex[:6]}"


@dataclass
class Things:
    """What a test makes at a site; removed when it is over, what was made last first."""

    site: Site
    prefix: str
    removals: list[Callable[[], None]] = field(default_factory=list)

    def name(self, suffix: str = "") -> str:
        return f"{self.prefix}-{suffix or uuid.uuid4().hex[:6]}"

    def volume(self, **wanted: Any) -> dict[str, Any]:
        """A volume, available."""
        volume_id = self.site.volumes.create_volume({"size": 1, "name": self.name(), **wanted})
        self.removals.append(lambda: self._remove_volume(volume_id))
        return self.site.volumes.watch.wait_for([volume_id], timeout_s=PATIENCE_S)[volume_id]

    def _remove_volume(self, volume_id: str) -> None:
        self.site.volumes.delete_volume(volume_id)
        self.site.volumes.watch.wait_gone([volume_id], timeout_s=PATIENCE_S)

    def snapshot(self, volume_id: str, **metadata: str) -> dict[str, Any]:
        """A snapshot, available."""
        snapshot_id = self.site.volumes.create_snapshot(volume_id, self.name(), metadata, 60)
        self.removals.append(lambda: self._remove_snapshot(snapshot_id))
        return self.site.volumes.snapshot_watch.wait_for([snapshot_id], timeout_s=PATIENCE_S)[
            snapshot_id
        ]

    def _remove_snapshot(self, snapshot_id: str) -> None:
        self.site.volumes.delete_snapshot(snapshot_id)
        self.site.volumes.snapshot_watch.wait_gone([snapshot_id], timeout_s=PATIENCE_S)

    def backup(
        self, volume_id: str, snapshot_id: str, *, incremental: bool = False, **metadata: str
    ) -> dict[str, Any]:
        """A backup, available."""
        backup_id = self.site.backups.create_backup(
            volume_id, snapshot_id, self.name(), metadata, incremental=incremental
        )
        self.removals.append(lambda: self.remove_backup(backup_id))
        return self.site.backups.watch.wait_for([backup_id], timeout_s=PATIENCE_S)[backup_id]

    def remove_backup(self, backup_id: str) -> None:
        self.site.backups.delete_backup(backup_id)
        self.site.backups.watch.wait_gone([backup_id], timeout_s=PATIENCE_S)

    def group(self, group_type: str, volume_type: str) -> str:
        """A volume group, available; removed with the volumes that are in it then."""
        group = self.site.groups.create(self.name(), group_type, [volume_type], "nova")
        self.removals.append(lambda: self._remove_group(group))
        self.site.groups.watch.wait_for([group], timeout_s=PATIENCE_S)
        return group

    def _remove_group(self, group: str) -> None:
        wanted = {"delete": {"delete-volumes": True}}
        storage(self.site).post(f"/groups/{group}/action", wanted)
        until(lambda: group not in {g["id"] for g in self.site.groups.groups()}, "it is gone")

    def port(self, **wanted: Any) -> dict[str, Any]:
        """A port on the tenant's network."""
        home = tenant_network(self.site)
        tags = wanted.pop("tags", ())
        port_id = self.site.networks.create_port(
            {"network_id": home["id"], "name": self.name(), **wanted}
        )
        self.removals.append(lambda: self.site.networks.delete_port(port_id))
        if tags:
            self.site.networks.tag_port(port_id, tags)
        port: dict[str, Any] = network(self.site).get(f"/ports/{port_id}")["port"]
        return port

    def server(self, root: dict[str, Any], **wanted: Any) -> dict[str, Any]:
        """A server that boots from a volume, ACTIVE."""
        disk = {
            "uuid": root["id"],
            "source_type": "volume",
            "destination_type": "volume",
            "boot_index": 0,
        }
        body = {
            "name": self.name(),
            "flavorRef": flavor(self.site)["id"],
            "block_device_mapping_v2": [disk],
            "networks": "none",
            **wanted,
        }
        server_id = self.site.compute.create_server(body)
        self.removals.append(lambda: self.remove_server(server_id))
        return self.site.compute.watch.wait_for(
            [server_id], wanted=("active",), timeout_s=PATIENCE_S
        )[server_id]

    def remove_server(self, server_id: str) -> None:
        self.site.compute.delete_server(server_id)
        until(lambda: self.site.compute.server(server_id) is None, f"server {server_id} is gone")

    def keypair(self) -> str:
        name = self.name(f"key-{uuid.uuid4().hex[:6]}")
        self.site.compute.import_keypair(name, public_key(name), "ssh")
        self.removals.append(lambda: compute(self.site).delete(f"/os-keypairs/{name}"))
        return name

    def remove_all(self) -> None:
        problems = []
        for remove in reversed(self.removals):
            try:
                remove()
            except Exception as error:  # the leftovers are reported when all has been tried
                problems.append(f"{type(error).__name__}: {error}")
        assert not problems, problems


def public_key(comment: str) -> str:
    kind = b"ssh-ed25519"
    raw = (
        len(kind).to_bytes(4, "big")
        + kind
        + (32).to_bytes(4, "big")
        + uuid.uuid4().bytes
        + uuid.uuid4().bytes
    )
    return f"ssh-ed25519 {base64.b64encode(raw).decode()} {comment}"


@pytest.fixture
def things(site: Site, prefix: str) -> Iterator[Things]:
    made = Things(site, prefix)
    yield made
    made.remove_all()


@pytest.fixture
def other_things(other_site: Site, prefix: str) -> Iterator[Things]:
    made = Things(other_site, prefix)
    yield made
    made.remove_all()


def flavor(site: Site) -> dict[str, Any]:
    return next(f for f in site.compute.flavors() if f["name"] == "tiny")


def tenant_network(site: Site) -> dict[str, Any]:
    return next(n for n in site.networks.networks() if n["name"].startswith("canary-net"))


@pytest.fixture(scope="session")
def image(clouds: Path) -> dict[str, Any]:
    """The guest image, which the primary has."""
    import openstack

    found = openstack.connect(cloud=f"{PRIMARY}-tenant").image.find_image(
        "canary", ignore_missing=False
    )
    return {"id": found.id, "name": found.name}


@dataclass(frozen=True)
class Machine:
    """A server of the suite's own, its guest agent answering, with a root and a data volume and a
    port.
    """

    server: dict[str, Any]
    root: dict[str, Any]
    data: dict[str, Any]
    port: dict[str, Any]
    keypair: str
    group: str

    @property
    def id(self) -> str:
        return str(self.server["id"])


USER_DATA = base64.b64encode(b"nothing=here\n").decode()


@pytest.fixture(scope="module")
def machine(site: Site, prefix: str, image: dict[str, Any]) -> Iterator[Machine]:
    things = Things(site, prefix)
    try:
        yield make_machine(things, image)
    finally:
        things.remove_all()


def make_machine(things: Things, image: dict[str, Any]) -> Machine:
    site = things.site
    root = things.volume(imageRef=image["id"], name=things.name("root"))
    data = things.volume(volume_type="fast", metadata={"kind": "data"}, name=things.name("data"))
    port = things.port(fixed_ips=[{"ip_address": "10.7.0.77"}])
    keypair = things.keypair()
    group = site.compute.create_server_group(things.name("group"), "soft-anti-affinity")
    things.removals.append(lambda: compute(site).delete(f"/os-server-groups/{group}"))
    disks = [
        {
            "uuid": v["id"],
            "source_type": "volume",
            "destination_type": "volume",
            "boot_index": i,
            "delete_on_termination": False,
            "tag": tag,
        }
        for v, i, tag in ((root, 0, "boot"), (data, -1, "records"))
    ]
    body = {
        "name": things.name("server"),
        "flavorRef": flavor(site)["id"],
        "block_device_mapping_v2": disks,
        "networks": [{"port": port["id"], "tag": "first"}],
        "metadata": {"role": "db"},
        "user_data": USER_DATA,
        "config_drive": True,
        "key_name": keypair,
        "tags": ["one", "two"],
        "description": "made by the contract suite",
        "hostname": "contract-host",
    }
    server_id = site.compute.create_server(body, {"group": group, "rack": "second"})
    things.removals.append(lambda: things.remove_server(server_id))
    server = site.compute.watch.wait_for([server_id], wanted=("active",), timeout_s=PATIENCE_S)[
        server_id
    ]
    until(lambda: agent_answers(site, server_id), "the guest's agent answers")
    return Machine(server, root, data, port, keypair, group)


def agent_answers(site: Site, server_id: str) -> bool:
    try:
        site.compute.unquiesce(server_id, 15)
    except ApiError as error:
        assert error.status == 409, error
        return False
    return True

# SPDX-License-Identifier: Apache-2.0
"""The extra `replication`: volumes, objects and packets that get from one site to the other, and
stop where they are to stop.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from antipode.sandbox.creation import FLAVOR
from lab import canary, inside, power
from lab.services import identity, link, rbd_mirror, tenant
from lab.services.cinder import BACKEND
from lab.services.openstack_conf import KEYSTONE_PORT
from lab.services.operator_rbd import replication_settings
from lab.services.rbd_mirror import other_than
from lab.site import SITES, Site
from lab.waiting import wait_until
from tests.lab.command import lab
from tests.lab.containers import Container, arrives, refusals

pytestmark = pytest.mark.lab

PATIENCE_S = 300


@pytest.fixture(scope="module", autouse=True)
def replication(sites: None) -> None:
    lab("up", "--with", "replication")


@pytest.fixture(params=SITES.values(), ids=lambda site: f"from-{site.name}")
def source(request: pytest.FixtureRequest) -> Site:
    assert isinstance(request.param, Site)
    return request.param


# ---- mirrored images ----


def rbd(site: Site, *arguments: str, check: bool = True, stdin: bytes | None = None) -> bytes:
    """The operator's own `rbd` for a site, called from the host."""
    command = [str(replication_settings(site).rbd), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=PATIENCE_S)
    assert not check or done.returncode == 0, f"{command}: {done.stderr.decode()}"
    return done.stdout


def image_of(name: str) -> str:
    return f"{replication_settings(SITES['site-a']).pool}/{name}"


def replays(site: Site, image: str) -> bool:
    """Whether the copy here was complete once, and follows the other site's image since."""
    told = rbd(site, "mirror", "image", "status", image, "--format", "json", check=False)
    return bool(told) and json.loads(told)["state"] == "up+replaying"


def md5(site: Site, image: str) -> str:
    return hashlib.md5(rbd(site, "export", "--no-progress", image, "-")).hexdigest()


@pytest.fixture
def image(source: Site) -> Iterator[str]:
    with mirrored(source) as image:
        yield image


@contextmanager
def mirrored(source: Site) -> Iterator[str]:
    """A mirrored image at the source, with content."""
    name = image_of(f"test-{secrets.token_hex(4)}")
    content = secrets.token_bytes(8 * 2**20)
    rbd(source, "import", "--no-progress", "--image-format", "2", "-", name, stdin=content)
    rbd(source, "mirror", "image", "enable", name, "journal")
    try:
        yield name
    finally:
        remove(source, name)


def remove(primary: Site, image: str) -> None:
    """With its copy at the other site, as the end of mirroring does."""
    rbd(primary, "mirror", "image", "disable", image)
    rbd(primary, "rm", "--no-progress", image)
    backup = other_than(primary)
    name = image.rpartition("/")[2]
    pool = replication_settings(backup).pool
    wait_until(
        lambda: name not in rbd(backup, "ls", pool).decode().split(),
        f"{backup.name} has no copy of {image}",
        PATIENCE_S,
    )


def test_the_daemons_of_both_sites_are_healthy() -> None:
    assert {rbd_mirror.daemon_health(site) for site in SITES.values()} == {"OK"}


def test_an_image_has_the_same_bytes_at_the_other_site(source: Site, image: str) -> None:
    assert_same_bytes(source, image)


def assert_same_bytes(source: Site, image: str) -> None:
    backup = other_than(source)
    wait_until(lambda: replays(backup, image), f"{backup.name} replays {image}", PATIENCE_S)
    assert md5(backup, image) == md5(source, image)


def test_a_snapshot_of_cinder_is_mirrored_while_the_guest_writes(
    site_a: Site, site_b: Site, servers: dict[str, str]
) -> None:
    volume = canary.data_volumes(site_a)["db"]
    image = image_of(f"volume-{volume}")
    cinder = canary.connect(site_a).block_storage
    is_ours = not is_mirrored(site_a, image)
    if is_ours:
        rbd(site_a, "mirror", "image", "enable", image, "journal")
    snapshot = None
    try:
        wait_until(lambda: replays(site_b, image), f"site-b replays {image}", PATIENCE_S)
        snapshot = cinder.create_snapshot(volume_id=volume, name="test-mirrored", force=True)
        cinder.wait_for_status(snapshot, "available", failures=["error"], interval=0.5, wait=300)
        name = f"snapshot-{snapshot.id}"
        wait_until(
            lambda: name in snapshots(site_b, image), f"{name} of {image} is at site-b", PATIENCE_S
        )
        copied = f"{image}@{name}"
        assert md5(site_b, copied) == md5(site_a, copied)
    finally:
        if snapshot:
            cinder.delete_snapshot(snapshot)
            cinder.wait_for_delete(snapshot, interval=0.5, wait=300)
        if is_ours:
            rbd(site_a, "mirror", "image", "disable", image)


def is_mirrored(site: Site, image: str) -> bool:
    info = json.loads(rbd(site, "info", image, "--format", "json"))
    return bool(info.get("mirroring", {}).get("state") == "enabled")


def snapshots(site: Site, image: str) -> set[str]:
    listed = json.loads(rbd(site, "snap", "ls", image, "--format", "json"))
    return {str(snapshot["name"]) for snapshot in listed}


def test_a_server_boots_from_a_volume_that_cinder_has_taken_over(source: Site) -> None:
    cloud = identity.connect(source, "antipode", tenant.PROJECT)
    name = f"test-{secrets.token_hex(4)}"
    rbd(source, "create", "--size", "1G", image_of(name))
    taken_over = {
        "host": replication_settings(source).backend_host,
        "ref": {"source-name": name},
        "name": name,
        "volume_type": BACKEND,
        "bootable": True,
    }
    answer = cloud.block_storage.post(
        "/manageable_volumes", json={"volume": taken_over}, microversion="3.8"
    )
    answer.raise_for_status()
    volume = cloud.block_storage.get_volume(answer.json()["volume"]["id"])
    server = None
    try:
        cloud.block_storage.wait_for_status(volume, "available", ["error"], 0.5, PATIENCE_S)
        disk = {"uuid": volume.id, "source_type": "volume", "destination_type": "volume"}
        server = cloud.compute.create_server(
            name=name,
            flavor_id=cloud.compute.find_flavor(FLAVOR, ignore_missing=False).id,
            networks="none",
            block_device_mapping=[{**disk, "boot_index": 0}],
        )
        assert cloud.compute.wait_for_server(server, wait=PATIENCE_S).status == "ACTIVE"
    finally:
        if server:
            cloud.compute.delete_server(server)
            cloud.compute.wait_for_delete(server, interval=0.5, wait=PATIENCE_S)
        cloud.block_storage.delete_volume(volume)
        cloud.block_storage.wait_for_delete(volume, interval=0.5, wait=PATIENCE_S)


# ---- linked networks ----


@pytest.fixture
def listener(site_b: Site) -> Iterator[tuple[str, int]]:
    with listening(site_b) as target:
        yield target


@contextmanager
def listening(site: Site) -> Iterator[tuple[str, int]]:
    """Address and port of something that answers in the linked network of a site."""
    address, port = dhcp_address(site), 8090
    server = subprocess.Popen(
        [
            *("nsenter", f"--net={dhcp_namespace(site)}", sys.executable, "-m", "http.server"),
            *("--bind", address, "--directory", "/nonexistent", str(port)),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: reaches(site, (address, port)), f"{address}:{port} answers", PATIENCE_S)
        yield address, port
    finally:
        server.terminate()
        server.wait()


def dhcp_namespace(site: Site) -> Path:
    """In the linked network of a site, as its guests are."""
    process = Path("/proc") / str(inside.require_init_pid(site))
    return process / "root" / "run" / "netns" / namespace_name(site)


@cache
def namespace_name(site: Site) -> str:
    """Kept: an isolated site cannot be asked for it."""
    name = link.NETWORKS[site.name].name
    network = identity.connect(site, tenant.USER, tenant.PROJECT).network.find_network(
        name, ignore_missing=False
    )
    return f"qdhcp-{network.id}"


def dhcp_address(site: Site) -> str:
    network = link.NETWORKS[site.name]
    ports = identity.connect(site).network.ports(device_owner="network:dhcp")
    addresses = [ip["ip_address"] for port in ports for ip in port.fixed_ips]
    (own,) = [a for a in addresses if ipaddress.ip_address(a) in network.gateway.network]
    return str(own)


def reaches(site: Site, target: tuple[str, int], timeout: float = 5) -> bool:
    """Whether a guest of the site's linked network can connect."""
    try:
        inside.connect_from(dhcp_namespace(site), *target, timeout).close()
    except TimeoutError:
        return False
    except ConnectionRefusedError:
        return False
    return True


def test_guests_of_the_linked_networks_reach_each_other_until_the_link_is_cut(
    site_a: Site, listener: tuple[str, int]
) -> None:
    wait_until(lambda: reaches(site_a, listener), "site-a's guests reach site-b's", PATIENCE_S)
    lab("cut")
    try:
        assert not reaches(site_a, listener)
        # the sites themselves still do
        inside.connect(site_a, KEYSTONE_PORT, SITES["site-b"].address).close()
    finally:
        lab("mend")
    assert reaches(site_a, listener, timeout=60)


@pytest.mark.parametrize("isolated", SITES.values(), ids=lambda site: site.name)
def test_an_isolated_site_forwards_nothing_for_its_guests(
    isolated: Site, site_a: Site, listener: tuple[str, int]
) -> None:
    assert reaches(site_a, listener, timeout=60)
    lab("isolate", isolated.name)
    try:
        assert not reaches(site_a, listener)
    finally:
        lab("rejoin", isolated.name)
    assert reaches(site_a, listener, timeout=60)


# ---- synchronized containers ----


@pytest.fixture
def container() -> Iterator[Container]:
    made = Container(f"test-{secrets.token_hex(4)}", secrets.token_hex(16))
    yield made
    for site in SITES.values():
        made.remove(site)


def test_objects_are_carried_in_both_directions_at_once(container: Container) -> None:
    for site in SITES.values():
        container.follow(site)
    for site in SITES.values():
        container.put(site, f"of-{site.name}", site.name.encode())
    for site in SITES.values():
        arrives(container, other_than(site), f"of-{site.name}", site.name.encode())


def test_a_container_without_its_key_takes_nothing_until_it_has_the_key_again(
    source: Site, container: Container
) -> None:
    backup = other_than(source)
    container.follow(source)
    container.put(source, "before", b"1")
    arrives(container, backup, "before", b"1")
    container.request("POST", backup, headers={"X-Remove-Container-Sync-Key": "x"})
    container.put(source, "refused", b"2")
    container.put(backup, "own", b"3")
    wait_until(
        lambda: refusals(source, container) > 0,
        f"{source.name} was refused to send an object of {container.name}",
        PATIENCE_S,
    )
    assert container.get(backup, "refused") is None
    assert container.get(backup, "own") == b"3"
    container.set(backup, X_Container_Sync_Key=container.key)
    arrives(container, backup, "refused", b"2")


# ---- after a disaster ----


@pytest.mark.last
@pytest.mark.parametrize("killed", SITES.values(), ids=lambda site: site.name)
def test_a_site_that_was_killed_and_revived_replicates_as_before(
    killed: Site, site_a: Site, container: Container
) -> None:
    for site in SITES.values():
        container.follow(site)
    assert power.off(killed)
    survivor = other_than(killed)
    container.put(survivor, "meanwhile", b"1")
    lab("revive", killed.name)
    arrives(container, killed, "meanwhile", b"1")
    container.put(killed, "afterwards", b"2")
    arrives(container, survivor, "afterwards", b"2")
    for source in SITES.values():
        with mirrored(source) as image:
            assert_same_bytes(source, image)
    with listening(SITES["site-b"]) as target:
        wait_until(lambda: reaches(site_a, target), "the networks are linked", PATIENCE_S)

# SPDX-License-Identifier: Apache-2.0
"""The extra `replication` of the lab, before anything runs."""

from __future__ import annotations

import configparser
import copy
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from lab import extras, inside, wan
from lab.errors import LabError
from lab.service import NotReady
from lab.services import ceph, link, nova, operator_rbd, rbd_mirror, services_of, swift
from lab.services.rbd_mirror import RbdMirror, other_than
from lab.site import BACKUP_STORE, SITES, Site
from lab.waiting import wait_until


@pytest.fixture(params=SITES.values(), ids=lambda site: site.name)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("lab.site.ROOT", tmp_path)
    monkeypatch.setattr(ceph, "make_keyring", keyring)
    assert isinstance(request.param, Site)
    return request.param


def keyring(site: Site, entity: str, _: object) -> Path:
    file = ceph.keyring(site, entity)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"[{entity}]\n\tkey = {site.short}{entity}==\n")
    return file


def test_calls_of_sites_that_replicate_are_not_those_of_an_operator(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wan, "exists", lambda _: True)
    monkeypatch.setattr(wan, "counted", lambda enter, _: 100 if enter else 1)
    assert wan.calls_to(site) == 101
    for both in SITES.values():
        extras.add(both, extras.REPLICATION)
    assert wan.calls_to(site) == 1


def test_a_site_has_an_extra_only_after_it_was_added(site: Site) -> None:
    assert not extras.has(site, extras.REPLICATION)
    extras.add(site, extras.REPLICATION)
    assert extras.has(site, extras.REPLICATION)
    assert not extras.has(other_than(site), extras.REPLICATION)


def test_replication_runs_only_where_it_was_added(site: Site) -> None:
    plain = {service.name for service in services_of(site)}
    extras.add(site, extras.REPLICATION)
    added = {service.name for service in services_of(site)} - plain
    assert {"rbd-mirror", "operator-rbd"} <= added
    assert plain == {service.name for service in services_of(other_than(site))}


@pytest.mark.parametrize("added", [(), *((extra,) for extra in extras.EXTRAS), extras.EXTRAS])
def test_every_service_comes_after_services_that_the_site_has(
    site: Site, added: tuple[str, ...]
) -> None:
    for extra in added:
        extras.add(site, extra)
    services = services_of(site)
    names = [service.name for service in services]
    assert len(set(names)) == len(names)
    assert {needed for service in services for needed in service.after} <= set(names)


def test_a_peer_reads_the_mirrored_pool_and_no_other() -> None:
    assert rbd_mirror.PEER_CAPABILITIES["osd"] == f"profile rbd pool={ceph.POOL}"


@pytest.mark.parametrize(
    ("health", "listens", "ready"),
    [("OK", True, True), ("ERROR", False, True), ("ERROR", True, False), ("UNKNOWN", True, False)],
)
def test_mirroring_is_ready_when_it_serves_a_peer_that_answers(
    site: Site, health: str, listens: bool, ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rbd_mirror, "daemon_health", lambda site: health)
    monkeypatch.setattr(rbd_mirror, "_peer_listens", lambda site: listens)
    if ready:
        RbdMirror().check_ready(site)
    else:
        with pytest.raises(NotReady, match=f"restart {site.name} rbd-mirror"):
            RbdMirror().check_ready(site)


class Pool:
    """The mirroring of a pool, as `rbd mirror pool` shows and changes it."""

    def __init__(self, peers: list[dict[str, str]], comes_before_an_addition: bool = False) -> None:
        self.mode, self.peers, self.keys = "disabled", peers, list[str | None]()
        self._comes_before_an_addition = comes_before_an_addition

    def mirror(self, _: Site, what: str, *arguments: str, stdin: str | None = None) -> str:
        if what == "enable":
            self.mode = arguments[1]
        elif what == "peer" and arguments[0] == "add":
            if self._comes_before_an_addition:
                self.peers.append(sender())
                self._comes_before_an_addition = False
            if self.peers:
                raise LabError("a peer of that site exists")
            client, _at, site_name = arguments[2].partition("@")
            self.peers.append(
                {"uuid": "1", "direction": "rx-tx", "site_name": site_name, "client_name": client}
            )
            self.keys.append(stdin)
        elif what == "peer":
            (peer,) = [p for p in self.peers if p["uuid"] == arguments[2]]
            peer[{"client": "client_name"}.get(arguments[3], arguments[3])] = arguments[4]
            if arguments[3] == "key-file":
                self.keys.append(stdin)
        return json.dumps({"mode": self.mode, "peers": self.peers})


def sender() -> dict[str, str]:
    """The peer that a daemon of the other site makes of itself."""
    return {"uuid": "2", "direction": "tx-only", "site_name": "other", "client_name": ""}


@pytest.mark.parametrize(
    "pool",
    [Pool([]), Pool([sender()]), Pool([], comes_before_an_addition=True)],
    ids=["first", "after the other's daemon", "at the same moment as it"],
)
def test_a_site_receives_from_the_other_with_its_key_whichever_is_up_first(
    site: Site, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = copy.deepcopy(pool)
    monkeypatch.setattr(ceph, "add_user", lambda *_: None)
    monkeypatch.setattr(rbd_mirror, "_mirror_pool", pool.mirror)
    RbdMirror().prepare(site)
    RbdMirror().prepare(site)
    (peer,) = pool.peers
    assert pool.mode == "image"
    assert (peer["direction"], peer["client_name"]) == ("rx-tx", rbd_mirror.PEER)
    assert pool.keys == [f"{other_than(site).short}{rbd_mirror.PEER}=="]


def test_the_operators_rbd_acts_on_its_own_site_whatever_the_environment_says(site: Site) -> None:
    operator_rbd.OperatorRbd().configure(site)
    settings = operator_rbd.replication_settings(site)
    script = settings.rbd.read_text()
    assert os.access(settings.rbd, os.X_OK)
    assert f"--conf {site.etc}/ceph/ceph.conf" in script
    assert "unset CEPH_ARGS CEPH_CONF" in script
    assert ceph.keyring(site, operator_rbd.USER).stat().st_mode & 0o077 == 0
    assert settings.backend_host == f"cinder-{site.short}@rbd1#rbd1"


def swift_conf(site: Site, name: str) -> configparser.ConfigParser:
    swift.Swift().configure(site)
    conf = configparser.ConfigParser(interpolation=None)
    conf.read(site.etc / "swift" / name)
    return conf


def pipeline(site: Site) -> list[str]:
    return swift_conf(site, "proxy-server.conf")["pipeline:main"]["pipeline"].split()


def test_a_request_of_another_cluster_is_looked_at_before_keystones_tokens(site: Site) -> None:
    extras.add(site, extras.REPLICATION)
    filters = pipeline(site)
    assert filters.index("cache") < filters.index("container_sync") < filters.index("authtoken")
    proxy = swift_conf(site, "proxy-server.conf")
    assert proxy["filter:container_sync"]["current"] == f"//{swift.REALM}/{site.name}"


def test_both_clusters_share_a_key_and_find_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.site.ROOT", tmp_path)
    realms = []
    for site in SITES.values():
        extras.add(site, extras.REPLICATION)
        realms.append(dict(swift_conf(site, "container-sync-realms.conf")[swift.REALM]))
    assert realms[0] == realms[1]
    assert realms[0]["key"]
    assert {f"cluster_{name}" for name in SITES} <= set(realms[0])


def test_the_backup_store_synchronizes_nothing_without_replication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.site.ROOT", tmp_path)
    assert "container_sync" not in pipeline(BACKUP_STORE)
    assert not (BACKUP_STORE.etc / "swift" / "container-sync-realms.conf").exists()


def test_nova_compute_is_replaced_when_replication_is_added(site: Site) -> None:
    before = nova.NovaCompute().programs(site)
    extras.add(site, extras.REPLICATION)
    assert nova.NovaCompute().programs(site) != before


def test_linked_networks_do_not_overlap_and_route_to_each_other(site: Site) -> None:
    own, other = (link.NETWORKS[s.name] for s in (site, other_than(site)))
    assert not own.gateway.network.overlaps(other.gateway.network)
    [program] = link.Link().programs(site)
    assert [*program.command][-2:] == [other.cidr, other_than(site).address]


IP = """\
#!/bin/sh
echo "$*" >>$TRACE
case "$*" in
  "-oneline link") echo "3: link0: <BROADCAST>"; echo "4: tap0: <UP>" ;;
  "-oneline monitor link") echo "Deleted 3: link0: <UP>"; echo "5: link0@if2: <BROADCAST>" ;;
esac
"""


def test_the_link_is_set_up_again_when_the_switch_makes_its_device_again(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name, text in (("ip", IP), ("sysctl", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    subprocess.run(
        [str(inside.BIN / "keep-link-up"), "link0", "MAC", "10.8.1.1/24", "10.8.2.0/24", "WAN"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TRACE": str(trace)},
        check=True,
        timeout=60,
    )
    steps = trace.read_text().splitlines()
    assert steps[0] == "route replace 10.8.2.0/24 via WAN"
    assert steps.count("address replace 10.8.1.1/24 dev link0") == 2
    assert steps.count("link set link0 address MAC") == 2
    assert not [step for step in steps if "tap0" in step]


@pytest.fixture
def port() -> int:
    """One on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_program_starts_when_its_peer_listens_and_not_before(port: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = [str(inside.BIN / "when-listening"), "127.0.0.1", str(port), "echo", "started"]
    with (
        trace.open("w") as steps,
        subprocess.Popen(
            ["bash", "-x", *command], stdout=subprocess.PIPE, stderr=steps, text=True
        ) as program,
    ):
        wait_until(lambda: "sleep" in trace.read_text(), "an attempt was refused", timeout=60)
        assert program.poll() is None
        with socket.create_server(("127.0.0.1", port)):
            assert program.communicate(timeout=60)[0] == "started\n"

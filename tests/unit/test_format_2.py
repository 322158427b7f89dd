# SPDX-License-Identifier: Apache-2.0
"""Documents of format 2: they say all of a point, grow with nothing, and bad ones are refused."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from antipode.errors import (
    AntipodeError,
    PointMisplaced,
    PointUnsigned,
    PointUntrusted,
    VaultCorrupt,
)
from antipode.model import point_v2, requirements, topology
from antipode.model.datastore import KeptPosition
from antipode.model.dns import DnsRecord
from antipode.model.point import RecoveryPoint
from antipode.model.point_v2 import POINT_TYPE
from antipode.model.reference import BackendReference
from antipode.model.runbook import FromElsewhere, HttpCall, Prompt, RunbookStep, Script
from antipode.model.source import BackupRecord, StoredObjects
from antipode.model.vnf import Answers, HttpProbe, Mapping, Member, Selector, Vnf
from antipode.vault import points, sealing, signing
from antipode.vault.directory import DirectoryVault
from antipode.vault.keys import NO_KEYS
from antipode.vault.sealing import Opened, SealedPoint, Trust, seal, unseal
from tests.unit import samples
from tests.unit.test_format_1 import OF_0_1

Json = dict[str, Any]
STRANGER = Ed25519PrivateKey.generate()


@pytest.fixture
def vault(tmp_path: Path) -> DirectoryVault:
    return DirectoryVault(tmp_path)


def full_point(**changes: Any) -> RecoveryPoint:
    """A point in which every field that may be empty is not."""
    base = samples.topology()
    volume = base.volumes[0].model_copy(
        update={
            "encrypted": True,
            "multiattach": True,
            "availability_zone": "az-1",
            "description": "the root",
            "metadata": {"a": "b"},
            "image_metadata": {"hw_machine_type": "q35"},
            "backend_name": "volume-1",
            "backend": BackendReference(
                name="volume-1",
                driver_volume_type="rbd",
                connection={"name": "volumes/volume-1"},
                host="host@rbd#pool",
                name_id="1",
                provider_id="p",
                location="ceph:fsid",
                missing=["nothing"],
            ),
        }
    )
    attachment = (
        base.servers[0]
        .attachments[0]
        .model_copy(update={"volume": volume, "delete_on_termination": True, "tag": "boot"})
    )
    port = (
        base.servers[0]
        .ports[0]
        .model_copy(
            update={
                "security_groups": ["sg"],
                "allowed_address_pairs": [{"ip_address": "10.0.0.9"}],
                "port_security_enabled": False,
                "vnic_type": "direct",
                "device_tag": "nic",
                "tags": ["voice"],
                "description": "of the voice network",
                "admin_state_up": False,
                "dhcp_options": [topology.DhcpOption(name="mtu", value="9000", ip_version=6)],
                "dns_name": "voice",
                "dns_domain": "example.",
                "qos_policy": "gold",
                "numa_affinity_policy": "required",
                "propagate_uplink_status": True,
                "binding_profile": {"trusted": "true"},
                "network_id": "net-1",
            }
        )
    )
    below = port.model_copy(update={"id": "port-below", "device_tag": None})
    trunk = topology.Trunk(
        name="t",
        description="to the radio",
        admin_state_up=False,
        tags=["radio"],
        subports=[topology.Subport(port=below, segmentation_type="vlan", segmentation_id=100)],
    )
    port = port.model_copy(update={"trunk": trunk})
    vip = below.model_copy(update={"id": "port-vip", "device_owner": "vip:hlr"})
    floating = topology.FloatingIp(
        address="203.0.113.7", fixed_address="10.0.0.4", port="port-vip", description="of all"
    )
    network = topology.Network(
        id="net-1",
        name="net",
        description="of all",
        tags=["red"],
        admin_state_up=False,
        mtu=1400,
        port_security_enabled=False,
        dns_domain="example.",
        qos_policy="gold",
        vlan_transparent=True,
        shared=True,
        is_own=False,
        provider={"segmentation_id": 7, "network_type": "vlan"},
        subnets=[
            topology.Subnet(
                id="subnet-1",
                name="six",
                cidr="fd00::/64",
                ip_version=6,
                gateway_ip=None,
                enable_dhcp=True,
                dns_nameservers=["fd00::53"],
                host_routes=[{"destination": "fd01::/64", "nexthop": "fd00::7"}],
                allocation_pools=[{"start": "fd00::2", "end": "fd00::9"}],
                ipv6_address_mode="slaac",
                ipv6_ra_mode="slaac",
                service_types=["compute:nova"],
                description="of six",
                tags=["six"],
                has_router=True,
            )
        ],
    )
    group = topology.SecurityGroup(
        id="group-1",
        name="web",
        description="of the web",
        tags=["public"],
        stateful=False,
        is_own=False,
        rules=[
            topology.SecurityGroupRule(
                direction="ingress",
                ethertype="IPv4",
                protocol="tcp",
                port_range_min=80,
                port_range_max=81,
                remote_ip_prefix="10.0.0.0/24",
                remote_group="group-1",
                description="web",
            )
        ],
    )
    flavor = base.servers[0].flavor.model_copy(
        update={
            "extra_specs": {"hw:cpu_policy": "shared"},
            "swap_mib": 512,
            "ephemeral_gib": 0,
        }
    )
    server = base.servers[0].model_copy(
        update={
            "attachments": [attachment],
            "ports": [port],
            "flavor": flavor,
            "metadata": {"role": "db"},
            "tags": ["core"],
            "keypair": topology.Keypair(name="k", public_key="ssh-ed25519 AAAA", type="ssh"),
            "user_data": "c2VjcmV0",
            "config_drive": True,
            "description": "the database",
            "interfaces_in_order": False,
            "is_off": True,
            "locked": True,
            "locked_reason": "not to be touched",
            "scheduler_hints": {"rack": ["second"]},
            "keypair_gone": "earlier",
            "availability_zone": "az-1",
            "server_group": topology.ServerGroup(
                name="apart", policy="anti-affinity", rules={"max_server_per_host": 2}
            ),
        }
    )
    vnf = samples.vnf(
        members=[
            {
                "server": "db",
                "role": "cluster=dbs",
                "recover": "clone",
                "boot_before": ["front"],
                "user_data": "drop",
                "interfaces": ["voice"],
                "answers": {
                    "command": ["check", "{site}"],
                    "within": "7s",
                    "variables": ["NOC"],
                },
            },
            {
                "server": "front",
                "name": "fronts",
                "select": {"metadata": {"part": "front"}},
                "boot_after": ["db"],
                "answers": {"tcp": 22, "at": {"site-b": "b.example"}},
                "drill": {"console": "front login:", "within": "9s"},
            },
        ],
        map={
            **{field: {"here": "there"} for field in Mapping.model_fields},
            "server_group_policies": {"there": "soft-affinity"},
            "addresses": {"10.0.0.0/24": "10.9.0.0/24"},
        },
        capture=["cluster=dbs"],
        project="tenant",
        networks="create",
        provider_attributes="keep",
        maps={"site-b": {"networks": {"net": "net-b"}}},
        ports=["vip"],
        vaults=["third"],
        store="swift",
        protections=[{"option": "quiesced-snapshot", "quiesce": {"timeout": "5m"}}],
        steps=[
            {
                "name": "say",
                "before": ["front"],
                "command": ["check", "it"],
                "variables": "NOC",
                "on": "drill",
            },
            {"name": "ask", "after": "all", "prompt": "Is it there?", "to": "site-b"},
            {
                "name": "call",
                "after": "all",
                "http": {
                    "url": "https://noc.example/x",
                    "headers": {"Authorization": {"file": "/etc/token", "prefix": "Bearer "}},
                    "body": "of the call",
                    "expect": 202,
                },
            },
            {"name": "run", "after": "all", "script": {"runner": "jump", "command": ["run"]}},
        ],
        dns=[
            {
                "name": "hlr.example",
                "provider": "core",
                "members": "front",
                "ttl": "30s",
                "network": "net",
                "floating": True,
            },
            {"name": "six.example", "type": "AAAA", "port": "vip"},
            {
                "name": "www.example",
                "type": "CNAME",
                "targets": {"site-a": "a.example", "site-b": "b.example"},
            },
        ],
    )
    stored = StoredObjects(prefix="p", objects=3, bytes=1000, sha256="0" * 64)
    chain = samples.chain(
        *(r.model_copy(update={"stored": stored}) for r in samples.point().chain("vol-db"))
    ).model_copy(update={"backend_reference": "host@rbd#pool/volume-1"})
    return samples.point(
        **{
            "generation": 3,
            "vnf": vnf,
            "topology": base.model_copy(
                update={
                    "servers": [server, base.servers[1]],
                    "vip_ports": [vip],
                    "floating_ips": [floating],
                    "networks": [network],
                    "security_groups": [group],
                    "not_carried": ["the port of somebody"],
                }
            ),
            "sources": {**samples.point().sources, "vol-db": chain},
            "datastores": {
                "records": KeptPosition(
                    storage="pg",
                    position="0/3000060",
                    sites=["site-b"],
                    references={"site-a": "10.0.0.5:5432", "site-b": "10.1.0.5:5432"},
                )
            },
            **changes,
        }
    )


def opened(sealed: SealedPoint, trust: Trust = Trust.SIGNED, **records: bytes) -> Opened:
    vnf, _, point = sealed.name.removesuffix(".json").partition("/")

    def fetch(name: str, sha256: str) -> bytes:
        document = records.get(name, sealed.records[name].encode())
        assert sealing.is_intact(document, sha256)
        return document

    return unseal(sealed.manifest.encode(), vnf, point, NO_KEYS, fetch, trust)


def test_a_point_comes_back_as_it_was() -> None:
    point = full_point()
    found = opened(seal(point, NO_KEYS))
    assert found.point == point
    assert found.signed_by in NO_KEYS.trusted()
    assert opened(seal(samples.point(), NO_KEYS)).point == samples.point()


LEFT_OUT: dict[type[Any], set[str]] = {
    Answers: {"command", "variables"},  # encrypted
    topology.Server: {"user_data", "keypair", "keypair_gone"},  # encrypted
}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (topology.Volume, point_v2.Volume),
        (topology.Attachment, point_v2.Attachment),
        (topology.FixedAddress, point_v2.FixedAddress),
        (topology.Port, point_v2.Port),
        (topology.Flavor, point_v2.Flavor),
        (topology.Keypair, point_v2.Keypair),
        (topology.ServerGroup, point_v2.ServerGroup),
        (topology.Server, point_v2.Server),
        (topology.DhcpOption, point_v2.DhcpOption),
        (topology.Trunk, point_v2.Trunk),
        (topology.Subport, point_v2.Subport),
        (topology.FloatingIp, point_v2.FloatingIp),
        (topology.Network, point_v2.Network),
        (topology.Subnet, point_v2.Subnet),
        (topology.SecurityGroup, point_v2.SecurityGroup),
        (topology.SecurityGroupRule, point_v2.SecurityGroupRule),
        (Selector, point_v2.Selector),
        (BackupRecord, point_v2.Record),
        (StoredObjects, point_v2.StoredObjects),
        (Mapping, point_v2.Names),
        (Answers, point_v2.Probe),
        (HttpProbe, point_v2.HttpProbe),
        (RunbookStep, point_v2.RunbookStep),
        (Prompt, point_v2.Prompt),
        (DnsRecord, point_v2.DnsRecord),
        (HttpCall, point_v2.HttpCall),
        (FromElsewhere, point_v2.FromElsewhere),
        (Script, point_v2.Script),
    ],
)
def test_every_field_of_a_model_has_a_place_in_the_document(ours: Any, theirs: Any) -> None:
    assert set(ours.model_fields) - LEFT_OUT.get(ours, set()) == set(theirs.model_fields)


def test_every_field_of_a_topology_has_a_place_too() -> None:
    of_the_point = {"vnf", "site"}
    assert set(topology.Topology.model_fields) - of_the_point == set(point_v2.Found.model_fields)


def test_every_field_of_a_point_and_of_the_vnf_file_has_a_place_too() -> None:
    apart = {"vnf", "topology", "sources", "locked"}
    assert set(RecoveryPoint.model_fields) - apart <= set(point_v2.Manifest.model_fields)
    assert set(Member.model_fields) - {"answers"} == set(point_v2.Member.model_fields) - {"probe"}
    definition = point_v2.secret_of(full_point()).definition
    kept = {"vnf", "steps", *point_v2.Plan.model_fields, *definition}
    assert set(Vnf.model_fields) <= kept


SECRETS = (b"c2VjcmV0", b"ssh-ed25519", b'"check"', b"of the call")


def test_what_is_secret_is_in_no_document_in_clear() -> None:
    sealed = seal(full_point(), NO_KEYS)
    payload = base64.b64decode(json.loads(sealed.manifest)["payload"])
    for document in (payload, *(r.encode() for r in sealed.records.values())):
        for secret in (*SECRETS, b'quiesced-snapshot","quiesce'):
            assert secret not in document


# ---------------------------------------------------------------------- what readers must know

REACHABLE = [
    *(point_v2.Volume, point_v2.Attachment, point_v2.FixedAddress, point_v2.Port),
    *(point_v2.DhcpOption, point_v2.Subport, point_v2.Trunk, point_v2.FloatingIp),
    *(point_v2.Flavor, point_v2.ServerGroup, point_v2.Server, point_v2.Found, point_v2.Probe),
    *(point_v2.Member, point_v2.Names, point_v2.Plan),
    *(point_v2.Network, point_v2.Subnet, point_v2.SecurityGroup, point_v2.SecurityGroupRule),
    *(point_v2.Selector, point_v2.DrillProbe),
    point_v2.DnsRecord,
    *(point_v2.Secret, point_v2.RunbookStep, point_v2.Prompt, point_v2.HttpProbe),
    *(point_v2.HttpCall, point_v2.FromElsewhere, point_v2.Script),
]


def parts_below(part: type[Any]) -> set[type[Any]]:
    """A part, and every part that its members can hold."""
    found, waiting = set[type[Any]](), [part]
    while waiting:
        if (one := waiting.pop()) not in found:
            found.add(one)
            waiting += [
                p
                for annotation in get_type_hints(one).values()
                for p in REACHABLE
                if p in mentioned(annotation)
            ]
    return found


def mentioned(annotation: Any) -> list[Any]:
    below = [mentioned(a) for a in getattr(annotation, "__args__", ())]
    return [annotation, *(one for found in below for one in found)]


def test_every_part_of_what_comes_back_says_what_it_requires() -> None:
    parts = parts_below(point_v2.Found) | parts_below(point_v2.Plan)
    parts |= parts_below(point_v2.Secret)
    assert {p.__name__ for p in parts} == set(requirements.FIRST)
    assert parts == set(REACHABLE)
    for part in parts:
        assert requirements.FIRST[part.__name__] <= set(part.model_fields)


def test_a_point_that_says_more_than_2_0_could_is_refused_by_a_reader_of_2_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, full = seal(samples.point(), NO_KEYS), seal(full_point(), NO_KEYS)
    assert payload_of(plain)["requires"] == []
    assert set(payload_of(full)["requires"]) == OF_VOLUMES
    monkeypatch.setattr(point_v2, "KNOWN_REQUIREMENTS", frozenset())
    assert opened(plain).point == samples.point()
    with pytest.raises(VaultCorrupt):
        opened(full)


OF_ROOT_DISKS = {point_v2.IMAGES, point_v2.BASE_IMAGES}
IN_THE_PLACE_OF_OTHERS = {"Probe.console", "Probe.http", "Selector.stack"}
OF_OTHER_VOLUMES = {"shared-volumes", "Found.unattached"}
OF_VOLUMES = point_v2.KNOWN_REQUIREMENTS - OF_ROOT_DISKS - IN_THE_PLACE_OF_OTHERS - OF_OTHER_VOLUMES
"""The requirements of a point with members on volumes and probes by TCP or a command."""


def test_members_of_a_stack_come_back_and_are_required_too() -> None:
    hlr = {"name": "hlr", "select": {"stack": "hlr-stack"}}
    vnf = samples.vnf(members=[{"server": "db"}, hlr]).with_selected({"hlr": ["front"]})
    point = samples.point(vnf=vnf)
    sealed = seal(point, NO_KEYS)
    assert payload_of(sealed)["requires"] == ["Selector.stack"]
    assert opened(sealed).point.vnf.members == vnf.members


def test_a_probe_of_the_console_log_is_required_too() -> None:
    point = full_point()
    db, front = point.vnf.members
    asked = front.model_copy(update={"answers": Answers(console="ready")})
    vnf = point.vnf.model_copy(update={"members": [db, asked]})
    payload = payload_of(seal(point.model_copy(update={"vnf": vnf}), NO_KEYS))
    assert "Probe.console" in payload["requires"]


def test_a_probe_by_http_comes_back_and_is_required_too() -> None:
    http = {"path": "/up", "tls": True, "verify": False, "host": "db.example", "body": "o*k"}
    db = {"server": "db", "answers": {"http": http, "at": {"site-b": "198.51.100.7"}}}
    point = samples.point(vnf=samples.vnf(members=[db, {"server": "front"}]))
    sealed = seal(point, NO_KEYS)
    assert payload_of(sealed)["requires"] == ["Probe.http"]
    assert opened(sealed).point == point


def test_the_variables_of_a_probe_are_encrypted_and_required_of_no_reader() -> None:
    db = {"server": "db", "answers": {"command": ["check"], "variables": "all"}}
    point = samples.point(vnf=samples.vnf(members=[db, {"server": "front"}]))
    sealed = seal(point, NO_KEYS)
    assert payload_of(sealed)["requires"] == []
    assert opened(sealed).point == point


def test_a_probe_of_an_older_point_gets_what_it_got_when_the_point_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    db = {"server": "db", "answers": {"command": ["check"]}}
    point = samples.point(vnf=samples.vnf(members=[db, {"server": "front", "answers": {"tcp": 1}}]))
    monkeypatch.setattr(point_v2, "MINOR", 4)
    asked, other = opened(seal(point, NO_KEYS)).point.vnf.members
    assert asked.answers and asked.answers.variables == "all"
    assert other.answers and other.answers.variables == []


def test_how_a_member_is_probed_in_a_drill_is_required_of_no_reader() -> None:
    db = {"server": "db", "drill": {"console": "ready"}}
    vnf = samples.vnf(members=[db, {"server": "front"}])
    point = samples.point(vnf=vnf)
    sealed = seal(point, NO_KEYS)
    assert payload_of(sealed)["requires"] == []
    assert opened(sealed).point == point


@pytest.mark.parametrize("known", sorted(OF_VOLUMES))
def test_a_reader_that_lacks_any_one_of_them_refuses_it(
    monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    less = point_v2.KNOWN_REQUIREMENTS - {known}
    monkeypatch.setattr(point_v2, "KNOWN_REQUIREMENTS", less)
    with pytest.raises(VaultCorrupt):
        opened(seal(full_point(), NO_KEYS))


def test_a_member_of_a_later_version_is_required_without_being_named_here() -> None:
    class Server(point_v2.Server):
        is_paused: bool = False

    before = json.loads(point_v2.dumped(point_v2.Found.model_validate(SERVERS)))["servers"][0]
    paused = Server.model_validate({**before, "is_paused": True})
    assert "Server.is_paused" in requirements.required_by(paused)
    assert "Server.is_paused" not in requirements.required_by(Server.model_validate(before))
    assert "Server.is_paused" in requirements.known_to([Server])


SERVERS = full_point().topology.model_dump(mode="json")


# ------------------------------------------------------------------------------ size and calls


def long_point(length: int) -> RecoveryPoint:
    """A point whose chain has so many backups."""
    chain = [samples.record("b-0", "vol-db")]
    while len(chain) < length:
        chain.append(samples.record(f"b-{len(chain)}", "vol-db", chain[-1].id))
    front = samples.transferred().sources["vol-front"]
    return samples.point(sources={"vol-db": samples.chain(*chain), "vol-front": front})


class Counted(DirectoryVault):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.calls: Counter[str] = Counter()

    def get(self, name: str) -> bytes:
        self.calls["get"] += 1
        return super().get(name)

    def create(self, name: str, document: bytes) -> bool:
        self.calls["create"] += 1
        return super().create(name, document)


def test_a_manifest_does_not_grow_with_its_chain_and_a_long_chain_is_read_with_few_calls(
    tmp_path: Path,
) -> None:
    vault = Counted(tmp_path)
    long, short = long_point(3001), long_point(2)
    # what is encrypted has a random piece of some hundred bytes
    assert abs(len(seal(long, NO_KEYS).manifest) - len(seal(short, NO_KEYS).manifest)) < 2000
    points.commit(vault, long)
    written = vault.calls["create"]
    assert written <= 3001 // point_v2.SEGMENT + 10
    vault.calls.clear()
    assert points.read(vault, "hlr") == long
    assert vault.calls["get"] <= 3001 // point_v2.SEGMENT + 12


def test_an_increment_writes_as_much_after_3000_as_after_one(tmp_path: Path) -> None:
    vault = Counted(tmp_path)
    points.commit(vault, long_point(3000))
    before = {p: p.stat().st_size for p in tmp_path.rglob("*.json")}
    vault.calls.clear()
    longer = long_point(3001).model_copy(update={"id": "20261122T170000Z-000000"})
    points.commit(vault, longer)
    assert vault.calls["create"] == 2  # a record and the manifest
    new = [p.stat().st_size for p in tmp_path.rglob("*.json") if p not in before]
    assert sum(new) < 20_000


@settings(max_examples=60)
@given(st.integers(1, 700))
def test_a_chain_of_any_length_comes_back_from_few_pieces_of_bounded_size(length: int) -> None:
    bounds = sealing._bounds(length)
    assert [a for a, _ in bounds[1:]] == [b for _, b in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, length)
    assert all(b - a <= point_v2.SEGMENT for a, b in bounds)
    assert len(bounds) <= length // point_v2.SEGMENT + 6
    # all but the last are pieces of a shorter chain, which were written with it
    for first, last in bounds[:-1]:
        assert (first, last) == sealing._bounds(last)[-1]


def test_a_list_of_points_reads_one_document_for_each(tmp_path: Path) -> None:
    vault = Counted(tmp_path)
    for minute in range(20):
        at = f"20261122T11{minute:02}00Z-000000"
        points.commit(vault, long_point(40).model_copy(update={"id": at}))
    vault.calls.clear()
    found = [s for _, s in points.list_points(vault, "hlr")]
    assert vault.calls == {"get": 20}
    assert all(isinstance(s, sealing.Summary) and s.incremental for s in found)


# ------------------------------------------------------------------------ damage and forgery


def payload_of(sealed: SealedPoint) -> Json:
    found: Json = json.loads(base64.b64decode(json.loads(sealed.manifest)["payload"]))
    return found


def resigned(sealed: SealedPoint, change: Callable[[Json], None]) -> SealedPoint:
    """A point whose manifest was changed, and signed again with the key of this host."""
    payload = payload_of(sealed)
    change(payload)
    envelope = NO_KEYS.sign(POINT_TYPE, json.dumps(payload).encode())
    return sealed.model_copy(update={"manifest": envelope.decode()})


def with_secret(text: str) -> Callable[[Json], None]:
    def change(payload: Json) -> None:
        payload["secret"] = text

    return change


def rewrapped(sealed: SealedPoint, **changes: Any) -> SealedPoint:
    envelope = json.loads(sealed.manifest) | changes
    return sealed.model_copy(update={"manifest": json.dumps(envelope)})


SEALED = seal(samples.point(), NO_KEYS)


def signature_of_a_stranger() -> SealedPoint:
    payload = base64.b64decode(json.loads(SEALED.manifest)["payload"])
    envelope = signing.sign(POINT_TYPE, payload, STRANGER)
    return SEALED.model_copy(update={"manifest": envelope.decode()})


def stranger_that_names_our_key() -> SealedPoint:
    ours = json.loads(SEALED.manifest)["signatures"][0]["keyid"]
    theirs = json.loads(signature_of_a_stranger().manifest)["signatures"][0]["sig"]
    return rewrapped(SEALED, signatures=[{"keyid": ours, "sig": theirs}])


def signature_of_another_point() -> SealedPoint:
    other = seal(samples.point("20261122T170000Z-000000"), NO_KEYS)
    return rewrapped(SEALED, signatures=json.loads(other.manifest)["signatures"])


def changed_payload() -> SealedPoint:
    payload = json.dumps(payload_of(SEALED) | {"generation": 99}).encode()
    return rewrapped(SEALED, payload=base64.b64encode(payload).decode())


def other_type() -> SealedPoint:
    payload = base64.b64decode(json.loads(SEALED.manifest)["payload"])
    envelope = NO_KEYS.sign("application/vnd.antipode.something-else+json", payload)
    return SEALED.model_copy(update={"manifest": envelope.decode()})


def type_renamed() -> SealedPoint:
    forged = json.loads(other_type().manifest)
    return rewrapped(SEALED, signatures=forged["signatures"])


@pytest.mark.parametrize(
    ("forged", "code"),
    [
        (lambda: rewrapped(SEALED, signatures=[]), "vault-corrupt"),
        (signature_of_a_stranger, "recovery-point-untrusted"),
        (stranger_that_names_our_key, "vault-corrupt"),
        (signature_of_another_point, "vault-corrupt"),
        (changed_payload, "vault-corrupt"),
        (other_type, "vault-corrupt"),
        (type_renamed, "vault-corrupt"),
        (lambda: rewrapped(SEALED, payload="not base64!"), "vault-corrupt"),
        (lambda: rewrapped(SEALED, payload=[1]), "vault-corrupt"),
        (lambda: SEALED.model_copy(update={"manifest": "[" * 100_000}), "vault-corrupt"),
        (lambda: SEALED.model_copy(update={"manifest": SEALED.manifest[:-9]}), "vault-corrupt"),
        (lambda: SEALED.model_copy(update={"manifest": "x" * (40 << 20)}), "vault-corrupt"),
        (
            lambda: SEALED.model_copy(update={"name": "hlr/20270101T000000Z-000000.json"}),
            "recovery-point-misplaced",
        ),
        (
            lambda: SEALED.model_copy(update={"name": "other/20261122T160501Z-1a2b3c.json"}),
            "recovery-point-misplaced",
        ),
    ],
)
def test_a_forged_point_is_refused_with_a_code(
    forged: Callable[[], SealedPoint], code: str
) -> None:
    with pytest.raises(VaultCorrupt) as caught:
        opened(forged())
    assert caught.value.code == code


def newer_format(payload: Json) -> None:
    payload["format"] = 3


def newer_requirement(payload: Json) -> None:
    payload["requires"] = ["replica-sets"]


def newer_source(payload: Json) -> None:
    payload["sources"]["vol-db"] = {"kind": "hologram"}


def chain_of_another_length(payload: Json) -> None:
    payload["sources"]["vol-db"]["length"] = 1


def chain_of_another_volume(payload: Json) -> None:
    sources = payload["sources"]
    sources["vol-db"], sources["vol-front"] = sources["vol-front"], sources["vol-db"]


def lost_source(payload: Json) -> None:
    del payload["sources"]["vol-db"]


def lost_server(payload: Json) -> None:
    del payload["found"]["servers"][0]


def no_zone(payload: Json) -> None:
    payload["consistent_at"] = "2026-11-01T00:00:00"


def scoped_address(payload: Json) -> None:
    port = payload["found"]["servers"][0]["ports"][0]
    port["fixed"][0]["address"] = "fe80::1%;reboot"


def boot_cycle(payload: Json) -> None:
    payload["plan"]["members"][0]["boot_after"] = ["front"]


@pytest.mark.parametrize(
    "change",
    [
        newer_format,
        newer_requirement,
        newer_source,
        chain_of_another_length,
        chain_of_another_volume,
        lost_source,
        lost_server,
        no_zone,
        scoped_address,
        boot_cycle,
    ],
)
def test_a_point_that_is_signed_and_does_not_fit_together_is_refused(
    change: Callable[[Json], None],
) -> None:
    with pytest.raises(VaultCorrupt):
        opened(resigned(SEALED, change))


def test_members_of_a_newer_minor_are_ignored_wherever_they_are() -> None:
    def newer(payload: Json) -> None:
        server = payload["found"]["servers"][0]
        attachment, port = server["attachments"][0], server["ports"][0]
        source, member = payload["sources"]["vol-db"], payload["plan"]["members"][0]
        for part in (
            payload,
            payload["quiesce_window"],
            payload["found"],
            server,
            server["flavor"],
            attachment,
            attachment["volume"],
            port,
            port["fixed"][0],
            source["chain"],
            payload["plan"],
            payload["plan"]["map"],
            member,
        ):
            part["of_a_newer_minor"] = {"anything": [1]}
        payload["minor"] = point_v2.MINOR + 1

    assert opened(resigned(SEALED, newer)).point == samples.point()


def test_a_definition_of_another_version_keeps_nobody_from_recovering() -> None:
    """The VNF file may have had settings that this antipode does not know, or knows otherwise."""
    for setting in ({"of_tomorrow": 1}, {"protections": "what is this"}):
        secret = point_v2.secret_of(samples.point())
        secret = secret.model_copy(update={"definition": {**secret.definition, **setting}})
        text = NO_KEYS.encrypt(point_v2.dumped(secret))
        point = opened(resigned(SEALED, with_secret(text))).point
        assert [m.server for m in point.vnf.members] == ["db", "front"]


JUNK: Any = st.sampled_from([None, [], {}, "", 0, -1, 1e308, True, [[]], {"id": {}}, "x" * 99])


@settings(max_examples=150)
@given(st.sampled_from(samples.places(payload_of(SEALED))[1:]), JUNK)
def test_whatever_a_trusted_key_signs_gives_a_point_or_is_refused(
    place: tuple[Any, ...], junk: Any
) -> None:
    def put(payload: Json) -> None:
        holder: Any = payload
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = junk

    try:
        point = opened(resigned(SEALED, put)).point
    except (VaultCorrupt, KeyError):  # a record that was never sealed
        return
    assert set(point.sources) == {"vol-db", "vol-front"}


def records_of(vault: DirectoryVault, backup: str) -> str:
    (name,) = (n for n in vault.list("_records/hlr/") if f"/{backup}." in n)
    return name


def swap_records(vault: DirectoryVault) -> None:
    one, other = records_of(vault, "b-db-1"), records_of(vault, "b-front-0")
    document = vault.get(one)
    vault.put(one, vault.get(other))
    vault.put(other, document)


@pytest.mark.parametrize(
    "harm",
    [
        lambda v: v.delete(records_of(v, "b-db-1")),
        lambda v: v.put(records_of(v, "b-db-1"), v.get(records_of(v, "b-db-1"))[:-1]),
        lambda v: v.put(records_of(v, "b-db-1"), b"\0" * (5 << 20)),
        lambda v: v.put(records_of(v, "b-db-1"), v.get(records_of(v, "b-db-1")) + b" "),
        swap_records,
    ],
)
def test_a_point_with_a_record_that_is_lost_or_changed_is_refused_and_the_next_one_offered(
    vault: DirectoryVault, harm: Callable[[DirectoryVault], None]
) -> None:
    def only(name: str) -> RecoveryPoint:
        sources = {
            "vol-db": samples.chain(samples.record("c-db-0", "vol-db")),
            "vol-front": samples.chain(samples.record("c-front-0", "vol-front")),
        }
        return samples.point(name, sources=sources)

    older = only("20261122T150000Z-000000")
    points.commit(vault, older)
    points.commit(vault, samples.point())
    harm(vault)
    with pytest.raises(VaultCorrupt, match=older.id):
        points.read(vault, "hlr")
    assert points.newest_or_none(vault, "hlr") == older
    assert points.read(vault, "hlr", older.id) == older


def test_a_record_that_is_damaged_in_one_vault_is_mended_by_the_next_commit(
    vault: DirectoryVault,
) -> None:
    points.commit(vault, samples.point())
    name = records_of(vault, "b-db-1")
    intact = vault.get(name)
    vault.put(name, b"damaged")
    points.commit(vault, samples.point("20261122T170000Z-000000"))
    assert vault.get(name) == intact


def test_the_next_valid_point_is_offered_after_one_of_a_stranger(vault: DirectoryVault) -> None:
    points.commit(vault, samples.point())
    newer = seal(samples.point("20261122T170000Z-000000"), NO_KEYS)
    payload = base64.b64decode(json.loads(newer.manifest)["payload"])
    vault.put(newer.name, signing.sign(POINT_TYPE, payload, STRANGER))
    with pytest.raises(PointUntrusted, match=samples.point().id):
        points.read(vault, "hlr")
    listed = dict(points.list_points(vault, "hlr"))
    assert isinstance(listed["20261122T170000Z-000000"], PointUntrusted)
    assert points.newest_or_none(vault, "hlr") == samples.point()


def test_a_point_that_is_put_back_under_its_own_name_is_not_the_newest(
    vault: DirectoryVault,
) -> None:
    old = samples.point("20261122T100000Z-000000", consistent_at="2026-11-22T10:00:00Z")
    points.commit(vault, old)
    document = vault.get(f"hlr/{old.id}.json")
    points.commit(vault, samples.point())
    vault.delete(f"hlr/{old.id}.json")
    vault.put(f"hlr/{old.id}.json", document)
    assert points.read(vault, "hlr") == samples.point()
    vault.put("hlr/20261130T000000Z-000000.json", document)
    with pytest.raises(PointMisplaced):
        points.read(vault, "hlr")


def test_a_point_is_created_only_and_never_written_over(vault: DirectoryVault) -> None:
    points.commit(vault, samples.point())
    before = vault.get(SEALED.name)
    with pytest.raises(VaultCorrupt):
        points.commit(vault, samples.point(generation=7))
    assert vault.get(SEALED.name) == before


def test_what_was_sealed_once_may_be_written_again(vault: DirectoryVault) -> None:
    for _ in range(2):
        points.write(vault, SEALED)
    assert points.read(vault, "hlr") == samples.point()


def test_a_point_of_format_1_is_refused_unless_it_is_accepted(vault: DirectoryVault) -> None:
    of_0_1 = json.loads(OF_0_1)["manifest"]
    vnf, point = of_0_1["vnf"]["vnf"], of_0_1["id"]
    vault.put(f"{vnf}/{point}.json", OF_0_1)
    with pytest.raises(PointUnsigned):
        points.read(vault, vnf)
    assert points.read(vault, vnf, trust=Trust.UNSIGNED_TOO).id == point
    assert points.newest_or_none(vault, vnf) is None
    assert points.named_resources(vault, vnf, [point]) >= set()
    ((_, listed),) = points.list_points(vault, vnf)
    assert isinstance(listed, sealing.Summary)
    assert (listed.format, listed.signed_by) == (1, None)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_an_envelope_in_another_encoding_is_refused(vault: DirectoryVault, encoding: str) -> None:
    vault.put(SEALED.name, SEALED.manifest.encode(encoding))
    with pytest.raises(VaultCorrupt):
        points.read(vault, "hlr", samples.point().id)


def test_a_point_of_format_2_is_not_accepted_unsigned() -> None:
    for forged in (signature_of_a_stranger(), changed_payload()):
        with pytest.raises(AntipodeError):
            opened(forged, Trust.UNSIGNED_TOO)


def test_backups_that_a_forged_point_names_are_kept_all_the_same(vault: DirectoryVault) -> None:
    points.write(vault, SEALED)
    vault.put(SEALED.name, signature_of_a_stranger().manifest.encode())
    named = points.named_resources(vault, "hlr", [samples.point().id])
    assert named == set(samples.point().backups)


def test_records_are_removed_with_the_backups_that_they_end_in(vault: DirectoryVault) -> None:
    points.commit(vault, samples.point())
    assert points.forget_records(vault, "hlr", {"b-db-1"}) == 1
    assert vault.list("_records/hlr/b-db-1") == []


def test_the_name_of_a_record_is_its_digest(vault: DirectoryVault) -> None:
    points.commit(vault, full_point())
    for name in vault.list("_records/hlr/"):
        digest = hashlib.sha256(vault.get(name)).hexdigest()
        assert name.endswith(f".{digest}.json")


def test_a_signature_is_one_of_the_standard() -> None:
    """The example of the DSSE protocol: PAE("http://example.com/HelloWorld", "hello world")."""
    assert (
        signing.pre_authentication("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )

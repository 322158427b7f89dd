# SPDX-License-Identifier: Apache-2.0
"""The DNS records of a VNF: which addresses they have at a site, and what a VNF file may say."""

from __future__ import annotations

import binascii
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.tsig
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from antipode import config
from antipode.errors import DnsRefused, InvalidFile, InvalidInput
from antipode.model import point_v2
from antipode.model.dns import DnsChange, RecordSet, server_address
from antipode.model.point import RecoveryPoint
from antipode.model.topology import FixedAddress, FloatingIp, Port
from antipode.model.vnf import Vnf
from antipode.operations.vnfs import read_file
from antipode.recover.dns import queries, records, rfc2136
from antipode.vault.keys import NO_KEYS
from antipode.vault.sealing import seal
from tests.unit import samples
from tests.unit.test_format_2 import opened, payload_of

ZONE = "vnf.example"


def entry(**fields: Any) -> dict[str, Any]:
    return {"name": f"hlr.{ZONE}", **fields}


def port(name: str, *addresses: str, network: str = "net") -> Port:
    fixed = [FixedAddress(address=a, subnet_cidr="::/0", subnet_name="s") for a in addresses]
    return Port(
        id=f"id-{name}", name=name, network=network, mac_address="fa:16:3e:00:00:77", fixed=fixed
    )


def point(*entries: dict[str, Any], **changes: Any) -> RecoveryPoint:
    """A point of the VNF with these records; `db` has a second interface, with both families."""
    found = samples.topology()
    db, front = found.servers
    second = port("second", "2001:db8:1::4", "10.9.0.4", network="inner")
    topology = found.model_copy(
        update={
            "servers": [db.model_copy(update={"ports": [*db.ports, second]}), front],
            "vip_ports": [port("vip", "10.0.0.9", "2001:db8:1::9")],
            "floating_ips": [
                FloatingIp(address="203.0.113.7", fixed_address="10.0.0.5", port="port-front"),
                FloatingIp(address="203.0.113.8", fixed_address="10.0.0.9", port="id-vip"),
            ],
        }
    )
    return samples.point(topology=topology, vnf=samples.vnf(dns=list(entries), **changes))


def values(at: str, *entries: dict[str, Any], **changes: Any) -> list[str]:
    found = point(*entries, **changes)
    return list(records.wanted(found, found.vnf.dns[0], at).values)


MOVED = {"addresses": {"10.0.0.0/24": "10.8.0.0/24", "2001:db8:1::/64": "2001:db8:2::/64"}}


@pytest.mark.parametrize(
    ("fields", "here", "there"),
    [
        ({"members": "front"}, ["10.0.0.5"], ["10.8.0.5"]),
        ({"members": ["front", "db"]}, ["10.0.0.4", "10.0.0.5"], ["10.8.0.4", "10.8.0.5"]),
        ({"members": "db", "network": "inner"}, ["10.9.0.4"], ["10.9.0.4"]),
        ({"members": "db", "type": "AAAA"}, ["2001:db8:1::4"], ["2001:db8:2::4"]),
        ({"port": "vip"}, ["10.0.0.9"], ["10.8.0.9"]),
        ({"port": "id-vip", "type": "AAAA"}, ["2001:db8:1::9"], ["2001:db8:2::9"]),
    ],
)
def test_a_record_has_the_address_that_the_member_or_port_has_at_the_site(
    fields: dict[str, Any], here: list[str], there: list[str]
) -> None:
    assert values("site-a", entry(**fields)) == here
    assert values("site-b", entry(**fields)) == here
    assert values("site-b", entry(**fields), map=MOVED) == there


def test_a_floating_ip_is_the_one_that_takes_its_place() -> None:
    moved = {"floating_ips": {"203.0.113.7": "198.51.100.7"}}
    front = entry(members="front", floating=True)
    assert values("site-a", front, map=moved) == ["203.0.113.7"]
    assert values("site-b", front, map=moved) == ["198.51.100.7"]
    with pytest.raises(InvalidInput):
        values("site-b", entry(port="vip", floating=True), map=moved)
    with pytest.raises(InvalidInput):
        values("site-b", entry(members="db", floating=True), map=moved)


def test_a_point_of_the_backup_site_says_the_addresses_at_the_primary() -> None:
    there = point(entry(members="front"), map=MOVED)
    front = there.topology.server("front")
    moved = front.model_copy(update={"ports": [port("p", "10.8.0.5")]})
    servers = [there.topology.server("db"), moved]
    topology = there.topology.model_copy(update={"site": "site-b", "servers": servers})
    back = there.model_copy(update={"topology": topology})
    assert records.wanted(back, back.vnf.dns[0], "site-a").values == ("10.0.0.5",)


def test_an_alias_has_the_target_of_the_site() -> None:
    targets = {"site-a": "hlr.a.example.", "site-b": "HLR.b.example"}
    assert values("site-b", entry(type="CNAME", targets=targets)) == ["hlr.b.example"]


@pytest.mark.parametrize(
    "fields",
    [
        {"members": "front", "type": "AAAA"},
        {"members": "front", "network": "inner"},
        {"port": "elsewhere"},
    ],
)
def test_an_address_that_the_point_does_not_have_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        values("site-b", entry(**fields))


TARGETS = {"site-a": "a.example", "site-b": "b.example"}


@pytest.mark.parametrize(
    "entries",
    [
        [entry()],
        [entry(members="front", port="vip")],
        [entry(members="somebody")],
        [entry(members="front", name="no name")],
        [entry(members="front", name="-.example")],
        [entry(members="front", ttl=-1)],
        [entry(members="front", ttl="8d")],
        [entry(members="front", ttl=1.5)],
        [entry(members="front", ttl=True)],
        [entry(members="front", type="TXT")],
        [entry(members="front", type="AAAA", floating=True)],
        [entry(members="front", targets=TARGETS)],
        [entry(type="CNAME", members="front", targets=TARGETS)],
        [entry(type="CNAME", targets={"site-a": "a.example"})],
        [entry(type="CNAME", targets={**TARGETS, "site-c": "c.example"})],
        [entry(members="front"), entry(members="db", name=f"HLR.{ZONE}.")],
        [entry(members="front"), entry(type="CNAME", targets=TARGETS)],
    ],
)
def test_a_record_that_cannot_be_is_refused(entries: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError):
        samples.vnf(dns=entries)


def test_members_that_a_selector_finds_each_give_an_address() -> None:
    vnf = Vnf.model_validate(
        {
            "vnf": "v",
            "primary": "site-a",
            "backup": "site-b",
            "members": [{"name": "fronts", "select": {"tag": "front"}}],
            "dns": [entry(members="fronts")],
        }
    )
    assert vnf.with_selected({"fronts": ["f1", "f2"]}).dns[0].members == ["f1", "f2"]


def test_records_come_back_with_a_point_which_no_reader_has_to_know() -> None:
    made = point(entry(members=["front"]), entry(name=f"b.{ZONE}", port="vip", ttl="5m"))
    sealed = seal(made, NO_KEYS)
    assert opened(sealed).point.vnf.dns == made.vnf.dns
    assert "Plan.dns" not in payload_of(sealed)["requires"]


def test_a_record_of_a_newer_antipode_does_not_hold_up_a_recovery() -> None:
    made = point(entry(members=["front"]), entry(name=f"b.{ZONE}", members="front"))
    manifest = point_v2.manifest_of(made, {}, "")
    known, newer = manifest.plan.dns
    newer = newer.model_copy(update={"type": "SVCB"})
    plan = manifest.plan.model_copy(update={"dns": [known, newer]})
    vnf = point_v2._vnf(manifest.model_copy(update={"plan": plan}), None)
    assert [record.name for record in vnf.dns] == [f"hlr.{ZONE}"]


@pytest.mark.parametrize(
    ("mapped", "fields"),
    [
        ("198.51.100.7: 203.0.113.7", []),
        ("198.51.100.7: 203.0.113.7/32", ["198.51.100.7"]),
        ("198.51.100.7: 203.0.113.07", ["198.51.100.7"]),
        ("198.51.100.7: a-name", ["198.51.100.7"]),
        ('"2001:db8::1": 203.0.113.7', ["2001:db8::1"]),
        ("198.51.100.7: 203.0.113.7, 198.51.100.8: 203.0.113.7", ["198.51.100.8"]),
    ],
)
def test_floating_ips_that_are_no_addresses_are_named_with_their_lines(
    tmp_path: Path, mapped: str, fields: list[str]
) -> None:
    path, file = samples.write_config(tmp_path), tmp_path / "hlr.yaml"
    text = YAML(typ="safe").load(samples.VNF_FILE)
    place = text.setdefault("map", {})
    place["floating_ips"] = YAML(typ="safe").load("{" + mapped + "}")
    with file.open("w") as out:
        YAML().dump(text, out)
    if not fields:
        assert read_file(file, config.load(str(path))).map.floating_ips
        return
    with pytest.raises(InvalidFile) as caught:
        read_file(file, config.load(str(path)))
    assert [
        m.field.rpartition("floating_ips")[2].strip(".[]\"'") for m in caught.value.mistakes
    ] == fields


DNS = "dns: {core: {rfc2136: {server: 192.0.2.53, zone: vnf.example, key_file: /k}}}\n"


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ("{name: hlr.vnf.example, members: db}", None),
        ("{name: hlr.vnf.example, members: db, provider: other}", "dns[0].provider"),
        ("{name: hlr.elsewhere.example, members: db}", "dns[0].name"),
    ],
)
def test_a_record_that_no_provider_of_the_host_has_is_named_with_its_line(
    tmp_path: Path, record: str, field: str | None
) -> None:
    path = samples.write_config(tmp_path)
    path.write_text(path.read_text() + DNS)
    file = tmp_path / "hlr.yaml"
    file.write_text(f"{samples.VNF_FILE}dns:\n  - {record}\n")
    if field is None:
        assert read_file(file, config.load(str(path))).dns[0].name == "hlr.vnf.example"
        return
    with pytest.raises(InvalidFile) as caught:
        read_file(file, config.load(str(path)))
    assert [m.field for m in caught.value.mistakes] == [field]


@pytest.mark.parametrize(
    "dns",
    [
        "{core: {}}",
        "{core: {rfc2136: {server: ns.example, zone: z.example, key_file: /k}}}",
        "{core: {rfc2136: {server: 192.0.2.53, zone: z.example}}}",
        "{core: {rfc2136: {server: 192.0.2.53, zone: z.example, key_file: k}}}",
        "{core: {rfc2136: {server: 1.2.3.4, zone: z.example, key_file: /k, key_variable: K}}}",
        "{core: {designate: {zone: z.example}}}",
        "{core: {designate: {zone: z.example, site: nowhere}}}",
        "{core: {designate: {zone: z.example, site: site-b}, secondaries: [ns.example]}}",
    ],
)
def test_a_zone_that_cannot_be_is_refused(tmp_path: Path, dns: str) -> None:
    path = samples.write_config(tmp_path)
    path.write_text(f"{path.read_text()}dns: {dns}\n")
    with pytest.raises(InvalidFile):
        config.load(str(path))


OLD = RecordSet(name=f"hlr.{ZONE}", type="A", ttl=60, values=("10.0.0.5",))
NEW = OLD.model_copy(update={"values": ("10.8.0.5",)})
OTHER = OLD.model_copy(update={"values": ("192.0.2.1",), "ttl": 9})


@pytest.mark.parametrize(
    ("planned", "present", "may"),
    [
        ({"old": OLD, "is_known": True}, OLD, True),
        ({"old": OLD, "is_known": True}, OLD.model_copy(update={"ttl": 5}), True),
        ({"old": OLD, "is_known": True}, NEW, True),
        ({"old": OLD, "is_known": True}, OTHER, False),
        ({"old": OLD, "is_known": True}, None, False),
        ({"old": None, "is_known": True}, None, True),
        ({"old": None, "is_known": True}, OLD, False),
        ({"former": OLD.values}, OLD, True),
        ({"former": OLD.values}, OTHER, False),
        ({"former": OLD.values}, None, True),
        ({}, OLD, False),
        ({}, NEW, True),
    ],
)
def test_only_what_was_planned_for_is_replaced(
    planned: dict[str, Any], present: RecordSet | None, may: bool
) -> None:
    assert DnsChange(provider="p", new=NEW, **planned).may_replace(present) is may


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("2001:db8::53", ("2001:db8::53", 53)),
        ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
    ],
)
def test_a_server_is_an_address_and_perhaps_a_port(text: str, address: tuple[str, int]) -> None:
    assert server_address(text) == address


@pytest.mark.parametrize("text", ["ns.example", "192.0.2.53:", "192.0.2.53:0", "1.2.3.4:x", ""])
def test_a_server_by_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        server_address(text)


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.REFUSED])
def test_an_unsigned_answer_to_a_signed_message_does_not_count(
    rcode: dns.rcode.Rcode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(question: dns.message.Message, *_: object, **__: object) -> dns.message.Message:
        answer = dns.message.Message(id=question.id)
        answer.flags |= dns.flags.QR | dns.flags.AA
        answer.set_rcode(rcode)
        return answer

    monkeypatch.setattr(dns.query, "tcp", answers)
    key = dns.tsig.Key("antipode", "c2VjcmV0", "hmac-sha256")
    with pytest.raises(DnsRefused):
        queries.ask("192.0.2.53", f"hlr.{ZONE}", "A", 1.0, key)
    if rcode != dns.rcode.REFUSED:
        assert queries.ask("192.0.2.53", f"hlr.{ZONE}", "A", 1.0) is None


@pytest.mark.parametrize("secret", ["dR8//GzcqA==", "//dR8GzcqAAA", "AAAA", "d/R8//Gz"])
def test_a_secret_of_a_key_file_is_read_to_its_end_and_comments_are_not(
    tmp_path: Path, secret: str
) -> None:
    file = tmp_path / "antipode.key"
    lines = (
        '// key "old" { algorithm hmac-md5; secret "b2xk"; };',
        "/* as tsig-keygen",
        "   prints it */",
        'key "antipode" { # the name',
        "\talgorithm hmac-sha256; // and not md5",
        f'\tsecret "{secret}";',
        "};",
    )
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    settings = config.Rfc2136(server="192.0.2.53", zone=ZONE, key_file=file)
    key = rfc2136.key_of(settings)
    assert key.name.to_text() == "antipode." and key.secret == binascii.a2b_base64(secret)

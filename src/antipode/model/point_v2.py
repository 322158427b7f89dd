# SPDX-License-Identifier: Apache-2.0
"""Recovery points as documents of format 2: the schema, and the way from and to antipode's own.

The schema is frozen. It has no class in common with the VNF file or with the models that antipode
works with, so that these can change and no point becomes unreadable. docs/recovery-point.md has the
rules: a newer minor may add members, which a reader ignores; that which it must not ignore is named
in `requires`, as `requirements` finds it; all else needs a new format.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from antipode.errors import VaultCorrupt
from antipode.model import dns, requirements
from antipode.model.point import Moment, RecoveryPoint
from antipode.model.runbook import ALL
from antipode.model.source import BackupRecord, CinderTime, VolumeSource, backup_chain
from antipode.model.vnf import Vnf

LOG = logging.getLogger(__name__)
FORMAT: Literal[2] = 2
MINOR = 7
POINT_TYPE = "application/vnd.antipode.recovery-point+json"
"""The payload type of the envelope that a manifest is signed in."""
LARGEST_MANIFEST = 16 << 20
LARGEST_RECORDS = 4 << 20
"""Bytes; a larger document is refused before it is parsed."""
SEGMENT = 64
"""The most records of a chain that are sealed in one document."""
IMAGES = "images"
"""Required by a point with root disks on hypervisors, whose sources are images."""
BASE_IMAGES = "base-images"
"""Required by a point with root disks that are made again from images of its sites."""
DATASTORES = "datastores"
"""Required by a point with data that an application replicates, which is to be promoted."""
SHARED_VOLUMES = "shared-volumes"
"""Required by a point with volumes that several servers have, which are to be restored once."""
_NAMES_VARIABLES = 5
"""The minor since which the command of a probe gets the variables that are named, and not all."""
_SECRET = ("user_data", "keypair", "keypair_gone")
"""Fields of a server that are encrypted."""

Id = Annotated[str, Field(min_length=1, max_length=255)]
Text = Annotated[str, Field(max_length=65_535)]
Line = Annotated[str, Field(max_length=1024)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Words = Annotated[dict[Id, Text], Field(max_length=1000)]


class Part(BaseModel):
    """A part of a document. Members that this reader does not know are of a newer minor, and
    ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)


class Backend(Part):
    """What the storage of the site calls a volume; see `BackendReference`."""

    name: Line | None = None
    driver_volume_type: Line | None = None
    connection: Annotated[dict[Line, Line], Field(max_length=32)] = {}
    host: Line | None = None
    name_id: Line | None = None
    provider_id: Line | None = None
    location: Line | None = None
    missing: Annotated[list[Line], Field(max_length=8)] = []


class Volume(Part):
    id: Id
    name: Text
    size_gib: Count
    volume_type: Text
    bootable: bool
    encrypted: bool = False
    multiattach: bool = False
    availability_zone: Text = ""
    description: Text = ""
    metadata: Words = {}
    image_metadata: Words = {}
    backend_host: Text | None = None
    backend_name: Text | None = None
    backend: Backend | None = None


class Attachment(Part):
    volume: Volume
    device: Text
    is_root: bool
    delete_on_termination: bool = False
    tag: Text | None = None


class FixedAddress(Part):
    address: Text
    subnet_cidr: Text
    subnet_name: Text


class Port(Part):
    id: Id
    name: Text
    network: Text
    network_id: Text = ""
    mac_address: Text
    fixed: list[FixedAddress]
    security_groups: list[Text] = []
    allowed_address_pairs: list[Words] = []
    port_security_enabled: bool = True
    vnic_type: Text = "normal"
    device_tag: Text | None = None
    tags: list[Text] = []
    description: Text = ""
    admin_state_up: bool = True
    device_owner: Text = ""
    dhcp_options: list[DhcpOption] = []
    dns_name: Text = ""
    dns_domain: Text = ""
    qos_policy: Text | None = None
    numa_affinity_policy: Text | None = None
    propagate_uplink_status: bool | None = None
    binding_profile: dict[Id, Any] = {}
    trunk: Trunk | None = None


class DhcpOption(Part):
    name: Text
    value: Text
    ip_version: Count = 4


class Subport(Part):
    port: Port
    segmentation_type: Text
    segmentation_id: Count


class Trunk(Part):
    name: Text
    description: Text = ""
    admin_state_up: bool = True
    tags: list[Text] = []
    subports: Annotated[list[Subport], Field(max_length=4096)]


class FloatingIp(Part):
    address: Text
    fixed_address: Text
    port: Id
    description: Text = ""


class Subnet(Part):
    id: Id
    name: Text
    cidr: Text
    ip_version: Count
    gateway_ip: Text | None
    enable_dhcp: bool
    dns_nameservers: list[Text] = []
    host_routes: list[Words] = []
    allocation_pools: list[Words] = []
    ipv6_address_mode: Text | None = None
    ipv6_ra_mode: Text | None = None
    service_types: list[Text] = []
    description: Text = ""
    tags: list[Text] = []
    has_router: bool = False


class Network(Part):
    id: Id
    name: Text
    subnets: Annotated[list[Subnet], Field(max_length=1000)]
    description: Text = ""
    tags: list[Text] = []
    admin_state_up: bool = True
    mtu: Count | None = None
    port_security_enabled: bool | None = None
    dns_domain: Text = ""
    qos_policy: Text | None = None
    vlan_transparent: bool = False
    shared: bool = False
    is_own: bool = True
    provider: dict[Id, Any] = {}


class SecurityGroupRule(Part):
    direction: Text
    ethertype: Text
    protocol: Text | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: Text | None = None
    remote_group: Id | None = None
    description: Text = ""


class SecurityGroup(Part):
    id: Id
    name: Text
    rules: Annotated[list[SecurityGroupRule], Field(max_length=10_000)]
    description: Text = ""
    tags: list[Text] = []
    stateful: bool = True
    is_own: bool = True


class Flavor(Part):
    name: Text
    vcpus: Count
    ram_mib: Count
    disk_gib: Count
    swap_mib: Count | None = None
    ephemeral_gib: Count | None = None
    extra_specs: Words = {}


class ServerGroup(Part):
    name: Text
    policy: Text
    rules: Annotated[dict[Id, int], Field(max_length=100)] = {}


class Server(Part):
    """A server, without what is encrypted of it."""

    id: Id
    name: Id
    hostname: Text
    flavor: Flavor
    attachments: Annotated[list[Attachment], Field(max_length=256)]
    ports: Annotated[list[Port], Field(max_length=256)]
    root_disk: Volume | None = None
    """on the hypervisor; of a server that boots from an image, since minor 1"""
    metadata: Words = {}
    tags: list[Text] = []
    config_drive: bool = False
    description: Text | None = None
    availability_zone: Text = ""
    server_group: ServerGroup | None = None
    scheduler_hints: Annotated[dict[Id, list[Text]], Field(max_length=100)] = {}
    interfaces_in_order: bool = True
    is_off: bool = False
    locked: bool = False
    locked_reason: Text | None = None


class Found(Part):
    """The VNF as it was found at its site; `servers` in the order of the plan's members."""

    discovered_at: Moment
    servers: Annotated[list[Server], Field(min_length=1, max_length=1000)]
    vip_ports: Annotated[list[Port], Field(max_length=1000)] = []
    unattached: Annotated[list[Volume], Field(max_length=1000)] = []
    """since minor 4"""
    floating_ips: Annotated[list[FloatingIp], Field(max_length=1000)] = []
    networks: Annotated[list[Network], Field(max_length=1000)] = []
    security_groups: Annotated[list[SecurityGroup], Field(max_length=1000)] = []
    not_carried: Annotated[list[Text], Field(max_length=1000)] = []
    """since minor 6"""


class HttpProbe(Part):
    """A GET and what it is answered with."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    path: Text = "/"
    tls: bool = False
    verify: bool = True
    host: Text | None = None
    status: Annotated[list[int], Field(min_length=1, max_length=100)] = [200]
    body: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class Probe(Part):
    """How to see that a member answers; its command, where it has one instead, is encrypted."""

    tcp: Annotated[int, Field(ge=1, le=65535)] | None = None
    at: dict[Name, Text] = {}
    http: HttpProbe | None = None
    console: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    within: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 300.0


class DrillProbe(Part):
    """How to see that a member answers in a drill, which no recovery needs."""

    console: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    within: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 300.0


class Selector(Part):
    tag: Text | None = None
    metadata: Words | None = None
    server_group: Text | None = None
    stack: Text | None = None
    """of Heat, at the site where the servers were made"""


class Member(Part):
    server: Id
    name: Name | None = None
    """of the entry of the VNF file that has selected it"""
    select: Selector | None = None
    boot_before: list[Id] = []
    boot_after: list[Id] = []
    user_data: Literal["keep", "drop"] | None = None
    root: Literal["rebuild"] | None = None
    """whether it comes back"""
    recover: Annotated[str, Field(max_length=300)] | None = None
    """how it comes back where it is not captured; since minor 4"""
    role: Annotated[str, Field(max_length=80)] | None = None
    """active, standby, or cluster=NAME"""
    pause: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """seconds after its capture before the next member's"""
    interfaces: list[Text] = []
    probe: Probe | None = None
    drill: DrillProbe | None = None


class Names(Part):
    """How names at the primary translate at a backup site."""

    networks: Words = {}
    volume_types: Words = {}
    flavors: Words = {}
    security_groups: Words = {}
    availability_zones: Words = {}
    server_zones: Words = {}
    volume_zones: Words = {}
    server_groups: Words = {}
    server_group_policies: Words = {}
    qos_policies: Words = {}
    physical_networks: Words = {}
    addresses: Words = {}
    floating_ips: Words = {}


class DnsRecord(Part):
    """Records in DNS that lead users to the VNF."""

    name: Text
    type: Annotated[str, Field(max_length=16)]
    provider: Name | None = None
    """of the configuration of the host that recovers"""
    members: Annotated[list[Id], Field(max_length=1000)] = []
    port: Text | None = None
    network: Text | None = None
    floating: bool = False
    targets: Words = {}
    ttl: Count = 60


class Plan(Part):
    """The inputs of a recovery plan, as they were when the point was made."""

    project: Name | None = None
    """of the configuration of the host that recovers; since minor 5"""
    primary: Name
    backup: Annotated[list[Name], Field(min_length=1)]
    members: Annotated[list[Member], Field(min_length=1, max_length=1000)]
    map: Names = Names()
    maps: dict[Name, Names] = {}
    capture: Annotated[list[Annotated[str, Field(max_length=80)]], Field(max_length=1000)] = []
    """of which members only a part is captured; since minor 4"""
    ports: list[Text] = []
    volumes: Annotated[list[Annotated[str, Field(max_length=255)]], Field(max_length=1000)] = []
    """of no server; since minor 4"""
    networks: Literal["map", "create"] = "map"
    provider_attributes: Literal["drop", "keep"] = "drop"
    store: Name | None = None
    dns: Annotated[list[DnsRecord], Field(max_length=1000)] = []


class Window(Part):
    total_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    per_member_s: dict[Id, float]


class Sealed(Part):
    """A document of records by the last backup in it and by the SHA-256 of its bytes."""

    backup: Name
    sha256: Digest


class Source(BaseModel):
    """Where the bytes of a volume are. A kind that this antipode does not know, and members that
    its kind does not know, are refused: they are what is restored.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Id
    chain: Sealed | None = None
    """of a chain of backups: the document that its records end in"""
    length: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """how many backups the chain has"""
    bytes: Count | None = None
    """what all backups of the chain take in the store; None when unknown"""

    @model_validator(mode="after")
    def is_whole(self) -> Self:
        if (self.chain is None) != (self.length is None):
            raise ValueError("a chain has a length, and a length a chain")
        return self


class KeptPosition(Part):
    """The data of an application; see `datastore.KeptPosition`."""

    storage: Name
    position: Annotated[str, Field(min_length=1, max_length=255)]
    sites: Annotated[list[Name], Field(min_length=1, max_length=1000)]
    references: Annotated[dict[Name, Line], Field(max_length=1000)] = {}


class Manifest(Part):
    """The signed document of a recovery point."""

    format: Literal[2]
    minor: Count
    requires: list[Id] = []
    """what a reader must know that may not ignore it"""
    id: Name
    vnf: Name
    run: Id
    generation: Annotated[int, Field(ge=1)]
    serial: Count = 0
    option: Name
    site: Name
    consistent_at: Moment
    created_at: Moment
    consistency: Id
    quiesce_window: Window | None
    moments: dict[Id, Moment] = {}
    """server -> its own moment; empty where all have the same one"""
    made_by: Text
    found: Found
    sources: dict[Id, Source]
    datastores: Annotated[dict[Name, KeptPosition], Field(max_length=1000)] = {}
    """since minor 3"""
    plan: Plan
    secret: Annotated[str, Field(max_length=LARGEST_MANIFEST)]
    """age, armored: a `Secret` as JSON"""


class Keypair(Part):
    name: Text
    public_key: Text
    type: Text = "ssh"


class SecretOfServer(Part):
    user_data: Text | None = None
    keypair: Keypair | None = None
    keypair_gone: Text | None = None
    """since minor 6"""


class Prompt(Part):
    """A question to an operator."""

    message: Text
    answer: Literal["yes-no", "text"] = "yes-no"


class FromElsewhere(Part):
    """A value that the recovering host has."""

    file: Text | None = None
    env: Text | None = None
    prefix: Text = ""


class HttpCall(Part):
    """A call of a web service."""

    url: Text
    method: Annotated[str, Field(max_length=20)] = "POST"
    headers: Annotated[dict[Id, FromElsewhere | Text], Field(max_length=1000)] = {}
    body: Text | None = None
    expect: Annotated[list[int], Field(max_length=1000)] = []


class Script(Part):
    """A program that a runner of the recovering host runs."""

    runner: Name
    command: Annotated[list[Text], Field(min_length=1, max_length=1000)]


class RunbookStep(Part):
    """What is done beside the recovery of the members; see `runbook.RunbookStep`."""

    name: Name
    before: Literal["all"] | Annotated[list[Id], Field(max_length=1000)] | None = None
    after: Literal["all"] | Annotated[list[Id], Field(max_length=1000)] | None = None
    on: Annotated[list[Id], Field(min_length=1, max_length=100)]
    to: list[Name] = []
    within: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    on_error: Annotated[str, Field(max_length=80)] = "stop"
    wait: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    prompt: Prompt | None = None
    command: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None
    http: HttpCall | None = None
    script: Script | None = None
    variables: Annotated[list[Id], Field(max_length=100)] = []


class Secret(Part):
    """What is encrypted of a recovery point."""

    servers: dict[Id, SecretOfServer]
    """by id"""
    commands: dict[Id, Annotated[list[Text], Field(min_length=1)]]
    """by member: the command that shows that it answers"""
    variables: dict[Id, Literal["all"] | Annotated[list[Id], Field(max_length=100)]] = {}
    """by member: what that command gets of the environment of the recovering host beside what all
    programs get; since minor 5
    """
    definition: dict[str, Any]
    """what else the VNF file said; a reader takes the members that it knows"""
    steps: Annotated[list[RunbookStep], Field(max_length=1000)] = []
    """the runbook"""


KNOWN_REQUIREMENTS = requirements.known_to(
    [
        *(Volume, Attachment, FixedAddress, Port, DhcpOption, Subport, Trunk, FloatingIp, Flavor),
        *(ServerGroup, Server, Found, Probe, Member, Names, Plan),
        *(Network, Subnet, SecurityGroup, SecurityGroupRule, Selector, DnsRecord),
        *(Secret, RunbookStep, Prompt, HttpProbe, HttpCall, FromElsewhere, Script),
    ]
) | {IMAGES, BASE_IMAGES, DATASTORES, SHARED_VOLUMES}
"""All requirements of recovery points that this reader can meet."""


class StoredObjects(Part):
    prefix: Text
    objects: Count
    bytes: Count
    sha256: Digest


class Record(Part):
    """One backup; see `BackupRecord`."""

    id: Name
    volume_id: Id
    parent_id: Name | None
    size_gib: Count
    object_count: Count
    container: Text
    created_at: CinderTime
    service: Text
    url: Text
    stored: StoredObjects | None = None


class Records(Part):
    """A piece of a chain of backups: the records that end at `position`, and what they rest on."""

    format: Literal[2]
    vnf: Name
    position: Annotated[int, Field(ge=1)]
    """of the last record in its chain; the full backup has 1"""
    records: Annotated[list[Record], Field(min_length=1)]
    parent: Sealed | None
    """the document that ends with the record before these"""

    @model_validator(mode="after")
    def reaches_its_base_or_names_it(self) -> Self:
        if self.position < len(self.records):
            raise ValueError(f"{len(self.records)} records end at position {self.position}")
        if (self.position == len(self.records)) != (self.parent is None):
            raise ValueError("either the chain begins here, or a parent is named")
        return self


AnyPart = TypeVar("AnyPart", bound=BaseModel)


def dumped(part: BaseModel) -> bytes:
    """A part as the one byte string that digests and signatures are made over."""
    document = part.model_dump(mode="json")
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def parsed(kind: type[AnyPart], document: bytes, name: str, largest: int) -> AnyPart:
    """A part from its bytes.

    Args:
        name: of the document, for messages.
        largest: bytes that it may have.

    Raises:
        VaultCorrupt: it is none, too large, or of a format that this version does not know.
    """
    if len(document) > largest:
        raise VaultCorrupt(f"{name} has {len(document)} bytes, and may have {largest}")
    try:
        found = json.loads(document.decode())
    except (ValueError, RecursionError) as error:
        raise VaultCorrupt(f"{name} is damaged ({type(error).__name__})") from error
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise VaultCorrupt(
            f"{name} has format {found['format']!r}; this antipode reads formats 1 and {FORMAT}."
            " Use a newer antipode"
        )
    try:
        return kind.model_validate(found)
    except (ValidationError, ValueError, RecursionError) as error:
        raise VaultCorrupt(f"{name} is not valid: {reason(error)}") from error


def read_manifest(payload: bytes, name: str) -> Manifest:
    """The manifest in the payload of an envelope.

    Raises:
        VaultCorrupt: as `parsed`; or it requires what this antipode does not know.
    """
    manifest = parsed(Manifest, payload, name, LARGEST_MANIFEST)
    if unknown := sorted(set(manifest.requires) - KNOWN_REQUIREMENTS):
        raise VaultCorrupt(
            f"{name} requires {', '.join(unknown)}, which this antipode does not know. Use a newer"
            " antipode"
        )
    return manifest


def manifest_of(point: RecoveryPoint, chains: Mapping[str, Sealed], secret: str) -> Manifest:
    """The manifest of a point.

    Args:
        chains: volume id -> the document that the records of its chain end in.
        secret: `secret_of` the point, encrypted.
    """
    found = Found.model_validate(point.topology.model_dump(mode="json"))
    plan = _plan(point.vnf)
    encrypted = secret_of(point)
    return Manifest(
        format=FORMAT,
        minor=MINOR,
        requires=sorted(
            requirements.required_by(found)
            | requirements.required_by(plan)
            | requirements.required_by(encrypted)
            | ({IMAGES} if point.images else set())
            | ({BASE_IMAGES} if point.rebuilds else set())
            | ({DATASTORES} if point.datastores else set())
            | ({SHARED_VOLUMES} if point.topology.shared_volumes else set())
        ),
        id=point.id,
        vnf=point.vnf.vnf,
        run=point.run,
        generation=point.generation,
        serial=point.serial,
        option=point.option,
        site=point.site,
        consistent_at=point.consistent_at,
        created_at=point.created_at,
        consistency=point.consistency,
        quiesce_window=None
        if point.quiesce_window is None
        else Window.model_validate(point.quiesce_window.model_dump()),
        moments=dict(point.moments),
        made_by=point.made_by,
        found=found,
        sources={v: _source(s, chains.get(v)) for v, s in point.sources.items()},
        datastores={
            name: KeptPosition.model_validate(kept.model_dump())
            for name, kept in point.datastores.items()
        },
        plan=plan,
        secret=secret,
    )


def misfits(vnf: Vnf) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """The parts of a definition that no recovery point can carry: places in the VNF file, and why.

    They would fail a protection at its commit, after the freeze.
    """
    each = {m.label: [m.label] for m in vnf.members if m.is_open}  # selects at least one
    try:
        _plan(vnf.with_selected(each))
    except ValidationError as error:
        for found in error.errors():
            place = tuple("answers" if part == "probe" else part for part in found["loc"])
            yield place, f"no recovery point can carry it: {found['msg']}"
    for number, step in enumerate(vnf.steps):
        try:
            RunbookStep.model_validate(step.model_dump(mode="json"))
        except ValidationError as error:
            for found in error.errors():
                place = ("steps", number, *found["loc"])
                yield place, f"no recovery point can carry it: {found['msg']}"


def secret_of(point: RecoveryPoint) -> Secret:
    """What is encrypted of a point."""
    vnf = point.vnf.model_dump(mode="json")
    return Secret(
        servers={
            server.id: SecretOfServer.model_validate(server.model_dump(include=set(_SECRET)))
            for server in point.topology.servers
        },
        commands={
            m.server: m.answers.command
            for m in point.vnf.members
            if m.answers and m.answers.command
        },
        variables={
            m.server: m.answers.variables
            for m in point.vnf.members
            if m.answers and m.answers.variables
        },
        definition={k: v for k, v in vnf.items() if k not in {"vnf", "steps", *Plan.model_fields}},
        steps=[RunbookStep.model_validate(step) for step in vnf["steps"]],
    )


def point_of(
    manifest: Manifest, chains: Mapping[str, Sequence[Record]], secret: Secret | None
) -> RecoveryPoint:
    """The recovery point of a manifest.

    Args:
        chains: volume id -> the records of its chain, base first.
        secret: None when this host has no identity that opens it: the point is `locked`.

    Raises:
        ValueError: its parts do not fit together.
    """
    fields = manifest.model_dump(mode="json")
    servers = fields["found"]["servers"]
    for server in servers:
        if secret is not None and server["id"] in secret.servers:
            server |= secret.servers[server["id"]].model_dump(mode="json")
    return RecoveryPoint.model_validate(
        {
            **{k: fields[k] for k in _AS_IT_IS},
            "vnf": _vnf(manifest, secret),
            "topology": {
                "vnf": manifest.vnf,
                "site": manifest.site,
                "discovered_at": manifest.found.discovered_at,
                "servers": servers,
                "vip_ports": fields["found"]["vip_ports"],
                "unattached": fields["found"]["unattached"],
                "floating_ips": fields["found"]["floating_ips"],
                "networks": fields["found"]["networks"],
                "security_groups": fields["found"]["security_groups"],
                "not_carried": fields["found"]["not_carried"],
            },
            "sources": {v: _fields_of(s, chains.get(v)) for v, s in manifest.sources.items()},
            "locked": secret is None,
        }
    )


_AS_IT_IS = (
    "id",
    "run",
    "option",
    "generation",
    "serial",
    "consistent_at",
    "created_at",
    "consistency",
    "quiesce_window",
    "moments",
    "datastores",
    "made_by",
)
"""Members of a manifest that a recovery point has under the same name."""


def records_of(
    vnf: str, position: int, records: Sequence[BackupRecord], parent: Sealed | None
) -> Records:
    """A piece of a chain, to be sealed."""
    return Records(
        format=FORMAT,
        vnf=vnf,
        position=position,
        records=[Record.model_validate(r.model_dump(mode="json")) for r in records],
        parent=parent,
    )


def reason(error: Exception) -> str:
    """Why something is not valid, in a line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    return str(error) or type(error).__name__


def _source(source: VolumeSource, chain: Sealed | None) -> Source:
    fields = source.model_dump(mode="json")
    if fields.get("key", ...) is None:
        del fields["key"]  # a reader that knows no such member refuses the source
    backups = backup_chain(source)
    if chain is None:
        return Source.model_validate(fields)
    del fields["backups"]
    stored = [b.stored for b in backups]
    known = None if None in stored else sum(s.bytes for s in stored if s)
    return Source.model_validate({**fields, "chain": chain, "length": len(backups), "bytes": known})


def _fields_of(source: Source, records: Sequence[Record] | None) -> dict[str, Any]:
    """The fields of a source as antipode's own model of its kind has them."""
    fields = source.model_dump(mode="json", exclude={"chain", "length", "bytes"})
    if records is not None:
        fields["backups"] = [r.model_dump(mode="json") for r in records]
    return fields


def _plan(vnf: Vnf) -> Plan:
    members = [
        {**member.model_dump(mode="json"), "probe": member.answers and _probe(member.answers)}
        for member in vnf.members
    ]
    return Plan.model_validate({**vnf.model_dump(mode="json"), "members": members})


def _probe(answers: Any) -> dict[str, Any]:
    fields: dict[str, Any] = answers.model_dump(mode="json", exclude={"command", "variables"})
    return fields


def _vnf(manifest: Manifest, secret: Secret | None) -> Vnf:
    """The definition of the VNF as it was. Of what does not concern a recovery, that is taken which
    this antipode knows: the VNF file of another version may have had more.
    """
    plan = manifest.plan.model_dump(mode="json")
    commands = {} if secret is None else secret.commands
    variables = {} if secret is None else secret.variables
    unnamed: str | list[str] = ALL if manifest.minor < _NAMES_VARIABLES else []
    for member in plan["members"]:
        probe, command = member.pop("probe"), commands.get(member["server"])
        ways = probe and [command, probe["tcp"], probe["http"], probe["console"]]
        if ways and any(way is not None for way in ways):
            member["answers"] = {**probe, "command": command}
            if command is not None:
                member["answers"]["variables"] = variables.get(member["server"], unnamed)
        drill = member.pop("drill")
        if drill is not None and drill["console"] is not None:
            member["drill"] = drill
    plan["dns"] = list(_known_records(manifest.id, plan["dns"]))
    steps = [] if secret is None else [step.model_dump(mode="json") for step in secret.steps]
    needed = {"vnf": manifest.vnf, **plan, "steps": steps}
    more = {} if secret is None else secret.definition
    known = {k: v for k, v in more.items() if k in Vnf.model_fields and k not in needed}
    try:
        return Vnf.model_validate({**needed, **known})
    except ValidationError as error:
        vnf = Vnf.model_validate(needed)
        LOG.warning(
            "recovery point %s: settings of %s that do not concern a recovery are left out, as"
            " another version of antipode made them: %s",
            manifest.id,
            vnf.vnf,
            reason(error),
        )
        return vnf


def _known_records(point: str, records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records in DNS that this antipode can switch. A newer one may have others, without which
    a VNF is recovered all the same.
    """
    for record in records:
        try:
            dns.DnsRecord.model_validate(record)
        except ValidationError as error:
            LOG.warning(
                "recovery point %s: DNS record %s %s is left out, as another version of antipode"
                " made it: %s",
                point,
                record["name"],
                record["type"],
                reason(error),
            )
        else:
            yield record

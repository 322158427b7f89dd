# SPDX-License-Identifier: Apache-2.0
"""What the answers of a site must have: each resource that antipode reads, with the fields that
its users may rely on.

A required field is there in every release from the least to the most microversion that we
negotiate (Nova 2.79 to 2.100, Cinder 3.47 to 3.70, Neutron 2.0). A field that a policy, an
extension or a microversion may hide is not required; null stands for it, too, where the service
writes null. Fields that antipode does not read pass unchecked.
"""

from __future__ import annotations

from functools import cached_property
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, NotRequired

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from antipode.errors import UnexpectedAnswer
from antipode.model.source import CinderTime

LONGEST = 1 << 22
"""Characters of a text: Nova's user_data, the largest, has at most 65,535."""
_READABLE, _CELL_DOWN = "readable server", "server of a cell that is down"


class Shape:
    """What must be in an answer at one key."""

    def __init__(self, key: str, of: Any) -> None:
        self.key = key
        self._items: Any = list[of]

    @cached_property
    def _adapter(self) -> TypeAdapter[list[Any]]:
        """Made at its first use, as a process needs few of them; of a list, as pydantic takes no
        settings for a TypedDict by itself.
        """
        return TypeAdapter(self._items, config=ConfigDict(extra="allow", strict=True))

    def read(self, body: Any, site: str, call: str) -> Any:
        """The checked content of an answer's body.

        Raises:
            UnexpectedAnswer: it is not as this shape says.
        """
        if not isinstance(body, dict) or self.key not in body:
            raise UnexpectedAnswer(site, call, f"it has no {self.key}")
        return self.check(body[self.key], site, call)

    def check(self, content: Any, site: str, call: str) -> Any:
        """As `read`, for what stands under no key."""
        try:
            return self._adapter.validate_python([content])[0]
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise UnexpectedAnswer(
                site, call, self._problem(content, first["loc"][1:], first["msg"])
            ) from None

    def _problem(self, content: Any, place: tuple[int | str, ...], message: str) -> str:
        resource = self.key
        if isinstance(content, list) and place and isinstance(place[0], int):
            resource, content, place = (
                f"item {place[0]} of {self.key}",
                content[place[0]],
                place[1:],
            )
        if isinstance(content, dict):
            names = [n for k in ("name", "id") if isinstance(n := content.get(k), str) and n]
            resource = " ".join([resource, *(f"({printable(n)})" for n in names)])
        field = ".".join(str(p) for p in place if p not in (_READABLE, _CELL_DOWN))
        return f"{resource}: {printable(field)}: {message}" if field else f"{resource}: {message}"


class Listing(Shape):
    """The items of a listing at one key, and the links to its next page beside them."""

    def __init__(self, key: str, of: Any) -> None:
        super().__init__(key, list[of])
        self._links = Shape(f"{key}_links", list[_Link])

    def has_more(self, body: Any, site: str, call: str) -> bool:
        """Whether a page says that there is another after it.

        Raises:
            UnexpectedAnswer: its links cannot be read.
        """
        links = body.get(self._links.key) or []
        return any(x.get("rel") == "next" for x in self._links.check(links, site, call))


class LinkedListing(Listing):
    """A listing whose page names the next one at the key `next`, as Glance's does."""

    def has_more(self, body: Any, site: str, call: str) -> bool:
        return bool(body.get("next"))


def printable(text: str, longest: int = 300) -> str:
    """Text of a service as it can be printed and stored anywhere: cut, no lone surrogates."""
    return text[:longest].encode("utf-8", "replace").decode()


def _or(default: Any) -> BeforeValidator:
    """Null stands for `default`."""
    return BeforeValidator(lambda value: default() if value is None else value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if v is not None}
    return {} if value is None else value


def _address(value: str) -> str:
    ip_address(value)
    return value


def _cidr(value: str) -> str:
    ip_network(value)
    return value


def _pair(value: dict[str, str]) -> dict[str, str]:
    if cidr := value.get("ip_address"):
        ip_network(cidr, strict=False)
    return value


Text = Annotated[str, Field(max_length=LONGEST)]  # the bound has pydantic look for surrogates, too
Maybe = Text | None
OrEmpty = Annotated[Text, _or(str)]
Id = Annotated[Text, Field(min_length=1)]
Flag = Annotated[bool, _or(bool)]
Texts = Annotated[dict[Text, Text], BeforeValidator(_without_nulls)]
TextList = Annotated[list[Text], _or(list)]
Count = Annotated[int, Field(ge=0, le=1 << 50)]
Amount = Annotated[int, Field(ge=-(1 << 50), le=1 << 50)]
"""-1 means without limit in a quota."""


class _Link(TypedDict):
    rel: NotRequired[Maybe]


class _Made(TypedDict):
    id: Id


# ---- Nova ----


class _ServerAction(TypedDict):
    action: Text
    project_id: NotRequired[Maybe]


class _FlavorOfServer(TypedDict):
    original_name: Text
    vcpus: Count
    ram: Count
    disk: Count
    ephemeral: NotRequired[Count]
    swap: NotRequired[Count]
    extra_specs: NotRequired[Texts]


class _Fault(TypedDict):
    message: NotRequired[Maybe]


_Address = TypedDict("_Address", {"OS-EXT-IPS-MAC:mac_addr": Text})

_ServerExtensions = TypedDict(
    "_ServerExtensions",
    {
        "OS-EXT-AZ:availability_zone": NotRequired[Maybe],
        "OS-EXT-SRV-ATTR:host": NotRequired[Maybe],
        "OS-EXT-SRV-ATTR:hostname": NotRequired[Maybe],
        "OS-EXT-SRV-ATTR:root_device_name": NotRequired[Maybe],
        "OS-EXT-SRV-ATTR:user_data": NotRequired[Maybe],
        "OS-EXT-STS:task_state": NotRequired[Maybe],
        "OS-EXT-STS:vm_state": NotRequired[Maybe],
    },
)


class _Server(_ServerExtensions):
    id: Id
    name: Text
    status: Text
    user_id: Text
    metadata: Texts
    flavor: _FlavorOfServer
    addresses: dict[Text, list[_Address]]
    key_name: NotRequired[Maybe]
    config_drive: NotRequired[Text | bool | None]
    description: NotRequired[Maybe]
    tags: NotRequired[TextList]
    locked: NotRequired[Flag]
    locked_reason: NotRequired[Maybe]
    updated: NotRequired[Maybe]
    fault: NotRequired[_Fault | None]
    pinned_availability_zone: NotRequired[Maybe]
    scheduler_hints: NotRequired[dict[Text, list[Text]] | None]


class _Unreadable(TypedDict):
    """What Nova tells of a server whose cell does not answer (2.69), and no name."""

    id: Id
    status: Text
    name: Text
    metadata: Texts


def _kind_of_server(server: Any) -> str:
    return _CELL_DOWN if _is_of_dead_cell(server) else _READABLE


def _is_of_dead_cell(server: Any) -> bool:
    return isinstance(server, dict) and server.get("status") == "UNKNOWN" and not server.get("name")


def _named(server: Any) -> Any:
    return {"metadata": {}, **server, "name": ""} if _is_of_dead_cell(server) else server


_AnyServer = Annotated[
    Annotated[_Server, Tag(_READABLE)] | Annotated[_Unreadable, Tag(_CELL_DOWN)],
    Discriminator(_kind_of_server),
    BeforeValidator(_named),
]


class _AttachedVolume(TypedDict):
    volumeId: Id
    device: NotRequired[Maybe]
    tag: NotRequired[Maybe]
    delete_on_termination: NotRequired[Flag]
    attachment_id: NotRequired[Maybe]


class _Interface(TypedDict):
    port_id: Id
    tag: NotRequired[Maybe]


class _Nic(TypedDict):
    mac_address: Text


_FlavorExtension = TypedDict("_FlavorExtension", {"OS-FLV-EXT-DATA:ephemeral": NotRequired[Count]})


class _Flavor(_FlavorExtension):
    id: Id
    name: Text
    vcpus: Count
    ram: Count
    disk: NotRequired[Count]
    swap: NotRequired[Count]
    extra_specs: NotRequired[Texts]


class _Keypair(TypedDict):
    name: Text
    public_key: Text
    type: NotRequired[Text]


class _ServerGroup(TypedDict):
    id: Id
    name: Text
    members: TextList
    policy: NotRequired[Maybe]
    policies: NotRequired[TextList]
    rules: NotRequired[Annotated[dict[Text, Count], BeforeValidator(_without_nulls)]]


class _Service(TypedDict):
    host: Text
    state: Text
    status: Text


class _ZoneState(TypedDict):
    available: bool


class _Zone(TypedDict):
    zoneName: Text
    zoneState: _ZoneState


class _AddOn(TypedDict):
    version: Text
    maximum_timeout: Annotated[float, Field(ge=0, le=1 << 31, allow_inf_nan=False)]


class _Freeze(TypedDict):
    quiesced: bool
    id: NotRequired[Maybe]
    state: NotRequired[Maybe]


def _rows(quota: Any) -> Any:
    """The rows of a quota set: Nova and Cinder put the project's id beside them."""
    if isinstance(quota, dict):
        return {k: v for k, v in quota.items() if isinstance(v, dict)}
    return quota


class _Quota(TypedDict):
    limit: Amount
    in_use: Amount
    reserved: Amount


class _NetworkQuota(TypedDict):
    limit: Amount
    used: Amount
    reserved: Amount


SERVER = Shape("server", _AnyServer)
SERVERS = Listing("servers", _AnyServer)
MADE_SERVER = Shape("server", _Made)
SERVER_ACTIONS = Shape("instanceActions", list[_ServerAction])
ATTACHMENTS = Shape("volumeAttachments", list[_AttachedVolume])
INTERFACES = Shape("interfaceAttachments", list[_Interface])
DIAGNOSTICS = Shape("nic_details", list[_Nic])
FLAVORS = Listing("flavors", _Flavor)
KEYPAIR = Shape("keypair", _Keypair)
SERVER_GROUPS = Shape("server_groups", list[_ServerGroup])
MADE_SERVER_GROUP = Shape("server_group", _Made)
SERVICES = Shape("services", list[_Service])
ZONES = Shape("availabilityZoneInfo", list[_Zone])
ADD_ON = Shape("quiesce", _AddOn)
FREEZE = Shape("quiesce", _Freeze)
QUOTA_SET = Shape("quota_set", Annotated[dict[Text, _Quota], BeforeValidator(_rows)])


# ---- Cinder ----

_VolumeExtensions = TypedDict(
    "_VolumeExtensions",
    {
        "os-vol-host-attr:host": NotRequired[Maybe],
        "os-vol-mig-status-attr:name_id": NotRequired[Maybe],
    },
)


class _Attached(TypedDict):
    server_id: Maybe


class _Volume(_VolumeExtensions):
    id: Id
    name: OrEmpty
    status: Text
    size: Count
    created_at: Text
    volume_type: Maybe
    bootable: Text | bool
    metadata: Texts
    description: OrEmpty
    availability_zone: NotRequired[Maybe]
    encrypted: NotRequired[Flag]
    encryption_key_id: NotRequired[Maybe]
    multiattach: NotRequired[Flag]
    attachments: NotRequired[list[_Attached]]
    volume_image_metadata: NotRequired[Texts]
    provider_id: NotRequired[Maybe]
    replication_status: NotRequired[Maybe]
    group_id: NotRequired[Maybe]


class _TypeEncryption(TypedDict):
    provider: Text
    cipher: NotRequired[Maybe]
    key_size: NotRequired[Count | None]


class _VolumeType(TypedDict):
    id: Id
    name: Text
    extra_specs: NotRequired[Texts]


class _Snapshot(TypedDict):
    id: Id
    volume_id: Id
    size: NotRequired[Count]
    name: NotRequired[Maybe]
    status: Text
    metadata: Texts


class _VolumeGroup(TypedDict):
    id: Id
    name: OrEmpty
    status: Text
    group_type: Text
    replication_status: NotRequired[Maybe]


class _Target(TypedDict):
    backend_id: Text


class _GroupSnapshot(TypedDict):
    id: Id
    status: Text


class _GroupType(TypedDict):
    id: Id
    name: Text
    group_specs: NotRequired[Texts]


class _VolumeAttachment(TypedDict):
    id: Id
    volume_id: Id
    instance: Maybe
    connection_info: NotRequired[dict[Text, Any] | None]


class _MadeAttachment(TypedDict):
    id: Id
    connection_info: dict[Text, Any]


class _Pool(TypedDict):
    name: Text
    capabilities: NotRequired[Annotated[dict[Text, Any], _or(dict)]]


class _Manageable(TypedDict):
    reference: Annotated[dict[Text, Any], Field(min_length=1)]
    size: Annotated[float, Field(ge=0, le=1 << 50)]
    safe_to_manage: bool
    reason_not_safe: Maybe
    cinder_id: Maybe


class _ManageableSnapshot(_Manageable):
    source_reference: dict[Text, Any]


class _Backup(TypedDict):
    id: Id
    name: NotRequired[Maybe]
    status: Text
    volume_id: Id
    size: Count | None
    object_count: Count | None
    container: OrEmpty
    created_at: CinderTime
    data_timestamp: Maybe
    snapshot_id: Maybe
    metadata: Texts
    fail_reason: NotRequired[Maybe]
    encryption_key_id: NotRequired[Maybe]


def _sized(backup: Any) -> Any:
    """Of a backup that is being imported Cinder knows no size; of one to be restored it must."""
    if backup["status"] == "available" and backup["size"] is None:
        raise ValueError("it is available and has no size")
    return backup


class _ExportedRecord(TypedDict):
    backup_service: Text
    backup_url: Text


class _Record(TypedDict):
    id: Id
    volume_id: Id
    parent_id: NotRequired[Maybe]
    service_metadata: NotRequired[Maybe]


VOLUME = Shape("volume", _Volume)
VOLUMES = Listing("volumes", _Volume)
MADE_VOLUME = Shape("volume", _Made)
VOLUME_TYPES = Listing("volume_types", _VolumeType)
TYPE_ENCRYPTION = Shape("encryption", _TypeEncryption)
"""what an encrypted volume type has; a plain one has nothing"""
SNAPSHOTS = Listing("snapshots", _Snapshot)
SNAPSHOT = Shape("snapshot", _Snapshot)
MADE_SNAPSHOT = Shape("snapshot", _Made)
VOLUME_GROUPS = Listing("groups", _VolumeGroup)
MADE_GROUP = Shape("group", _Made)
GROUP_TYPES = Listing("group_types", _GroupType)
MADE_GROUP_TYPE = Shape("group_type", _Made)
GROUP_SNAPSHOTS = Listing("group_snapshots", _GroupSnapshot)
MADE_GROUP_SNAPSHOT = Shape("group_snapshot", _Made)
VOLUME_ATTACHMENTS = Shape("attachments", list[_VolumeAttachment])
MADE_ATTACHMENT = Shape("attachment", _MadeAttachment)
POOLS = Shape("pools", list[_Pool])
REPLICATION_TARGETS = Shape("replication_targets", list[_Target])
MANAGEABLE_VOLUMES = Shape("manageable-volumes", list[_Manageable])
MANAGEABLE_SNAPSHOTS = Shape("manageable-snapshots", list[_ManageableSnapshot])
BACKUPS = Listing("backups", Annotated[_Backup, AfterValidator(_sized)])
MADE_BACKUP = Shape("backup", _Made)
EXPORTED_RECORD = Shape("backup-record", _ExportedRecord)
RECORD = Shape("record", _Record)
"""what an exported record has, once it is decoded"""


# ---- Neutron ----


class _FixedAddress(TypedDict):
    ip_address: Annotated[Text, AfterValidator(_address)]
    subnet_id: Id


class _DhcpOption(TypedDict):
    opt_name: Text
    opt_value: Text
    ip_version: NotRequired[Count]


class _SubportOfTrunk(TypedDict):
    port_id: Id
    segmentation_type: Text
    segmentation_id: Count


class _TrunkDetails(TypedDict):
    trunk_id: Id


_PortExtensions = TypedDict(
    "_PortExtensions",
    {
        "binding:vnic_type": NotRequired[Text],
        "binding:profile": NotRequired[Annotated[dict[Text, Any], _or(dict)]],
    },
)


class _Port(_PortExtensions):
    id: Id
    name: OrEmpty
    network_id: Id
    device_id: OrEmpty
    mac_address: Text
    fixed_ips: list[_FixedAddress]
    description: NotRequired[Maybe]
    security_groups: NotRequired[TextList]
    allowed_address_pairs: NotRequired[
        Annotated[list[Annotated[Texts, AfterValidator(_pair)]], _or(list)]
    ]
    port_security_enabled: NotRequired[bool]
    tags: NotRequired[TextList]
    admin_state_up: NotRequired[bool]
    device_owner: NotRequired[OrEmpty]
    extra_dhcp_opts: NotRequired[Annotated[list[_DhcpOption], _or(list)]]
    dns_name: NotRequired[OrEmpty]
    dns_domain: NotRequired[OrEmpty]
    qos_policy_id: NotRequired[Maybe]
    numa_affinity_policy: NotRequired[Maybe]
    propagate_uplink_status: NotRequired[bool | None]
    trunk_details: NotRequired[_TrunkDetails | None]


class _Extension(TypedDict):
    alias: Id


class _QosPolicy(TypedDict):
    id: Id
    name: OrEmpty
    project_id: NotRequired[Maybe]
    shared: NotRequired[Flag]


class _Trunk(TypedDict):
    id: Id
    name: OrEmpty
    port_id: Id
    description: NotRequired[OrEmpty]
    admin_state_up: NotRequired[bool]
    tags: NotRequired[TextList]
    sub_ports: list[_SubportOfTrunk]


class _PortForwarding(TypedDict):
    internal_ip_address: NotRequired[Maybe]
    internal_port_id: NotRequired[Maybe]
    internal_port: NotRequired[Count | None]
    internal_port_range: NotRequired[Maybe]
    external_port: NotRequired[Count | None]
    external_port_range: NotRequired[Maybe]
    protocol: NotRequired[Maybe]


class _FloatingIp(TypedDict):
    id: Id
    floating_ip_address: Annotated[Text, AfterValidator(_address)]
    floating_network_id: Id
    fixed_ip_address: NotRequired[Maybe]
    port_id: NotRequired[Maybe]
    description: NotRequired[OrEmpty]
    port_forwardings: NotRequired[Annotated[list[_PortForwarding], _or(list)]]


_NetworkExtensions = TypedDict(
    "_NetworkExtensions",
    {
        "router:external": NotRequired[Flag],
        "provider:network_type": NotRequired[Maybe],
        "provider:physical_network": NotRequired[Maybe],
        "provider:segmentation_id": NotRequired[Count | None],
    },
)


class _Network(_NetworkExtensions):
    id: Id
    name: OrEmpty
    project_id: NotRequired[Maybe]
    shared: NotRequired[Flag]
    port_security_enabled: NotRequired[bool]
    description: NotRequired[OrEmpty]
    tags: NotRequired[TextList]
    admin_state_up: NotRequired[bool]
    mtu: NotRequired[Count | None]
    dns_domain: NotRequired[OrEmpty]
    qos_policy_id: NotRequired[Maybe]
    vlan_transparent: NotRequired[Flag]


class _Subnet(TypedDict):
    id: Id
    name: OrEmpty
    network_id: Id
    cidr: Annotated[Text, AfterValidator(_cidr)]
    ip_version: NotRequired[Count]
    gateway_ip: NotRequired[Maybe]
    enable_dhcp: NotRequired[bool]
    dns_nameservers: NotRequired[TextList]
    host_routes: NotRequired[Annotated[list[Texts], _or(list)]]
    allocation_pools: NotRequired[Annotated[list[Texts], _or(list)]]
    ipv6_address_mode: NotRequired[Maybe]
    ipv6_ra_mode: NotRequired[Maybe]
    service_types: NotRequired[TextList]
    description: NotRequired[OrEmpty]
    tags: NotRequired[TextList]


class _SecurityGroupRule(TypedDict):
    id: Id
    direction: Text
    ethertype: Text
    protocol: NotRequired[Maybe]
    port_range_min: NotRequired[int | None]
    port_range_max: NotRequired[int | None]
    remote_ip_prefix: NotRequired[Maybe]
    remote_group_id: NotRequired[Maybe]
    remote_address_group_id: NotRequired[Maybe]
    description: NotRequired[Maybe]


class _SecurityGroup(TypedDict):
    id: Id
    name: OrEmpty
    project_id: NotRequired[Maybe]
    shared: NotRequired[Flag]
    description: NotRequired[OrEmpty]
    tags: NotRequired[TextList]
    stateful: NotRequired[bool]
    security_group_rules: NotRequired[Annotated[list[_SecurityGroupRule], _or(list)]]


class _AddressGroup(TypedDict):
    id: Id
    addresses: TextList


class _Agent(TypedDict):
    id: Id
    agent_type: Text
    host: Text
    alive: bool
    admin_state_up: bool


PORTS = Listing("ports", _Port)
MADE_PORT = Shape("port", _Made)
EXTENSIONS = Shape("extensions", list[_Extension])
QOS_POLICIES = Listing("policies", _QosPolicy)
TRUNKS = Listing("trunks", _Trunk)
MADE_TRUNK = Shape("trunk", _Made)
FLOATING_IPS = Listing("floatingips", _FloatingIp)
NETWORKS = Listing("networks", _Network)
SUBNETS = Listing("subnets", _Subnet)
SECURITY_GROUPS = Listing("security_groups", _SecurityGroup)
ADDRESS_GROUPS = Listing("address_groups", _AddressGroup)
MADE_NETWORK = Shape("network", _Made)
MADE_SUBNET = Shape("subnet", _Made)
MADE_SECURITY_GROUP = Shape("security_group", _SecurityGroup)
AGENTS = Listing("agents", _Agent)
NETWORK_QUOTA = Shape("quota", Annotated[dict[Text, _NetworkQuota], BeforeValidator(_rows)])


# ---- Glance ----


class _Image(TypedDict):
    id: Id
    name: NotRequired[Maybe]
    status: Text
    size: NotRequired[Count | None]
    os_hash_algo: NotRequired[Maybe]
    os_hash_value: NotRequired[Maybe]
    disk_format: NotRequired[Maybe]
    container_format: NotRequired[Maybe]
    block_device_mapping: NotRequired[Maybe]
    owner: NotRequired[Maybe]
    visibility: NotRequired[Maybe]
    os_hidden: NotRequired[bool]
    min_disk: NotRequired[Count | None]
    min_ram: NotRequired[Count | None]


class _ImageMember(TypedDict):
    status: Text


class _ImageUsage(TypedDict):
    limit: int
    usage: int


class _BlockDevice(TypedDict):
    source_type: Text
    snapshot_id: NotRequired[Maybe]
    boot_index: NotRequired[int | None]


def _names_its_snapshot(device: Any) -> Any:
    if device["source_type"] == "snapshot" and not device.get("snapshot_id"):
        raise ValueError("it names no snapshot")
    return device


IMAGE = Shape("image", _Image)
IMAGES = LinkedListing("images", _Image)
IMAGE_MEMBER = Shape("member", _ImageMember)
IMAGE_USAGE = Shape("usage", dict[Text, _ImageUsage])
CONSOLE = Shape("output", str)
"""of Nova's answer to os-getConsoleOutput"""
MADE_IMAGE = Shape("image_id", Id)
"""of Nova's answer to createImage (2.45)"""
BLOCK_DEVICE_MAPPING = Shape(
    "block_device_mapping", list[Annotated[_BlockDevice, AfterValidator(_names_its_snapshot)]]
)


# ---- Designate ----


class _DnsZone(TypedDict):
    id: Id
    name: Text
    status: Text
    ttl: Count


class _RecordSet(TypedDict):
    id: Id
    name: Text
    type: Text
    ttl: Count | None
    records: list[Text]
    status: Text


DNS_ZONES = Shape("zones", list[_DnsZone])
RECORD_SETS = Shape("recordsets", list[_RecordSet])


# ---- Barbican ----


class _Secret(TypedDict):
    name: Maybe
    secret_ref: Text


SECRETS = Shape("secrets", list[_Secret])
SECRET_REF = Shape("secret_ref", Text)


# ---- Heat ----


class _Stack(TypedDict):
    id: Id
    stack_name: Text
    stack_status: Text


class _StackResource(TypedDict):
    resource_name: Text
    resource_type: Text
    resource_status: Text
    physical_resource_id: OrEmpty


STACKS = Shape("stacks", list[_Stack])
STACK_RESOURCES = Shape("resources", list[_StackResource])


# ---- Swift ----


class _Object(TypedDict):
    name: Id
    bytes: Count
    hash: Text
    last_modified: NotRequired[Text]


class _Clusters(TypedDict):
    clusters: dict[Text, dict[Text, Any]]


class _ContainerSync(TypedDict):
    realms: NotRequired[dict[Text, _Clusters]]


class _Info(TypedDict):
    container_sync: NotRequired[_ContainerSync]


OBJECT_STORE_INFO = Shape("info", _Info)
OBJECTS = Shape("objects", list[_Object])
OBJECT_LIST = Shape("objects", list[dict[Text, Any]])
"""what Cinder keeps beside the objects of a backup: each of the list has an object's name as key"""


class _Digests(TypedDict):
    chunk_size: Annotated[int, Field(gt=0, le=1 << 30)]
    sha256s: list[Any]


DIGESTS = Shape("digests", _Digests)
"""what Cinder keeps of the blocks of a backed-up volume"""

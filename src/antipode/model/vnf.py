# SPDX-License-Identifier: Apache-2.0
"""The VNF file: an operator's definition of one VNF."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from collections.abc import Mapping as AnyMapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from antipode.model.addresses import checked, moved_within, translated, translated_range
from antipode.model.base import NAME as NAME
from antipode.model.base import Model, Seconds, Whole
from antipode.model.base import Name as Name
from antipode.model.dns import DnsRecord
from antipode.model.full_every import DEFAULT_FULL_EVERY, AnyFullEvery, FullEvery
from antipode.model.retention import DEFAULT_RETENTION, Retention
from antipode.model.runbook import ALL, Approvals, Inherited, Node, PlannedStep, RunbookStep, order
from antipode.model.schedule import Schedule


class HttpProbe(Model):
    """A GET of a member that is answered as expected. Redirects are not followed, and proxies of
    the environment are not used.
    """

    port: Annotated[Whole, Field(ge=1, le=65535)] | None = None
    """80 by default, 443 with `tls`"""
    path: Annotated[str, StringConstraints(pattern=r"^/[!-~]*$", max_length=2000)] = "/"
    tls: bool = False
    verify: bool = True
    """whether the certificate must be valid, for `host` where that is given"""
    host: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{1,253}$")] | None = None
    """the name that is asked for; the address by default"""
    status: Annotated[
        list[Annotated[Whole, Field(ge=100, le=599)]],
        Field(min_length=1, max_length=100),
        BeforeValidator(lambda value: [value] if isinstance(value, int) else value),
    ] = [200]
    """those of which the answer has one"""
    body: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """a text in a line of the answer; a `*` in it stands for any text"""

    @model_validator(mode="after")
    def verifies_only_what_is_encrypted(self) -> Self:
        if not self.verify and not self.tls:
            raise ValueError("verify goes with tls")
        return self


class Answers(Model):
    """How to see that a member answers: a TCP port accepts a connection, a GET is answered as
    expected, a command exits with 0, or a line of its console log has a text.

    `tcp` and `http` ask one fixed address, which exists at both sites; `at` gives, by site,
    an address that leads to that site only. In `command`, `{site}`, `{server}` and `{address}` are
    replaced; it is run without a shell until it succeeds or `within` is over. In `console`, a `*`
    stands for any text.
    """

    tcp: Annotated[Whole, Field(ge=1, le=65535)] | None = None
    http: HttpProbe | None = None
    at: dict[Name, Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:.-]+$")]] = {}
    command: Annotated[list[str], Field(min_length=1)] | None = None
    console: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    within: Seconds = 300.0
    variables: Inherited = []
    """what the command gets of antipode's environment beside what all programs get"""

    def connects_to(self, site: str) -> bool:
        """Whether it connects to a fixed address of the member where that is at a site."""
        return (self.tcp is not None or self.http is not None) and site not in self.at

    @model_validator(mode="after")
    def exactly_one_way(self) -> Self:
        ways = (self.tcp, self.http, self.command, self.console)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give one of tcp, http, command and console")
        if self.at and self.tcp is None and self.http is None:
            raise ValueError("at goes with tcp and http; a command has {site}")
        if self.variables and self.command is None:
            raise ValueError("only a command has variables")
        return self


Role = Annotated[str, StringConstraints(pattern=r"^(active|standby|cluster=[A-Za-z0-9_.-]{1,63})$")]
"""What a member is to the VNF: its active or its standby member, or one of a cluster."""
CapturedOf = Annotated[str, StringConstraints(pattern=r"^(standby|cluster=[A-Za-z0-9_.-]{1,63})$")]
"""Of which members a part is captured: of active and standby members the standby ones, or of a
cluster one."""
Recover = Annotated[str, StringConstraints(pattern=r"^(clone(=\S.{0,254})?|rebuild|none)$")]
"""How a member comes back that is not captured: from the volumes of one that is (`clone`, of the
named one with `clone=SERVER`), from the image that it was created from, or not at all."""


STACK = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$"
"""What Heat takes as the name of a stack, or gives as its id."""


class Selector(Model):
    """Which servers of the project are members, in one of four ways."""

    tag: Annotated[str, Field(min_length=1)] | None = None
    metadata: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """all of these"""
    server_group: Annotated[str, Field(min_length=1)] | None = None
    """its name at the primary"""
    stack: Annotated[str, StringConstraints(pattern=STACK)] | None = None
    """name or id of a stack of Heat; the servers of its nested stacks are members, too"""

    @model_validator(mode="after")
    def exactly_one_way(self) -> Self:
        if [self.tag, self.metadata, self.server_group, self.stack].count(None) != 3:
            raise ValueError("give one of tag, metadata, server_group and stack")
        return self

    def __str__(self) -> str:
        if self.metadata is not None:
            return "metadata " + ", ".join(f"{k}={v}" for k, v in sorted(self.metadata.items()))
        if self.stack is not None:
            return f"stack {self.stack}"
        return f"tag {self.tag}" if self.tag else f"server group {self.server_group}"


class Member(Model):
    """One server of the VNF, or all that a selector finds. The order of the members is the quiesce
    order.
    """

    server: str = ""
    """name or id; empty in an entry of a VNF file that selects its servers"""
    name: Name | None = None
    """of an entry that selects servers: the boot order may name it"""
    select: Selector | None = None
    role: Role | None = None
    """where members are captured one after another: standby members first, active ones last"""
    pause: Annotated[Seconds, Field(ge=0, le=3600)] = 0.0
    """how long the VNF is left alone after this member was captured, before the next one is"""
    boot_before: list[str] = []
    boot_after: list[str] = []
    answers: Answers | None = None
    drill: Answers | None = None
    """how it is seen that it answers in a drill, whose networks nothing reaches from outside"""
    user_data: Literal["keep", "drop"] | None = None
    """whether its user_data, which cloud-init runs again, comes back; by default it does, and
    antipode warns of it
    """
    interfaces: list[str] = []
    """names, ids or MAC addresses of its ports in the order of its interfaces, where Nova does not
    tell it
    """
    root: Literal["rebuild"] | None = None
    """`rebuild`: the disk on the hypervisor of a member that boots from an image is not protected;
    it is made again from the same image
    """
    recover: Recover | None = None
    """how it comes back where `capture` of the VNF leaves it out; by default as a clone"""

    @model_validator(mode="after")
    def is_named_or_selected(self) -> Self:
        if (self.select is None) != (self.name is None) or not (self.server or self.select):
            raise ValueError("a member has a server, or select and a name for those selected")
        return self

    @property
    def is_open(self) -> bool:
        """Whether it is not known yet which servers it stands for."""
        return not self.server

    @property
    def label(self) -> str:
        """As the boot order names it."""
        return self.server or self.name or ""

    @model_validator(mode="after")
    def is_probed_by_its_console_in_a_drill(self) -> Self:
        if self.drill is not None and self.drill.console is None:
            raise ValueError("drill takes console: a drill's networks are not reached from outside")
        return self


ANY = "any"
"""In the place of an availability zone: the backup site chooses."""
Policy = Literal["affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"]


class Mapping(Model):
    """How names at the primary translate at the backup sites; an unmapped name stays as it is."""

    networks: dict[str, str] = {}
    volume_types: dict[str, str] = {}
    flavors: dict[str, str] = {}
    security_groups: dict[str, str] = {}
    availability_zones: dict[str, str] = {}
    """of Nova and of Cinder, where the next two do not name a zone"""
    server_zones: dict[str, str] = {}
    volume_zones: dict[str, str] = {}
    server_groups: dict[str, str] = {}
    qos_policies: dict[str, str] = {}
    physical_networks: dict[str, str] = {}
    floating_ips: dict[str, str] = {}
    """a public address -> the one that takes its place at the backup site"""
    addresses: Annotated[dict[str, str], AfterValidator(checked)] = {}
    """a subnet or an address -> the one that takes its place, with the same host parts"""
    server_group_policies: dict[str, Policy] = {}
    """by the name of the group at the backup site: the policy that it gets there"""

    def address(self, address: str) -> str:
        """The address that takes the place of one."""
        return translated(address, self.addresses)

    def moved_within(self, cidr: str) -> str:
        """Those ranges in a range that get another place, which the range itself does not."""
        return ", ".join(moved_within(cidr, self.addresses))

    def range(self, cidr: str) -> str:
        """The range that takes the place of one."""
        return translated_range(cidr, self.addresses)

    def server_zone(self, zone: str) -> str:
        """Nova's zone for a server of this one; empty or `ANY` where the site may choose."""
        return self.server_zones.get(zone, self.availability_zones.get(zone, zone))

    def volume_zone(self, zone: str) -> str:
        """Cinder's zone for a volume of this one; empty or `ANY` where the site may choose."""
        return self.volume_zones.get(zone, self.availability_zones.get(zone, zone))

    def reversed(self) -> Mapping:
        """How names at the backup site translate at the primary.

        Where two names translate to one, the first of them is taken. `ANY` and the policy of a
        group do not say what there was.
        """
        return Mapping(
            **{
                field: {
                    there: here for here, there in reversed(list(names.items())) if there != ANY
                }
                for field, names in self.model_dump(exclude={"server_group_policies"}).items()
            }
        )

    def then(self, further: Mapping) -> Mapping:
        """This translation, and then `further` of its results."""
        return Mapping(
            **{
                field: {**after, **{a: after.get(b, b) for a, b in getattr(self, field).items()}}
                for field, after in further.model_dump().items()
            }
        )


class Protection(Model):
    """One way in which a VNF is protected: an option, when it is due, and the settings of that
    option beside it.

    The settings are checked by the option when the file is read (`antipode.protect.option`).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    option: Name = "quiesced-snapshot"
    retention: Retention | Literal["all"] | None = None
    """how many of its recovery points are kept"""
    schedule: Schedule | None = None
    """when the service protects the VNF by itself; None: only when it is asked to"""
    consistency: Literal["application", "group", "member", "volume"] | None = None
    """what is accepted at least: a recovery point that would be worse is not made"""
    full_every: AnyFullEvery | None = None
    """after how many recovery points, or after what time, a chain ends with a full backup"""
    standing: bool = False
    """whether the service keeps volumes at the backup sites at its newest recovery point"""

    @property
    def keeps(self) -> Retention | Literal["all"]:
        """The retention of its recovery points."""
        return self.retention or DEFAULT_RETENTION

    @property
    def chain_ends(self) -> FullEvery:
        """When a chain of its backups ends."""
        return self.full_every or DEFAULT_FULL_EVERY

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as they are written."""
        return dict(self.model_extra or {})


ARRIVES_WITHIN_S = 600.0
"""How long the position of an application's data may take to be reached, where nothing is said."""


class Datastore(Model):
    """Data of the VNF that its storage replicates by itself, or the application does."""

    storage: Name
    """the storage in antipode.yaml, which says how it replicates, and where it is at each site"""
    kind: Literal["volumes", "application"] = "volumes"
    """application: data that the application itself keeps at both sites, as a database does"""
    volumes: Literal["all"] | Annotated[list[str], Field(min_length=1)] = "all"
    """names or ids of volumes of the members"""
    arrives_within: Annotated[Seconds, Field(gt=0, le=86400)] = ARRIVES_WITHIN_S
    """of kind application: how long after the quiesce window a position may take to be reached at a
    backup site, in seconds
    """

    synchronises_within: Annotated[Seconds, Field(gt=0, le=30 * 86400)] = 86400.0
    """how long a first synchronisation is awaited, in seconds"""

    @model_validator(mode="after")
    def has_what_its_kind_has(self) -> Self:
        stray = "volumes" if self.kind == "application" else "arrives_within"
        if stray in self.model_fields_set and getattr(self, stray) != (
            type(self).model_fields[stray].default
        ):
            raise ValueError(f"a datastore of kind {self.kind} has no {stray}")
        return self


def _as_list(value: object) -> object:
    """A single value that is written without a list."""
    return [value] if isinstance(value, str) else value


def _protections(value: object) -> object:
    if isinstance(value, str | AnyMapping | Protection):
        value = [value]
    if isinstance(value, list):
        return [{"option": p} if isinstance(p, str) else p for p in value]
    return value


class Vnf(Model):
    """The definition of one VNF, as in its file."""

    vnf: Name
    project: Name | None = None
    """the project of antipode.yaml that it belongs to, at each of its sites and for the REST API;
    None: to the staff, in the project of the account of each site
    """
    primary: Name
    backup: Annotated[list[Name], Field(min_length=1), BeforeValidator(_as_list)]
    """the sites at which the VNF can be recovered; a single one may be written without a list"""
    members: Annotated[list[Member], Field(min_length=1)]
    protections: Annotated[list[Protection], Field(min_length=1), BeforeValidator(_protections)] = [
        Protection()
    ]
    capture: Annotated[list[CapturedOf], BeforeValidator(_as_list)] = []
    """of active and standby members only the standby ones are quiesced and captured, of a cluster
    only one; by default all members are
    """
    datastores: dict[Name, Datastore] = {}
    """the data that its storage replicates by itself, for the option replication; and that which an
    application replicates by itself, whatever the option
    """
    rpo: Annotated[Seconds, Field(ge=60)] | None = None
    """how old the newest recovery point may become, in seconds; None: no target"""
    rto: Annotated[Seconds, Field(ge=1)] | None = None
    """how long a recovery may take, in seconds; reports compare it; None: no target"""
    verify_every: Annotated[Seconds, Field(ge=3600)] | None = None
    """how often the service proves the content of the newest recovery point, in seconds; None: only
    when it is asked to
    """
    drill_every: Annotated[Seconds, Field(ge=3600)] | None = None
    """how often a drill is to be passed, in seconds: a VNF whose drill is overdue is less
    than ready. None: no policy
    """
    on_return: Literal["alarm", "fence"] = "alarm"
    """what the service does when members of an old copy run at a site that has returned; fence: it
    also stops and locks them and puts their ports down
    """
    undo_within: Annotated[Seconds, Field(ge=60, le=7 * 86400)] | None = None
    """for how long after a failover it can be undone, in seconds; None: it cannot"""
    ports: list[str] = []
    """names or ids of ports that belong to it and to no server, beside those whose address a
    member's port may use, which are found
    """
    volumes: list[Annotated[str, Field(min_length=1, max_length=255)]] = []
    """names of volumes that belong to it and are attached to no server"""
    networks: Literal["map", "create"] = "map"
    """create: networks of its project and security groups that the backup site does not have are
    made there as they were; map: they must be there
    """
    provider_attributes: Literal["drop", "keep"] = "drop"
    """of networks that are created: keep their type, physical network and segmentation id"""
    map: Mapping = Mapping()
    maps: dict[Name, Mapping] = {}
    """by backup site, for those at which `map` does not hold"""
    vaults: Annotated[list[Name], BeforeValidator(_as_list)] = []
    """the vaults that recovery points are committed to; all of the configuration by default"""
    store: Name | None = None
    """the backup store; by default the one that the active site's configuration names"""
    store_at_active_site: Literal["accepted"] | None = None
    """accepted: backups that lie at the active site only are made all the same"""
    approvals: Approvals = {}
    """by verb: how many others than its author must approve a run, where antipode.yaml does not
    want more
    """
    steps: Annotated[list[RunbookStep], Field(max_length=200)] = []
    """the runbook: what is done beside the recovery of the members, in this order where two steps
    have the same place
    """
    dns: list[DnsRecord] = []
    """records in DNS that lead users to it, and are switched when it has been recovered"""

    @model_validator(mode="after")
    def is_consistent(self) -> Self:
        if self.primary in self.backup:
            raise ValueError(
                f"{self.primary} is both primary and backup; a VNF is recovered at another site"
            )
        _refuse_doubles("backup site", self.backup)
        _refuse_doubles("vault", self.vaults)
        _refuse_doubles("volume", self.volumes)
        _refuse_doubles("option of a protection", [p.option for p in self.protections])
        if len(stand := [p.option for p in self.protections if p.standing]) > 1:
            raise ValueError(
                f"standing is given by {' and '.join(stand)}, and a volume can stand for the points"
                " of one protection only"
            )
        if strangers := sorted(set(self.maps) - set(self.backup)):
            raise ValueError(f"maps names {', '.join(strangers)}, which is no backup site")
        names = [m.label for m in self.members]
        _refuse_doubles("member", names)
        for member in self.members:
            for other in (*member.boot_before, *member.boot_after):
                if other not in names:
                    raise ValueError(
                        f"boot order of {member.label} names {other}, which is not a member"
                    )
        self.boot_waves()
        self._captures_fit()
        self._runbook_fits(names)
        self._records_fit(names)
        return self

    def _captures_fit(self) -> None:
        _refuse_doubles("capture", self.capture)
        roles = [m.role for m in self.members]
        for of in self.capture:
            wanted = ("active", "standby") if of == "standby" else (of,)
            if missing := [role for role in wanted if role not in roles]:
                raise ValueError(f"capture names {of}, and no member has the role {missing[0]}")
        standby = [m.server for m in self.members if m.role == "standby" and m.server]
        for member in (m for m in self.members if m.recover is not None):
            if not self.may_be_left_out(member):
                raise ValueError(
                    f"recover of {member.label} goes with capture, which leaves it out: it has the"
                    f" role {member.role}, and capture names {', '.join(self.capture) or 'nothing'}"
                )
            like = clone_of(member.recover)
            if like and not (member.role == "active" and like in standby):
                raise ValueError(
                    f"{member.label} is recovered as a clone of {like}, which is no standby member"
                    " of it; in a cluster it is of the one that is captured: write clone"
                )
        lost = {m.label for m in self.members if m.recover == "none"}
        named = {
            *(other for m in self.members for other in (*m.boot_before, *m.boot_after)),
            *(name for record in self.dns for name in record.members),
            *(name for step in self.steps if step.place != ALL for name in step.place),
        }
        if both := sorted(lost & named):
            raise ValueError(
                f"{', '.join(both)} may not come back (recover: none), so boot order, runbook steps"
                " and DNS records cannot name it"
            )

    def may_be_left_out(self, member: Member) -> bool:
        """Whether `capture` may leave a member untouched."""
        captured_of = "standby" if member.role == "active" else member.role
        return member.role != "standby" and captured_of in self.capture

    def without(self, servers: Collection[str]) -> Vnf:
        """The same definition without these members, by the name in the file, and without what its
        boot order and DNS records say of them.
        """
        gone = {m.label for m in self.members if m.server in servers}

        def there(labels: Sequence[str]) -> list[str]:
            return [label for label in labels if label not in gone]

        left = [
            m.model_copy(
                update={"boot_before": there(m.boot_before), "boot_after": there(m.boot_after)}
            )
            for m in self.members
            if m.label not in gone
        ]
        roles = {m.role for m in left}
        capture = [
            of for of in self.capture if (of in roles and (of != "standby" or "active" in roles))
        ]
        dns = [
            r.model_copy(update={"members": there(r.members)})
            for r in self.dns
            if not r.members or there(r.members)
        ]
        return self.model_copy(update={"members": left, "capture": capture, "dns": dns})

    def _runbook_fits(self, members: Sequence[str]) -> None:
        _refuse_doubles("runbook step", [step.name for step in self.steps])
        for step in self.steps:
            if step.place != ALL and (strangers := sorted(set(step.place) - set(members))):
                raise ValueError(
                    f"runbook step {step.name} names {', '.join(strangers)}, which is not a member"
                )
            if strangers := sorted(set(step.to) - set(self.sites)):
                raise ValueError(
                    f"runbook step {step.name} names {', '.join(strangers)}, which is not a site of"
                    " the VNF"
                )
        sorter: TopologicalSorter[Node] = TopologicalSorter()
        before = self.predecessors()
        for member, predecessors in before.items():
            sorter.add(Node("member", member), *(Node("member", p) for p in predecessors))
        placed = [
            PlannedStep(step=s, servers=[] if s.place == ALL else s.place) for s in self.steps
        ]
        for first, second in order(placed, before):
            sorter.add(second, first)
        try:
            sorter.prepare()
        except CycleError as error:
            names = ", ".join(sorted({node.name for node in error.args[1]}))
            raise ValueError(f"boot order and runbook steps have a cycle among {names}") from error

    def _records_fit(self, members: Collection[str]) -> None:
        _refuse_doubles("DNS record", [record.key for record in self.dns])
        aliases = {record.name for record in self.dns if record.type == "CNAME"}
        for record in self.dns:
            if strangers := sorted(set(record.members) - set(members)):
                raise ValueError(
                    f"DNS record {record.key} names {', '.join(strangers)}, which is no member"
                )
            if record.type != "CNAME" and record.name in aliases:
                raise ValueError(f"{record.name} is a CNAME, and has no other records in DNS")
            if record.type == "CNAME" and set(record.targets) != set(self.sites):
                raise ValueError(
                    f"DNS record {record.key} needs a target for each of the sites"
                    f" {', '.join(self.sites)}, and for no other"
                )

    @property
    def sites(self) -> list[str]:
        """Every site at which the VNF may be active, the primary first."""
        return [self.primary, *self.backup]

    @property
    def datastores_of_volumes(self) -> dict[str, Datastore]:
        """Those whose storage replicates volumes."""
        return {n: d for n, d in self.datastores.items() if d.kind == "volumes"}

    @property
    def datastores_of_applications(self) -> dict[str, Datastore]:
        """Those which an application replicates by itself."""
        return {n: d for n, d in self.datastores.items() if d.kind == "application"}

    def protection(self, option: str | None = None) -> Protection | None:
        """The protection with this option; the first by default; None when there is none."""
        wanted = (p for p in self.protections if option in (None, p.option))
        return next(wanted, None)

    def map_between(self, taken_at: str, to: str) -> Mapping:
        """How names at the site `taken_at` translate at the site `to`."""
        if taken_at == to:
            return Mapping()  # there and back may not be the same name, where two map to one
        return self._map_to(taken_at).reversed().then(self._map_to(to))

    def _map_to(self, site: str) -> Mapping:
        return Mapping() if site == self.primary else self.maps.get(site, self.map)

    def predecessors(self) -> dict[str, set[str]]:
        """For each member the members that must be there before it is booted."""
        before: dict[str, set[str]] = {m.label: set(m.boot_after) for m in self.members}
        for member in self.members:
            for other in member.boot_before:
                before[other].add(member.label)
        return before

    def boot_waves(self) -> list[list[str]]:
        """Members in waves: those of one wave may be booted at once, after all waves before.

        Raises:
            ValueError: the boot order has a cycle.
        """
        before = self.predecessors()
        waves: list[list[str]] = []
        done: set[str] = set()
        while len(done) < len(before):
            wave = [
                m.label for m in self.members if m.label not in done and before[m.label] <= done
            ]
            if not wave:
                cycle = ", ".join(sorted(set(before) - done))
                raise ValueError(f"boot order has a cycle among {cycle}")
            waves.append(wave)
            done |= set(wave)
        return waves

    def member(self, server: str) -> Member:
        return next(m for m in self.members if m.server == server)

    def without_commands(self) -> Vnf:
        """The same definition without anything that is executed: members whose probes are commands
        are not probed, and it has no runbook.
        """
        return self.model_copy(
            update={
                "steps": [],
                "members": [
                    m.model_copy(update={"answers": None}) if m.answers and m.answers.command else m
                    for m in self.members
                ],
            }
        )

    @property
    def digest(self) -> str:
        """The SHA-256 of its canonical form: of all that is executed for it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def selects(self) -> bool:
        """Whether some members are not known before the site is asked."""
        return any(m.is_open for m in self.members)

    @property
    def selected(self) -> dict[str, list[str]]:
        """Name of an entry that selects -> the servers that it stands for, where they are known."""
        found: dict[str, list[str]] = {}
        for member in self.members:
            if member.name is not None and member.server:
                found.setdefault(member.name, []).append(member.server)
        return found

    def with_selected(self, found: AnyMapping[str, Sequence[str]]) -> Vnf:
        """The same definition with servers in the place of the entries that select them.

        Args:
            found: name of such an entry -> names or ids of servers. An entry that it does not
                name stands for none.
        """

        opened = {m.label for m in self.members if m.is_open}

        def there(labels: Sequence[str]) -> list[str]:
            """The servers behind these labels."""
            of = [found.get(label, []) if label in opened else [label] for label in labels]
            return [server for servers in of for server in servers]

        members = [
            member.model_copy(
                update={
                    "server": server,
                    "boot_before": there(member.boot_before),
                    "boot_after": there(member.boot_after),
                }
            )
            for member in self.members
            for server in (found.get(member.label, []) if member.is_open else [member.server])
        ]
        dns = [r.model_copy(update={"members": there(r.members)}) for r in self.dns]
        return self.model_copy(update={"members": members, "dns": dns})

    def ordered_as(self, servers: list[str]) -> Vnf | None:
        """The same definition, its members in this order; None when they are other members."""
        by_name = {m.server: m for m in self.members}
        if sorted(servers) != sorted(by_name):
            return None
        return self.model_copy(update={"members": [by_name[s] for s in servers]})


def clone_of(recover: str | None) -> str:
    """The server that a member is recovered as a clone of; empty where none is named."""
    kind, _, server = (recover or "").partition("=")
    return server if kind == "clone" else ""


def recovery_words(recover: str) -> str:
    """How a member comes back that was not captured, for people."""
    if like := clone_of(recover):
        return f"a clone of {like}"
    return {"rebuild": "made again from its image", "none": "not recovered"}.get(recover, recover)


def _refuse_doubles(what: str, names: list[str]) -> None:
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"{what} named twice: {', '.join(twice)}")


def from_first_edition(definition: AnyMapping[str, Any]) -> dict[str, Any]:
    """A definition as antipode 0.1 kept it (`option` and `quiesce` beside the members) as one of
    this edition; any other is returned as it is.
    """
    if "protections" in definition:
        return dict(definition)
    kept = {k: v for k, v in definition.items() if k not in ("option", "quiesce")}
    protection: dict[str, Any] = {"option": definition.get("option", "quiesced-snapshot")}
    if "quiesce" in definition:
        protection["quiesce"] = definition["quiesce"]
    return {**kept, "protections": [protection]}

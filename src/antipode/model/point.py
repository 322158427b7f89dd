# SPDX-License-Identifier: Apache-2.0
"""A recovery point: one restorable state of a VNF, and everything a recovery has to know.

This is the form that antipode works with. `point_v2` has the schema of its document, and `point_v1`
reads documents of antipode 0.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from antipode.model.base import Model
from antipode.model.capture import Consistency, QuiesceWindow
from antipode.model.datastore import KeptPosition
from antipode.model.source import (
    OF_HEADS,
    AnySource,
    BackupChain,
    BackupRecord,
    ChangeStream,
    Copy,
    Delta,
    Image,
    MadeAgain,
    ReplicatedHead,
    ReplicatedState,
    VolumeSource,
    backup_chain,
    deltas_of,
    image_copies,
    of_a_year_to_reckon_with,
)
from antipode.model.topology import Topology, Volume
from antipode.model.vnf import Name, Vnf


def _with_a_zone(moment: str) -> str:
    if datetime.fromisoformat(of_a_year_to_reckon_with(moment)).tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment


Moment = Annotated[str, AfterValidator(_with_a_zone)]
"""RFC 3339 with a time zone."""


class RecoveryPoint(Model):
    """A recovery point. Its parts are known to fit together: it cannot be made otherwise."""

    id: Name
    vnf: Vnf
    run: str
    option: Name = "quiesced-snapshot"
    generation: Annotated[int, Field(ge=1)] = 1
    """grows each time the VNF changes its active site"""
    serial: Annotated[int, Field(ge=0)] = 0
    """greater than that of the point that was made before it, whatever clocks said; 0 where that is
    unknown
    """
    consistent_at: Moment
    """UTC: the moment whose state it holds"""
    created_at: Moment
    """UTC: when it was made"""
    consistency: Consistency
    quiesce_window: QuiesceWindow | None
    moments: Mapping[str, Moment] = {}
    """server -> its own moment, UTC; empty where all servers have the same one"""
    topology: Topology
    sources: Mapping[str, AnySource]
    """volume id at the site it was taken at -> where its bytes are"""
    datastores: Mapping[Name, KeptPosition] = {}
    """datastore -> the data that the application replicates by itself"""
    made_by: str
    """antipode and its version"""
    locked: bool = False
    """this host has no identity that opens what is encrypted: user_data, keypairs and commands are
    missing, and nothing can be recovered from it
    """

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        topology, members = self.topology, self.vnf.members
        if topology.vnf != self.vnf.vnf:
            raise ValueError(f"the topology is of VNF {topology.vnf}, the point of {self.vnf.vnf}")
        if len(topology.servers) != len(members):
            raise ValueError(f"{len(members)} members have {len(topology.servers)} servers")
        for member, server in zip(members, topology.servers, strict=True):
            if member.server not in (server.name, server.id):
                raise ValueError(f"member {member.server} has the server {server.name}")
        _refuse_doubles("server", [s.name for s in topology.servers])
        for server in topology.servers:
            _refuse_doubles("volume", [v.id for v in server.disks])
        _refuse_doubles("volume", [v.id for v in topology.disks])
        _refuse_doubles("port", [p.id for p in topology.ports])
        if set(self.sources) != {v.id for v in topology.disks}:
            differing = sorted(set(self.sources) ^ {v.id for v in topology.disks})
            raise ValueError(f"volumes and their sources differ: {', '.join(differing)}")
        root_disks = {s.root_disk.id for s in topology.servers if s.root_disk}
        for volume, copied in self.sources.items():
            if isinstance(copied, Copy) and isinstance(self.sources.get(copied.of, copied), Copy):
                raise ValueError(f"volume {volume} is a copy of {copied.of}, which has no bytes")
            source = self.source_of(volume)
            captured = copied.of if isinstance(copied, Copy) else volume
            if isinstance(source, Image | MadeAgain) and volume not in root_disks:
                raise ValueError(f"volume {volume} has an image as its source")
            if (backup_chain(source) or deltas_of(source)) and volume in root_disks:
                raise ValueError(f"root disk {volume} has backups as its source")
            if isinstance(source, ChangeStream) and source.volume_id != captured:
                raise ValueError(f"a change stream of volume {source.volume_id} is not of {volume}")
            for record in backup_chain(source):
                if record.volume_id != captured:
                    raise ValueError(f"backup {record.id} is not of volume {volume}")
        if strangers := sorted(set(self.moments) - {s.name for s in topology.servers}):
            raise ValueError(f"{', '.join(strangers)} has a moment and is no server")
        for port in topology.ports:
            for fixed in port.fixed:
                if "%" in str(ip_address(fixed.address)):
                    raise ValueError(f"address {fixed.address} has a scope")
        return self

    @property
    def site(self) -> str:
        """Where it was taken."""
        return self.topology.site

    def source_of(self, volume_id: str) -> VolumeSource:
        """Where the bytes of a volume are: those of the captured one, of a volume of a clone."""
        source = self.sources[volume_id]
        return self.sources[source.of] if isinstance(source, Copy) else source

    @property
    def kinds(self) -> list[str]:
        """The kinds of the sources that have bytes."""
        return sorted({self.source_of(volume).kind for volume in self.sources})

    @property
    def captured_disks(self) -> list[Volume]:
        """The disks that have a source of their own: content is proven of these."""
        return [d for d in self.topology.disks if not isinstance(self.sources[d.id], Copy)]

    @property
    def clones(self) -> dict[str, str]:
        """The servers that were not captured -> those from whose volumes they are recovered."""
        owners = {d.id: s.name for s in self.topology.servers for d in s.disks}
        return {
            server.name: owners[source.of]
            for server in self.topology.servers
            for disk in server.disks
            if isinstance(source := self.sources[disk.id], Copy)
        }

    @property
    def not_captured(self) -> dict[str, str]:
        """The servers that were not captured -> how they come back, as `Member.recover` says it."""
        members = zip(self.vnf.members, self.topology.servers, strict=True)
        rebuilt = {
            s.name: "rebuild"
            for m, s in members
            if m.recover == "rebuild"
            and s.disks
            and all(isinstance(self.sources[d.id], MadeAgain) for d in s.disks)
        }
        clones = {server: f"clone={like}" for server, like in self.clones.items()}
        return {**rebuilt, **clones, **dict.fromkeys(self.left_out, "none")}

    @property
    def left_out(self) -> list[str]:
        """The servers that it does not bring back: nothing is there to boot them from."""
        return [s.name for s in self.topology.servers if not s.disks]

    def defined_by(self, vnf: Vnf) -> RecoveryPoint:
        """What is recovered of the point by a definition: the members that it brings back.

        Args:
            vnf: its members in the order of the servers of the point, with those that are left out
                or without them.
        """
        gone = [s for s in self.topology.servers if not s.disks]
        servers = [s for s in self.topology.servers if s.disks]
        return self.model_copy(
            update={
                "vnf": vnf.without({n for s in gone for n in (s.id, s.name)}),
                "topology": self.topology.model_copy(update={"servers": servers}),
            }
        )

    @property
    def backups(self) -> dict[str, BackupRecord]:
        """Every backup that it rests on, by id."""
        return {r.id: r for source in self.sources.values() for r in backup_chain(source)}

    @property
    def deltas(self) -> dict[str, Delta]:
        """Every delta of a change stream that it rests on, by id."""
        return {d.id: d for source in self.sources.values() for d in deltas_of(source)}

    @property
    def tracked(self) -> set[str]:
        """The ids of the snapshots that its change streams go up to."""
        chains = [deltas_of(source) for source in self.sources.values()]
        return {deltas[-1].snapshot_id for deltas in chains if deltas}

    @property
    def rebuilds(self) -> bool:
        """Whether a root disk is made again from an image that is none of ours."""
        return any(isinstance(source, MadeAgain) for source in self.sources.values())

    @property
    def images(self) -> dict[str, str]:
        """Every image that it rests on: id -> the site at which it is."""
        return {
            image: site
            for source in self.sources.values()
            for site, image in image_copies(source).items()
        }

    @property
    def states(self) -> dict[str, ReplicatedState]:
        """Every state of replicated storage that it rests on, by the id of its snapshot."""
        return {s.snapshot_id: s for s in self.sources.values() if isinstance(s, ReplicatedState)}

    @property
    def of_storages(self) -> dict[str, dict[str, ReplicatedState]]:
        """Storage -> volume id -> its state there, or its head."""
        found: dict[str, dict[str, ReplicatedState]] = {}
        for volume, source in self.sources.items():
            if isinstance(source, ReplicatedState):
                found.setdefault(source.storage, {})[volume] = source
        return found

    @property
    def takes_heads(self) -> bool:
        """Whether the newest data that has arrived is in the place of its states."""
        return any(isinstance(source, ReplicatedHead) for source in self.sources.values())

    @property
    def keyed_by(self) -> str:
        """What the keys of what is recovered from it begin with."""
        return f"{self.id}{OF_HEADS if self.takes_heads else ''}"

    @property
    def keys(self) -> dict[str, str]:
        """Every key of an encrypted volume that is kept for it: id of the secret -> its site."""
        return {
            secret: site
            for source in self.sources.values()
            if isinstance(source, BackupChain) and source.key is not None
            for site, secret in source.key.kept.items()
        }

    def needed_ids(self) -> set[str]:
        """The ids of all backups, deltas, images, snapshots and keys that it rests on."""
        made = {*self.backups, *self.deltas, *self.images, *self.states, *self.keys}
        return made | set(self.tracked)

    @property
    def incremental(self) -> bool:
        """Whether any volume of this point rests on an earlier backup."""
        return any(source.incremental for source in self.sources.values())

    @property
    def age_s(self) -> float:
        """Seconds since the moment whose state it holds."""
        return age_s(self.consistent_at)

    @property
    def moments_apart_s(self) -> float:
        """Seconds between the first and the last moment of its servers; 0 where there is one."""
        moments = [datetime.fromisoformat(at) for at in self.moments.values()]
        return (max(moments) - min(moments)).total_seconds() if moments else 0.0

    def chain(self, volume_id: str) -> Sequence[BackupRecord]:
        """The backups that a volume is brought back from, base first; none where its source is of
        another kind.
        """
        return backup_chain(self.source_of(volume_id))


def age_s(moment: str) -> float:
    """Seconds since a moment, RFC 3339 with its zone."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def _refuse_doubles(what: str, names: Sequence[str]) -> None:
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise ValueError(f"{what} listed twice: {', '.join(twice)}")

# SPDX-License-Identifier: Apache-2.0
"""The marks by which we know what we have created: metadata of every cloud resource that a run
makes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

PREFIX = "antipode:"
RUN = "antipode:run"
KEY = "antipode:key"
TRACKED = "antipode:tracked"
"""of a snapshot that outlives its run, as a change stream begins at it: the VNF"""
BLANK = "antipode:blank"
"""of a volume: nothing has been restored into it yet"""
VOLUME = "antipode:volume"
"""of a volume: its own id, as Cinder gives its metadata to all that is restored from its backups"""
WRITTEN_FOR = "antipode:written-for"
"""of a volume that the mover writes for a run: the key that it gets when all of it is written"""
WRITTEN = "antipode:written"
"""of a volume that the mover has written for a run: the backup that it held at first"""
THROW_AWAY = "antipode:throw-away"
"""of a port, as a tag: a run has made it only to look at it, and removes it again"""
FENCED = "antipode:fenced"
"""of a server: the run that fenced it; of a port, as a tag: the run that put it down, and only of
one that was up
"""
STACK = "antipode:stack"
"""of a server that was recovered: the stack by which its VNF file selects it, to which it does not
belong
"""
MEMBER = "antipode:member"
"""of a server that was recovered: the VNF and the member of its file that it is, as VNF/MEMBER; two
VNFs of one project may have servers of the same name
"""
DATASTORE = "antipode:datastore:"
"""of a server: before the name of a datastore, by what its members find the data at their site"""
FENCED_FROM = "antipode:fenced-from"
"""of a server that is fenced: its status and its lock before"""


LONGEST = 255
"""Characters of a value in the metadata of a server."""


def marks(run: str, key: str) -> dict[str, str]:
    """The metadata for a resource: the run that made it, and the key under which it is looked up
    before it is made.
    """
    return {RUN: run, KEY: key}


def member_mark(vnf: str, member: str) -> dict[str, str]:
    """The metadata of the server of a member, by the member's name or id in the VNF file."""
    whole = f"{vnf}/{member}"
    fits = len(whole) <= LONGEST
    return {MEMBER: whole if fits else f"{vnf}/{hashlib.sha256(member.encode()).hexdigest()}"}


def is_member(server: Mapping[str, object], vnf: str, member: str) -> bool:
    """Whether a server was recovered as this member."""
    metadata = server.get("metadata")
    said = metadata.get(MEMBER) if isinstance(metadata, dict) else None
    return said == member_mark(vnf, member)[MEMBER] and not is_throw_away(server)


def is_of_another(server: Mapping[str, object], vnf: str) -> bool:
    """Whether a server was recovered as a member of another VNF."""
    metadata = server.get("metadata")
    said = metadata.get(MEMBER) if isinstance(metadata, dict) else None
    return isinstance(said, str) and said.partition("/")[0] != vnf and bool(made_by(server))


def unmarked(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata without marks: what a resource's owner has given it."""
    return {k: v for k, v in metadata.items() if not k.startswith(PREFIX)}


def carries(resource: Mapping[str, object], key: str) -> bool:
    """Whether the metadata of a resource, as a listing shows it, carries this key."""
    metadata = resource.get("metadata")
    return isinstance(metadata, dict) and metadata.get(KEY) == key


def made_by(resource: Mapping[str, object]) -> str | None:
    """The run that made a resource, as a listing shows it; None for what is not ours."""
    metadata = resource.get("metadata")
    return metadata.get(RUN) if isinstance(metadata, dict) else None


def is_copied(volume: Mapping[str, object]) -> bool:
    """Whether the marks of a volume are those of another, from whose backup it was restored."""
    metadata = volume.get("metadata")
    marked = metadata.get(VOLUME) if isinstance(metadata, dict) else None
    return marked is not None and marked != volume["id"]


def is_half_written(volume: Mapping[str, object], run: str) -> bool:
    """Whether a run has had the mover write a volume, and has not noted that all of it is there."""
    metadata = volume.get("metadata")
    is_begun = isinstance(metadata, dict) and WRITTEN_FOR in metadata
    return is_begun and made_by(volume) == run and not is_copied(volume)


def is_throw_away(resource: Mapping[str, object]) -> bool:
    """Whether a run has made a resource only to look at it, and removes it again: then its key
    begins with the run. Of a volume that is being restored its description tells.
    """
    metadata, description = resource.get("metadata"), resource.get("description")
    key = metadata.get(KEY) if isinstance(metadata, dict) else None
    marked = ((made_by(resource), key), (maker_in(description), key_said(description)))
    return any(maker is not None and str(key).startswith(f"{maker}/") for maker, key in marked)


def is_throw_away_port(port: Mapping[str, object]) -> bool:
    """Whether a run has made a port only to look at it; its key is a digest and does not say so."""
    return THROW_AWAY in _tags(port)


def words(run: str, key: str) -> str:
    """The same marks as a description, for what has no metadata, or loses them for a while."""
    return f"{KEY}={key} {RUN}={run}"


def key_in(description: object, key: str) -> bool:
    """Whether a description carries this key."""
    return key_said(description) == key


def key_said(description: object) -> str | None:
    """The key that a description carries; None for what is not ours."""
    return _said(KEY, description)


def maker_in(description: object) -> str | None:
    """The run that a description names as the maker; None for what is not ours."""
    return _said(RUN, description)


def _said(mark: str, description: object) -> str | None:
    prefix = f"{mark}="
    return next(
        (w.removeprefix(prefix) for w in str(description or "").split() if w.startswith(prefix)),
        None,
    )


def as_tags(run: str, key: str) -> list[str]:
    """The same marks as tags of a port, which has no metadata and whose description is its owner's.

    A tag has at most 60 characters, so the key stands there as a digest.
    """
    return [f"{RUN}={run}", key_tag(key)]


def fenced_tag(run: str) -> str:
    """The mark of a port that a run puts down."""
    return f"{FENCED}={run}"


def is_fenced_port(port: Mapping[str, object]) -> bool:
    """Whether a port was up before it was fenced."""
    return any(tag.startswith(f"{FENCED}=") for tag in _tags(port))


def untagged(tags: Iterable[str]) -> list[str]:
    """Tags without marks: those that a resource's owner has given it."""
    return [tag for tag in tags if not tag.startswith(PREFIX)]


def undescribed(description: object) -> str:
    """A description that its owner has given it; none where it is a mark."""
    return "" if key_said(description) is not None else str(description or "")


def neutron_carries(port: Mapping[str, object], key: str) -> bool:
    """Whether a port carries this key."""
    return neutron_key(port) == key_tag(key)


def neutron_key(port: Mapping[str, object]) -> str | None:
    """The tag of the key that a port carries: in its tags, or in its description until it has any;
    None for what is not ours.
    """
    said = key_said(port.get("description"))
    tagged = (tag for tag in _tags(port) if tag.startswith(f"{KEY}="))
    return next(tagged, None) or (key_tag(said) if said is not None else None)


def neutron_maker(port: Mapping[str, object]) -> str | None:
    """The run that made a port; None for what is not ours."""
    prefix = f"{RUN}="
    tagged = (tag.removeprefix(prefix) for tag in _tags(port) if tag.startswith(prefix))
    return next(tagged, None) or maker_in(port.get("description"))


def key_tag(key: str) -> str:
    """A key as a tag."""
    return f"{KEY}={hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _tags(resource: Mapping[str, object]) -> list[str]:
    tags = resource.get("tags")
    return tags if isinstance(tags, list) else []

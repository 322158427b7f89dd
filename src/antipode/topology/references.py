# SPDX-License-Identifier: Apache-2.0
"""The real references of volumes: what the APIs of a site tell of where they are in the storage.

The calls are few for however many volumes: the attachments of the project, the pools of the
scheduler, and only for drivers whose connections hold no name what each of their back ends lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from antipode.cloud.answers import printable
from antipode.cloud.api import ApiError, Json
from antipode.cloud.backends import Connection
from antipode.cloud.site import Site
from antipode.errors import UnexpectedAnswer
from antipode.model.reference import LONGEST, BackendReference

HOST, NAME_ID, PROVIDER_ID = (
    "os-vol-host-attr:host",
    "os-vol-mig-status-attr:name_id",
    "provider_id",
)
_BY_NAME = ("rbd", "nfs", "glusterfs", "quobyte", "smbfs", "vzstorage")
"""Connections of these have the name of the volume, at its end where there is a pool before it."""
_OF_ONE_VOLUME = re.compile(r":([^:]*[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$")
"""The end of a target's name that is of one volume only, as LVM's is."""
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Answers:
    """What a site tells of its storage."""

    connections: Collection[Connection]
    locations: Mapping[str, str]
    """pool -> location_info"""
    unanswered: Mapping[str, str] = field(default_factory=dict)
    """what could not be asked -> the refusal"""
    listed: Mapping[str, str] = field(default_factory=dict)
    """volume id -> name in the back end, of volumes whose connection has none"""


def ask(site: Site, volumes: Sequence[Json]) -> Answers:
    """What a site tells of where these volumes are, as Cinder lists them; what is refused is noted,
    and hinders nothing.

    Raises:
        SiteUnreachable: it does not answer.
    """
    unanswered: dict[str, str] = {}
    ids = {v["id"] for v in volumes}
    with ThreadPoolExecutor(1, "locations") as pool:
        located = pool.submit(
            _answered, unanswered, "location", site.backends.locations, dict[str, str]
        )
        connections: list[Connection] = _answered(
            unanswered, "connection", lambda: site.backends.connections(ids), list
        )
    locations = located.result()
    answers = Answers(connections, locations, unanswered)
    nameless = [v for v in volumes if v.get(HOST) and not _name(_connection_of(answers, v["id"]))]
    listed: dict[str, str] = {}
    for host in sorted({_back_end(v[HOST]) for v in nameless}):
        rows: list[Json] = _answered(
            unanswered, "listing", partial(site.backends.manageable_volumes, host), list
        )
        listed |= {r["cinder_id"]: name for r in rows if r["cinder_id"] and (name := name_in(r))}
    return Answers(connections, locations, unanswered, listed)


def reference(
    answers: Answers, volume: Json, server: str | None, attachment: str | None
) -> BackendReference:
    """The reference of a volume, as Cinder lists it.

    Args:
        server: the id of the server it is attached to, if it is to any.
        attachment: the id of that attachment, where Nova tells it.
    """
    connection = _connection_of(answers, volume["id"], server, attachment)
    host = volume.get(HOST)
    name = _name(connection) or answers.listed.get(volume["id"])
    return BackendReference(
        name=name,
        driver_volume_type=connection.driver_volume_type if connection else None,
        connection=dict(connection.parts) if connection else {},
        host=_short(host),
        name_id=_short(volume.get(NAME_ID)),
        provider_id=_short(volume.get(PROVIDER_ID)),
        location=answers.locations.get(host or ""),
        missing=list(_missing(answers, volume, connection, name)),
    )


def name_in(row: Json) -> str | None:
    """The name in the reference of a listing's row, under whichever key the driver has it."""
    names = [value for value in row["reference"].values() if isinstance(value, str) and value]
    return printable(names[0], LONGEST) if len(names) == 1 else None


def _missing(
    answers: Answers, volume: Json, connection: Connection | None, name: str | None
) -> Iterator[str]:
    if connection is None or connection.driver_volume_type is None:
        why = answers.unanswered.get("connection", "Cinder shows none for its attachment")
        yield _line(f"no connection: {why}")
    if hidden := [key for key in (HOST, NAME_ID) if key not in volume]:
        yield f"Cinder shows {' and '.join(hidden)} to administrators only"
    if HOST in volume and volume[HOST] not in answers.locations:
        why = answers.unanswered.get("location", "the driver tells none of the pool")
        yield _line(f"no location: {why}")
    if name is None:
        why = answers.unanswered.get("listing", "neither its connection nor its back end tells it")
        yield _line(f"no name: {why}")


def _connection_of(
    answers: Answers, volume: str, server: str | None = None, attachment: str | None = None
) -> Connection | None:
    """The connection of a volume to a server: while the server moves to another host there are two
    of them, to the same volume.
    """
    known = [c for c in answers.connections if c.volume_id == volume]
    known.sort(
        key=lambda c: (
            c.driver_volume_type is None,
            c.attachment_id != attachment,
            c.server_id != server,
        )
    )
    return known[0] if known else None


def _name(connection: Connection | None) -> str | None:
    """The name that a connection has of its volume; None where it has none of its own."""
    if connection is None:
        return None
    parts = connection.parts
    if connection.driver_volume_type in _BY_NAME:
        return parts.get("name", "").rpartition("/")[2] or None
    if "scaleIO_volname" in parts:
        return parts["scaleIO_volname"]
    targets = [parts[key] for key in ("target_iqn", "target_nqn", "nqn") if key in parts]
    own = [found[1] for target in targets if (found := _OF_ONE_VOLUME.search(target))]
    return own[0] if own else None


def _back_end(host: str) -> str:
    """`HOST@BACKEND` of `HOST@BACKEND#POOL`."""
    return host.partition("#")[0]


def _answered(
    unanswered: dict[str, str],
    what: str,
    call: Callable[[], Answer],
    nothing: Callable[[], Answer],
) -> Answer:
    try:
        return call()
    except ApiError as error:
        only = "administrators only" if error.status == 403 else f"{error.status} {error.reason}"
        unanswered[what] = only
    except UnexpectedAnswer as error:
        unanswered[what] = str(error)
    return nothing()


def _short(text: str | None) -> str | None:
    return printable(text, LONGEST) if text else None


def _line(text: str) -> str:
    return printable(" ".join(text.split()), LONGEST)

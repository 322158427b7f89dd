# SPDX-License-Identifier: Apache-2.0
"""What the routes have in common: pages of lists, links, moments, names in paths, microversions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from antipode.errors import InvalidInput
from antipode.model.base import NAME

SERVICE = "disaster-recovery"
OLDEST, NEWEST = (1, 0), (1, 2)
"""The microversions that are understood; docs/api.md has a line for each."""
MOST, USUAL = 1000, 100
"""Items of a list."""
MOST_REMEMBERED = 4096
"""Items of lists that a process keeps as it has shown them: most lists have the same items as the
one before.
"""
MARKER = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,126}$"
Marker = Annotated[str, Query(pattern=MARKER, description="the item after which the page begins")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="how many items at most")]
VnfName = Annotated[str, Path(pattern=NAME, description="name of a VNF")]
RunId = Annotated[str, Path(pattern=MARKER, description="id of a run")]
PolicyName = Annotated[str, Path(pattern=NAME, description="name of a policy")]
PlanName = Annotated[str, Path(pattern=NAME, description="name of a plan")]
PointId = Annotated[str, Path(pattern=MARKER, description="id of a recovery point, or `newest`")]
Item = TypeVar("Item")
_ASKED = re.compile(rf"(?:^|,)\s*{SERVICE}\s+(\S+?)\s*(?:,|$)", re.IGNORECASE)


class Body(BaseModel):
    """What a client sends: unknown fields are errors, and a string is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Link(BaseModel):
    """A link to a resource."""

    rel: str
    href: str


class Linked(BaseModel):
    """A resource with links to itself and to what belongs to it."""

    links: list[Link]


@lru_cache(8192)
def moment(seconds: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339, UTC."""
    if seconds is None:
        return None
    found = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return found.replace("+00:00", "Z")


Moment = Annotated[str, Field(description="RFC 3339, UTC", examples=["2026-11-30T18:00:00.000Z"])]


def base_of(request: Request) -> str:
    """What links begin with: the URL of the configuration, else as the client has reached us."""
    found: str | None = getattr(request.state, "base", None)
    if found is None:
        settings = request.app.state.installation.settings
        found = request.state.base = str(settings.url or request.base_url).rstrip("/")
    return found


def href(request: Request, *path: str) -> str:
    """A link to a resource, of the parts of its path after `/v1`."""
    return _below(base_of(request), path)


def _below(base: str, path: Sequence[str]) -> str:
    return "/".join([base, "v1", *map(_quoted, path)])


@lru_cache(4096)
def _quoted(part: str) -> str:
    return quote(part, safe="")


def links(base: str, *path: str, **more: Sequence[str]) -> list[Link]:
    """The link of a resource to itself, and others by their names.

    Args:
        base: what they begin with; see `base_of`.
    """
    own = [Link(rel="self", href=_below(base, path))]
    return own + [Link(rel=rel, href=_below(base, to)) for rel, to in more.items()]


def page(
    request: Request, found: Sequence[Item], limit: int, marker: Callable[[Item], str]
) -> tuple[Sequence[Item], list[Link]]:
    """A page of a list, of one item more than it may have; and the link to the next page."""
    if len(found) <= limit:
        return found, []
    shown = found[:limit]
    asked = {k: v for k, v in request.query_params.items() if k != "marker"}
    query = urlencode({**asked, "marker": marker(shown[-1])})
    return shown, [Link(rel="next", href=f"{base_of(request)}{request.url.path}?{query}")]


def microversion(headers: Sequence[str]) -> tuple[int, int]:
    """The microversion that a request asks for, by its headers `OpenStack-API-Version`.

    Raises:
        InvalidInput: it is none.
        LookupError: it is not supported.
    """
    asked = _ASKED.search(",".join(headers))
    if asked is None:
        return OLDEST
    if asked[1] == "latest":
        return NEWEST
    numbers = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", asked[1], re.ASCII)
    if numbers is None:
        raise InvalidInput("OpenStack-API-Version is not of the form: disaster-recovery 1.N")
    found = int(numbers[1]), int(numbers[2])
    if not OLDEST <= found <= NEWEST:
        raise LookupError(
            f"version {found[0]}.{found[1]} is not supported; the oldest is"
            f" {OLDEST[0]}.{OLDEST[1]}, the newest {NEWEST[0]}.{NEWEST[1]}"
        )
    return found


Json = dict[str, Any]

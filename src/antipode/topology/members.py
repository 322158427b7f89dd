# SPDX-License-Identifier: Apache-2.0
"""The servers that the selectors of a VNF file find at a site: asked at each protection, as members
come and go.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from antipode.cloud.api import Json
from antipode.cloud.compute import is_unreadable
from antipode.cloud.site import Site
from antipode.errors import NotFound, ResourceFailed
from antipode.model.marks import is_throw_away
from antipode.model.vnf import Selector, Vnf


def select_members(vnf: Vnf, site: Site) -> dict[str, list[str]]:
    """Name of an entry that selects -> the ids of its servers, in the order of their names.

    A server that the file names by itself is selected by no entry, and neither is one of a drill:
    it has the tags and metadata of the member that it is a copy of.

    Raises:
        NotFound: an entry finds no server, or two find the same.
        ResourceFailed: Nova does not tell of some servers, as a cell does not answer: one of them
            may be a member.
    """
    entries = [m for m in vnf.members if m.is_open]
    servers = site.compute.servers()
    if unreadable := [s["id"] for s in servers if is_unreadable(s)]:
        raise ResourceFailed(
            f"VNF {vnf.vnf} at {site.name}: its members cannot be selected, as Nova tells only the "
            f"ids of {', '.join(unreadable)}, whose cell does not answer"
        )
    by_group = any(m.select and m.select.server_group for m in entries)
    groups = site.compute.server_groups() if by_group else []
    named = {m.server for m in vnf.members if not m.is_open}
    free = sorted(
        (s for s in servers if not {s["name"], s["id"]} & named and not is_throw_away(s)),
        key=lambda s: (s["name"], s["id"]),
    )
    here = vnf.map_between(vnf.primary, site.name)
    found: dict[str, list[str]] = {}
    problems: list[str] = []
    for entry in entries:
        if entry.select is None:
            continue
        group = entry.select.server_group
        members = _members(here.server_groups.get(group, group), groups) if group else set()
        found[entry.label] = [s["id"] for s in free if _is_selected(s, entry.select, members)]
        if not found[entry.label]:
            problems.append(f"{entry.label} selects no server ({entry.select})")
    problems += _selected_twice(found, free)
    if problems:
        raise NotFound(f"VNF {vnf.vnf} at {site.name}: {'; '.join(problems)}")
    return found


def _members(group: str, groups: Sequence[Json]) -> set[str]:
    return {i for g in groups if g["name"] == group for i in g["members"]}


def _is_selected(server: Json, selector: Selector, members: Collection[str]) -> bool:
    if selector.tag is not None:
        return selector.tag in server.get("tags", [])
    if selector.metadata is not None:
        return all(server["metadata"].get(k) == v for k, v in selector.metadata.items())
    return server["id"] in members


def _selected_twice(found: dict[str, list[str]], servers: Sequence[Json]) -> list[str]:
    names = {s["id"]: s["name"] for s in servers}
    by = {i: [entry for entry, ids in found.items() if i in ids] for i in names}
    return [
        f"server {names[i]} ({i}) is selected by {', '.join(entries)}"
        for i, entries in by.items()
        if len(entries) > 1
    ]

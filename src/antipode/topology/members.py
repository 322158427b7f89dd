# SPDX-License-Identifier: Apache-2.0
"""The servers that the selectors of a VNF file find at a site: asked at each protection, as members
come and go.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from antipode.cloud.api import Json
from antipode.cloud.compute import is_unreadable
from antipode.cloud.site import Site
from antipode.errors import InvalidInput, NotFound, PreflightFailed, ResourceFailed
from antipode.model.marks import FENCED, KEY, STACK, is_throw_away, made_by
from antipode.model.vnf import Mapping, Selector, Vnf

SERVER = "OS::Nova::Server"
"""as Heat calls the type"""


def select_members(vnf: Vnf, site: Site) -> dict[str, list[str]]:
    """Name of an entry that selects -> the ids of its servers, in the order of their names: none of
    an entry whose servers a recovery does not bring back, where there are none.

    A server that the file names by itself is selected by no entry, and neither is one of a drill:
    it has the tags and metadata of the member that it is a copy of.

    Raises:
        NotFound: an entry finds no server, there is no such stack, or two entries find the same.
        InvalidInput: several server groups have the name by which an entry selects.
        PreflightFailed: an entry selects by a stack, and the site has no Heat.
        ResourceFailed: Nova does not tell of some servers, as a cell does not answer: one of them
            may be a member. Or a stack changes now, has a server that Nova does not have, or has
            others than those that were recovered of it.
    """
    entries = [m for m in vnf.members if m.is_open]
    servers = site.compute.servers()
    if unreadable := [s["id"] for s in servers if is_unreadable(s)]:
        raise ResourceFailed(
            f"VNF {vnf.vnf} at {site.name}: its members cannot be selected, as Nova tells only the "
            f"ids of {', '.join(unreadable)}, whose cell does not answer"
        )
    named = {m.server for m in vnf.members if not m.is_open}
    free = sorted(
        (s for s in servers if not {s["name"], s["id"]} & named and not is_throw_away(s)),
        key=lambda s: (s["name"], s["id"]),
    )
    here = vnf.map_between(vnf.primary, site.name)
    groups = _Groups(site, here, servers)
    found: dict[str, list[str]] = {}
    problems: list[str] = []
    for entry in entries:
        if entry.select is None:
            continue
        try:
            members = groups.members(entry.select)
        except NotFound as error:
            found[entry.label] = []
            if entry.recover == "none":
                continue
            problems.append(f"{entry.label}: {error}")
            continue
        found[entry.label] = [s["id"] for s in free if _is_selected(s, entry.select, members)]
        if not found[entry.label] and entry.recover != "none":
            problems.append(f"{entry.label} selects no server ({entry.select})")
    problems += _selected_twice(found, free)
    if problems:
        raise NotFound(f"VNF {vnf.vnf} at {site.name}: {'; '.join(problems)}")
    return found


class _Groups:
    """The sets of servers that the site itself keeps, asked only where an entry needs them."""

    def __init__(self, site: Site, here: Mapping, servers: Sequence[Json]) -> None:
        """`here`: how names translate at this site."""
        self._site, self._here = site, here
        self._servers = {s["id"]: s for s in servers}

    def members(self, selector: Selector) -> set[str]:
        """The ids of the servers in the group or stack that a selector names, if it names one.

        Errors as for `select_members`.
        """
        if selector.stack is not None:
            return self._of_stack(selector.stack)
        if selector.server_group is not None:
            name = self._here.server_groups.get(selector.server_group, selector.server_group)
            groups = self._site.compute.server_groups()
            # one without members may be made by a request that came through late
            named = [g for g in groups if g["name"] == name and g["members"]]
            if len(named) > 1:
                raise InvalidInput(
                    f"{self._site.name}: {len(named)} server groups are named {name}"
                    f" ({', '.join(g['id'] for g in named)}), and which one is meant is not known;"
                    " select the members by a tag"
                )
            return {i for g in named for i in g["members"]}
        return set()

    def _of_stack(self, name: str) -> set[str]:
        """Where the VNF was recovered its servers belong to no stack, and carry the name of theirs.

        The mark of a server that antipode did not make counts beside those of servers that it made
        only: anybody can give it, and would else take the place of the stack.
        """
        carrying = {
            i: s
            for i, s in self._servers.items()
            if s["metadata"].get(STACK) == name and not is_throw_away(s)
        }
        if not any(made_by(s) and s["metadata"].get(KEY) for s in carrying.values()):
            return self._of_heat(name)
        self._must_be_no_copies(name, carrying.values())
        self._must_have_no_others(name, carrying)
        return set(carrying)

    def _must_be_no_copies(self, name: str, recovered: Collection[Json]) -> None:
        """A server that somebody has made with all metadata of another is no member yet."""
        by_key: dict[str, list[str]] = {}
        for server in recovered:
            if key := server["metadata"].get(KEY):
                by_key.setdefault(key, []).append(f"{server['name']} ({server['id']})")
        for same in by_key.values():
            if len(same) > 1:
                raise ResourceFailed(
                    f"{self._site.name}: of the servers {', '.join(same)}, recovered of stack"
                    f" {name}, one is a copy of the other. Remove {KEY} from the metadata of the"
                    f" copy, and {STACK}, too, if it is no member"
                )

    def _must_have_no_others(self, name: str, recovered: Collection[str]) -> None:
        """See that the stack has no servers beside those that were recovered of it: Heat has made
        them since, or the mark is not to be believed.
        """
        try:
            stack = self._site.stacks.find(name)
        except PreflightFailed:
            return  # the site has no Heat
        if stack is None or stack["stack_status"] == "DELETE_COMPLETE":
            return
        ids = {r["physical_resource_id"] for r in self._site.stacks.resources(stack)}
        others = [
            f"{s['name']} ({i})"
            for i, s in sorted(self._servers.items())
            if i in ids and i not in recovered and not is_throw_away(s)
            if FENCED not in s["metadata"]
        ]
        if others:
            raise ResourceFailed(
                f"{self._site.name}: stack {name} has the servers {', '.join(others)}, and others"
                f" carry its name as recovered of it ({', '.join(sorted(recovered))}). Remove the"
                f" servers, or {STACK} from the metadata of those that are no members"
            )

    def _of_heat(self, name: str) -> set[str]:
        """The type of a resource is not trusted, as environments give types other names: what Nova
        knows as a server is one.
        """
        stack = self._site.stacks.find(name)
        if stack is None or stack["stack_status"] == "DELETE_COMPLETE":
            raise NotFound(f"{self._site.name} has no stack {name}, and no server recovered of it")
        if stack["stack_status"].endswith("_IN_PROGRESS"):
            raise ResourceFailed(
                f"{self._site.name}: stack {name} is {stack['stack_status']}, so its servers are "
                "not known; try again when Heat is done"
            )
        resources = self._site.stacks.resources(stack)
        # of a group that is scaled, only the stack within is in progress
        if busy := [r for r in resources if r["resource_status"].endswith("_IN_PROGRESS")]:
            each = ", ".join(f"{r['resource_name']} is {r['resource_status']}" for r in busy)
            raise ResourceFailed(
                f"{self._site.name}: stack {name} changes ({each}), so its servers are not known;"
                " try again when Heat is done"
            )
        if lost := [r for r in resources if r["resource_type"] == SERVER and self._lacks(r)]:
            each = ", ".join(f"{r['resource_name']} ({_physical(r)})" for r in lost)
            raise ResourceFailed(
                f"{self._site.name}: stack {name} has servers that Nova does not have: {each}; "
                "update the stack, or select its servers by a tag"
            )
        return {r["physical_resource_id"] for r in resources} & self._servers.keys()

    def _lacks(self, resource: Json) -> bool:
        return resource["physical_resource_id"] not in self._servers


def _physical(resource: Json) -> str:
    return resource["physical_resource_id"] or "never made"


def _is_selected(server: Json, selector: Selector, members: Collection[str]) -> bool:
    """`members`: of the group or stack that the selector names."""
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

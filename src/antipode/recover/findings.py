# SPDX-License-Identifier: Apache-2.0
"""What the parts of a plan find: problems that stand in the way, and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from antipode.cloud.api import Json

Named = dict[str, list[Json]]


@dataclass
class Findings:
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def one(self, what: str, name: str, there: Named, for_whom: str) -> str:
        """The id of the one resource of that name; a problem unless there is exactly one."""
        found = there.get(name, [])
        if len(found) != 1:
            have = ", ".join(sorted(there)) or "none"
            self.problems.append(
                f"there is no {what} {name}, needed for {for_whom}; create it, or map the name "
                f"in the VNF's file (there are: {have})"
                if not found
                else f"{len(found)} {what}s are named {name}, needed for {for_whom}"
            )
            return ""
        return str(found[0]["id"])


def by_name(items: Iterable[Json]) -> Named:
    """Resources by their names, which need not be unique."""
    named: Named = {}
    for item in items:
        named.setdefault(item["name"], []).append(item)
    return named


def usable(named: Named, project_id: str) -> Named:
    """The same, but of resources of one name those of the project, else those shared with it: an
    administrator is shown everybody's.
    """
    return {name: _for_project(same, project_id) for name, same in named.items()}


def _for_project(same: Sequence[Json], project_id: str) -> list[Json]:
    own = [r for r in same if r.get("project_id") == project_id]
    shared = [r for r in same if r.get("shared") or r.get("router:external")]
    return own or shared or list(same)

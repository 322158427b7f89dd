# SPDX-License-Identifier: Apache-2.0
"""The quotas of a service: the limits of each project, what it uses of them, and which of them
refuses something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from antipode.sandbox.database import Json, Table
from antipode.sandbox.http import Call, Refused

Usage = Callable[[str], Mapping[str, int]]


class Over(NamedTuple):
    """A quota that refuses something."""

    name: str
    limit: int
    used: int


class Quotas:
    def __init__(self, changed: Table, defaults: Callable[[], Mapping[str, int]]) -> None:
        """`changed` keeps the limits of projects that differ from the defaults; a limit below 0 is
        none.
        """
        self._changed = changed
        self._defaults = defaults
        self._usages: list[Usage] = []

    def count(self, usage: Usage) -> None:
        """Have something counted: the use that a project makes of some of the quotas.

        Several may count parts of the same.
        """
        self._usages.append(usage)

    def limits_of(self, project: str) -> dict[str, int]:
        return {**self._defaults(), **(self._changed.get(project) or {}).get("limits", {})}

    def usage_of(self, project: str) -> Counter[str]:
        return sum((Counter(usage(project)) for usage in self._usages), Counter())

    def details_of(self, project: str) -> Json:
        """Limit and use of each quota."""
        used = self.usage_of(project)
        return {
            name: {"limit": limit, "in_use": used[name], "reserved": 0}
            for name, limit in self.limits_of(project).items()
        }

    def change(self, project: str, wanted: Mapping[str, int]) -> dict[str, int]:
        """Change limits of a project; all its limits now."""
        limits = self.limits_of(project)
        limits |= {name: limit for name, limit in wanted.items() if name in limits}
        self._changed.keep({"id": project, "limits": limits})
        return limits

    def exceeded(self, project: str, needed: Mapping[str, int]) -> Over | None:
        """The first quota of a project that does not allow what is needed."""
        limits = self.limits_of(project)
        limited = {name: amount for name, amount in needed.items() if limits.get(name, -1) >= 0}
        if not limited:
            return None  # nothing needs to be counted
        used = self.usage_of(project)
        return next(
            (
                Over(name, limits[name], used[name])
                for name, amount in limited.items()
                if used[name] + amount > limits[name]
            ),
            None,
        )

    def refuse_others(self, call: Call, project: str, rule: str) -> None:
        """See that a caller asks about his own project, or is an administrator; refused with 403 by
        the policy rule.
        """
        if not call.caller.is_admin and call.caller.project_id != project:
            raise Refused(403, f"Policy doesn't allow {rule} to be performed.")

# SPDX-License-Identifier: Apache-2.0
"""Heat of one site: its stacks, and the resources that they and the stacks within them have."""

from __future__ import annotations

from antipode.cloud import answers
from antipode.cloud.api import Api, Json

DEEPEST = 100
"""Stacks within stacks; Heat looks no deeper than it lets them be made: 5, by default."""


class Stacks:
    def __init__(self, api: Api) -> None:
        self._api = api

    def find(self, name_or_id: str) -> Json | None:
        """The stack of a name or an id (`GET /v1/PROJECT/stacks`); None where the project has none.

        A listing is asked, as Heat answers the name of a stack with a redirect, whose address is
        wrong behind some proxies.
        """
        named = self._api.get("/stacks", answers.STACKS, name=name_or_id)
        found = named or self._api.get("/stacks", answers.STACKS, id=name_or_id, show_nested="true")
        return next((s for s in found if name_or_id in (s["stack_name"], s["id"])), None)

    def resources(self, stack: Json) -> list[Json]:
        """All resources of a stack, and of the stacks within it
        (`GET /v1/PROJECT/stacks/NAME/ID/resources`).
        """
        found: list[Json] = self._api.get(
            f"/stacks/{stack['stack_name']}/{stack['id']}/resources",
            answers.STACK_RESOURCES,
            nested_depth=DEEPEST,
        )
        return found

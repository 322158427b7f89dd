# SPDX-License-Identifier: Apache-2.0
"""The members of a stack of Heat: protected as the stack grows and shrinks, recovered at a site
that knows no such stack, and protected there again.
"""

from __future__ import annotations

from typing import Any

from antipode.sandbox import canary, desk
from tests.sandbox.conftest import BACKUP, PRIMARY, World
from tests.sandbox.test_two_way import third, world

__all__ = ["third", "world"]


def template(servers: dict[str, str]) -> dict[str, Any]:
    resources = {
        name: {"type": "OS::Nova::Server", "external_id": server_id}
        for name, server_id in servers.items()
    }
    return {"heat_template_version": "2018-08-31", "resources": resources}


class Stack:
    """A stack whose servers are in a stack within it."""

    def __init__(self, world: World) -> None:
        cloud = world.cloud(PRIMARY)
        self._heat = cloud.orchestration
        self._servers = {s.name: s.id for s in cloud.compute.servers()}
        self._path = ""

    def have(self, *names: str) -> None:
        """Make it, or update it, with these servers."""
        inner = template({name: self._servers[name] for name in names})
        outer = {**template({}), "resources": {"group": {"type": "group.yaml"}}}
        body = {"stack_name": "canary", "template": outer, "files": {"group.yaml": inner}}
        if self._path:
            assert self._heat.put(self._path, json=body).ok
        else:
            made = self._heat.post("/stacks", json=body).json()["stack"]
            self._path = f"/stacks/canary/{made['id']}"
        canary.await_that(lambda: self.status().endswith("_COMPLETE"), "the stack", 120)

    def status(self) -> str:
        return str(self._heat.get(self._path).json()["stack"]["stack_status"])


def know(world: World, name: str = "canary") -> None:
    asked = desk.vnf(world.sandbox)["members"][0]["answers"]
    selected = {"name": "all", "select": {"stack": name}, "answers": asked}
    world.know(members=[selected])


def names(world: World, site: str) -> set[str]:
    return {s.name for s in world.cloud(site).compute.servers()}


def test_a_stack_that_grows_is_recovered_whole_and_protected_where_it_is_unknown(
    world: World,
) -> None:
    operator = world.operator
    stack = Stack(world)
    know(world, "other")
    refused = operator.run("protect", "canary", "-f", "json")
    assert refused.returncode != 0 and "no stack other" in refused.stderr + refused.stdout
    know(world)
    stack.have("canary-db", "canary-app")
    assert world.protect()["members"] == ["canary-app", "canary-db"]
    stack.have("canary-db", "canary-app", "canary-front")
    grown = world.protect()
    assert (grown["members_added"], grown["members"][-1]) == (["canary-front"], "canary-front")

    changing = world.fault(PRIMARY, r"^stack\.update$", "stuck", times=None)
    stack._heat.put(stack._path, json={"template": template({})})
    assert operator.run("protect", "canary").returncode != 0
    assert world.frozen() == set()
    world.sandbox.ask(PRIMARY, "DELETE", f"/faults/{changing}")

    world.sandbox.kill(PRIMARY)
    operator.ask("failover", "canary", "--to", BACKUP, "--yes")
    assert names(world, BACKUP) == {"canary-db", "canary-app", "canary-front"}
    assert list(world.cloud(BACKUP).orchestration.stacks()) == []
    world.sandbox.start(PRIMARY)
    again = world.protect()
    assert (again["generation"], len(again["members"])) == (2, 3)
    assert "members_removed" not in again and "members_added" not in again

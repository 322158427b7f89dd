# SPDX-License-Identifier: Apache-2.0
"""Heat, as antipode finds the servers of a stack with it. On a lab without Heat these tests are
left out.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from antipode.cloud.api import Api, Json
from antipode.cloud.site import Site
from antipode.cloud.stacks import Stacks
from antipode.errors import NotFound, PreflightFailed, ResourceFailed
from antipode.model.vnf import Vnf
from antipode.sandbox.supervision import Sandbox
from antipode.topology.members import select_members
from tests.contract.conftest import PRIMARY, Machine, _stuck, refused, there, until

VERSION = "2018-08-31"


@pytest.fixture
def stacks(site: Site) -> Stacks:
    try:
        return site.stacks
    except PreflightFailed:
        pytest.skip("the site has no Heat")


@pytest.fixture
def heat(stacks: Stacks) -> Api:
    return stacks._api


def template(**resources: Any) -> Json:
    return {"heat_template_version": VERSION, "resources": resources}


def existing(kind: str, resource_id: str) -> Json:
    return {"type": kind, "external_id": resource_id}


@pytest.fixture
def stack(heat: Api, stacks: Stacks, machine: Machine) -> Iterator[Json]:
    """A stack with a port, and with a server two stacks below it."""
    name = f"stack-{uuid.uuid4().hex[:8]}"
    server = template(one=existing("OS::Nova::Server", machine.id))
    files = {
        "member.yaml": json.dumps(server),
        "group.yaml": json.dumps(template(member={"type": "member.yaml"})),
    }
    outer = template(
        group={"type": "group.yaml"}, nic=existing("OS::Neutron::Port", machine.port["id"])
    )
    made = heat.post("/stacks", {"stack_name": name, "template": outer, "files": files})["stack"]
    until(lambda: there(stacks.find(name))["stack_status"] == "CREATE_COMPLETE", "it is made")
    yield there(stacks.find(name))
    heat.delete(f"/stacks/{name}/{made['id']}")
    until(lambda: stacks.find(name) is None, "the stack is gone")


def selecting(name: str) -> Vnf:
    members = [{"name": "all", "select": {"stack": name}}]
    file = {"vnf": "v", "primary": PRIMARY, "backup": "site-b", "members": members}
    return Vnf.model_validate(file)


def test_a_stack_is_found_by_its_name_and_its_id_and_so_is_one_within(
    stacks: Stacks, stack: Json
) -> None:
    assert there(stacks.find(stack["id"]))["stack_name"] == stack["stack_name"]
    nested = next(r for r in stacks.resources(stack) if r["resource_name"] == "group")
    within = there(stacks.find(nested["physical_resource_id"]))
    assert {r["resource_name"] for r in stacks.resources(within)} == {"member", "one"}
    assert stacks.find("no-such-stack") is None


def test_all_resources_are_listed_with_those_of_stacks_within(
    stacks: Stacks, stack: Json, machine: Machine
) -> None:
    found = {r["resource_name"]: r for r in stacks.resources(stack)}
    assert set(found) == {"group", "member", "one", "nic"}
    assert found["one"]["physical_resource_id"] == machine.id
    assert found["one"]["resource_type"] == "OS::Nova::Server"


def test_without_a_depth_only_the_top_level_is_listed(heat: Api, stack: Json) -> None:
    path = f"/stacks/{stack['stack_name']}/{stack['id']}/resources"
    assert {r["resource_name"] for r in heat.get(path)["resources"]} == {"group", "nic"}
    assert refused(lambda: heat.get(path, depth=5)).status == 400


def test_a_stack_of_the_projects_own_user_is_seen_and_one_without_its_name_is_not(
    heat: Api, tenant: Site, stack: Json
) -> None:
    assert there(tenant.stacks.find(stack["stack_name"]))["id"] == stack["id"]
    assert refused(lambda: heat.get(f"/stacks/{stack['stack_name']}/nothing")).status == 404


def test_members_are_the_servers_of_a_stack(site: Site, stack: Json, machine: Machine) -> None:
    for name in (stack["stack_name"], stack["id"]):
        assert select_members(selecting(name), site) == {"all": [machine.id]}
    with pytest.raises(NotFound):
        select_members(selecting("no-such-stack"), site)


def test_a_stack_that_changes_has_no_members_yet(
    site: Site, heat: Api, stacks: Stacks, stack: Json, sandbox: Sandbox | None
) -> None:
    if sandbox is None:
        pytest.skip("needs a stack that does not get ready")
    waits: AbstractContextManager[None] = _stuck(sandbox, r"^stack\.update$")
    path = f"/stacks/{stack['stack_name']}/{stack['id']}"
    with waits:
        heat.call("PUT", path, {"template": template()})
        assert there(stacks.find(stack["id"]))["stack_status"] == "UPDATE_IN_PROGRESS"
        with pytest.raises(ResourceFailed):
            select_members(selecting(stack["stack_name"]), site)
    until(lambda: there(stacks.find(stack["id"]))["stack_status"] == "UPDATE_COMPLETE", "it is")
    with pytest.raises(NotFound):
        select_members(selecting(stack["stack_name"]), site)

# SPDX-License-Identifier: Apache-2.0
"""Things of one name are not taken for one another without a word."""

from __future__ import annotations

from typing import Any

import pytest

from antipode.errors import PreflightFailed
from antipode.recover.plan import make_plan
from antipode.topology import discovery
from antipode.topology.discovery import discover
from antipode.topology.losses import losses
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_port_fidelity import BARE, mapped, point_of, warned
from tests.unit.test_recovery import there

__all__ = ["there"]

Json = dict[str, Any]


def own_and_shared(cloud: FakeCloud, name: str) -> list[Json]:
    own = {"id": "own", "name": name, "project_id": cloud.site.project_id}
    return [own, {"id": "shared", "name": name, "project_id": "infra", "shared": True}]


def with_groups(cloud: FakeCloud) -> FakeCloud:
    cloud.groups += own_and_shared(cloud, "web")
    return cloud


def named(cloud: FakeCloud, *words: str) -> bool:
    said = losses(BARE, discover(BARE, cloud.site))
    return any(all(w in one for w in words) for one in said)


def test_two_security_groups_of_one_name_are_refused_unless_mapped(there: FakeCloud) -> None:
    here = with_groups(FakeCloud())
    here.ports["port-id-db"]["security_groups"] = ["own"]
    there.groups.append({"id": "web-b", "name": "web"})
    assert not named(here, "web")
    make_plan(point_of(here), there.site)
    here.ports["port-id-app"]["security_groups"] = ["shared"]
    assert named(here, "2 security groups", "web")
    with pytest.raises(PreflightFailed, match="2 security groups that are named web"):
        make_plan(point_of(here), there.site)
    make_plan(point_of(here, mapping=mapped(security_groups={"web": "web"})), there.site)


def test_a_shared_security_group_that_has_an_own_one_beside_it_is_said(there: FakeCloud) -> None:
    here = with_groups(FakeCloud())
    with_groups(there)
    here.ports["port-id-db"]["security_groups"] = ["own"]
    words = "security group web belongs to another project"
    assert not warned(make_plan(point_of(here), there.site), words)
    here.ports["port-id-db"]["security_groups"] = ["shared"]
    assert warned(make_plan(point_of(here), there.site), words)


def test_two_networks_of_one_name_are_refused_unless_mapped(there: FakeCloud) -> None:
    here = FakeCloud()
    former = here.networks[0]["name"]
    here.networks.append({"id": "net-s", "name": former, "project_id": "infra", "shared": True})
    here.subnets.append({**here.subnets[0], "id": "subnet-s", "network_id": "net-s"})
    unmapped = mapped(networks={})
    there.networks[0]["name"] = former
    assert not named(here, "networks that are named")
    make_plan(point_of(here, mapping=unmapped), there.site)
    here.ports["port-id-db"] |= {"network_id": "net-s"}
    here.ports["port-id-db"]["fixed_ips"][0]["subnet_id"] = "subnet-s"
    assert named(here, f"2 networks that are named {former}")
    with pytest.raises(PreflightFailed, match=f"2 networks that are named {former}"):
        make_plan(point_of(here, mapping=unmapped), there.site)
    make_plan(point_of(here, mapping=mapped(networks={former: former})), there.site)


def test_two_server_groups_of_one_name_are_named() -> None:
    group = {"id": "g", "name": "apart", "policy": "affinity", "members": ["id-db"]}
    groups: list[Json] = [group, {**group, "id": "other", "members": []}]
    found = discovery._groups_of_one_name
    assert list(found(["id-db", "id-app"], groups)) == []
    groups[1]["members"] = ["id-app"]
    assert [w for w in found(["id-db", "id-app"], groups) if "apart" in w]
    assert list(found(["id-db"], groups)) == []

# SPDX-License-Identifier: Apache-2.0
"""VNFs of several projects in one installation: each is protected and recovered in its own."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Unobserved
from antipode.errors import InvalidInput, NotFound, PreflightFailed
from antipode.freezes import reaper
from antipode.model.marks import is_member, marks, member_mark
from antipode.operations import fence, vnfs
from antipode.operations.failover import failover, prepare
from antipode.operations.protect import protect
from antipode.protect.quiesced_snapshot import window
from antipode.topology import answering
from antipode.topology.discovery import find_members
from antipode.vault import points
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_kill_matrix import VNF, backup_site, primary

CONFIG = """\
sites:
  site-a: {cloud: a, projects: {tenant: a-tenant, other: a-other}}
  site-b: {cloud: b, projects: {tenant: b-tenant}}
"""
OF_TENANT = VNF.model_copy(update={"project": "tenant"})


class World:
    """Two sites, at each the project of the account and that of a tenant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "vault").mkdir()
        self.config = folder / "antipode.yaml"
        self.config.write_text(
            f"{CONFIG}vault: {{directory: {folder}/vault}}\n"
            f"database: sqlite:///{folder}/antipode.db\n"
        )
        self.clouds: dict[str, FakeCloud] = {
            "a": FakeCloud("site-a", empty=True),
            "b": FakeCloud("site-b", empty=True),
            "a-tenant": primary(),
            "b-tenant": backup_site(),
        }
        self.clouds["a-tenant"].hosts.append("compute-2")
        self.here = Deployment(config.load(str(self.config)))

    def elsewhere(self) -> Deployment:
        """Another host, which knows the vault and nothing else."""
        text = self.config.read_text().replace("antipode.db", "other.db")
        path = self.folder / "other.yaml"
        path.write_text(text)
        keys = self.here.config.keys_dir
        path.write_text(f"{text}keys: {{directory: {keys}}}\n")
        return Deployment(config.load(str(path)))

    def made_outside(self) -> list[str]:
        """What was changed in projects that are not the tenant's."""
        return [*self.clouds["a"].events, *self.clouds["b"].events]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(window, "POLL_S", 0.02)
    monkeypatch.setattr(answering, "PAUSE_S", 0.02)
    world = World(tmp_path)
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: world.clouds[cloud].site)
    return world


def recover(here: Deployment) -> dict[str, Any]:
    return failover(here, prepare(here, "v", "site-b", None), Unobserved())


def test_a_vnf_is_protected_and_recovered_in_its_project_and_nowhere_else(world: World) -> None:
    vnfs.add(world.here, OF_TENANT)
    protect(world.here, "v", Unobserved())
    recover(world.here)
    assert {s["name"] for s in world.clouds["b-tenant"].servers.values()} == {"db", "front"}
    assert world.made_outside() == []


def test_a_host_without_the_file_recovers_into_the_project_that_the_point_names(
    world: World,
) -> None:
    vnfs.add(world.here, OF_TENANT)
    protect(world.here, "v", Unobserved())
    there = world.elsewhere()
    recover(there)
    assert len(world.clouds["b-tenant"].servers) == 2
    copy = fence.prepare(there, "v", "site-a")
    assert {s["server"] for s in copy.servers} == {"db", "front"}
    assert world.made_outside() == []


def test_a_site_without_the_project_is_refused_and_the_file_names_the_place(
    world: World, tmp_path: Path
) -> None:
    file = tmp_path / "v.yaml"
    fields = ("vnf: v", "project: other", "primary: site-a", "backup: site-b")
    file.write_text("\n".join([*fields, "members: [{server: db}]", ""]))
    with pytest.raises(InvalidInput) as caught:
        vnfs.read_file(file, world.here.config)
    assert "project" in str(caught.value) and "site-b" in str(caught.value)
    with pytest.raises(NotFound):
        world.here.site("site-b", VNF.model_copy(update={"project": "other"}))


def test_a_point_of_a_project_that_this_host_does_not_have_is_not_recovered(world: World) -> None:
    vnfs.add(world.here, OF_TENANT)
    protect(world.here, "v", Unobserved())
    there = world.elsewhere()
    del there.config.sites["site-b"].projects["tenant"]
    with pytest.raises(NotFound):
        recover(there)
    assert not world.clouds["b-tenant"].servers and world.made_outside() == []


@pytest.mark.parametrize("project", [None, "other"])
def test_a_vnf_does_not_change_its_project(world: World, project: str | None) -> None:
    vnfs.add(world.here, OF_TENANT)
    with pytest.raises(InvalidInput):
        vnfs.add(world.here, OF_TENANT.model_copy(update={"project": project}))
    assert world.here.vnfs.get("v").project == "tenant"
    protect(world.here, "v", Unobserved())
    world.here.vnfs.remove("v")
    vnfs.add(world.here, OF_TENANT.model_copy(update={"project": None}))
    with pytest.raises((InvalidInput, PreflightFailed)):
        recover(world.here)


def test_a_host_that_knows_no_projects_says_where_it_would_recover(world: World) -> None:
    vnfs.add(world.here, OF_TENANT)
    protect(world.here, "v", Unobserved())
    there = world.elsewhere()
    for site in there.config.sites.values():
        site.projects.clear()
    world.clouds["b"] = backup_site()
    assert any("project tenant" in w for w in prepare(there, "v", "site-b", None).warnings)


def test_two_entries_of_one_project_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "antipode.yaml"
    file.write_text("sites: {a: {cloud: x, projects: {t: x}}, b: {cloud: y}}\n")
    with pytest.raises(InvalidInput):
        config.load(str(file))


def test_a_member_is_unquiesced_in_its_own_project_only(world: World) -> None:
    cloud = world.clouds["a-tenant"]
    server = next(iter(cloud.servers))
    freezes = world.here.freezes.of("protect-1", "tenant")
    freezes.freezing("site-a", server, "db", -60.0)
    assert reaper.reap(world.here.freezes, world.here.site("site-a")) == []
    assert len(world.here.freezes.overdue("site-a")) == 1
    assert reaper.reap(world.here.freezes, world.here.site("site-a", OF_TENANT)) == ["db"]
    assert world.here.freezes.overdue("site-a") == []


def test_each_connection_to_a_site_says_of_which_vnf() -> None:
    """One that does not is of the account's own project: a tenant's VNF would not be found, or
    made in the wrong place.
    """
    root = Path(config.__file__).parent
    silent = [
        f"{path.relative_to(root)}:{call.lineno}"
        for room in ("runs", "operations", "service", "engine", "cli")
        for path in sorted((root / room).rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "site"
        and ast.unparse(call.func.value).endswith("deployment")
        and len(call.args) + len(call.keywords) < 2
    ]
    assert silent == []


def named(world: World, name: str, **metadata: str) -> str:
    """Another server of this name at the backup site."""
    cloud = world.clouds["b-tenant"]
    made = cloud.add_server(name, 7, f"other-{name}")
    cloud.servers[made]["metadata"] = metadata
    return made


def test_two_vnfs_of_a_project_may_have_servers_of_one_name(world: World) -> None:
    vnfs.add(world.here, OF_TENANT)
    protect(world.here, "v", Unobserved())
    other = named(world, "db", **marks("failover-1", "point-w/1"), **member_mark("w", "db"))
    recover(world.here)
    servers = world.clouds["b-tenant"].servers
    assert sorted(s["name"] for s in servers.values()) == ["db", "db", "front"]
    found = find_members(OF_TENANT, world.here.site("site-b", OF_TENANT))
    assert [s["name"] for s in found] == ["db", "front"]
    assert other not in {s["id"] for s in found}


def test_a_server_of_the_name_that_no_vnf_has_stays_in_the_way(world: World) -> None:
    vnfs.add(world.here, OF_TENANT)
    protect(world.here, "v", Unobserved())
    named(world, "db", **member_mark("w", "db"))  # nothing has made it
    with pytest.raises(PreflightFailed):
        recover(world.here)


def test_a_member_that_is_named_by_its_id_is_found_where_it_was_recovered(world: World) -> None:
    by_id = [m.model_copy(update={"server": f"id-{m.server}"}) for m in OF_TENANT.members]
    by_id[1] = by_id[1].model_copy(update={"boot_after": ["id-db"]})
    vnf = OF_TENANT.model_copy(update={"members": by_id})
    vnfs.add(world.here, vnf)
    protect(world.here, "v", Unobserved())
    recover(world.here)
    found = find_members(vnf, world.here.site("site-b", vnf))
    assert [s["name"] for s in found] == ["db", "front"]


def test_a_copy_that_was_renamed_since_is_not_booted_as_the_member(world: World) -> None:
    vnfs.add(world.here, OF_TENANT)
    protect(world.here, "v", Unobserved())
    point = points.list_ids(world.here.vaults(), "v")[-1]
    named(world, "db-old", **marks("failover-1", f"{point}/id-db"))
    with pytest.raises(PreflightFailed) as caught:
        recover(world.here)
    assert any("db-old" in problem for problem in caught.value.problems)


def test_the_mark_of_a_member_fits_where_its_name_is_long() -> None:
    (said,) = member_mark("v", "é" * 255).values()
    server = {"id": "1", "metadata": {**member_mark("v", "é" * 255)}}
    assert len(said) <= 255 and is_member(server, "v", "é" * 255)
    assert not is_member(server, "w", "é" * 255)


def test_a_vnf_is_given_a_project_where_that_says_only_whose_it_is(world: World) -> None:
    for site in world.here.config.sites.values():
        site.projects.clear()
    world.clouds.update(a=primary(), b=backup_site())
    vnfs.add(world.here, OF_TENANT.model_copy(update={"project": None}))
    protect(world.here, "v", Unobserved())
    vnfs.add(world.here, OF_TENANT)
    recover(world.here)
    assert world.clouds["b"].servers
    with pytest.raises(InvalidInput):
        vnfs.add(world.here, OF_TENANT.model_copy(update={"project": "other"}))

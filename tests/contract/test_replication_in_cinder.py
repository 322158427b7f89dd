# SPDX-License-Identifier: Apache-2.0
"""What Cinder's own API offers for replication, as antipode calls it. On the lab its back end needs
a `replication_device`, and the test of `failover_host` no volume that is not replicated: Cinder
would put those into error.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from antipode.cloud.site import Site
from antipode.sandbox.cinder.storage import BACKEND
from antipode.sandbox.supervision import Sandbox
from tests.contract.conftest import PATIENCE_S, PRIMARY, Things, refused, storage, there, until

TARGET = "b"
NAMES = "replication_targets"
SPECS = {"replication_enabled": "<is> True"}


@pytest.fixture
def target(site: Site, sandbox: Sandbox | None) -> Iterator[str]:
    """The replication target of the back end."""
    if sandbox:
        sandbox.ask(PRIMARY, "PUT", "/conditions", {"replication_target": TARGET})
    targets = [t for p in site.backends.pools() for t in p["capabilities"].get(NAMES) or []]
    if not targets:
        pytest.skip("the back end has no replication_device")
    yield targets[0]
    if sandbox:
        sandbox.ask(PRIMARY, "PUT", "/conditions", {"replication_target": None})


@pytest.fixture
def replicated(site: Site, things: Things) -> str:
    """The id of a volume type whose volumes are replicated."""
    wanted = {"name": things.name(), "extra_specs": SPECS}
    made = storage(site).post("/types", {"volume_type": wanted})["volume_type"]
    things.removals.append(lambda: storage(site).delete(f"/types/{made['id']}"))
    return str(made["id"])


def service(site: Site) -> dict[str, Any]:
    (found,) = site.volumes.services("cinder-volume")
    return found


def status(site: Site, volume: dict[str, Any]) -> str:
    return str(there(site.volumes.volume(volume["id"]))["replication_status"])


def fail_over(site: Site, to: str) -> None:
    site.backends.fail_over(service(site)["host"], to)
    until(lambda: service(site)["replication_status"] != "failing-over", "it has failed over")


def await_copy(sandbox: Sandbox | None, target: str, volume: dict[str, Any]) -> None:
    """Return when the target has the volume: Cinder says that it is replicated before that, and
    puts it into error where it fails over then.
    """
    if sandbox:
        return
    from lab.services.operator_rbd import replication_settings
    from lab.site import SITES

    settings = replication_settings(SITES[target])
    image = f"{settings.pool}/volume-{volume['id']}"
    command = [str(settings.rbd), "mirror", "image", "status", image, "--format", "json"]

    def follows() -> bool:
        asked = subprocess.run(command, capture_output=True, check=False)
        return asked.returncode == 0 and json.loads(asked.stdout)["state"] == "up+replaying"

    until(follows, f"the copy of {image} follows")


def test_a_back_end_without_a_target_says_so_and_fails_over_to_none(
    site: Site, sandbox: Sandbox | None
) -> None:
    if service(site)["replication_status"] == "enabled":
        pytest.skip("the back end has a replication_device")
    assert service(site)["replication_status"] == "disabled"
    (pool,) = site.backends.pools()
    assert pool["capabilities"]["replication_enabled"] is False
    host = service(site)["host"]
    assert refused(lambda: site.backends.fail_over(host, TARGET)).status == 400


def test_only_administrators_have_a_back_end_fail_over(tenant: Site, site: Site) -> None:
    host = service(site)["host"]
    assert refused(lambda: tenant.backends.fail_over(host, TARGET)).status == 403


def test_a_volume_is_replicated_by_its_type(site: Site, things: Things) -> None:
    assert status(site, things.volume(volume_type="fast")) == "disabled"


def test_a_back_end_fails_over_and_back_with_the_volumes_that_are_replicated(
    site: Site, things: Things, target: str, replicated: str, sandbox: Sandbox | None
) -> None:
    if unreplicated(site):
        pytest.skip("the back end has volumes that are not replicated")
    (pool,) = site.backends.pools()
    assert pool["capabilities"]["replication_enabled"] is True
    volume = things.volume(volume_type=replicated)
    assert status(site, volume) == "enabled"
    await_copy(sandbox, target, volume)
    fail_over(site, target)
    try:
        now = service(site)
        assert (now["replication_status"], now["active_backend_id"]) == ("failed-over", target)
        assert (now["status"], now["disabled_reason"]) == ("disabled", "failed-over")
        assert status(site, volume) == "failed-over"
    finally:
        fail_over(site, "default")
    now = service(site)
    assert (now["replication_status"], now["status"]) == ("enabled", "enabled")
    assert not now["active_backend_id"]
    assert status(site, volume) == "enabled"


def unreplicated(site: Site) -> list[str]:
    volumes = site.volumes.volumes_of_all_projects()
    return [v["id"] for v in volumes if v["replication_status"] != "enabled"]


def test_a_failover_to_a_target_that_is_not_there_leaves_the_back_end_as_it_was(
    site: Site, target: str
) -> None:
    if unreplicated(site):
        pytest.skip("the back end has volumes that are not replicated")
    fail_over(site, f"no-{target}")
    assert service(site)["replication_status"] == "enabled"
    assert service(site)["host"].endswith(f"@{BACKEND}")


def test_a_failover_puts_volumes_into_error_that_have_no_copy(
    site: Site, things: Things, target: str, sandbox: Sandbox | None
) -> None:
    if sandbox is None or site.volumes.volumes_of_all_projects():
        pytest.skip("volumes of others are there")
    volume = things.volume(volume_type="fast")
    fail_over(site, target)
    found = there(site.volumes.volume(volume["id"]))
    fail_over(site, "default")
    assert (found["status"], found["replication_status"]) == ("error", "not-capable")


def group_of(site: Site, things: Things, specs: dict[str, str], volume_type: str) -> str:
    kind = site.groups.create_type(things.name(), specs)
    things.removals.append(lambda: storage(site).delete(f"/group_types/{kind}"))
    return things.group(kind, volume_type)


def standing(site: Site, group: str) -> str:
    (found,) = [g for g in site.groups.groups() if g["id"] == group]
    return str(found["replication_status"])


def test_a_group_of_a_type_without_replication_is_not_replicated(
    site: Site, things: Things, replicated: str
) -> None:
    group = group_of(site, things, {}, replicated)
    for call in (
        lambda: site.groups.enable_replication(group),
        lambda: site.groups.fail_over(group, TARGET),
        lambda: site.groups.replication_targets(group),
    ):
        assert refused(call).status == 400


def test_a_group_of_a_volume_type_without_replication_is_not_replicated(
    site: Site, things: Things
) -> None:
    types = {t["name"]: t["id"] for t in site.volumes.types()}
    specs = {"consistent_group_replication_enabled": "<is> True"}
    group = group_of(site, things, specs, types["fast"])
    assert refused(lambda: site.groups.enable_replication(group)).status == 400


def test_a_group_is_replicated_fails_over_and_back_and_is_replicated_no_longer(
    site: Site, things: Things, target: str, replicated: str, sandbox: Sandbox | None
) -> None:
    if sandbox is None:
        pytest.skip("RBD's driver knows no replication of groups")
    specs = {"consistent_group_replication_enabled": "<is> True"}
    group = group_of(site, things, specs, replicated)
    volume = things.volume(volume_type=replicated)
    things.removals.pop()  # it goes with its group
    site.groups.add_volumes(group, [volume["id"]])
    site.groups.watch.wait_for([group], timeout_s=PATIENCE_S)
    assert site.groups.replication_targets(group) == [target]
    for change, wanted in (
        (lambda: site.groups.enable_replication(group), "enabled"),
        (lambda: site.groups.fail_over(group, target), "failed-over"),
        (lambda: site.groups.fail_over(group, "default"), "enabled"),
        (lambda: site.groups.disable_replication(group), "disabled"),
    ):
        change()
        until(lambda wanted=wanted: standing(site, group) == wanted, wanted)  # type: ignore[misc]
        assert status(site, volume) == wanted
    assert refused(lambda: site.groups.fail_over(group, target)).status == 400

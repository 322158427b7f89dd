# SPDX-License-Identifier: Apache-2.0
"""Boots a server from its restored volumes, with everything it had at the primary (step 1.7.2)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.marks import made_by, marks
from antipode.model.plan import ServerPlan
from antipode.model.steps import Step, Steps
from antipode.recover import keypairs, server_groups
from antipode.recover.existing import Found
from antipode.recover.recovery import Recovery

POLL_S = 0.5
HOST = "OS-EXT-SRV-ATTR:host"
_turns: dict[tuple[str, str, str], threading.Lock] = {}
"""by run, site, and server group or volume"""
_turns_lock = threading.Lock()


def boot(recovery: Recovery, server: str, volumes: Mapping[str, str], ports: Sequence[str]) -> str:
    """Boot a server and wait until it is ACTIVE, and switch it off again if it was off; one that an
    earlier attempt has booted is used.

    Args:
        volumes: volume id at the former site -> id of the volume here; and id of a root disk on
            the hypervisor -> id of the image here.
        ports: ids of its ports in the order of its interfaces.

    Returns:
        the id of the server.

    Raises:
        ResourceFailed: Nova refuses, or the server goes into ERROR; with Nova's reason.
    """
    site, planned = recovery.site, recovery.plan.server(server)
    key = recovery.key(planned.source_id)
    ours = marks(recovery.run, key)
    with recovery.timeline.step(Steps.BOOT_SERVER, server) as step:
        existing = there_already(recovery, planned)
        if existing is None:
            try:
                with _its_turn(recovery, planned):
                    _await_shared(recovery, planned, volumes, step)
                    server_id = _create(site, planned, volumes, ports, ours)
                    _await_place(recovery, planned, server_id)
            except ApiError as error:
                # The request of a process that died may have come through, and the server that
                # uses its volumes or ports is ours.
                existing = _usable(Found(site).servers(key), planned)
                if existing is None:
                    raise ResourceFailed(
                        f"{site.name}: server {planned.name} could not be created: {error.reason}"
                    ) from error
        if existing is not None:
            server_id = existing["id"]
            if made_by(existing) != recovery.run:
                # it is this run's now, to be rolled back with it
                site.compute.mark_server(server_id, ours)
        booted = site.compute.watch.wait_for(
            [server_id],
            wanted=("active", "shutoff") if planned.is_off else ("active",),
            timeout_s=recovery.boots_within_s,
            tell=step.waits_for,
        )[server_id]
        step.result(server_id=server_id, found=existing is not None)
    if planned.is_off and booted["status"] == "ACTIVE":
        _switch_off(recovery, planned, server_id)
    if planned.locked and not booted.get("locked"):
        site.compute.lock_server(server_id, planned.locked_reason)
    return str(server_id)


def _switch_off(recovery: Recovery, planned: ServerPlan, server_id: str) -> None:
    """Nova makes no server that is off: this one has booted, cut off from its networks."""
    site = recovery.site
    with recovery.timeline.step(Steps.SWITCH_OFF, planned.name) as step:
        try:
            site.compute.stop_server(server_id)
        except ApiError as error:
            if error.status != 409:  # it is being stopped already, by a process that died
                raise ResourceFailed(
                    f"{site.name}: server {planned.name} could not be switched off: {error.reason}"
                ) from error
        site.compute.watch.wait_for(
            [server_id], wanted=("shutoff",), timeout_s=recovery.boots_within_s, tell=step.waits_for
        )


@contextmanager
def _its_turn(recovery: Recovery, planned: ServerPlan) -> Iterator[None]:
    """Nova places servers of one group that boot at once without a look at each other: they are
    placed one after another. So are those that share a volume: Cinder reserves it for one at a
    time.
    """
    group = planned.server_group
    shared = recovery.plan.shared_of(planned.name)
    names = ([f"group {group.name}"] if group else []) + [f"volume {v.source_id}" for v in shared]
    with ExitStack() as held:
        for name in sorted(names):  # in one order, so that no two servers wait for each other
            held.enter_context(_turn(recovery, name))
        yield


@contextmanager
def _turn(recovery: Recovery, name: str) -> Iterator[None]:
    with _turns_lock:
        turn = _turns.setdefault((recovery.run, recovery.site.name, name), threading.Lock())
    while not turn.acquire(timeout=POLL_S):
        recovery.go_on()
    try:
        yield
    finally:
        turn.release()


def _await_shared(
    recovery: Recovery, planned: ServerPlan, volumes: Mapping[str, str], step: Step
) -> None:
    """Wait until no volume of several servers is reserved for one that a process that died has
    booted: Cinder reserves it for the next one when it is attached.
    """
    if shared := [volumes[v.source_id] for v in recovery.plan.shared_of(planned.name)]:
        recovery.site.volumes.watch.wait_for(
            shared,
            wanted=("available", "in-use"),
            timeout_s=recovery.boots_within_s,
            tell=step.waits_for,
        )


def _await_place(recovery: Recovery, planned: ServerPlan, server_id: str) -> None:
    """Wait until a server of a group has a host; where that is not shown, or it shares a volume,
    until it is built.
    """
    if recovery.plan.shared_of(planned.name):
        built = ("active", "shutoff", "error")
        recovery.site.compute.watch.wait_for(
            [server_id], wanted=built, timeout_s=recovery.boots_within_s
        )
        return
    deadline = time.monotonic() + recovery.boots_within_s
    while planned.server_group is not None:
        server = recovery.site.compute.server(server_id)
        if server is None or server["status"] != "BUILD" or server.get(HOST):
            return
        recovery.go_on()
        if time.monotonic() > deadline:
            return  # the wait for ACTIVE says so
        time.sleep(POLL_S)


def there_already(recovery: Recovery, planned: ServerPlan) -> Json | None:
    """A server as an earlier attempt has booted it; None if there is none."""
    return _usable(recovery.found.servers(recovery.key(planned.source_id)), planned)


def _usable(servers: Sequence[Json], planned: ServerPlan) -> Json | None:
    """That which an earlier attempt has booted. One that was renamed since is somebody's now, as
    the copy that was put aside before a second recovery from the same point.
    """
    there = (s for s in servers if s["status"] != "ERROR" and s["name"] == _name(planned))
    return next(there, None)


def _name(planned: ServerPlan) -> str:
    """As the server is called here; in a drill not as the member is."""
    return planned.called or planned.name


def _create(
    site: Site,
    planned: ServerPlan,
    volumes: Mapping[str, str],
    ports: Sequence[str],
    ours: dict[str, str],
) -> str:
    if planned.keypair:
        keypairs.ensure(site, planned.keypair)
    group = planned.server_group
    hints: Json = dict(planned.scheduler_hints)
    if group:
        hints["group"] = server_groups.ensure(site, group)
    return site.compute.create_server(_body(site, planned, volumes, ports, ours), hints)


def _body(
    site: Site,
    planned: ServerPlan,
    volumes: Mapping[str, str],
    ports: Sequence[str],
    ours: dict[str, str],
) -> Json:
    body: Json = {
        "name": _name(planned),
        "flavorRef": planned.flavor_id,
        # Libvirt does not take device names: the order of the list is the order of the devices.
        "block_device_mapping_v2": [
            *_root_disk(planned, volumes),
            *(
                {
                    "uuid": volumes[volume.source_id],
                    "source_type": "volume",
                    "destination_type": "volume",
                    "boot_index": 0 if volume.is_root else -1,
                    "delete_on_termination": volume.delete_on_termination,
                    **({"tag": volume.tag} if volume.tag else {}),
                }
                for volume in planned.volumes
            ),
        ],
        "networks": [
            {"port": port_id, **({"tag": port.device_tag} if port.device_tag else {})}
            for port_id, port in zip(ports, planned.ports, strict=True)
        ]
        or "none",
        "metadata": {**planned.metadata, **ours},
        "config_drive": planned.config_drive,
    }
    optional = {
        "imageRef": volumes[planned.root_disk.source_id] if planned.root_disk else None,
        "user_data": planned.user_data,
        "key_name": planned.keypair.name if planned.keypair else None,
        "availability_zone": planned.availability_zone,
        "tags": planned.tags or None,
        "description": planned.description,
        "hostname": planned.hostname if site.compute.takes_hostname else None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def _root_disk(planned: ServerPlan, images: Mapping[str, str]) -> Iterator[Json]:
    """The root disk on the hypervisor of a server that boots from an image."""
    if planned.root_disk is not None:
        yield {
            "uuid": images[planned.root_disk.source_id],
            "source_type": "image",
            "destination_type": "local",
            "boot_index": 0,
            "delete_on_termination": True,
        }

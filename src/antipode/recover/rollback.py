# SPDX-License-Identifier: Apache-2.0
"""The rollback of a recovery: the resources that one run has made at the backup site are removed in
the right order; those that stay there are named, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from functools import partial

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.cloud.volumes import users_of
from antipode.errors import ResourceFailed
from antipode.model.marks import (
    VOLUME,
    carries,
    is_copied,
    key_tag,
    made_by,
    maker_in,
    neutron_key,
    neutron_maker,
)
from antipode.model.plan import RecoveryPlan, is_stand_in
from antipode.model.standing import is_standing
from antipode.model.steps import Step, Steps, Timeline
from antipode.recover import networks, standing
from antipode.recover.existing import by_key, keys_of
from antipode.recover.recovery import Recovery, resource_key
from antipode.recover.sources import PROVIDERS, written

SERVER_TIMEOUT_S = 600.0
RESTORES_S = 60.0
"""How long restores are waited for: Cinder deletes no volume that is being restored, and an
operator who recovers now cannot wait for that.
"""
DETACH_S = 120.0
"""How long a volume may stay in-use after its server is gone; then another server uses it.
"""
POLL_S = 0.5
_DELETABLE = ("available", "error", "error_restoring", "error_extending")
_UNUSED = (*_DELETABLE, "creating", "restoring-backup", "downloading")
"""A volume in these is attached to no server, nor about to be."""


def remove(
    site: Site, run: str, plan: RecoveryPlan | None, timeline: Timeline, go_on: Callable[[], None]
) -> list[str]:
    """Delete the servers, then the ports, networks, security groups and volumes that carry the mark
    of a run, and wait until they are gone. Safe to repeat.

    Ports first: the next recovery needs their addresses. A volume that is being restored for long
    is left, and named.

    Args:
        plan: what the run was to create; None when that is not known.
        go_on: called while it is waited for volumes; what it raises ends the wait.

    Returns:
        what is left at the site, and why.

    Raises:
        ResourceFailed: not all of it could be deleted; all that could be is. It can be tried again.
    """
    problems = _servers_removed(site, run, timeline)
    kept: list[str] = []
    if not problems and (ports := [p for p in _ports(site, plan) if neutron_maker(p) == run]):
        # ours are gone: a server that is there is of a failover which has replaced this one
        serving = {s["id"] for s in site.compute.servers()}
        kept = [
            f"port {p['id']} at {site.name}: server {p['device_id']} uses it"
            for p in ports
            if p.get("device_id") in serving
        ]
        ports = [p for p in ports if p.get("device_id") not in serving]
        with timeline.step(Steps.REMOVE_PORTS, site.name) as step:
            step.result(ports=len(ports))
            # Neutron deletes no port of a trunk.
            for trunk in site.networks.trunks([p["id"] for p in ports if p.get("trunk_details")]):
                problems += _refused(
                    f"trunk {trunk['name'] or trunk['id']}",
                    partial(site.networks.delete_trunk, trunk["id"]),
                )
            for port in ports:
                problems += _refused(
                    f"port {port['id']}", partial(site.networks.delete_port, port["id"])
                )
    if not problems and networks.made_by(site, run):
        with timeline.step(Steps.REMOVE_NETWORKS, site.name) as step:
            refused, in_use = networks.remove(site, run)
            problems += refused
            kept += in_use
            step.result(left=len(in_use))
    left = kept
    if not problems:
        standing.give_back(site, run, timeline)
    written.let_go(site, run)
    if volumes := [v for v in site.volumes.volumes() if _is_to_go(v, run)]:
        with timeline.step(Steps.REMOVE_VOLUMES, site.name) as step:
            refused, unfinished = _delete_volumes(site, lambda v: _is_to_go(v, run), go_on, step)
            problems += refused
            left = [*kept, *unfinished]
            step.result(volumes=len(volumes), left=len(unfinished))
    if problems:
        raise ResourceFailed(
            f"{site.name}: not all that {run} made could be removed: {'; '.join(problems)}"
        )
    if plan is None:
        return left
    for kind in plan.kinds:
        left += PROVIDERS.get(kind).roll_back(site, run, plan, timeline, go_on)
    return [*left, *_left(site, run, plan)]


def remove_servers(site: Site, run: str, timeline: Timeline) -> None:
    """Delete the servers that carry the mark of a run, and wait until they are gone. What they have
    booted from stays for the next recovery. Safe to repeat.

    Raises:
        ResourceFailed: not all could be deleted. It can be tried again.
    """
    if problems := _servers_removed(site, run, timeline):
        raise ResourceFailed(
            f"{site.name}: not all servers of {run} could be removed: {'; '.join(problems)}"
        )


def _servers_removed(site: Site, run: str, timeline: Timeline) -> list[str]:
    """Delete the servers of a run; what was refused."""
    problems: list[str] = []
    if servers := [s for s in site.compute.servers() if made_by(s) == run]:
        with timeline.step(Steps.REMOVE_SERVERS, site.name) as step:
            step.result(servers=[s["name"] for s in servers])
            for server in servers:
                problems += _refused(
                    f"server {server['name']}", partial(_delete_server, site, server["id"])
                )
            if not problems:
                site.compute.watch.wait_gone(
                    [s["id"] for s in servers], timeout_s=SERVER_TIMEOUT_S, tell=step.waits_for
                )
    return problems


def remove_throw_away(
    site: Site,
    run: str,
    timeline: Timeline,
    go_on: Callable[[], None],
    kinds: Collection[str] = (),
) -> list[str]:
    """Remove all that a run has restored only to look at it, with the proofs of its content; what
    stays, and why. Safe to repeat.

    Backups first, as Cinder deletes no volume that is being backed up. Then once more: a late
    request may have begun one until its volume was gone.

    Args:
        kinds: of the sources of its volumes, where these may have begun more than volumes.

    Raises:
        ResourceFailed: not all of it could be deleted. It can be tried again.
    """
    remove_proofs(site, run, timeline)
    left = remove(site, run, None, timeline, go_on)
    if remove_proofs(site, run, timeline):
        left = remove(site, run, None, timeline, go_on)
    for kind in sorted(kinds):
        PROVIDERS.get(kind).remove_unfinished(site, run, timeline)
    return left


def remove_proofs(
    site: Site, run: str, timeline: Timeline, volumes: Collection[str] | None = None
) -> int:
    """Remove what proofs of content created beyond volumes; how much that was. Safe to repeat.

    Args:
        volumes: of these throw-away volumes only; None: of all.

    Raises:
        ResourceFailed: not all could be removed.
    """
    kinds = [PROVIDERS.get(name) for name in PROVIDERS.names]
    return sum(kind.remove_proofs(site, run, timeline, volumes) for kind in kinds)


def made_at(site: Site, run: str) -> dict[str, str]:
    """The servers, ports, volumes, networks and security groups at a site that carry the mark of a
    run: by id, for people.
    """
    servers = {s["id"]: s["name"] for s in site.compute.servers() if made_by(s) == run}
    ports = [p["id"] for p in _ports(site, None) if neutron_maker(p) == run]
    volumes = {v["id"]: v["name"] for v in site.volumes.volumes() if volume_maker(v) == run}
    return {
        **{id_: f"server {name} ({id_})" for id_, name in servers.items()},
        **{id_: f"port {id_}" for id_ in ports},
        **{id_: f"volume {name} ({id_})" for id_, name in volumes.items()},
        **networks.made_by(site, run),
    }


def remove_twins(
    site: Site, plan: RecoveryPlan, timeline: Timeline, go_on: Callable[[], None]
) -> list[str]:
    """Delete volumes, networks and security groups that a request made a second time which came
    through when its sender was dead, and its successor had made its own.

    Of volumes for the same thing the one in use stays; of networks, the one that is complete.
    Nothing else can be there twice: Neutron gives no address to two ports, Nova no volume to two
    servers, and Cinder knows a backup once.

    Args:
        plan: of a recovery whose servers are all there.

    Returns:
        what is there twice all the same, and why.

    Raises:
        ResourceFailed: one could not be deleted. It can be tried again.
    """
    left = networks.remove_twins(site, plan)
    there = by_key(site.volumes.volumes(), keys_of)
    same = [there.get(resource_key(plan.keyed_by, v.source_id), []) for v in plan.volumes]
    twins = {
        v["id"]
        for of_one in same
        if any(v["status"] == "in-use" for v in of_one)
        for v in of_one
        if v["status"] in _UNUSED and not is_standing(v)
    }
    for volume in plan.unattached:
        of_one = there.get(resource_key(plan.keyed_by, volume.source_id), [])
        # no server tells which one is used: the one that has got all that it is to have
        if used := [v for v in of_one if v["metadata"].get(VOLUME) == v["id"]]:
            kept = min(used, key=lambda v: (v["created_at"], v["id"]))
            twins |= {
                v["id"]
                for v in of_one
                if v is not kept and v["status"] in _UNUSED and not is_standing(v)
            }
    if not twins:
        return left
    with timeline.step(Steps.REMOVE_SECOND_VOLUMES, site.name) as step:
        problems, unfinished = _delete_volumes(
            site, lambda v: v["id"] in twins and v["status"] in _UNUSED, go_on, step
        )
        step.result(volumes=len(twins), left=len(unfinished))
    if problems:
        raise ResourceFailed(
            f"{site.name}: volumes that are there twice could not be removed: {'; '.join(problems)}"
        )
    return [*left, *unfinished]


def remove_failed(recovery: Recovery, server: str) -> bool:
    """Delete the server of an earlier attempt that went into ERROR, so that it can be booted again;
    whether there was one.

    Its volumes stay, unless they were to be deleted with the server and Nova is too old (before
    2.85) to change that.

    Raises:
        ResourceFailed: it cannot be deleted.
    """
    site, found = recovery.site, recovery.found
    key = recovery.key(recovery.plan.server(server).source_id)
    failed = [s["id"] for s in found.servers(key) if s["status"] == "ERROR"]
    if not failed:
        return False
    with recovery.timeline.step(Steps.REMOVE_FAILED_SERVER, server) as step:
        step.result(servers=failed)
        attached = {
            a["volumeId"] for server_id in failed for a in site.compute.attachments(server_id)
        }
        for server_id in failed:
            _delete_server(site, server_id)
        site.compute.watch.wait_gone(failed, timeout_s=SERVER_TIMEOUT_S, tell=step.waits_for)
        deadline = time.monotonic() + SERVER_TIMEOUT_S
        while busy := [
            v for v in site.volumes.volumes() if v["id"] in attached and _is_busy(v, failed)
        ]:
            _pause(site, busy, "to be detached", deadline, recovery.go_on, step)
    return True


def _is_busy(volume: Json, failed: Collection[str]) -> bool:
    """Whether a volume of these servers is not free of them yet; others may have it, too."""
    users = users_of(volume)
    has_others = volume["status"] == "in-use" and users and not users & set(failed)
    return volume["status"] not in _DELETABLE and not has_others


def _is_to_go(volume: Json, run: str) -> bool:
    """Whether a run has made a volume: a standing one it has only taken."""
    return volume_maker(volume) == run and not is_standing(volume)


def volume_maker(volume: Json) -> str | None:
    """The run that made a volume; None for what is not ours.

    While it is being restored its metadata are those of the backup, and its description tells. So
    are those of a volume that somebody restores, and that one is theirs.
    """
    said = maker_in(volume.get("description"))
    return said if said is not None or is_copied(volume) else made_by(volume)


def _delete_server(site: Site, server_id: str) -> None:
    """Delete a server and no volume: one that it uses may be another run's, and ours are deleted by
    ourselves.
    """
    for attachment in site.compute.attachments(server_id):
        if attachment.get("delete_on_termination"):
            site.compute.keep_volume(server_id, attachment["volumeId"])
    site.compute.delete_server(server_id)


def _delete_volumes(
    site: Site, unwanted: Callable[[Json], bool], go_on: Callable[[], None], step: Step
) -> tuple[list[str], list[str]]:
    """Delete each volume as soon as it can be deleted; the refusals, and the volumes that are left
    as they are still being restored.
    """
    began = time.monotonic()
    problems: list[str] = []
    left: list[Json] = []
    asked: set[str] = set()
    while ours := [v for v in site.volumes.volumes() if unwanted(v) and v["id"] not in asked]:
        for volume in ours:
            if volume["status"] in _DELETABLE:
                asked.add(volume["id"])
                problems += _refused(
                    f"volume {volume['name']}", partial(site.volumes.delete_volume, volume["id"])
                )
            elif volume["status"].startswith("error") or (
                volume["status"] == "in-use" and time.monotonic() > began + DETACH_S
            ):
                asked.add(volume["id"])
                problems.append(f"volume {volume['name']} ({volume['id']}) is {volume['status']}")
        waiting = [v for v in ours if v["id"] not in asked]
        if time.monotonic() > began + RESTORES_S:
            left += [v for v in waiting if v["status"] != "in-use"]
            asked.update(v["id"] for v in left)
            waiting = [v for v in waiting if v["status"] == "in-use"]
        if waiting:
            _pause(
                site, waiting, "to be deletable", began + DETACH_S + SERVER_TIMEOUT_S, go_on, step
            )
    if not problems:
        gone = asked - {v["id"] for v in left}
        site.volumes.watch.wait_gone(sorted(gone), timeout_s=SERVER_TIMEOUT_S, tell=step.waits_for)
    return problems, [
        f"volume {v['name']} ({v['id']}) at {site.name}: it is {v['status']}, and Cinder deletes "
        "it only when that is over; then:"
        f" openstack volume delete {v['id']}"
        for v in left
    ]


def _pause(
    site: Site,
    volumes: Collection[Json],
    what: str,
    deadline: float,
    go_on: Callable[[], None],
    step: Step,
) -> None:
    waiting = f"{', '.join(v['name'] + ' (' + v['status'] + ')' for v in volumes)} {what}"
    step.waits_for(waiting)
    go_on()
    if time.monotonic() > deadline:
        raise ResourceFailed(f"{site.name}: waited too long for {waiting}")
    time.sleep(POLL_S)


def _refused(what: str, delete: Callable[[], None]) -> list[str]:
    try:
        delete()
    except ApiError as error:
        return [f"{what}: {error.reason}"]
    return []


def _ports(site: Site, plan: RecoveryPlan | None) -> list[Json]:
    if plan is None:
        return site.networks.ports_of_project(site.project_id)
    ids = networks.ids_of_made(site, plan)
    on = {p.placed(ids).network_id for p in plan.ports}
    return site.networks.ports_on(sorted(n for n in on if not is_stand_in(n)))


def _left(site: Site, run: str, plan: RecoveryPlan) -> Iterator[str]:
    """The shared resources that stay, and why."""
    for keypair in plan.keypairs_to_import:
        if site.compute.keypair(keypair.name) is not None:
            yield f"keypair {keypair.name} at {site.name}: others may use it"
    wanted = {s.server_group.name for s in plan.servers if s.server_group}
    for group in site.compute.server_groups() if wanted else []:
        if group["name"] in wanted:
            yield f"server group {group['name']} at {site.name}: others may use it"
    yield from _of_others(site, run, plan)


def _of_others(site: Site, run: str, plan: RecoveryPlan) -> Iterator[str]:
    """What runs before this one have made, and this one has used."""

    def key(source: str) -> str:
        return resource_key(plan.keyed_by, source)

    servers = {key(s.source_id) for s in plan.servers}
    volumes = {key(v.source_id) for v in plan.volumes}
    ports = {key_tag(key(p.source_id)) for p in plan.ports}
    made = [
        *(
            (f"server {s['name']}", made_by(s))
            for s in site.compute.servers()
            if any(carries(s, k) for k in servers)
        ),
        *(
            (f"volume {v['name']}", volume_maker(v))
            for v in site.volumes.volumes()
            if any(carries(v, k) for k in volumes)
        ),
        *networks.made_by_others(site, run, plan),
        *(
            (f"port {p['id']}", neutron_maker(p))
            for p in _ports(site, plan)
            if neutron_key(p) in ports
        ),
    ]
    for what, maker in made:
        if maker is not None and maker != run:
            yield f"{what} at {site.name}: made by {maker}, which can be aborted by itself"

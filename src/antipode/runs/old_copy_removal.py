# SPDX-License-Identifier: Apache-2.0
"""The kind of run that removes the old copy of a VNF at a site: its servers, their ports and those
of no server, and their volumes, with the recovery points whose states are in those. What belongs to
it is known by proof, as for a fence; networks, keypairs and the like stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from antipode.cloud.api import ApiError, Json
from antipode.cloud.volumes import users_of
from antipode.engine.kind import Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import AntipodeError, Busy, PreflightFailed, ResourceFailed, Stopped
from antipode.model.addresses import is_about
from antipode.model.base import Model
from antipode.model.marks import is_throw_away, is_throw_away_port, made_by, neutron_maker
from antipode.model.point import RecoveryPoint
from antipode.model.source import ReplicatedState
from antipode.model.state import ProtectedVnf
from antipode.model.steps import StepName
from antipode.protect import tracked
from antipode.recover import fencing, rollback
from antipode.recover.sources import PROVIDERS
from antipode.runs import expire, failover_checks, fence, preparation
from antipode.store.tables import RunRow
from antipode.transfer import expiry
from antipode.vault import points, windows
from antipode.vault.old_copies import OldCopy

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.engine.activity import Standing
    from antipode.engine.deployment import Deployment

LOG = logging.getLogger(__name__)
GONE_WITHIN_S = 600.0
_USERS = ("servers", "ports", "volumes")


class RemovalSteps(StepName):
    FIND = "", "find what the old copy has"
    REMOVE = "", "remove the old copy"


class RemovalRequest(Model):
    """A removal as it was confirmed."""

    site: str
    """where the old copy is"""
    state: ProtectedVnf
    """of the VNF when it was confirmed: with another one nothing is removed"""
    confirmed: list[str] | None = None
    """the ids of all that the plan has named; None where there was no plan"""
    lost_vaults: list[str] = Field(default_factory=list)
    """vaults that the operator has given up: they have no say in where the VNF is active"""
    part_of: str | None = None
    """the run that it is a part of"""


@dataclass(frozen=True)
class Holdings:
    """What an old copy has at its site: id -> name."""

    servers: dict[str, str]
    ports: dict[str, str]
    volumes: dict[str, str]
    left: Sequence[str] = ()
    """what it uses and is not removed, and why"""
    points: Sequence[str] = ()
    """recovery points whose states are in these volumes, and go with them"""

    @property
    def remarks(self) -> list[str]:
        """What an operator should know of it before it is removed, in sentences."""
        if not self.points:
            return list(self.left)
        first, last = self.points[0], self.points[-1]
        return [
            *self.left,
            f"{len(self.points)} recovery points of the old copy go with its volumes, which hold"
            f" their states: {first if first == last else f'{first} to {last}'}",
        ]

    @property
    def ids(self) -> list[str]:
        """Of all that is removed."""
        return [*self.servers, *self.ports, *self.volumes]

    def record(self) -> Json:
        """As JSON."""
        return {
            "servers": self.servers,
            "ports": self.ports,
            "volumes": self.volumes,
            "left": list(self.left),
            "points": list(self.points),
        }


def requested(
    state: ProtectedVnf,
    site: str,
    confirmed: Sequence[str] | None = None,
    lost_vaults: Sequence[str] = (),
) -> RunRow:
    """A removal that is not kept yet.

    Args:
        confirmed: the ids of all that the plan has named.
        lost_vaults: those that the operator has given up.
    """
    named = None if confirmed is None else list(confirmed)
    lost = list(lost_vaults)
    request = RemovalRequest(site=site, state=state, confirmed=named, lost_vaults=lost)
    return new_run(KIND, state.vnf, request.model_dump(mode="json"))


class OldCopyRemoval(RunKind):
    name = "old-copy-removal"
    flow_version = 1
    priority = Priority.UPKEEP
    rolls_back_failures = True
    works_at_active_site = False
    creates = ""

    @property
    def command(self) -> str:
        return "failback"  # no command removes an old copy by itself

    def site_of(self, row: RunRow) -> str:
        return RemovalRequest.model_validate(row.request or {}).site

    def execute(self, run: Run) -> None:
        _remove(run)

    def roll_back(self, run: Run) -> list[str]:
        """Nothing comes back: what is not removed yet stays."""
        return []

    def point_of_no_return(self, run: Run) -> str | None:
        return None


KIND = OldCopyRemoval()


def must_be_replaced(standing: Standing) -> None:
    """See that an old copy of a VNF is not the last copy of its data but for the active one.

    Raises:
        PreflightFailed: the VNF has not been protected since it moved.
    """
    state = standing.state
    newest = points.newest_or_none(standing.vaults, state.vnf)
    if newest is None or newest.generation < state.generation:
        raise PreflightFailed(
            f"a removal of the old copy of {state.vnf}",
            [
                f"{state.vnf} has no recovery point since it is active at {state.active_site}:"
                f" protect it first: antipode protect {state.vnf}"
            ],
        )


def must_be_committed(standing: Standing) -> None:
    """See that an old copy of a VNF is not needed to undo its newest failover.

    Raises:
        PreflightFailed: it is.
        VaultError: the vaults cannot be read.
    """
    state = standing.state
    if (until := windows.open_until(standing.vaults, state)) is None:
        return
    moment = datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds")
    raise PreflightFailed(
        f"a removal of the old copy of {state.vnf}",
        [
            f"the failover of {state.vnf} to {state.active_site} can be undone until {moment}, and"
            f" that needs the old copy; give that up first: antipode commit {state.vnf}"
        ],
    )


def is_silent(deployment: Deployment, state: ProtectedVnf) -> bool:
    """Whether the site where a VNF is active does not answer (GET /os-availability-zone): then its
    recovery points and the old copy may be all that there is of it.

    Raises:
        Stopped: the run must stop.
    """
    try:
        deployment.site(state.active_site, state.vnf).compute.availability_zones()
    except Stopped:
        raise
    except AntipodeError as error:
        LOG.warning("%s is active at a site that does not answer: %s", state.vnf, error)
        return True
    return False


def must_outlive_its_site(deployment: Deployment, standing: Standing, site: Site) -> None:
    """See that a VNF whose active site does not answer can be recovered without its old copy: its
    newest recovery point is of the active copy, and a site has all of its data at hand.

    Raises:
        PreflightFailed: it cannot; all that is missing is named.
        InvalidInput: the file of this host does not fit the point.
        KeyMissing: no identity of this host opens what is encrypted of it.
        VaultError: the vaults cannot be read.
    """
    state = standing.state
    of_it = f"a removal of the old copy of {state.vnf} while {state.active_site} does not answer"
    newest = points.newest_or_none(standing.vaults, state.vnf)
    if newest is None or newest.generation < state.generation:
        raise PreflightFailed(
            of_it,
            [
                f"{state.vnf} has no recovery point since it is active at {state.active_site}: the"
                f" old copy at {site.name} may be the newest that there is of it"
            ],
        )
    opened = points.find(standing.vaults, state.vnf, newest.id)
    opened.must_be_open()
    local = deployment.vnfs.find(state.vnf)
    definition, _ = preparation.definition_of(opened, local, deployment.config)
    point = opened.point.defined_by(definition)
    problems = [said for k in point.kinds for said in PROVIDERS.get(k).check(point, site)]
    problems += failover_checks.store_warnings(deployment, point, state)
    if problems:
        raise PreflightFailed(of_it, [f"recovery point {point.id}: {said}" for said in problems])


def without_states(site: Site, found: Holdings) -> Holdings:
    """What an old copy has, apart from the volumes with snapshots, on which recovery points may
    rest.
    """
    having = {s["volume_id"] for s in _snapshots_of(site, found.volumes)}
    names = {id_: name or id_ for id_, name in found.volumes.items() if id_ in having}
    return replace(
        found,
        volumes={id_: name for id_, name in found.volumes.items() if id_ not in having},
        left=[
            *found.left,
            *(
                f"volume {name} ({id_}): recovery points may rest on its snapshots"
                for id_, name in names.items()
            ),
        ],
        points=(),
    )


def holdings(
    deployment: Deployment, standing: Standing, site: Site, *, running_too: bool = False
) -> Holdings:
    """What the old copy of a VNF has at a site, and what is left of what earlier removals have
    begun to remove.

    Args:
        running_too: whether servers of it may run, as they are fenced before they are removed.

    Raises:
        PreflightFailed: a server of it runs, or the failover can still be undone.
        NotFound: nothing tells which servers it has.
        VaultError, SiteUnreachable: the vaults cannot be read, or the site does not answer.
    """
    must_be_committed(standing)
    copy = fence.old_copy(deployment, standing, site.name)
    servers = fencing.members(site, copy)
    running = [s["name"] for s in servers if not fencing.is_off(s)]
    if running and not running_too:
        raise PreflightFailed(
            f"a removal of the old copy of {standing.state.vnf} at {site.name}",
            [
                f"server {name} runs; fence the copy first: antipode fence"
                f" {standing.state.vnf} --site {site.name}"
                for name in running
            ],
        )
    ids = [s["id"] for s in servers]
    unfinished = list(_unfinished(deployment, standing.state.vnf, site.name))
    attached = {a["volumeId"] for i in ids for a in site.compute.attachments(i)}
    there = [v for v in site.volumes.volumes() if not is_throw_away(v)]
    free, kept = _of_no_server(deployment, copy, [v for v in there if v["id"] not in attached])
    attached |= {id_ for earlier in unfinished for id_ in earlier.volumes if id_ not in kept}
    volumes = [v for v in there if v["id"] in {*attached, *free}]
    of_copy = {v["id"]: v for v in volumes}
    snapshots = [s for s in site.volumes.snapshots() if s["volume_id"] in of_copy]
    shared = {i: "another server uses it" for i, v in of_copy.items() if users_of(v) - set(ids)}
    shared |= {
        s["volume_id"]: f"its snapshot {s['id']} is not antipode's"
        for s in snapshots
        if made_by(s) is None
    }
    going = {v["id"]: str(v.get("name") or "") for v in volumes if v["id"] not in shared}
    lost = sorted({id_ for earlier in unfinished for id_ in earlier.ports})
    ports = [*fencing.ports_of(site, ids), *(site.networks.ports(lost) if lost else [])]
    free_ports, kept_ports = _ports_of_no_server(deployment, copy, site, [p["id"] for p in ports])
    ports += free_ports
    return Holdings(
        {s["id"]: s["name"] for s in servers},
        {
            p["id"]: str(p.get("name") or "")
            for p in ports
            if (p.get("device_id") or "") in ("", *ids) or p["id"] not in lost
        },
        going,
        [
            *(f"{_named(of_copy[i])}: {why}" for i, why in shared.items()),
            *kept.values(),
            *kept_ports,
        ],
        _points_in(standing, site.name, going) if snapshots else (),
    )


def _named(volume: Json) -> str:
    return f"volume {volume['name'] or volume['id']} ({volume['id']})"


def _points_in(standing: Standing, site: str, volumes: Collection[str]) -> list[str]:
    """The recovery points whose states are in volumes of the old copy, the oldest first.

    Raises:
        VaultCorrupt, VaultError: one cannot be read, so it is unknown what it rests on.
    """
    vaults, state = standing.vaults, standing.state
    return [
        id_
        for id_ in sorted(points.list_ids(vaults, state.vnf))
        if _rests_on(points.examine(vaults, state.vnf, id_).point, state, site, volumes)
    ]


def _rests_on(
    point: RecoveryPoint, state: ProtectedVnf, site: str, volumes: Collection[str]
) -> bool:
    """Whether a recovery point of the old copy has a state in any of its volumes."""
    return (point.site, point.generation < state.generation) == (site, True) and any(
        isinstance(source, ReplicatedState) and volume in volumes
        for volume, source in point.sources.items()
    )


def _of_no_server(
    deployment: Deployment, copy: OldCopy, volumes: Sequence[Json]
) -> tuple[list[str], dict[str, str]]:
    """The ids of the volumes of no server that the old copy has: those that its recovery points
    name, and those of such names that its failover has made. Then, by id, those which are left, and
    why: they may be all that there is of their data, or serve something else by now.
    """
    others = {
        name: other.vnf
        for other in deployment.vnfs.all()
        if other.vnf != copy.vnf and copy.site in other.sites
        for name in other.volumes
    }
    free: list[str] = []
    kept: dict[str, str] = {}
    for volume in volumes:
        maker = rollback.volume_maker(volume)
        name = volume["name"]
        is_made = maker in copy.runs and maker not in copy.spared_runs and name in copy.named
        if volume["id"] not in copy.unattached and not is_made:
            continue
        what = _named(volume)
        known = copy.unattached.get(volume["id"], name)
        if name != known:
            kept[volume["id"]] = f"{what}: it was {known}, of no server, and has another name now"
        elif copy.replaced is not None and name not in copy.replaced:
            kept[volume["id"]] = (
                f"{what}: the newest recovery point of {copy.vnf} has no such volume"
            )
        elif name in others:
            kept[volume["id"]] = f"{what}: the file of VNF {others[name]} names it, too"
        elif not _is_idle(volume) and not users_of(volume):
            kept[volume["id"]] = f"{what}: it is {volume['status']}"
        else:
            free.append(volume["id"])
    return free, kept


def _ports_of_no_server(
    deployment: Deployment, copy: OldCopy, site: Site, of_servers: Collection[str]
) -> tuple[list[Json], list[str]]:
    """The ports of no server that the old copy has, whose addresses would be in the way of a
    recovery: those that its recovery points name, and those that its failover has made. Then those
    which are left, and why: something else may use them by now.

    Args:
        of_servers: the ids of the ports that it has beside them.
    """
    others = {
        name: other.vnf
        for other in deployment.vnfs.all()
        if other.vnf != copy.vnf and copy.site in other.sites
        for name in other.ports
    }
    there = site.networks.ports_of_project(site.project_id)
    shared = [
        (pair["ip_address"], port)
        for port in there
        if port["id"] not in of_servers and not _is_of(copy, port)
        for pair in port.get("allowed_address_pairs", [])
        if pair.get("ip_address")
    ]
    on = {port["network_id"] for _, port in shared}
    subnets = {s["id"]: s["cidr"] for s in site.networks.subnets(on)}
    free: list[Json] = []
    kept: list[str] = []
    for port in there:
        if port["id"] in of_servers or not _is_of(copy, port):
            continue
        name = port["name"]
        what = f"port {name or port['id']} ({port['id']})"
        known = copy.ports.get(port["id"], name)
        users = [
            user["id"]
            for fixed in port["fixed_ips"]
            for pair, user in shared
            if user["network_id"] == port["network_id"]
            and is_about(pair, fixed["ip_address"], subnets.get(fixed["subnet_id"], pair))
        ]
        if name != known:
            kept.append(f"{what}: it was {known or 'without a name'}, of no server, before")
        elif other := others.get(name) or others.get(port["id"]):
            kept.append(f"{what}: the file of VNF {other} names it, too")
        elif users:
            kept.append(f"{what}: port {users[0]} may use its address, too")
        else:
            free.append(port)
    return free, kept


def _is_of(copy: OldCopy, port: Json) -> bool:
    """Whether a port is one of no server that the old copy has."""
    if port.get("device_id") or is_throw_away_port(port):
        return False
    if str(port.get("device_owner") or "").startswith(("network:", "trunk:")):
        return False
    maker = neutron_maker(port)
    is_made = maker in copy.runs and maker not in copy.spared_runs
    return port["id"] in copy.ports or is_made


def _is_idle(volume: Json) -> bool:
    """Whether nothing uses a volume: a host, which is no server, may, or an image that is made."""
    return volume["status"] in ("available", "deleting") or volume["status"].startswith("error")


def _unfinished(deployment: Deployment, vnf: str, site: str) -> Iterator[Holdings]:
    """What earlier removals have begun to remove: where a server is gone, nothing else tells its
    ports and volumes.
    """
    for row in deployment.runs.of_kind(KIND.name, vnf):
        if row.state != "succeeded" and KIND.site_of(row) == site:
            for step in deployment.runs.steps(row.id):
                if step.name == RemovalSteps.FIND.words and step.state == "succeeded":
                    yield Holdings(**step.result)


def _remove(run: Run) -> None:
    request = RemovalRequest.model_validate(run.request)
    run.result.update(vnf=run.vnf, site=request.site)

    def confirmed() -> Standing:
        """The state of the VNF, which is still as it was confirmed."""
        lost = request.lost_vaults
        now = fence.must_be_old(run.deployment, run.vnf, request.site, run.go_on, lost)
        if now.state.generation != request.state.generation:
            raise Busy(f"{now.state}, and has moved since this was confirmed")
        return now

    standing = confirmed()
    must_be_replaced(standing)
    must_be_committed(standing)
    site = run.site(request.site)
    has_died = is_silent(run.deployment, standing.state)
    if has_died:
        must_outlive_its_site(run.deployment, standing, site)
    # to withdraw points takes every vault, and points that are sure to replace them
    found = _found(run, standing, site, keeps_states=has_died or bool(request.lost_vaults))
    run.touches_clouds()
    with run.timeline.step(RemovalSteps.REMOVE, site.name) as step:
        problems = _end_points(run, standing, site, found) if found.volumes else []
        problems = problems or _delete_servers(run, site, found, confirmed)
        if not problems:
            site.compute.watch.wait_gone(
                list(found.servers), timeout_s=GONE_WITHIN_S, tell=step.waits_for
            )
            problems += _delete_ports(site, found, confirmed)
            problems += _delete_volumes(run, site, found, confirmed)
        step.result(**{kind: len(getattr(found, kind)) for kind in _USERS})
    run.result.update(removed=found.record(), left=list(found.left))
    if problems:
        raise ResourceFailed(
            f"{site.name}: not all of the old copy of {run.vnf} is removed: {'; '.join(problems)}"
        )


def _found(run: Run, standing: Standing, site: Site, *, keeps_states: bool) -> Holdings:
    """What the old copy had when the removal began: once a server is gone, nothing tells its ports
    and volumes any more.

    Args:
        keeps_states: whether volumes on which recovery points may rest stay.
    """
    for kept in run.timeline.kept():
        if kept.name == RemovalSteps.FIND.words and kept.state == "succeeded":
            found = Holdings(**kept.result)
            return without_states(site, found) if keeps_states else found
    with run.timeline.step(RemovalSteps.FIND, site.name) as step:
        found = holdings(run.deployment, standing, site)
        found = without_states(site, found) if keeps_states else found
        _must_be_confirmed(run, found)
        step.result(**found.record())
    found_is_kept = any(
        k.name == RemovalSteps.FIND.words and k.state == "succeeded" for k in run.timeline.kept()
    )
    if not found_is_kept:
        raise AntipodeError("the database does not keep what is to be removed; nothing is")
    return found


def _must_be_confirmed(run: Run, found: Holdings) -> None:
    """See that nothing is removed that the plan has not named: somebody may have attached it since.

    Raises:
        PreflightFailed: there is more.
    """
    request = RemovalRequest.model_validate(run.request)
    if request.confirmed is None:
        return
    names = found.servers | found.ports | found.volumes
    if new := [i for i in found.ids if i not in request.confirmed]:
        raise PreflightFailed(
            f"a removal of the old copy of {run.vnf} at {request.site}",
            [f"{names[i] or 'without a name'} ({i}) was not in the plan; plan again" for i in new],
        )


def _end_points(run: Run, standing: Standing, site: Site, found: Holdings) -> list[str]:
    """Withdraw the recovery points whose states are in the volumes, and remove these states: Cinder
    deletes no volume that has a snapshot. The VNF has newer points by now.

    Returns:
        the snapshots that are still there, each in words.

    Raises:
        Busy: a run uses such a point.
        PreflightFailed: no newer point can be recovered from.
        AntipodeError: as `expiry.finish`; nothing of the copy is removed.
    """
    if all(tracked.stays(s) for s in _snapshots_of(site, found.volumes)):
        tracked.drop_of_volumes(site, found.volumes, run.timeline)
        return []
    state = standing.state
    work = expire.expiry_of(run, run.deployment.vnfs.get(run.vnf))
    there = expiry.standing(work)
    going = [e.point.id for e in there if _rests_on(e.point, state, site.name, found.volumes)]
    newer = [e.point for e in there if e.trusted and e.point.generation >= state.generation]
    if going and not expiry.recoverable(work, state.active_site, newer):
        raise PreflightFailed(
            f"a removal of the old copy of {state.vnf}",
            [
                f"{len(going)} recovery points go with it, and of those that were made since"
                f" {state.vnf} is active at {state.active_site} none can be recovered from: their"
                f" backups or states are gone. Protect it first: antipode protect {state.vnf}"
            ],
        )
    for point, user in work.users().items():
        if point in going:
            raise Busy(f"recovery point {point} of {run.vnf} is used by {user}")
    tracked.drop_of_volumes(site, found.volumes, run.timeline)
    why = f"It was withdrawn by {run.id}, which removes the volumes that hold its states."
    withdrawn = expiry.withdraw(work, going, why)
    left = expiry.finish(work, state).left
    run.result.update(points_removed=withdrawn)
    staying = _snapshots_of(site, found.volumes)
    problems = [f"volume {s['volume_id']} has snapshot {s['id']}" for s in staying]
    return [*problems, *left] if problems else []


def _snapshots_of(site: Site, volumes: Collection[str]) -> list[Json]:
    return [s for s in site.volumes.snapshots() if s["volume_id"] in volumes]


def _delete_servers(
    run: Run, site: Site, found: Holdings, confirmed: Callable[[], object]
) -> list[str]:
    """Begin to delete the servers, and none of their volumes: these are deleted by themselves.

    Returns:
        what was refused.
    """
    problems: list[str] = []
    for server in site.compute.servers():
        if server["id"] not in found.servers:
            continue
        confirmed()
        what = f"server {server['name']} ({server['id']})"
        if not fencing.is_off(server):
            problems.append(f"{what} runs")
            continue
        problems += _refused(what, partial(_delete_server, run, site, server))
    return problems


def _delete_server(run: Run, site: Site, server: Json) -> None:
    if server.get("locked"):
        site.compute.unlock_server(server["id"])
    for attachment in site.compute.attachments(server["id"]):
        if attachment.get("delete_on_termination"):
            site.compute.keep_volume(server["id"], attachment["volumeId"])
    run.go_on()
    site.compute.delete_server(server["id"])


def _delete_ports(site: Site, found: Holdings, confirmed: Callable[[], object]) -> list[str]:
    there = site.networks.ports(list(found.ports)) if found.ports else []
    free = [p for p in there if (p.get("device_id") or "") in ("", *found.servers)]
    problems = [f"port {p['id']}: {p['device_id']} uses it by now" for p in there if p not in free]
    confirmed()
    # Neutron deletes no port of a trunk
    for trunk in site.networks.trunks([p["id"] for p in free if p.get("trunk_details")]):
        delete = partial(site.networks.delete_trunk, trunk["id"])
        problems += _refused(f"trunk {trunk['name'] or trunk['id']}", delete)
    for port in free:
        problems += _refused(f"port {port['id']}", partial(site.networks.delete_port, port["id"]))
    return problems


def _delete_volumes(
    run: Run, site: Site, found: Holdings, confirmed: Callable[[], object]
) -> list[str]:
    there = _of(site, found.volumes)
    detaching = [
        v["id"]
        for v in there
        if v["status"] in ("in-use", "detaching") and not users_of(v) - set(found.servers)
    ]
    if detaching:
        site.volumes.watch.wait_for(detaching, wanted=("available",), timeout_s=GONE_WITHIN_S)
        there = _of(site, found.volumes)
    confirmed()
    free = [v for v in there if v["status"] != "deleting" and not users_of(v)]
    problems, asked = _take_out_of_groups(site, free), list[str]()
    for volume in there:
        run.go_on()
        what = f"volume {volume['name'] or volume['id']} ({volume['id']})"
        if volume["status"] == "deleting":
            asked.append(volume["id"])
        elif users_of(volume):
            problems.append(f"{what}: another server uses it by now")
        elif (volume["name"] or "") != found.volumes[volume["id"]]:
            problems.append(f"{what}: it has another name by now; plan again")
        elif refused := _refused(what, partial(site.volumes.delete_volume, volume["id"])):
            problems += refused
        else:
            asked.append(volume["id"])
    site.volumes.watch.wait_gone(asked, timeout_s=GONE_WITHIN_S)
    return problems


def _take_out_of_groups(site: Site, volumes: Sequence[Json]) -> list[str]:
    """Take volumes out of their groups, as Cinder deletes none that is in one; what it refuses."""
    problems: list[str] = []
    of_group: dict[str, list[str]] = {}
    for volume in volumes:
        if group := volume.get("group_id"):
            of_group.setdefault(group, []).append(volume["id"])
    for group, ids in of_group.items():
        # an attempt that was killed may have left it `updating`
        states = ("available", "error")
        site.groups.watch.wait_for([group], wanted=states, timeout_s=GONE_WITHIN_S)
        remove = partial(site.groups.remove_volumes, group, ids)
        if refused := _refused(f"volume group {group}", remove):
            problems += refused
        else:
            site.groups.watch.wait_for([group], timeout_s=GONE_WITHIN_S)
    return problems


def _of(site: Site, ids: Collection[str]) -> list[Json]:
    return [v for v in site.volumes.volumes() if v["id"] in ids]


def _refused(what: str, delete: Callable[[], None]) -> list[str]:
    try:
        delete()
    except ApiError as error:
        return [] if error.status == 404 else [f"{what}: {error.reason}"]
    return []

# SPDX-License-Identifier: Apache-2.0
"""Whether all volumes of a VNF are in one group of Cinder that its storage snapshots at one moment,
and how such a group is made.

Cinder takes a group snapshot of any group. Where a driver has none of its own, it snapshots one
volume after another and says nothing of it. So the type of the group must promise it, and the back
end must report that it can.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import PreflightFailed, ResourceFailed, UnexpectedAnswer
from antipode.model.steps import StepName, Timeline
from antipode.model.topology import Volume

CAPABILITY = "consistent_group_snapshot_enabled"
PROMISE = "<is> True"
HOST = "os-vol-host-attr:host"
TYPE_NAME = "antipode-consistent"
"""Of the group type that antipode makes."""
TIMEOUT_S = 300.0


class GroupSteps(StepName):
    CREATE_TYPE = "", "create group type"
    CREATE_GROUP = "", "create volume group"
    ADD_VOLUMES = "", "put volumes into the group"


@dataclass(frozen=True)
class Standing:
    """The group of the volumes of a VNF."""

    group: str | None
    """its id, where one snapshot of it is of all these volumes, no other, and at one moment"""
    why_not: str = ""


@dataclass(frozen=True)
class Prepared:
    """A group that can be snapshotted at one moment."""

    group: str
    group_type: str
    added: list[str]
    """names of the volumes that were put into it now"""


def standing(site: Site, volumes: Collection[Volume]) -> Standing:
    """Which group one snapshot could be taken of. Asks for the group only where there is one."""
    listed = {v["id"]: v for v in site.volumes.volumes()}
    ids = {v.id for v in volumes}
    of_each = {listed[i].get("group_id") if i in listed else None for i in ids}
    if of_each in ({None}, set()):
        return Standing(None, "its volumes are in no volume group")
    if len(of_each) > 1:
        return Standing(None, "its volumes are not all in one volume group")
    (group,) = of_each
    others = [v for v in listed.values() if v.get("group_id") == group and v["id"] not in ids]
    if others:
        names = ", ".join(v["name"] or v["id"] for v in others)
        return Standing(None, f"volume group {group} has other volumes, too: {names}")
    try:
        why_not = _unfit(site, str(group), [listed[i] for i in ids])
    except (ApiError, UnexpectedAnswer) as error:
        why_not = f"whether volume group {group} is snapshotted at one moment is unknown: {error}"
    return Standing(None, why_not) if why_not else Standing(group)


def _unfit(site: Site, group: str, volumes: Collection[Json]) -> str:
    """Why a group of these volumes is not snapshotted at one moment; empty if it is."""
    found = next((g for g in site.groups.groups() if g["id"] == group), None)
    if found is None or found["status"] != "available":
        state = found["status"] if found else "not listed"
        return f"volume group {group} is {state}"
    return _no_promise(site, found) or unable(site, volumes)


def _no_promise(site: Site, group: Json) -> str:
    kind = next((t for t in site.groups.types() if t["id"] == group["group_type"]), None)
    if kind is not None and promises(kind):
        return ""
    label = kind["name"] if kind else group["group_type"]
    return (
        f"group type {label} of volume group {group['id']} does not promise {CAPABILITY}"
        f"='{PROMISE}', or the user is no administrator, who alone is shown that"
    )


def promises(group_type: Json) -> bool:
    """Whether groups of a type are to be snapshotted at one moment."""
    specs: Mapping[str, str] = group_type.get("group_specs") or {}
    return specs.get(CAPABILITY) == PROMISE


def unable(site: Site, volumes: Collection[Json]) -> str:
    """Why the storage of these volumes, as Cinder lists them, does not snapshot them at one moment;
    empty if it does.
    """
    pools = {pool["name"]: pool.get("capabilities") or {} for pool in site.backends.pools()}
    hosts = {str(v.get(HOST)) for v in volumes}
    if len(hosts) > 1:
        return f"its volumes are in several pools: {', '.join(sorted(hosts))}"
    for host in hosts:
        if host not in pools:
            return f"the scheduler of {site.name} does not know pool {host}"
        if str(pools[host].get(CAPABILITY)).lower() != "true":
            return (
                f"pool {host} does not report {CAPABILITY}: Cinder would snapshot one volume after"
                " another"
            )
    return ""


def prepare(site: Site, vnf: str, volumes: Collection[Volume], timeline: Timeline) -> Prepared:
    """Have all these volumes in one group whose type promises snapshots at one moment. What exists
    already is used. Safe to repeat.

    Args:
        vnf: its name: that of the group is made of it.

    Raises:
        PreflightFailed: the storage cannot do it, the volumes are in other groups, their group has
            others, or the user may not make group types. Nothing was made.
        ApiError: Cinder refuses something.
        ResourceFailed: the group does not become available, or is not as it should be then.
    """
    name = f"antipode {vnf}"
    ours = _settled(site, name)
    listed = {v["id"]: v for v in site.volumes.volumes()}
    kinds = {t["id"]: t for t in site.groups.types()}
    _must_be_possible(site, vnf, listed, volumes, ours, kinds)
    rows = [listed[v.id] for v in volumes]
    kind = next((t for t in kinds.values() if t["name"] == TYPE_NAME), None)
    if ours is None:
        if kind is None:
            with timeline.step(GroupSteps.CREATE_TYPE, TYPE_NAME):
                type_id = site.groups.create_type(TYPE_NAME, {CAPABILITY: PROMISE})
        else:
            type_id = str(kind["id"])
        with timeline.step(GroupSteps.CREATE_GROUP, name):
            zone = str(rows[0].get("availability_zone") or "")
            of_volumes = sorted({str(v["volume_type"]) for v in rows})
            group = site.groups.create(name, type_id, of_volumes, zone)
            site.groups.watch.wait_for([group], timeout_s=TIMEOUT_S)
    else:
        group, type_id = str(ours["id"]), str(ours["group_type"])
    new = [v for v in rows if v.get("group_id") != group]
    if new:
        with timeline.step(GroupSteps.ADD_VOLUMES, name):
            try:
                site.groups.add_volumes(group, [v["id"] for v in new])
            except ApiError:
                if ours is None:  # it may be on another host than they: the next one may not
                    with suppress(ApiError):  # volumes may be on their way into it all the same
                        site.groups.delete(group)
                raise
            site.groups.watch.wait_for([group], timeout_s=TIMEOUT_S)
    if why_not := standing(site, volumes).why_not:
        raise ResourceFailed(
            f"{site.name}: volume group {name} ({group}) of {vnf} cannot be snapshotted at one"
            f" moment: {why_not}"
        )
    return Prepared(group, type_id, [v["name"] or v["id"] for v in new])


def _settled(site: Site, name: str) -> Json | None:
    """The group of this name, if there is one. One that an earlier call has left on its way is
    waited for.
    """
    found = next((g for g in site.groups.groups() if g["name"] == name), None)
    if found is not None and found["status"] in ("creating", "updating"):
        wanted = ("available", "error")
        settled = site.groups.watch.wait_for([found["id"]], wanted=wanted, timeout_s=TIMEOUT_S)
        return settled[found["id"]]
    return found


def _must_be_possible(
    site: Site,
    vnf: str,
    listed: Mapping[str, Json],
    volumes: Collection[Volume],
    ours: Json | None,
    kinds: Mapping[str, Json],
) -> None:
    problems: list[str] = []
    if "admin" not in site.roles:
        problems.append("group types are made by a user with the role admin in the project")
    if not volumes:
        problems.append(f"VNF {vnf} has no volumes")
    rows = [listed[v.id] for v in volumes if v.id in listed]
    problems += [
        f"volume {v.name or v.id} is not in the project" for v in volumes if v.id not in listed
    ]
    problems += [
        f"volume {v['name'] or v['id']} has no volume type" for v in rows if not v["volume_type"]
    ]
    own = ours["id"] if ours else None
    problems += [
        f"volume {v['name'] or v['id']} is in volume group {v['group_id']}; take it out of that, or"
        " have all volumes in it"
        for v in rows
        if v.get("group_id") not in (None, own)
    ]
    if ours is not None:
        problems += _unfit_to_take(ours, rows, listed.values())
    kind = next((t for t in kinds.values() if t["name"] == TYPE_NAME), None)
    used = kinds.get(ours["group_type"]) if ours else kind
    if used is not None and not promises(used):
        problems.append(
            f"group type {used['name']} does not promise {CAPABILITY}='{PROMISE}': set that, or"
            " remove what has the name"
        )
    if "admin" in site.roles and rows and (why_not := unable(site, rows)):
        problems.append(why_not)
    if problems:
        raise PreflightFailed(f"a volume group for {vnf} at {site.name}", problems)


def _unfit_to_take(ours: Json, wanted: Collection[Json], listed: Collection[Json]) -> Iterator[str]:
    """Why these volumes would not be alone in the group that exists, or cannot be put into it."""
    what, ids = f"volume group {ours['name']} ({ours['id']})", {v["id"] for v in wanted}
    if ours["status"] != "available":
        yield f"{what} is {ours['status']}; delete it, or have it available again"
    for other in (v for v in listed if v.get("group_id") == ours["id"] and v["id"] not in ids):
        yield (
            f"{what} has volume {other['name'] or other['id']} ({other['id']}), too, which is none"
            f" of those that are captured; take it out of the group"
        )

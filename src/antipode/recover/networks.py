# SPDX-License-Identifier: Apache-2.0
"""Creates the networks and security groups that a plan says, as they were at the former site, and
finds and removes those that have been created.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.marks import as_tags, key_said, key_tag, neutron_key, neutron_maker, words
from antipode.model.plan import NetworkPlan, PortPlan, RecoveryPlan, SecurityGroupPlan, is_stand_in
from antipode.model.steps import Steps
from antipode.recover.network_plans import is_complete, made_for, rule_key
from antipode.recover.recovery import Recovery, network_key

NETWORKS, GROUPS = "networks", "security-groups"


def create_networks(recovery: Recovery) -> None:
    """Create the security groups and networks of a plan; those that exist already are completed.

    All groups come first, then their rules, which may be about each other. DHCP is off until the
    ports have their addresses (`start_dhcp`).

    Raises:
        ResourceFailed: Neutron refuses.
    """
    plan, site = recovery.plan, recovery.site
    if not plan.creates_networks:
        return
    with recovery.timeline.step(Steps.CREATE_NETWORKS, site.name) as step:
        groups = [g for g in plan.security_groups if g.is_created]
        networks = [n for n in plan.networks if n.is_created]
        made = {g.group_id: _made(recovery, GROUPS, g, partial(_group, site, g)) for g in groups}
        ids = {group: row["id"] for group, row in made.items()}
        for group in groups:
            _give_rules(recovery, group, made[group.group_id], ids)
        other_mtu: list[str] = []
        for network in networks:
            make = partial(_network, site, network, other_mtu)
            row = _made(recovery, NETWORKS, network, make)
            _give_subnets(recovery, network, row)
        step.result(
            networks=[n.name for n in networks],
            security_groups=[g.name for g in groups],
            **({"other_mtu": other_mtu} if other_mtu else {}),
        )


def start_dhcp(recovery: Recovery) -> None:
    """Have DHCP serve the subnets that were created, now that no port needs an address any more.

    Raises:
        ResourceFailed: Neutron refuses.
    """
    site, plan = recovery.site, recovery.plan
    wanted = {s.subnet_id for n in plan.networks for s in n.subnets if s.serves_addresses}
    ids = ids_of_made(site, plan)
    with recovery.timeline.step(Steps.START_DHCP, site.name) as step:
        networks = {ids[n.network_id] for n in plan.networks if n.network_id in ids}
        on = {s["id"] for s in site.networks.subnets(networks) if s.get("enable_dhcp")}
        off = sorted({ids[s] for s in wanted if s in ids} - on)
        for subnet in off:
            with _refusal(site, f"DHCP of subnet {subnet} could not be switched on"):
                site.networks.serve_addresses(subnet)
        step.result(subnets=off)


def ids_of_made(site: Site, plan: RecoveryPlan) -> dict[str, str]:
    """The ids of the networks, subnets and groups that a plan creates and that exist, by their ids
    or stand-ins in the plan.
    """
    if not plan.creates_networks:
        return {}
    found: dict[str, str] = {}
    rows = site.networks.networks()
    for network in plan.networks:
        row = made_for(network.source_id, rows) if network.is_created else None
        if row is not None:
            found[network.network_id] = row["id"]
    groups = site.networks.security_groups(site.project_id)
    for group in plan.security_groups:
        row = made_for(group.source_id, groups) if group.is_created else None
        if row is not None:
            found[group.group_id] = row["id"]
    subnets = site.networks.subnets(sorted(found.values()))
    by_range = {(s["network_id"], s["cidr"]): s["id"] for s in subnets}
    for network in plan.networks:
        for subnet in network.subnets:
            place = (found.get(network.network_id, ""), subnet.attributes["cidr"])
            if place in by_range:
                found[subnet.subnet_id] = by_range[place]
    return found


def placed(site: Site, plan: RecoveryPlan, ports: Collection[PortPlan]) -> list[PortPlan]:
    """Planned ports with the ids of the networks, subnets and groups that have been created.

    Raises:
        ResourceFailed: one of these is not there.
    """
    ids = ids_of_made(site, plan)
    found = [port.placed(ids) for port in ports]
    for port in (p for parent in found for p in parent.with_subports):
        used = [port.network_id, *port.fixed.values(), *port.security_group_ids]
        if missing := [i for i in used if is_stand_in(i)]:
            raise ResourceFailed(
                f"{site.name}: {port.label} needs {', '.join(missing)}, which was created and is "
                "gone; plan the failover again, which creates it"
            )
    return found


def remove(site: Site, run: str) -> tuple[list[str], list[str]]:
    """Delete the networks, then the security groups, that carry the mark of a run.

    Returns:
        those that could not be deleted, and those that others use and that stay, for people.
    """
    problems: list[str] = []
    kept: list[str] = []
    for what, delete in _removals(site, lambda row: neutron_maker(row) == run):
        try:
            delete()
        except ApiError as error:
            if error.status == 409:
                kept.append(f"{what} at {site.name}: it is in use ({error.reason})")
            else:
                problems.append(f"{what}: {error.reason}")
    return problems, kept


def made_by(site: Site, run: str) -> dict[str, str]:
    """The networks and security groups that carry the mark of a run: by id, for people."""
    return {
        row["id"]: f"{_KIND[collection]} {row['name']} ({row['id']})"
        for collection in (NETWORKS, GROUPS)
        for row in _rows(site, collection)
        if neutron_maker(row) == run
    }


def made_by_others(site: Site, run: str, plan: RecoveryPlan) -> Iterator[tuple[str, str]]:
    """The networks and groups that a plan creates and another run has made: what, and which."""
    for collection, planned in ((NETWORKS, plan.networks), (GROUPS, plan.security_groups)):
        rows = _rows(site, collection) if any(p.is_created for p in planned) else []
        for one in planned:
            row = made_for(one.source_id, rows) if one.is_created else None
            maker = neutron_maker(row) if row else None
            if maker is not None and maker != run:
                yield f"{_KIND[collection]} {one.name}", maker


def remove_twins(site: Site, plan: RecoveryPlan) -> list[str]:
    """Delete unfinished networks and groups that are there twice, as a request came through late;
    what is there twice all the same, and why.
    """
    left: list[str] = []
    for collection, planned in ((NETWORKS, plan.networks), (GROUPS, plan.security_groups)):
        rows = _rows(site, collection) if any(p.is_created for p in planned) else []
        for one in (p for p in planned if p.is_created):
            chosen = made_for(one.source_id, rows)
            key = key_tag(network_key(one.source_id))
            for row in rows:
                if chosen is None or row["id"] == chosen["id"] or neutron_key(row) != key:
                    continue
                what = f"{_KIND[collection]} {row['name']} ({row['id']})"
                if is_complete(row):
                    left.append(
                        f"{what} at {site.name}: it is there twice, as two failovers that share it "
                        f"began at once; see which ports are on it, and on {chosen['id']}"
                    )
                    continue
                try:
                    _delete(site, collection, row["id"])
                except ApiError as error:
                    left.append(f"{what} at {site.name}: it is there twice ({error.reason})")
    return left


_KIND = {NETWORKS: "network", GROUPS: "security group"}
_Planned = NetworkPlan | SecurityGroupPlan


def _rows(site: Site, collection: str) -> list[Json]:
    if collection == NETWORKS:
        return site.networks.networks()
    return site.networks.security_groups(site.project_id)


def _delete(site: Site, collection: str, item: str) -> None:
    if collection == NETWORKS:
        site.networks.delete_network(item)
    else:
        site.networks.delete_security_group(item)


def _removals(
    site: Site, unwanted: Callable[[Json], bool]
) -> Iterator[tuple[str, Callable[[], None]]]:
    for collection in (NETWORKS, GROUPS):
        for row in _rows(site, collection):
            if unwanted(row):
                what = f"{_KIND[collection]} {row['name']} ({row['id']})"
                yield what, partial(_delete, site, collection, row["id"])


def _made(
    recovery: Recovery, collection: str, planned: _Planned, make: Callable[[str], None]
) -> Json:
    """The network or group for one of the former site, created where there is none.

    It is looked for after its creation, too: of two, which two processes have made, both take the
    same one.
    """
    site = recovery.site
    row = made_for(planned.source_id, _rows(site, collection))
    if row is None:
        with _refusal(site, f"{_KIND[collection]} {planned.name} could not be created"):
            make(words(recovery.run, network_key(planned.source_id)))
        row = made_for(planned.source_id, _rows(site, collection))
    if row is None:
        raise ResourceFailed(
            f"{site.name}: {_KIND[collection]} {planned.name} was created and is not listed; "
            "resume the run"
        )
    return row


def _network(site: Site, network: NetworkPlan, other_mtu: list[str], description: str) -> None:
    wanted = {**network.attributes, "description": description}
    try:
        site.networks.create_network(wanted)
    except ApiError as error:
        # What the site's network can carry is not known before.
        if error.status != 400 or "mtu" not in wanted or "mtu" not in error.reason.lower():
            raise
        del wanted["mtu"]
        site.networks.create_network(wanted)
        other_mtu.append(network.name)


def _group(site: Site, group: SecurityGroupPlan, description: str) -> None:
    site.networks.create_security_group({**group.attributes, "description": description})


def _give_subnets(recovery: Recovery, network: NetworkPlan, row: Json) -> None:
    site = recovery.site
    if not is_complete(row):
        for subnet in network.subnets:
            cidr = subnet.attributes["cidr"]
            there = _subnet_of(site, row["id"], cidr)
            if there is None:
                try:
                    site.networks.create_subnet({**subnet.attributes, "network_id": row["id"]})
                except ApiError as error:
                    # One network has no two subnets of a range: another process may have made it.
                    if _subnet_of(site, row["id"], cidr) is None:
                        raise ResourceFailed(
                            f"{site.name}: subnet {cidr} of network {network.name} could not be "
                            f"created: {error.reason}"
                        ) from error
                there = _subnet_of(site, row["id"], cidr)
            if subnet.tags and there is not None:
                with _refusal(site, f"subnet {cidr} could not be given its tags"):
                    site.networks.tag("subnets", there["id"], subnet.tags)
    _finish(recovery, NETWORKS, network, row)


def _subnet_of(site: Site, network_id: str, cidr: str) -> Json | None:
    return next((s for s in site.networks.subnets([network_id]) if s["cidr"] == cidr), None)


def _give_rules(
    recovery: Recovery, group: SecurityGroupPlan, row: Json, ids: Mapping[str, str]
) -> None:
    """Have a group have exactly the rules of the former one. It is born with some, by a template
    of its site; rules are posted together, and one that exists refuses them all.
    """
    site = recovery.site
    if not is_complete(row):
        wanted = {}
        for rule in group.rules:
            other = rule.get("remote_group_id")
            body = {**rule, **({"remote_group_id": ids.get(other, other)} if other else {})}
            wanted[rule_key(body)] = {**body, "security_group_id": row["id"]}
        there = {rule_key(r): r["id"] for r in row.get("security_group_rules", [])}
        with _refusal(site, f"security group {group.name} could not be given its rules"):
            for key in there.keys() - wanted.keys():
                site.networks.delete_rule(there[key])
            site.networks.create_rules([r for key, r in wanted.items() if key not in there])
    _finish(recovery, GROUPS, group, row)


def _finish(recovery: Recovery, collection: str, planned: _Planned, row: Json) -> None:
    """Say that a network or group is complete: our mark is in its tags from now on, and its
    description is its owner's.
    """
    networks = recovery.site.networks
    what = f"{_KIND[collection]} {planned.name} could not be given its tags"
    with _refusal(recovery.site, what):
        if not is_complete(row):
            marks = as_tags(neutron_maker(row) or recovery.run, network_key(planned.source_id))
            networks.tag(collection, row["id"], [*planned.tags, *marks])
        if key_said(row.get("description")) is not None:
            networks.describe(collection, row["id"], planned.description)


@contextmanager
def _refusal(site: Site, what: str) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        raise ResourceFailed(f"{site.name}: {what}: {error.reason}") from error

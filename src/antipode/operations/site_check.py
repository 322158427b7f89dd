# SPDX-License-Identifier: Apache-2.0
"""Whether the sites, vaults and backup stores are there, with all that antipode needs of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from antipode import libraries
from antipode.cloud import health
from antipode.cloud.site import Site
from antipode.config import HelperConfig
from antipode.datastores import Storage, opened
from antipode.datastores.rbd_changes import RbdChanges
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, NotFound, PreflightFailed
from antipode.freezes.reaper import reap
from antipode.model.steps import Unrecorded
from antipode.model.vnf import Protection, Vnf
from antipode.operations import kit, vaults
from antipode.operations.failover import prepare
from antipode.protect import labels, offsite
from antipode.protect.option import OPTIONS, Protecting, settings_of
from antipode.protect.partial import Part, choose
from antipode.recover.sources import zeros
from antipode.runs.protect import answering_sites, claimed_twice, problems_of, under_way
from antipode.topology import discovery
from antipode.transfer import TRANSFERS
from antipode.vault import signing
from antipode.vault.ensemble import Vaults
from antipode.vault.swift import SwiftVault


@dataclass(frozen=True)
class Check:
    """One finding. A thing that is not `needed` may be missing; `detail` then says which function
    does not work without it.
    """

    check: str
    site: str
    ok: bool
    detail: str
    needed: bool = True


def check_all(deployment: Deployment) -> Iterator[Check]:
    """Look at every site, vault and backup store of the configuration, and at every VNF that is
    known here. Nothing is left changed, except that servers past their freeze deadline are
    unquiesced.
    """
    vnfs = deployment.vnfs.all()
    yield from check(deployment, vnfs)
    if len(deployment.config.all_vaults) > 1:
        yield _check_agreement(deployment)


def check(deployment: Deployment, vnfs: Sequence[Vnf]) -> Iterator[Check]:
    """The same with only these VNFs, and without a look whether the vaults agree: how long it takes
    does not grow with the VNFs that are known here.
    """
    active = {vnf.vnf: _active_site(deployment, vnf) for vnf in vnfs}
    for name in deployment.config.sites:
        yield from _check_site(deployment, name, vnfs, active)
    for name in deployment.config.all_vaults:
        yield from _check_vault(deployment, name)
    yield from _check_keys(deployment)
    if not deployment.config.all_stores:
        detail = "none is configured: recovery points cannot be verified down to the objects"
        yield Check("backup store", "-", False, detail, needed=False)
    for name in deployment.config.all_stores:
        yield _check_backup_store(deployment, name)
    for name in deployment.config.storages:
        yield from _check_storage(deployment, name)
    for vnf in vnfs:
        yield _check_places(deployment, vnf, active[vnf.vnf])
        for name in vnf.sites:
            if name != active[vnf.vnf] and not isinstance(active[vnf.vnf], AntipodeError):
                yield from _check_recovery(deployment, vnf, name)


def _active_site(deployment: Deployment, vnf: Vnf) -> str | AntipodeError:
    """Where a VNF is active, or why that is not known."""
    try:
        return activity.read(deployment, vnf).active_site
    except AntipodeError as error:
        return error


def _check_site(
    deployment: Deployment,
    name: str,
    vnfs: Sequence[Vnf],
    active: dict[str, str | AntipodeError],
) -> Iterator[Check]:
    sites: dict[str | None, Site] = {}
    for project in (None, *deployment.config.site(name).projects):
        of = "" if project is None else f" (project {project})"
        try:
            site = sites[project] = deployment.site_in(name, project)
        except AntipodeError as error:
            yield Check(f"reachable{of}", name, False, str(error))
            continue
        yield Check(f"reachable{of}", name, True, f"cloud {deployment.config.cloud(name, project)}")
        if unquiesced := reap(deployment.freezes, site):
            detail = f"were past their freeze deadline and are unquiesced: {', '.join(unquiesced)}"
            yield Check("quiesced servers", name, True, detail)
        for finding in health.check(site):
            yield Check(f"{finding.check}{of}", name, finding.ok, finding.detail, finding.needed)
    if sites:
        yield Check("restores", name, True, zeros.AT_ANY_SITE)
    yield from _check_changes(deployment, name)
    mover = deployment.config.site(name).mover
    if mover is not None and mover.helper is not None and None in sites:
        yield check_helper(sites[None], mover.helper)
    for vnf in vnfs:
        if active[vnf.vnf] == name and vnf.project in sites:
            yield from _check_vnf(deployment, sites[vnf.project], vnf)
        elif active[vnf.vnf] == name and vnf.project not in (
            None,
            *deployment.config.site(name).projects,
        ):
            detail = f"its project {vnf.project} is not in the configuration of site {name}"
            yield Check(f"vnf {vnf.vnf}", name, False, detail)


def _check_changes(deployment: Deployment, name: str) -> Iterator[Check]:
    """Whether the changes of each pool could be read now, for change streams."""
    for pool in deployment.config.site(name).changes:
        what = f"changes of {pool.host}"
        try:
            RbdChanges(name, pool).check()
        except AntipodeError as error:
            detail = f"{error}; its volumes are backed up by Cinder, and no changes are streamed"
            yield Check(what, name, False, detail, needed=False)
        else:
            yield Check(what, name, True, f"pool {pool.pool} can be read", needed=False)


def check_helper(site: Site, helper: HelperConfig) -> Check:
    """Whether the mover could write by its helper server now; nothing is attached or written."""
    try:
        libraries.need("asyncssh", "mover-helper", "writing volumes through a helper server")
        from antipode.mover.guest import connected

        server = site.compute.server(str(helper.server))
        if server is None or server.get("tenant_id", site.project_id) != site.project_id:
            detail = f"{helper.server} is no server of the project of {site.name}"
            return Check("mover helper", site.name, False, detail)
        if server["status"] != "ACTIVE":
            detail = f"{server['name']} is {server['status']}: start it"
            return Check("mover helper", site.name, False, detail)
        with connected(helper) as guest:
            disk = guest.check()
        attached = len(site.compute.attachments(str(helper.server)))
    except AntipodeError as error:
        return Check("mover helper", site.name, False, f"{error.code}: {error}")
    detail = f"{server['name']}: {disk} can be opened by SFTP, volumes attached: {attached}"
    return Check("mover helper", site.name, True, detail)


def _check_places(deployment: Deployment, vnf: Vnf, active: str | AntipodeError) -> Check:
    """Whether recovery points and backups of a VNF survive its active site."""
    what = f"places of {vnf.vnf}"
    if isinstance(active, AntipodeError):
        return Check(what, "-", False, f"where it is active is not known: {active}")
    problems = offsite.problems(deployment.config, vnf, active)
    detail = "; ".join(problems) or f"recovery points and backups lie outside {active} too"
    return Check(what, active, not problems, detail)


def _check_recovery(deployment: Deployment, vnf: Vnf, name: str) -> Iterator[Check]:
    """Whether a VNF could be recovered at a backup site now: the plan of a failover, which creates
    nothing. So a gap is known on the day it appears, and not in the disaster.
    """
    what = f"recovery of {vnf.vnf}"
    try:
        prepared = prepare(deployment, vnf.vnf, name, None)
    except PreflightFailed as error:
        yield Check(what, name, False, "; ".join(error.problems))
        return
    except AntipodeError as error:
        # There is no recovery point yet, a failover is open, or the site is down, which is said.
        yield Check(what, name, False, str(error), needed=False)
        return
    point = prepared.point.id
    yield Check(what, name, True, f"recovery point {point} could be recovered here")
    for warning in prepared.plan.warnings:
        yield Check(what, name, False, warning, needed=False)


def _check_vnf(deployment: Deployment, site: Site, vnf: Vnf) -> Iterator[Check]:
    """Whether a VNF that is active here could be protected now; its guest agents are asked."""
    what = f"vnf {vnf.vnf}"
    try:
        vnf = discovery.resolve(vnf, site)
        topology = discovery.discover(vnf, site)
        problems, warnings = claimed_twice(deployment, vnf, site.name), list[str]()
        part = Part(vnf, choose(vnf, site).untouched) if vnf.capture else Part(vnf, {})
        run = under_way(deployment, vnf.vnf)
        if run is not None:
            warnings.append(f"its guest agents are not asked, as {run} may freeze its members")
        for protection in vnf.protections:
            option = OPTIONS.get(protection.option)
            captured, found = part.captured, part.of(topology)
            p = _protecting(deployment, site, captured, protection, asks_guests=run is None)
            problems += problems_of(p, found, option, TRANSFERS.get(option.transfer))
            problems += part.problems(p, topology, option)
            problems += labels.problems(p, found, option, part)
            warnings += option.warnings(p, found)
    except AntipodeError as error:
        yield Check(what, site.name, False, str(error))
        return
    servers = ", ".join(s.name for s in topology.servers)
    detail = "; ".join(dict.fromkeys(problems))
    ready = f"can be protected; its servers are ready: {servers}"
    yield Check(what, site.name, not problems, detail or ready)
    for warning in dict.fromkeys(warnings):
        yield Check(what, site.name, False, warning, needed=False)


def _protecting(
    deployment: Deployment, site: Site, vnf: Vnf, protection: Protection, *, asks_guests: bool
) -> Protecting:
    """The context of a protection that is not made."""
    streams = OPTIONS.get(protection.option).streams(settings_of(protection))
    return Protecting(
        run="",
        vnf=vnf,
        settings=settings_of(protection),
        site=site,
        ledger=deployment.freezes,
        timeline=Unrecorded(),
        store=deployment.store_of(site.name, vnf.store) if streams else None,
        slots=nullcontext(),
        at_once=1,
        elsewhere=lambda: answering_sites(vnf, site.name, partial(deployment.site, of=vnf)),
        asks_guests=asks_guests,
        accepts=protection.consistency,
        streams=streams,
    )


def _check_vault(deployment: Deployment, name: str) -> Iterator[Check]:
    """Whether a vault can be used, and what should be mended about it."""
    what, where = f"vault {name}", deployment.config.all_vaults[name].site or "-"
    vault = deployment.vaults([name])
    try:
        vault.check()
        remarks = [*vault.remarks(), *_projects_remarks(deployment, vault)]
    except AntipodeError as error:
        yield Check(what, where, False, str(error))
        return
    yield Check(what, where, True, f"{vault.place}: written, read and cleaned")
    for remark in remarks:
        yield Check(what, where, False, remark, needed=False)


def _check_agreement(deployment: Deployment) -> Check:
    """Whether the vaults of each VNF hold the same; of recovery points the newest is compared."""
    what = "vaults agree"
    try:
        found = list(vaults.disagreements(deployment))
    except AntipodeError as error:
        return Check(what, "-", False, str(error), needed=False)
    if not found:
        return Check(what, "-", True, "each VNF's vaults hold the same of it")
    first = found[0]
    where = " ".join(part for part in (first.document or first.vnf, "in", first.place) if part)
    detail = (
        f"{len(found)} findings, the first is {where}: {first.problem}; see: antipode vault check"
    )
    return Check(what, "-", False, detail, needed=False)


def _projects_remarks(deployment: Deployment, vault: Vaults) -> Iterator[str]:
    """The warning about a container in the project of VNFs: every account that may write
    objects there may replace what a failover reads.
    """
    for copy in vault.copies():
        if not isinstance(copy, SwiftVault):
            continue
        for site in deployment.connected_sites():
            try:
                account = site.objects.account
            except AntipodeError:
                continue  # it has no object storage
            if account and account == copy.account:
                yield (
                    f"{copy.place} is in the project of the VNFs at {site.name}, whose tenants may "
                    "write it: give the vault a project of its own (`cloud` of the vault)"
                )


def _check_keys(deployment: Deployment) -> Iterator[Check]:
    """Whether recovery points can be sealed and opened here, and after the loss of this host."""
    keys = deployment.keys
    if not keys.can_sign:
        yield Check("keys", "-", True, "none yet: the first protection generates them")
        return
    try:
        signing_key = signing.key_id(keys.signing_key().public_key())
        detail = f"signed by key {signing_key[:16]}; {len(keys.trusted())} trusted"
        detail += f"; encrypted to {len(keys.recipients())}, opened by {len(keys.identities())}"
        yield Check("keys", "-", True, detail)
        reason = kit.missing(deployment)
    except AntipodeError as error:
        yield Check("keys", "-", False, str(error))
        return
    found = reason or f"exported {kit.exported_at(deployment)}; keep it away from both sites"
    yield Check("recovery kit", "-", reason is None, found, needed=False)


def _check_storage(deployment: Deployment, name: str) -> Iterator[Check]:
    """Whether a storage that replicates by itself can be asked at each of its sites, and what keeps
    it from replicating.
    """
    what, storage = f"storage {name}", deployment.config.storages[name]
    for site in storage.sites:
        try:
            there = opened(deployment.storages_at(site)[name], site)
            problems = list(there.problems())
            if isinstance(there, Storage):
                problems += there.receives_not()
        except AntipodeError as error:
            problems = [str(error)]
        detail = "; ".join(problems) or f"driver {storage.driver}: it can be asked"
        yield Check(what, site, not problems, detail)


def _check_backup_store(deployment: Deployment, name: str) -> Check:
    what = f"backup store {name}"
    settings = deployment.config.store(name)
    site = deployment.config.site_of_store(name) or "-"
    where = f"container {settings.container} of cloud {settings.cloud}"
    try:
        deployment.store(name).listing(settings.container, "antipode-reads-this-container")
    except NotFound:
        detail = f"{where}: does not exist yet; Cinder makes it with the first backup"
        return Check(what, site, True, detail)
    except AntipodeError as error:
        return Check(what, site, False, str(error))
    return Check(what, site, True, f"{where}: read")

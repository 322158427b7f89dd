"""What antipode needs of the sites, the vault and the backup store, and whether it is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from antipode.cloud import health
from antipode.cloud.site import Site
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, NotFound
from antipode.model.steps import Unrecorded
from antipode.model.topology import Topology
from antipode.model.vnf import Protection, Vnf
from antipode.protect.option import OPTIONS, Protecting, settings_of
from antipode.runs.protect import problems_of
from antipode.topology import discovery
from antipode.transfer import TRANSFERS


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    What is not `needed` may be missing; `detail` then says what does not work without it.
    """

    check: str
    site: str
    ok: bool
    detail: str
    needed: bool = True


def check_all(deployment: Deployment) -> Iterator[Check]:
    """Look at every site of the configuration, the vault and the backup store; nothing is left
    changed.
    """
    for name in deployment.config.sites:
        yield from _check_site(deployment, name)
    yield _check_vault(deployment)
    yield _check_backup_store(deployment)


def _check_site(deployment: Deployment, name: str) -> Iterator[Check]:
    try:
        site = deployment.site(name)
    except AntipodeError as error:
        yield Check("reachable", name, False, str(error))
        return
    yield Check("reachable", name, True, f"cloud {deployment.config.site(name).cloud}")
    for finding in health.check(site):
        yield Check(finding.check, name, finding.ok, finding.detail, finding.needed)
    for vnf in deployment.vnfs.all():
        if vnf.primary == name:
            yield _check_vnf(deployment, site, vnf)


def _check_vnf(deployment: Deployment, site: Site, vnf: Vnf) -> Check:
    """Whether a VNF whose primary this is could be protected now; its guest agents are asked."""
    what = f"vnf {vnf.vnf}"
    try:
        topology = discovery.discover(vnf, site)
        problems = [
            problem
            for protection in vnf.protections
            for problem in _problems(deployment, site, vnf, protection, topology)
        ]
    except AntipodeError as error:
        return Check(what, site.name, False, str(error))
    if problems:
        return Check(what, site.name, False, "; ".join(dict.fromkeys(problems)))
    return Check(
        what,
        site.name,
        True,
        f"can be protected; its servers are ready: {', '.join(s.name for s in topology.servers)}",
    )


def _problems(
    deployment: Deployment, site: Site, vnf: Vnf, protection: Protection, topology: Topology
) -> list[str]:
    option = OPTIONS.get(protection.option)
    protecting = Protecting(
        run="",
        vnf=vnf,
        settings=settings_of(protection),
        site=site,
        ledger=deployment.freezes,
        timeline=Unrecorded(),
        store=None,
        slots=nullcontext(),
        at_once=1,
    )
    return problems_of(protecting, topology, option, TRANSFERS.get(option.transfer))


def _check_vault(deployment: Deployment) -> Check:
    swift = deployment.config.vault.swift
    where = swift.site if swift else "-"
    try:
        deployment.vault.check()
    except AntipodeError as error:
        return Check("vault", where, False, str(error))
    return Check("vault", where, True, f"{deployment.vault.place}: written, read and cleaned")


def _check_backup_store(deployment: Deployment) -> Check:
    settings = deployment.config.backup_store
    if settings is None:
        detail = (
            "backup_store is not configured: recovery points cannot be verified down to the objects"
        )
        return Check("backup store", "-", False, detail, needed=False)
    where = f"container {settings.container} of cloud {settings.cloud}"
    try:
        store = deployment.backup_store
        assert store is not None  # it is configured
        store.listing(settings.container, "antipode-reads-this-container")
    except NotFound:
        return Check(
            "backup store",
            "-",
            True,
            f"{where}: does not exist yet; Cinder makes it with the first backup",
        )
    except AntipodeError as error:
        return Check("backup store", "-", False, str(error))
    return Check("backup store", "-", True, f"{where}: read")

# SPDX-License-Identifier: Apache-2.0
"""The vaults: what is in them, whether they agree, and a host that learns from them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.errors import (
    AntipodeError,
    InvalidInput,
    KeyMissing,
    NotFound,
    VaultCorrupt,
    VaultError,
)
from antipode.model.plan_file import PREFIX
from antipode.model.vnf import NAME, Vnf
from antipode.vault import Vault, generations, plans, points, sync, withdrawals
from antipode.vault.ensemble import Vaults
from antipode.vault.sealing import MANIFEST, Trust


@dataclass(frozen=True)
class VaultStatus:
    """One vault of the configuration."""

    name: str
    kind: str
    place: str
    site: str | None
    vnfs: int | None
    """None when it does not answer"""
    points: int | None
    trouble: str | None


@dataclass(frozen=True)
class Held:
    """What one vault holds of a VNF."""

    vnf: str
    points: int
    newest: str | None
    newest_consistent_at: str | None
    active_site: str | None
    generation: int | None
    state: str | None
    trouble: str | None


@dataclass(frozen=True)
class Disagreement:
    """Something that vaults do not agree about, or that is wrong in one of them."""

    vnf: str
    document: str
    place: str
    problem: str


@dataclass
class Synced:
    """What has become of a VNF, or would."""

    vnf: str
    here: str
    """what this host knows of it now: "known", "added", "would be added", "not added" """
    active_site: str | None = None
    generation: int | None = None
    points: int | None = None
    written: dict[str, int] = field(default_factory=dict)
    """how many documents each vault got, or would get, by its place"""
    signed: list[str] = field(default_factory=list)
    """documents that were not signed, and are now"""
    trouble: list[str] = field(default_factory=list)


def statuses(deployment: Deployment) -> Iterator[VaultStatus]:
    """Every vault of the configuration. Each is asked by itself: a dead one holds up no other."""
    for name, settings in deployment.config.all_vaults.items():
        vnfs = held = trouble = None
        try:
            names = deployment.vaults([name]).list("")
            vnfs = len(_folders(names))
            held = sum(_is_point(document) for document in names)
        except AntipodeError as error:
            trouble = str(error)
        yield VaultStatus(name, settings.kind, settings.place, settings.site, vnfs, held, trouble)


def held_by(deployment: Deployment, name: str) -> Iterator[Held]:
    """What a vault holds of each VNF, as if there were no other vault.

    Raises:
        NotFound: there is no such vault in the configuration.
        VaultError, SiteUnreachable: it does not answer.
    """
    vault = deployment.vaults([name])
    for vnf in _folders(vault.list("")):
        yield _held(vault, vnf)


def disagreements(
    deployment: Deployment, only: str | None = None, *, every_point: bool = False
) -> Iterator[Disagreement]:
    """What the vaults of each VNF do not agree about: documents that some lack, and those that are
    damaged or different in some.

    Args:
        only: a VNF; all by default.
        every_point: whether every recovery point is read in every vault, and not the newest only.

    Raises:
        NotFound: no vault knows of such a VNF, nor does this host.
        VaultError, SiteUnreachable: no vault answers.
    """
    silent = unanswered(deployment)
    for name, status in silent.items():
        yield Disagreement("", "", name, status)
    for vnf in _vnfs(deployment, only, silent):
        try:
            local = deployment.vnfs.find(vnf) or _from_vaults(deployment, vnf, silent)
            vaults = deployment.vaults(local.vaults, lost=silent)
            yield from _disagreements(vaults, vnf, every_point)
        except AntipodeError as error:
            yield Disagreement(vnf, "", "", str(error))
    if only is None:
        yield from _disagreements_of_plans(deployment, silent)


def _disagreements_of_plans(
    deployment: Deployment, silent: Collection[str]
) -> Iterator[Disagreement]:
    """The vaults that lack the newest version of a plan, and the plans that cannot be used."""
    vaults = deployment.vaults(lost=silent)
    for name in plans.names(vaults):
        subject = f"{PREFIX}{name}"
        try:
            for copy in plans.lacking(vaults, name):
                yield Disagreement(
                    subject, "its newest version", copy.place, "missing; see: antipode vault sync"
                )
            plans.read(vaults, name)
        except NotFound:
            continue  # it was removed, as all vaults say
        except AntipodeError as error:
            yield Disagreement(subject, "", "", str(error))


def synchronize(
    deployment: Deployment,
    only: str | None = None,
    *,
    silent: Collection[str] = (),
    plan: bool = False,
    accept_unsigned: bool = False,
) -> Iterator[Synced]:
    """Have all vaults of each VNF hold the same, and all VNFs known to this host; and all vaults
    the plans over many VNFs, where no VNF is asked for. Safe to repeat.

    The definition of a VNF that this host does not know is taken from its newest recovery point,
    without the commands that probe its members: commands come from VNF files only.

    Args:
        only: a VNF; all by default.
        silent: vaults that are not asked, as they do not answer.
        plan: whether it is only said what would be done.
        accept_unsigned: whether the claims, outcomes and withdrawals that an unreleased antipode
            has left unsigned are true, and are signed.

    Raises:
        NotFound: no vault knows of such a VNF, nor does this host.
        VaultError, SiteUnreachable: no vault answers.
    """
    for vnf in _vnfs(deployment, only, silent):
        row = Synced(vnf, "known")
        try:
            if accept_unsigned and not plan:
                row.signed = _adopt(deployment, vnf, silent)
            _synchronize(deployment, row, silent, plan)
        except AntipodeError as error:
            row.trouble.append(str(error))
        yield row
    if only is None:
        yield from _plans(deployment, silent, plan)


def _plans(deployment: Deployment, silent: Collection[str], plan: bool) -> Iterator[Synced]:
    """Have all vaults hold the newest version of each plan over many VNFs; a row for each that some
    of them lack.
    """
    vaults = deployment.vaults(lost=silent)
    for name in plans.names(vaults):
        row = Synced(f"{PREFIX}{name}", "")
        try:
            lack = [copy.place for copy in plans.lacking(vaults, name)]
            row.written = dict.fromkeys(lack if plan else plans.catch_up(vaults, name), 1)
        except AntipodeError as error:
            row.trouble.append(str(error))
        if row.written or row.trouble:
            yield row


def unanswered(deployment: Deployment) -> dict[str, str]:
    """The vaults of the configuration that do not answer, each with the reason."""
    return {v.name: v.trouble for v in statuses(deployment) if v.trouble is not None}


def _synchronize(deployment: Deployment, row: Synced, silent: Collection[str], plan: bool) -> None:
    local = deployment.vnfs.find(row.vnf)
    if local is None:
        row.here = "not added"
        local = _from_vaults(deployment, row.vnf, silent)
        row.here = "would be added" if plan else "added"
    vaults = deployment.vaults(local.vaults, lost=silent)
    if plan:
        for lack in sync.lacking(vaults, row.vnf):
            for there in lack.without:
                row.written[there.place] = row.written.get(there.place, 0) + 1
        state = generations.present(vaults, row.vnf, local.primary)
    else:
        row.written, trouble = sync.catch_up(vaults, row.vnf)
        row.trouble += trouble
        if row.here == "added":
            deployment.vnfs.put(local)
        state = activity.read(deployment, local, vaults)
    row.active_site, row.generation = state.active_site, state.generation
    row.points = len(points.list_ids(vaults, row.vnf))


def _adopt(deployment: Deployment, vnf: str, silent: Collection[str]) -> list[str]:
    """Sign what an unreleased antipode has left unsigned of a VNF; the names of the documents."""
    local = deployment.vnfs.find(vnf) or _from_vaults(deployment, vnf, silent)
    vaults = deployment.vaults(local.vaults, lost=silent)
    return [*generations.adopt(vaults, vnf), *withdrawals.adopt(vaults, vnf)]


def _from_vaults(deployment: Deployment, vnf: str, silent: Collection[str]) -> Vnf:
    """The definition of a VNF in its newest recovery point that can be read.

    Raises:
        NotFound: it has none.
        VaultCorrupt: none of them can be read.
        InvalidInput: it is of sites that the configuration does not have.
    """
    vaults = deployment.vaults(lost=silent)
    # the second says why the newest one cannot be read
    newest = points.newest_or_none(vaults, vnf) or points.read(vaults, vnf)
    strange = [site for site in newest.vnf.sites if site not in deployment.config.sites]
    if strange:
        raise InvalidInput(
            f"VNF {vnf} is of sites that are not in the configuration ({', '.join(strange)}): it "
            "may be another installation's. Add the sites, or give each installation its own vault"
        )
    return newest.vnf.without_commands()


def _vnfs(deployment: Deployment, only: str | None, silent: Collection[str]) -> list[str]:
    """The VNFs that this host or a vault knows, or the one that is asked for."""
    if not set(deployment.config.all_vaults) - set(silent):
        raise VaultError(f"no vault answers: {', '.join(silent)}. See: antipode vault list")
    listed = deployment.vaults(lost=silent).list("")
    known = {*deployment.vnfs.names(), *_folders(listed)}
    if only is None:
        return sorted(known)
    if only not in known:
        raise NotFound(f"VNF {only} is neither known here nor in a vault", resource=f"VNF {only}")
    return [only]


def _folders(names: Sequence[str]) -> list[str]:
    """The VNFs that documents with these names are of."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    return sorted(folder for folder in folders if re.fullmatch(NAME, folder))


def _is_point(name: str) -> bool:
    return name.count("/") == 1 and name.endswith(MANIFEST)


def _held(vault: Vault, vnf: str) -> Held:
    ids = points.list_ids(vault, vnf)
    try:
        newest = points.newest_or_none(vault, vnf, Trust.UNSIGNED_TOO)
        primary = newest.vnf.primary if newest else "unknown"
        state = generations.present(vault, vnf, primary)
    except (KeyMissing, VaultCorrupt) as error:
        return Held(vnf, len(ids), None, None, None, None, None, str(error))
    return Held(
        vnf,
        len(ids),
        newest.id if newest else None,
        newest.consistent_at if newest else None,
        state.active_site,
        state.generation,
        state.state.value,
        None if newest or not ids else "no recovery point can be read",
    )


def _disagreements(vaults: Vaults, vnf: str, every_point: bool) -> Iterator[Disagreement]:
    try:
        for place, name, outcome in generations.contradictions(vaults, vnf):
            problem = f"says {outcome}, which the vaults that decide do not; remove what is wrong"
            yield Disagreement(vnf, name, place, problem)
    except VaultCorrupt as error:
        yield Disagreement(vnf, "", vaults.place, str(error))
    for place, name, why in generations.refused(vaults, vnf):
        yield Disagreement(vnf, name, place, f"counts for nothing: {why}")
    for lack in sync.lacking(vaults, vnf):
        for there in lack.without:
            problem = "is not there; write it with: antipode vault sync"
            yield Disagreement(vnf, lack.name, there.place, problem)
    ids = points.list_ids(vaults, vnf)
    for point in ids if every_point else ids[-1:]:
        yield from _differences(vaults, vnf, point)


def _itself(vault: Vault) -> Vault:
    return vault


def _differences(vaults: Vaults, vnf: str, point: str) -> Iterator[Disagreement]:
    """Where a recovery point is damaged, or another one than elsewhere."""
    name = f"{vnf}/{point}{MANIFEST}"
    intact: dict[str, bytes] = {}
    for there in vaults.copies():
        alone = Vaults({"": partial(_itself, there)}, all_needed=True, keys=vaults.keys)
        try:
            points.read(alone, vnf, point, Trust.UNSIGNED_TOO)
            intact[there.place] = there.get(name)
        except NotFound:
            continue  # it lacks it, or has it as withdrawn
        except VaultCorrupt as error:
            yield Disagreement(vnf, name, there.place, str(error))
    first = next(iter(intact.values()), b"")
    for place, document in intact.items():
        if document != first:
            yield Disagreement(vnf, name, place, f"differs from that in {next(iter(intact))}")

# SPDX-License-Identifier: Apache-2.0
"""Where a VNF is active, as its vaults and this installation know it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from antipode.engine.deployment import Deployment
from antipode.errors import Busy, NotFound, SiteUnreachable, VaultCorrupt, VaultError
from antipode.model.state import ProtectedVnf, VnfState
from antipode.model.vnf import Vnf
from antipode.vault import generations, points
from antipode.vault.ensemble import Vaults
from antipode.vault.sealing import Trust

LOG = logging.getLogger(__name__)

TWO_COPIES = "vnf.two-copies/"
"""The beginning of the keys of conditions: a VNF and the site of its old copy follow."""


class Standing(NamedTuple):
    """The state of a VNF, and the vaults that it was read from."""

    state: ProtectedVnf
    vaults: Vaults


def read(deployment: Deployment, vnf: Vnf, vaults: Vaults | None = None) -> ProtectedVnf:
    """The state of a VNF, by default from those of its vaults that answer. Vaults that hold nothing
    of it may be new: then what is known elsewhere counts.

    Raises:
        VaultCorrupt: a claim in a vault cannot be understood.
        VaultError, SiteUnreachable: a vault that is needed does not answer.
    """
    vaults = vaults or deployment.vaults(vnf.vaults)
    state = generations.present(vaults, vnf.vnf, vnf.primary)
    if state.claim is None and not vaults.list(f"{vnf.vnf}/"):
        state = _known_elsewhere(deployment, vnf) or state
    return deployment.states.keep(state)


def _known_elsewhere(deployment: Deployment, vnf: Vnf) -> ProtectedVnf | None:
    """The state of a VNF that has changed its site, as this host has last read it, or as a vault
    has it that its file does not name (any more); None if neither knows of such a change.

    Raises:
        VaultCorrupt: a claim in such a vault cannot be understood.
    """
    found = [deployment.states.find(vnf.vnf)]
    named = deployment.config.vault_names(vnf.vaults)
    if others := [name for name in deployment.config.all_vaults if name not in named]:
        try:
            found.append(generations.present(deployment.vaults(others), vnf.vnf, vnf.primary))
        except VaultCorrupt:
            raise
        except (VaultError, SiteUnreachable) as error:
            LOG.warning("where VNF %s is active is not asked of other vaults: %s", vnf.vnf, error)
    changed = [state for state in found if state is not None and state.claim is not None]
    return max(
        changed,
        key=lambda state: (state.generation, state.state is VnfState.FAILING_OVER),
        default=None,
    )


def before_failover(
    deployment: Deployment,
    name: str,
    to: str,
    go_on: Callable[[], None] | None = None,
    lost: Sequence[str] = (),
) -> Standing:
    """The state of a VNF that is to be recovered at site `to`, without a call to the site that it
    is active at, as far as that is known before a vault is asked; and its vaults apart from those
    at that site, which decide about its recovery.

    Args:
        lost: vaults that the operator has given up: they are not asked, and decide nothing.

    Raises:
        NotFound: nothing is known of the VNF, here or in the vaults.
        VaultCorrupt: a claim in a vault cannot be understood.
        VaultError, SiteUnreachable: no vault answers.
    """
    local, known = deployment.vnfs.find(name), deployment.states.find(name)
    wanted = local.vaults if local else []
    failed = _without(known, to) if known else _presumed_failed(deployment, local, to)
    presumed = known is None
    while True:
        vaults = deployment.vaults(wanted, apart_from=failed, lost=lost, go_on=go_on)
        try:
            if presumed:
                _must_be_in(vaults, name)
            state = deployment.states.keep(_present(vaults, name, local))
        except (NotFound, VaultError, SiteUnreachable) as error:
            if not presumed:
                raise
            LOG.warning(
                "every vault of VNF %s is asked, as the first ones did not help: %s", name, error
            )
            failed, presumed = set(), False
            continue
        meant, named = _without(state, to), _named(deployment, vaults, name, local)
        if (failed, wanted) == (meant, named):
            return Standing(state, vaults)
        failed, wanted, presumed = meant, named, False


def decided(
    deployment: Deployment,
    name: str,
    go_on: Callable[[], None] | None = None,
    lost: Sequence[str] = (),
) -> Standing:
    """The state of a VNF as its vaults prove it, those at every site included: what is known here
    or said by too few of them does not count.

    Args:
        lost: vaults that the operator has given up: they are not asked, and decide nothing.

    Raises:
        NotFound: nothing is known of the VNF, here or in the vaults.
        VaultCorrupt: a claim in a vault cannot be understood.
        VaultError, SiteUnreachable: too few vaults answer to be sure.
    """
    local = deployment.vnfs.find(name)
    vaults = deployment.vaults(local.vaults if local else (), lost=lost, go_on=go_on)
    if local is None:
        _must_be_in(vaults, name)
    state = _present(vaults, name, local)
    generations.must_be_decided(vaults, state)
    known = deployment.states.keep(state)
    if known.generation > state.generation:
        raise VaultError(
            f"{vaults.place} does not know that {known}: it was replaced, or is an older copy. See:"
            " antipode vault check, antipode vault sync"
        )
    return Standing(state, vaults)


def _named(deployment: Deployment, vaults: Vaults, name: str, local: Vnf | None) -> list[str]:
    """The vaults of a VNF: as its file here names them, else as its newest recovery point does, so
    that hosts with and without the file let the same vaults decide.
    """
    if local is not None:
        return local.vaults
    if (newest := points.newest_or_none(vaults, name)) is None:
        return []
    known = deployment.config.all_vaults
    if gone := [vault for vault in newest.vnf.vaults if vault not in known]:
        LOG.warning(
            "vaults of %s are not in the configuration, and count as lost: %s",
            name,
            ", ".join(gone),
        )
    return [vault for vault in newest.vnf.vaults if vault in known]


def _must_be_in(vaults: Vaults, name: str) -> None:
    """See that vaults know of a VNF.

    Raises:
        NotFound: they have neither a claim nor a recovery point of it.
        VaultError, SiteUnreachable: none of them answers.
    """
    if not vaults.list(f"{name}/"):
        raise NotFound(f"{vaults.place} has nothing of VNF {name}")


def _presumed_failed(deployment: Deployment, local: Vnf | None, to: str) -> set[str]:
    """The sites that are not asked at first where it is not known which one is the active one."""
    if local is not None and local.primary != to:
        return {local.primary}
    return set(deployment.config.sites) - {to}


def _present(vaults: Vaults, name: str, local: Vnf | None) -> ProtectedVnf:
    """The state of a VNF. Without its file, and before its first failover, it is active at the
    primary that its recovery points name.

    Raises:
        NotFound: there is neither a file nor a recovery point.
        PointUntrusted, VaultCorrupt: no recovery point can be used, and why.
        VaultError: as `generations.present`.
    """
    if local is not None:
        return generations.present(vaults, name, local.primary)
    state = generations.present(vaults, name, "unknown")
    if state.generation > 1:
        return state
    newest = points.newest_or_none(vaults, name, Trust.UNSIGNED_TOO)
    if newest is None:
        newest = points.read(vaults, name)  # says why none of them can be used
    return generations.present(vaults, name, newest.vnf.primary)


def _without(state: ProtectedVnf, to: str) -> set[str]:
    """The site that is not asked in a failover: the active one; once that is the failover's own,
    the one before.
    """
    if state.active_site != to:
        return {state.active_site}
    made_by = state.claim if state.claim and state.claim.site == to else None
    return {made_by.former_site} if made_by else set()


def must_be_active_at(state: ProtectedVnf, site: str) -> None:
    """See that a VNF may be protected at a site.

    Raises:
        Busy: it is active elsewhere, or failing over; the message says where, and since when.
    """
    if state.state is VnfState.FAILING_OVER:
        raise Busy(f"{state}. Resume or abort that before it is protected")
    if state.active_site != site:
        raise Busy(f"{state}: the copy at {site} is an old one, and is not protected")


def two_copies(deployment: Deployment) -> dict[str, dict[str, float]]:
    """By VNF, the sites at which an old copy of it was seen to run, and since when (seconds since
    the epoch).
    """
    found: dict[str, dict[str, float]] = {}
    for key, since in deployment.events.conditions().items():
        if key.startswith(TWO_COPIES):
            vnf, site = key.removeprefix(TWO_COPIES).split("@", 1)
            found.setdefault(vnf, {})[site] = since
    return found

# SPDX-License-Identifier: Apache-2.0
"""Whether the backups of a VNF survive the site that they are taken at."""

from __future__ import annotations

from collections.abc import Sequence

from antipode.config import Config
from antipode.errors import NotFound
from antipode.model.vnf import Vnf
from antipode.protect.option import OPTIONS

ACCEPTED = "write store_at_active_site: accepted in the VNF file to have them all the same"


def problem(config: Config, vnf: str, active_site: str, store: str | None = None) -> str | None:
    """Why the backups of a VNF would be lost with its active site; None if they would not.

    Args:
        active_site: where the VNF runs, and is backed up by its cinder-backup.
        store: the backup store that the VNF file names, if it names one.
    """
    try:
        name = config.store_name(active_site, store)
    except NotFound as error:
        return f"VNF {vnf}: {error}"
    if name is None:
        return (
            f"VNF {vnf}: it is not known where cinder-backup of {active_site} writes to; name the "
            f"store of the site in the configuration, or {ACCEPTED}"
        )
    if config.site_of_store(name) == active_site:
        return (
            f"VNF {vnf}: its backups would lie at {active_site} only, in the backup store {name}, "
            f"and be lost with that site; have cinder-backup write to another place, or {ACCEPTED}"
        )
    return None


def problems(config: Config, vnf: Vnf, active_site: str) -> list[str]:
    """Why recovery points or backups of a VNF would be lost with its active site; an empty list if
    they would not, or if the VNF file accepts it for the backups.
    """
    found = [vaults_problem(config, vnf.vnf, active_site, vnf.vaults)]
    if vnf.store_at_active_site != "accepted" and _is_backed_up(vnf):
        found.append(problem(config, vnf.vnf, active_site, vnf.store))
    return [words for words in found if words is not None]


def _is_backed_up(vnf: Vnf) -> bool:
    known = [OPTIONS.get(p.option) for p in vnf.protections if p.option in OPTIONS]
    return any(option.backs_up(vnf) for option in known)


def vaults_problem(
    config: Config, vnf: str, active_site: str, wanted: Sequence[str] = ()
) -> str | None:
    """Why the recovery points of a VNF would be lost with its active site; None if they would not.

    Args:
        wanted: the vaults that the VNF file names; all of the configuration by default.
    """
    try:
        names = config.vault_names(wanted)
    except NotFound as error:
        return f"VNF {vnf}: {error}"
    if any(config.all_vaults[name].site != active_site for name in names):
        return None
    return (
        f"VNF {vnf}: every vault of it ({', '.join(names)}) is at {active_site}, and would be lost "
        "with that site; add one at another site or a third place"
    )

"""Whether a site has what antipode needs of it: one finding for each thing."""

from __future__ import annotations

from typing import NamedTuple

from antipode.cloud.api import ApiError
from antipode.cloud.site import Site


class Finding(NamedTuple):
    """One thing looked at. What is not `needed` is told, but does not make the site unfit."""

    check: str
    ok: bool
    detail: str
    needed: bool = True


def check(site: Site) -> list[Finding]:
    """Look at the services of a site, the rights of our user there and the quiesce add-on.

    The site's connection has found Nova, Cinder and Neutron already, in versions that are new enough.
    """
    support = site.compute.quiesce_support()
    compute, volume = site.compute.version, site.volumes.version
    return [
        Finding("compute", True, f"Nova, microversion {compute} used"),
        Finding("block-storage", True, f"Cinder, microversion {volume} used"),
        Finding("network", True, f"Neutron, {len(site.networks.networks())} networks visible"),
        _cinder_backup(site),
        Finding(
            "admin rights",
            site.backups.may_exchange_records(),
            f"roles in the project: {', '.join(sorted(site.roles))}; exporting and importing backup records takes admin",
        ),
        Finding(
            "quiesce add-on",
            support is not None,
            f"nova-quiesce {support['version']}, at most {support['maximum_timeout']} s"
            if support
            else "not installed; a VNF whose primary is here cannot be quiesced",
        ),
    ]


def _cinder_backup(site: Site) -> Finding:
    try:
        hosts = site.backups.services_up()
    except ApiError as error:
        return Finding("cinder-backup", False, f"{error}; antipode's user needs the role admin in the project")
    return Finding("cinder-backup", bool(hosts), f"up at {', '.join(hosts)}" if hosts else "no cinder-backup is up and enabled")

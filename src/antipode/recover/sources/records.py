"""Makes the backups of a recovery point known to the backup site's Cinder: their records are
imported, base first (step 1.7.1).
"""

from __future__ import annotations

from antipode.cloud.api import ApiError
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.point import BackupRecord, Manifest
from antipode.model.steps import Timeline
from antipode.recover.existing import Found

TIMEOUT_S = 600.0


def import_chains(
    site: Site, found: Found, manifest: Manifest, server: str, timeline: Timeline
) -> None:
    """Import the records of all backups that a server's volumes rest on, and wait until they are
    available.

    A record that is known already is fine if it is of the same volume.

    Args:
        found: what is at the site already.

    Raises:
        ResourceFailed: a known backup is of another volume, or an import failed.
    """
    volumes = manifest.topology.server(server).volumes
    chains = [manifest.chain(v.id) for v in volumes]
    with timeline.step("1.7.1", "import backup records", server) as step:
        imported = 0
        # All bases, then all first increments, and so on: a record's parent is always there before
        # it.
        for record in (r for generation in _generations(chains) for r in generation):
            if found.backup(record.id) is None:
                _import(site, record)
                imported += 1
        needed = {r.id: r for chain in chains for r in chain}
        there = site.backups.watch.wait_for(
            list(needed),
            wanted=("available", "restoring"),
            timeout_s=TIMEOUT_S,
            tell=step.waits_for,
        )
        for record in needed.values():
            # known by now only: until its import is over, a backup is of volume 00000000-…
            if (volume := there[record.id]["volume_id"]) != record.volume_id:
                raise ResourceFailed(
                    f"{site.name}: backup {record.id} is known already, and of another volume: "
                    f"{volume}"
                )
        step.result(imported=imported, known=len(needed) - imported)


def _import(site: Site, record: BackupRecord) -> None:
    try:
        site.backups.import_record(record.service, record.url)
    except ApiError:
        if Found(site).backup(record.id) is None:
            # else it is refused as it is known: the request of a process that died has come through
            raise


def _generations(chains: list[list[BackupRecord]]) -> list[list[BackupRecord]]:
    longest = max((len(c) for c in chains), default=0)
    return [[chain[i] for chain in chains if i < len(chain)] for i in range(longest)]

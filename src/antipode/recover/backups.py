"""Makes the backups of a recovery point known to the backup site's Cinder: their records are imported, base first (step 1.7.1)."""

from __future__ import annotations

from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.manifest import BackupRecord, Manifest
from antipode.model.timeline import Timeline

TIMEOUT_S = 600.0


def import_chains(site: Site, manifest: Manifest, server: str, timeline: Timeline) -> None:
    """Import the records of all backups that a server's volumes rest on, and wait until they are available.

    A record that is known already is fine if it is of the same volume.

    Raises:
        ResourceFailed: a known backup is of another volume, or an import failed.
    """
    volumes = manifest.topology.server(server).volumes
    chains = [manifest.chain(v.id) for v in volumes]
    with timeline.step("1.7.1", "import backup records", server) as step:
        known = {b["id"]: b for b in site.backups.backups()}
        imported = 0
        # All bases, then all first increments, and so on: a record's parent is always there before it.
        for record in (r for generation in _generations(chains) for r in generation):
            if there := known.get(record.id):
                if there["volume_id"] != record.volume_id:
                    raise ResourceFailed(f"{site.name}: backup {record.id} is known already, and of another volume: {there['volume_id']}")
            else:
                site.backups.import_record(record.service, record.url)
                imported += 1
        needed = [r.id for chain in chains for r in chain]
        site.backups.watch.wait_for(needed, wanted=("available", "restoring"), timeout_s=TIMEOUT_S, tell=step.waits_for)
        step.result(imported=imported, known=len(needed) - imported)


def _generations(chains: list[list[BackupRecord]]) -> list[list[BackupRecord]]:
    longest = max((len(c) for c in chains), default=0)
    return [[chain[i] for chain in chains if i < len(chain)] for i in range(longest)]

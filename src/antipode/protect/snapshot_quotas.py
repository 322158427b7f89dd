# SPDX-License-Identifier: Apache-2.0
"""What the quotas of a project must allow for a snapshot of each volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from antipode.cloud.site import Site
from antipode.model.quota import QuotaNeed, quota_needs
from antipode.model.topology import Volume

GIGABYTES = "gigabytes"


def needs(volumes: Sequence[Volume], site: Site) -> list[QuotaNeed]:
    """A snapshot counts as one snapshot and, in gigabytes, as a volume, unless the configuration
    says that the site's Cinder does not; both also for its type.
    """
    needed: Counter[str] = Counter()
    for volume in volumes:
        for of in ("", f"_{volume.volume_type}"):
            needed[f"snapshots{of}"] += 1
            if site.snapshots_count_gigabytes:
                needed[f"{GIGABYTES}{of}"] += volume.size_gib
    return quota_needs(needed, site.volumes.quota(site.project_id))


def problems(volumes: Sequence[Volume], site: Site) -> Iterator[str]:
    """The quotas that are short; one sentence for each, and what to do where Cinder may not ask
    for one.
    """
    for need in needs(volumes, site):
        if need.is_short:
            unless = (
                f" (if {site.name}'s Cinder has no_snapshot_gb_quota, give the site"
                " `snapshots_count_gigabytes: false`)"
            )
            yield f"{need}{unless if need.resource.startswith(GIGABYTES) else ''}"

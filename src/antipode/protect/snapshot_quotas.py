# SPDX-License-Identifier: Apache-2.0
"""Whether the quotas of a project allow a snapshot of each volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from antipode.cloud.site import Site
from antipode.model.quota import quota_needs
from antipode.model.topology import Volume


def problems(volumes: list[Volume], site: Site) -> Iterator[str]:
    """A snapshot counts as one snapshot and, in gigabytes, as a volume; both also for its type."""
    needed = Counter(snapshots=len(volumes), gigabytes=sum(v.size_gib for v in volumes))
    for volume in volumes:
        needed[f"snapshots_{volume.volume_type}"] += 1
        needed[f"gigabytes_{volume.volume_type}"] += volume.size_gib
    needs = quota_needs(needed, site.volumes.quota(site.project_id))
    yield from (str(need) for need in needs if need.is_short)

# SPDX-License-Identifier: Apache-2.0
"""What the quotas of a project must allow for a snapshot of each volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from antipode.cloud.site import Site
from antipode.model.quota import QuotaNeed, quota_needs
from antipode.model.topology import Volume


def needs(volumes: Sequence[Volume], site: Site) -> list[QuotaNeed]:
    """A snapshot counts as one snapshot and, in gigabytes, as a volume; both also for its type."""
    needed = Counter(snapshots=len(volumes), gigabytes=sum(v.size_gib for v in volumes))
    for volume in volumes:
        needed[f"snapshots_{volume.volume_type}"] += 1
        needed[f"gigabytes_{volume.volume_type}"] += volume.size_gib
    return quota_needs(needed, site.volumes.quota(site.project_id))


def problems(volumes: Sequence[Volume], site: Site) -> Iterator[str]:
    """The quotas that are short; one sentence for each."""
    yield from (str(need) for need in needs(volumes, site) if need.is_short)

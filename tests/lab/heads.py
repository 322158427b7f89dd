# SPDX-License-Identifier: Apache-2.0
"""What came back of the canary from the newest heads of its volumes, record by record; and which
images are originals.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from antipode.sandbox.members import MEMBERS
from antipode.sandbox.records import Record, Report, parse
from antipode.sandbox.story import recovered_last
from lab import canary
from lab.checker import check
from lab.site import Site
from tests.lab.replicated import Made, asked

LOG = logging.getLogger(__name__)
VOLUMES = 2 * len(MEMBERS)
Records = Mapping[str, list[Record]]
"""Role of the member -> its records."""


def originals(site: Site) -> set[str]:
    """The mirrored images that are originals at a site, asked of Ceph and not of antipode."""
    images = [i for i in asked(site, "ls", "volumes") if i.startswith("volume-")]
    found = {i: asked(site, "info", f"volumes/{i}").get("mirroring", {}) for i in images}
    return {image for image, mirroring in found.items() if mirroring.get("primary")}


def before_recovery(contents: Mapping[str, bytes], made: Made) -> Records:
    """Of each member the records that it had written before it was recovered."""
    return {
        role: [r for r in parse(content) if r and r.boot <= made.boots[role]]
        for role, content in contents.items()
    }


def assert_whole(report: Report) -> None:
    """Each member's own records are whole; heads are of no common moment, so the order is not
    looked at.
    """
    assert len(report.members) == len(MEMBERS)
    assert all(member.is_whole for member in report.members.values()), report
    assert not report.content_mismatches, report


def assert_taken_from_heads(site: Site, made: Made) -> Records:
    """The VNF has at a site what came after the point, and nothing that is torn; the records that
    came back.
    """
    contents = canary.records(site)
    report = check(contents)
    assert_whole(report)
    last = recovered_last(report, made.boots)
    assert all(last[role] >= frozen for role, frozen in made.frozen_last.items()), last
    assert sum(last.values()) > sum(made.frozen_last.values())
    return before_recovery(contents, made)


def assert_lost_only_what_is_newer(written: Records, came_back: Records) -> None:
    """What has come back is the beginning of what was written, record by record."""
    for role, records in came_back.items():
        assert written[role][: len(records)] == records, role
        lost = written[role][len(records) :]
        seconds = (written[role][-1].made_us - records[-1].made_us) / 1e6
        LOG.info("%s: %d came back, %d are lost: %.2f s", role, len(records), len(lost), seconds)

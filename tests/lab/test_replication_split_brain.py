# SPDX-License-Identifier: Apache-2.0
"""Originals of the canary's volumes at both of two real sites: they are seen, and resolved by an
explicit choice only.
"""

from __future__ import annotations

import pytest

from lab import canary
from lab.desk import Desk
from lab.site import Site
from lab.waiting import wait_until
from tests.lab.heads import VOLUMES, originals
from tests.lab.replicated import (
    PREPARE,
    VNF,
    healths,
    rbd,
    refusal,
    replicates,
    storage_states,
)

pytestmark = pytest.mark.lab
PATIENCE_S = 600


def kept(desk: Desk) -> list[str]:
    """The recovery points of the VNF."""
    return [point["id"] for point in desk.ask("recovery-point", "list", VNF)]


def test_two_originals_are_seen_and_only_an_explicit_choice_ends_that(
    replicated: Desk, site_a: Site, site_b: Site
) -> None:
    replicated.ask("protect", VNF)
    images = originals(site_a)
    assert len(images) == VOLUMES
    for image in images:  # as somebody may do who takes a cut link for the end of the site
        rbd(site_b, "mirror", "image", "promote", "--force", f"volumes/{image}")
    wait_until(
        lambda: "replicating" not in healths(replicated, site_b), "all are seen", PATIENCE_S, 2
    )
    points = kept(replicated)
    assert refusal(replicated, "protect", VNF) == "preflight-failed"
    assert refusal(replicated, *PREPARE) == "resource-failed"
    assert (originals(site_a), originals(site_b)) == (images, images)
    assert kept(replicated) == points
    canary.wait_for_records(site_a, 10)

    replicated.tell(*PREPARE, "--overwrite", site_b.name)
    replicates(replicated, site_b)
    assert (originals(site_a), originals(site_b)) == (images, set())
    known = storage_states(site_a)
    replicated.ask("protect", VNF)
    for volume in canary.data_volumes(site_a).values():
        image = f"volume-{volume}"
        (state,) = storage_states(site_a)[image] - known[image]
        snapshot = state.removeprefix("snapshot-")
        here, there = (canary.records_of_snapshot(s, volume, snapshot) for s in (site_a, site_b))
        assert here and here == there, "the bytes that have arrived are others"

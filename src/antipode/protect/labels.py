# SPDX-License-Identifier: Apache-2.0
"""Whether the consistency of a recovery point is as good as its VNF file wants it, before anything
is frozen and once more when it is known what was done.
"""

from __future__ import annotations

from collections.abc import Iterator

from antipode.errors import ResourceFailed
from antipode.model.capture import Capture, Consistency, is_worse
from antipode.model.topology import Topology
from antipode.protect.option import Option, Protecting
from antipode.protect.partial import Part


def problems(p: Protecting, topology: Topology, option: Option, part: Part) -> Iterator[str]:
    """Why a point would be worse than is accepted.

    Args:
        topology: of the captured members.
    """
    label = part.label(option.label(p, topology))
    if p.accepts is not None and is_worse(label, p.accepts):
        yield (
            f"a recovery point of {part.vnf.vnf} by option {option.name} would have the consistency"
            f" {label} now, and its VNF file accepts {p.accepts} at least; {_remedy(p, part)}"
        )


def _remedy(p: Protecting, part: Part) -> str:
    if part.untouched:
        return "capture all members, or accept member"
    if p.accepts == "group":
        return (
            "put all volumes in a group that the storage snapshots at once (antipode vnf prepare),"
            " have all members quiesced, or accept volume"
        )
    return "have all members quiesced together, or accept less"


def of_point(p: Protecting, taken: Capture, part: Part) -> Consistency:
    """The label of a point of what was captured.

    Raises:
        ResourceFailed: it is worse than is accepted; there must be no such point.
    """
    label = part.label(taken.consistency)
    if p.accepts is not None and is_worse(label, p.accepts):
        raise ResourceFailed(
            f"what was captured of {part.vnf.vnf} has the consistency {label}, and its VNF file"
            f" accepts {p.accepts} at least: no recovery point is made of it"
        )
    return label

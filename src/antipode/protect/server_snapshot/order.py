# SPDX-License-Identifier: Apache-2.0
"""In which order members are captured, so that the VNF stays up."""

from __future__ import annotations

from antipode.model.vnf import Member, Vnf

_RANKS = {"standby": 0, "active": 2}
"""Of all other roles: 1."""


def members_in_order(vnf: Vnf) -> list[str]:
    """The members by their names in the VNF file: standby members first, active ones last, and
    those of one role in the order of the file.
    """
    return [m.server for m in sorted(vnf.members, key=_rank)]


def members_after(vnf: Vnf, member: str) -> list[str]:
    """The members that are captured after this one."""
    order = members_in_order(vnf)
    return order[order.index(member) + 1 :]


def _rank(member: Member) -> int:
    return _RANKS.get(member.role or "", 1)

# SPDX-License-Identifier: Apache-2.0
"""The members of the example VNF and the tenants that it belongs to, whatever cloud it runs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from antipode.sandbox.records import CHAIN

NAME = "canary"
HTTP_PORT = 8080
PEER_PORT = 8081


@dataclass(frozen=True)
class Tenant:
    """Names that differ between the sites on purpose: a VNF that moves needs them mapped."""

    network: str
    volume_type: str
    has_image: bool


TENANTS = {
    "site-a": Tenant(network="canary-net", volume_type="fast", has_image=True),
    # no image: a recovery boots from restored volumes and must not need one
    "site-b": Tenant(network="canary-net-b", volume_type="standard", has_image=False),
}


@dataclass(frozen=True)
class Member:
    """One server of the VNF."""

    role: str
    address: str
    next_address: str | None = None
    name: str | None = None
    """what its server is called by, where several members have one role; the role by default"""
    leads: bool = False
    """whether it makes records by itself, as the head of the chain does"""
    boots_from_image: bool = False
    """whether its root disk is on the hypervisor, and not a volume"""

    @property
    def server(self) -> str:
        return f"{NAME}-{self.name or self.role}"

    @property
    def port(self) -> str:
        return f"{self.server}-port"

    def user_data(self, period_ms: int) -> str:
        """Its guest's settings; `period_ms` is how often the head of the chain makes a record."""
        lines = [f"role={self.role}", f"http={HTTP_PORT}"]
        lines += [f"next={self.next_address}:{PEER_PORT}"] if self.next_address else []
        leads = self.leads or self.role == CHAIN[-1]
        lines += [f"period_ms={period_ms}" if leads else f"peer={PEER_PORT}"]
        return "\n".join(lines) + "\n"


MEMBERS: Sequence[Member] = (
    Member("db", "10.7.0.11"),
    Member("app", "10.7.0.12", "10.7.0.11"),
    Member("front", "10.7.0.13", "10.7.0.12"),
)
"""In the order of the chain: what a member has durable, all before it have."""

PAIR: Sequence[Member] = (
    Member("db", "10.7.0.21", name="active", leads=True),
    Member("db", "10.7.0.22", name="standby", leads=True),
)
"""Two members of one role, each with records of its own: the VNF works as long as one of them does.
Each member's records must be whole; nothing is promised of the order across the two.
"""

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

    @property
    def server(self) -> str:
        return f"{NAME}-{self.role}"

    @property
    def port(self) -> str:
        return f"{self.server}-port"

    def user_data(self, period_ms: int) -> str:
        """Its guest's settings; `period_ms` is how often the head of the chain makes a record."""
        lines = [f"role={self.role}", f"http={HTTP_PORT}"]
        lines += [f"next={self.next_address}:{PEER_PORT}"] if self.next_address else []
        lines += [f"period_ms={period_ms}" if self.role == CHAIN[-1] else f"peer={PEER_PORT}"]
        return "\n".join(lines) + "\n"


MEMBERS: Sequence[Member] = (
    Member("db", "10.7.0.11"),
    Member("app", "10.7.0.12", "10.7.0.11"),
    Member("front", "10.7.0.13", "10.7.0.12"),
)
"""In the order of the chain: what a member has durable, all before it have."""

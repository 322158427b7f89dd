# SPDX-License-Identifier: Apache-2.0
"""Neutron of one site: ports, and the networks, subnets and security groups they need."""

from __future__ import annotations

from collections.abc import Collection

from antipode.cloud import answers
from antipode.cloud.api import Api, Json


class Networks:
    def __init__(self, api: Api) -> None:
        self._api = api

    def ports_of(self, server_ids: Collection[str]) -> list[Json]:
        """The ports of these servers, in no order."""
        return self._api.all("/ports", answers.PORTS, device_id=list(server_ids))

    def ports_on(self, network_ids: Collection[str]) -> list[Json]:
        """All ports on these networks that we may see."""
        return (
            self._api.all("/ports", answers.PORTS, network_id=list(network_ids))
            if network_ids
            else []
        )

    def port_with_mac(self, network_id: str, mac_address: str) -> Json | None:
        ports = self._api.all(
            "/ports", answers.PORTS, network_id=network_id, mac_address=mac_address
        )
        return ports[0] if ports else None

    def create_port(self, port: Json, tags: Collection[str] = ()) -> str:
        """Create a port, arguments as for `POST /ports`, and return its id."""
        port_id = str(self._api.post("/ports", {"port": port}, answers.MADE_PORT)["id"])
        if tags:
            self.tag_port(port_id, tags)
        return port_id

    def describe_port(self, port_id: str, description: str) -> None:
        self._api.call("PUT", f"/ports/{port_id}", {"port": {"description": description}})

    def tag_port(self, port_id: str, tags: Collection[str]) -> None:
        """Give a port exactly these tags."""
        self._api.call("PUT", f"/ports/{port_id}/tags", {"tags": list(tags)})

    def delete_port(self, port_id: str) -> None:
        self._api.delete(f"/ports/{port_id}")

    def networks(self, ids: Collection[str] = ()) -> list[Json]:
        """The networks with these ids; without any, all that the project may use."""
        return self._api.all("/networks", answers.NETWORKS, **({"id": list(ids)} if ids else {}))

    def subnets(self, network_ids: Collection[str]) -> list[Json]:
        """The subnets of these networks."""
        return (
            self._api.all("/subnets", answers.SUBNETS, network_id=list(network_ids))
            if network_ids
            else []
        )

    def security_groups(self, project_id: str) -> list[Json]:
        return self._api.all("/security-groups", answers.SECURITY_GROUPS, project_id=project_id)

    def agents(self) -> list[Json]:
        """Neutron's agents: agent_type, host, alive, admin_state_up. Administrators only."""
        return self._api.all("/agents", answers.AGENTS)

    def quota(self, project_id: str) -> Json:
        """The quotas of the project, each {limit, used, reserved}."""
        quota: Json = self._api.get(f"/quotas/{project_id}/details.json", answers.NETWORK_QUOTA)
        return quota

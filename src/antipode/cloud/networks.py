# SPDX-License-Identifier: Apache-2.0
"""Neutron of one site: ports, what belongs to them, and the networks, subnets and security groups
they need.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from antipode.cloud import answers
from antipode.cloud.answers import Listing
from antipode.cloud.api import Api, ApiError, Json

ROUTER_INTERFACES = (
    "network:router_interface",
    "network:router_interface_distributed",
    "network:ha_router_replicated_interface",
)
"""The owners of ports that are interfaces of routers."""
AT_ONCE = 50
"""Ids in one query, which is part of the URL: these take 2.4 of the 4 KiB that uWSGI reads."""


class Networks:
    def __init__(self, api: Api) -> None:
        self._api = api

    def extensions(self) -> set[str]:
        """The aliases of the API extensions that this Neutron has."""
        return {e["alias"] for e in self._api.get("/extensions", answers.EXTENSIONS)}

    def ports_of(self, server_ids: Collection[str]) -> list[Json]:
        """The ports of these servers, in no order."""
        return self._all_of("/ports", answers.PORTS, "device_id", server_ids)

    def ports_of_project(self, project_id: str) -> list[Json]:
        """The ports that belong to a project, those of DHCP on its networks included."""
        return self._api.all("/ports", answers.PORTS, project_id=project_id)

    def ports_on(self, network_ids: Collection[str]) -> list[Json]:
        """All ports on these networks that we may see."""
        return self._all_of("/ports", answers.PORTS, "network_id", network_ids)

    def ports_of_routers(self, network_ids: Collection[str]) -> list[Json]:
        """The ports on these networks that are interfaces of routers, as far as we may see them."""
        return self._all_of(
            "/ports",
            answers.PORTS,
            "network_id",
            network_ids,
            device_owner=list(ROUTER_INTERFACES),
        )

    def ports(self, ids: Collection[str]) -> list[Json]:
        """The ports with these ids, in no order."""
        return self._all_of("/ports", answers.PORTS, "id", ids)

    def unplugged_ports(self, network_ids: Collection[str]) -> list[Json]:
        """The ports on these networks that no server or service has."""
        return [p for p in self.ports_on(network_ids) if not p["device_id"]]

    def port_with_mac(self, network_id: str, mac_address: str) -> Json | None:
        ports = self._api.all(
            "/ports", answers.PORTS, network_id=network_id, mac_address=mac_address
        )
        return ports[0] if ports else None

    def create_port(self, port: Json) -> str:
        """Create a port, arguments as for `POST /ports`, and return its id. Neutron gives it no
        tags.
        """
        return str(self._api.post("/ports", {"port": port}, answers.MADE_PORT)["id"])

    def update_port(self, port_id: str, changes: Json) -> None:
        """Change some attributes of a port, as for `PUT /ports/ID`."""
        self._api.call("PUT", f"/ports/{port_id}", {"port": changes})

    def tag_port(self, port_id: str, tags: Collection[str]) -> None:
        """Give a port exactly these tags."""
        self._api.call("PUT", f"/ports/{port_id}/tags", {"tags": list(tags)})

    def delete_port(self, port_id: str) -> None:
        self._api.delete(f"/ports/{port_id}")

    def trunks(self, port_ids: Collection[str]) -> list[Json]:
        """The trunks of which these ports are the parents."""
        return self._all_of("/trunks", answers.TRUNKS, "port_id", port_ids)

    def create_trunk(self, trunk: Json, tags: Collection[str] = ()) -> str:
        """Create a trunk with its subports, arguments as for `POST /trunks`, and return its id."""
        trunk_id = str(self._api.post("/trunks", {"trunk": trunk}, answers.MADE_TRUNK)["id"])
        if tags:
            self._api.call("PUT", f"/trunks/{trunk_id}/tags", {"tags": list(tags)})
        return trunk_id

    def delete_trunk(self, trunk_id: str) -> None:
        """Delete a trunk; its ports stay."""
        self._api.delete(f"/trunks/{trunk_id}")

    def floating_ips(self, **filters: str) -> list[Json]:
        """The floating IPs of the project; none where Neutron has no routers."""
        try:
            listed = self._api.all("/floatingips", answers.FLOATING_IPS, **filters)
        except ApiError as error:
            if error.status == 404:
                return []
            raise
        # Neutron frees those of a port that is deleted
        hidden = self._api.hidden
        return [f | {"port_id": None} if f.get("port_id") in hidden else f for f in listed]

    def associate(self, floating_ip_id: str, port_id: str, fixed_address: str) -> None:
        """Have a floating IP lead to an address of a port."""
        wanted = {"port_id": port_id, "fixed_ip_address": fixed_address}
        self._api.call("PUT", f"/floatingips/{floating_ip_id}", {"floatingip": wanted})

    def qos_policies(self) -> list[Json]:
        """The QoS policies that the project may use; none where Neutron has no QoS."""
        try:
            return self._api.all("/qos/policies", answers.QOS_POLICIES)
        except ApiError as error:
            if error.status == 404:
                return []
            raise

    def networks(self, ids: Collection[str] = ()) -> list[Json]:
        """The networks with these ids; without any, all that the project may use."""
        if not ids:
            return self._api.all("/networks", answers.NETWORKS)
        return self._all_of("/networks", answers.NETWORKS, "id", ids)

    def subnets(self, network_ids: Collection[str]) -> list[Json]:
        """The subnets of these networks."""
        return self._all_of("/subnets", answers.SUBNETS, "network_id", network_ids)

    def create_network(self, network: Json) -> str:
        """Create a network, arguments as for `POST /networks`, and return its id. Neutron gives it
        no tags.
        """
        return str(self._api.post("/networks", {"network": network}, answers.MADE_NETWORK)["id"])

    def delete_network(self, network_id: str) -> None:
        """Delete a network with its subnets; refused while others than Neutron have ports on it."""
        self._api.delete(f"/networks/{network_id}")

    def create_subnet(self, subnet: Json) -> str:
        """Create a subnet, arguments as for `POST /subnets`, and return its id."""
        return str(self._api.post("/subnets", {"subnet": subnet}, answers.MADE_SUBNET)["id"])

    def serve_addresses(self, subnet_id: str) -> None:
        """Have DHCP serve a subnet; again is fine."""
        self._api.call("PUT", f"/subnets/{subnet_id}", {"subnet": {"enable_dhcp": True}})

    def describe(self, collection: str, item: str, description: str) -> None:
        """Give a network, subnet or security group this description.

        Args:
            collection: as in the API's paths: networks, subnets, security-groups.
        """
        kind = collection.removesuffix("s").replace("-", "_")
        self._api.call("PUT", f"/{collection}/{item}", {kind: {"description": description}})

    def tag(self, collection: str, item: str, tags: Collection[str]) -> None:
        """Give a resource of Neutron exactly these tags; `collection` as for `describe`."""
        self._api.call("PUT", f"/{collection}/{item}/tags", {"tags": list(tags)})

    def create_security_group(self, group: Json) -> Json:
        """Create a security group, arguments as for `POST /security-groups`; it is returned with
        the rules that it is born with.
        """
        made: Json = self._api.post(
            "/security-groups", {"security_group": group}, answers.MADE_SECURITY_GROUP
        )
        return made

    def delete_security_group(self, group_id: str) -> None:
        """Delete a security group, its rules, and the rules of others that name it; refused while
        a port has it.
        """
        self._api.delete(f"/security-groups/{group_id}")

    def create_rules(self, rules: Sequence[Json]) -> None:
        """Create security group rules, all or none of them."""
        if rules:
            self._api.call("POST", "/security-group-rules", {"security_group_rules": list(rules)})

    def delete_rule(self, rule_id: str) -> None:
        self._api.delete(f"/security-group-rules/{rule_id}")

    def address_groups(self) -> list[Json]:
        """The address groups that the project may use; none where Neutron does not know them."""
        try:
            return self._api.all("/address-groups", answers.ADDRESS_GROUPS)
        except ApiError as error:
            if error.status == 404:
                return []
            raise

    def security_groups(self, project_id: str) -> list[Json]:
        """The security groups of a project, and those that others share with it."""
        own = self._api.all("/security-groups", answers.SECURITY_GROUPS, project_id=project_id)
        # A Neutron that cannot share them ignores the filter.
        shared = self._api.all("/security-groups", answers.SECURITY_GROUPS, shared="true")
        known = {g["id"] for g in own}
        return [*own, *(g for g in shared if g.get("shared") and g["id"] not in known)]

    def agents(self) -> list[Json]:
        """Neutron's agents: agent_type, host, alive, admin_state_up. Administrators only."""
        return self._api.all("/agents", answers.AGENTS)

    def quota(self, project_id: str) -> Json:
        """The quotas of the project, each {limit, used, reserved}."""
        quota: Json = self._api.get(f"/quotas/{project_id}/details.json", answers.NETWORK_QUOTA)
        return quota

    def _all_of(
        self, path: str, listing: Listing, field: str, ids: Collection[str], **more: Sequence[str]
    ) -> list[Json]:
        """All items of which a field has one of these ids, asked for in queries that a service
        takes; none where there are no ids.
        """
        wanted = list(dict.fromkeys(ids))
        parts = (wanted[at : at + AT_ONCE] for at in range(0, len(wanted), AT_ONCE))
        return [i for part in parts for i in self._api.all(path, listing, **{field: part}, **more)]

# SPDX-License-Identifier: Apache-2.0
"""Neutron: the tenant's networks, on Open vSwitch in user space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import extras, inside, supervision
from lab.service import NotReady, Program, Service
from lab.services import identity, ovs, rpc, wsgi
from lab.services.openstack_conf import (
    Section,
    Sections,
    credentials,
    daemon,
    database,
    executable,
    messaging,
    oslo,
    packaged,
    state,
    token_validation,
    write,
)
from lab.services.schema import TIMEOUT, Schema
from lab.site import Site

PORT = 9696
PUBLIC, PUBLIC_BRIDGE = "public", "br-ex"
"""The physical network of floating IPs, where a site has the extra for it, and its bridge."""

DHCP_AGENT, L3_AGENT = "neutron-dhcp-agent", "neutron-l3-agent"
_AGENT_OF = {"qdhcp-": DHCP_AGENT, "qrouter-": L3_AGENT}
"""Of namespaces that begin so."""


def _conf(site: Site) -> Path:
    return site.etc / "neutron" / "neutron.conf"


def _l3_conf(site: Site) -> Path:
    return site.etc / "neutron" / "l3_agent.ini"


def _with_network(site: Site) -> Mapping[str, Section]:
    """What the extra `network` sets, beside or instead of the rest."""
    if not extras.has(site, extras.NETWORK):
        return {}
    return {
        "DEFAULT": {
            "service_plugins": "router,trunk,qos,segments,port_forwarding",
            "dns_domain": f"{site.name}.example.",
            "l3_ha": False,
        },
        "ml2": {
            "extension_drivers": [
                "port_security",
                "qos",
                "dns_domain_keywords",
                "uplink_status_propagation",
                "port_numa_affinity_policy",
                "data_plane_status",
            ]
        },
        "ml2_type_flat": {"flat_networks": PUBLIC},
        "ml2_type_vlan": {"network_vlan_ranges": f"{PUBLIC}:100:199"},
        "ovs": {"bridge_mappings": f"{PUBLIC}:{PUBLIC_BRIDGE}"},
        "agent": {"extensions": "qos"},
    }


def _merged(sections: Sections, others: Sections) -> Sections:
    names = [*sections, *(name for name in others if name not in sections)]
    return {name: {**sections.get(name, {}), **others.get(name, {})} for name in names}


def configure(site: Site) -> None:
    write(
        _l3_conf(site),
        {
            # no metadata for guests: they have configuration drives
            "DEFAULT": {"agent_mode": "legacy", "enable_metadata_proxy": False},
            "agent": {"extensions": "port_forwarding"},
        },
    )
    write(_conf(site), _merged(_plain(site), _with_network(site)))


def _plain(site: Site) -> Sections:
    return {
        "DEFAULT": {
            **messaging(),
            "host": site.compute_host,
            "core_plugin": "ml2",
            "service_plugins": "",
            "interface_driver": "openvswitch",
            "dhcp_agents_per_network": 1,
            "dhcp_lease_duration": 86400,
            "dnsmasq_local_resolv": False,
            "dnsmasq_dns_servers": "127.0.0.1",
            "enable_isolated_metadata": False,
            "state_path": state(site, "neutron"),
            "api_paste_config": packaged("neutron", "api-paste.ini"),
            "api_workers": 1,
            "rpc_workers": 1,
            "rpc_state_report_workers": 0,
            "notify_nova_on_port_status_changes": True,
            "notify_nova_on_port_data_changes": True,
            "rpc_response_timeout": 60,
            # no port is bound on the host of an agent that a busy machine has kept from
            # reporting
            "agent_down_time": 180,
        },
        "database": database("neutron", pool=10),
        "nova": {"endpoint_type": "public", **credentials(site, "neutron")},
        "placement": credentials(site, "neutron"),
        # everything is root already: no helper
        "agent": {"root_helper": "", "root_helper_daemon": "", "report_interval": 15},
        "ml2": {
            "type_drivers": "local,flat,vlan",
            "mechanism_drivers": "openvswitch",
            "extension_drivers": "port_security",
        },
        # the user-space datapath of this machine has no connection tracking to filter with
        "securitygroup": {"enable_security_group": True, "firewall_driver": "noop"},
        "ovs": {
            "integration_bridge": "br-int",
            "datapath_type": ovs.DATAPATH_TYPE,
            "ovsdb_connection": ovs.CONNECTION,
        },
        **token_validation(site, "neutron"),
        **oslo(site, "neutron"),
    }


def _migrate(site: Site) -> None:
    inside.run(
        site,
        [executable("neutron-db-manage"), "--config-file", str(_conf(site)), "upgrade", "heads"],
        timeout=TIMEOUT,
    )


class NeutronServer(Service):
    """The API and the server of the agents."""

    name = "neutron-server"
    after = ("neutron-schema", "keystone", "rabbitmq")

    def prepare(self, site: Site) -> None:
        identity.add_service(site, "neutron", site.url(PORT), "network")

    def programs(self, site: Site) -> Sequence[Program]:
        environment = {
            "OS_NEUTRON_CONFIG_DIR": str(_conf(site).parent),
            "OS_NEUTRON_CONFIG_FILES": _conf(site).name,
            **extras.mark(site, extras.NETWORK),
        }
        return [
            wsgi.program(site, "neutron-api", PORT, "neutron.wsgi.api", 4, environment),
            Program(
                "neutron-rpc",
                daemon("neutron-rpc-server", _conf(site)),
                extras.mark(site, extras.NETWORK),
            ),
        ]

    def check_ready(self, site: Site) -> None:
        wsgi.check_answers(site.url(PORT, "/"))
        rpc.check_served(site, "q-plugin")


class NeutronAgents(Service):
    """The switch agent and DHCP, and routers where the site has the extra for them.

    Begun only when the RPC server listens: they lose a minute with their first call otherwise.
    """

    name = "neutron-agents"
    after = ("neutron-server", "ovs")
    restart_with = ("ovs",)

    def prepare(self, site: Site) -> None:
        """Remove the namespaces of agents that do not run: their ports are dead when the switch
        was restarted, and the agents would keep them.
        """
        if extras.has(site, extras.NETWORK):
            bridge = ["ovs-vsctl", "--may-exist", "add-br", PUBLIC_BRIDGE]
            kind = f"datapath_type={ovs.DATAPATH_TYPE}"
            inside.run(site, [*bridge, "--", "set", "bridge", PUBLIC_BRIDGE, kind])
        running = supervision.running(site)
        alive = tuple(prefix for prefix, agent in _AGENT_OF.items() if agent in running)
        for line in inside.run(site, ["ip", "netns", "list"]).stdout.splitlines():
            name = line.split()[0]
            if name.startswith(alive):
                continue
            if pids := inside.run(site, ["ip", "netns", "pids", name]).stdout.split():
                inside.run(site, ["kill", *pids], check=False)  # dnsmasq may end while we look
            inside.run(site, ["ip", "netns", "delete", name])

    def programs(self, site: Site) -> Sequence[Program]:
        mark = extras.mark(site, extras.NETWORK)
        agents = [
            Program("neutron-ovs-agent", daemon("neutron-openvswitch-agent", _conf(site)), mark),
            Program(DHCP_AGENT, daemon(DHCP_AGENT, _conf(site)), mark),
        ]
        if mark:
            own = ["--config-file", str(_l3_conf(site))]
            agents.append(Program(L3_AGENT, [*daemon(L3_AGENT, _conf(site)), *own]))
        return agents

    def check_ready(self, site: Site) -> None:
        """Ask the queues first: Neutron believes for a minute that an agent lives which has
        died.
        """
        routes = [L3_AGENT] if extras.has(site, extras.NETWORK) else []
        rpc.check_served(
            site,
            f"q-agent-notifier-tunnel-update.{site.compute_host}",
            f"dhcp_agent.{site.compute_host}",
            *(f"l3_agent.{site.compute_host}" for _ in routes),
        )
        agents = {
            agent["binary"]: agent
            for agent in identity.ask(site, PORT, "/v2.0/agents")["agents"]
            if agent["alive"]
        }
        if missing := {"neutron-openvswitch-agent", DHCP_AGENT, *routes} - set(agents):
            raise NotReady(f"Neutron has not heard of {', '.join(sorted(missing))}")
        for network in identity.ask(
            site, PORT, f"/v2.0/agents/{agents[DHCP_AGENT]['id']}/dhcp-networks"
        )["networks"]:
            addresses = inside.run(
                site, ["ip", "-netns", f"qdhcp-{network['id']}", "-brief", "address"], check=False
            ).stdout
            if network["subnets"] and "tap" not in addresses:
                raise NotReady(f"network {network['name']} is not served by DHCP yet")


SERVICES: Sequence[Service] = (
    Schema("neutron", ["neutron"], configure, _migrate),
    NeutronServer(),
    NeutronAgents(),
)

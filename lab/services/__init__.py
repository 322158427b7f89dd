# SPDX-License-Identifier: Apache-2.0
"""The services of a site, all named in this one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab import extras
from lab.service import Service
from lab.services import (
    barbican,
    cinder,
    glance,
    heat,
    keystone,
    link,
    neutron,
    nova,
    operator_rbd,
    placement,
    rbd_mirror,
    swift,
    tenant,
)
from lab.services.ceph import Ceph, CephMonitor
from lab.services.libvirt import Libvirt
from lab.services.mariadb import MariaDB
from lab.services.memcached import Memcached
from lab.services.ovs import OpenVSwitch
from lab.services.rabbitmq import RabbitMQ
from lab.site import Site


def services_of(site: Site) -> Sequence[Service]:
    """Every service of the site, and those of the extras that it has; the order in which they
    start is their own matter (`Service.after`).
    """
    return [
        MariaDB(),
        RabbitMQ(),
        Memcached(),
        CephMonitor(),
        Ceph(),
        OpenVSwitch(),
        Libvirt(),
        *keystone.SERVICES,
        *placement.SERVICES,
        *glance.SERVICES,
        *neutron.SERVICES,
        *nova.SERVICES,
        *cinder.SERVICES,
        *swift.SERVICES,
        *tenant.SERVICES,
        *(service for extra, own in _OF.items() if extras.has(site, extra) for service in own),
    ]


_OF: Mapping[str, Sequence[Service]] = {
    extras.REPLICATION: (
        *rbd_mirror.SERVICES,
        *operator_rbd.SERVICES,
        *swift.SYNCHRONIZATION,
        *link.SERVICES,
    ),
    extras.KEY_MANAGER: barbican.SERVICES,
    extras.HEAT: heat.SERVICES,
}
"""What a site has with an extra and not without; Neutron's own services change with theirs."""

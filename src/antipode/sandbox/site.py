# SPDX-License-Identifier: Apache-2.0
"""One embedded site: its services put together over its directory, and the process that serves them
(`python -m antipode.sandbox.site`).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from antipode import private
from antipode.sandbox import guests, settings
from antipode.sandbox.barbican import Barbican
from antipode.sandbox.cinder.service import Cinder
from antipode.sandbox.cinder.storage import BACKEND, Storage
from antipode.sandbox.conditions import Conditions
from antipode.sandbox.container_sync import ContainerSync, Realm
from antipode.sandbox.control import Control
from antipode.sandbox.database import Database
from antipode.sandbox.designate import Designate
from antipode.sandbox.glance import Glance
from antipode.sandbox.guests import GuestSilent, Hypervisor
from antipode.sandbox.heat import Heat
from antipode.sandbox.http import Call, Caller, Gate, Refused, Route, Service
from antipode.sandbox.keystone import PROJECT, TENANT, Keystone, known_id
from antipode.sandbox.neutron.service import Neutron
from antipode.sandbox.nova.servers import Infrastructure
from antipode.sandbox.nova.service import Nova
from antipode.sandbox.store import Store
from antipode.sandbox.swift import Swift
from antipode.sandbox.work import Work

IMAGE = "canary"
CIDR = "10.7.0.0/24"
POOL = {"start": "10.7.0.200", "end": "10.7.0.250"}
LARGEST_BODY = 2 << 30
BACKLOG = 512
LOOKED_AT_S = 2.0
"""For how long another process may test the lock while this one starts."""


class Gateway(Service):
    """The way to the guests, whose addresses are of networks that only the site has: GET
    /guests/ADDRESS/PORT is what one answers there.
    """

    type = "guests"
    prefix = "/guests"

    def __init__(self, hypervisor: Hypervisor, neutron: Neutron) -> None:
        self._hypervisor, self._neutron = hypervisor, neutron

    def routes(self) -> Sequence[Route]:
        return [Route("GET", "/{address}/{port}", self._answer, open=True)]

    def fault(self, refused: Refused) -> web.Response:
        return web.Response(status=refused.status, text=refused.message)

    async def _answer(self, call: Call, address: str, port: str) -> web.Response:
        try:
            said = await self._hypervisor.answer(
                address, int(port), call.query, self._neutron.is_reached
            )
            return web.Response(text=said)
        except GuestSilent as error:
            raise Refused(504, str(error)) from error


class Site:
    """All services of a site, over what its directory holds."""

    def __init__(self, directory: Path, site: settings.SiteSettings) -> None:
        self._settings = site
        database = Database(directory / "site.sqlite")
        self.conditions = Conditions(site.latency)
        work = Work()
        self.store = Store(site.store, self.conditions)
        self.hypervisor = Hypervisor(self.conditions)
        self.glance = Glance(database, directory / "images", self.conditions)
        self.neutron = Neutron(database, self.conditions)
        self.storage = Storage(site.name, database, directory, self.conditions, work, site.gib)
        self.barbican = Barbican(database, self.conditions)
        self.cinder = Cinder(self.storage, database, self.glance, self.store, self.barbican)
        self.nova = Nova(
            site.name,
            database,
            self.conditions,
            work,
            Infrastructure(
                self.hypervisor,
                self.storage,
                self.cinder.volumes,
                self.cinder.snapshots,
                self.neutron,
                self.glance,
            ),
            add_on=site.add_on,
        )
        self.designate = Designate(database, self.conditions, work)
        self.heat = Heat(database, self.conditions, work)
        self.swift = Swift(database, directory / "objects", self.conditions, site.realm, site.name)
        services: list[Service] = [self.nova, self.cinder, self.neutron, self.glance, self.swift]
        services += [self.designate, self.heat, self.barbican]
        paths = {
            "compute": "/v2.1",
            "block-storage": "/v3",
            "object-store": "/v1/AUTH_{project}",
            "orchestration": "/v1/{project}",
        }
        catalog = {s.type: s.prefix + paths.get(s.type, "") for s in services}
        self.keystone = Keystone(
            site.name, site.region, self.conditions, {**catalog, "identity": Keystone.prefix}
        )
        self.gate = Gate(self.conditions, self.keystone.authenticate)
        self._services = [*services, self.keystone, Gateway(self.hypervisor, self.neutron)]
        self._is_new = not len(self.nova.flavors)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST_BODY)
        for service in self._services:
            service.install(application, self.gate)
        return application

    def begin(self) -> None:
        """Furnish a new site, or resume the work that a killed one left."""
        if self._is_new:
            self._furnish()
        else:
            self.cinder.begin_again()
            self.nova.servers.begin_again()
            self.designate.begin_again()
            self.heat.begin_again()

    def _furnish(self) -> None:
        """Create the resources that precede a VNF: flavor, volume types, network, security group,
        and an image where there is one.
        """
        tenant = self._settings.tenant
        owner = Caller(
            known_id(self._settings.name, "user", TENANT),
            self.keystone.project_id(PROJECT),
            ("member", "reader"),
        )
        self.nova.flavors.make("tiny", vcpus=1, ram=192, disk=0)
        for name in (BACKEND, tenant.volume_type):
            self.cinder.types.make(name, {"volume_backend_name": BACKEND})
        self.neutron.furnish(owner.project_id, tenant.network, CIDR, POOL, "canary")
        if tenant.has_image:
            agent = {"hw_qemu_guest_agent": "yes", "os_require_quiesce": "yes"}
            self.glance.furnish(
                owner.project_id, IMAGE, guests.BOOTABLE.ljust(1 << 20, b"\0"), agent
            )


async def serve(directory: Path, doors: Sequence[socket.socket]) -> None:
    """Serve a site until SIGTERM; on the sockets given, for the services and for the control API,
    else on those of its settings.
    """
    site_settings = settings.read(directory)
    site = Site(directory, site_settings)
    control = Control(
        site_settings.name,
        site.conditions,
        site.gate,
        site.hypervisor,
        site.storage,
        site.cinder.types,
        site.nova.servers,
    )
    site.begin()
    runners = []
    ports = (site_settings.port, site_settings.control_port)
    doors = doors or [socket.create_server((site_settings.host, port)) for port in ports]
    for application, door in zip((site.application(), control.application()), doors, strict=True):
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.SockSite(runner, door, backlog=BACKLOG).start()
        runners.append(runner)
    synchronization = asyncio.ensure_future(_container_sync(site, site_settings.realm))
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await asyncio.wait(
        [synchronization, asyncio.ensure_future(ended.wait())],
        return_when=asyncio.FIRST_COMPLETED,
    )
    if synchronization.done():
        synchronization.result()  # raises: it never ends by itself
    synchronization.cancel()
    for runner in runners:
        await runner.cleanup()
    await site.store.close()


async def _container_sync(site: Site, realm: Realm | None) -> None:
    """Until it is cancelled."""
    if realm is None:
        await asyncio.Event().wait()
        return
    await ContainerSync(site.swift, realm, site.conditions).run()


def main() -> int:
    """Hold the site's lock, by which others know that this process is the site's, and serve.

    The kernel frees the lock when the process has ended: Python never closes it, since it would do
    so before the databases are closed, and the waiting process may then remove their files.
    """
    os.umask(0o077)  # disks of guests and user_data are in what it writes
    directory, doors = (
        Path(sys.argv[1]),
        [socket.socket(fileno=int(handle)) for handle in sys.argv[2:]],
    )
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    lock = private.opener(str(directory / settings.LOCK), os.O_RDWR | os.O_CREAT)
    if not _locked(lock):
        print(f"{directory}: another process serves this site already", file=sys.stderr)
        return 1
    os.truncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    asyncio.run(serve(directory, doors))
    return 0


def _locked(handle: int) -> bool:
    """Lock a file; whether it could be.

    Tried for a moment: a process that only tests the lock holds it meanwhile.
    """
    deadline = time.monotonic() + LOOKED_AT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())

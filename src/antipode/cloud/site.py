# SPDX-License-Identifier: Apache-2.0
"""A connection to one site: one session for all threads, its services found and their versions
known before it is used.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from antipode.cloud import credentials
from antipode.cloud.api import Api, Gate, Rate, Unlimited, Version
from antipode.cloud.attachments import Attachments
from antipode.cloud.backends import Backends
from antipode.cloud.backups import Backups
from antipode.cloud.compute import Compute
from antipode.cloud.groups import VolumeGroups
from antipode.cloud.image_bytes import ImageBytes, ImageStreams
from antipode.cloud.images import Images
from antipode.cloud.keys import Keys, Payloads, payloads_of
from antipode.cloud.networks import Networks
from antipode.cloud.objects import Objects
from antipode.cloud.stacks import Stacks
from antipode.cloud.transport import Login, Wire, answering
from antipode.cloud.volumes import Volumes
from antipode.cloud.watch import Watch, WatchUnder
from antipode.cloud.zones import Zones
from antipode.config import ChangesConfig
from antipode.errors import InvalidInput, PreflightFailed
from antipode.model.datastore import StorageAt

Service = TypeVar(
    "Service", Compute, Volumes, VolumeGroups, Backends, Backups, Attachments, Networks
)
SERVICES = ("compute", "volumes", "groups", "backends", "backups", "attachments", "networks")
"""The parts of a site that are behind its gate."""


class Site:
    """The services of one site. Safe to use from several threads."""

    def __init__(
        self,
        name: str,
        *,
        project_id: str,
        user_id: str,
        roles: list[str],
        compute: Api,
        volume: Api,
        network: Api,
    ) -> None:
        self.name = name
        self.project_id = project_id
        self.user_id = user_id
        self.roles = roles
        self.compute = Compute(compute)
        self.volumes = Volumes(volume)
        self.groups = VolumeGroups(volume)
        self.backends = Backends(volume)
        self.backups = Backups(volume)
        self.attachments = Attachments(volume)
        self.networks = Networks(network)
        self.project: str | None = None
        """the name of its project in antipode's configuration, where it is not the site's own"""
        self.storages: Mapping[str, StorageAt] = {}
        """those at this site that replicate by themselves, by name"""
        self.changes: Sequence[ChangesConfig] = ()
        """the pools at this site whose changes this host can read"""
        self.attaches = False
        """whether this host can write volumes there by itself"""
        self.snapshots_count_gigabytes = True
        """whether Cinder counts the gigabytes of snapshots; its API does not say"""
        self.helper: str | None = None
        """the id of the server there to which the mover has volumes attached; None: to this host"""
        self._connection: Any = None
        self._login: Login | None = None
        self._lock = threading.Lock()
        self._objects: Objects | None = None
        self._image: Api | None = None
        self._orchestration: Api | None = None
        self._keys: Api | None = None
        self._payloads: Callable[[Gate], Payloads] | None = None
        self._image_streams: Callable[[Gate], ImageStreams] | None = None
        self._gate = Gate()

    def under(self, go_on: Callable[[], None], rate: Rate | None = None) -> Self:
        """This site as one run uses it, over the same connection and with the same pollers.

        Args:
            go_on: called just before each call that changes something, and in each wait; what it
                raises ends them. Never before a thaw.
            rate: what the calls are limited by, except those made while a server is frozen.
        """
        return self._behind(Gate(go_on, rate or Unlimited()))

    def impatient(self, patience_s: float) -> Self:
        """This site for what may be left undone: a service that has not answered for so long, over
        all calls, is not asked again.
        """
        return self._behind(self._gate._replace(patience_s=patience_s))

    def without(self, ids: Collection[str]) -> Self:
        """This site as it will be once what has these ids is gone: listings leave it out."""
        return self._behind(self._gate._replace(hidden=frozenset(ids)))

    @property
    def hidden(self) -> frozenset[str]:
        """The ids of what is there, and is left out of listings."""
        return self._gate.hidden

    def _behind(self, gate: Gate) -> Self:
        view = copy.copy(self)
        view._gate, view._objects = gate, None
        for service in SERVICES:
            setattr(view, service, _under(getattr(self, service), view._gate))
        return view

    @property
    def objects(self) -> Objects:
        """The site's object store; looked for when it is first asked for, as not every site needs
        one.
        """
        with self._lock:  # openstacksdk makes its proxies without one
            if self._objects is None:
                assert self._login is not None  # connected
                self._objects = _objects(self.name, self._connection, self._login, self._gate)
            return self._objects

    @property
    def images(self) -> Images:
        """The site's images; Glance is looked for when they are first asked for, as only some
        options need it.
        """
        with self._lock:
            if self._image is None:
                assert self._login is not None  # connected
                with answering(self.name):
                    proxy = self._connection.image
                    self._image = _api(self.name, "image", self._login, proxy)
                self._image_streams = partial(
                    ImageBytes, self.name, partial(self._login.ask, proxy)
                )
            assert self._image_streams is not None  # made together
            streams = self._image_streams(self._gate)
            return Images(self._image.behind(self._gate), self.project_id, streams)

    @property
    def stacks(self) -> Stacks:
        """The site's stacks; Heat is looked for when they are first asked for, as few sites need
        it.

        Raises:
            PreflightFailed: the site has no Heat.
        """
        with self._lock:
            if self._orchestration is None:
                assert self._login is not None  # connected
                with answering(self.name):
                    proxy = self._connection.orchestration
                    self._orchestration = _api(self.name, "orchestration", self._login, proxy)
            return Stacks(self._orchestration.behind(self._gate))

    @property
    def keys(self) -> Keys:
        """The site's secrets; Barbican is looked for when they are first asked for, as only
        encrypted volumes need it.

        Raises:
            PreflightFailed: the site has no Barbican.
        """
        with self._lock:
            if self._keys is None:
                assert self._login is not None  # connected
                with answering(self.name):
                    proxy = self._connection.key_manager
                    self._keys = _api(self.name, "key-manager", self._login, proxy)
                ask = partial(self._login.ask, proxy)
                self._payloads = partial(payloads_of, self.name, ask)
            assert self._payloads is not None  # made together
            return Keys(self._keys.behind(self._gate), self._payloads(self._gate))

    def stay_authorized(self, seconds: float) -> None:
        """Get a new token now unless the present one lasts for that long, so that none has to be
        got in between.
        """
        if self._login is not None:
            with answering(self.name):
                self._login.stay(seconds)


def _under(service: Service, gate: Gate) -> Service:
    there = copy.copy(service)
    api = next(part for part in vars(service).values() if isinstance(part, Api)).behind(gate)
    for name, part in vars(service).items():
        if isinstance(part, Api):
            setattr(there, name, api)
        elif isinstance(part, Watch | WatchUnder):
            setattr(there, name, part.under(api.go_on))
    return there


def connect(name: str, cloud: str, *, api_timeout_s: float = 30.0) -> Site:
    """Log in at a site and find its services.

    Args:
        name: the site's name in antipode's configuration.
        cloud: the name of its entry in clouds.yaml.
        api_timeout_s: seconds after which a call without an answer has failed.

    Raises:
        InvalidInput: clouds.yaml has no such entry, it is incomplete, or its credentials are
            refused.
        SiteUnreachable: the site does not answer.
        PreflightFailed: a service is missing or too old.
    """
    connection, login = _log_in(name, cloud, api_timeout_s)
    with answering(name):
        access = connection.session.auth.get_access(connection.session)
        if not access.project_id:
            raise InvalidInput(
                f"Site {name}: cloud {cloud} in clouds.yaml is of no project; auth needs "
                "project_name, or project_id"
            )
        _check_region(name, cloud, connection.config.region_name, access.service_catalog)
        site = Site(
            name,
            project_id=str(access.project_id),
            user_id=str(access.user_id),
            roles=list(access.role_names),
            compute=_api(name, "compute", login, connection.compute),
            volume=_api(name, "block-storage", login, connection.block_storage),
            network=_api(name, "network", login, connection.network),
        )
    site._connection, site._login = connection, login
    return site


def _check_region(name: str, cloud: str, region: str | None, catalog: Any) -> None:
    """See that the region of a clouds.yaml entry is one of the site's catalog."""
    there = {e["region"] for es in catalog.get_endpoints().values() for e in es if e.get("region")}
    if region and there and region not in there:
        raise InvalidInput(
            f"Site {name}: cloud {cloud} in clouds.yaml has region_name {region}; the site has "
            f"{', '.join(sorted(there))}"
        )


def connect_objects(name: str, cloud: str, *, api_timeout_s: float = 30.0) -> Objects:
    """Log in at a place of which only the object storage is used: no other service needs to be in
    its catalog.

    Arguments and errors as for `connect`.
    """
    return _objects(name, *_log_in(name, cloud, api_timeout_s), Gate())


def connect_zones(name: str, cloud: str, *, api_timeout_s: float = 30.0) -> Zones:
    """Log in at a place of which only Designate is used.

    Arguments and errors as for `connect`.
    """
    connection, login = _log_in(name, cloud, api_timeout_s)
    with answering(name):
        return Zones(_api(name, "dns", login, connection.dns))


def _log_in(name: str, cloud: str, api_timeout_s: float) -> tuple[Any, Login]:
    """A connection with a token, and the login that its threads share; errors as for `connect`."""
    from keystoneauth1 import exceptions
    from openstack.connection import Connection

    region = credentials.read(name, cloud, api_timeout_s)
    with answering(name):
        connection = Connection(config=region)
        try:
            connection.session.get_token()
        except (exceptions.BadRequest, exceptions.NotFound) as error:
            raise InvalidInput(
                f"Site {name}: its identity service cannot be used with cloud {cloud} of "
                f"clouds.yaml; check its auth_url and auth: {error}"
            ) from error
    return connection, Login(connection.session)


def _objects(name: str, connection: Any, login: Login, gate: Gate) -> Objects:
    with answering(name):
        proxy = connection.object_store
        if not (account := proxy.get_endpoint()):
            raise PreflightFailed(
                f"The work with {name}", ["its catalog has no object-store service"]
            )
    return Objects(name, partial(login.ask, proxy), gate, account)


def _api(site: str, service: str, login: Login, proxy: Any) -> Api:
    data = proxy.get_endpoint_data()
    if data is None:
        raise PreflightFailed(f"The work with {site}", [f"its catalog has no {service} service"])
    newest: Version | None = data.max_microversion
    return Api(site, service, Wire(site, partial(login.ask, proxy)), newest)

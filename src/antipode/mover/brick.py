# SPDX-License-Identifier: Apache-2.0
"""Attaches volumes to this host by Cinder's attachments and os-brick, whatever the storage.

os-brick brings eventlet along. Imported in a thread it hangs the process at its end, so the process
of the mover imports this module first, in its main thread, and no other process imports it.
"""

from __future__ import annotations

import logging
import platform
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from os_brick.initiator.connector import InitiatorConnector, get_connector_properties

from antipode.cloud.api import ApiError
from antipode.errors import ResourceFailed
from antipode.mover.device import opened
from antipode.mover.target import Target

if TYPE_CHECKING:
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
RAW = frozenset({"rbd", "iscsi", "fibre_channel", "nvmeof", "local"})
"""Kinds of connections whose bytes are those of the volume. Of a file system it may be a qcow2."""


class CinderAttached:
    """`Attached` by os-brick."""

    def __init__(
        self, site: Site, root_helper: str, *, asks_host: bool, keyring: Path | None = None
    ) -> None:
        """
        Args:
            root_helper: what os-brick runs commands with that need root, as `sudo`.
            asks_host: whether os-brick is asked what the host is to the storage (initiator names,
                ports), which needs root; RBD needs none of it.
            keyring: of the user of Ceph that connections name; None: that in /etc/ceph.

        Raises:
            ResourceFailed: the keyring cannot be read, or os-brick does not know this host.
        """
        self._site, self._root_helper = site, root_helper
        self._credentials = {} if keyring is None else {"keyring": _read(keyring)}
        self._connector: dict[str, Any] = {
            "host": socket.gethostname(),
            "ip": "127.0.0.1",
            "platform": platform.machine(),
            "os_type": "linux",
            "multipath": False,
            "do_local_attach": False,
        }
        if asks_host:
            ip = socket.gethostbyname(socket.gethostname())
            with _brick_errors("what this host is to the storage is not known"):
                self._connector = get_connector_properties(
                    root_helper, ip, multipath=False, enforce_multipath=False
                )

    @contextmanager
    def __call__(self, volume: str) -> Iterator[Target]:
        """A volume, attached to this host while the block runs.

        Raises:
            ResourceFailed: it is not available, or this host cannot connect to it.
        """
        try:
            attachment = self._site.attachments.create(volume, self._connector)
        except ApiError as error:
            raise ResourceFailed(f"volume {volume} cannot be attached: {error.reason}") from error
        try:
            with self._connected(volume, attachment.connection) as path, opened(path) as target:
                self._site.attachments.complete(attachment.id)
                yield target
        finally:
            self._site.attachments.delete(attachment.id)

    @contextmanager
    def _connected(self, volume: str, connection: Mapping[str, Any]) -> Iterator[object]:
        kind = str(connection.get("driver_volume_type") or "")
        if connection.get("encrypted") or kind not in RAW:
            what = "it is encrypted" if connection.get("encrypted") else f"it is one of {kind}"
            raise ResourceFailed(f"volume {volume} cannot be written by the mover: {what}")
        connection = {**connection, **self._credentials}
        with _brick_errors(f"volume {volume}: this host cannot connect to its storage"):
            # the name of a protocol is looked up in capitals
            connector = InitiatorConnector.factory(
                kind.upper(), self._root_helper, do_local_attach=False
            )
            found = connector.connect_volume(dict(connection))
        try:
            yield found["path"]
        finally:
            with _brick_errors(f"volume {volume}: this host cannot disconnect from its storage"):
                connector.disconnect_volume(dict(connection), found)


def _read(keyring: Path) -> str:
    try:
        return keyring.read_text()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ResourceFailed(f"the keyring {keyring} of the mover cannot be read: {why}") from error


@contextmanager
def _brick_errors(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of os-brick, of what it runs, or of a library of the storage
        # the message of an error may repeat the connection, with its secrets
        LOG.debug("%s: %s", what, type(error).__name__)
        raise ResourceFailed(f"{what} ({type(error).__name__})") from None

# SPDX-License-Identifier: Apache-2.0
"""Events as notifications of oslo.messaging, as OpenStack's own services send them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from antipode import libraries
from antipode.config import OsloMessaging
from antipode.errors import InvalidInput
from antipode.model.event import Event
from antipode.service.receiver import NotDelivered, Receiver

FORMAT = 2.0
"""With an envelope, as the driver `messagingv2` sends them."""


class NotificationReceiver(Receiver):
    """A message bus.

    Its transport is used and not its `Notifier`, which logs that a message could not be sent and
    keeps it from us: the event would be lost.
    """

    def __init__(self, settings: OsloMessaging, source: str) -> None:
        """
        Raises:
            InvalidInput: oslo.messaging is not installed, or the transport's URL is wrong or cannot
                be read.
            AntipodeError: it is of a release that does not fit.
        """
        libraries.need("oslo_messaging", "oslo-messaging", "a receiver of oslo.messaging")
        libraries.check(libraries.OSLO_MESSAGING, libraries.NOTIFICATIONS)
        import oslo_messaging
        from oslo_config import cfg

        self._topic = settings.topic
        self._source = source
        self._target = oslo_messaging.Target
        self._transport: Any
        try:
            conf = cfg.ConfigOpts()
            conf([], project="antipode", default_config_files=[], default_config_dirs=[])
            url = _first_line(settings.transport_url_file)
            self._transport = oslo_messaging.get_notification_transport(conf, url=url)
        except (
            oslo_messaging.InvalidTransportURL,
            oslo_messaging.DriverLoadFailure,
            ValueError,
        ) as error:
            # a URL has a password, and the words of the error may have the URL
            raise InvalidInput(
                f"the first line of {settings.transport_url_file} is not the URL of a transport of"
                f" oslo.messaging ({type(error).__name__})",
                resource=f"file {settings.transport_url_file}",
            ) from None

    def give(self, event: Event, at: float) -> None:
        priority = "error" if event.type.endswith(".error") else "info"
        message = {
            "message_id": event.id,
            "publisher_id": self._source,
            "event_type": event.type,
            "priority": priority.upper(),
            "payload": event.document(self._source),
            "timestamp": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
        }
        target = self._target(topic=f"{self._topic}.{priority}")
        try:
            self._transport._send_notification(target, {}, message, version=FORMAT, retry=0)
        except Exception as error:  # each driver has its own
            raise NotDelivered(
                f"the message bus does not take it ({type(error).__name__})"
            ) from error


def _first_line(path: Path) -> str:
    try:
        line = (path.read_text().splitlines() or [""])[0].strip()
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"the URL of a transport cannot be read from {path} ({type(error).__name__})",
            resource=f"file {path}",
        ) from None
    if not line:
        raise InvalidInput(f"{path} has no URL in its first line", resource=f"file {path}")
    return line

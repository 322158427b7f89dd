# SPDX-License-Identifier: Apache-2.0
"""Delivers events to one receiver, each at least once: a webhook, a log file, or one of those that
have a module of their own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests

from antipode import __version__, private
from antipode.config import EventsConfig, Webhook
from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput
from antipode.model.event import Event
from antipode.service.events import LOG_RECEIVER
from antipode.service.mail import MailReceiver
from antipode.service.receiver import ANSWERS_WITHIN_S, NotDelivered, Receiver, Refused
from antipode.store import database

LOG = logging.getLogger(__name__)
LOOK_S = 1.0
TAKEN_S = 60.0
"""How long no other host takes an event that this one is delivering."""
PAUSES_S = (5.0, 600.0)
"""After the first attempt that failed, and at most; each pause is twice as long as the one before.
"""
LEAST_SECRET = 24
ABOUT_THE_EVENT = (413, 422)
"""The answers by which a webhook refuses one event and may take others."""


class LogFile(Receiver):
    """A file with an event per line."""

    def __init__(self, path: Path, source: str) -> None:
        self._path = path
        self._source = source

    def give(self, event: Event, at: float) -> None:
        line = json.dumps(event.document(self._source), ensure_ascii=True)
        try:
            private.touch(self._path)
            with self._path.open("ab+") as log:
                log.write(f"{_end_of_half_a_line(log)}{line}\n".encode())
        except OSError as error:
            raise NotDelivered(f"{self._path}: {error.strerror}") from error


def _end_of_half_a_line(log: BinaryIO) -> str:
    """What ends a line that a full disk, or a process that died, has left incomplete."""
    if not log.seek(0, os.SEEK_END):
        return ""
    log.seek(-1, os.SEEK_END)
    return "" if log.read(1) == b"\n" else "\n"


class WebhookReceiver(Receiver):
    """An HTTP server that is sent CloudEvents in structured mode, signed as Standard Webhooks says.

    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """

    def __init__(self, settings: Webhook, source: str) -> None:
        """
        Raises:
            InvalidInput: the secret cannot be read, or is too short.
        """
        self._url = settings.url
        self._source = source
        self._secret = read_secret(settings.secret_file)

    def give(self, event: Event, at: float) -> None:
        body = json.dumps(event.document(self._source), ensure_ascii=True).encode()
        headers = {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "User-Agent": f"antipode/{__version__}",
            **signature(self._secret, event.id, int(at), body),
        }
        try:
            # a redirect could lead to a place without encryption
            answer = requests.post(
                self._url,
                data=body,
                headers=headers,
                timeout=ANSWERS_WITHIN_S,
                allow_redirects=False,
                stream=True,
            )
            answer.close()
        except requests.RequestException as error:
            # a URL may have a secret in its path, and its words are in those of the error
            host = urlsplit(self._url).netloc
            raise NotDelivered(f"{host} does not answer ({type(error).__name__})") from error
        if not 200 <= answer.status_code < 300:
            of_this = answer.status_code in ABOUT_THE_EVENT
            raise (Refused if of_this else NotDelivered)(f"it answered {answer.status_code}")


def read_secret(path: Path) -> bytes:
    """The secret in a file: its first line, or what that says in base64 after `whsec_`.

    Raises:
        InvalidInput: it cannot be read, or is too short.
    """
    try:
        line = (path.read_text().splitlines() or [""])[0].strip()
        encoded = line.removeprefix("whsec_")
        secret = line.encode() if encoded == line else base64.b64decode(encoded, validate=True)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"the secret of a webhook cannot be read from {path}: {error}", resource=f"file {path}"
        ) from error
    if len(secret) < LEAST_SECRET:
        raise InvalidInput(
            f"the secret of a webhook in {path} is shorter than {LEAST_SECRET} characters",
            resource=f"file {path}",
        )
    return secret


def signature(secret: bytes, event: str, at: int, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows the sender and the time of an event."""
    signed = f"{event}.{at}.".encode() + body
    digest = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": event,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{digest}",
    }


class Courier:
    """Takes the events of one receiver from the database, the oldest first, and delivers them."""

    def __init__(
        self,
        deployment: Deployment,
        name: str,
        receiver: Receiver,
        now: Callable[[], float] | None = None,
    ) -> None:
        """
        Args:
            name: of the receiver.
            now: seconds since the epoch; the database's clock by default.
        """
        self.name = name
        self._deployment = deployment
        self._receiver = receiver
        self._now = now or partial(database.now, deployment.database)
        self._failures = 0
        self.trouble: str | None = None
        """why the last attempt failed"""

    def follow(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set."""
        pause_s = 0.0
        while not stop.wait(pause_s):
            try:
                pause_s = self.deliver()
            except Exception as error:
                # a database that is away or a bug: the event stays where it is
                if self.trouble is None:
                    LOG.exception("events for %s cannot be delivered now", self.name)
                self.trouble, pause_s = f"{type(error).__name__}: {error}", PAUSES_S[0]

    def deliver(self) -> float:
        """Deliver one event, if there is one; the seconds until the next should be tried.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        events, now = self._deployment.events, self._now()
        if (taken := events.take(self.name, now, TAKEN_S)) is None:
            return LOOK_S
        event = taken.event
        try:
            self._receiver.give(event, now)
        except Refused as error:
            # the others do not wait for it
            events.failed(self.name, event.id, now + _pause_s(taken.attempts))
            if self.trouble is None:
                LOG.warning("%s refuses event %s; trying again: %s", self.name, event.id, error)
            self.trouble = str(error)
            return LOOK_S
        except NotDelivered as error:
            pause_s = _pause_s(self._failures)
            self._failures += 1
            events.failed(self.name, event.id, now + pause_s)
            if self.trouble is None:
                LOG.warning("%s does not take events; trying again: %s", self.name, error)
            self.trouble = str(error)
            return pause_s
        events.delivered(self.name, event.id)
        if self.trouble is not None:
            LOG.info("%s takes events again", self.name)
        self._failures, self.trouble = 0, None
        return 0.0


def _pause_s(failures: int) -> float:
    """How long to wait after one more failure than these."""
    return min(PAUSES_S[0] * 2.0 ** min(failures, 20), PAUSES_S[1])


def couriers(deployment: Deployment, settings: EventsConfig) -> list[Courier]:
    """A courier for each receiver of the configuration.

    Raises:
        InvalidInput: a secret cannot be read, or a package is missing.
        AntipodeError: a package does not fit.
    """
    receivers: dict[str, Receiver] = {
        name: WebhookReceiver(hook, settings.source) for name, hook in settings.webhooks.items()
    }
    receivers |= {name: MailReceiver(mail, settings.source) for name, mail in settings.mail.items()}
    if settings.oslo_messaging:
        from antipode.service.notifications import NotificationReceiver

        receivers |= {
            name: NotificationReceiver(bus, settings.source)
            for name, bus in settings.oslo_messaging.items()
        }
    if settings.log is not None:
        receivers[LOG_RECEIVER] = LogFile(settings.log, settings.source)
    return [Courier(deployment, name, receiver) for name, receiver in receivers.items()]

# SPDX-License-Identifier: Apache-2.0
"""Events as mails, each by SMTP to a server that sends them on."""

from __future__ import annotations

import hashlib
import json
import logging
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

from antipode.config import Mail
from antipode.errors import InvalidInput
from antipode.model.event import Event
from antipode.screen import visible
from antipode.service.receiver import ANSWERS_WITHIN_S, NotDelivered, Receiver, Refused

LOG = logging.getLogger(__name__)
LONGEST_SUBJECT = 150


class MailReceiver(Receiver):
    """A mail server. An event that it has taken for one of the recipients is not sent again."""

    def __init__(self, settings: Mail, source: str) -> None:
        """
        Raises:
            InvalidInput: the password or the certificates cannot be read.
        """
        self._settings = settings
        self._source = source
        self._password = _password(settings.password_file)
        self._tls = None if settings.security == "none" else _tls(settings.ca)

    def give(self, event: Event, at: float) -> None:
        mail = message(event, self._source, self._settings)
        refused: dict[str, tuple[int, bytes]] | None = None
        try:
            with self._connected() as server:
                if self._settings.user is not None:
                    server.login(self._settings.user, self._password)
                refused = server.send_message(mail)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            if refused is None:
                # the words of a server may have the recipients, and no password
                reason = f"{self._settings.host}: {_reason(error)}"
                raise (Refused if _is_about_the_mail(error) else NotDelivered)(reason) from error
            # it has the mail; how it takes leave does not matter
            LOG.info("%s: %s, after event %s was taken", *self._said(error), event.id)
        if refused:
            LOG.error(
                "%s refuses %s as recipients of event %s",
                *(self._settings.host, visible(", ".join(refused)), event.id),
            )

    def _said(self, error: Exception) -> tuple[str, str]:
        return self._settings.host, _reason(error)

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        settings = self._settings
        if settings.security == "tls":
            with smtplib.SMTP_SSL(
                settings.host, settings.port_used, timeout=ANSWERS_WITHIN_S, context=self._tls
            ) as server:
                yield server
            return
        with smtplib.SMTP(settings.host, settings.port_used, timeout=ANSWERS_WITHIN_S) as server:
            if self._tls is not None:
                server.starttls(context=self._tls)
            yield server


def message(event: Event, source: str, settings: Mail) -> EmailMessage:
    """An event as a mail. Text from clouds is made harmless, and no header can be added by it."""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = settings.sender
    mail["To"] = ", ".join(settings.to)
    subject = visible(f"antipode {event.type}: {event.subject}")[:LONGEST_SUBJECT]
    # an encoded word would be decoded, and written as what it means: line ends, too
    mail["Subject"] = subject.replace("=?", "= ?")
    mail["Date"] = format_datetime(datetime.fromtimestamp(event.at, UTC))
    # the same for every attempt, so that a mail that came twice is known
    digest = hashlib.sha256(f"{source}\n{event.id}".encode()).hexdigest()[:32]
    mail["Message-ID"] = f"<{digest}@antipode.invalid>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [visible(f"{name}: {value}") for name, value in event.data.items()]
    document = json.dumps(event.document(source), ensure_ascii=True, indent=1)
    mail.set_content("\n".join([*lines, "", document, ""]))
    return mail


def _password(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        line = (path.read_text().splitlines() or [""])[0].strip()
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"the password of a mail server cannot be read from {path} ({type(error).__name__})",
            resource=f"file {path}",
        ) from None
    if not line or not line.isascii():
        raise InvalidInput(
            f"the first line of {path} is to be the password of a mail server, in ASCII",
            resource=f"file {path}",
        )
    return line


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"the certificates for a mail server cannot be read from {ca}: {error}",
            resource=f"file {ca}",
        ) from error


def _is_about_the_mail(error: Exception) -> bool:
    """Whether a server has refused this mail for good, and may take others."""
    is_too_long = isinstance(error, smtplib.SMTPSenderRefused) and error.smtp_code == 552
    return is_too_long or (isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 500)


def _reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"it does not let us in ({error.smtp_code})"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"it refuses all recipients ({', '.join(sorted(error.recipients))})"
    if isinstance(error, smtplib.SMTPResponseException):
        words = (
            error.smtp_error.decode(errors="replace")
            if isinstance(error.smtp_error, bytes)
            else str(error.smtp_error)
        )
        return visible(f"it answered {error.smtp_code} {words}")
    return visible(f"{type(error).__name__}: {error}")

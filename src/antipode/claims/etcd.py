# SPDX-License-Identifier: Apache-2.0
"""A client for etcd that tries another endpoint when one does not answer, and logs in if a user is
configured.
"""

from __future__ import annotations

from typing import Any

import requests
from etcd3gw import Etcd3Client

from antipode.config import Etcd
from antipode.errors import InvalidInput


def client(settings: Etcd, timeout_s: float) -> Etcd3Client:
    """A client for a cluster; nothing is connected yet. `timeout_s` is how long one endpoint may
    take to answer.

    Raises:
        InvalidInput: the password cannot be read.
    """
    session = _Session(settings, timeout_s)
    # The session decides where each call goes; the path is that of etcd 3.4 and later.
    return Etcd3Client(host="etcd", port=0, timeout=timeout_s, api_path="/v3/", session=session)


class _Session(requests.Session):
    def __init__(self, settings: Etcd, timeout_s: float) -> None:
        super().__init__()
        self.trust_env = False  # a proxy for the web is none for etcd
        self._endpoints = list(settings.endpoints)
        self._user = settings.user
        self._password = _first_line(settings) if settings.password_file else None
        self._timeout_s = timeout_s
        if settings.ca is not None:
            self.verify = str(settings.ca)
        if settings.certificate is not None:
            self.cert = (str(settings.certificate), str(settings.key))

    def post(
        self, url: str | bytes, data: Any = None, json: Any = None, **how: Any
    ) -> requests.Response:
        """Send to the endpoint that answered last, then to the others.

        A call whose answer was lost may be sent twice: those of the board are made so that this
        does no harm (created only if absent, replaced only if unchanged).
        """
        path = "/v3/" + str(url).partition("/v3/")[2]
        response = self._send(path, data=data, json=json, **how)
        if self._user is not None and _needs_login(response):
            answer = self._send(
                "/v3/auth/authenticate",
                json={"name": self._user, "password": self._password},
                timeout=self._timeout_s,
            )
            if answer.status_code == requests.codes.ok:
                self.headers["Authorization"] = answer.json()["token"]
                response = self._send(path, data=data, json=json, **how)
        return response

    def _send(self, path: str, **how: Any) -> requests.Response:
        for endpoint in list(self._endpoints):
            try:
                response = super().post(endpoint + path, **how)
                if response.status_code != requests.codes.service_unavailable:
                    return response
                failure: Exception = requests.ConnectionError(f"{endpoint}: {response.text[:200]}")
            except (requests.ConnectionError, requests.Timeout) as error:
                failure = error
            self._endpoints = [e for e in self._endpoints if e != endpoint] + [endpoint]
        raise failure


def _needs_login(response: requests.Response) -> bool:
    """Whether the token is missing or no longer known: etcd drops it after some minutes and when it
    is restarted.
    """
    return response.status_code == requests.codes.unauthorized or (
        response.status_code == requests.codes.bad_request and "user name is empty" in response.text
    )


def _first_line(settings: Etcd) -> str:
    assert settings.password_file is not None
    try:
        return settings.password_file.read_text().partition("\n")[0]
    except OSError as error:
        raise InvalidInput(
            f"jobboard.etcd.password_file {settings.password_file}: {error.strerror}"
        ) from error

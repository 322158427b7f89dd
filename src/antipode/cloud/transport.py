# SPDX-License-Identifier: Apache-2.0
"""How a request goes to a site through openstacksdk's session: with whose token, and what becomes
of it when no answer comes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from antipode.cloud.api import Json, Params, Reply
from antipode.errors import InvalidInput, PreflightFailed, SiteUnreachable

LOG = logging.getLogger(__name__)


class Login:
    """The token that all threads of one connection share, renewed by one of them while the others
    go on or wait.

    keystoneauth throws a refused token away before it gets a new one: of several threads that are
    refused at the same moment only the first asks again, the others fail with 401
    (`BaseIdentityPlugin.invalidate` tells them that there is nothing to renew).
    """

    def __init__(self, session: Any) -> None:
        """`session` is keystoneauth's, logged in."""
        self._session = session
        self._renewing = threading.Lock()

    def ask(self, proxy: Any, path: str, method: str, **options: Any) -> Any:
        """Send a request through `proxy`, an openstacksdk service proxy; once more if its token was
        refused, as then nothing was done.
        """
        token = self._session.get_token()
        response = self._request(proxy, path, method, options)
        if response.status_code == 401:
            with self._renewing:
                if self._session.get_token() == token:
                    self._renew()
            response = self._request(proxy, path, method, options)
        return response

    def _request(self, proxy: Any, path: str, method: str, options: dict[str, Any]) -> Any:
        """Logged by ourselves: keystoneauth would log bodies, in which there are user data, keys
        and backup records.
        """
        began = time.monotonic()
        response = proxy.request(
            path,
            method,
            raise_exc=False,
            skip_cache=True,
            allow_reauth=False,
            log=False,
            **options,
        )
        seconds = time.monotonic() - began
        LOG.debug("%s %s: %s in %.3f s", method, path, response.status_code, seconds)
        return response

    def stay(self, seconds: float) -> None:
        """Get a new token now unless the present one lasts for that long."""
        with self._renewing:
            if self._session.auth.get_access(self._session).will_expire_soon(int(seconds)):
                self._renew()

    def _renew(self) -> None:
        # Put in the old one's place and not after it: others take it meanwhile.
        self._session.auth.auth_ref = self._session.auth.get_auth_ref(self._session)


class Wire:
    """Sends requests to one service of a site; an `api.Transport`."""

    def __init__(self, site: str, ask: Callable[..., Any]) -> None:
        """`ask` is a login's for the service."""
        self._site = site
        self._ask = ask

    def __call__(
        self,
        method: str,
        path: str,
        *,
        json: Json | None,
        params: Params | None,
        microversion: str | None,
        timeout: float | None,
    ) -> Reply:
        """Send one request; `timeout` in seconds, None: that of the connection."""
        options: dict[str, Any] = {} if timeout is None else {"timeout": max(timeout, 0.1)}
        # A call that changes something is never sent twice.
        options["connect_retries"] = 2 if method == "GET" and timeout is None else 0
        with answering(self._site):
            response = self._ask(
                path, method, json=json, params=params, microversion=microversion, **options
            )
        try:
            body = response.json() if response.content else None
        except (ValueError, RecursionError):
            body = response.text[:300]
        return Reply(response.status_code, body)


@contextmanager
def answering(site: str) -> Iterator[None]:
    """Turn what keystoneauth and openstacksdk raise when a site gives no answer, no token, or has
    no such service into our errors.
    """
    from keystoneauth1 import exceptions
    from openstack.exceptions import ServiceDisabledException

    began = time.monotonic()
    try:
        yield
    except (exceptions.ConnectionError, exceptions.DiscoveryFailure) as error:
        raise SiteUnreachable(
            f"Site {site} does not answer ({time.monotonic() - began:.1f} s waited): {error}"
        ) from error
    except (
        exceptions.Unauthorized,
        exceptions.MissingRequiredOptions,
        exceptions.AuthorizationFailure,
    ) as error:
        raise InvalidInput(
            f"Site {site} refuses the credentials of its clouds.yaml entry: {error}"
        ) from error
    except (exceptions.EndpointNotFound, ServiceDisabledException) as error:
        raise PreflightFailed(
            f"The work with {site}", [f"a service is missing in its catalog: {error}"]
        ) from error
    except exceptions.HttpError as error:
        raise SiteUnreachable(
            f"Site {site} cannot be used, its identity service says: {error}"
        ) from error

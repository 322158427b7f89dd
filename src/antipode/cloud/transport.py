"""How a request goes to a site through openstacksdk's session, and what becomes of it when no answer comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from antipode.cloud.api import Json, Params, Reply
from antipode.errors import InvalidInput, PreflightFailed, SiteUnreachable


def send(
    site: str,
    proxy: Any,
    method: str,
    path: str,
    *,
    json: Json | None,
    params: Params | None,
    microversion: str | None,
    timeout: float | None,
) -> Reply:
    """Send one request through `proxy`, an openstacksdk service proxy. `timeout` in seconds; None: that of the connection."""
    options: dict[str, Any] = {} if timeout is None else {"timeout": max(timeout, 0.1)}
    with answering(site):
        response = proxy.request(
            path,
            method,
            raise_exc=False,
            skip_cache=True,
            connect_retries=2 if method == "GET" and timeout is None else 0,  # what changes something is never sent twice
            json=json,
            params=params,
            microversion=microversion,
            **options,
        )
    try:
        body = response.json() if response.content else None
    except ValueError:
        body = response.text[:300]
    return Reply(response.status_code, body)


@contextmanager
def answering(site: str) -> Iterator[None]:
    """Turn what keystoneauth raises when a site gives no answer, or no token, into our errors."""
    from keystoneauth1 import exceptions

    began = time.monotonic()
    try:
        yield
    except (exceptions.ConnectionError, exceptions.DiscoveryFailure) as error:
        raise SiteUnreachable(f"Site {site} does not answer ({time.monotonic() - began:.1f} s waited): {error}") from error
    except (exceptions.Unauthorized, exceptions.MissingRequiredOptions, exceptions.AuthorizationFailure) as error:
        raise InvalidInput(f"Site {site} refuses the credentials of its clouds.yaml entry: {error}") from error
    except exceptions.EndpointNotFound as error:
        raise PreflightFailed(f"The work with {site}", [f"a service is missing in its catalog: {error}"]) from error
    except exceptions.HttpError as error:
        raise SiteUnreachable(f"Site {site} cannot be used, its identity service says: {error}") from error

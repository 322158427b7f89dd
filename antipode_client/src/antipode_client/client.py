# SPDX-License-Identifier: Apache-2.0
"""The REST API of antipode, as Python calls."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from keystoneauth1 import adapter
from keystoneauth1.exceptions import http as ksa_errors
from keystoneauth1.session import Session

from antipode_client import __version__
from antipode_client.errors import Fault

SERVICE_TYPE = "disaster-recovery"
MICROVERSION = "1.2"
"""That this client has been written for."""
PAGE = 200
"""Items of a list that are asked for at once."""

Json = dict[str, Any]


class Client:
    """One API, with the token of a keystoneauth session."""

    def __init__(
        self,
        session: Session,
        *,
        region_name: str | None = None,
        interface: str | None = "public",
        endpoint_override: str | None = None,
    ) -> None:
        """
        Args:
            session: an authenticated session of keystoneauth.
            region_name: of the endpoint in the catalog.
            interface: of the endpoint: public, internal or admin.
            endpoint_override: the URL of the API, without a version. The catalog is not asked.
        """
        self._http = adapter.Adapter(
            session,
            service_type=SERVICE_TYPE,
            region_name=region_name,
            interface=interface,
            endpoint_override=None if endpoint_override is None else endpoint_override.rstrip("/"),
            client_name="antipode-client",
            client_version=__version__,
            default_microversion=MICROVERSION,
            raise_exc=True,
            # the request was not looked at
            retriable_status_codes=[429],
            status_code_retries=3,
        )

    def get(self, *path: str, **query: Any) -> Json:
        """One resource, or the first page of a list.

        Args:
            path: parts of the path after the version, such as `"vnfs", "hlr"`.
            query: parameters; those that are None are left out.

        Raises:
            Fault: the API refuses.
        """
        return self._call("GET", path, params=_given(query))

    def pages(self, *path: str, limit: int | None = None, **query: Any) -> Iterator[Json]:
        """The items of a list that has pages. The last part of the path names the list.

        Args:
            path, query: as for `get`.
            limit: how many items at most; all by default.

        Raises:
            Fault: the API refuses.
        """
        left = limit
        while left is None or left > 0:
            page = self.get(*path, **query, limit=PAGE if left is None else min(left, PAGE))
            items = page[path[-1]]
            yield from items
            left = None if left is None else left - len(items)
            following = _next(page.get(f"{path[-1]}_links", []))
            if following is None or not items:
                return
            query["marker"] = following

    def post(self, *path: str, body: Json, key: str | None = None, **query: Any) -> Json:
        """Create a resource.

        Args:
            key: of the request; the API answers two requests of one key with one resource. A new
                one by default, so that a request that is repeated after a broken connection
                begins nothing twice.

        Raises:
            Fault: the API refuses.
        """
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        given = {"json": body, "params": _given(query), "headers": headers}
        return self._call("POST", path, **given, connect_retries=2)

    def text(self, *path: str, **query: Any) -> str:
        """A resource that is not JSON, such as a report as HTML; arguments as for `get`.

        Raises:
            Fault: the API refuses.
        """
        try:
            answer = self._http.get(_url(path), params=_given(query), headers={"Accept": "*/*"})
        except ksa_errors.HttpError as error:
            raise Fault.of(error) from error
        return str(answer.text)

    def put(self, *path: str, body: Json) -> Json:
        """Make a resource as the body has it.

        Raises:
            Fault: the API refuses.
        """
        return self._call("PUT", path, json=body)

    def delete(self, *path: str, **query: Any) -> Json:
        """Remove a resource; what the API says of it, empty where it says nothing.

        Raises:
            Fault: the API refuses.
        """
        return self._call("DELETE", path, params=_given(query))

    def _call(self, method: str, path: tuple[str, ...], **options: Any) -> Json:
        try:
            answer = self._http.request(_url(path), method, **options)
        except ksa_errors.HttpError as error:
            raise Fault.of(error) from error
        return answer.json() if answer.content else {}


def _url(path: Sequence[str]) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in path)


def _next(links: Sequence[Mapping[str, str]]) -> str | None:
    """The marker of the following page, by the links of this one."""
    for link in links:
        if link["rel"] == "next":
            return parse_qs(urlsplit(link["href"]).query)["marker"][0]
    return None


def _given(query: Mapping[str, Any]) -> Json:
    return {name: value for name, value in query.items() if value is not None}

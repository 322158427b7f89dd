# SPDX-License-Identifier: Apache-2.0
"""Swift of one site, as far as a vault and its verification need it."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from antipode.cloud import answers
from antipode.cloud.api import Gate, Rate, Unlimited, Urgency
from antipode.cloud.transport import answering
from antipode.errors import AntipodeError, NotFound, SiteUnreachable, UnexpectedAnswer

LOG = logging.getLogger(__name__)
_PRECONDITION_FAILED = 412
_PASSES = (429, 498, 500, 502, 503, 504)
"""What Swift answers when it is overloaded, or one of its servers fails: each request to it may be
sent again. 498 is its rate limit."""
PAUSES_S = (0.5, 2.0)
"""Before the second attempt, and before the last one."""
_PIECE = 1 << 18
"""Bytes of an object that are read at once, where not all of it may be read."""


class Refused(AntipodeError):
    """The object storage answered a request with an error; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class StoredObject(NamedTuple):
    """An object as a container's listing tells of it; `etag` is the MD5 of its bytes."""

    name: str
    bytes: int
    etag: str
    last_modified: str = ""
    """as Swift writes it, UTC, to the microsecond"""


class Cluster(NamedTuple):
    """A Swift as the realms of container sync name it."""

    realm: str
    name: str


class ContainerFacts(NamedTuple):
    """What `HEAD` of a container says of it to its owner."""

    readers: str
    """others that may read it, as Swift's ACL has it; empty: none"""
    writers: str
    date: str
    """what the time is there, as HTTP writes it; empty where it does not say so"""


class Objects:
    def __init__(
        self, site: str, ask: Callable[..., Any], gate: Gate | None = None, account: str = ""
    ) -> None:
        """
        Args:
            ask: a login's for openstacksdk's object_store: it sends bytes and returns responses.
            account: the URL of the account that the login's project has; names the project.
        """
        self.account = account
        self._site = site
        self._ask = ask
        self._gate = gate or Gate()

    def under(self, go_on: Callable[[], None], rate: Rate | None = None) -> Self:
        """This object storage as one run uses it; arguments as for `Site.under`."""
        view = copy.copy(self)
        view._gate = Gate(go_on, rate or Unlimited())
        return view

    def ensure_container(self, container: str) -> None:
        self._send("PUT", container)

    def about(self, container: str) -> ContainerFacts:
        """Who else may use a container, and what time it is there.

        Raises:
            NotFound: there is no such container.
        """
        headers = self._send("HEAD", container).headers
        names = ("X-Container-Read", "X-Container-Write", "Date")
        return ContainerFacts(*(answers.printable(headers.get(name) or "") for name in names))

    def properties(self, container: str) -> dict[str, str]:
        """The headers of a container, names in small letters.

        Raises:
            NotFound: there is no such container.
        """
        return _headers(self._send("HEAD", container))

    def describe(self, container: str, headers: Mapping[str, str]) -> None:
        """Change these headers of a container (`POST`).

        Raises:
            NotFound: there is no such container.
            Refused: one cannot have this value, as a cluster that this one does not know.
        """
        self._send("POST", container, headers=dict(headers))

    def changed_at(self, container: str, name: str) -> str:
        """The time at which an object was written, as Swift orders its versions by it: seconds
        since the epoch. Container sync carries it to the other site.

        Raises:
            NotFound: there is no such object.
            UnexpectedAnswer: Swift does not say it.
        """
        found = _headers(self._send("HEAD", container, name)).get("x-timestamp", "")
        try:
            float(found)
        except ValueError as error:
            what = f"HEAD {container}/{name}"
            raise UnexpectedAnswer(self._site, what, "it has no X-Timestamp") from error
        return found

    def clusters(self) -> dict[Cluster, bool]:
        """The clusters of the realms that container sync knows here (`GET /info`) -> whether it is
        this one. None where Swift has no container sync.
        """
        url = self.account.partition("/v1/")[0] + "/info"
        response = self._accepted(self._attempts(url, "GET")[-1], "GET", "info", None)
        try:
            content = response.json()
        except (ValueError, RecursionError) as error:
            raise UnexpectedAnswer(self._site, "GET /info", "it is no JSON") from error
        info = answers.OBJECT_STORE_INFO.check(content, self._site, "GET /info")
        return {
            Cluster(realm, name): bool(about.get("current"))
            for realm, found in info.get("container_sync", {}).get("realms", {}).items()
            for name, about in found["clusters"].items()
        }

    def put(self, container: str, name: str, data: bytes) -> None:
        """Write an object, over one of that name."""
        self._send("PUT", container, name, data=data)

    def create(self, container: str, name: str, data: bytes) -> bool:
        """Write an object unless there is one of that name (`PUT` with `If-None-Match: *`).

        Returns:
            whether the object was written; False when one was there before.

        Raises:
            NotFound: there is no such container.
            SiteUnreachable: no answer came; the object may have been written.
        """
        refused = _PRECONDITION_FAILED
        headers = {"If-None-Match": "*"}
        answers = self._attempts(_path(container, name), "PUT", data=data, headers=headers)
        response = self._accepted(answers[-1], "PUT", container, name, allowed=refused)
        if response.status_code != refused:
            return True
        # an attempt that was answered with an error may have written it
        return len(answers) > 1 and self.get(container, name, len(data) + 1) == data

    def get(self, container: str, name: str, at_most: int | None = None) -> bytes:
        """The bytes of an object.

        Args:
            at_most: bytes; of a larger object only so many are read, from its beginning.

        Raises:
            NotFound: there is no such object.
            SiteUnreachable: the bytes broke off.
        """
        response = self._send("GET", container, name, stream=at_most is not None)
        if at_most is None:
            content: bytes = response.content
            return content
        return self._beginning(response, at_most)

    def pieces(self, container: str, name: str) -> Iterator[bytes]:
        """The bytes of an object, of which no more than a piece is held.

        Raises:
            NotFound: there is no such object.
            SiteUnreachable: the bytes broke off.
        """
        yield from self._pieces(self._send("GET", container, name, stream=True))

    def _beginning(self, response: Any, at_most: int) -> bytes:
        found = bytearray()
        with closing(self._pieces(response)) as pieces:
            for piece in pieces:
                found += piece
                if len(found) >= at_most:
                    break
        return bytes(found[:at_most])

    def _pieces(self, response: Any) -> Generator[bytes, None, None]:
        from requests import RequestException

        got = 0
        try:
            for piece in response.iter_content(_PIECE):
                got += len(piece)
                yield piece
        except RequestException as error:
            raise SiteUnreachable(
                f"Site {self._site}: the bytes of an object broke off after {got}: {error}"
            ) from error
        finally:
            response.close()

    def delete(self, container: str, name: str) -> None:
        try:
            self._send("DELETE", container, name)
        except NotFound:
            return  # it was to be gone and it is

    def listing(self, container: str, prefix: str = "") -> list[StoredObject]:
        """All objects whose names begin with `prefix`, ordered by name.

        Raises:
            NotFound: there is no such container.
            UnexpectedAnswer: the answer is no listing, or has no end.
        """
        found: list[StoredObject] = []
        marker = ""
        while page := self._page(container, {"prefix": prefix, "marker": marker}):
            found += page
            if (last := page[-1].name.encode()) <= marker.encode():
                problem = f"it continues after {marker!r} with {last.decode()!r}"
                raise UnexpectedAnswer(self._site, f"GET {container}", problem)
            marker = page[-1].name
        return found

    def _page(self, container: str, params: dict[str, str]) -> list[StoredObject]:
        response = self._send("GET", container, params={"format": "json", **params})
        try:
            content = response.json()
        except (ValueError, RecursionError) as error:
            problem = f"it is no JSON: {type(error).__name__}"
            raise UnexpectedAnswer(self._site, f"GET {container}", problem) from error
        objects = answers.OBJECTS.check(content, self._site, f"GET {container}")
        return [
            StoredObject(o["name"], o["bytes"], o["hash"], o.get("last_modified", ""))
            for o in objects
        ]

    def _send(
        self,
        method: str,
        container: str,
        name: str | None = None,
        **arguments: Any,
    ) -> Any:
        answers = self._attempts(_path(container, name), method, **arguments)
        return self._accepted(answers[-1], method, container, name)

    def _attempts(self, path: str, method: str, **arguments: Any) -> list[Any]:
        """The answers to a request that is sent again while it may pass."""
        answers: list[Any] = []
        for pause in (*PAUSES_S, None):
            self._gate.let(method, Urgency.USUAL)
            with answering(self._site):
                answers.append(self._ask(path, method, **arguments))
            status = answers[-1].status_code
            if pause is None or status not in _PASSES:
                break
            LOG.info("%s: %s %s is sent again after a %d", self._site, method, path, status)
            time.sleep(pause)
        return answers

    def _accepted(
        self, response: Any, method: str, container: str, name: str | None, allowed: int = 0
    ) -> Any:
        """`allowed`: a status of 400 or more that is an answer and no error."""
        if response.status_code == allowed:
            return response
        if response.status_code == 404:
            raise NotFound(
                f"{self._site}: there is no {container}{'/' + name if name else ''} in the "
                "object store"
            )
        if response.status_code >= 400:
            answer = f"{response.status_code}: {answers.printable(response.text)}"
            raise Refused(
                f"{self._site}: {method} of {container}/{name or ''} in the object store was "
                f"refused with {answer}",
                response.status_code,
            )
        return response


def _headers(response: Any) -> dict[str, str]:
    return {name.lower(): answers.printable(value) for name, value in response.headers.items()}


def _path(container: str, name: str | None) -> str:
    return "/" + quote(container, safe="") + ("" if name is None else "/" + quote(name))

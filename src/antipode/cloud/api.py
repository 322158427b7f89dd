# SPDX-License-Identifier: Apache-2.0
"""One service of a site over HTTP: explicit microversions, paging, and errors that name the site,
the call and the answer.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, Self

from antipode.cloud.answers import Listing, Shape, printable
from antipode.errors import AntipodeError, PreflightFailed, SiteUnreachable, UnexpectedAnswer

Json = dict[str, Any]
Params = Mapping[str, str | int | Sequence[str]]
Version = tuple[int, int]


MARKERS = 5
"""How many items at the end of a page are tried as the marker of the next one."""


class ApiError(AntipodeError):
    """A cloud answered a call with an error.

    `status` is the HTTP status, `reason` the cloud's own words.
    """

    code = "api-refused"

    def __init__(self, site: str, call: str, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(f"{site}: {call} was refused with {status}: {reason}")


class Reply(NamedTuple):
    """An answer: its status, and its body decoded from JSON (None without body)."""

    status: int
    body: Any


class Urgency(Enum):
    """What may keep a call from being sent."""

    USUAL = "usual"
    """it waits for the site's limits, and is not sent when its run is not ours any more"""
    WINDOW = "window"
    """a member may be frozen: it waits for no limit"""
    THAW = "thaw"
    """it ends a freeze: nothing keeps it"""


class Rate(Protocol):
    """How many calls a site is sent in a second."""

    def wait(self) -> None:
        """Wait until a call may be sent."""
        ...

    def sent(self) -> None:
        """A call that may not wait is sent: others wait for it."""
        ...


class Unlimited:
    """A rate that keeps no call waiting."""

    def wait(self) -> None:
        """At once."""

    def sent(self) -> None:
        """No call waits."""


class Gate(NamedTuple):
    """What every call passes just before it is sent.

    `go_on` raises when the run that the call is made for must change nothing more.
    """

    go_on: Callable[[], None] = lambda: None
    rate: Rate = Unlimited()
    patience_s: float = math.inf
    """how long the service may have given no answer, over all calls together, before it is not
    asked any more (seconds)
    """
    hidden: frozenset[str] = frozenset()
    """ids that listings leave out, as if what has them were gone"""

    def let(self, method: str, urgency: Urgency) -> None:
        """Return when a call may be sent.

        Raises:
            AntipodeError: what `go_on` raised; the call must not be sent.
        """
        if urgency is Urgency.USUAL:
            self.rate.wait()
        else:
            self.rate.sent()
        if urgency is not Urgency.THAW and method not in ("GET", "HEAD"):
            self.go_on()


class Silence:
    """For how long a service has given no answer, over all callers."""

    def __init__(self) -> None:
        self._answered_at = -math.inf
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """0 when the last call was answered."""
        return 0 if (since := self._since) is None else time.monotonic() - since

    def broken(self) -> None:
        """An answer came."""
        self._answered_at, self._since = time.monotonic(), None

    def kept(self, asked_at: float) -> None:
        """No answer came to a call that was sent at that moment (monotonic)."""
        if self._since is None:
            self._since = max(asked_at, self._answered_at)


class Transport(Protocol):
    """Sends one request to the service and returns the answer, whatever its status; raises
    SiteUnreachable when none comes.
    """

    def __call__(
        self,
        method: str,
        path: str,
        *,
        json: Json | None,
        params: Params | None,
        microversion: str | None,
        timeout: float | None,
    ) -> Reply: ...


class Api:
    """The API of one service of one site, at one microversion for all calls."""

    def __init__(
        self, site: str, service: str, send: Transport, newest: Version | None = None
    ) -> None:
        """`newest` is the newest microversion the service offers; None for a service without
        microversions.
        """
        self.site = site
        self.service = service
        self.newest = newest
        self.microversion: Version | None = None
        self._send = send
        self._gate = Gate()
        self._silence = Silence()

    def behind(self, gate: Gate) -> Self:
        """The same service, its calls passing `gate`."""
        view = copy.copy(self)
        view._gate = gate
        return view

    @property
    def hidden(self) -> frozenset[str]:
        """The ids that listings leave out."""
        return self._gate.hidden

    def negotiate(self, least: Version, most: Version) -> None:
        """Use the newest microversion that both sides know.

        Raises:
            PreflightFailed: the service is older than `least`.
            SiteUnreachable: the service did not tell its versions.
        """
        if self.newest is None:
            raise SiteUnreachable(
                f"Site {self.site}: its {self.service} service does not list its versions; check "
                "that it is up"
            )
        if self.newest < least:
            offered, needed = (f"{major}.{minor}" for major, minor in (self.newest, least))
            problem = (
                f"its {self.service} service offers microversion {offered} at most; "
                f"{needed} or newer is needed"
            )
            raise PreflightFailed(f"The work with {self.site}", [problem])
        self.microversion = min(self.newest, most)

    def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        params: Params | None = None,
        timeout_s: float | None = None,
        urgency: Urgency = Urgency.USUAL,
    ) -> Any:
        """Send a request and return the decoded body of its answer.

        Raises:
            ApiError: the service answered with a status of 400 or more.
            SiteUnreachable: no answer came; or it was not sent, because none has come for as long
                as is waited for one.
            AntipodeError: it was not sent, because the run that it is made for must not go on.
        """
        microversion = "{}.{}".format(*self.microversion) if self.microversion else None
        if self._gate.patience_s < math.inf and urgency is not Urgency.THAW:
            patience_s = self._patience()
            timeout_s = patience_s if timeout_s is None else min(timeout_s, patience_s)
        self._gate.let(method, urgency)
        asked_at = time.monotonic()
        try:
            reply = self._send(
                method, path, json=body, params=params, microversion=microversion, timeout=timeout_s
            )
        except SiteUnreachable:
            self._silence.kept(asked_at)
            raise
        self._silence.broken()
        if reply.status >= 400:
            raise ApiError(self.site, self._called(method, path), reply.status, _reason(reply.body))
        return reply.body

    def go_on(self) -> None:
        """Asked in waits between two looks.

        Raises:
            SiteUnreachable: the service has given no answer for as long as is waited for one.
            AntipodeError: the run that waits must not go on.
        """
        self._gate.go_on()
        self._patience()

    def _patience(self) -> float:
        """For how many seconds more an answer is waited for."""
        silent_s = self._silence.seconds
        if silent_s >= self._gate.patience_s:
            raise SiteUnreachable(
                f"Site {self.site}: its {self.service} service has given no answer for "
                f"{silent_s:.0f} s, and is not called again for now"
            )
        return self._gate.patience_s - silent_s

    def get(
        self,
        path: str,
        shape: Shape | None = None,
        *,
        urgency: Urgency = Urgency.USUAL,
        timeout_s: float | None = None,
        **params: str | int | Sequence[str],
    ) -> Any:
        """What an answer has at the key of `shape`; its whole body, unchecked, without one.

        Raises:
            UnexpectedAnswer: the answer is not as `shape` says.
        """
        body = self.call("GET", path, params=params or None, timeout_s=timeout_s, urgency=urgency)
        return body if shape is None else self._read(shape, "GET", path, body)

    def find(
        self,
        path: str,
        shape: Shape | None = None,
        *,
        urgency: Urgency = Urgency.USUAL,
        timeout_s: float | None = None,
        **params: str | int | Sequence[str],
    ) -> Any | None:
        """As `get`, but None when there is no such resource."""
        try:
            body = self.call(
                "GET", path, params=params or None, timeout_s=timeout_s, urgency=urgency
            )
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return body if shape is None else self._read(shape, "GET", path, body)

    def post(
        self,
        path: str,
        body: Json,
        shape: Shape | None = None,
        *,
        timeout_s: float | None = None,
        urgency: Urgency = Urgency.USUAL,
    ) -> Any:
        """As `get`, for what a request makes."""
        answer = self.call("POST", path, body, timeout_s=timeout_s, urgency=urgency)
        return answer if shape is None else self._read(shape, "POST", path, answer)

    def delete(self, path: str) -> None:
        """Delete a resource; one that is not there is fine."""
        try:
            self.call("DELETE", path)
        except ApiError as error:
            if error.status != 404:
                raise

    def pages(
        self,
        path: str,
        listing: Listing,
        params: Params | None = None,
        *,
        first: int | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[list[Json]]:
        """The pages of a listing, in the order of the service (Nova and Cinder: newest first);
        an item that moves to another page meanwhile comes once.

        Args:
            first: how many items the first page is asked for; the others are as long as the service
                makes them.
            timeout_s: for each page.

        Raises:
            UnexpectedAnswer: a page is not as `listing` says, or has nothing but what was there
                before: there would be no end.
        """
        begin = {**(params or {}), **({"limit": first} if first else {})}
        body = self.call("GET", path, params=begin or None, timeout_s=timeout_s)
        seen: set[str] = set()
        while True:
            page: list[Json] = self._read(listing, "GET", path, body)
            new = {item["id"]: item for item in page if item["id"] not in seen}
            yield [item for id_, item in new.items() if id_ not in self.hidden]
            if not page or not listing.has_more(body, self.site, self._called("GET", path)):
                return
            if not new:
                raise UnexpectedAnswer(
                    self.site,
                    self._called("GET", path),
                    f"{listing.key} has the same page again and again",
                )
            seen |= new.keys()
            body = self._page_after(page, path, params, timeout_s)

    def _page_after(
        self, page: list[Json], path: str, params: Params | None, timeout_s: float | None
    ) -> Any:
        """The page after this one.

        Its last item may have been deleted meanwhile, and cannot be named then: one before it is.
        """
        last, *before = page[::-1][:MARKERS]
        for item in before:
            try:
                return self._from(last, path, params, timeout_s)
            except ApiError as error:
                if error.status not in (400, 404):
                    raise
                last = item
        return self._from(last, path, params, timeout_s)

    def _from(self, item: Json, path: str, params: Params | None, timeout_s: float | None) -> Any:
        return self.call(
            "GET", path, params={**(params or {}), "marker": item["id"]}, timeout_s=timeout_s
        )

    def all(self, path: str, listing: Listing, **params: str | int | Sequence[str]) -> list[Json]:
        """All items of a listing."""
        return [item for page in self.pages(path, listing, params) for item in page]

    def _read(self, shape: Shape, method: str, path: str, body: Any) -> Any:
        return shape.read(body, self.site, self._called(method, path))

    def _called(self, method: str, path: str) -> str:
        """A call as messages name it."""
        return f"{method} {self.service}{path}"


def _reason(body: Any) -> str:
    """The words in an error body: {"badRequest": {"message": ...}}, {"NeutronError": {...}},
    {"error": ...}, Designate's {"code": ..., "message": ...}, or text.
    """
    words = body
    if isinstance(words, dict):
        words = words.get("message", next(iter(words.values()), None))
    if isinstance(words, dict):
        words = words.get("message")
    return printable(words, 1000) if isinstance(words, str) and words else "no reason given"

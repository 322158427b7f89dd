# SPDX-License-Identifier: Apache-2.0
"""The bytes of images in Glance of one site, as streams: none is ever held as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from antipode.cloud.answers import printable
from antipode.cloud.api import ApiError, Gate, Urgency
from antipode.cloud.transport import answering
from antipode.errors import SiteUnreachable

PIECE = 1 << 20
"""Bytes that are taken at once."""
ANSWER_S = 600.0
"""How long Glance may be silent in the middle of a stream, or after it: it may store the bytes only
then.
"""
_PARTIAL = 206


class ImageStreams(Protocol):
    """The bytes of images of one site, in and out."""

    def read(self, image_id: str, begin: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of an image from `begin` on, in pieces.

        Raises:
            ApiError: Glance refuses.
            SiteUnreachable: the stream breaks off.
        """
        ...

    def write(self, image_id: str, content: Content) -> None:
        """Give a queued image its bytes; when this returns, Glance has taken all.

        Raises:
            ApiError: Glance refuses.
            SiteUnreachable: no answer came; the image may have all, some or none of them.
        """
        ...


class Content:
    """Bytes of a known length from pieces, as a request sends them: with its length, and once."""

    def __init__(self, pieces: Iterator[bytes], length: int) -> None:
        self._pieces = pieces
        self._length = length
        self._rest = memoryview(b"")
        self.taken = 0

    def __len__(self) -> int:
        """Asked for just before a request is sent.

        Raises:
            SiteUnreachable: some of it was sent: the request is sent again, as its token was
                refused, and must not send what is left.
        """
        if self.taken:
            raise SiteUnreachable("the token was refused while the bytes of an image were sent")
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(PIECE):
            yield piece

    def read(self, size: int = -1) -> bytes:
        """The next bytes, `size` at most; none at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        end = len(self._rest) if size < 0 else size
        # A request takes few bytes at once, and the rest must not be copied each time.
        piece, self._rest = bytes(self._rest[:end]), self._rest[end:]
        self.taken += len(piece)
        return piece


class ImageBytes:
    """Streams through a login's openstacksdk proxy; an `ImageStreams`."""

    def __init__(self, site: str, ask: Callable[..., Any], gate: Gate) -> None:
        """`ask` is a login's for the image service."""
        self._site = site
        self._ask = ask
        self._gate = gate

    @contextmanager
    def read(self, image_id: str, begin: int = 0) -> Iterator[Iterator[bytes]]:
        """`GET /images/ID/file`; from `begin` on by a range, where Glance's store has ranges."""
        self._gate.let("GET", Urgency.USUAL)
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        with answering(self._site):
            response = self._ask(
                f"/images/{image_id}/file", "GET", headers=headers, stream=True, timeout=ANSWER_S
            )
        try:
            if response.status_code >= 400:
                raise self._refused("GET", image_id, response)
            skipped = 0 if response.status_code == _PARTIAL else begin
            yield self._pieces(response, skipped)
        finally:
            response.close()

    def _pieces(self, response: Any, skipped: int) -> Iterator[bytes]:
        from requests import RequestException

        began = time.monotonic()
        try:
            for piece in response.iter_content(PIECE):
                if skipped < len(piece):
                    yield piece[skipped:]
                skipped = max(skipped - len(piece), 0)
        except RequestException as error:
            raise SiteUnreachable(
                f"Site {self._site}: the bytes of an image broke off after"
                f" {time.monotonic() - began:.1f} s: {error}"
            ) from error

    def write(self, image_id: str, content: Content) -> None:
        """`PUT /images/ID/file`, with the length of the content."""
        self._gate.let("PUT", Urgency.USUAL)
        with answering(self._site):
            response = self._ask(
                f"/images/{image_id}/file",
                "PUT",
                data=content,
                headers={"Content-Type": "application/octet-stream"},
                timeout=ANSWER_S,
                connect_retries=0,
            )
        if response.status_code >= 400:
            raise self._refused("PUT", image_id, response)

    def _refused(self, method: str, image_id: str, response: Any) -> ApiError:
        call = f"{method} image/images/{image_id}/file"
        return ApiError(self._site, call, response.status_code, printable(response.text, 300))

# SPDX-License-Identifier: Apache-2.0
"""The bytes of images as streams: nothing is lost, doubled or taken for the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from requests.exceptions import ChunkedEncodingError

from antipode.cloud.api import ApiError, Gate
from antipode.cloud.image_bytes import Content, ImageBytes
from antipode.errors import SiteUnreachable

PIECES = [b"0123456789", b"abc", b"defghij"]
WHOLE = b"".join(PIECES)


@pytest.mark.parametrize("size", [1, 3, 4, 10, 16, 100, -1])
def test_bytes_are_given_in_whatever_portions_they_are_taken(size: int) -> None:
    content = Content(iter(PIECES), len(WHOLE))
    given = list(iter(lambda: content.read(size), b""))
    assert b"".join(given) == WHOLE
    assert all(isinstance(part, bytes) for part in given)
    assert content.taken == len(WHOLE)


def test_what_was_sent_in_part_is_not_sent_again() -> None:
    content = Content(iter(PIECES), len(WHOLE))
    assert len(content) == len(WHOLE)
    content.read(1)
    with pytest.raises(SiteUnreachable):
        len(content)


class Glance:
    """Answers each request with these pieces, an exception among them breaks off."""

    def __init__(self, status: int, pieces: Sequence[bytes | Exception]) -> None:
        self.status_code, self.text = status, "why"
        self._pieces = pieces
        self.headers: dict[str, str] = {}
        self.is_closed = False

    def ask(self, path: str, method: str, **more: Any) -> Glance:
        self.headers = more["headers"]
        return self

    def iter_content(self, _size: int) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        self.is_closed = True


def read(glance: Glance, begin: int = 0) -> bytes:
    with ImageBytes("site-a", glance.ask, Gate()).read("image", begin) as pieces:
        return b"".join(pieces)


@pytest.mark.parametrize("begin", [0, 4, 10, 12, 13, len(WHOLE)])
def test_a_store_without_ranges_gives_the_rest_all_the_same(begin: int) -> None:
    assert read(Glance(200, PIECES), begin) == WHOLE[begin:]


def test_a_store_with_ranges_is_asked_for_the_rest_only() -> None:
    glance = Glance(206, [WHOLE[12:]])
    assert read(glance, 12) == WHOLE[12:]
    assert glance.headers == {"Range": "bytes=12-"}
    assert glance.is_closed


def test_a_stream_that_breaks_off_is_no_end() -> None:
    glance = Glance(200, [PIECES[0], ChunkedEncodingError("broken")])
    with pytest.raises(SiteUnreachable):
        read(glance)
    assert glance.is_closed


def test_a_refusal_is_no_image() -> None:
    glance = Glance(404, [])
    with pytest.raises(ApiError):
        read(glance)
    assert glance.is_closed
    with pytest.raises(ApiError):
        ImageBytes("site-a", Glance(413, []).ask, Gate()).write("image", Content(iter(()), 0))

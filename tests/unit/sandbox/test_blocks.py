# SPDX-License-Identifier: Apache-2.0
"""Tests of the bytes of an embedded site's volumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from antipode.sandbox import blocks

SIZE = 4 << 20


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """One that holds data in its second and third mebibyte."""
    path = tmp_path / "volume"
    blocks.create(path, SIZE)
    blocks.write(path, 1 << 20, b"x" * (2 << 20))
    return path


def test_zeros_are_restored_over_data_only_where_they_belong(volume: Path) -> None:
    length = 1 << 20
    zeros, _ = blocks.packed_zeros(length)
    blocks.unpack_into(volume, 2 << 20, length, "zlib", zeros, skip_zeros=False)
    assert volume.read_bytes() == bytes(1 << 20) + b"x" * (1 << 20) + bytes(2 << 20)


def test_skipped_zeros_leave_what_is_there(volume: Path) -> None:
    before = volume.read_bytes()
    zeros, _ = blocks.packed_zeros(SIZE)
    blocks.unpack_into(volume, 0, SIZE, "zlib", zeros, skip_zeros=True)
    assert volume.read_bytes() == before


@pytest.mark.skipif(not blocks.KERNEL_TELLS, reason="this kernel does not tell where holes are")
def test_zeros_do_not_fill_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    blocks.create(path, SIZE)
    zeros, _ = blocks.packed_zeros(SIZE)
    blocks.unpack_into(path, 0, SIZE, "zlib", zeros, skip_zeros=False)
    assert path.stat().st_blocks == 0 and path.stat().st_size == SIZE

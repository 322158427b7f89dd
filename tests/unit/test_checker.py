# SPDX-License-Identifier: Apache-2.0
"""The checker finds every fault that is planted in the canary's records: a check that cannot fail
proves nothing.
"""

import subprocess
import zlib
from pathlib import Path

import pytest

from lab.checker import CHAIN, ContentMismatch, OrderViolation, check, records_of_image
from lab.errors import LabError


def record(role: str, number: int, made_us: int | None = None) -> bytes:
    text = b"%012d %-5s %04d %013d %016d " % (
        number,
        role.encode(),
        1,
        1795363375444,
        number * 7 if made_us is None else made_us,
    )
    return text + b"%08x\n" % zlib.crc32(text)


def records(role: str, *numbers: int) -> bytes:
    return b"".join(record(role, n) for n in numbers)


def chain(db: int = 5, app: int = 5, front: int = 4) -> dict[str, bytes]:
    return {
        role: records(role, *range(1, last + 1))
        for role, last in zip(CHAIN, (db, app, front), strict=True)
    }


def test_a_chain_in_which_each_member_has_at_most_what_the_one_behind_has_is_consistent() -> None:
    report = check(chain(7, 6, 5))
    assert report.consistent
    assert report.last == {"db": 7, "app": 6, "front": 5}
    assert (report.torn, report.gaps, report.duplicates) == (0, 0, 0)


def test_a_record_cut_in_the_middle_is_torn() -> None:
    report = check(chain() | {"app": records("app", 1, 2, 3, 4, 5)[:-20]})
    assert report.members["app"].torn == 1
    assert report.members["app"].last == 4
    assert not report.consistent


@pytest.mark.parametrize("position", [0, 5, 15, 30, 54, 55, 62, 63])
def test_a_record_with_one_changed_byte_is_torn(position: int) -> None:
    content = bytearray(records("db", 1, 2, 3, 4, 5))
    content[64 + position] ^= 1
    report = check(chain() | {"db": bytes(content)})
    assert report.members["db"].torn == 1
    assert report.members["db"].gaps == [2]


def test_a_block_of_zeros_is_torn() -> None:
    assert (
        check(chain() | {"db": records("db", 1, 2, 3, 4, 5) + bytes(128)}).members["db"].torn == 2
    )


@pytest.mark.parametrize(
    ("numbers", "missing"), [((1, 2, 4, 5), [3]), ((2, 3, 4, 5), [1]), ((1, 5), [2, 3, 4])]
)
def test_missing_numbers_are_gaps(numbers: tuple[int, ...], missing: list[int]) -> None:
    report = check(chain() | {"db": records("db", *numbers)})
    assert report.members["db"].gaps == missing
    assert not report.consistent


@pytest.mark.parametrize(
    ("numbers", "again"),
    [((1, 2, 2, 3, 4, 5), [2]), ((1, 2, 3, 4, 5, 3), [3]), ((1, 2, 4, 3, 5), [3])],
)
def test_numbers_that_come_again_or_too_late_are_duplicates(
    numbers: tuple[int, ...], again: list[int]
) -> None:
    report = check(chain() | {"db": records("db", *numbers)})
    assert report.members["db"].duplicates == again
    assert not report.consistent


@pytest.mark.parametrize(
    ("lasts", "violation"),
    [
        ((4, 5, 3), OrderViolation("app", "db", 5, 4)),
        ((5, 4, 5), OrderViolation("front", "app", 5, 4)),
    ],
)
def test_a_member_ahead_of_the_one_behind_it_is_an_order_violation(
    lasts: tuple[int, int, int], violation: OrderViolation
) -> None:
    report = check(chain(*lasts))
    assert report.order_violations == [violation]
    assert not report.consistent


def test_one_number_with_two_contents_is_a_mismatch() -> None:
    report = check(
        chain()
        | {"app": records("app", 1, 2) + record("app", 3, made_us=99) + records("app", 4, 5)}
    )
    assert report.content_mismatches == [
        ContentMismatch(("db", "app"), 3),
        ContentMismatch(("app", "front"), 3),
    ]
    assert not report.consistent


def test_records_of_another_role_show_that_volumes_were_swapped() -> None:
    swapped = chain(5, 5, 5)
    report = check(swapped | {"db": swapped["app"], "app": swapped["db"]})
    assert report.members["db"].foreign == [1, 2, 3, 4, 5]
    assert not report.consistent


def test_a_member_without_records_or_not_given_at_all_is_not_consistent() -> None:
    assert not check(chain() | {"front": b""}).consistent
    assert not check(
        {role: content for role, content in chain().items() if role != "front"}
    ).consistent


def test_an_unknown_role_is_refused_by_name() -> None:
    with pytest.raises(LabError, match="queue"):
        check({"queue": b""})


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """An ext4 filesystem on a whole disk, as the guest makes it, with the records of db."""
    content = tmp_path / "content"
    content.mkdir()
    (content / "records.log").write_bytes(records("db", 1, 2, 3))
    image = tmp_path / "volume.raw"
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-d", content, image, "16m"], check=True)
    return image


def test_the_records_are_read_from_the_bytes_of_a_volume_without_changing_it(volume: Path) -> None:
    before = volume.read_bytes()
    assert records_of_image(volume) == records("db", 1, 2, 3)
    assert volume.read_bytes() == before


def test_a_volume_without_a_filesystem_or_without_records_is_an_error_not_an_empty_result(
    tmp_path: Path,
) -> None:
    (tmp_path / "zeros.raw").write_bytes(bytes(1 << 20))
    with pytest.raises(LabError, match="ext4"):
        records_of_image(tmp_path / "zeros.raw")
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", tmp_path / "empty.raw", "16m"], check=True)
    with pytest.raises(LabError, match="no records"):
        records_of_image(tmp_path / "empty.raw")

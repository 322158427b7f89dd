# SPDX-License-Identifier: Apache-2.0
"""Tables are readable in the terminal at hand: no line is wider, no name is broken."""

from __future__ import annotations

import io
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antipode.cli import app as main
from antipode.cli.command import ListCommand
from antipode.cli.layout import WIDTH, Nested, Short
from antipode.cli.table import Table, fitted

RUN, POINT = "failover-20261129T105758Z-350bc7", "20261129T105758Z-350bc7"
AT = "2026-11-29T10:57:58.207Z"
UUID = "0f6e53f2-9a60-4a15-a1f2-1f5bbd3a2f36"
LONG = " ".join(["nova-compute at compute-17 does not answer"] * 6)
ROWS: dict[str, dict[str, Any]] = {
    "run list": {
        "run": RUN,
        "kind": "failover",
        "vnf": "hlr-production",
        "state": "succeeded",
        "started_at": AT,
        "seconds": 48.688,
        "recovery_point": POINT,
        "reason": Short(LONG),
    },
    "recovery-point list": {
        "id": POINT,
        "generation": 1,
        "consistent_at": "2026-11-29T10:58:12.571941+00:00",
        "age": "5 h 10 min",
        "consistency": "application",
        "incremental": False,
        "volumes": 6,
        "stored_bytes": 35416070,
        "state": f"refused (vault-corrupt): {LONG}",
    },
    "recovery-point verify": {
        "volume": UUID,
        "backup": UUID,
        "ok": False,
        "objects": 12,
        "bytes": 35416070,
        "first_difference": 1048576,
        "detail": LONG,
    },
    "vnf list": {
        "vnf": "hlr-production",
        "active_site": "site-a",
        "state": "failing-over",
        "generation": 12,
        "newest_point_age_s": 95,
        "rpo_target_s": 3600,
        "rpo": "failing-over",
        "backup": Nested(["site-b", "site-c"]),
        "damaged": Short(LONG),
    },
    "site check": {
        "check": "backup store backup-store",
        "site": "site-a",
        "ok": False,
        "needed": True,
        "detail": LONG,
    },
    "event list": {
        "at": AT,
        "type": "dr.vnf.unprotected",
        "subject": f"run/{RUN}",
        "data": Nested({"run": RUN, "recovery_point": POINT}),
        "id": UUID,
    },
    "protection list": {
        "vnf": "hlr-production",
        "option": "quiesced-snapshot",
        "schedule": "0 3 * * *",
        "next_at": AT,
        "last_due_at": AT,
        "last_run": RUN,
        "missed": 3,
        "paused_at": AT,
        "reason": Short(LONG),
    },
    "vault list": {
        "vault": "third",
        "kind": "swift",
        "place": "vault container antipode-vault of cloud elsewhere",
        "site": "site-b",
        "vnfs": 12,
        "points": 1200,
        "trouble": Short(LONG),
    },
    "vault show": {
        "vnf": "hlr-production",
        "active_site": "site-a",
        "generation": 3,
        "state": "failing-over",
        "points": 24,
        "newest": POINT,
        "newest_consistent_at": AT,
        "trouble": Short(LONG),
    },
    "sandbox status": {
        "site": "site-a",
        "state": "serving",
        "pid": 1234567,
        "guests": 3,
        "faults": 0,
        "auth_url": "http://127.0.0.1:21879/identity/v3",
        "control_url": "http://127.0.0.1:30875",
    },
}
"""A long row of each table."""


def shown(row: dict[str, Any], spared: Sequence[str] = (), **asked: Any) -> list[str]:
    given = {"max_width": 0, "fit_width": False, "print_empty": False, "columns": []}
    stream = io.StringIO()
    Table().emit_list(
        tuple(row), [tuple(row.values())], stream, Namespace(**given | asked, spared=spared)
    )
    return stream.getvalue().splitlines()


def spared_by(command: str) -> Sequence[str]:
    found = main.Antipode().command_manager.commands[command].load()
    assert issubclass(found, ListCommand)
    return found.spared


@pytest.mark.parametrize("command", ROWS)
def test_a_table_fits_into_100_columns_and_breaks_no_name(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spared = spared_by(command)
    lines = shown(ROWS[command], spared)
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(lines)
    left_out = capsys.readouterr().err
    for name, value in ROWS[command].items():
        if name not in text:
            assert name in spared and name in left_out
        elif isinstance(value, str) and " " not in value and value not in (AT,):
            assert value in text or value.startswith("2026-11-29T10:58:12")


def test_a_table_with_room_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    row = ROWS["run list"]
    header = shown(row, spared_by("run list"), max_width=300)[1]
    assert all(name in header for name in row)
    assert capsys.readouterr().err == ""


def test_columns_that_were_chosen_are_all_shown() -> None:
    row = ROWS["run list"]
    header = shown(row, spared_by("run list"), columns=list(row))[1]
    assert all(name in header for name in row)


def test_a_column_without_a_value_goes_first() -> None:
    table: dict[str, list[Any]] = {"a": ["x" * 60], "b": ["y" * 60], "c": [None]}
    assert fitted(table, 100, ["b", "c"])[1] == ["c", "b"]
    assert fitted(table, 200, ["b", "c"])[1] == []


CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=60))


@given(
    st.dictionaries(
        st.text("abc_", min_size=1, max_size=12),
        st.lists(CELLS, min_size=2, max_size=2),
        min_size=1,
        max_size=6,
    ),
    st.integers(20, 140),
)
def test_any_table_is_as_wide_as_its_terminal_or_as_its_names(
    table: dict[str, list[Any]], width: int
) -> None:
    cells = {name: ["" if v is None else v for v in values] for name, values in table.items()}
    widths, left_out = fitted(cells, width, list(cells)[1:])
    assert {*widths, *left_out} == set(cells)
    assert sum(widths.values()) + 3 * len(widths) + 1 <= width or len(widths) == 1

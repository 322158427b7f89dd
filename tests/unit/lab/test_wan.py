# SPDX-License-Identifier: Apache-2.0
"""The network of the lab, on a machine that has never had one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import wan


def test_nothing_is_removed_where_no_program_could_have_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(wan, "exists", lambda site: False)
    wan.down()

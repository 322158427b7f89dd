# SPDX-License-Identifier: Apache-2.0
"""docs/deployment.md: its configurations load, its units start what there is."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest

from antipode import yamlfile
from antipode.cli.app import COMMANDS
from antipode.config import Config
from antipode.protect.quiesced_snapshot import window
from antipode.service import conductor, daemon

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
WORDS = " ".join(PAGE.split())


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(blocks("yaml"))))
def test_a_configuration_of_the_page_loads(number: int, tmp_path: Path) -> None:
    path = tmp_path / "antipode.yaml"
    path.write_text(blocks("yaml")[number])
    assert yamlfile.read(path, Config).sites


def test_the_alternatives_in_the_comments_load_too(tmp_path: Path) -> None:
    path = tmp_path / "antipode.yaml"
    shared = next(b for b in blocks("yaml") if "# database: mysql" in b)
    path.write_text(re.sub(r"^database: .*\n# database", "database", shared, flags=re.MULTILINE))
    assert yamlfile.read(path, Config).database.startswith("mysql+pymysql:")
    redis = next(b for b in blocks("yaml") if "# zookeeper" in b)
    path.write_text(
        re.sub(r"^  redis: .*\n  # zookeeper", "  zookeeper", redis, flags=re.MULTILINE)
    )
    assert yamlfile.read(path, Config).jobboard


def test_the_units_start_commands_that_there_are_and_wait_long_enough_for_their_end() -> None:
    units = []
    for text in blocks("ini"):
        unit = configparser.ConfigParser(interpolation=None, strict=False)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(text)
        units.append(unit)
    started = [shlex.split(u["Service"]["ExecStart"]) for u in units if u.has_section("Service")]
    commands = [next(word for word in words[1:] if word in COMMANDS) for words in started]
    assert commands == ["serve", "api"]
    main = units[0]["Service"]
    assert main["Type"] == "notify"
    assert int(main["TimeoutStopSec"]) > 2 * daemon.STOPS_WITHIN_S
    assert int(main["WatchdogSec"]) > daemon.DEAD_AFTER_S


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"{int(2 * daemon.STOPS_WITHIN_S)} s at the very most" in WORDS
    assert f"more than {daemon.CLOCKS_APART_S} s" in WORDS
    assert 2 * daemon.CLOCKS_APART_S < window.LEDGER_GRACE_S
    assert f"claimed {conductor.MOST_CLAIMS} times" in WORDS
    assert f"over for {int(daemon.KEPT_S // 86400)} days" in WORDS

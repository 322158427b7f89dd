# SPDX-License-Identifier: Apache-2.0
"""Commands whose standard streams are closed, full or read by nobody, and errors of arguments."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from antipode.cli.streams import OUTPUT_UNREAD
from antipode.store.database import open_database
from antipode.store.vnfs import Vnfs
from tests.unit import databases, samples

ANTIPODE = f"{shlex.quote(sys.executable)} -m antipode.cli.main"


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The option of a configuration, whose database is there already."""
    (tmp_path / "hlr.yaml").write_text(samples.VNF_FILE)
    databases.make_tables(make_url(f"sqlite:///{tmp_path / 'antipode.db'}"))
    return f"--config {shlex.quote(str(samples.write_config(tmp_path)))}"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("closed", "is_new"),
    [
        ("<&-", False),
        (">&-", False),
        ("2>&-", False),
        (">&- 2>&-", False),
        ("<&- >&- 2>&-", False),
        ("<&- >&- 2>&-", True),
    ],
)
def test_a_command_does_its_work_with_closed_streams(
    config: str, closed: str, is_new: bool, tmp_path: Path
) -> None:
    database = tmp_path / "antipode.db"
    if is_new:
        database.unlink()
    done = shell(f"{ANTIPODE} {config} vnf add {tmp_path}/hlr.yaml {closed}")
    assert (done.returncode, done.stderr) == (0, "")
    assert database.read_bytes().startswith(b"SQLite format 3")
    assert Vnfs(open_database(f"sqlite:///{database}")).names() == ["hlr"]


def unread() -> int:
    """The end of a pipe to write to; its other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("command", ["--help", "vnf list -f csv", "run list -f json"])
def test_a_command_whose_output_nobody_reads_ends_without_a_traceback(
    config: str, command: str
) -> None:
    writer = unread()
    words = shlex.split(f"{ANTIPODE} {config} {command}")
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, timeout=300, check=False)
    os.close(writer)
    assert done.stderr == b""
    # cliff's pager ignores that nobody reads
    assert done.returncode in ({OUTPUT_UNREAD} if "list -f" in command else {0, OUTPUT_UNREAD})


@pytest.mark.parametrize("command", ["vnf add {}", "vnf show nothing", "vnf list --bogus"])
def test_a_command_whose_messages_nobody_reads_does_its_work(
    config: str, command: str, tmp_path: Path
) -> None:
    writer = unread()
    words = shlex.split(f"{ANTIPODE} {config} {command.format(tmp_path / 'hlr.yaml')}")
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=writer, timeout=300, check=False)
    os.close(writer)
    assert done.returncode == (0 if "add" in command else 2)


def test_an_output_that_cannot_be_written_is_an_error(config: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which Linux has")
    done = shell(f"{ANTIPODE} {config} run list -f json > /dev/full")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "vnf list -f json --bogus",
        "failover --format=json",
        "bogus -f json",
        "--log-format x run list -fjson",
    ],
)
def test_wrong_arguments_are_an_object_for_programs(arguments: str) -> None:
    done = shell(f"{ANTIPODE} {arguments}")
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, done.stdout) == (2, "")
    assert (error["code"], error["exit_code"]) == ("invalid-input", 2)


@pytest.mark.parametrize("arguments", ["vnf list --bogus", "failover", "bogus", "--bogus"])
def test_wrong_arguments_have_a_code_for_people(arguments: str) -> None:
    done = shell(f"{ANTIPODE} {arguments}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "antipode: [invalid-input] " in done.stderr

# SPDX-License-Identifier: Apache-2.0
"""The driver `command`: its contract with real programs, good and bad ones, and its conformance
test.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from antipode import processes
from antipode.cli import main
from antipode.datastores import conformity, of_volumes, opened, storage_at
from antipode.datastores.application import Application, Data, of_application
from antipode.datastores.command import LARGEST_ANSWER, ByCommands
from antipode.errors import (
    Aborted,
    AntipodeError,
    InvalidInput,
    ResourceFailed,
    SiteUnreachable,
    UnexpectedAnswer,
)
from antipode.model.datastore import Health, StorageAt
from antipode.model.vnf import Datastore
from tests.unit import samples, twosites
from tests.unit.fakecloud import FakeCloud
from tests.unit.unstarted import answered_here

DATA = Data("hlr", "records")


@pytest.fixture
def records(tmp_path: Path) -> twosites.Application:
    return twosites.Application(tmp_path)


def at(site: str, settings: Any) -> ByCommands:
    found = opened(StorageAt("pg", "command", settings), site)
    assert isinstance(found, ByCommands)
    return found


def program(folder: Path, body: str) -> dict[str, Any]:
    """Settings whose commands all are one program in Python."""
    path = folder / "program"
    path.write_text(f"#!{sys.executable} -IS\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"commands": {verb: [str(path), "a word"] for verb in twosites.VERBS}}


def test_each_verb_is_a_request_to_its_command(records: twosites.Application) -> None:
    a, b = (at(site, records.settings()) for site in ("site-a", "site-b"))
    assert a.status(DATA).health is Health.WRITABLE
    assert a.point(DATA, 5) == "2"
    assert b.has_reached(DATA, "2") and not b.has_reached(DATA, "3")
    assert b.reference(DATA) == "db.site-b.example:5432"
    b.promote(DATA, "2")
    assert b.status(DATA).health is Health.WRITABLE
    assert b.demote(DATA) == "2"
    b.resync(DATA, a.reference(DATA))
    assert b.status(DATA).health is Health.REPLICATING


def test_a_command_gets_its_request_its_words_and_no_other_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_PASSWORD", "secret")
    secret = tmp_path / "password"
    said = tmp_path / "said"
    settings = program(
        tmp_path,
        "import json, os, sys\n"
        f"json.dump([json.load(sys.stdin), sys.argv[1:], dict(os.environ), os.getcwd()],"
        f" open({str(said)!r}, 'w'))\n"
        'print(\'{"version": 1, "reference": "r"}\')',
    )
    settings |= {"environment": {"PGPORT": "5433"}, "secrets": {"password": str(secret)}}
    assert at("site-a", settings).reference(DATA) == "r"
    request, words, environment, folder = json.loads(said.read_text())
    assert request == {
        "version": 1,
        "verb": "reference",
        "storage": "pg",
        "site": "site-a",
        "vnf": "hlr",
        "datastore": "records",
        "within_s": 10.0,
        "secrets": {"password": str(secret)},
    }
    assert words == ["a word"]
    environment.pop("LC_CTYPE", None)  # Python sets it for itself
    assert set(environment) == {"PATH", "LANG", "PGPORT"}
    assert folder == "/"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("", "JSON"),
        ("[]", "object"),
        ("no json", "JSON"),
        ('{"version": 1, "health": "replicating"', "JSON"),
        ('{"health": "replicating"}', "version"),
        ('{"version": 2, "health": "replicating"}', "version"),
        ('{"version": "1", "health": "replicating"}', "version"),
        ('{"version": 1}', "health"),
        ('{"version": 1, "health": "fine"}', "health"),
        ('{"version": 1, "health": "replicating", "lag_s": "5"}', "lag_s"),
        ('{"version": 1, "health": "replicating", "lag_s": -1}', "lag_s"),
        ('{"version": 1, "health": "replicating", "lag_s": NaN}', "lag_s"),
        ('{"version": 1, "health": "replicating", "lag_bytes": 1.5}', "lag_bytes"),
        ('{"version": 1, "health": "replicating", "reached": "yes"}', "reached"),
        ('{"version": 1, "health": "replicating", "reached": 1}', "reached"),
        ('{"version": 1, "health": "replicating", "position": 7}', "position"),
        ('{"version": 1, "health": "replicating", "position": ""}', "position"),
        ('{"version": 1, "health": "replicating", "position": "a\\nb"}', "position"),
        (f'{{"version": 1, "health": "replicating", "position": "{"x" * 256}"}}', "position"),
    ],
)
def test_a_bad_answer_is_no_answer(records: twosites.Application, raw: str, problem: str) -> None:
    records.says("status at site-b", raw=raw)
    with pytest.raises(UnexpectedAnswer) as caught:
        at("site-b", records.settings()).status(DATA)
    assert problem in str(caught.value)


def test_what_a_newer_command_says_beyond_the_contract_is_ignored(
    records: twosites.Application,
) -> None:
    records.says("status at site-b", raw='{"version": 1, "health": "replicating", "more": [1]}')
    assert at("site-b", records.settings()).status(DATA).health is Health.REPLICATING


@pytest.mark.parametrize(
    ("code", "error"), [(1, ResourceFailed), (2, ResourceFailed), (75, SiteUnreachable)]
)
def test_an_exit_code_says_what_kind_of_failure_it_is(
    records: twosites.Application, code: int, error: type[AntipodeError]
) -> None:
    records.says("promote at site-b", code=code, error="first\nthe disk is full\x1b[2J")
    with pytest.raises(error, match=r"the disk is full\\x1b\[2J"):
        at("site-b", records.settings()).promote(DATA)


def test_a_command_that_says_too_much_is_stopped(tmp_path: Path) -> None:
    settings = program(tmp_path, "while True: print('x' * 4096)")
    with pytest.raises(UnexpectedAnswer, match=str(LARGEST_ANSWER)):
        at("site-b", settings).status(DATA)


def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    settings = program(
        tmp_path,
        "import os, signal, subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "signal.pause()",
    )
    for seconds in (1, 4, 16, 64):  # until one is long enough for a start of Python
        settings["timeouts"] = {"status": f"{seconds}s"}
        with pytest.raises(SiteUnreachable):
            at("site-b", settings).status(DATA)
        if pids.exists() and pids.read_text():
            break
    deadline = time.monotonic() + 60
    for pid in pids.read_text().split():
        while _runs(int(pid)):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_run_that_must_stop_kills_its_command(tmp_path: Path) -> None:
    def stop() -> None:
        raise Aborted("stop")

    settings = program(tmp_path, "import signal; signal.pause()")
    with pytest.raises(Aborted):
        at("site-b", settings).promote(Data("hlr", "records", stop))


@pytest.mark.parametrize(
    "does",
    ["time.sleep(900)", "while True: sys.stderr.write('x' * 65536)"],
    ids=["waits", "prints"],
)
def test_what_a_command_leaves_behind_holds_up_nothing(tmp_path: Path, does: str) -> None:
    pid = tmp_path / "pid"
    child = f"import sys, time\n{does}"
    settings = program(
        tmp_path,
        f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        'print(\'{"version": 1, "reference": "r"}\')',
    )
    settings["timeouts"] = {"reference": "15m"}
    try:
        assert at("site-b", settings).reference(DATA) == "r"
    finally:
        with suppress(ProcessLookupError):  # printing ends it once its output is closed
            os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_command_need_not_read_its_request(tmp_path: Path) -> None:
    settings = program(tmp_path, 'print(\'{"version": 1, "reference": "r"}\')')
    long = Data("hlr", "x" * (1 << 20))  # more than a pipe takes
    assert at("site-b", settings).reference(long) == "r"


def test_a_program_that_fills_both_outputs_is_read_to_its_end(tmp_path: Path) -> None:
    body = (
        "import os, sys\nfor _ in range(40):\n    sys.stderr.write('e' * 5000)\n"
        "    sys.stdout.write('o' * 1000)\nsys.exit(3)"
    )
    words = program(tmp_path, body)["commands"]["status"]
    ended = processes.ask(words, b"", 60, at_most=1 << 20, environment=dict(os.environ))
    assert (ended.code, len(ended.output), ended.is_too_long) == (3, 40_000, False)


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    gone = {"commands": {verb: ["/nowhere/command"] for verb in twosites.VERBS}}
    here = at("site-a", gone)
    with pytest.raises(ResourceFailed, match="/nowhere/command"):
        here.status(DATA)
    assert len(list(here.problems())) == len(twosites.VERBS)


def test_a_secret_that_others_may_read_is_a_problem(
    records: twosites.Application, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("x")
    secret.chmod(0o644)
    here = at("site-a", records.settings(secrets={"password": str(secret)}))
    assert len(list(here.problems())) == 1
    secret.chmod(0o600)
    assert list(here.problems()) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"commands": {"status": ["/x"]}}, "reference"),
        ({"commands": {"status": ["/x"], "reference": ["relative"]}}, "relative"),
        ({"commands": {"status": [], "reference": ["/x"]}}, "commands.status"),
        ({"commands": {"status": ["/x"], "reference": ["/x"], "reboot": ["/x"]}}, "reboot"),
        ({"timeouts": {"status": "0s"}}, "timeouts.status"),
        ({"environment": {"A=B": "c"}}, "environment"),
        ({"secrets": {"password": "here"}}, "password"),
        ({"shell": True}, "shell"),
    ],
)
def test_settings_that_are_wrong_are_refused(change: dict[str, Any], field: str) -> None:
    good = {"commands": {"status": ["/x"], "reference": ["/x"]}}
    at("site-a", good)
    with pytest.raises(InvalidInput, match=field):
        at("site-a", good | change)


def test_a_storage_of_one_kind_is_not_taken_for_the_other(records: twosites.Application) -> None:
    application = at("site-a", records.settings())
    mirror = opened(StorageAt("ceph", "rbd-mirror", {"host": "a@b#c"}), "site-a")
    assert isinstance(of_application(application), Application)
    for refused in (lambda: of_volumes(application), lambda: of_application(mirror)):
        with pytest.raises(InvalidInput):
            refused()

    site = FakeCloud().site
    site.storages = {"pg": StorageAt("pg", "command", records.settings())}
    with pytest.raises(InvalidInput):
        storage_at(site, "pg")


def test_a_datastore_has_what_its_kind_has() -> None:
    kept = Datastore.model_validate({"storage": "pg", "kind": "application"})
    assert Datastore.model_validate(kept.model_dump(mode="json")) == kept
    for wrong in (
        {"storage": "pg", "kind": "application", "volumes": ["db"]},
        {"storage": "ceph", "arrives_within": "5s"},
        {"storage": "ceph", "kind": "files"},
    ):
        with pytest.raises(ValueError, match=r"volumes|arrives_within|kind"):
            Datastore.model_validate(wrong)


# Conformance.


def look(records: twosites.Application, *, promotes: bool = True) -> list[conformity.Finding]:
    a, b = (at(site, records.settings()) for site in ("site-a", "site-b"))
    return list(conformity.look(a, b, DATA, promotes=promotes))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program answers without being started, which takes its time; and waits are short."""

    monkeypatch.setattr(processes, "ask", answered_here)
    monkeypatch.setattr(conformity, "ARRIVES_WITHIN_S", 0.2)
    monkeypatch.setattr(conformity, "LOOK_S", 0.01)


@pytest.mark.usefixtures("in_this_process")
def test_commands_that_keep_the_contract_conform(records: twosites.Application) -> None:
    assert [f for f in look(records) if f.problem] == []
    assert records.health == {"site-a": "writable", "site-b": "replicating"}


@pytest.mark.usefixtures("in_this_process")
def test_conformance_changes_no_copy_unless_it_is_asked_to(records: twosites.Application) -> None:
    assert [f for f in look(records, promotes=False) if f.problem] == []
    # not with a version that it must refuse either: it may not look at that
    assert {call.split()[0] for call in records.calls()} == {"status", "reference", "point"}


@pytest.mark.usefixtures("in_this_process")
def test_conformance_changes_nothing_at_the_original(records: twosites.Application) -> None:
    assert [f for f in look(records) if f.problem] == []
    changes = [c for verb in ("promote", "demote", "resync") for c in records.calls(verb)]
    assert changes and {c.split(" at ")[1] for c in changes} == {"site-b"}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("original", "copy"), [("replicating", "writable"), ("writable", "writable")]
)
def test_data_that_is_no_copy_that_follows_is_not_promoted_for_a_test(
    records: twosites.Application, original: str, copy: str
) -> None:
    records.is_at("site-a", health=original)
    records.is_at("site-b", health=copy)
    assert [f for f in look(records) if f.problem and "promoted" in f.check]
    assert [c for verb in ("promote", "demote", "resync") for c in records.calls(verb)] == []
    assert records.health == {"site-a": original, "site-b": copy}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("call", "how", "check"),
    [
        ("status at site-b", {"raw": "no json"}, "says how the data is"),
        (
            "status at site-b",
            {
                "does_nothing": True,
                "raw": '{"version": 1, "health": "replicating", "position": "1", "reached": true}',
            },
            "has not reached a position that there is not",
        ),
        (
            "status at site-b",
            {"raw": '{"version": 1, "health": "replicating", "position": "1"}'},
            "has reached its own position",
        ),
        ("status at site-b", {"raw": '{"version": 1, "health": "broken"}'}, "follows"),
        ("point at site-a", {"raw": '{"version": 1, "position": "99"}'}, "a position arrives"),
        ("promote at site-b", {"does_nothing": True, "raw": '{"version": 1}'}, "is writable"),
        ("promote at site-b", {"code": 1}, "is writable when it is promoted"),
        ("demote at site-b", {"does_nothing": True, "raw": '{"version": 1}'}, "is not writable"),
        ("resync at site-b", {"does_nothing": True, "raw": '{"version": 1}'}, "follows again"),
        ("reference at site-a", {"does_nothing": True, "raw": "{}"}, "refuses version 0"),
    ],
)
def test_commands_that_break_the_contract_differ(
    records: twosites.Application, call: str, how: dict[str, Any], check: str
) -> None:
    records.says(call, **how)
    differing = [f.check for f in look(records) if f.problem]
    assert [found for found in differing if check in found], differing


# The command line.


@pytest.fixture
def antipode(
    tmp_path: Path, records: twosites.Application, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any]]:
    """`antipode … -f json` with such a storage; its exit code and what it shows."""
    path = samples.write_config(tmp_path)
    path.write_text(f"{path.read_text()}storages:\n{records.configuration()}")

    def run(*words: str) -> tuple[int, Any]:
        code = main.main(["--config", str(path), *words, "-f", "json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out.strip() else None

    return run


SITES = ("--active", "site-a", "--backup", "site-b")


@pytest.mark.usefixtures("in_this_process")
def test_the_conformance_command_shows_each_finding(
    antipode: Callable[..., tuple[int, Any]], records: twosites.Application
) -> None:
    code, rows = antipode("datastore", "conformance", "pg", *SITES, "--promote")
    assert (code, {r["result"] for r in rows}) == (0, {"conforms"})
    records.says("point at site-a", raw='{"version": 1, "position": "99"}')
    code, rows = antipode("datastore", "conformance", "pg", *SITES)
    differs = [r for r in rows if r["result"] == "differs"]
    assert code == 1 and {r["site"] for r in differs} == {"site-b"}
    assert "99" in differs[0]["detail"]


def test_the_conformance_command_names_a_storage_that_there_is_not(
    antipode: Callable[..., tuple[int, Any]],
) -> None:
    assert antipode("datastore", "conformance", "another", *SITES)[0] == 2


def test_datastores_are_listed_with_their_kind(
    antipode: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "hlr.yaml"
    datastore = "{storage: pg, kind: application}"
    file.write_text(f"{samples.VNF_FILE}datastores:\n  records: {datastore}\n")
    assert antipode("vnf", "add", str(file))[0] == 0
    _, [row] = antipode("datastore", "list")
    assert (row["datastore"], row["kind"], row["driver"]) == ("records", "application", "command")

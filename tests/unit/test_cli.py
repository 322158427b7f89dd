# SPDX-License-Identifier: Apache-2.0
"""The command line: quick help, exit codes and error codes, no tracebacks, output for programs on
stdout alone.
"""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from antipode import config, identity, logs
from antipode.cli import app, main, progress
from antipode.cloud import site as cloud_site
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.engine.timeline import StepRecord
from antipode.errors import AntipodeError, ResourceFailed, SiteUnreachable
from antipode.model.event import Event
from antipode.recover import plan as planning
from antipode.runs import kind_of
from antipode.store.tables import QuestionRow
from antipode.store.vnfs import Vnfs
from tests.unit import samples
from tests.unit.fakecloud import FakeCloud, refuse

HEAVY = {
    "openstack",
    "keystoneauth1",
    "taskflow",
    "sqlalchemy",
    "alembic",
    "pydantic_core._pydantic_core.rich",
    "rich",
}


class Antipode:
    """`antipode` in this process, with its configuration in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.config = samples.write_config(folder)
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *arguments: str) -> int:
        code = main.main(["--config", str(self.config), *arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    def error(self) -> str:
        """The code of the error that the last command ended with."""
        return self.err.rpartition("antipode: [")[2].partition("]")[0]

    def mistakes(self, *arguments: str) -> list[tuple[int | None, str]]:
        """The lines and fields of the file that a command refuses, as a program reads them."""
        assert self(*arguments, "-f", "json") == 2
        error = json.loads(self.err)["error"]
        assert error["code"] == "invalid-file"
        return [(mistake["line"], mistake["field"]) for mistake in error["mistakes"]]

    def json(self, *arguments: str) -> Any:
        assert self(*arguments, "-f", "json") == 0, self.err
        return json.loads(self.out)

    def add_vnf(self) -> None:
        path = self.folder / "hlr.yaml"
        path.write_text(samples.VNF_FILE)
        assert self("vnf", "add", str(path)) == 0, self.err


@pytest.fixture
def antipode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Antipode:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logs, "log_to_stream", lambda *_: None)
    return Antipode(tmp_path, capsys)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["help", "failover"], ["plan", "drill", "--help"], ["--version"]],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['antipode', *{arguments!r}]\n"
        "from antipode.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "antipode" in done.stdout
    assert HEAVY & {m.split(".")[0] for m in done.stderr.split()} == set()


@pytest.mark.parametrize("arguments", [["vnf", "list"], ["vnf", "show", "hlr"], ["run", "list"]])
def test_a_look_at_what_the_database_has_imports_no_engine(
    arguments: list[str], tmp_path: Path
) -> None:
    config = str(samples.write_config(tmp_path))
    code = (
        f"import sys; sys.argv = ['antipode', '--config', {config!r}, *{arguments!r}]\n"
        "from antipode.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('imported', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.rpartition("imported")[2].split()
    assert "antipode.engine.deployment" in imported
    assert {"taskflow", "networkx"} & set(imported) == set()


def test_help_names_every_command_and_every_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "antipode.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(command in done.stdout for command in app.COMMANDS)
    assert all(f"\n  {code}  " in done.stdout for code in (0, 1, 2, 3, 4, 5, 6, 130))


def test_a_vnf_is_added_listed_and_replaced(antipode: Antipode) -> None:
    antipode.add_vnf()
    assert antipode.json("vnf", "list") == [
        {
            "vnf": "hlr",
            "active_site": "site-a",
            "state": "active",
            "generation": 1,
            "newest_point_age_s": None,
            "rpo_target_s": None,
            "rpo": "no-point",
            "two_active_copies": [],
            "backup": ["site-b"],
            "damaged": None,
        }
    ]
    assert antipode.json("vnf", "add", str(antipode.folder / "hlr.yaml"))["was"] == "replaced"


@pytest.mark.parametrize("form", ["json", "yaml", "table", "value", "csv"])
def test_every_form_of_output_works(antipode: Antipode, form: str) -> None:
    antipode.add_vnf()
    assert antipode("vnf", "list", "-f", form) == 0
    assert "hlr" in antipode.out


def test_a_vnf_file_that_is_wrong_ends_with_2_and_names_file_line_and_field(
    antipode: Antipode,
) -> None:
    path = antipode.folder / "hlr.yaml"
    path.write_text(samples.VNF_FILE.replace("boot_after", "bootafter"))
    assert antipode("vnf", "add", str(path)) == 2
    assert antipode.error() == "invalid-file"
    assert antipode.out == ""
    assert "Traceback" not in antipode.err
    assert antipode.mistakes("vnf", "add", str(path)) == [(7, "members[1].bootafter")]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("db", "d" * 300, (5, "members[0].server")),
        ("db", "d" * 300, (7, "members[1].boot_after[0]")),
        ("db", "''", (5, "members[0]")),
        ("members:", "map: {networks: {'': net-b}}\nmembers:", (4, "map.networks..[key]")),
    ],
)
def test_a_vnf_file_that_no_recovery_point_can_carry_is_refused(
    antipode: Antipode, old: str, new: str, place: tuple[int, str]
) -> None:
    path = antipode.folder / "hlr.yaml"
    path.write_text(samples.VNF_FILE.replace(old, new))
    assert place in antipode.mistakes("vnf", "add", str(path))


def test_a_vnf_whose_site_is_not_configured_is_refused_with_the_line(antipode: Antipode) -> None:
    path = antipode.folder / "hlr.yaml"
    path.write_text(samples.VNF_FILE.replace("backup: site-b", "backup: site-x"))
    assert antipode.mistakes("vnf", "add", str(path)) == [(3, "backup")]


def test_a_vault_at_the_primary_is_refused(antipode: Antipode) -> None:
    antipode.config.write_text(
        antipode.config.read_text().replace(
            f"directory: {antipode.folder / 'vault'}", "swift: {site: site-a}"
        )
    )
    path = antipode.folder / "hlr.yaml"
    path.write_text(samples.VNF_FILE)
    assert (2, "primary") in antipode.mistakes("vnf", "add", str(path))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["protect", "hrl"], "hrl"),
        (["run", "show", "x"], "run x"),
        (["recovery-point", "show", "hlr"], "hlr"),
        (["failover", "hlr", "--to", "site-x"], "site-x"),
    ],
)
def test_a_name_that_does_not_exist_ends_with_2(
    antipode: Antipode, arguments: list[str], named: str
) -> None:
    assert antipode(*arguments) == 2
    assert antipode.error() == "not-found"
    assert named in antipode.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["failover", "hlr", "--to", "site-b", "--recovery-point", "../x"],
        ["recovery-point", "show", "hlr", "../x"],
        ["recovery-point", "list", "../hlr"],
        ["protect", "hlr\n"],
        ["sandbox", "up", "--latency", "nan"],
        ["sandbox", "up", "--latency", "-1"],
        ["sandbox", "up", "--api", "70000"],
    ],
)
def test_an_argument_that_cannot_be_ends_with_2(antipode: Antipode, arguments: list[str]) -> None:
    assert antipode(*arguments) == 2
    assert antipode.error() == "invalid-input"


def test_a_column_that_there_is_not_ends_with_2(antipode: Antipode) -> None:
    assert antipode("vnf", "list", "-c", "nope") == 2
    assert (antipode.out, antipode.error()) == ("", "invalid-input")


def test_a_column_that_there_is_not_hides_no_result_of_a_change(antipode: Antipode) -> None:
    path = antipode.folder / "hlr.yaml"
    path.write_text(samples.VNF_FILE)
    assert antipode("vnf", "add", str(path), "-c", "nope", "-f", "json") == 0
    assert json.loads(antipode.out)["was"] == "added"
    assert "nope" in antipode.err


def test_a_missing_configuration_ends_with_2(antipode: Antipode) -> None:
    antipode.config.unlink()
    assert antipode("vnf", "list") == 2
    assert "antipode.yaml" in antipode.err


def test_a_site_that_does_not_answer_ends_with_5(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    antipode.add_vnf()
    unreachable(monkeypatch)
    assert antipode("protect", "hlr") == 5
    assert antipode.error() == "site-unreachable"
    runs = antipode.json("run", "list")
    assert [(r["state"], r["reason"]) for r in runs] == [("failed", "site-a does not answer")]
    shown = antipode.json("run", "show", runs[0]["run"])
    steps = [(s["step"], s["state"], s["result"]) for s in shown["steps"] if s["state"] != "noted"]
    assert steps == [("connect", "failed", {"error": "site-a does not answer"})]


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(name: str, cloud: str) -> Any:
        raise SiteUnreachable(f"{name} does not answer")

    monkeypatch.setattr(cloud_site, "connect", connect)


def test_site_check_tells_everything_and_ends_with_3_when_something_is_missing(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable(monkeypatch)
    assert antipode("site", "check", "-f", "json") == 3
    checks = json.loads(antipode.out)
    assert [(c["check"], c["site"], c["ok"]) for c in checks] == [
        ("reachable", "site-a", False),
        ("reachable", "site-b", False),
        ("vault vault", "-", True),
        ("keys", "-", True),
        ("recovery kit", "-", False),
        ("backup store", "-", False),
    ]


def test_site_check_asks_the_guest_agents_of_the_vnfs_whose_primary_a_site_is(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds = {"site-a": FakeCloud("site-a"), "site-b": FakeCloud("site-b", empty=True)}
    silent: set[str] = set()

    def before(event: str) -> None:
        if event.removeprefix("unquiesce ") in silent:
            refuse(409, "guest agent is not responding")

    clouds["site-a"].before = before
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: clouds[name].site)
    path = antipode.folder / "vnf.yaml"
    path.write_text(
        "vnf: v\nprimary: site-a\nbackup: site-b\nmembers: [{server: db}, {server: app}]\n"
    )
    assert antipode("vnf", "add", str(path)) == 0, antipode.err

    def checked() -> dict[str, Any]:
        antipode("site", "check", "-f", "json")
        return next(c for c in json.loads(antipode.out) if c["check"] == "vnf v")

    assert (checked()["site"], checked()["ok"]) == ("site-a", True)
    silent.add("app")
    assert not checked()["ok"]
    assert "server app" in checked()["detail"]


def test_a_vnf_whose_primary_is_dead_is_shown_from_its_newest_recovery_point(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from antipode.vault import points

    antipode.add_vnf()
    points.commit(deployment(antipode).vault, samples.point())
    unreachable(monkeypatch)
    shown = antipode.json("vnf", "show", "hlr")
    assert shown["seen"] == f"recovery point {samples.point().id}, because site-a does not answer"
    assert [s["server"] for s in shown["servers"]] == ["db", "front"]


def test_a_volume_is_shown_with_its_real_name_and_its_counterpart(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds = {"site-a": FakeCloud("site-a"), "site-b": FakeCloud("site-b", empty=True)}
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: clouds[name].site)
    path = antipode.folder / "vnf.yaml"
    path.write_text("vnf: v\nprimary: site-a\nbackup: site-b\nmembers: [{server: db}]\n")
    assert antipode("vnf", "add", str(path)) == 0, antipode.err
    row = {"reference": {"source-name": "volume-db-data"}, "size": 1, "safe_to_manage": True}
    clouds["site-b"].manageable = [{**row, "reason_not_safe": None, "cinder_id": None}]
    for wanted in ("db-data", "volume-db-data"):
        shown = antipode.json("volume", "show", "v", wanted)
        assert (shown["real_name"], shown["recovery_point"]) == ("volume-db-data", None)
        (there,) = shown["counterparts"]
        assert (there["site"], there["reference"]) == ("site-b", row["reference"])
    clouds["site-b"].manageable[0]["size"] = 2
    shown = antipode.json("volume", "show", "v", "db-data")
    assert (shown["counterparts"], len(shown["problems"])) == ([], 1)
    references = antipode.json("vnf", "show", "v")["real_references"]
    assert references["db-data"] == "host@rbd#pool/volume-db-data"


def test_a_volume_is_shown_though_a_backup_site_does_not_say_what_it_holds(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds = {"site-a": FakeCloud("site-a"), "site-b": FakeCloud("site-b", empty=True)}
    path = antipode.folder / "vnf.yaml"
    path.write_text("vnf: v\nprimary: site-a\nbackup: site-b\nmembers: [{server: db}]\n")
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: clouds[name].site)
    assert antipode("vnf", "add", str(path)) == 0, antipode.err
    clouds["site-b"].is_admin = False

    def connect(name: str, _: str) -> Any:
        if name == "site-b":
            raise SiteUnreachable("site-b does not answer")
        return clouds[name].site

    for change in (None, connect):
        if change:
            monkeypatch.setattr(cloud_site, "connect", change)
        shown = antipode.json("volume", "show", "v", "db-data")
        assert (shown["real_name"], shown["not_found_at"]) == ("volume-db-data", ["site-b"])
        assert [p.partition(":")[0] for p in shown["problems"]] == ["site-b"]


def test_a_volume_that_the_vnf_does_not_have_or_has_twice_is_wrong_input(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = FakeCloud("site-a")
    cloud.volumes["db-root"]["name"] = cloud.volumes["db-data"]["name"] = "twins"
    monkeypatch.setattr(cloud_site, "connect", lambda name, _: cloud.site)
    path = antipode.folder / "vnf.yaml"
    path.write_text("vnf: v\nprimary: site-a\nbackup: site-b\nmembers: [{server: db}]\n")
    assert antipode("vnf", "add", str(path)) == 0, antipode.err
    for wanted in ("nothing", "twins"):
        assert antipode("volume", "show", "v", wanted, "-f", "json") == 2
        assert json.loads(antipode.err)["error"]["code"] == "not-found"
    assert "db-data" in antipode.err


def deployment(antipode: Antipode) -> Deployment:
    from antipode import config

    return Deployment(config.load(str(antipode.config)))


def test_recovery_points_are_listed_shown_and_verified_without_the_primary(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from antipode.vault import points

    points.commit(deployment(antipode).vault, samples.point())
    unreachable(monkeypatch)
    (listed,) = antipode.json("recovery-point", "list", "hlr")
    assert (listed["id"], listed["incremental"], listed["state"]) == (
        samples.point().id,
        True,
        "signed",
    )
    volume = antipode.json("recovery-point", "show", "hlr")["volumes"][0]
    assert volume["chain"] == ["b-db-0", "b-db-1"]
    assert volume["real_reference"] == "host@rbd#pool"
    assert len(antipode.json("recovery-point", "verify", "hlr")) == 4


@pytest.mark.parametrize("verb", ["show", "verify", "delete"])
def test_a_point_that_is_not_there_is_named_as_such(antipode: Antipode, verb: str) -> None:
    from antipode.vault import points

    points.commit(deployment(antipode).vault, samples.point())
    antipode.add_vnf()
    assert antipode("recovery-point", verb, "hlr", "20261122T160501Z-000000", "-f", "json") == 2
    error = json.loads(antipode.err)["error"]
    assert error["code"] == "not-found"
    assert error["resource"] == "recovery point 20261122T160501Z-000000"


def test_a_point_that_does_not_verify_ends_with_1_after_its_findings(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from antipode.vault import points

    store = samples.MemoryStore()
    for backup in list(samples.point().backups.values())[1:]:
        store.hold(backup)
    monkeypatch.setattr(Deployment, "store_of", lambda *_: store)
    points.commit(deployment(antipode).vault, samples.point())
    assert antipode("recovery-point", "verify", "hlr", "-f", "json") == 1
    assert [f["ok"] for f in json.loads(antipode.out)] == [True, False, True, True]


class Typing:
    """A failover whose clouds are played, and an operator who types."""

    def __init__(self, antipode: Antipode, monkeypatch: pytest.MonkeyPatch) -> None:
        from antipode.operations import failover as failover_flow
        from antipode.vault import points

        points.commit(deployment(antipode).vault, samples.point())
        monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: samples.NamedSite(name))
        monkeypatch.setattr(
            planning,
            "make_plan",
            lambda *_: samples.plan(warnings=["the flavor has less memory"]),
        )
        monkeypatch.setattr(failover_flow, "failover", self._failover)
        self._patch = monkeypatch
        self.recovered = False

    def _failover(self, *_: Any) -> dict[str, Any]:
        self.recovered = True
        return {"run": "failover-1", "rto_s": 1.0}

    def types(self, words: str) -> None:
        self._patch.setattr(sys, "stdin", io.StringIO(words))


@pytest.fixture
def operator(antipode: Antipode, monkeypatch: pytest.MonkeyPatch) -> Typing:
    return Typing(antipode, monkeypatch)


@pytest.mark.parametrize("words", ["", "\n", "yes\n", "hl\n", "HLR\n"])
def test_a_mistyped_confirmation_ends_with_4_and_changes_nothing(
    antipode: Antipode, operator: Typing, words: str
) -> None:
    operator.types(words)
    assert antipode("failover", "hlr", "--to", "site-b") == 4
    assert not operator.recovered
    assert antipode.error() == "not-confirmed"
    assert antipode.json("run", "list") == []


def test_the_name_typed_rightly_begins_the_failover(antipode: Antipode, operator: Typing) -> None:
    operator.types("hlr\n")
    assert antipode("failover", "hlr", "--to", "site-b") == 0
    assert operator.recovered


def test_with_yes_nobody_is_asked_and_stdout_has_the_record_alone(
    antipode: Antipode, operator: Typing
) -> None:
    assert antipode.json("failover", "hlr", "--to", "site-b", "--yes") == {
        "run": "failover-1",
        "rto_s": 1.0,
    }
    assert "Type the name" not in antipode.err


def test_a_plan_alone_is_a_record_and_changes_nothing(antipode: Antipode, operator: Typing) -> None:
    shown = antipode.json("failover", "hlr", "--to", "site-b", "--plan")
    assert (shown["vnf"], shown["site"], shown["restored_gib"]) == ("hlr", "site-b", 2)
    assert [s["name"] for s in shown["servers"]] == ["db", "front"]
    assert shown["servers"][1]["ports"][0]["mac_address"] == "fa:16:3e:00:00:05"
    assert "user_data" not in shown["servers"][0]
    assert "the flavor has less memory" in shown["warnings"]
    assert not operator.recovered
    assert antipode.json("run", "list") == []


def test_what_will_happen_is_shown_before_the_question(
    antipode: Antipode, operator: Typing
) -> None:
    operator.types("")
    antipode("failover", "hlr", "--to", "site-b")
    shown, _, _ = antipode.err.partition("Type the name")
    for words in (
        "front",
        "small",
        "after db",
        "10.0.0.5",
        "fa:16:3e:00:00:05",
        "db-root",
        "1 GiB",
    ):
        assert words in shown
    assert "WARNING: the flavor has less memory" in shown


def test_the_plan_names_commands_and_addresses_that_both_sites_have(
    antipode: Antipode, operator: Typing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from antipode.model.vnf import Answers

    plan = samples.plan()
    asked = [Answers(tcp=5432), Answers(command=["check it", "{site}", "{address}"])]
    servers = [
        s.model_copy(update={"answers": a}) for s, a in zip(plan.servers, asked, strict=True)
    ]
    plan = plan.model_copy(update={"servers": servers})
    monkeypatch.setattr(planning, "make_plan", lambda *_: plan)
    operator.types("")
    antipode("failover", "hlr", "--to", "site-b")
    (shared,) = (line for line in antipode.err.splitlines() if "10.0.0.4:5432" in line)
    assert "answers.at" in shared
    assert "'check it' site-b 10.0.0.5" in antipode.err


def test_a_name_cannot_forge_a_line_of_the_plan(
    antipode: Antipode, operator: Typing, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = "x\x1b[2K\n  server harmless"
    plan = samples.plan(warnings=[forged])
    monkeypatch.setattr(planning, "make_plan", lambda *_: plan)
    operator.types("")
    antipode("failover", "hlr", "--to", "site-b")
    assert "\x1b" not in antipode.err
    assert not any(line.startswith("  server harmless") for line in antipode.err.splitlines())


def test_progress_off_a_terminal_is_a_plain_line_for_each_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    with progress.shown(stream) as observer:
        step = StepRecord("1.2", "quiesce", "db", started_at=0.0)
        observer.step_began(step)
        observer.step_ended(StepRecord("1.2", "quiesce", "db", 0.0, 0.25, "succeeded"))
        observer.step_ended(
            StepRecord("1.3", "snapshot", "vol", 0.0, 1.0, "failed", {"error": "quota"})
        )
    lines = stream.getvalue().splitlines()
    assert [line.split()[1:4] for line in lines] == [
        ["1.2", "quiesce", "db"],
        ["1.3", "snapshot", "vol"],
    ]
    assert lines[1].endswith("quota")


FREEZES_UNTIL_TOLD = """
import signal, sys, time
# as in a terminal: the caller may ignore them (nohup, a shell's background job),
# and children inherit that
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {root!r})
from tests.unit import samples
from antipode.cli.main import main
from antipode.engine import deployment
from antipode.protect.quiesced_snapshot import QuiescedSnapshot
from antipode.runs import protect as protect_flow
from antipode.transfer.cinder_backup import CinderBackup
deployment.cloud_site.connect = lambda name, cloud: samples.NamedSite(name)
protect_flow.discovery.discover = lambda *_: samples.topology()
protect_flow.problems_of = lambda *_: []
CinderBackup.roll_back = lambda *_: None
CinderBackup.needs = lambda *_: []
QuiescedSnapshot.release = lambda *_: print("cleaned", flush=True)
def freeze(*_):
    try:
        print("frozen", flush=True)  # the signal may come at once
        time.sleep(600)
    finally:
        print("thawed", flush=True)
QuiescedSnapshot.capture = freeze
sys.exit(main(["--config", {config!r}, "protect", "hlr"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_members_are_frozen_thaws_cleans_up_and_ends_with_130(
    antipode: Antipode, number: signal.Signals
) -> None:
    antipode.add_vnf()
    program = FREEZES_UNTIL_TOLD.format(
        root=str(Path(__file__).parents[2]), config=str(antipode.config)
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "frozen\n"
        assert antipode.json("run", "list")[0]["state"] == "running"
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=300)  # it does not wait for the end of the freeze
    assert process.returncode == 130, err
    assert out == "thawed\ncleaned\n"
    assert "antipode: [interrupted] " in err
    assert antipode.json("run", "list")[0]["state"] == "failed"


def test_a_run_whose_process_was_killed_is_shown_as_lost_and_holds_up_no_other(
    antipode: Antipode,
) -> None:
    antipode.add_vnf()
    program = FREEZES_UNTIL_TOLD.format(
        root=str(Path(__file__).parents[2]), config=str(antipode.config)
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "frozen\n"
        process.kill()
    (run,) = antipode.json("run", "list")
    assert (run["state"], antipode.json("run", "show", run["run"])["state"]) == ("lost", "lost")
    with deployment(antipode).claims.begin(new_run(kind_of("protect"), "hlr", {})) as successor:
        assert {r["run"]: r["state"] for r in antipode.json("run", "list")} == {
            run["run"]: "failed",
            successor.run: "running",
        }


RESTORES_UNTIL_TOLD = """
import signal, sys, time
# as in a terminal: the caller may ignore them (nohup, a shell's background job),
# and children inherit that
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {root!r})
from tests.unit import samples
from antipode.cli.main import main
from antipode.engine import deployment
from antipode.recover import ports
from antipode.recover.sources.backup import FromBackups
from antipode.runs import preparation
deployment.cloud_site.connect = lambda name, cloud: samples.NamedSite(name)
preparation.plan.make_plan = lambda *_: samples.plan()
ports.create_ports = lambda *_: []
def restore(*_):
    print("restoring\\n", end="", flush=True)  # in one piece: volumes are restored at once
    time.sleep(600)
FromBackups.provide = restore
sys.exit(main(["--config", {config!r}, "failover", "hlr", "--to", "site-b", "--yes"]))
"""


def test_a_signal_does_not_wait_for_restores_and_tells_how_to_go_on(antipode: Antipode) -> None:
    from antipode.vault import points

    points.commit(deployment(antipode).vault, samples.point())
    program = RESTORES_UNTIL_TOLD.format(
        root=str(Path(__file__).parents[2]), config=str(antipode.config)
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "restoring\n"
        process.terminate()
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert f"antipode failover hlr --to site-b --recovery-point {samples.point().id}" in err
    (run,) = antipode.json("run", "list")
    assert run["state"] == "failed"


@pytest.fixture
def lost(antipode: Antipode) -> str:
    """A protection whose process died before it had done anything."""
    with deployment(antipode).claims.begin(
        new_run(kind_of("protect"), "hlr", {"vnf": samples.vnf().model_dump(mode="json")})
    ) as claim:
        return claim.run


@pytest.mark.parametrize("words", ["", "no\n", "hlr\n"])
def test_an_abort_that_is_not_confirmed_ends_with_4_and_changes_nothing(
    antipode: Antipode, lost: str, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(words))
    assert antipode("run", "abort", lost) == 4
    assert antipode.error() == "not-confirmed"
    assert antipode.json("run", "show", lost)["state"] == "lost"


def test_a_failover_that_was_confirmed_long_ago_is_not_resumed_without_asking_again(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deployment(antipode).claims.begin(
        new_run(kind_of("failover"), "hlr", {"confirmed_at": time.time() - 7200})
    ) as claim:
        run = claim.run
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert antipode("run", "resume", run) == 4
    assert antipode.error() == "not-confirmed"
    assert antipode.json("run", "show", run)["state"] == "lost"


def test_a_lost_run_whose_site_is_dead_is_aborted_all_the_same_and_what_is_left_there_is_told(
    antipode: Antipode, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable(monkeypatch)
    told = antipode.json("run", "abort", lost, "--yes")
    assert told["state"] == "aborted"
    assert ["site-a" in left for left in told["left"]] == [True]
    assert antipode("run", "resume", lost) == 2
    assert antipode.error() == "invalid-input"


def test_a_run_that_another_process_is_at_is_not_resumed_and_ends_with_6(
    antipode: Antipode, lost: str
) -> None:
    with deployment(antipode).claims.take(lost):
        assert antipode("run", "resume", lost) == 6
        assert antipode.error() == "busy"
        assert antipode.json("run", "show", lost)["state"] == "running"


def test_an_error_of_a_run_ends_with_1_and_its_notes_are_told(
    antipode: Antipode, operator: Typing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from antipode.operations import failover as failover_flow

    def failover(*_: Any) -> Any:
        error = ResourceFailed("server db is in error")
        error.add_note("run again: antipode failover …")
        raise error

    monkeypatch.setattr(failover_flow, "failover", failover)
    assert antipode("failover", "hlr", "--to", "site-b", "--yes") == 1
    assert antipode.error() == "resource-failed"
    assert "antipode failover …" in antipode.err
    assert antipode("failover", "hlr", "--to", "site-b", "--yes", "-f", "json") == 1
    error = json.loads(antipode.err.splitlines()[-1])["error"]
    assert error == {
        "code": "resource-failed",
        "message": "server db is in error",
        "resource": "VNF hlr",
        "exit_code": 1,
        "notes": ["run again: antipode failover …"],
    }


def test_a_fault_of_antipode_itself_ends_with_1_and_without_a_traceback(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("name")

    monkeypatch.setattr(Vnfs, "stored", broken)
    assert antipode("vnf", "list") == 1
    assert antipode.error() == "unexpected"
    assert "Traceback" not in antipode.err


def test_every_kind_of_error_has_a_code_of_its_own() -> None:
    from antipode import errors

    kinds = [
        k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, AntipodeError)
    ]
    codes = [k.code for k in kinds]
    assert len(set(codes)) == len(codes)


def test_a_record_is_shown_as_csv(antipode: Antipode) -> None:
    antipode.add_vnf()
    assert antipode("vnf", "add", str(antipode.folder / "hlr.yaml"), "-f", "csv") == 0
    (row,) = csv.DictReader(io.StringIO(antipode.out))
    assert (row["vnf"], json.loads(row["members"])) == ("hlr", ["db", "front"])


def test_shown_records_fit_into_100_columns(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from antipode.vault import points

    antipode.add_vnf()
    points.commit(deployment(antipode).vault, samples.point(made_by="antipode " + "x" * 300))
    unreachable(monkeypatch)
    assert antipode("protect", "hlr") == 5
    run = antipode.json("run", "list")[0]["run"]
    for arguments in (
        ["vnf", "show", "hlr"],
        ["recovery-point", "show", "hlr"],
        ["run", "show", run],
    ):
        assert antipode(*arguments) == 0, antipode.err
        assert max(len(line) for line in antipode.out.splitlines()) <= 100
    assert antipode("vnf", "show", "hlr", "--max-width", "70") == 0
    assert max(len(line) for line in antipode.out.splitlines()) <= 70


# antipode vnf remove


def test_a_vnf_is_removed_and_its_recovery_points_stay(antipode: Antipode) -> None:
    from antipode.vault import points

    antipode.add_vnf()
    points.commit(deployment(antipode).vault, samples.point())
    removed = antipode.json("vnf", "remove", "hlr", "--yes")
    assert str(antipode.folder / "vault") in " ".join(removed["stays"])
    assert deployment(antipode).vnfs.names() == []
    assert len(antipode.json("recovery-point", "list", "hlr")) == 1
    (listed,) = antipode.json("vnf", "list")  # from the vault, as on a host that never knew it
    assert listed["newest_point_age_s"] > 0
    assert antipode("vnf", "remove", "hlr", "--yes") == 2


def test_a_vnf_is_removed_only_when_its_name_is_typed(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    antipode.add_vnf()
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    assert antipode("vnf", "remove", "hlr") == 4
    assert len(antipode.json("vnf", "list")) == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO("hlr\n"))
    assert antipode("vnf", "remove", "hlr") == 0
    assert antipode.json("vnf", "list") == []


def test_a_vnf_with_a_run_that_has_not_ended_is_not_removed(antipode: Antipode, lost: str) -> None:
    antipode.add_vnf()
    assert antipode("vnf", "remove", "hlr", "--yes") == 6
    assert len(antipode.json("vnf", "list")) == 1


@pytest.mark.parametrize("stored", ['"{"', '{"vnf": 1}', "nonsense"])
def test_a_damaged_definition_is_listed_replaced_and_removed(
    antipode: Antipode, stored: str
) -> None:
    antipode.add_vnf()

    def damage() -> None:
        with closing(sqlite3.connect(antipode.folder / "antipode.db")) as connection, connection:
            connection.execute("UPDATE vnfs SET definition = ?", (stored,))

    damage()
    assert antipode.json("vnf", "list")[0]["damaged"]
    assert antipode("protect", "hlr") == 2
    antipode.add_vnf()
    assert antipode.json("vnf", "list")[0]["damaged"] is None
    damage()
    assert antipode("vnf", "remove", "hlr", "--yes") == 0
    assert antipode.json("vnf", "list") == []


def test_a_name_that_is_no_text_is_refused_and_not_stored(antipode: Antipode) -> None:
    path = antipode.folder / "hlr.yaml"
    path.write_text(samples.VNF_FILE.replace("server: db", 'server: "db\\ud800"'))
    assert (5, "members[0].server") in antipode.mistakes("vnf", "add", str(path))
    assert antipode.json("vnf", "list") == []


def test_strict_ascii_output_does_not_fail_after_the_work(antipode: Antipode) -> None:
    antipode.add_vnf()
    program = (
        "import sys\n"
        "from antipode.store.vnfs import Vnfs\n"
        "from antipode.errors import InvalidInput\n"
        "Vnfs.stored = lambda _: {'hlr': InvalidInput('z\\xfcrich \\u2026 \\ud800')}\n"
        "from antipode.cli.main import main\n"
        f"sys.exit(main(['--config', {str(antipode.config)!r}, 'vnf', 'list']))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "LANG": "C"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"z\\xfcrich" in done.stdout


INTERRUPTED_AT_AN_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupts:
    def find_spec(self, name, *_):
        if name == "cliff.app":
            os.kill(os.getpid(), signal.SIGINT)
from antipode.cli.main import main
sys.meta_path.insert(0, Interrupts())
sys.exit(main(["vnf", "list"]))
"""


def test_an_interrupt_while_modules_are_imported_ends_with_130_and_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT_AN_IMPORT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_a_damaged_flow_database_is_named(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    antipode.add_vnf()
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: samples.NamedSite(name))
    flows = antipode.folder / "flows.db"
    flows.write_bytes(b"no database" * 1000)
    assert antipode("protect", "hlr") == 1
    assert str(flows) in antipode.err


def test_the_database_is_its_owners_alone_also_an_older_one(antipode: Antipode) -> None:
    database = antipode.folder / "antipode.db"
    database.touch()
    database.chmod(0o644)
    antipode.add_vnf()
    assert database.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", [c for c in app.COMMANDS if c != "serve"])
def test_the_help_of_a_command_has_an_example_that_its_parser_takes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    application = app.Antipode()
    factory, name, _ = application.command_manager.find_command(command.split())
    parser = factory(application, None, cmd_name=name).get_parser(f"antipode {name}")
    assert factory.examples
    for example in factory.examples:
        words = example.split()
        assert words[: 1 + len(command.split())] == ["antipode", *command.split()]
        parser.parse_args(words[1 + len(command.split()) :])


def test_schedules_are_listed_paused_and_resumed(antipode: Antipode) -> None:
    file = antipode.folder / "hlr.yaml"
    file.write_text(samples.VNF_FILE + "protections: {schedule: {every: 15m}}\n")
    assert antipode("vnf", "add", str(file)) == 0
    assert antipode("protection", "list", "-f", "json") == 0
    [row] = json.loads(antipode.out)
    assert (row["schedule"], row["paused_at"]) == ("every 15m", None)
    assert row["next_at"].endswith(("00.000Z", "30.000Z"))
    assert antipode("protection", "pause", "hlr", "--reason", "upgrade", "-f", "json") == 0
    assert json.loads(antipode.out)["paused"] == ["quiesced-snapshot"]
    assert antipode("protection", "list", "hlr", "-f", "json") == 0
    [row] = json.loads(antipode.out)
    assert (row["next_at"], row["reason"]) == (None, "upgrade")
    assert antipode("protection", "resume", "hlr", "-f", "json") == 0
    assert json.loads(antipode.out)["resumed"] == ["quiesced-snapshot"]
    assert antipode("protection", "pause", "hlr", "--option", "other") == 2
    assert antipode("protection", "pause", "smf") == 2


def test_events_are_listed_the_oldest_first(antipode: Antipode) -> None:
    deployment = Deployment(config.load(str(antipode.config)))
    for number in range(3):
        event = Event(f"e-{number}", "dr.protect.end", "vnf/hlr", float(number), {"vnf": "hlr"})
        deployment.events.note(event, [])
    assert antipode("event", "list", "--most", "2", "-f", "json") == 0
    listed = json.loads(antipode.out)
    assert [row["id"] for row in listed] == ["e-1", "e-2"]
    assert listed[0]["data"] == {"vnf": "hlr"}
    for wrong in ("0", "-1", "many", "1" * 5000):
        assert antipode("event", "list", "--most", wrong) == 2


def test_a_question_of_a_run_is_shown_and_answered(antipode: Antipode) -> None:
    here = Deployment(config.load(str(antipode.config)))
    with here.claims.begin(new_run(kind_of("failover"), "hlr", {})) as claim:
        now, run = time.time(), claim.run
        assert antipode("run", "answer", run, "--yes") == 2
        assert antipode.error() == "not-found"
        here.questions.ask(
            QuestionRow(
                run=run,
                step="power",
                whole=run,
                message="Is the power back?",
                wants="yes-no",
                asked_at=now,
                expires_at=now + 3600,
            )
        )
        assert [r["state"] for r in antipode.json("run", "list")] == ["waiting for input"]
        [shown] = antipode.json("run", "show", run)["questions"]
        assert (shown["step"], shown["answered_by"]) == ("power", None)
        assert antipode("run", "answer", run, "power", "--text", "yes") == 2
        told = antipode.json("run", "answer", run, "--no")
        assert (told["run"], told["answer"], told["state"]) == (run, "no", "running")
        assert antipode("run", "answer", run, "power", "--yes") == 2


def test_a_run_that_awaits_approval_is_shown_approved_by_another_and_rejected(
    antipode: Antipode, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Deployment(config.load(str(antipode.config)))
    runs = []
    for vnf in ("hlr", "mme"):
        row = new_run(kind_of("failover"), vnf, {"to": "site-b"})
        row.author, row.approvals_needed, row.approve_before = "alice@h", 1, time.time() + 60
        runs.append(row.id)
        here.approvals.ask(row)
    assert {r["state"] for r in antipode.json("run", "list")} == {"awaiting approval"}
    assert antipode.json("run", "show", runs[0])["author"] == "alice@h"
    monkeypatch.setattr(identity, "current", lambda: "alice@other")
    assert antipode("run", "approve", runs[0], "--yes") == 2
    monkeypatch.setattr(identity, "current", lambda: "bob@h")
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
    assert antipode("run", "approve", runs[0]) == 4
    told = antipode.json("run", "approve", runs[0], "--yes")
    assert (told["state"], told["approved_by"]) == ("queued", ["bob@h"])
    told = antipode.json("run", "reject", runs[1], "--reason", "not today")
    assert told["state"] == "rejected"
    assert antipode("run", "resume", runs[1]) == 2

# SPDX-License-Identifier: Apache-2.0
"""The bench's arithmetic: medians, ratios and what they say about the goals; and how a client's
cost is counted.
"""

from __future__ import annotations

import http.server
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from keystoneauth1.exceptions import ClientException

from bench import engine, replicated, restores, standing, streams, verdict
from bench.cloud import Cloud, Json
from bench.floor import snapshot_quiesced
from bench.spent import ClientFailed, Spent, run
from bench.verdict import GOALS, Sample, judge, medians, ratio, report, table


def samples(**values: list[float]) -> list[Sample]:
    """`antipode_window_s=[1, 2]`: one sample for each value, in rounds."""
    named = [(name.split("_", 1), of) for name, of in values.items()]
    return [
        Sample(i, client, measure, value)
        for (client, measure), of in named
        for i, value in enumerate(of, 1)
    ]


def test_the_median_over_rounds_is_what_counts_not_the_best_or_the_last() -> None:
    assert medians(samples(antipode_window_s=[3.0, 9.0, 4.0], floor_window_s=[3.0, 5.0])) == {
        "window_s": {"antipode": 4.0, "floor": 4.0}
    }


def test_a_goal_against_the_floor_is_met_up_to_its_limit_and_not_beyond() -> None:
    middle = {
        "full_s": {"antipode": 115.0, "floor": 100.0},
        "recover_s": {"antipode": 116.0, "floor": 100.0},
    }
    met = {v.goal.measure: v.met for v in judge(middle)}
    assert met["full_s"] is True
    assert met["recover_s"] is False


def test_the_window_must_be_five_times_shorter_than_that_of_the_command_line() -> None:
    def of(cli: float) -> bool | None:
        return next(
            v.met for v in judge({"window_s": {"antipode": 4.0, "cli": cli}}) if v.goal.shorter
        )

    assert of(20.0) is True
    assert of(19.9) is False


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert all(v.ratio is None and v.met is None and "not measured" in str(v) for v in judge({}))
    assert ratio({"antipode": 1.0}, "antipode", "floor") is None


def test_the_report_is_json_and_names_every_goal() -> None:
    document = json.loads(
        json.dumps(
            report(
                samples(antipode_window_s=[4.0], floor_window_s=[3.6], cli_window_s=[24.0]),
                rounds=1,
            )
        )
    )
    assert document["ratios"]["window_s"] == {
        "antipode_to_floor": pytest.approx(1.111, abs=0.01),
        "cli_to_antipode": 6.0,
    }
    assert [g["measure"] for g in document["goals"]] == [g.measure for g in GOALS]


def test_the_table_has_a_dash_where_a_client_took_no_part() -> None:
    line = next(
        x
        for x in table({"recover_s": {"antipode": 130.0, "floor": 120.0}}).splitlines()
        if x.startswith("recover")
    )
    assert line.split() == ["recover,", "s", "130.0", "120.0", "-", "1.08", "-"]


def test_every_http_request_of_a_python_client_is_counted(tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing in the test's output."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ask = (
            "import urllib.request as r; "
            f"[r.urlopen('http://127.0.0.1:{server.server_port}/').read() for _ in range(3)]; "
            "print('done')"
        )
        spent = run([sys.executable, "-c", ask], {}, tmp_path / "client.log")
        server.shutdown()
    assert (spent.output, spent.calls) == ("done\n", 3)
    assert 0 < spent.cpu_s < 60


def test_a_client_that_fails_is_no_measurement_and_its_reason_is_shown(tmp_path: Path) -> None:
    with pytest.raises(ClientFailed, match=r"(?s)3.*no such volume"):
        run(["sh", "-c", "echo no such volume >&2; exit 3"], {}, tmp_path / "client.log")


class Brittle:
    """Site that freezes and thaws, but cannot snapshot; the first thaw of `app` fails."""

    name = "site-a"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.volume = self

    def act(self, server_id: str, action: str) -> None:
        self.asked.append((server_id, action))
        if (server_id, action) == ("app", "unquiesce") and self.asked.count(
            (server_id, action)
        ) == 1:
            raise ClientException("the agent does not answer")

    def post(self, path: str, json: object) -> None:
        raise ClientException("quota exceeded for snapshots")


def test_the_floor_thaws_everybody_in_reverse_and_again_who_refused_when_a_snapshot_fails() -> None:
    site = Brittle()
    servers = [
        {"id": n, "name": n, "volumes": [{"id": f"{n}-root"}]} for n in ("db", "app", "front")
    ]
    with pytest.raises(ClientException, match="quota exceeded"):
        snapshot_quiesced(cast("Cloud", site), servers, "name")
    assert site.asked == [
        *((n, "quiesce") for n in ("db", "app", "front")),
        *((n, "unquiesce") for n in ("front", "app", "db")),
        ("app", "unquiesce"),
    ]


SCRIPT = Path(__file__).parents[2] / "bench/openstack-cli.sh"


needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="the script is for the lab, with its bash and date"
)


def run_script(
    act: str, folder: Path, openstack: str
) -> tuple[subprocess.CompletedProcess[str], list[str], list[str]]:
    """Run the command line script with an `openstack` that answers by its arguments as the given
    `case` patterns say.

    Returns how it ended, what `openstack` was called with, and what `curl` was.
    """
    bin = folder / "bin"
    bin.mkdir()
    told, asked = folder / "told", folder / "asked"
    answers = f"""{openstack}
    *"token issue"*) echo token ;;
    *"catalog show"*) echo '{{"endpoints": [{{"interface": "public", "url": "http://api"}}]}}' ;;
    *) echo "not known here: $*" >&2; exit 99 ;;"""
    programs = {
        "openstack": f'echo "$*" >>{shlex.quote(str(told))}\ncase "$*" in\n{answers}\nesac\n',
        "curl": f'echo "$*" >>{shlex.quote(str(asked))}\n',
    }
    for name, text in programs.items():
        (bin / name).write_text(f"#!/bin/bash\n{text}")
        (bin / name).chmod(0o755)
    (folder / "vnf.json").write_text(
        '{"map": {"networks": {"net": "net-b"}, "volume_types": {}, "flavors": {}, '
        '"security_groups": {}}}'
    )
    names = {
        "PRIMARY": "a",
        "BACKUP": "b",
        "MEMBERS": "db app",
        "BOOT": "db",
        "NAME": "n",
        "OPENSTACK": "openstack",
    }
    paths = {
        "STATE": str(folder),
        "VNF": str(folder / "vnf.json"),
        "BENCH_CALLS": str(folder / "calls"),
    }
    environment = {**names, **paths, "PATH": f"{bin}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(SCRIPT), act],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done, told.read_text().splitlines(), asked.read_text().splitlines()


@needs_linux
def test_the_command_line_script_thaws_in_reverse_when_a_snapshot_fails_in_its_window(
    tmp_path: Path,
) -> None:
    openstack = """
    *"server show db"*) echo '{"id": "id-db"}' ;;
    *"server show app"*) echo '{"id": "id-app"}' ;;
    *"server volume list"*) echo '[{"Device": "/dev/vda", "Volume ID": "v1"}]' ;;
    *"volume show"*) echo '{}' ;;
    *"keypair show"*|*"port list"*) ;;
    *"snapshot create"*) echo "status must be available, but current status is: in-use" >&2
        exit 1 ;;"""
    done, _, asked = run_script("full", tmp_path, openstack)
    assert done.returncode != 0
    assert "in-use" in done.stderr
    calls = [
        (line.split("/")[-2], "unquiesce" if "unquiesce" in line else "quiesce") for line in asked
    ]
    assert calls == [
        ("id-db", "quiesce"),
        ("id-app", "quiesce"),
        ("id-app", "unquiesce"),
        ("id-db", "unquiesce"),
    ]


@needs_linux
def test_the_command_line_script_restores_from_the_newest_of_a_chain_after_importing_all_of_it(
    tmp_path: Path,
) -> None:
    for member in ("db", "app"):
        (tmp_path / member).mkdir()
        (tmp_path / member / "volumes").write_text("")
    server = {
        "flavor": {"original_name": "tiny"},
        "OS-EXT-SRV-ATTR:user_data": "cm9sZT1kYg==",
        "config_drive": True,
        "key_name": "key",
    }
    port = {"mac_address": "fa:16:3e:00:00:01", "fixed_ips": [{"ip_address": "10.7.0.11"}]}
    files = {
        "db/server": json.dumps(server),
        "db/volumes": "v1\n",
        "db/volume-v1": '{"name": "db-root", "size": 1, "type": "standard"}',
        "db/ports": "p1\n",
        "db/port-p1": json.dumps(port),
        "db/network-p1": "net",
        "db/group-p1": "group",
        "key-key": "ssh-ed25519 AAAA",
        "chain-v1": "base\nincrement\n",
        **{
            f"record-{link}": json.dumps(
                {"backup_service": "s", "backup_url": f"url-{link}", "name": "n"}
            )
            for link in ("base", "increment")
        },
        "answers-db": 'echo "$1" >"$STATE/answered"',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    openstack = """
    *"keypair show"*) ;;
    *"backup show"*|*"volume show"*) echo available ;;
    *"server show"*) echo ACTIVE ;;
    *"create"*) echo new-id ;;"""
    done, told, asked = run_script("recover", tmp_path, openstack)
    assert done.returncode == 0, done.stderr
    assert [url for line in asked for url in ("url-base", "url-increment") if url in line] == [
        "url-base",
        "url-increment",
    ]
    assert any("volume create --backup increment" in line for line in told)
    assert any(
        "--network net-b --mac-address fa:16:3e:00:00:01 --fixed-ip ip-address=10.7.0.11" in line
        for line in told
    )
    assert (tmp_path / "answered").read_text() == "10.7.0.11\n"
    assert json.loads(done.stdout)["window_s"] is None


def test_what_the_engine_costs_is_measured_on_whole_runs_and_judged_beside_a_real_one() -> None:
    costs = engine.measure(protected=4, recovered=4)
    assert (costs.protect.volumes, costs.protect.tasks, costs.failover.tasks) == (4, 9, 9)
    assert costs.failover.steps > costs.failover.tasks
    slow, fast = (next(costs.lines(costs.protect.seconds * times)) for times in (60, 40))
    assert slow.endswith("at most 2%: met")
    assert fast.endswith("at most 2%: NOT MET")


def test_the_ways_of_restoring_take_turns_and_leave_no_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    def way(name: str) -> Callable[[Cloud, str, Json], str]:
        def restore(site: Cloud, backup: str, volume: Json) -> str:
            done.append(f"{name} {backup}")
            return f"{name}-{backup}"

        return restore

    monkeypatch.setattr(restores, "WAYS", {name: way(name) for name in ("created", "blank")})
    monkeypatch.setattr(
        restores, "remove", lambda site, kind, resource: done.append(f"remove {resource}")
    )
    chain = {"backup": "b", "size": 1}
    measured = restores.measure_ways(cast("Cloud", Brittle()), [chain], rounds=2)
    assert {name: len(of) for name, of in measured.items()} == {"created": 2, "blank": 2}
    in_turn = ("created", "blank", "blank", "created")
    assert done == [x for name in in_turn for x in (f"{name} b", f"remove {name}-b")]


def test_a_deep_verification_is_compared_with_the_median_of_each_floor() -> None:
    spent = [Spent("", 0.0, wall, 1.0, 100) for wall in (30.0, 20.0, 90.0)]
    document = restores.report(
        {"created": [1.0, 9.0, 2.0]},
        spent,
        {"created": [15.0, 10.0, 20.0], "blank": [60.0]},
        [{"backup": "a", "size": 1}, {"backup": "b", "size": 3}],
    )
    assert json.loads(json.dumps(document)) == document
    assert document["verify_deep_by_floor"] == {"created": 2.0, "blank": 0.5}
    assert document["ways_median_s"] == {"created": 2.0}
    assert (document["volumes"], document["gib"]) == (2, 4)


@pytest.mark.parametrize(("given", "rounds"), [([], 3), (["--rounds", "1"], 1)])
def test_the_rounds_of_the_restores_are_an_argument(given: list[str], rounds: int) -> None:
    assert restores.arguments().parse_args(given).rounds == rounds


@pytest.mark.parametrize("rounds", ["0", "-1", "many"])
def test_less_than_a_round_is_refused(rounds: str) -> None:
    with pytest.raises(SystemExit):
        restores.arguments().parse_args(["--rounds", rounds])


@pytest.mark.parametrize(
    ("floor_s", "incremental_s", "met"),
    [(10.0, 65.0, [True, True]), (9.9, 65.0, [False, True]), (10.0, 64.9, [True, False])],
)
def test_a_point_of_states_is_judged_beside_its_floor_and_an_increment(
    floor_s: float, incremental_s: float, met: list[bool]
) -> None:
    took = {"antipode": 13.0, "floor": floor_s, "incremental": incremental_s}
    samples = [verdict.Sample(1, client, "states_s", s) for client, s in took.items()]
    found = verdict.judge(verdict.medians(samples), verdict.GOALS_OF_STATES)
    assert [v.met for v in found] == met


def test_a_point_is_missed_that_fails_or_is_not_whole_when_the_next_is_due() -> None:
    clock = [0.0]

    def protect(number: int) -> None:
        clock[0] += {1: 61.0}.get(number, 5.0)
        if number == 3:
            raise ClientFailed("it did not arrive")

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    missed = replicated.each_minute(protect, 5, now=lambda: clock[0], sleep=sleep)
    assert missed == [1, 3]
    assert clock[0] == 4 * 60 + 5


def round_of(**other: float) -> standing.Round:
    usual: dict[str, Any] = {
        "failover_s": 34.0,
        "boot_s": 30.0,
        "restored_failover_s": 70.0,
        "apply_full_s": 9.0,
        "apply_s": 3.0,
        "write_s": 1.0,
        "restore_s": 31.0,
        "fetched_bytes": 1,
        "written_bytes": 1,
        "mover_mib": 200.0,
        "mover_cpu_s": 1.0,
    }
    return standing.Round(**{**usual, **other})


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"failover_s": 36.0}, [0]),
        ({"apply_s": 3.2}, [1]),
        ({"mover_mib": 257.0}, [2]),
    ],
    ids=str,
)
def test_goals_of_standing_volumes_are_met_up_to_their_limits(
    changed: dict[str, float], missed: list[int]
) -> None:
    said = standing.judged([round_of(**changed)])
    assert [i for i, words in enumerate(said) if "NOT MET" in words] == missed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's peak is there")
def test_the_most_memory_of_a_process_is_that_which_the_kernel_has_kept() -> None:
    assert standing.peak_mib(os.getpid()) > 1
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert standing.peak_mib(ended.pid) == 0


def increment_of(kind: str, by: str, seconds: float, stored: int) -> streams.Increment:
    return streams.Increment(kind, by, seconds, stored, cpu_s=1.0, services_cpu_s=1.0)


@pytest.mark.parametrize(
    ("contiguous", "scattered", "missed"),
    [
        ((1.0, 1.2), (1.0, 1.2), []),
        ((1.1, 1.2), (1.0, 1.2), [0]),
        ((1.0, 1.3), (1.0, 1.2), [1]),
        ((1.0, 1.2), (1.1, 1.2), [3]),
        ((1.0, 1.2), (1.0, 1.3), [4]),
    ],
)
def test_goals_of_change_streams_are_met_up_to_their_limits(
    contiguous: tuple[float, float], scattered: tuple[float, float], missed: list[int]
) -> None:
    samples = []
    for kind, (seconds, times) in (("contiguous", contiguous), ("scattered", scattered)):
        samples += [
            increment_of(kind, "streams", seconds, int(streams.CHANGED * times)),
            increment_of(kind, "backups", streams.TIMES[kind], 1),
        ]
    said = streams.judged(samples)
    assert [i for i, words in enumerate(said) if "NOT MET" in words] == missed


@pytest.mark.parametrize("kind", streams.TIMES)
def test_each_kind_of_change_is_of_the_same_size_and_writes_no_byte_twice(kind: str) -> None:
    for seed in range(1000, 1010):
        where = sorted(streams.ranges(kind, seed))
        assert sum(length for _, length in where) == streams.CHANGED
        ends = [offset + length for offset, length in where]
        assert all(end <= at for end, (at, _) in zip(ends, where[1:], strict=False))
        assert ends[-1] <= 200 << 20

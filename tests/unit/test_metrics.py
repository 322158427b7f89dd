# SPDX-License-Identifier: Apache-2.0
"""Metrics: what Prometheus reads of a service, and that rules, dashboard and page name nothing
else.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prometheus_client as prometheus
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML
from sqlalchemy.exc import OperationalError

from antipode import config
from antipode.config import MetricsConfig
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.errors import AntipodeError, SiteUnreachable
from antipode.model.forecast import Forecast
from antipode.model.readiness import Finding, Level
from antipode.model.state import VnfState
from antipode.model.vnf import Vnf
from antipode.operations.vnfs import add
from antipode.runs import KINDS, kind_of
from antipode.runs import forecast as forecasting
from antipode.service import observer as observing
from antipode.service.metrics import Metrics, served
from antipode.service.observer import Observed, Observer
from antipode.service.reachability import Reachability
from antipode.store.runs import Runs
from antipode.vault import points
from antipode.vault.directory import DirectoryVault
from tests.ports import free_port
from tests.unit import samples

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
NAME = re.compile(r"antipode[_:][a-z_:]+")


class World:
    """A deployment with one VNF, an observer that has looked once, and its metrics."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deployment = Deployment(config.load(str(samples.write_config(folder))))
        self.deployment.vnfs.put(samples.vnf(rpo="30m"))
        self.observer = Observer(self.deployment)
        self.metrics = Metrics(self.deployment, self.observer)

    def commit(self, minutes_ago: float, generation: int = 1) -> float:
        moment = datetime.now(UTC) - timedelta(minutes=minutes_ago)
        name = f"{moment:%Y%m%dT%H%M%SZ}-000000"
        point = samples.point(name, consistent_at=moment.isoformat(), generation=generation)
        points.commit(self.deployment.vault, point)
        return moment.timestamp()

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of a metric, by the values of their labels."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name
        }

    def ended(self, kind: str = "protect", state: str = "succeeded", **result: Any) -> None:
        """A run of the VNF that has taken a minute."""
        row = new_run(kind_of(kind), "hlr", {})
        run = row.id
        row.started_at = time.time() - 60
        self.deployment.runs.create(row)
        self.deployment.runs.end(run, 0, state, time.time(), None, result)
        self.metrics.run_ended(self.deployment.runs.get(run))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


POINT = "antipode_recovery_point_timestamp_seconds"
STATUS = "antipode_vnf_protection_status"


def test_the_newest_valid_point_of_a_vnf_is_shown_with_its_target(world: World) -> None:
    world.commit(20)
    moment = world.commit(10)
    world.observer.look()
    [(labels, value)] = world.series(POINT).items()
    assert labels == ("hlr", "site-a", "application")
    assert value == pytest.approx(moment, abs=0.001)
    assert world.series("antipode_rpo_target_seconds") == {("hlr",): 1800}
    assert world.series(STATUS) == {("hlr",): 1}


def test_a_vnf_without_a_point_is_unprotected_and_has_no_moment(world: World) -> None:
    world.observer.look()
    assert world.series(POINT) == {}
    assert world.series(STATUS) == {("hlr",): 0}


@pytest.mark.parametrize("how", ["queued", "claimed", "known elsewhere", "done"])
def test_a_failover_clears_the_point_at_once_though_the_vaults_were_not_looked_at_since(
    world: World, how: str
) -> None:
    world.commit(1)
    world.observer.look()
    assert world.series(STATUS) == {("hlr",): 1}
    if how in ("queued", "claimed"):
        row = new_run(kind_of("failover"), "hlr", {})
        row.state = "queued" if how == "queued" else "running"
        world.deployment.runs.create(row)
    else:
        state = VnfState.ACTIVE if how == "done" else VnfState.FAILING_OVER
        world.deployment.states.keep(samples.moved(state))
    assert world.series(POINT) == {}
    assert world.series(STATUS) == {("hlr",): 0}


def test_a_point_that_was_damaged_is_noticed_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = world.commit(20)
    world.commit(10)
    world.observer.look()
    damaged = sorted((world.folder / "vault" / "hlr").glob("*.json"))[-1]
    damaged.write_text(damaged.read_text()[:-50])
    world.observer.look()  # a point that is there still is not read again each time
    assert list(world.series(POINT).values()) != [pytest.approx(older, abs=0.001)]
    monkeypatch.setattr(observing, "READ_AGAIN_S", 0)
    world.observer.look()
    assert list(world.series(POINT).values()) == [pytest.approx(older, abs=0.001)]


def test_a_vault_that_does_not_answer_is_down_and_what_was_seen_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.commit(10)
    world.observer.look()
    seen = world.series(POINT)

    asked: list[object] = []

    def silent(*about: object) -> None:
        asked.append(about)
        raise SiteUnreachable("site-b does not answer")

    monkeypatch.setattr(DirectoryVault, "list", silent)
    world.observer.look()
    assert len(asked) == 1  # no VNF waits for it once more
    assert world.series("antipode_vault_up") == {("vault",): 0}
    assert world.series(POINT) == seen
    assert set(world.observer.trouble) == {"vault vault", "VNF hlr"}
    monkeypatch.undo()
    world.observer.look()
    assert world.series("antipode_vault_up") == {("vault",): 1}
    assert world.observer.trouble == {}


def test_a_vnf_of_which_nothing_can_be_seen_is_shown_as_such(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = "antipode_vnf_unseen"
    assert world.series(unseen) == {}  # it was not looked yet
    add(world.deployment, samples.vnf(vnf="sms"))
    observe = world.observer._observe

    def falls(vnf: Vnf) -> Observed:
        if vnf.vnf == "hlr":
            raise ZeroDivisionError
        return observe(vnf)

    monkeypatch.setattr(world.observer, "_observe", falls)
    world.observer.look()
    assert set(world.observer.trouble) == {"VNF hlr"}
    assert world.series(unseen) == {("hlr",): 1, ("sms",): 0}  # it keeps no other from being seen
    assert world.series(STATUS) == {("sms",): 0}
    monkeypatch.undo()
    world.observer.look()
    assert world.series(unseen) == {("hlr",): 0, ("sms",): 0}
    with world.deployment.database.begin() as connection:
        connection.exec_driver_sql("UPDATE vnfs SET definition = '[]' WHERE name = 'hlr'")
    world.observer.look()
    assert world.series(unseen) == {("hlr",): 1, ("sms",): 0}


def test_a_vnf_that_was_removed_is_shown_no_more(world: World) -> None:
    world.commit(10)
    world.observer.look()
    world.deployment.vnfs.remove("hlr")
    world.observer.look()
    assert world.series(POINT) == world.series(STATUS) == {}


def test_runs_that_have_ended_are_counted_with_their_time_and_bytes(world: World) -> None:
    world.ended(stored_bytes=5 << 20)
    world.ended(stored_bytes=None)
    world.ended(state="failed")
    world.ended("failover", rto_s=42.0)
    ended = world.series("antipode_runs_total")
    assert {labels: many for labels, many in ended.items() if many} == {
        ("protect", "succeeded"): 2,
        ("protect", "failed"): 1,
        ("failover", "succeeded"): 1,
    }
    assert world.series("antipode_protect_duration_seconds_count") == {("hlr",): 2}
    assert world.series("antipode_protect_duration_seconds_sum")["hlr",] >= 120
    assert world.series("antipode_protect_data_bytes_sum") == {("hlr",): 5 << 20}
    world.observer.look()
    assert world.series("antipode_last_rto_seconds") == {("hlr", "failover"): 42}


def test_ended_runs_are_counted_from_zero_on_so_that_the_first_failure_is_an_increase(
    world: World,
) -> None:
    ended = world.series("antipode_runs_total")
    assert {ended["protect", "failed"], ended["failover", "failed"]} == {0}
    assert len(ended) == 3 * len(KINDS.names)


def test_open_runs_are_shown_by_kind_and_state(world: World) -> None:
    row = new_run(kind_of("protect"), "hlr", {})
    row.state = "queued"
    world.deployment.runs.create(row)
    assert world.series("antipode_run_state") == {("protect", "queued"): 1}
    world.metrics.waits_for_input(2)
    assert world.series("antipode_run_waiting_for_input") == {(): 2}


def test_a_window_is_shown_with_its_budget(world: World) -> None:
    world.deployment.vnfs.put(samples.vnf(protections={"quiesce": {"budget": "3s"}}))
    world.ended(quiesce_window_s=4.5)
    world.observer.look()
    assert world.series("antipode_quiesce_window_seconds") == {("hlr",): 4.5}
    assert world.series("antipode_quiesce_budget_seconds") == {("hlr",): 3}


def test_a_server_is_overdue_only_past_its_newest_deadline(world: World) -> None:
    ledger = world.deployment.freezes
    ledger.freezing("site-a", "s-1", "db", -300)
    ledger.freezing("site-a", "s-1", "db", 3600)
    over = ledger.freezing("site-a", "s-2", "front", -300)
    assert world.series("antipode_server_frozen") == {("site-a",): 2, ("site-b",): 0}
    assert world.series("antipode_server_frozen_overdue") == {("site-a",): 1, ("site-b",): 0}
    ledger.thawed(over)
    assert world.series("antipode_server_frozen_overdue") == {("site-a",): 0, ("site-b",): 0}


def test_schedules_are_shown_with_missed_slots_and_pauses(world: World) -> None:
    schedules, key = world.deployment.schedules, ("hlr", "quiesced-snapshot")
    schedules.begin(key, None, "every", 0.0)
    schedules.pass_over(schedules.all()[key], 900.0, [300.0, 600.0, 900.0], "no service")
    assert world.series("antipode_missed_intervals_total") == {("hlr",): 3}
    assert world.series("antipode_schedule_paused") == {key: 0}
    schedules.pause(key, None)
    assert world.series("antipode_schedule_paused") == {key: 1}


def test_readiness_is_shown_with_its_findings_and_the_age_of_drills(world: World) -> None:
    world.deployment.vnfs.put(samples.vnf(drill_every="90d"))
    readiness = world.deployment.readiness
    readiness.want("hlr", "site-b", None, 500)
    # it can be noticed that it was never looked at
    assert world.series("antipode_readiness_timestamp_seconds") == {}
    assert world.series("antipode_readiness_due_timestamp_seconds") == {("hlr", "site-b"): 500}
    findings = [
        Finding(check="plan", level=Level.RED, detail="flavor m1 is missing"),
        Finding(check="plan", level=Level.RED, detail="flavor m2 is missing"),
        Finding(check="proof", level=Level.YELLOW, detail="none"),
        Finding(check="state", level=Level.GREEN, detail="active"),
    ]
    for level in (findings, findings[2:]):
        look = readiness.take(readiness.looks("site-b")["hlr"], 60)
        assert look is not None
        readiness.keep(look, level, 1234.5, 2000)
        reds = sum(f.level is Level.RED for f in level)
        assert world.series("antipode_failover_ready") == {("hlr", "site-b"): int(not reds)}
        assert world.series("antipode_readiness_issues") == {
            ("hlr", "site-b", "red"): reds,
            ("hlr", "site-b", "yellow"): 1,
        }
    assert world.series("antipode_readiness_timestamp_seconds") == {("hlr", "site-b"): 1234.5}
    assert world.series("antipode_readiness_due_timestamp_seconds") == {("hlr", "site-b"): 2000}
    readiness.want("hlr", "site-z", None, 500)  # of a site that was in the configuration once
    assert world.series("antipode_readiness_due_timestamp_seconds") == {("hlr", "site-b"): 2000}
    world.ended("drill", state="failed")
    world.observer.look()
    [(labels, failed_at)] = world.series("antipode_drill_timestamp_seconds").items()
    assert labels == ("hlr", "failed")
    assert world.series("antipode_drill_interval_seconds") == {("hlr",): 90 * 86400}
    world.ended("drill")
    world.observer.look()
    drills = world.series("antipode_drill_timestamp_seconds")
    assert drills["hlr", "failed"] == failed_at < drills["hlr", "passed"]


def test_a_drill_is_due_after_the_last_that_was_passed_or_after_the_vnf_became_known(
    world: World,
) -> None:
    known_at = world.deployment.vnfs.known_since("hlr")
    world.deployment.vnfs.put(samples.vnf(drill_every="90d"))  # the file is replaced
    world.ended("drill", state="failed")
    world.observer.look()
    due = "antipode_drill_due_timestamp_seconds"
    assert world.series(due) == {("hlr",): known_at + 90 * 86400}
    world.ended("drill")
    world.observer.look()
    passed_at = world.series("antipode_drill_timestamp_seconds")["hlr", "passed"]
    assert world.series(due) == {("hlr",): passed_at + 90 * 86400}
    world.deployment.vnfs.put(samples.vnf())
    world.observer.look()
    assert world.series(due) == {}


def test_a_site_is_up_while_it_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    look = Reachability(world.deployment, "site-a")
    world.metrics = Metrics(world.deployment, world.observer, [look])
    assert world.series("antipode_site_up") == {}
    answers: list[Any] = [{"nova"}, SiteUnreachable("silent"), RuntimeError("a bug"), {"nova"}]

    def asked() -> Any:
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    site = SimpleNamespace(compute=SimpleNamespace(availability_zones=asked))
    monkeypatch.setattr(world.deployment, "site", lambda name, of: site)
    for is_up in (1, 0, 0, 1):
        look.look()
        assert world.series("antipode_site_up") == {("site-a",): is_up}


def test_what_is_to_be_removed_is_counted_once_its_time_has_come(world: World) -> None:
    name, day = "antipode_cleanup_pending", 86400.0

    def ended(kind: str, state: str, days_ago: float, **result: Any) -> str:
        row = new_run(kind_of(kind), "hlr", {"plan": {}, "vnf": {}})
        run, row.started_at = row.id, time.time() - days_ago * day - 1
        world.deployment.runs.create(row)
        at = time.time() - days_ago * day
        world.deployment.runs.end(run, 0, state, at, None, result)
        return run

    ended("protect", "failed", 0.5, left=["port p"])  # the service still tries to remove it
    ended("protect", "succeeded", 3)
    world.observer.look()
    assert world.series(name) == {}
    ended("protect", "failed", 1.5)
    ended("drill", "aborted", 1.5, left=["port p"])
    ended("drill", "succeeded", 2, kept_until=time.time() - 60)
    ended("drill", "succeeded", 2, kept_until=time.time() + 60)
    failed = ended("failover", "failed", 0.1)
    world.observer.look()
    assert world.series(name) == {
        ("hlr", "orphans"): 2,
        ("hlr", "drill"): 1,
        ("hlr", "failed-run"): 1,
    }
    rows = world.deployment.runs
    rows.collected([row for row in rows.all() if row.id != failed])
    world.observer.look()
    assert world.series(name) == {("hlr", "failed-run"): 1}


def test_a_forecast_is_shown_for_each_site_until_a_failover_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Forecast(back_in_s=240.0, error_s=30.0, basis=["a drill"])
    monkeypatch.setattr(forecasting, "forecast", lambda *_: made)
    world.commit(5)
    world.observer.look()
    assert world.series("antipode_forecast_rto_seconds") == {("hlr", "site-b"): 240.0}
    assert world.series("antipode_forecast_rto_error_seconds") == {("hlr", "site-b"): 30.0}
    world.deployment.runs.create(new_run(kind_of("failover"), "hlr", {}))
    assert world.series("antipode_forecast_rto_seconds") == {}
    assert world.series("antipode_forecast_rto_error_seconds") == {}


def test_no_time_is_forecast_from_a_point_that_says_nothing_of_the_active_copy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Forecast(back_in_s=240.0, error_s=30.0, basis=["a drill"])
    monkeypatch.setattr(forecasting, "forecast", lambda *_: made)
    world.commit(5)
    world.observer.look()
    world.deployment.states.keep(samples.moved(VnfState.ACTIVE))
    assert world.series("antipode_forecast_rto_seconds") == {}


def test_what_was_never_measured_and_a_fault_of_the_forecast_leave_no_series(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.commit(5)
    world.observer.look()
    assert world.series("antipode_forecast_rto_seconds") == {}

    def is_faulty(*_: Any) -> Forecast:
        raise ZeroDivisionError

    monkeypatch.setattr(forecasting, "forecast", is_faulty)
    world.commit(1)
    world.observer.look()
    assert world.series("antipode_forecast_rto_seconds") == {}
    assert world.series("antipode_vnf_protection_status") == {("hlr",): 1.0}


def test_drills_and_verifications_say_when_content_was_proven_and_whether_a_chain_is_broken(
    world: World,
) -> None:
    world.deployment.vnfs.put(samples.vnf(rto="10m"))
    world.observer.look()
    assert world.series("antipode_chain_broken") == {}
    assert world.series("antipode_rto_target_seconds") == {("hlr",): 600.0}
    world.ended("drill", recovered_s=75.0, content=[{"volume": "a", "ok": True}])
    world.observer.look()
    (proven_at,) = world.series("antipode_vault_verify_timestamp_seconds").values()
    assert world.series("antipode_last_rto_seconds") == {("hlr", "drill"): 75.0}
    assert world.series("antipode_chain_broken") == {("hlr",): 0.0}
    world.ended("verify", "failed", volumes=[{"volume": "a", "ok": False}])
    world.observer.look()
    assert world.series("antipode_chain_broken") == {("hlr",): 1.0}
    assert world.series("antipode_vault_verify_timestamp_seconds") == {("hlr",): proven_at}
    world.ended("verify", volumes=[{"volume": "a", "ok": None}])  # it could not be compared
    world.observer.look()
    assert world.series("antipode_chain_broken") == {("hlr",): 1.0}
    world.ended("verify", volumes=[{"volume": "a", "ok": True}])
    world.observer.look()
    assert world.series("antipode_chain_broken") == {("hlr",): 0.0}


def test_a_database_that_is_away_is_shown_and_the_rest_still_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.series("antipode_database_up") == {(): 1}

    def away(*_: object) -> None:
        raise OperationalError("SELECT", {}, ConnectionError("the server is away"))

    monkeypatch.setattr(Runs, "_rows", away)
    assert world.series("antipode_database_up") == {(): 0}
    assert len(world.series("antipode_build_info")) == 1


# At the port.


def test_prometheus_reads_them_at_the_configured_port(world: World) -> None:
    port = free_port()
    where = MetricsConfig(port=port)
    with served(world.metrics, where):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        assert "antipode_build_info{" in text
        with pytest.raises(AntipodeError), served(world.metrics, where):
            pass
    with served(world.metrics, where):
        pass  # the port is free again


def test_without_a_port_nothing_listens(world: World) -> None:
    with served(world.metrics, None):
        assert world.deployment.config.metrics is None


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::", "localhost"])
def test_metrics_are_for_this_host_only(address: str) -> None:
    with pytest.raises(ValidationError):
        MetricsConfig.model_validate({"address": address, "port": 9464})


def test_a_loopback_address_of_either_kind_will_do() -> None:
    assert MetricsConfig(port=9464).address == IPv4Address("127.0.0.1")
    assert MetricsConfig.model_validate({"address": "::1", "port": 9464}).address.version == 6


# What refers to them.


@pytest.fixture
def known(world: World) -> set[str]:
    """The names of all series that a service can show."""
    world.ended(stored_bytes=1)
    found = {
        sample.name
        for family in [*world.metrics.collect(), *world.metrics.registry.collect()]
        for sample in family.samples
    } | {
        f"{family.name}{'_total' if family.type == 'counter' else ''}"
        for family in world.metrics.registry.collect()
    }
    return {name for name in found if not name.endswith("_created")}


def rules() -> Iterator[dict[str, Any]]:
    for group in YAML(typ="safe").load(MONITORING / "antipode.rules.yml")["groups"]:
        yield from group["rules"]


def test_rules_and_dashboard_refer_to_metrics_that_there_are(known: set[str]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    dashboard = json.loads((MONITORING / "antipode.dashboard.json").read_text())
    expressions = [rule["expr"] for rule in rules()]
    expressions += [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    named = {name for expression in expressions for name in NAME.findall(expression)}
    assert named - known - recorded == set()
    assert len(named) > 15


def test_every_alert_says_how_bad_it_is_and_what_it_is_about() -> None:
    for rule in (rule for rule in rules() if "alert" in rule):
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["alert_type"] == "DisasterRecovery"
        assert rule["annotations"]["description"]


def test_the_page_names_every_metric_and_every_alert_and_no_other(known: set[str]) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    parts = re.compile(r"_(bucket|sum|count)$")
    named = set(re.findall(r"`(antipode[_:][a-z_:]+)", page))
    assert named == {parts.sub("", name) for name in known} | recorded
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert set(re.findall(r"`(Antipode[A-Za-z]+)`", page)) == alerts


def test_labels_are_few_and_of_known_kinds(world: World, known: set[str]) -> None:
    world.commit(1)
    world.observer.look()
    labels = {
        label
        for family in world.metrics.registry.collect()
        for sample in family.samples
        for label in sample.labels
    }
    assert labels <= {
        *("vnf", "site", "consistency", "kind", "result", "state", "place", "option"),
        *("version", "le", "receiver", "level", "what"),
    }


def test_the_names_of_series_are_those_that_prometheus_would_take(world: World) -> None:
    text = prometheus.generate_latest(world.metrics.registry).decode()
    assert "# TYPE antipode_missed_intervals_total counter" in text

# SPDX-License-Identifier: Apache-2.0
"""Events: what is noticed, once on all hosts, and how it gets to a webhook and a log whatever
happens on the way. The clock is the test's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from antipode import config, yamlfile
from antipode.config import ALARMS, Config, EventsConfig
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.errors import InvalidInput
from antipode.model.event import Event
from antipode.model.readiness import Finding, Level
from antipode.model.rpo import RpoState
from antipode.model.state import ProtectedVnf, VnfState
from antipode.operations.vnfs import add
from antipode.runs import kind_of
from antipode.service import courier as delivering
from antipode.service import events as noticing
from antipode.service.courier import Courier, LogFile, WebhookReceiver, couriers
from antipode.service.events import Noticer
from antipode.service.observer import Newest, Observed, Observer
from antipode.service.receiver import NotDelivered
from antipode.store.tables import ApprovalRow, QuestionRow
from tests.unit import samples

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp()
SECRET = "a secret of more than 24 characters"


class Http:
    """A receiver that answers as it is told to."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        http = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                http.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(http.answers.pop(0) if http.answers else 204)
                self.send_header("Location", f"{http.url}/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing: the test sees what came."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def http() -> Iterator[Http]:
    made = Http()
    yield made
    made.close()


class World:
    """A host that notices events, for a webhook and a log."""

    def __init__(self, folder: Path, url: str) -> None:
        (folder / "secret").write_text(f"{SECRET}\nanother line\n")
        self.log = folder / "events.jsonl"
        self.settings = EventsConfig.model_validate(
            {
                "source": "//antipode.example/test",
                "log": str(self.log),
                "webhooks": {"noc": {"url": url, "secret_file": str(folder / "secret")}},
            }
        )
        self.deployment = Deployment(config.load(str(samples.write_config(folder))))
        self.observer = Observer(self.deployment)
        self.waiting: dict[str, str] = {}
        self.now = NOON
        self.noticer = self.another()
        self.to = {c.name: c for c in couriers(self.deployment, self.settings)}
        for one in self.to.values():
            one._now = lambda: self.now
        self.noticer.look()

    def another(self) -> Noticer:
        """A noticer of another host, or after a restart."""
        return Noticer(
            self.deployment, self.settings, self.observer, lambda: self.waiting, lambda: self.now
        )

    def noticed(self, after_s: float = 10) -> list[str]:
        """The types of the events of a look, so many seconds later."""
        before = {event.id for event in self.deployment.events.newest(100)}
        self.now += after_s
        self.noticer.look()
        found = self.deployment.events.newest(100)
        return sorted(event.type for event in found if event.id not in before)

    def run(self, kind: str = "protect", vnf: str = "hlr") -> str:
        row = new_run(kind_of(kind), vnf, {})
        run, row.started_at = row.id, self.now
        self.deployment.runs.create(row)
        return run

    def ends(self, run: str, state: str = "succeeded", **result: Any) -> None:
        row = self.deployment.runs.get(run)
        self.deployment.runs.end(run, row.claim, state, self.now, None, result)

    def observes(self, minutes_ago: float | None, **changes: Any) -> None:
        """See a VNF whose newest point is so old; its target is 30 minutes."""
        newest = None
        if minutes_ago is not None:
            moment = datetime.fromtimestamp(self.now, UTC) - timedelta(minutes=minutes_ago)
            newest = Newest(1, moment.isoformat(), "site-a", "application")
        state = ProtectedVnf(vnf="hlr", active_site="site-a", generation=1)
        vnf = samples.vnf(rpo="30m")
        self.observer.looked_at = self.now
        self.observer.observed = {"hlr": Observed(vnf, state, newest, {}, {}, self.now), **changes}


@pytest.fixture
def world(tmp_path: Path, http: Http) -> World:
    return World(tmp_path, http.url)


# What is noticed.


def test_a_run_has_an_event_when_it_begins_and_one_when_it_ends(world: World) -> None:
    run = world.run()
    assert world.noticed() == ["dr.protect.start"]
    assert world.noticed() == []
    world.ends(run, recovery_point="p-1", consistency="application", secret="not told")
    assert world.noticed() == ["dr.protect.end"]
    [ended] = world.deployment.events.newest(1)
    assert ended.subject == "vnf/hlr"
    assert ended.data["recovery_point"] == "p-1"
    assert "secret" not in ended.data


@pytest.mark.parametrize(("state", "kind"), [("failed", "error"), ("aborted", "abort")])
def test_a_run_that_is_over_between_two_looks_has_both_events(
    world: World, state: str, kind: str
) -> None:
    world.ends(world.run("failover"), state)
    assert world.noticed() == [f"dr.failover.{kind}", "dr.failover.start"]


def test_a_queued_run_has_not_begun(world: World) -> None:
    row = new_run(kind_of("protect"), "hlr", {})
    row.state = "queued"
    world.deployment.runs.create(row)
    assert world.noticed() == []


def test_a_failed_run_that_is_resumed_has_an_event_of_each_end(world: World) -> None:
    run = world.run("failover")
    world.ends(run, "failed")
    world.noticed()
    with world.deployment.claims.take(run, also_failed=True):
        assert world.noticed() == []
        world.ends(run)
    assert world.noticed() == ["dr.failover.end"]


def test_what_happened_while_no_service_was_there_is_noticed_by_the_next_one_and_once(
    world: World,
) -> None:
    first = world.run()
    world.noticed()
    world.now += 3600
    world.ends(first)
    world.now += 3600
    world.noticer = world.another()
    assert world.noticed() == ["dr.protect.end"]
    world.noticer = world.another()
    assert world.noticed() == []


def test_what_was_over_long_before_is_told_to_nobody(tmp_path: Path, http: Http) -> None:
    old = World(tmp_path, http.url)
    old.now -= 7200
    run = old.run()
    old.ends(run)
    old.now += 7200
    old.another().look()
    assert old.deployment.events.newest(10) == []


def test_of_many_hosts_one_notes_each_event(world: World) -> None:
    hosts = [world.another() for _ in range(4)]
    for host in hosts:
        host.look()
    world.ends(world.run())
    world.observes(31)
    world.now += 5
    together = threading.Barrier(len(hosts))

    def look(host: Noticer) -> None:
        together.wait(60)
        host.look()

    with ThreadPoolExecutor(len(hosts)) as threads:
        list(threads.map(look, hosts))
    types = sorted(event.type for event in world.deployment.events.newest(100))
    assert types == ["dr.protect.end", "dr.protect.start", "dr.rpo.exceeded"]
    assert world.deployment.events.pending()["noc"][0] == 3


def test_an_rpo_that_is_exceeded_is_told_once_and_again_when_it_is_kept(world: World) -> None:
    world.observes(20)
    assert world.noticed() == []
    assert world.noticed(1800) == []  # not observed since: another host may know better
    world.observes(31)
    assert world.noticed() == ["dr.rpo.exceeded"]
    [told] = world.deployment.events.newest(1)
    assert (told.data["rpo_target_s"], round(told.data["rpo_s"])) == (1800, 31 * 60 + 10)
    assert world.noticed() == []
    world.noticer = world.another()
    assert world.noticed() == []
    world.observes(1)
    assert world.noticed() == ["dr.rpo.met"]


def test_a_vnf_without_a_valid_point_is_told_and_an_exceeded_rpo_does_not_end_by_that(
    world: World,
) -> None:
    world.observes(31)
    assert world.noticed() == ["dr.rpo.exceeded"]
    world.observes(None)
    assert world.noticed() == ["dr.vnf.unprotected"]
    assert set(world.deployment.events.conditions()) == {"rpo.exceeded/hlr", "vnf.unprotected/hlr"}
    world.observes(1)
    assert world.noticed() == ["dr.rpo.met", "dr.vnf.protected"]


def test_two_hosts_of_which_one_has_looked_earlier_do_not_contradict_each_other(
    world: World,
) -> None:
    world.observes(31)
    early, seen_early = world.another(), Observer(world.deployment)
    seen_early.observed, seen_early.looked_at = world.observer.observed, world.now
    early._observer = seen_early
    early.look()
    assert [e.type for e in world.deployment.events.newest(9)] == ["dr.rpo.exceeded"]
    world.now += 60
    world.observes(1)
    assert world.noticed() == ["dr.rpo.met"]
    early.look()  # what it has seen is older
    assert world.deployment.events.conditions() == {}


def test_a_failover_clears_an_exceeded_rpo_and_tells_nobody_that_it_is_kept(world: World) -> None:
    world.observes(31)
    assert world.noticed() == ["dr.rpo.exceeded"]
    failing = VnfState.FAILING_OVER
    state = ProtectedVnf(vnf="hlr", active_site="site-a", generation=1, state=failing)
    world.deployment.states.keep(state)
    assert world.noticed() == []
    assert world.deployment.events.conditions() == {}


def test_a_vnf_that_was_removed_is_forgotten(world: World) -> None:
    world.observes(31)
    world.noticed()
    world.observer.observed = {}
    assert world.noticed() == []
    assert world.deployment.events.conditions() == {}


def test_a_host_that_has_not_seen_a_vnf_ends_nothing_of_it(world: World) -> None:
    add(world.deployment, samples.vnf())
    world.observes(31)
    world.noticed()
    world.observer = Observer(world.deployment)
    world.noticer = world.another()
    assert world.noticed() == []
    world.observer.looked_at = world.now  # it has looked, and its vaults have not answered
    assert world.noticed() == []
    assert list(world.deployment.events.conditions()) == ["rpo.exceeded/hlr"]


def test_a_vault_that_is_down_and_up_again_is_told(world: World) -> None:
    world.observer.vaults_up = {"vault": False}
    assert world.noticed() == ["dr.vault.down"]
    assert world.noticed() == []
    world.observer.vaults_up = {"vault": True}
    assert world.noticed() == ["dr.vault.up"]


def test_a_vault_that_is_in_the_configuration_no_more_is_down_no_more(world: World) -> None:
    world.observer.vaults_up = {"vault": False}
    world.noticed()
    world.observer.vaults_up = {}  # before the first look of a service
    assert world.noticed() == []
    assert len(world.deployment.events.conditions()) == 1
    world.observer.vaults_up = {"another": True}
    assert world.noticed() == []
    assert world.deployment.events.conditions() == {}


def test_a_member_that_stays_frozen_is_told_until_it_is_unquiesced(world: World) -> None:
    ledger = world.deployment.freezes
    key = ledger.freezing("site-a", "s-1", "db", NOON + 15 - ledger.now())
    assert world.noticed() == []
    assert world.noticed() == ["dr.member.frozen"]
    [told] = world.deployment.events.newest(1)
    assert told.data["server"] == "db"
    world.deployment.freezes.thawed(key)
    assert world.noticed() == ["dr.member.unquiesced"]
    assert world.noticed() == []


def test_a_run_that_waits_for_an_operator_is_told_once(world: World) -> None:
    world.waiting = {"failover-1": "confirm again"}
    assert world.noticed() == ["dr.run.waiting"]
    assert world.noticed() == []
    world.waiting = {}
    assert world.noticed() == []
    world.waiting = {"failover-1": "confirm again"}
    assert world.noticed() == ["dr.run.waiting"]


def test_a_change_of_readiness_is_an_event_once_with_its_reasons(world: World) -> None:
    readiness = world.deployment.readiness

    def sees(level: Level, detail: str) -> None:
        known = readiness.looks("site-b").get("hlr")
        if known is None:
            readiness.want("hlr", "site-b", None, world.now)
            known = readiness.looks("site-b")["hlr"]
        look = readiness.take(known, world.now + 60)
        assert look is not None
        finding = Finding(check="plan", level=level, detail=detail)
        assert readiness.keep(look, [finding], world.now, world.now + 1800)

    sees(Level.GREEN, "2 servers could be created")
    assert world.noticed() == ["dr.readiness.green"]
    assert world.noticed() == []
    sees(Level.GREEN, "3 servers could be created")
    assert world.noticed() == []
    sees(Level.RED, "flavor m1 is missing")
    assert world.noticed() == ["dr.readiness.red"]
    world.another().look()
    assert world.noticed() == []
    event = world.deployment.events.newest(1)[0]
    assert (event.subject, event.data["before"]) == ("vnf/hlr", "green")
    assert event.data["reasons"] == ["red: plan: flavor m1 is missing"]


def test_a_drill_that_is_overdue_is_an_event_until_one_is_passed(world: World) -> None:
    def observes(
        passed_days_ago: float | None, every: str | None = "90d", known: float = 1
    ) -> None:
        world.observes(1)
        seen = world.observer.observed["hlr"]
        passed = None if passed_days_ago is None else world.now - passed_days_ago * 86400
        vnf = samples.vnf(rpo="30m", drill_every=every)
        due = (world.now - known * 86400 if passed is None else passed) + 90 * 86400
        due_at = None if every is None else due
        now = replace(seen, vnf=vnf, drilled_at=passed, drill_due_at=due_at, at=world.now)
        world.observer.observed = {"hlr": now}

    observes(89)
    assert world.noticed() == []
    observes(91)
    assert world.noticed() == ["dr.drill.overdue"]
    observes(91.1)
    assert world.noticed() == []
    observes(0)
    assert world.noticed() == ["dr.drill.in-time"]
    observes(None, every=None)
    assert world.noticed() == []
    observes(None)  # it was added yesterday
    assert world.noticed() == []
    observes(None, known=91)
    assert world.noticed() == ["dr.drill.overdue"]


def test_a_window_beyond_its_budget_and_bytes_that_are_broken_are_events(world: World) -> None:
    within, beyond = world.run("protect"), world.run("protect", "sms")
    proof, drill = world.run("verify"), world.run("drill")
    world.noticed()
    world.ends(within, quiesce_window_s=2.9, quiesce_budget_s=3.0)
    world.ends(beyond, quiesce_window_s=3.1, quiesce_budget_s=3.0)
    assert world.noticed() == ["dr.protect.end", "dr.protect.end", "dr.quiesce.over-budget"]
    good, bad = ({"volume": n, "ok": n == "a", "detail": "block 3 differs"} for n in "ab")
    world.ends(proof, "failed", volumes=[good, bad])
    assert world.noticed() == ["dr.chain.broken", "dr.verify.error"]
    (event,) = (e for e in world.deployment.events.newest(2) if e.type == "dr.chain.broken")
    assert event.data["broken"] == ["volume b: block 3 differs"]
    world.ends(drill, content=[good])
    assert world.noticed() == ["dr.drill.end"]


def test_missed_slots_are_told(world: World) -> None:
    schedules, key = world.deployment.schedules, ("hlr", "quiesced-snapshot")
    schedules.begin(key, None, "every", 0.0)
    assert world.noticed() == []
    schedules.pass_over(schedules.all()[key], 900.0, [300.0, 600.0, 900.0], "no service")
    assert world.noticed() == ["dr.schedule.missed"]
    assert world.noticed() == []


def test_a_clock_that_was_ahead_keeps_no_event_back(world: World) -> None:
    world.now += 86400
    world.noticer.look()
    world.now -= 86400
    world.noticer.look()
    world.ends(world.run())
    assert world.noticed() == ["dr.protect.end", "dr.protect.start"]


def test_a_webhook_gets_the_types_that_it_asks_for(world: World) -> None:
    hooks = world.settings.webhooks
    only = hooks["noc"].model_copy(update={"types": ["dr.failover.", "dr.rpo.exceeded"]})
    settings = world.settings.model_copy(update={"webhooks": {**hooks, "few": only}})
    noticer = Noticer(world.deployment, settings, world.observer, dict, lambda: NOON)
    assert noticer.receivers("dr.failover.start") == ["noc", "few", "log"]
    assert noticer.receivers("dr.protect.start") == ["noc", "log"]


# How it is delivered.


def test_events_that_another_host_notes_at_the_same_moment_keep_no_other_from_being_noted(
    world: World,
) -> None:
    events = world.deployment.events
    first, second = (
        Event(name, "dr.protect.start", "vnf/hlr", NOON, {"run": name}) for name in ("a", "b")
    )
    assert events.note(first, ["noc"])
    events.note_all([(first, ["noc"]), (second, ["noc"])])
    assert events.known(["a", "b"]) == {"a", "b"}
    assert events.pending()["noc"][0] == 2


def an_event(world: World, number: int = 1) -> Event:
    event = Event(f"e-{number}", "dr.protect.end", "vnf/hlr", world.now + number, {"größe": "💥"})
    assert world.deployment.events.note(event, ["noc", "log"])
    return event


def test_a_webhook_gets_a_cloudevent_whose_signature_it_can_check(world: World, http: Http) -> None:
    event = an_event(world)
    world.now += 60
    assert world.to["noc"].deliver() == 0
    [(headers, body)] = http.got
    assert headers["content-type"].startswith("application/cloudevents+json")
    assert json.loads(body) == {
        "specversion": "1.0",
        "id": "e-1",
        "source": "//antipode.example/test",
        "type": "dr.protect.end",
        "subject": "vnf/hlr",
        "time": datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds"),
        "datacontenttype": "application/json",
        "data": {"größe": "💥"},
    }
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert int(headers["webhook-timestamp"]) == int(world.now)
    assert world.to["noc"].deliver() == delivering.LOOK_S  # there is no other
    assert len(http.got) == 1


def test_events_are_delivered_in_their_order_and_each_receiver_has_its_own(
    world: World, http: Http
) -> None:
    for number in (3, 1, 2):
        an_event(world, number)
    world.now += 60
    for _ in range(3):
        assert world.to["log"].deliver() == 0
    lines = [json.loads(line)["id"] for line in world.log.read_text().splitlines()]
    assert lines == ["e-1", "e-2", "e-3"]
    assert world.log.stat().st_mode & 0o777 == 0o600
    assert http.got == []
    assert world.deployment.events.pending()["noc"][0] == 3


@pytest.mark.parametrize("answer", [500, 401, 302, 404])
def test_what_a_webhook_does_not_take_is_tried_again_after_longer_and_longer_pauses(
    world: World, http: Http, answer: int
) -> None:
    an_event(world)
    http.answers = [answer] * 9
    world.now += 60
    pauses = []
    for _ in range(9):
        pauses.append(world.to["noc"].deliver())
        assert world.to["noc"].trouble is not None
        assert world.to["noc"].deliver() == delivering.LOOK_S  # not before the pause is over
        world.now += pauses[-1]
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert world.to["noc"].deliver() == 0
    assert world.to["noc"].trouble is None
    assert len(http.got) == 10
    assert {headers["webhook-id"] for headers, _ in http.got} == {"e-1"}


@pytest.mark.parametrize("answer", [413, 422])
def test_an_event_that_a_webhook_refuses_keeps_no_other_waiting(
    world: World, http: Http, answer: int
) -> None:
    an_event(world, 1)
    an_event(world, 2)
    world.now += 60
    http.answers = [answer]
    assert world.to["noc"].deliver() == delivering.LOOK_S
    world.now += delivering.LOOK_S
    assert world.to["noc"].deliver() == 0
    assert [headers["webhook-id"] for headers, _ in http.got] == ["e-1", "e-2"]
    assert world.deployment.events.pending()["noc"][0] == 1
    world.now += delivering.PAUSES_S[0]
    assert world.to["noc"].deliver() == 0
    assert world.deployment.events.pending().get("noc", (0, 0))[0] == 0


def test_a_webhook_that_is_not_there_loses_nothing(world: World, http: Http) -> None:
    http.close()
    an_event(world)
    world.now += 60
    hook = world.settings.webhooks["noc"].model_copy(update={"url": f"{http.url}/s3cr3t"})
    courier = Courier(world.deployment, "noc", WebhookReceiver(hook, "s"), lambda: world.now)
    assert courier.deliver() == delivering.PAUSES_S[0]
    assert courier.trouble is not None
    assert "s3cr3t" not in courier.trouble
    assert world.deployment.events.pending()["noc"][0] == 1


def test_a_host_that_dies_while_it_delivers_leaves_the_event_to_another(
    world: World, http: Http
) -> None:
    an_event(world)
    world.now += 60
    assert world.deployment.events.take("noc", world.now, delivering.TAKEN_S) is not None
    assert world.to["noc"].deliver() == delivering.LOOK_S  # it may be on its way
    world.now += delivering.TAKEN_S
    assert world.to["noc"].deliver() == 0
    assert len(http.got) == 1


def test_of_many_hosts_one_delivers_each_event(world: World, http: Http) -> None:
    for number in range(8):
        an_event(world, number)
    world.now += 60
    hosts = [
        Courier(
            world.deployment,
            "noc",
            WebhookReceiver(world.settings.webhooks["noc"], "s"),
            lambda: world.now,
        )
        for _ in range(4)
    ]

    def deliver(host: Courier) -> None:
        for _ in range(20):
            host.deliver()

    with ThreadPoolExecutor(len(hosts)) as threads:
        list(threads.map(deliver, hosts))
    assert sorted(headers["webhook-id"] for headers, _ in http.got) == [f"e-{n}" for n in range(8)]
    assert world.deployment.events.pending() == {"log": (8, world.now - 60)}


def test_killed_at_any_write_each_event_is_noted_once_and_delivered(
    world: World, tmp_path: Path
) -> None:
    log = tmp_path / "killed.jsonl"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.unit.killed_events"),
            *(str(tmp_path / "antipode.yaml"), str(world.now), str(log)),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    runs = json.loads(done.stdout)
    assert len(runs) > 20  # the writes at which it was killed
    types = ("dr.protect.start", "dr.protect.end", "dr.run.waiting")
    wanted = sorted((kind, run) for run in runs for kind in types)
    noted = [e for e in world.deployment.events.newest(10**6) if e.id != "first"]
    assert sorted((event.type, str(event.data["run"])) for event in noted) == wanted
    assert {json.loads(line)["id"] for line in log.read_text().splitlines()} == {
        event.id for event in noted
    }
    assert world.deployment.events.pending() == {}
    assert len(world.deployment.events.conditions()) == 1  # the last run, which still waits


def test_a_log_that_cannot_be_written_is_tried_again(world: World, tmp_path: Path) -> None:
    an_event(world)
    world.now += 60
    receiver = LogFile(tmp_path / "no-such-folder" / "log", "s")
    courier = Courier(world.deployment, "log", receiver, lambda: world.now)
    assert courier.deliver() == delivering.PAUSES_S[0]
    with pytest.raises(NotDelivered):
        receiver.give(Event("e", "t", "s", 0.0, {}), 0.0)


def test_half_a_line_of_a_log_spoils_no_event_after_it(world: World) -> None:
    world.log.write_text('{"half": ')
    for number in range(2):
        an_event(world, number)
        world.now += 60
        world.to["log"].deliver()
    half, *lines = world.log.read_text().splitlines()
    assert half == '{"half": '
    assert [json.loads(line)["id"] for line in lines] == ["e-0", "e-1"]


def test_what_nobody_takes_is_given_up_after_a_day_and_beyond_a_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        an_event(world, number)
    events = world.deployment.events
    assert events.give_up(world.now - 1, most=3) == 4  # two of each receiver, the oldest
    assert events.pending()["noc"] == (3, world.now + 2)
    assert events.give_up(world.now + 4, most=3) == 4
    events.forget(world.now + 10)
    assert [event.id for event in events.newest(10)] == ["e-4"]  # one still waits


def test_a_database_that_is_away_is_reported_and_its_events_come_later(
    world: World, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noticing, "LOOK_S", 0.01)
    run, seen, real = world.run(), threading.Event(), world.deployment.events.conditions
    away, back, stop = threading.Event(), threading.Event(), threading.Event()

    def conditions() -> dict[str, float]:
        if away.is_set():
            (seen if world.noticer.trouble else threading.Event()).set()
            raise OperationalError("SELECT", {}, ConnectionError("the server is away"))
        if seen.is_set() and world.noticer.trouble is None:
            back.set()
        return real()

    monkeypatch.setattr(world.deployment.events, "conditions", conditions)
    away.set()
    thread = threading.Thread(target=world.noticer.follow, args=(stop,))
    thread.start()
    try:
        assert seen.wait(60)
        world.ends(run)
        away.clear()
        assert back.wait(60)
    finally:
        stop.set()
        thread.join(60)
    types = sorted(event.type for event in world.deployment.events.newest(10))
    assert types == ["dr.protect.end", "dr.protect.start"]


# The configuration.


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"log": "events.jsonl"},
        {"webhooks": {"noc": {"url": "http://noc.example/", "secret_file": "/s"}}},
        {"webhooks": {"noc": {"url": "https://u:p@noc.example/", "secret_file": "/s"}}},
        {"webhooks": {"noc": {"url": "ftp://noc.example/", "secret_file": "/s"}}},
        {"webhooks": {"noc": {"url": "https://noc.example/"}}},
        {"webhooks": {"log": {"url": "https://noc.example/", "secret_file": "/s"}}},
    ],
)
def test_events_that_go_nowhere_or_in_the_clear_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EventsConfig.model_validate(wrong)


def test_a_secret_that_is_short_or_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(InvalidInput):
        delivering.read_secret(path)
    for wrong in ("", "short", "whsec_c2hvcnQ=", "whsec_!!"):
        path.write_text(wrong)
        with pytest.raises(InvalidInput):
            delivering.read_secret(path)
    path.write_text(f"whsec_{base64.b64encode(bytes(range(32))).decode()}\n")
    assert delivering.read_secret(path) == bytes(range(32))


def test_the_configuration_of_the_page_loads_and_it_names_every_type(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    part = page.partition("```yaml\n")[2].partition("```")[0]
    path = samples.write_config(tmp_path)
    path.write_text(path.read_text() + part)
    assert yamlfile.read(path, Config).events is not None
    ends = {f"dr.protect.{end}" for end in ("start", *noticing.ENDINGS.values())}
    states = {f"dr.rpo.{state}" for state in (RpoState.EXCEEDED, RpoState.MET)}
    others = {"dr.member.frozen", "dr.member.unquiesced", "dr.vault.down", "dr.vault.up"}
    others |= {"dr.drill.overdue", "dr.drill.in-time", "dr.quiesce.over-budget", "dr.chain.broken"}
    for beginning in ALARMS:
        assert f"`{beginning}" in page
    for kind in (
        ends
        | states
        | others
        | {*("dr.run.waiting", "dr.schedule.missed", "dr.vnf.unprotected", "dr.vnf.protected")}
    ):
        assert f"`{kind}`" in page


def test_a_question_of_a_run_is_an_event_and_so_is_its_answer_or_that_there_is_none(
    world: World,
) -> None:
    def ask(step: str) -> None:
        now = time.time()
        world.deployment.questions.ask(
            QuestionRow(
                run=run,
                step=step,
                whole=run,
                message="Is the power back?",
                wants="yes-no",
                asked_at=now,
                expires_at=now + 3600,
            )
        )

    run = world.run("failover")
    world.noticed()
    ask("power")
    assert world.noticed() == ["dr.run.waiting-for-input"]
    assert world.noticed() == []
    newest = world.deployment.events.newest(1)[0]
    assert newest.subject == f"run/{run}"
    assert newest.data["answer_with"].startswith(f"antipode run answer {run} power")
    world.deployment.questions.answer(run, "power", "yes", "alice@host")
    world.another().look()
    assert world.deployment.events.newest(1)[0].type == "dr.run.answered"
    assert world.deployment.events.newest(1)[0].data["by"] == "alice@host"
    ask("traffic")
    assert world.noticed() == ["dr.run.waiting-for-input"]
    world.ends(run, "aborted")
    assert "dr.run.not-answered" in world.noticed()


@pytest.mark.parametrize(
    ("ends", "event"), [("approve", "dr.run.approved"), ("reject", "dr.run.rejected")]
)
def test_a_run_that_awaits_approval_is_an_event_and_so_is_what_becomes_of_it(
    world: World, ends: str, event: str
) -> None:
    row = new_run(kind_of("failover"), "hlr", {})
    run, row.approvals_needed, row.approve_before = row.id, 1, time.time() + 60
    world.deployment.approvals.ask(row)
    assert world.noticed() == ["dr.run.awaiting-approval"]
    assert world.noticed() == []
    if ends == "reject":
        assert world.deployment.approvals.reject(run, "not today")
    else:
        at = time.time()
        bob = ApprovalRow(run=run, person="bob", identity="bob@h", plan="p", at=at)
        assert world.deployment.approvals.approve(bob)
    assert world.noticed() == [event]
    assert world.deployment.events.newest(1)[0].subject == f"run/{run}"


def test_records_that_a_recovery_has_not_switched_are_an_event_until_they_are(
    world: World,
) -> None:
    def ended(kind: str, problems: list[str]) -> list[str]:
        run = world.run(kind)
        world.noticed()
        world.ends(run, dns={"records": [], "problems": problems})
        return [kind for kind in world.noticed() if ".dns." in kind]

    assert ended("failover", ["hlr.example A: its server does not answer"]) == [
        "dr.dns.not-switched"
    ]
    assert [k for k in world.noticed() if ".dns." in k] == []
    newest = next(e for e in world.deployment.events.newest(9) if e.type == "dr.dns.not-switched")
    assert newest.subject == "vnf/hlr"
    assert newest.data["finish"] == "antipode dns switch hlr"
    world.ends(world.run("drill"))
    assert [k for k in world.noticed() if ".dns." in k] == []
    assert ended("dns-switch", []) == ["dr.dns.switched"]
    assert ended("migrate", []) == []

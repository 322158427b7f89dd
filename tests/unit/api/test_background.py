# SPDX-License-Identifier: Apache-2.0
"""Resumes and aborts that the process of the API carries out itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from antipode.api import background
from antipode.api.background import Background
from antipode.api.gate import Installation
from antipode.errors import Busy, InvalidInput, TooManyRequests
from antipode.operations import submit
from antipode.runs import kind_of
from antipode.service.conductor import MOST_CLAIMS, Conductor
from antipode.store.tables import RunRow
from tests.unit.api.conftest import Clients, Things, run_of


@pytest.fixture
def full(
    installation: Installation, things: Things, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Background]:
    """With as much under way as may be."""
    monkeypatch.setattr(background, "AT_ONCE", 1)
    monkeypatch.setattr(background, "BEGINS_WITHIN_S", 0.1)
    made, over = Background(installation.deployment), threading.Event()
    made.begin(lambda *_: over.wait(30), things.mine)
    try:
        yield made
    finally:
        over.set()


def test_what_cannot_begin_now_is_refused_and_does_not_begin_later(
    full: Background, things: Things
) -> None:
    done: list[Any] = []
    with pytest.raises(TooManyRequests):
        full.begin(lambda *_: done.append(1), things.theirs)
    assert full._threads._work_queue.get(timeout=1).future.cancelled()
    assert not done


def test_an_abort_of_a_lost_run_is_kept_for_the_next_process(
    full: Background, installation: Installation
) -> None:
    deployment = installation.deployment
    lost = run_of("hlr", 1, id="protect-lost", state="running", ended_at=None)
    deployment.runs.create(lost)
    full.abort(deployment.runs.get("protect-lost"))
    assert deployment.runs.standing("protect-lost") == (0, True)


def test_an_abort_that_is_refused_leaves_nothing(
    full: Background, installation: Installation
) -> None:
    deployment = installation.deployment
    newer = run_of("hlr", 1, id="teleport-1", kind="teleport", state="running", ended_at=None)
    deployment.runs.create(newer)
    with pytest.raises(InvalidInput):
        full.abort(deployment.runs.get("teleport-1"))
    assert deployment.runs.standing("teleport-1") == (0, False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service works on the host of the API."""
    monkeypatch.setattr(background, "is_served", lambda _: True)


def failed(installation: Installation, **values: Any) -> RunRow:
    """A recovery that has failed and can be resumed; nothing of it was rolled back."""
    given = {"id": "failover-1", "kind": "failover", "state": "failed", "claim": 3}
    row = run_of("hlr", 1, **{**given, "reason": "a quota", "result": {}, **values})
    installation.deployment.runs.create(row)
    return installation.deployment.runs.get("failover-1")


@pytest.mark.usefixtures("served", "things")
def test_a_run_is_resumed_by_the_service_where_there_is_one(installation: Installation) -> None:
    runs = installation.deployment.runs
    installation.background.resume(failed(installation))
    row = runs.get("failover-1")
    assert (row.state, row.ended_at, row.reason, row.claim) == ("queued", None, None, 3)
    assert row.slot == "failover:hlr"
    assert [one.id for one in runs.open("hlr")] == ["failover-1"]
    with pytest.raises(InvalidInput):  # it is queued by now
        installation.background.resume(row)


@pytest.mark.usefixtures("served", "things")
def test_what_was_resumed_since_it_was_read_is_not_resumed_again(
    installation: Installation,
) -> None:
    row = failed(installation)
    installation.deployment.runs.claim("failover-1", "another", 3, also_failed=True)
    with pytest.raises(Busy):
        installation.background.resume(row)
    assert installation.deployment.runs.get("failover-1").resumed_at is None


@pytest.mark.usefixtures("served", "things")
def test_a_run_that_another_host_may_have_is_not_said_to_be_resumed(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = failed(installation, state="running", ended_at=None)
    monkeypatch.setattr(installation.deployment.claims, "is_held", lambda _: None)
    with pytest.raises(Busy):
        installation.background.resume(row)
    assert installation.deployment.runs.get("failover-1").resumed_at is None


@pytest.mark.usefixtures("served", "things")
def test_another_run_in_its_place_keeps_a_run_from_being_resumed(
    installation: Installation,
) -> None:
    row = failed(installation)
    other = run_of("hlr", 0, id="failover-0", kind="failover", state="queued", ended_at=None)
    other.slot = "failover:hlr"
    installation.deployment.runs.create(other)
    with pytest.raises(Busy):
        installation.background.resume(row)
    assert installation.deployment.runs.get("failover-1").state == "failed"


@pytest.mark.usefixtures("served", "things")
def test_a_run_that_is_left_to_an_operator_is_begun_once_it_is_resumed(
    installation: Installation,
) -> None:
    deployment = installation.deployment
    failed(installation, state="running", ended_at=None, claim=MOST_CLAIMS, flow_version=1)
    conductor = Conductor(deployment)

    def is_ours() -> bool:
        row = deployment.runs.get("failover-1")
        return conductor._is_ours_to_do(row, kind_of(row.kind))

    assert not is_ours()
    installation.background.resume(deployment.runs.get("failover-1"))
    assert is_ours()


@pytest.mark.usefixtures("served", "things")
def test_a_queued_run_that_was_confirmed_long_ago_is_begun_once_it_is_resumed(
    installation: Installation,
) -> None:
    deployment = installation.deployment
    row = failed(installation, state="queued", ended_at=None, claim=0, started_at=time.time() - 9e4)
    conductor = Conductor(deployment)
    assert not conductor._is_ours_to_do(row, kind_of(row.kind))
    installation.background.resume(row)
    again = deployment.runs.get("failover-1")
    assert conductor._is_ours_to_do(again, kind_of(row.kind))


@pytest.mark.usefixtures("served", "things")
def test_an_abort_of_a_lost_run_is_left_to_the_service(installation: Installation) -> None:
    row = failed(installation, state="running", ended_at=None)
    installation.background.abort(row)
    assert installation.deployment.runs.standing("failover-1") == (3, True)


@pytest.mark.usefixtures("served", "things")
def test_a_failed_run_is_rolled_back_by_the_service_where_there_is_one(
    installation: Installation,
) -> None:
    deployment = installation.deployment
    failed(installation, flow_version=1, started_at=time.time() - 9e4)
    installation.background.abort(deployment.runs.get("failover-1"))
    row = deployment.runs.get("failover-1")
    assert (row.state, row.claim, row.reason) == ("queued", 3, "a quota")
    assert deployment.runs.standing("failover-1") == (3, True)
    assert Conductor(deployment)._is_ours_to_do(row, kind_of(row.kind))


@pytest.mark.usefixtures("served", "things")
def test_a_run_that_fails_before_it_is_asked_to_abort_is_rolled_back(
    installation: Installation,
) -> None:
    runs = installation.deployment.runs
    seen = failed(installation, state="running", ended_at=None)
    runs.end(seen.id, seen.claim, "failed", time.time(), "a quota", {})
    installation.background.abort(seen)
    assert runs.get(seen.id).state == "queued"
    assert runs.standing(seen.id) == (seen.claim, True)


@pytest.mark.usefixtures("served", "things")
def test_a_run_that_succeeds_before_it_is_asked_to_abort_is_said_to_have(
    installation: Installation,
) -> None:
    runs = installation.deployment.runs
    seen = failed(installation, state="running", ended_at=None)
    runs.end(seen.id, seen.claim, "succeeded", time.time(), None, {})
    with pytest.raises(InvalidInput):
        installation.background.abort(seen)
    assert runs.get(seen.id).state == "succeeded"


@pytest.mark.usefixtures("things")
def test_without_a_service_a_failed_run_is_rolled_back_here(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(installation.background, "begin", lambda _, run: begun.append(run))
    installation.background.abort(failed(installation))
    assert begun == ["failover-1"]
    assert installation.deployment.runs.get("failover-1").state == "failed"


@pytest.mark.usefixtures("served", "things")
def test_a_failed_run_whose_resources_a_later_one_uses_is_not_rolled_back(
    installation: Installation,
) -> None:
    row = failed(installation)
    later = run_of("hlr", 2, id="failover-2", kind="failover", state="failed", result={})
    installation.deployment.runs.create(later)
    with pytest.raises(InvalidInput):
        installation.background.abort(row)
    assert installation.deployment.runs.get("failover-1").state == "failed"


@pytest.mark.usefixtures("things")
@pytest.mark.parametrize("is_served", [True, False])
def test_a_run_warns_where_no_service_carries_it_out(
    installation: Installation,
    clients: Clients,
    things: Things,
    monkeypatch: pytest.MonkeyPatch,
    is_served: bool,
) -> None:
    monkeypatch.setattr(submit, "is_served", lambda _: is_served)
    demo = clients.user("demo")

    def warnings(run: str) -> list[str]:
        found: list[str] = demo.get(f"/v1/runs/{run}").json()["run"]["warnings"]
        return found

    asked = {"run": {"kind": "precheck"}}
    queued = demo.post("/v1/vnfs/hlr/runs", asked).json()["run"]
    assert queued["state"] == "queued"
    assert queued["warnings"] == warnings(queued["id"])
    lost = failed(installation, state="running", ended_at=None).id
    for run in (queued["id"], lost):
        assert bool(warnings(run)) is not is_served
    assert warnings(things.mine) == []


@pytest.mark.usefixtures("things")
@pytest.mark.parametrize("is_served", [True, False])
def test_a_queued_run_is_not_said_to_have_its_turn_where_no_service_is(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, is_served: bool
) -> None:
    monkeypatch.setattr(background, "is_served", lambda _: is_served)
    with pytest.raises(InvalidInput) as refused:
        installation.background.resume(
            failed(installation, state="queued", ended_at=None, started_at=time.time())
        )
    assert ("antipode serve" in str(refused.value)) is not is_served

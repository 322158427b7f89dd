# SPDX-License-Identifier: Apache-2.0
"""Forecasts: what queues behind what, what is measured, and what a forecast is worth afterwards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from antipode.engine.run import new_run
from antipode.engine.timeline import Unobserved
from antipode.errors import InvalidInput, NotFound, ResourceFailed
from antipode.operations import forecasts
from antipode.operations.reports import page, report
from antipode.operations.resume import resume
from antipode.recover.queueing import Batch, ServerWork, Span, VnfWork, simulate
from antipode.recover.sources import written
from antipode.runs import failover, forecast, kind_of, standing
from antipode.runs.forecast import Group
from antipode.runs.measured import Measured, Sample, _add, duration, high, measured, typical
from antipode.service.readiness import ReadinessLoop
from antipode.store.tables import RunRow, StepRow
from antipode.vault import points
from tests.unit.fakecloud import refuse
from tests.unit.test_drill_run import drilled
from tests.unit.test_durable_runs import World, world

__all__ = ["world"]


def server(name: str, *volumes_s: float, after: str = "", **changes: float) -> ServerWork:
    parts = {"imports_s": 0.0, "ports_s": 0.0, "compares_s": 0.0, "boot_s": 0.0, "answers_s": 0.0}
    return ServerWork(name=name, volumes_s=volumes_s, after=after.split(), **{**parts, **changes})


def back(*vnfs: VnfWork, restores: int = 8, at_once: int = 9) -> dict[str, float]:
    spans = simulate([Batch(vnfs, at_once)], restores)
    return {name: span.ends_s for name, span in spans.items()}


# What queues behind what.


def test_volumes_come_at_once_as_far_as_the_site_allows() -> None:
    work = VnfWork("v", [server("s", 10, 10, 10)])
    assert back(work) == {"v": 10}
    assert back(work, restores=2) == {"v": 20}
    assert back(work, restores=1) == {"v": 30}


def test_a_server_boots_when_its_own_volumes_and_those_before_it_are_there() -> None:
    db = server("db", 30, boot_s=5, answers_s=10)
    front = server("front", 10, after="db", boot_s=5, answers_s=2)
    assert back(VnfWork("v", [front, db])) == {"v": 30 + 15 + 7}
    # of one slot, the volume of the server that boots first takes what is free next
    assert back(VnfWork("v", [db, front]), restores=1) == {"v": 45 + 7}


def test_imports_ports_and_what_lies_around_count() -> None:
    work = VnfWork("v", [server("s", 10, imports_s=3, ports_s=20, boot_s=1)], 2, 4)
    assert back(work) == {"v": 2 + 20 + 1 + 4}


def test_content_is_compared_one_server_after_another() -> None:
    servers = [server("a", 10, compares_s=5, boot_s=1), server("b", 1, compares_s=5, boot_s=1)]
    assert back(VnfWork("v", servers)) == {"v": 10 + 5 + 5 + 1}


def test_vnfs_share_the_restores_of_a_site_fairly() -> None:
    many, one = VnfWork("many", [server("s", *[10] * 6)]), VnfWork("one", [server("s", 10)])
    assert back(many, one, restores=2) == {"many": 40, "one": 20}


def test_a_vnf_begins_when_another_is_done_and_a_group_when_the_one_before_is() -> None:
    def work(name: str, seconds: float) -> VnfWork:
        return VnfWork(name, [server("s", seconds)])

    first = Batch([work("a", 10), work("b", 30), work("c", 5)], 2)
    spans = simulate([first, Batch([work("d", 1)], 1)], 8)
    assert spans == {"a": Span(0, 10), "b": Span(0, 30), "c": Span(10, 15), "d": Span(30, 31)}


def test_a_group_waits_for_the_one_before_at_every_site_and_sites_share_no_restores() -> None:
    def work(name: str, site: str, *seconds: float) -> VnfWork:
        return VnfWork(name, [server("s", *seconds)], site=site)

    first = Batch([work("a", "b", 10, 10), work("b", "c", 10, 10)], 2)
    spans = simulate([first, Batch([work("c", "c", 5)], 1)], 1)
    assert spans == {"a": Span(0, 20), "b": Span(0, 20), "c": Span(20, 25)}


def test_of_two_hundred_vnfs_the_last_is_back_when_the_limit_of_the_site_allows() -> None:
    vnfs = [VnfWork(f"v{n}", [server(f"s{i}", 10, 10) for i in range(4)]) for n in range(200)]
    assert max(back(*vnfs, restores=8, at_once=4).values()) == 200 * 8 * 10 / 8


# What is measured.


def test_a_duration_is_in_proportion_where_one_size_was_measured_and_fitted_where_several() -> None:
    same = [Sample(10, 5), Sample(10, 7), Sample(10, 6)]
    assert duration(same, 10, typical) == 6
    assert duration(same, 20, typical) == 12
    assert duration(same, 10, high) == 7
    several = [Sample(10, 15), Sample(20, 25), Sample(40, 45)]
    assert duration(several, 100, typical) == pytest.approx(105)
    assert duration([Sample(0, 3), Sample(0, 5), Sample(0, 4)], 10, typical) == 4
    # larger ones that took less time make no rate
    assert duration([Sample(10, 20), Sample(20, 10)], 20, typical) > 0


def foreseen(world: World) -> forecasts.Foreseen:
    return forecasts.of_vnf(world.process(), "v")


def test_where_nothing_was_measured_it_says_so_and_gives_no_time(world: World) -> None:
    found = foreseen(world)
    assert found.loses_s is not None and 0 <= found.loses_s < 3600
    assert found.to == "site-b"
    assert found.forecast is not None
    assert (found.forecast.back_in_s, found.forecast.error_s) == (None, None)
    assert "boots" in found.forecast.unmeasured
    assert found.readiness is None


def test_a_drill_measures_what_a_failover_takes_and_each_is_compared_with_what_it_took(
    world: World,
) -> None:
    record = drilled(world)
    first = next(forecasts.history(world.here))
    assert (first.run, first.kind, first.back_in_s) == (record["run"], "drill", None)
    assert first.unmeasured and first.took_s is not None and first.off_by_s is None
    found = foreseen(world).forecast
    assert found is not None and found.back_in_s is not None and found.error_s is not None
    assert found.unmeasured == []
    assert record["run"] in found.basis[0]
    moved = world.failover()
    kept = next(forecasts.history(world.here, "v"))
    assert (kept.run, kept.kind, kept.site) == (moved["run"], "failover", "site-b")
    assert kept.back_in_s == found.back_in_s
    assert kept.took_s is not None and 0 < kept.took_s <= moved["rto_s"]
    assert kept.off_by_s == pytest.approx(kept.took_s - (kept.back_in_s or 0), abs=0.01)
    made = report(world.here, moved["run"])
    assert made.forecast is not None and made.forecast.took_s == kept.took_s
    assert f"it took {kept.took_s:g} s" in page.html(made).decode()


def of_measured(monkeypatch: pytest.MonkeyPatch, **volumes: float) -> None:
    """As if a boot took 5 s, and volumes so long by their steps."""

    def found(deployment: object, site: str | None) -> Measured:
        samples = {step.replace("_", " "): [Sample(0, took)] for step, took in volumes.items()}
        row = RunRow(id="drill-1")
        return Measured([row], volumes=samples, boots={"v": [5.0]}, imports=[Sample(1, 100)])

    monkeypatch.setattr(forecast, "measured", found)


def stands(world: World, point: str, **result: Any) -> None:
    row = new_run(standing.KIND, "v", {"site": "site-b", "recovery_point": point})
    row.state, row.ended_at, row.slot = "succeeded", time.time(), None
    row.result = {"recovery_point": point, "not_standing": {}, **result}
    world.here.runs.create(row)


def test_a_vnf_with_standing_volumes_at_its_point_is_forecast_as_a_boot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_measured(monkeypatch, restore_volume=1000)
    before = foreseen(world).forecast
    assert before is not None and (before.back_in_s or 0) > 1000
    stands(world, "of another point")
    assert foreseen(world).forecast == before
    point = points.find(world.here.vault, "v", None).point
    [some, *_] = point.captured_disks
    stands(world, point.id, not_standing={some.name or some.id: "it is encrypted"})
    partly = foreseen(world).forecast
    assert partly is not None and 1000 < (partly.back_in_s or 0) < (before.back_in_s or 0)
    stands(world, point.id)
    after = foreseen(world).forecast
    assert after is not None and 0 < (after.back_in_s or 0) < 100
    assert after.unmeasured == []
    of_measured(monkeypatch)  # no restore was ever measured, and none is needed
    assert foreseen(world).forecast == after
    world.here.runs.create(new_run(failover.KIND, "v", {"to": "site-b"}))
    lost = foreseen(world).forecast
    assert lost is not None and lost.back_in_s is None


def test_volumes_that_the_mover_writes_are_forecast_by_what_that_has_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_measured(monkeypatch, restore_volume=1000, write_volume=50)
    by_cinder = foreseen(world).forecast
    monkeypatch.setattr(type(world.here), "mover_restores", lambda self, site: True)
    monkeypatch.setattr(written, "why_not", lambda source: None)
    by_mover = foreseen(world).forecast
    assert by_cinder is not None and by_mover is not None
    assert (by_cinder.back_in_s or 0) > 1000 > (by_mover.back_in_s or 0) > 50
    of_measured(monkeypatch, restore_volume=1000)  # it has never done so yet
    assert foreseen(world).forecast == by_cinder


def test_a_vnf_is_not_back_before_its_volumes_of_no_server_are_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_measured(monkeypatch, restore_volume=1000)
    limits = world.here.config.limits.model_copy(update={"restores": 1})
    one_by_one = world.here.config.model_copy(update={"limits": limits})
    monkeypatch.setattr(world.here, "config", one_by_one)
    point = points.read(world.here.vault, "v")
    before = forecast.forecast(world.here, point, "site-b", failover.KIND)
    [some, *_] = point.topology.volumes
    spare = some.model_copy(update={"id": "spare", "name": "spare"})
    topology = point.topology.model_copy(update={"unattached": [spare]})
    sources = {**point.sources, "spare": point.sources[some.id]}
    with_spare = point.model_copy(update={"topology": topology, "sources": sources})
    after = forecast.forecast(world.here, with_spare, "site-b", failover.KIND)
    assert before.back_in_s is not None and after.back_in_s is not None
    assert after.back_in_s - before.back_in_s >= 1000


def test_a_road_that_led_to_no_volume_measures_nothing() -> None:
    def step(**result: Any) -> StepRow:
        name = written.WrittenSteps.WRITE.words
        return StepRow(name=name, started_at=0.0, ended_at=7.0, result=result)

    found = Measured()
    steps = [
        step(volume_id=None, volume_bytes=1 << 30, road="Cinder's restore: it is encrypted"),
        step(volume_id="v", volume_bytes=1 << 30, found=True),
        step(volume_id="w", volume_bytes=1 << 30, found=False),
    ]
    _add(found, RunRow(id="failover-1", kind="failover", vnf="v"), steps)
    assert found.volumes == {"write volume": [Sample(1 << 30, 7.0)]}


def test_a_forecast_knows_the_error_of_those_before_it(world: World) -> None:
    drilled(world)
    kept = world.here.forecasts.find(drilled(world)["run"])
    assert kept is not None and kept.back_in_s is not None
    with world.here.database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE forecasts SET back_in_s = back_in_s + 5000 WHERE back_in_s IS NOT NULL"
        )
    again = points.read(world.here.vault, "v")
    made = forecast.forecast(world.here, again, "site-b", kind_of("drill"))
    assert made.error_s is not None and made.error_s > 4000


def test_what_an_interrupted_run_took_is_no_error_of_its_forecast(world: World) -> None:
    drilled(world)
    second = drilled(world)["run"]
    with world.here.database.begin() as connection:
        connection.exec_driver_sql("UPDATE forecasts SET back_in_s = back_in_s + 5000")
        connection.exec_driver_sql("UPDATE runs SET claim = 2 WHERE id = ?", (second,))
    point = points.read(world.here.vault, "v")
    made = forecast.forecast(world.here, point, "site-b", kind_of("drill"))
    assert made.error_s is not None and made.error_s < 4000


def test_a_run_that_was_interrupted_measures_nothing(world: World) -> None:
    run = drilled(world)["run"]
    assert [r.id for r in measured(world.here, "site-b").runs] == [run]
    with world.here.database.begin() as connection:
        connection.exec_driver_sql("UPDATE runs SET claim = 2 WHERE kind = 'drill'")
    assert measured(world.here, "site-b").runs == []


def test_a_site_where_nothing_was_measured_goes_by_the_others_and_says_so(world: World) -> None:
    drilled(world)
    made = forecast.forecast(
        world.here, points.read(world.here.vault, "v"), "site-c", kind_of("failover")
    )
    assert made.back_in_s is not None
    assert "other sites" in made.basis[0]


def test_what_is_forecast_never_stops_a_failover(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def falls(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(forecast, "forecast", falls)
    world.failover()
    assert list(forecasts.history(world.here)) == []


def test_a_failover_that_fails_took_no_time_and_its_resume_keeps_the_first_forecast(
    world: World,
) -> None:
    world.b.before = lambda event: refuse(500, "Nova is broken") if event == "boot db" else None
    with pytest.raises(ResourceFailed):
        world.failover()
    (kept,) = forecasts.history(world.here)
    assert kept.took_s is None
    world.b.before = lambda event: None
    resume(world.here, kept.run, Unobserved())
    (again,) = forecasts.history(world.here)
    assert again.made_at == kept.made_at
    assert again.took_s is not None


def test_what_blocks_a_recovery_is_named(world: World) -> None:
    world.b.flavors = []
    ReadinessLoop(world.here, "site-b", now=time.time).look()
    found = foreseen(world)
    assert found.readiness == "red"
    assert any(reason.startswith("red: plan:") for reason in found.blocked_by)
    for name in world.here.vault.list("v/"):
        world.here.vault.delete(name)
    found = foreseen(world)
    assert (found.loses_s, found.forecast) == (None, None)
    assert "there is no valid recovery point" in found.blocked_by
    # the line of the site does not say that all is back at once
    (all_,) = forecasts.of_site(world.here, "site-a").all_of_them
    assert (all_.site, all_.forecast, all_.blocked) == ("site-b", None, ["v"])


def test_a_failover_that_this_host_has_not_heard_of_counts_in_a_forecast(world: World) -> None:
    drilled(world)
    world.failover()
    here = world.process()
    with here.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM states")
    found = forecasts.of_vnf(here, "v")
    assert (found.to, found.loses_s) == ("site-a", None)  # no point of the copy at site-b
    assert any("says nothing" in why for why in found.blocked_by)
    for to in (None, "site-b"):
        with here.database.begin() as connection:
            connection.exec_driver_sql("DELETE FROM states")
        assert forecasts.of_site(here, "site-a", to).each == []
    with here.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM states")
    with pytest.raises(InvalidInput, match="active at site-b"):
        forecasts.of_vnf(here, "v", "site-b")


def test_a_site_that_a_vnf_is_not_backed_up_to_blocks_it(world: World) -> None:
    drilled(world)
    assert forecasts.of_vnf(world.here, "v", "site-b").blocked_by == []
    asked = world.here.vnfs.get("v")
    world.here.vnfs.put(asked.model_copy(update={"backup": ["site-c"]}))
    assert any(
        "not site-b" in why for why in forecasts.of_vnf(world.here, "v", "site-b").blocked_by
    )


def test_a_look_that_is_stale_says_nothing_in_a_forecast(world: World) -> None:
    world.b.flavors = []
    ReadinessLoop(world.here, "site-b", now=lambda: time.time() - 86400).look()
    found = foreseen(world)
    assert (found.readiness, found.blocked_by) == (None, [])


def test_the_loss_of_a_site_has_all_its_vnfs_together(world: World) -> None:
    drilled(world)
    here = world.process()
    whole = forecasts.of_site(here, "site-a")
    assert [f.vnf for f in whole.each] == ["v"]
    (all_,) = whole.all_of_them
    assert (all_.site, all_.blocked) == ("site-b", [])
    assert whole.each[0].forecast is not None and all_.forecast is not None
    assert all_.forecast.back_in_s == whole.each[0].forecast.back_in_s
    assert forecasts.of_site(here, "site-b").each == []
    with pytest.raises(NotFound):
        forecasts.of_site(here, "site-x")


def test_a_definition_that_cannot_be_read_is_named_and_keeps_no_other_from_its_forecast(
    world: World,
) -> None:
    world.here.vnfs.put(world.here.vnfs.get("v").model_copy(update={"vnf": "a"}))
    with world.here.database.begin() as connection:
        connection.exec_driver_sql("UPDATE vnfs SET definition = '[]' WHERE name = 'a'")
    for each in (forecasts.of_all(world.here), forecasts.of_site(world.here, "site-a").each):
        seen = {found.vnf: found for found in each}
        assert seen["v"].to == "site-b" and seen["v"].blocked_by == []
        assert seen["a"].forecast is None and "cannot be read" in seen["a"].blocked_by[0]


def test_many_vnfs_take_longer_than_one_and_begin_later(world: World) -> None:
    drilled(world)
    point = points.read(world.here.vault, "v")
    names = [f"v{n}" for n in range(5)]
    each = [
        point.model_copy(update={"vnf": point.vnf.model_copy(update={"vnf": name})})
        for name in names
    ]
    joint = forecast.together(
        world.here, [Group(each, 2)], dict.fromkeys(names, "site-b"), kind_of("failover")
    )
    alone = forecast.forecast(world.here, point, "site-b", kind_of("failover"))
    assert alone.back_in_s is not None and joint.all_of_them["site-b"].back_in_s is not None
    assert joint.all_of_them["site-b"].back_in_s >= 2.5 * alone.back_in_s
    begins = [joint.begins_in_s[name] or 0 for name in names]
    assert begins[:2] == [0, 0] and begins[4] > begins[2] > 0


def test_a_plan_is_forecast_from_its_file(world: World, tmp_path: Path) -> None:
    drilled(world)
    file = tmp_path / "lost.yaml"
    file.write_text("plan: lost\nto: site-b\ngroups: [{name: one, vnfs: [v]}]\n")
    whole = forecasts.of_plan(world.here, "lost", None, file)
    assert [(f.vnf, f.begins_in_s) for f in whole.each] == [("v", 0)]
    with pytest.raises(InvalidInput):
        forecasts.of_plan(world.here, "another", None, file)


def test_a_deleted_run_takes_its_forecast_along(world: World) -> None:
    run = drilled(world)["run"]
    assert world.here.runs.delete([world.here.runs.get(run)]) == 1
    assert world.here.forecasts.find(run) is None

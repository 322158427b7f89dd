# SPDX-License-Identifier: Apache-2.0
"""Reports of runs: they say what happened, of failed runs too, hold no secret and no live markup,
and a changed one does not verify.
"""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from antipode.engine.run import new_run
from antipode.engine.timeline import Unobserved
from antipode.errors import InvalidInput, NotFound, ReportInvalid, ResourceFailed
from antipode.model.report import Report
from antipode.operations.migrate import migrate, prepare, request
from antipode.operations.reports import report
from antipode.operations.reports.files import verify, write
from antipode.operations.reports.page import html
from antipode.operations.reports.paper import pdf
from antipode.runs import failover as failover_run
from antipode.store.tables import ApprovalRow, QuestionRow, RunRow, StepRow
from antipode.vault.keys import Keyring
from tests.unit.test_durable_runs import World, world

__all__ = ["world"]

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m'\"&"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.loads += [str(v) for k, v in attrs if k in ("src", "href", "action")]


def kept(world: World, state: str = "succeeded", **result: Any) -> RunRow:
    """A run in the database that was never executed."""
    row = new_run(failover_run.KIND, "v", {"to": "site-b", "confirmed_at": 1_700_000_000.0})
    row.state, row.ended_at, row.result = state, row.started_at + 60, result
    row.slot, row.conductor = None, HOSTILE
    run = row.id
    world.here.runs.create(row)
    return world.here.runs.get(run)


def with_step(world: World, run: str, **fields: Any) -> None:
    step = {"id": f"s-{fields['name']}", "run": run, "number": "", "resource": "front"}
    times = {"started_at": 1_700_000_000.0, "ended_at": 1_700_000_001.0}
    claim = world.here.runs.get(run).claim
    row = StepRow(**{**step, **times, "state": "failed", "result": {}, **fields})
    world.here.runs.keep(run, claim, [row])


def test_a_failover_is_reported_with_its_figures_and_steps(world: World) -> None:
    run = world.failover()["run"]
    found = report(world.here, run)
    assert (found.kind, found.vnf, found.state, found.site) == (
        "failover",
        "v",
        "succeeded",
        "site-b",
    )
    assert found.confirmed_at is not None and found.recovery_point is not None
    assert found.rto.reached_s is not None and found.rto.met is None
    assert {s.state for s in found.steps} >= {"succeeded"}
    assert "boot server" in {s.name for s in found.steps}
    assert found.deviations == [] or all(isinstance(d, str) for d in found.deviations)


def test_its_author_its_approvals_and_answers_are_in_it(world: World) -> None:
    row = kept(world)
    with Session(world.here.database) as session, session.begin():
        session.add(
            ApprovalRow(run=row.id, person="anna", identity="anna on a", plan="0" * 64, at=1.0)
        )
        question = {"wants": "yes-no", "asked_at": 1.0, "expires_at": 9.0, "attempt": 1}
        answer = {"answer": "yes", "answered_by": "bert on b", "answered_at": 2.0}
        session.add(
            QuestionRow(run=row.id, whole=row.id, step="ask", message="Go?", **question, **answer)
        )
    found = report(world.here, row.id)
    assert found.author == row.author != ""
    assert [a.by for a in found.approvals] == ["anna on a"]
    assert [(a.question, a.answer, a.by) for a in found.answers] == [("Go?", "yes", "bert on b")]
    for words in (b"anna on a", b"bert on b", b"Go?"):
        assert words in html(found)


def test_figures_are_compared_with_the_targets_of_the_vnf_file(world: World) -> None:
    vnf = world.here.vnfs.get("v")
    world.here.vnfs.put(vnf.model_copy(update={"rpo": 600.0, "rto": 60.0}))
    run = kept(world, rpo_s=599.0, rto_s=61.0).id
    found = report(world.here, run)
    assert (found.rpo.target_s, found.rpo.met) == (600.0, True)
    assert (found.rto.target_s, found.rto.met) == (60.0, False)
    assert b"NOT MET" in html(found)


def test_a_failed_run_is_reported_with_its_reason(world: World) -> None:
    def before(happens: str) -> None:
        if happens == "boot front":
            raise ResourceFailed("no valid host")

    world.b.before = before
    with pytest.raises(ResourceFailed):
        world.failover()
    found = report(world.here, world.here.runs.all("v")[0].id)
    assert found.state == "failed" and "no valid host" in (found.reason or "")
    assert any("no valid host" in d for d in found.deviations)
    assert any(s.state == "failed" and s.error for s in found.steps)


def test_a_migration_has_its_parts(world: World) -> None:
    here = world.process()
    run = migrate(here, request(prepare(here, "v")), Unobserved())["run"]
    found = report(here, run)
    assert [p.kind for p in found.parts] == ["protect", "protect", "failover", "fence"]
    assert found.downtime_s is not None


def test_what_deviates_is_named(world: World) -> None:
    dns = {"problems": ["the record is another"]}
    content = [
        {"volume": "v1", "ok": True, "detail": "equal"},
        {"volume": "v2", "ok": False, "detail": "block 7 differs"},
        {"volume": "v3", "ok": None, "detail": "not compared"},
    ]
    run = kept(world, "failed", left=["port p"], not_done="fence", dns=dns, content=content).id
    found = report(world.here, run)
    assert found.content is not None
    assert (found.content.compared, found.content.equal, len(found.content.detail)) == (2, 1, 2)
    for words in ("the record is another", "port p", "fence"):
        assert any(words in d for d in found.deviations), words
    assert found.leaks == ["port p"]


def test_a_copy_that_was_not_fenced_and_a_site_that_lacks_something_are_named(
    world: World,
) -> None:
    unfenced = {"servers": [], "ports": [], "not_fenced": ["site-a: no answer"]}
    of_failover = report(world.here, kept(world, fence=unfenced).id)
    assert any("site-a: no answer" in d for d in of_failover.deviations)
    of_fence = report(world.here, kept(world, "failed", not_fenced=["server front runs"]).id)
    assert any("server front runs" in d for d in of_fence.deviations)
    of_reprotect = report(world.here, kept(world, missing=["no quota of volumes"]).id)
    assert any("no quota of volumes" in d for d in of_reprotect.deviations)


def test_neither_commands_nor_their_output_nor_user_data_are_in_it(world: World) -> None:
    secret = "check --password geheim"
    row = kept(world, "failed")
    with_step(world, row.id, name="await answer", result={"error": secret, "asked": secret})
    with_step(
        world, row.id, name="runbook step", result={"error": f"x: {secret}", "output": secret}
    )
    with_step(world, row.id, name=f"{secret}; it is tried again", state="warning")
    found = report(world.here, row.id)
    for content in (found.model_dump_json().encode(), html(found)):
        assert b"geheim" not in content
    of_failover = report(world.here, world.failover()["run"]).model_dump_json()
    assert "cm9sZQ==" not in of_failover  # the user_data of the members


def test_what_the_command_of_a_part_has_printed_is_not_in_the_report_of_the_whole(
    world: World,
) -> None:
    whole = kept(world, "failed", not_done="failover-1 failed: x: geheim")
    part = new_run(failover_run.KIND, "v", {"to": "site-b", "part_of": whole.id})
    part.state, part.ended_at, part.slot = "failed", part.started_at + 1, None
    run = part.id
    world.here.runs.create(part)
    with_step(world, run, name="runbook step", result={"error": "x: geheim", "output": "geheim"})
    with_step(world, whole.id, name="recover at the other site", result={"error": "x: geheim"})
    found = report(world.here, whole.id)
    assert [p.run for p in found.parts] == [run]
    assert "geheim" not in found.model_dump_json()


def test_hostile_names_are_text(world: World) -> None:
    row = kept(world, "failed", not_done=HOSTILE, **{HOSTILE: HOSTILE})
    with_step(world, row.id, name=HOSTILE, resource=HOSTILE, result={HOSTILE: HOSTILE})
    found = report(world.here, row.id)
    content = html(found).decode()
    tags = Tags()
    tags.feed(content)
    assert "script" not in tags.seen and tags.loads == []
    assert "\u202e" not in content and "\x1b" not in content
    assert pdf(found).startswith(b"%PDF")


def test_words_without_end_are_in_every_form(world: World) -> None:
    row = kept(world, "failed", not_done="x" * 50_000)
    with_step(world, row.id, name="boot server", result={"error": "word " * 10_000})
    found = report(world.here, row.id)
    assert len(html(found)) > 100_000
    assert pdf(found).startswith(b"%PDF")


def test_a_run_that_has_not_ended_or_is_not_there_has_no_report(world: World) -> None:
    with pytest.raises(InvalidInput):
        report(world.here, world.die_in("failover"))
    with pytest.raises(NotFound):
        report(world.here, "failover-of-nobody")


FORMS = ("json", "html", "pdf")


def test_all_forms_are_written_for_their_owner_and_verify(world: World, tmp_path: Path) -> None:
    row = kept(world)
    record = write(world.here, row.id, tmp_path / "evidence")
    assert [Path(f).suffix for f in record["files"]] == [".json", ".html", ".pdf"]
    for file in map(Path, record["files"]):
        assert file.stat().st_mode & 0o077 == 0
        found = verify(world.here, file)
        assert (found["run"], found["signed_by"]) == (row.id, record["signed_by"])
    content = json.loads(Path(record["files"][0]).read_text())
    assert Report.model_validate(content).run == row.id
    write(world.here, row.id, tmp_path / "evidence", ["json"])  # once more


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_was_changed_does_not_verify(world: World, tmp_path: Path, form: str) -> None:
    write(world.here, kept(world).id, tmp_path, [form])
    [file] = tmp_path.glob(f"*.{form}") if form != "json" else tmp_path.glob("failover-*[!g].json")
    with file.open("ab") as changed:
        changed.write(b" ")
    with pytest.raises(ReportInvalid):
        verify(world.here, file)


def test_a_report_of_a_key_that_is_not_trusted_or_of_another_run_does_not_verify(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = kept(world).id, kept(world).id
    for run in (first, second):
        write(world.here, run, tmp_path, ["html"])
    with pytest.raises(ReportInvalid):
        verify(world.here, tmp_path / f"{first}.html", tmp_path / f"{second}.sig.json")
    monkeypatch.setattr(Keyring, "trusted", lambda _: {})
    with pytest.raises(ReportInvalid):
        verify(world.here, tmp_path / f"{first}.html")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"payload": "e30=", "payloadType": "x"}'])
def test_what_is_no_signature_is_refused(world: World, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.html").write_text("")
    (tmp_path / "a.sig.json").write_bytes(content)
    with pytest.raises(ReportInvalid):
        verify(world.here, tmp_path / "a.html")
    with pytest.raises(InvalidInput):
        verify(world.here, tmp_path / "b.html")

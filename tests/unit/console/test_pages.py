# SPDX-License-Identifier: Apache-2.0
"""What pages show, and what they begin."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert

from antipode.console import pictures, rendering
from antipode.console.pictures import Dated, Measured
from antipode.console.web import ROOT
from antipode.engine.deployment import Deployment
from antipode.errors import PreflightFailed, SiteUnreachable
from antipode.model.forecast import Forecast
from antipode.model.policy import Policy
from antipode.operations import forecasts, proposals, standing
from antipode.operations.forecasts import Foreseen
from antipode.operations.proposals import Proposal, Wish
from antipode.runs import precheck
from antipode.runs.actions import RunbookSteps
from antipode.store.tables import QuestionRow, RunRow, VnfRow
from tests.unit.console.conftest import House, Page, Visitor, run, step
from tests.unit.keystones import PROJECT
from tests.unit.samples import topology, vnf

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}\u202egnp"
LARGEST = 2 << 20
FAILOVER = "/vnfs/hlr/change/failover"


def is_harmless(page: Page) -> bool:
    """Whether a page has no script but ours, and nothing that would run one."""
    scripts = [attributes.get("src", "") for attributes in page.all("script")]
    return (
        all(source.startswith(f"{ROOT}/assets/") for source in scripts)
        and not page.all("img")
        and not any(name.startswith("on") for _, found in page.tags for name in found)
        and not any("javascript:" in value for _, found in page.tags for value in found.values())
    )


def hostile_run(house: House) -> RunRow:
    """A run whose every word comes from somebody that means no good."""
    row = run(
        "failover-hostile",
        state="running",
        ended_at=None,
        reason=HOSTILE,
        author=HOSTILE,
        result={"recovery_point": HOSTILE, HOSTILE: HOSTILE},
    )
    house.deployment.runs.create(row)
    house.deployment.runs.keep(
        "failover-hostile",
        1,
        [
            step("failover-hostile", 1, name=HOSTILE, resource=HOSTILE, result={"x": HOSTILE}),
            step("failover-hostile", 2, state="warning", result={"words": HOSTILE}),
            step(
                "failover-hostile",
                3,
                state="running",
                ended_at=None,
                result={"waits_for": HOSTILE, "waits_since": 1.0},
            ),
        ],
    )
    now = time.time()
    house.deployment.questions.ask(
        QuestionRow(
            run="failover-hostile",
            step="ask",
            attempt=1,
            whole="failover-hostile",
            message=HOSTILE,
            wants="yes-no",
            asked_at=now,
            expires_at=now + 600,
        )
    )
    return row


def test_hostile_names_are_shown_and_never_run(known: House) -> None:
    members = [{"server": HOSTILE}, {"server": "front", "boot_after": [HOSTILE]}]
    known.deployment.vnfs.put(vnf(project=PROJECT, members=members))
    hostile_run(known)
    visitor = known.logged_in("operator")
    for path in ("/", "/vnfs/hlr", "/runs", "/runs/failover-hostile"):
        answer = visitor.get(path)
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text and "<img" not in answer.text, path
        assert "\u202e" not in answer.text and ">49" not in answer.text, path
        assert is_harmless(Page(answer.text)), path
    for path in (
        f"/vnfs?q={HOSTILE}&state={HOSTILE}",
        f"/runs?vnf={HOSTILE}",
        f"/login?next={HOSTILE}",
    ):
        assert is_harmless(Page(visitor.get(path).text)), path


def test_hostile_servers_and_volumes_are_shown_and_never_run(house: House) -> None:
    found = topology()
    server = found.servers[0].model_copy(
        update={
            "name": HOSTILE,
            "attachments": [
                a.model_copy(update={"volume": a.volume.model_copy(update={"name": HOSTILE})})
                for a in found.servers[0].attachments
            ],
            "ports": [p.model_copy(update={"network": HOSTILE}) for p in found.servers[0].ports],
        }
    )
    found = found.model_copy(update={"servers": [server, *found.servers[1:]]})

    url = SimpleNamespace(path="/console/vnfs/hlr/topology")
    request: Any = SimpleNamespace(cookies={}, url=url)
    values = {
        "name": "hlr",
        "csrf": "",
        "topology": found,
        "source": HOSTILE,
        "warnings": [HOSTILE, HOSTILE],
        "may_look_live": True,
        "graph": pictures.graph(found, [[HOSTILE], ["front"]]),
    }
    text = rendering.Renderer(ROOT).render("fragments/topology.html", request, values)
    assert "alert(1)" in text and is_harmless(Page(text))
    assert "<script" not in text and "<img" not in text


def test_the_first_page_is_small_and_helps_to_begin(house: House) -> None:
    visitor = house.logged_in("boss")
    page = visitor.page("/")
    assert "Getting started" in page.words
    files = [found["href"] for found in page.all("link")] + [
        found["src"] for found in page.all("script")
    ]
    sizes = [len(visitor.get(file.removeprefix(ROOT)).content) for file in files]
    assert sum(sizes) + len(visitor.get("/").content) < LARGEST / 10


def test_many_vnfs_are_shown_page_by_page(house: House) -> None:
    definition = vnf(rpo=3600).model_dump(mode="json")
    with house.deployment.database.begin() as connection:
        rows = [
            {
                "name": f"vnf-{number:03}",
                "definition": {**definition, "vnf": f"vnf-{number:03}"},
                "added_at": 1.0,
            }
            for number in range(160)
        ]
        connection.execute(insert(VnfRow), rows)
    house.app.snapshots.forget()
    visitor = house.logged_in("boss")
    answer = visitor.get("/vnfs")
    assert len(answer.content) < 200_000
    page = Page(answer.text)
    assert sum(found.get("name") == "vnf" for found in page.all("input")) == 50
    assert "vnf-049" in page.words and "vnf-050" not in page.words
    assert "vnf-159" in visitor.page("/vnfs?page=4").words
    assert "vnf-159" in visitor.page("/vnfs?page=9999").words
    assert visitor.page("/vnfs?q=012").words.count("vnf-012") == 1
    assert "160 of 160" in visitor.page("/vnfs?rpo=not-kept").words
    assert len(visitor.get("/").content) < 50_000


def test_a_bulk_action_says_which_vnfs_refuse_it(known: House) -> None:
    visitor = known.logged_in("operator")
    sent = {"verb": "precheck", "vnf": ["hlr", "smsc", "nothing"]}
    page = Page(visitor.post("/vnfs", sent).text)
    assert "2 asked for, 1 refused" in page.words
    assert {row.vnf for row in known.deployment.runs.open()} == {"hlr", "smsc"}
    assert visitor.post("/vnfs", {"verb": "failover", "vnf": "hlr"}).status_code == 400


def test_a_run_is_begun_in_the_name_of_its_author(known: House) -> None:
    answer = known.logged_in("operator").post("/vnfs/hlr/precheck")
    [row] = known.deployment.runs.open()
    assert answer.headers["location"] == f"{ROOT}/runs/{row.id}"
    assert row.author == "operator@site-a"


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    """With a tenant that may have two open runs."""
    tenant = {**settings["projects"][PROJECT], "quota": {"open_runs": 2}}
    return {**settings, "projects": {**settings["projects"], PROJECT: tenant}}


def test_a_project_has_no_more_open_runs_than_its_quota(known: House) -> None:
    for name in ("ausf", "smf"):
        known.deployment.vnfs.put(vnf(vnf=name, project=PROJECT))
    sent = {"verb": "precheck", "vnf": ["hlr", "ausf", "smf"]}
    page = Page(known.logged_in("operator").post("/vnfs", sent).text)
    assert "2 asked for, 1 refused" in page.words
    assert len(known.deployment.runs.open()) == 2


def test_a_new_host_finds_what_was_protected_elsewhere(known: House, tmp_path: Path) -> None:
    for name in ("hlr", "lost", "<b>"):
        folder = tmp_path / "vault" / name
        folder.mkdir(parents=True)
        (folder / "20261122T160501Z-1a2b3c.json").write_text("{}")
    page = known.logged_in("operator").page("/elsewhere")
    assert "lost" in page.words and not page.all("b")
    assert not any(found["href"].endswith("/hlr") for found in page.all("a"))
    assert known.logged_in("tenant-operator").get("/elsewhere").status_code == 404


def test_policies_are_listed(known: House) -> None:
    policy = Policy.model_validate(
        {"policy": "gold", "protections": [{"option": "quiesced-snapshot"}], "rpo": 900}
    )
    known.deployment.policies.put(policy, "boss@site-a")
    assert "gold" in known.logged_in("demo").page("/policies").words


def test_a_tenant_is_told_nothing_of_other_projects(
    known: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"policy": "gold", "protections": [{"option": "quiesced-snapshot"}]}
    policy = Policy.model_validate({**given, "projects": [PROJECT, "a-competitor"]})
    known.deployment.policies.put(policy, "boss@site-a")

    def propose(deployment: Deployment, name: str, wish: Wish) -> Proposal:
        error = PreflightFailed("a failover", ["site-b has no network net"])
        error.add_note("drill-1 of a-competitor's-vnf holds resources there")
        raise error

    monkeypatch.setattr(proposals, "OF_VNF", {**proposals.OF_VNF, "failover": propose})
    whole = Forecast(back_in_s=9.0, error_s=1.0, basis=["drill of a-competitor's-vnf"])
    foreseen = Foreseen("hlr", "site-b", 1.0, None, whole, [], None)
    monkeypatch.setattr(forecasts, "of_vnf", lambda *_: foreseen)
    known.deployment.runs.create(run("protect-before", project="a-competitor"))
    staff, tenant = known.logged_in("operator"), known.logged_in("tenant-operator")
    for path, words in (
        ("/policies", "a-competitor"),
        ("/vnfs/hlr/change/failover/plan?to=site-b", "a-competitor"),
        ("/vnfs/hlr/forecast", "a-competitor"),
        ("/vnfs/hlr", "protect-before"),
    ):
        assert words in staff.get(path).text, path
        answer = tenant.get(path)
        assert answer.status_code == 200 and words not in answer.text, path
    refusals = [
        tenant.get(f"/runs/{name}").text.replace(name, "RUN")
        for name in ("protect-before", "protect-never")
    ]
    assert refusals[0] == refusals[1]


def test_the_place_of_another_projects_run_is_not_shown(known: House) -> None:
    runs = known.deployment.runs
    runs.create(run("protect-theirs", project="a-competitor"))
    runs.create(run("protect-mine", project=PROJECT, started_at=1.0))
    tenant = known.logged_in("tenant-operator")
    answers = [tenant.get(f"/runs?marker=protect-{name}") for name in ("theirs", "never")]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].text.replace("theirs", "never") == answers[1].text
    assert tenant.get("/runs?marker=protect-mine").status_code == 200
    assert "protect-mine" in known.logged_in("operator").get("/runs?marker=protect-theirs").text


# ---- copies at other sites ----

VOLUME = "</td><b>vol"
STANDS = {
    "site": "site-b",
    "stands_for": VOLUME,
    "volume": "standing-1",
    "size_gib": 4,
    "status": "available",
    "holds_backup": "backup-1",
    "read_at": None,
}


@pytest.fixture
def standing_at_b(known: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VNF with standing volumes and a datastore of which one site is lost."""
    monkeypatch.setattr(standing, "sites_of", lambda *_: ["site-a", "site-b"])

    def volumes(deployment: Deployment, name: str, site: str | None) -> list[dict[str, Any]]:
        if site == "site-a":
            raise SiteUnreachable("site-a does not answer")
        return [STANDS]

    monkeypatch.setattr(standing, "volumes", volumes)


@pytest.mark.usefixtures("standing_at_b")
def test_standing_volumes_are_shown_with_a_site_lost(known: House) -> None:
    page = known.logged_in("demo").page("/vnfs/hlr/copies")
    assert "site-a does not answer" in page.words
    assert VOLUME in page.words and not page.all("b")
    assert not any("standing-removal" in link["href"] for link in page.all("a"))
    whole = known.logged_in("demo").page("/vnfs/hlr")
    assert any(part.get("data-load", "").endswith("/copies") for part in whole.all("div"))


@pytest.mark.usefixtures("standing_at_b")
def test_the_removal_of_standing_volumes_is_shown_before_it_begins(known: House) -> None:
    operator, member = known.logged_in("tenant-operator"), known.logged_in("demo")
    offered = operator.page("/vnfs/hlr/copies").all("a")
    [path] = [one["href"] for one in offered if "standing-removal" in one["href"]]
    assert path.endswith("/vnfs/hlr/change/standing-removal?to=site-b")
    plan = "/vnfs/hlr/change/standing-removal/plan?to=site-b"
    assert member.get(plan).status_code == 403
    assert "standing-1" in operator.page(plan).words


def test_vaults_that_are_lost_are_named_where_that_matters(known: House) -> None:
    operator = known.logged_in("operator")
    for verb in ("failover", "fence", "reprotect", "dns-switch"):
        page = operator.page(f"/vnfs/hlr/change/{verb}?lost=vault")
        boxes = [one for one in page.all("input") if one.get("name") == "lost"]
        assert boxes and all("checked" in one for one in boxes if one["value"] == "vault"), verb
        [plan] = [one["data-load"] for one in page.all("div") if "data-load" in one]
        assert "lost=vault" in plan


# ---- changes that are looked at first ----


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Failovers that are planned in a moment; each plan says what it was made for."""

    def say(words: str) -> None:
        def propose(deployment: Deployment, name: str, wish: Wish) -> Proposal:
            if words == "blocked":
                raise PreflightFailed("a failover", ["site-b has no network net"])
            row = precheck.requested(name, wish.to or "site-b")
            return Proposal("failover", name, wish.to, [words], lambda: row, loses_s=42.0)

        known = {**proposals.OF_VNF, "failover": propose}
        monkeypatch.setattr(proposals, "OF_VNF", known)

    say("the plan")
    return say


def confirm(visitor: Visitor, name: str, typed: str = "hlr", path: str = FAILOVER) -> Any:
    """Confirm a plan that was shown, as the page of a change does."""
    return visitor.post(path, {"proposal": name, "typed": typed, "csrf": visitor.csrf()})


def proposal_of(visitor: Visitor, query: str = "?to=site-b") -> str:
    """The name of a plan that is shown."""
    answer = visitor.get(f"/vnfs/hlr/change/failover/plan{query}", fragment=True)
    return next(
        found["value"]
        for found in Page(answer.text).all("input")
        if found.get("name") == "proposal"
    )


def test_a_change_says_what_is_lost_and_begins_when_the_name_is_typed(
    known: House, shown: Callable[[str], None]
) -> None:
    visitor = known.logged_in("operator")
    plan = visitor.get("/vnfs/hlr/change/failover/plan?to=site-b", fragment=True)
    assert "42 s of data" in Page(plan.text).words
    name = proposal_of(visitor)
    for typed in ("", "HLR", "smsc"):
        visitor.post(
            "/vnfs/hlr/change/failover", {"proposal": name, "typed": typed, "csrf": visitor.csrf()}
        )
        assert known.deployment.runs.open() == []
    answer = confirm(visitor, name, " hlr ")
    [row] = known.deployment.runs.open()
    assert answer.headers["location"].endswith(row.id)
    assert row.shown == ["the plan"]


def test_what_begins_is_what_was_shown(known: House, shown: Callable[[str], None]) -> None:
    visitor = known.logged_in("operator")
    name = proposal_of(visitor)
    shown("another plan")
    confirm(visitor, name)
    [row] = known.deployment.runs.open()
    assert row.shown == ["the plan"]
    confirm(visitor, name)
    assert len(known.deployment.runs.open()) == 1


def test_approvals_that_are_wanted_since_a_plan_was_shown_count(known: House) -> None:
    row = run("commit-1", state="running", ended_at=None, claim=0)
    proposal = Proposal("commit", "hlr", None, ["the plan"], lambda: row)
    known.deployment.vnfs.put(vnf(project=PROJECT, approvals={"commit": 1}))
    record = proposals.begin(known.deployment, proposal, "hlr")
    assert record["needed"] == 1
    assert known.deployment.runs.get("commit-1").state == "awaiting"


def test_a_plan_of_another_session_vnf_or_verb_or_of_long_ago_begins_nothing(
    known: House, shown: Callable[[str], None]
) -> None:
    visitor, other = known.logged_in("operator"), known.logged_in("operator")
    name = proposal_of(other)
    visitor.post(
        "/vnfs/hlr/change/failover", {"proposal": name, "typed": "hlr", "csrf": visitor.csrf()}
    )
    for path in ("/vnfs/smsc/change/failover", "/vnfs/hlr/change/fence"):
        confirm(other, name, path.split("/")[2], path)
    assert known.deployment.runs.open() == []
    session = known.session_of(other)
    session.proposals[name] = (time.time() - 3600, session.proposals[name][1])
    other.post(
        "/vnfs/hlr/change/failover", {"proposal": name, "typed": "hlr", "csrf": other.csrf()}
    )
    assert known.deployment.runs.open() == []


def test_what_stands_in_the_way_is_named_and_nothing_can_be_confirmed(
    known: House, shown: Callable[[str], None]
) -> None:
    shown("blocked")
    visitor = known.logged_in("operator")
    page = Page(visitor.get("/vnfs/hlr/change/failover/plan?to=site-b", fragment=True).text)
    assert "site-b has no network net" in page.words and "preflight-failed" in page.words
    assert not page.all("form")


@pytest.mark.parametrize(
    "query", ["?fence=x", "?old_copy=x", "?keep=x", "?undo=-1", "?keep=99999999"]
)
def test_a_choice_that_is_none_is_refused(known: House, query: str) -> None:
    visitor = known.logged_in("operator")
    page = Page(visitor.get(f"/vnfs/hlr/change/drill/plan{query}", fragment=True).text)
    assert "invalid-input" in page.words


# ---- runs ----


def test_neither_commands_nor_what_they_print_are_shown(known: House) -> None:
    said = "runbook step x: /bin/check ended with exit code 1: token=s3cret"
    runs = known.deployment.runs
    runs.create(run("failover-spoke", state="failed", reason=f"failed: {said}"))
    facts = {"exit_code": 1, "output": "token=s3cret", "error": said}
    spoke = step("failover-spoke", 1, name=RunbookSteps.DO.words, state="failed", result=facts)
    runs.keep("failover-spoke", 1, [spoke])
    page = known.logged_in("boss").get("/runs/failover-spoke").text
    assert "exit code 1" in page and "s3cret" not in page


@pytest.mark.parametrize("state", ["failed", "running", "awaiting"])
def test_a_run_of_a_newer_antipode_is_shown(known: House, state: str) -> None:
    known.deployment.runs.create(run("teleport-1", state=state, approve_before=time.time() + 600))
    visitor = known.logged_in("operator")
    page = visitor.page("/runs/teleport-1")
    assert "teleport" in page.words.lower()
    assert not any("/teleport-1/" in found["action"] for found in page.all("form"))
    assert visitor.get("/runs/teleport-1/actions", fragment=True).status_code == 200


def test_a_question_is_answered_on_the_page_of_its_run(known: House) -> None:
    hostile_run(known)
    visitor = known.logged_in("operator")
    assert "Yes, continue" in visitor.page("/runs/failover-hostile").words
    assert "waiting for input" in visitor.page("/").words
    answer = visitor.post("/runs/failover-hostile/answer", {"step": "ask", "said": "yes"})
    assert answer.status_code == 303
    [question] = known.deployment.questions.of("failover-hostile")
    assert (question.answer, question.answered_by) == ("yes", "operator@site-a")


def test_two_persons_approve_a_run_and_its_author_is_none_of_them(known: House) -> None:
    row = run(
        "failover-two",
        state="queued",
        ended_at=None,
        author="operator@site-b",
        approvals_needed=1,
        approve_before=time.time() + 600,
        shown=["recover it"],
        request={"to": "site-b"},
        slot=None,
    )
    known.deployment.approvals.ask(row)
    author, other = known.logged_in("operator"), known.logged_in("approver")
    page = Page(other.get("/runs/failover-two").text)
    plan = next(f["value"] for f in page.all("input") if f.get("name") == "plan")
    assert "Withdraw" in author.page("/runs/failover-two").words
    assert author.post("/runs/failover-two/approve", {"plan": plan}).status_code == 403
    assert other.post("/runs/failover-two/approve", {"plan": "other"}).status_code == 400
    assert other.post("/runs/failover-two/approve", {"plan": plan}).status_code == 303
    [approval] = known.deployment.approvals.of("failover-two")
    assert approval.identity == "approver@site-a"


def test_an_abort_asks_the_process_of_a_run_to_stop(known: House) -> None:
    hostile_run(known)
    known.logged_in("operator").post("/runs/failover-hostile/abort")
    assert known.deployment.runs.get("failover-hostile").abort_requested_at is not None
    assert known.logged_in("demo").post("/runs/failover-hostile/abort").status_code == 403


def test_the_end_of_a_run_ends_the_refreshing_of_its_page(known: House) -> None:
    known.deployment.runs.create(run("protect-over"))
    visitor = known.logged_in("operator")
    assert visitor.get("/runs/protect-over", fragment=True).headers["X-Ended"] == "1"
    hostile_run(known)
    assert "X-Ended" not in visitor.get("/runs/failover-hostile", fragment=True).headers


def test_runs_are_listed_page_by_page(known: House) -> None:
    for number in range(60):
        known.deployment.runs.create(run(f"verify-{number:03}", started_at=1000.0 + number))
    visitor = known.logged_in("operator")
    page = visitor.page("/runs")
    assert "059" in page.words and "009" not in page.words
    older = next(f["href"] for f in page.all("a") if f.get("rel") == "next")
    page = visitor.page(f"/runs{older}")
    assert "009" in page.words and "010" not in page.words
    assert "no such run" in visitor.page("/runs?kind=drill").words


@pytest.mark.parametrize("form", ["html", "json"])
def test_a_report_is_shown_or_kept(known: House, form: str) -> None:
    known.deployment.runs.create(run("drill-over", result={"passed": True}))
    answer = known.logged_in("operator").get(f"/reports/run/drill-over.{form}")
    assert (
        answer.status_code == 200 and "script-src" not in answer.headers["content-security-policy"]
    )
    assert ("attachment" in answer.headers.get("content-disposition", "")) == (form != "html")
    assert known.logged_in("operator").get("/reports/run/drill-over.exe").status_code == 404
    assert known.logged_in("operator").get(f"/reports/vnf/hlr.{form}").status_code == 200


def test_a_definition_that_cannot_be_read_is_named(known: House) -> None:
    from sqlalchemy import text

    with known.deployment.database.begin() as connection:
        connection.execute(text("update vnfs set definition = '{\"vnf\": 1}' where name = 'smsc'"))
    assert "damaged" in known.logged_in("boss").page("/").words


# ---- pictures ----


@pytest.mark.parametrize("length", [0.0, 0.5, 59.0, 3600.0, 30 * 86400.0])
def test_all_bars_are_within_the_time_line_of_a_run(length: float) -> None:
    steps = [
        step("r", 1, started_at=100.0, ended_at=100.0 + length),
        step("r", 2, started_at=100.0 + length, ended_at=None, state="running"),
        step("r", 3, started_at=100.0 + length / 2, ended_at=None, state="noted"),
        step("r", 4, started_at=50.0, ended_at=60.0),
    ]
    drawn = pictures.gantt(steps, 100.0, 100.0 + length, 10)
    assert all(b.x >= 0 and b.width > 0 and b.x + b.width <= 1000 for b in drawn.bars)
    assert len(drawn.ticks) <= 10 and all(0 <= t.x <= 1000 for t in drawn.ticks)


def test_steps_under_way_are_drawn_however_many_came_after_them() -> None:
    steps = [step("r", 0, state="running", ended_at=None)]
    steps += [step("r", number) for number in range(1, 100)]
    drawn = pictures.gantt(steps, 0.0, 100.0, 10)
    assert drawn.left_out == 89
    assert [b.step.state for b in drawn.bars].count("running") == 1


def test_charts_and_time_lines_are_drawn_of_nothing_and_of_zeros() -> None:
    assert pictures.chart([]).columns == []
    assert pictures.chart([Measured(0.0, "x")], 0.0).columns[0].height > 0
    assert pictures.time_line([]).marks == []
    [mark] = pictures.time_line([Dated(50.0, "good", "x")], now=50.0).marks
    assert 0 <= mark.x <= 1000
    over = pictures.chart([Measured(5.0, "x"), Measured(1.0, "y")], 2.0)
    assert [c.tone for c in over.columns] == ["bad", "calm"]


def test_members_that_boot_together_stand_in_one_column() -> None:
    drawn = pictures.graph(topology(), [["db"], ["front"]])
    assert drawn is not None
    db, front = drawn.boxes
    assert front.x > db.x and front.y == db.y and len(drawn.order) == 1
    together = pictures.graph(topology(), [["db", "front"]])
    assert together is not None and together.boxes[0].x == together.boxes[1].x
    assert [len(lane.ports) for lane in drawn.lanes] == [2]

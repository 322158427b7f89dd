# SPDX-License-Identifier: Apache-2.0
"""The steps of a runbook around the verbs that boot no members, and what the environment of their
commands has.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import StepFailed
from antipode.model import point_v2, requirements
from antipode.model.runbook import PlannedStep, RunbookStep
from antipode.operations import commit, fence, reprotect, undo
from antipode.operations.answer import answer
from antipode.operations.resume import resume
from antipode.runs import fence as fence_run
from antipode.runs import kind_of
from antipode.service.queue import enqueue
from antipode.store.tables import RunRow
from tests.unit.test_approved_verbs import ASKED, pictured
from tests.unit.test_durable_runs import InBackground, World, world
from tests.unit.test_runbook import Commands, asks, commands, quick, ran, step, with_runbook
from tests.unit.test_undo_run import failed_over

__all__ = ["commands", "quick", "world"]
EXECUTED: dict[str, Any] = {
    "undo": undo.undo,
    "commit": commit.commit,
    "fence": fence.fence,
    "reprotect": reprotect.reprotect,
}
VERBS = tuple(EXECUTED)
ELSEWHERE = {"undo": "site-b", "commit": "site-a", "fence": "site-b", "reprotect": "site-a"}


def done(world: World, verb: str) -> dict[str, Any]:
    here = world.process()
    found: dict[str, Any] = EXECUTED[verb](here, ASKED[verb](here), Unobserved())
    return found


def moved_with(world: World, *steps: dict[str, Any]) -> None:
    failed_over(world)
    world.here.vnfs.put(with_runbook(*steps))


def newest(world: World, verb: str) -> RunRow:
    return next(r for r in world.here.runs.all("v") if r.kind == verb)


@pytest.mark.parametrize("verb", VERBS)
def test_steps_are_done_before_all_of_a_verb_and_after_it(
    world: World, commands: Commands, verb: str
) -> None:
    others = sorted({*VERBS, "failover"} - {verb})
    moved_with(
        world,
        step("late", after="all", on=verb),
        step("early", before="all", on=[verb]),
        step("of-others", before="all", on=others),
        step("elsewhere", before="all", on=verb, to=ELSEWHERE[verb]),
    )
    begun = len(world.b.events)
    done(world, verb)
    since = world.b.events[begun:]
    assert [e for e in since if e.startswith("run ")] == ["run early", "run late"]
    assert since[0] == "run early"
    assert {e["ANTIPODE_VERB"] for e in commands.environments} == {verb}


@pytest.mark.parametrize("verb", VERBS)
def test_one_that_fails_before_a_verb_leaves_all_as_it_was(
    world: World, commands: Commands, verb: str
) -> None:
    moved_with(world, step("early", before="all", on=verb))
    commands.codes["early"] = [1]
    before = pictured(world)
    with pytest.raises(StepFailed):
        done(world, verb)
    after = pictured(world)
    after.remove("run early")
    assert after == before
    assert newest(world, verb).state == "failed"


def test_one_that_fails_after_an_undo_goes_back_to_the_new_copy(
    world: World, commands: Commands
) -> None:
    moved_with(world, step("late", after="all", on="undo"))
    commands.codes["late"] = [1]
    with pytest.raises(StepFailed):
        done(world, "undo")
    assert {s["status"] for s in world.b.servers.values()} == {"ACTIVE"}
    assert {s["status"] for s in world.a.servers.values()} == {"SHUTOFF"}


def test_a_reprotection_whose_last_step_failed_is_resumed_and_repeats_nothing(
    world: World, commands: Commands
) -> None:
    moved_with(
        world,
        step("early", before="all", on="reprotect"),
        step("late", after="all", on="reprotect"),
    )
    commands.codes["late"] = [1]
    here = world.process()
    before = len([r for r in here.runs.all("v") if r.kind == "protect"])
    with pytest.raises(StepFailed):
        done(world, "reprotect")
    resume(here, newest(world, "reprotect").id, Unobserved())
    assert (ran(world, "early"), ran(world, "late")) == (1, 2)
    assert len([r for r in here.runs.all("v") if r.kind == "protect"]) == before + 1


def test_a_no_before_a_fence_cuts_nothing_off(world: World) -> None:
    moved_with(
        world, {"name": "sure", "before": "all", "on": "fence", "prompt": "Is it the old one?"}
    )
    before = list(world.a.events)
    fencing = InBackground(lambda: done(world, "fence"))
    question = asks(world)
    answer(world.here, question.run, "sure", False)
    fencing.join()
    assert isinstance(fencing.error, StepFailed)
    assert world.a.events == before


def test_a_fence_by_policy_and_one_within_another_run_do_no_steps_of_a_fence(
    world: World, commands: Commands
) -> None:
    moved_with(world, step("early", before="all", on="fence"))
    here = world.process()
    state = fence.prepare(here, "v", "site-a").state
    enqueue(here, fence_run.requested(state, "site-a", by_policy=True))
    with here.claims.take(newest(world, "fence").id) as claim:
        execute(here, fence_run.KIND, claim, Unobserved())
    done(world, "reprotect")
    assert ran(world, "early") == 0


@pytest.mark.parametrize("verb", VERBS)
def test_a_step_about_members_of_a_verb_that_boots_none_is_refused(verb: str) -> None:
    wrong = step("s", before=["db"], on=["failover", verb])
    with pytest.raises(ValidationError, match=verb):
        with_runbook(wrong)


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_to_be_done_is_shown_with_all_that_it_executes(world: World, verb: str) -> None:
    moved_with(world, step("say", after="all", on=verb, command=["notify", "the noc"]))
    row = ASKED[verb](world.process())
    assert any("notify 'the noc'" in line for line in kind_of(row.kind).words(row))


def test_a_question_that_need_not_be_answered_says_so_in_the_plan() -> None:
    asked = {"name": "q", "before": "all", "prompt": "Ready?", "on_error": "ignore"}
    assert "continues without an answer" in str(PlannedStep(step=RunbookStep.model_validate(asked)))


# ---- the environment of a command ----


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OS_PASSWORD", "AWS_SECRET_ACCESS_KEY", "ANTIPODE_DATABASE", "NOC_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_TIME", "C")


def environment_of(world: World, folder: Path, **fields: Any) -> dict[str, str]:
    seen = folder / "seen"
    program = f"import os, json; json.dump(dict(os.environ), open({str(seen)!r}, 'w'))"
    command = [sys.executable, "-c", program]
    world.here.vnfs.put(with_runbook(step("look", after="all", command=command, **fields)))
    world.failover()
    return dict(json.loads(seen.read_text()))


def test_a_command_gets_nothing_of_the_environment_that_may_be_secret(
    world: World, tmp_path: Path, secrets: None
) -> None:
    seen = environment_of(world, tmp_path)
    assert "secret" not in seen.values()
    assert (seen["PATH"], seen["LC_TIME"]) == (os.environ["PATH"], "C")
    assert seen["ANTIPODE_VNF"] == "v"


def test_a_command_gets_the_variables_that_its_step_names(
    world: World, tmp_path: Path, secrets: None
) -> None:
    seen = environment_of(world, tmp_path, variables=["NOC_TOKEN", "THERE_IS_NO_SUCH"])
    assert seen["NOC_TOKEN"] == "secret"
    assert [k for k, v in seen.items() if v == "secret"] == ["NOC_TOKEN"]
    assert "THERE_IS_NO_SUCH" not in seen


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": ["x"], "variables": ["A=B"]},
        {"command": ["x"], "variables": [""]},
        {"wait": "1s", "variables": ["A"]},
        {"http": {"url": "https://x.example/"}, "variables": ["A"]},
    ],
)
def test_variables_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        with_runbook({"name": "s", "before": "all", **wrong})


def test_an_older_reader_refuses_a_point_whose_step_names_variables() -> None:
    with_one = step("s", before="all", variables=["A"])
    named = point_v2.RunbookStep.model_validate(
        RunbookStep.model_validate(with_one).model_dump(mode="json")
    )
    assert requirements.required_by(named) == {"RunbookStep.variables"}
    assert "RunbookStep.variables" in point_v2.KNOWN_REQUIREMENTS

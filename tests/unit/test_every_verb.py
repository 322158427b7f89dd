# SPDX-License-Identifier: Apache-2.0
"""What each verb of a disaster promises, whichever it is: it shows its plan, waits for a name, is
queued, speaks JSON, ends with its code, and what is refused has changed nothing.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from antipode import logs
from antipode.cli import app, main
from antipode.cloud import site as cloud_site
from antipode.engine import parts
from antipode.engine.timeline import Unobserved
from antipode.operations import abort as aborting
from antipode.operations.drill import drill
from antipode.operations.drill import prepare as prepare_drill
from antipode.operations.drill import request as request_drill
from antipode.protect.quiesced_snapshot import window
from antipode.recover import rollback, switching
from antipode.runs import KINDS, fence, reprotect
from antipode.topology import answering
from tests.unit import planworld
from tests.unit.test_dns_run import zone
from tests.unit.test_drill_run import probed
from tests.unit.test_durable_runs import World, made_once, protected, world
from tests.unit.test_migrate_run import migrated
from tests.unit.test_undo_run import failed_over

__all__ = ["world", "zone"]
Json = dict[str, Any]
PLAN = """\
plan: p
groups:
  - name: g
    vnfs: [v1, v2]
"""


class Verb(NamedTuple):
    """A verb, and where the VNF must be for it."""

    arguments: str
    at: str = "protected"
    names: str = "v"
    """what is typed to confirm it"""
    repeated: int = 0
    """the exit code when the same command is given again"""


VERBS = {
    "drill": Verb("drill v"),
    "drill cleanup": Verb("drill cleanup v", "drilled", repeated=2),
    "failover": Verb("failover v --to site-b", repeated=2),
    "migrate": Verb("migrate v --to site-b", repeated=2),
    "failback": Verb("failback v", "migrated", repeated=2),
    "fence": Verb("fence v --site site-a", "failed over"),
    "reprotect": Verb("reprotect v", "failed over", repeated=2),
    "undo": Verb("undo v", "failed over", repeated=2),
    "commit": Verb("commit v", "failed over", repeated=2),
    "dns switch": Verb("dns switch v", "named"),
    "plan drill": Verb("plan drill p --to site-b", "planned", "p"),
    "plan failover": Verb("plan failover p --to site-b", "planned", "p", repeated=2),
    "plan migrate": Verb("plan migrate p --to site-b", "planned", "p", repeated=2),
    "plan failback": Verb("plan failback p", "moved by a plan", "p", repeated=2),
}
LOOKS = {
    "precheck": Verb("precheck v"),
    "plan precheck": Verb("plan precheck p --to site-b", "planned", "p"),
}
"""These change nothing, so there is nothing to confirm."""
EITHER = {**VERBS, **LOOKS}


class Operator:
    """`antipode` in this process, in a world."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.world: Any = None
        self.out = self.err = ""

    def __call__(self, arguments: str) -> int:
        code = main.main(["--config", str(self.world.config), *arguments.split()])
        self.out, self.err = self._capsys.readouterr()
        return code

    def json(self, arguments: str, code: int = 0) -> Json:
        assert self(f"{arguments} -f json") == code, self.err
        found: Json = json.loads(self.out)
        return found

    def refused(self, arguments: str, code: int) -> str:
        """The code of the error of a command, which is all that it says in JSON."""
        assert self(f"{arguments} -f json") == code, (self.out, self.err)
        assert self.out == ""
        error = json.loads(self.err.splitlines()[-1])["error"]
        assert error["exit_code"] == code
        assert error["message"]
        return str(error["code"])


def picture(world: Any) -> Json:
    """All that a command could have changed: at the sites, in the vault, and the runs."""
    vault = Path(world.folder) / "vault"
    return {
        "events": [list(cloud.events) for cloud in (world.a, world.b)],
        "vault": sorted((str(p), p.stat().st_mtime_ns) for p in vault.rglob("*") if p.is_file()),
        "runs": [(row.id, row.state) for row in world.process().runs.all()],
    }


# ---- where a VNF may be ----


def drilled(world: World) -> None:
    protected_and_probed(world)
    here = world.process()
    drill(here, request_drill(prepare_drill(here, "v"), 3600.0), Unobserved())


def protected_and_probed(world: World) -> None:
    world.becomes(protected())
    probed(world)


def moved_away(world: World) -> None:
    world.becomes(protected())
    migrated(world)


def lost(world: World) -> None:
    world.becomes(protected())
    failed_over(world)


def moved_by_a_plan(world: World) -> None:
    assert isinstance(world, planworld.PlanWorld)
    world.becomes(planworld.protected()())
    world.carry_out(planworld.plan_of(["v1", "v2"]), "migrate")


STAGES = {
    "protected": made_once(protected_and_probed),
    "drilled": made_once(drilled),
    "migrated": made_once(moved_away),
    "failed over": made_once(lost),
    "planned": planworld.protected(),
    "moved by a plan": made_once(moved_by_a_plan, planworld.PlanWorld),
}
OF_PLANS = ("planned", "moved by a plan")


def plan_put(operator: Operator) -> None:
    path = Path(operator.world.folder) / "p.yaml"
    path.write_text(PLAN)
    assert operator(f"plan put {path}") == 0, operator.err


@pytest.fixture
def operator(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logs, "log_to_stream", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for module, pause in (
        (window, "POLL_S"),
        (rollback, "POLL_S"),
        (switching, "POLL_S"),
        (fence, "POLL_S"),
        (reprotect, "POLL_S"),
        (parts, "LOOK_S"),
        (aborting, "LOOK_S"),
        (answering, "PAUSE_S"),
    ):
        monkeypatch.setattr(module, pause, 0.005)
    return Operator(capsys)


@pytest.fixture
def at(
    operator: Operator, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[[str], Operator]:
    """The operator, with a VNF where a verb needs it."""

    def there(stage: str) -> Operator:
        if stage in OF_PLANS:
            folder = tmp_path / "planned"
            folder.mkdir()
            planned = planworld.PlanWorld(folder)
            patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
            patch.setattr(cloud_site, "connect", lambda name, _: planned.clouds[name].site)
            planned.becomes(STAGES[stage]())
            operator.world = planned
            plan_put(operator)
            return operator
        operator.world = request.getfixturevalue("world")
        if stage == "named":
            request.getfixturevalue("zone")
        else:
            operator.world.becomes(STAGES[stage]())
        return operator

    return there


At = Callable[[str], Operator]
ALL = pytest.mark.parametrize("verb", VERBS)


def options_of(command: str) -> set[str]:
    application = app.Antipode()
    factory, name, _ = application.command_manager.find_command(command.split())
    parser = factory(application, None, cmd_name=name).get_parser(name)
    return {option for action in parser._actions for option in action.option_strings}


def test_these_are_all_verbs_that_show_a_plan_and_wait_for_a_name() -> None:
    wanted = {"--plan", "--yes", "--detach"}
    assert {c for c in app.COMMANDS if wanted <= options_of(c)} == set(VERBS)
    assert all("--detach" in options_of(command) for command in LOOKS)


@ALL
def test_its_plan_is_a_record_and_changes_nothing(at: At, verb: str) -> None:
    operator = at(VERBS[verb].at)
    before = picture(operator.world)
    assert operator.json(f"{VERBS[verb].arguments} --plan")
    assert picture(operator.world) == before


@ALL
@pytest.mark.parametrize("typed", ["", "yes\n"])
def test_without_its_name_typed_it_ends_with_4_and_changes_nothing(
    at: At, verb: str, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = at(VERBS[verb].at)
    before = picture(operator.world)
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert operator(VERBS[verb].arguments) == 4
    assert picture(operator.world) == before


@ALL
def test_with_its_name_typed_it_is_done_and_given_again_it_does_nothing_twice(
    at: At, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = at(VERBS[verb].at)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{VERBS[verb].names}\n" * 3))
    record = operator.json(VERBS[verb].arguments)
    row = operator.world.process().runs.get(record["run"])
    assert row.state == "succeeded"
    servers = [sorted(cloud.servers) for cloud in operator.world.clouds.values()]
    assert operator(f"{VERBS[verb].arguments} --yes") == VERBS[verb].repeated, operator.err
    assert [sorted(cloud.servers) for cloud in operator.world.clouds.values()] == servers


@pytest.mark.parametrize("verb", EITHER)
def test_detached_it_is_queued_and_nothing_is_done_yet(at: At, verb: str) -> None:
    known = EITHER[verb]
    operator = at(known.at)
    before = picture(operator.world)
    confirmed = "" if verb in LOOKS else "--yes"
    record = operator.json(f"{known.arguments} --detach {confirmed}")
    after = picture(operator.world)
    assert after["events"] == before["events"]
    assert record["state"] == "queued"
    row = operator.world.process().runs.get(record["run"])
    assert (row.state, row.kind in KINDS) == ("queued", True)


@pytest.mark.parametrize("verb", EITHER)
def test_a_wrong_name_ends_with_2_and_changes_nothing(at: At, verb: str) -> None:
    known = EITHER[verb]
    operator = at(known.at)
    before = picture(operator.world)
    words = known.arguments.split()
    words[words.index(known.names)] = "nosuch"
    confirmed = "" if verb in LOOKS else " --yes"
    assert operator.refused(f"{' '.join(words)}{confirmed}", 2) in ("not-found", "invalid-input")
    words[words.index("nosuch")] = "../v"
    assert operator.refused(f"{' '.join(words)}{confirmed}", 2) in ("not-found", "invalid-input")
    assert picture(operator.world) == before


@pytest.mark.parametrize("verb", [v for v, known in EITHER.items() if "site" in known.arguments])
def test_a_site_that_there_is_not_ends_with_2_and_changes_nothing(at: At, verb: str) -> None:
    known = EITHER[verb]
    operator = at(known.at)
    before = picture(operator.world)
    words = known.arguments.split()
    confirmed = "" if verb in LOOKS else " --yes"
    wrong = f"{' '.join([*words[:-1], 'site-x'])}{confirmed}"
    assert operator.refused(wrong, 2) in ("not-found", "invalid-input")
    assert picture(operator.world) == before


@pytest.mark.parametrize(
    ("verb", "stage", "code"),
    [
        ("drill cleanup", "protected", 2),  # nothing is there
        ("failback", "protected", 2),  # it has never moved
        ("fence", "protected", 2),
        ("reprotect", "protected", 2),
        ("undo", "protected", 2),
        ("commit", "protected", 2),
        ("undo", "migrated", 2),  # no failover
        ("commit", "migrated", 2),
        ("failover", "failed over", 2),  # it is there already
        ("migrate", "failed over", 2),
        ("plan failback", "planned", 2),  # all are at their primaries
        ("dns switch", "protected", 2),  # it has no records
    ],
)
def test_out_of_its_turn_it_is_refused_and_changes_nothing(
    at: At, verb: str, stage: str, code: int
) -> None:
    operator = at(stage)
    before = picture(operator.world)
    operator.refused(f"{VERBS[verb].arguments} --yes", code)
    assert picture(operator.world) == before

# SPDX-License-Identifier: Apache-2.0
"""Plans as an operator meets them: files, the vaults, what is shown, asked and printed."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from antipode import identity, logs
from antipode.cli import main
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, KeyMissing, NotFound, VaultError
from antipode.model.state import ProtectedVnf
from antipode.operations import plans as operation
from antipode.operations.reports import report
from antipode.operations.reports.page import html
from antipode.runs import transitions
from antipode.vault import Vault, encryption, plans, signing
from antipode.vault.directory import DirectoryVault
from antipode.vault.keys import (
    IDENTITIES_VARIABLE,
    SIGNING_KEY,
    SIGNING_VARIABLE,
    TRUSTED_VARIABLE,
)
from tests.unit.fakecloud import refuse
from tests.unit.planworld import PlanWorld, plan_of, vnf_of, world

__all__ = ["world"]
Json = dict[str, Any]
PLAN = """\
plan: p
to: site-b
groups:
  - name: first
    vnfs: [v1, v2]
  - name: second
    vnfs: [v3]
    on_failure: continue
steps:
  - name: pause
    after: first
    wait: 10ms
"""


class Command:
    """`antipode` in this process, in a world."""

    def __init__(self, world: PlanWorld, capsys: pytest.CaptureFixture[str]) -> None:
        self.world = world
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        code = main.main(["--config", str(self.world.config), *arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    def json(self, *arguments: str, code: int = 0) -> Any:
        assert self(*arguments, "-f", "json") == code, self.err
        return json.loads(self.out)

    def file(self, text: str = PLAN, name: str = "p.yaml") -> str:
        path = self.world.folder / name
        path.write_text(text)
        return str(path)


@pytest.fixture
def antipode(
    world: PlanWorld, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logs, "log_to_stream", lambda *_: None)
    return Command(world, capsys)


def types(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{word}\n"))


# ---- files ----


@pytest.mark.parametrize(
    ("wrong", "line", "field"),
    [
        (PLAN.replace("[v3]", "[v1]"), 7, "groups[1].vnfs[0]"),
        (PLAN.replace("name: second", "name: first"), 6, "groups[1].name"),
        (PLAN.replace("name: second", "name: all"), 6, "groups[1].name"),
        (PLAN.replace("after: first", "after: third"), 11, "steps[0].after"),
        (PLAN.replace("after: first", "after: [first, second]"), 11, "steps[0].after"),
        (PLAN.replace("wait: 10ms", "wait: 10ms\n    to: site-b"), 13, "steps[0].to"),
        (PLAN.replace("to: site-b", "to: site-x"), 2, "to"),
        (PLAN.replace("[v1, v2]", "[v1, v2]\n    to: site-x"), 6, "groups[0].to"),
        (PLAN.replace("[v1, v2]", "[v1, v2]\n    at_once: 0"), 6, "groups[0].at_once"),
        (PLAN.replace("[v1, v2]", "[]"), 5, "groups[0].vnfs"),
        (PLAN.replace("on_failure: continue", "on_failure: maybe"), 8, "groups[1].on_failure"),
        (PLAN.replace("plan: p", "plan: p/q"), 1, "plan"),
        (PLAN.replace("wait: 10ms", "script: {runner: x, command: [a]}"), 12, "steps[0].script"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_field(
    antipode: Command, wrong: str, line: int, field: str
) -> None:
    assert antipode("plan", "put", antipode.file(wrong), "-f", "json") == 2
    (mistake,) = json.loads(antipode.err)["error"]["mistakes"]
    assert mistake["line"] == line
    assert mistake["field"].startswith(field)
    assert antipode.json("plan", "list") == []


def test_the_example_is_a_plan(antipode: Command) -> None:
    example = Path(__file__).parents[2] / "examples" / "site-a-is-lost.yaml"
    record = antipode.json("plan", "put", str(example))
    assert (record["plan"], record["vnfs"]) == ("site-a-is-lost", 8)


# ---- the vaults ----


def test_a_plan_is_kept_replaced_shown_and_removed(antipode: Command) -> None:
    assert antipode.json("plan", "put", antipode.file())["was"] == "added"
    again = antipode.json("plan", "put", antipode.file(PLAN.replace("[v3]", "[v3, v9]")))
    assert (again["was"], again["version"], again["unknown_vnfs"]) == ("replaced", 2, ["v9"])
    (listed,) = antipode.json("plan", "list")
    assert (listed["plan"], listed["vnfs"], listed["by"]) == ("p", 4, identity.current())
    shown = antipode.json("plan", "show", "p")
    assert [group["vnfs"] for group in shown["groups"]] == [["v1", "v2"], ["v3", "v9"]]
    assert len(shown["steps"]) == 1
    assert antipode("plan", "remove", "p", "--yes") == 0
    assert antipode.json("plan", "list") == []
    assert antipode("plan", "show", "p") == 2
    assert antipode("plan", "remove", "p", "--yes") == 2
    put = antipode.json("plan", "put", antipode.file())
    assert (put["was"], put["version"]) == ("added", 4)


def test_a_plan_is_removed_only_when_its_name_is_typed(
    antipode: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    antipode("plan", "put", antipode.file())
    types(monkeypatch, "q")
    assert antipode("plan", "remove", "p") == 4
    assert len(antipode.json("plan", "list")) == 1


def documents(world: PlanWorld) -> list[Path]:
    return sorted((world.folder / "vault" / plans.FOLDER / "p").glob("*.json"))


def test_commands_of_a_plan_cannot_be_read_in_the_vault_and_old_versions_do_not_pile_up(
    world: PlanWorld,
) -> None:
    secret = {"name": "x", "before": "all", "command": ["open-sesame"]}
    for _ in range(3):
        operation.put(world.here, plan_of(["v1"], steps=[secret]))
    (document,) = documents(world)
    assert b"open-sesame" not in document.read_bytes()
    assert plans.read(world.here.vaults(), "p").plan.steps[0].command == ["open-sesame"]


def test_a_plan_that_was_changed_or_misplaced_in_the_vault_does_not_count(
    world: PlanWorld,
) -> None:
    operation.put(world.here, plan_of(["v1"]))
    (document,) = documents(world)
    whole = document.read_bytes()
    document.write_bytes(whole.replace(b'"payload": "', b'"payload": "AA'))
    with pytest.raises(NotFound):
        plans.read(world.here.vaults(), "p")
    document.with_name("000009.json").write_bytes(whole)
    with pytest.raises(NotFound):
        plans.read(world.here.vaults(), "p")
    document.write_bytes(whole)
    assert plans.read(world.here.vaults(), "p").serial == 1


def two_vaults(world: PlanWorld) -> Path:
    """Have another vault; its folder."""
    text = world.config.read_text()
    other = world.folder / "other"
    other.mkdir()
    one = f"vault: {{directory: {world.folder / 'vault'}}}"
    assert one in text
    both = f"vaults: {{one: {{directory: {world.folder / 'vault'}}}, two: {{directory: {other}}}}}"
    world.config.write_text(text.replace(one, both))
    return other


def test_a_vault_that_was_away_gets_plans_and_removals_by_vault_sync(antipode: Command) -> None:
    antipode("plan", "put", antipode.file())
    other = two_vaults(antipode.world)
    rows = antipode.json("vault", "sync", "--plan")
    assert [row["vnf"] for row in rows if row["vnf"].startswith("plan:")] == ["plan:p"]
    assert not (other / plans.FOLDER).exists()
    antipode.json("vault", "sync")
    (document,) = (other / plans.FOLDER / "p").iterdir()
    assert len(antipode.json("plan", "show", "p")["vaults"]) == 2
    assert not [r for r in antipode.json("vault", "sync") if r["vnf"].startswith("plan:")]
    old = document.read_bytes()
    antipode("plan", "remove", "p", "--yes")
    for name in (other / plans.FOLDER / "p").iterdir():
        name.unlink()
    document.write_bytes(old)  # it was away when the plan was removed
    assert antipode.json("plan", "list") == []
    antipode.json("vault", "sync")
    assert antipode.json("plan", "list") == []
    assert len(list((other / plans.FOLDER / "p").iterdir())) == 2


def test_a_plan_names_the_vaults_that_did_not_get_it(antipode: Command) -> None:
    other = two_vaults(antipode.world)
    (other / plans.FOLDER).write_text("no folder")
    record = antipode.json("plan", "put", antipode.file())
    assert record["not_in"] == ["two"]
    assert antipode.json("plan", "show", "p")["version"] == 1


def vault_at_site_b(world: PlanWorld, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have another vault, which is at the site where VNFs are recovered; its folder. A VNF that is
    in no plan is active there.
    """
    other = two_vaults(world)
    text = world.config.read_text()
    there = f"two: {{directory: {other}}}"
    assert there in text
    world.config.write_text(text.replace(there, "two: {swift: {site: site-b}}"))
    opened = Deployment._open

    def open_vault(self: Deployment, name: str, there: Any, go_on: Any) -> Vault:
        return DirectoryVault(other) if name == "two" else opened(self, name, there, go_on)

    monkeypatch.setattr(Deployment, "_open", open_vault)
    world.here = world.process()
    elsewhere = ProtectedVnf(vnf="another", active_site="site-b", generation=1)
    world.here.states.keep(elsewhere)
    return other


def test_the_vault_at_the_site_of_the_plan_is_asked_also_where_a_vnf_is_active_there(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = vault_at_site_b(world, monkeypatch)
    operation.put(world.here, plan_of(["v1"]))
    (first,) = documents(world)
    old = first.read_bytes()
    operation.put(world.here, plan_of(["v1", "v2"]))
    for document in documents(world):
        document.unlink()
    first.write_bytes(old)  # this vault was away when the plan was changed
    found = operation.find(world.here, "p", "failover")
    assert found.plan.vnfs == ["v1", "v2"]
    shutil.rmtree(world.folder / "vault" / plans.FOLDER)
    (world.folder / "vault" / plans.FOLDER).write_text("no folder")  # this vault has failed
    assert operation.find(world.process(), "p", "failover").plan.vnfs == ["v1", "v2"]
    assert (other / plans.FOLDER).is_dir()


def test_what_was_said_last_counts_though_vaults_were_away_in_turn(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = (f"2026-01-01T00:00:{second:02}+00:00" for second in range(60))
    monkeypatch.setattr(operation, "_now", lambda: next(clock))
    other = two_vaults(world)
    away, here = world.folder / "away", world.process()
    operation.put(here, plan_of(["v1"]))
    shutil.move(world.folder / "vault", away)
    for vnfs in (["v1", "v2"], ["v1", "v3"]):
        operation.put(world.process(), plan_of(vnfs))  # one is away
    away.rename(world.folder / "vault")
    other.rename(away)
    operation.remove(world.process(), "p")  # the other is
    shutil.rmtree(other, ignore_errors=True)
    away.rename(other)
    with pytest.raises(NotFound):
        operation.show(world.process(), "p")
    operation.put(world.process(), plan_of(["v4"]))
    assert operation.find(world.process(), "p", "failover").plan.vnfs == ["v4"]


def test_of_two_hosts_that_put_the_same_version_at_once_the_last_one_counts_everywhere(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = two_vaults(world)
    created, raced = DirectoryVault.create, list[str]()

    def create(self: DirectoryVault, name: str, document: bytes) -> Any:
        if name.startswith(plans.FOLDER) and not raced:
            raced.append(name)  # another host is faster in this one of the vaults
            plans.write(self, "p", plan_of(["v2"]), operation._now(), "another")
        return created(self, name, document)

    monkeypatch.setattr(DirectoryVault, "create", create)
    record = operation.put(world.process(), plan_of(["v1"]))
    assert raced
    assert (record["version"], len(record["vaults"])) == (2, 2)
    assert plans.read(world.process().vaults(), "p").plan.vnfs == ["v1"]
    assert {p.name for p in (other / plans.FOLDER / "p").iterdir()} == {"000002.json"}


def test_vaults_with_different_plans_of_one_number_agree_after_a_sync(antipode: Command) -> None:
    other = two_vaults(antipode.world)
    here = antipode.world.folder / "vault" / plans.FOLDER / "p"
    operation.put(antipode.world.process(), plan_of(["v1"]))
    (document,) = here.iterdir()
    first = document.read_bytes()
    document.unlink()
    (other / plans.FOLDER / "p" / document.name).unlink()
    operation.put(antipode.world.process(), plan_of(["v2"]))
    document.write_bytes(first)
    rows = antipode.json("vault", "check", code=VaultError.exit_code)
    assert [r for r in rows if r["vnf"] == "plan:p"]
    antipode.json("vault", "sync")
    assert document.read_bytes() != first
    assert len(antipode.json("plan", "show", "p")["vaults"]) == 2
    assert plans.read(antipode.world.process().vaults(), "p").plan.vnfs == ["v2"]


def test_a_document_that_is_not_trusted_is_not_removed_for_a_newer_version(
    world: PlanWorld,
) -> None:
    other = two_vaults(world)
    operation.put(world.process(), plan_of(["v1"]))
    (document,) = (other / plans.FOLDER / "p").iterdir()
    document.write_bytes(b"{}")
    with pytest.raises(AntipodeError):
        plans.catch_up(world.process().vaults(), "p")
    assert document.read_bytes() == b"{}"


def test_a_document_with_the_highest_number_is_in_no_way_of_a_change(world: PlanWorld) -> None:
    operation.put(world.here, plan_of(["v1"]))
    (document,) = documents(world)
    for number in (plans.HIGHEST_SERIAL, 2):
        document.with_name(f"{number:06d}.json").write_bytes(b"{}")
    operation.put(world.here, plan_of(["v2"]))
    assert operation.find(world.here, "p", "failover").plan.vnfs == ["v2"]
    operation.remove(world.here, "p")
    assert list(operation.listed(world.here)) == []


def test_a_vault_that_the_operator_has_given_up_is_not_asked_for_the_plan(
    antipode: Command,
) -> None:
    operation.put(antipode.world.here, plan_of(["v1", "v2"]))
    other = two_vaults(antipode.world)
    (document,) = documents(antipode.world)
    kept = document.rename(other / document.name)
    operation.put(antipode.world.process(), plan_of(["v1"]))
    shutil.rmtree(other / plans.FOLDER)
    lost = ("--lost-vault", "one", "--plan")
    assert antipode("plan", "failover", "p", *lost) == 2
    (other / plans.FOLDER / "p").mkdir(parents=True)
    kept.rename(other / plans.FOLDER / "p" / kept.name)
    assert antipode("plan", "failover", "p", *lost) != 2
    assert "v2" in antipode.out


@pytest.fixture
def keyless(world: PlanWorld, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This host has no keys; the folder for them."""
    for variable in (SIGNING_VARIABLE, IDENTITIES_VARIABLE, TRUSTED_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    return world.folder / "keys"


def test_a_host_that_is_the_first_one_makes_its_keys_for_a_plan(
    antipode: Command, keyless: Path
) -> None:
    file = antipode.file(PLAN.replace("v1, v2", "new-1").replace("v3", "new-2"))
    assert antipode.json("plan", "put", file)["was"] == "added"
    assert (keyless / SIGNING_KEY).exists()
    assert antipode.json("plan", "show", "p")["plan"] == "p"


@pytest.mark.parametrize("known", ["the plan", "a point"])
def test_a_host_without_the_keys_of_the_others_puts_no_plan(
    antipode: Command, monkeypatch: pytest.MonkeyPatch, known: str, keyless: Path
) -> None:
    file = antipode.file(PLAN.replace("v1, v2", "new-1").replace("v3", "new-2"))
    if known == "a point":
        file = antipode.file()
    else:
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv(SIGNING_VARIABLE, other_key())
            elsewhere.setenv(IDENTITIES_VARIABLE, encryption.new_identity())
            antipode.json("plan", "put", file)
    assert antipode("plan", "put", file) == KeyMissing.exit_code
    assert KeyMissing.code in antipode.err and "antipode key import" in antipode.err
    assert not (keyless / SIGNING_KEY).exists()


def other_key() -> str:
    return signing.private_pem(Ed25519PrivateKey.generate()).decode()


def test_a_host_that_does_not_trust_the_key_does_not_take_a_plan(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation.put(world.here, plan_of(["v1"]))
    monkeypatch.setenv(SIGNING_VARIABLE, other_key())
    with pytest.raises(NotFound):
        operation.find(world.process(), "p", "failover")


def test_a_host_that_trusts_the_key_and_cannot_open_the_plan_says_so(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation.put(world.here, plan_of(["v1"]))
    monkeypatch.setenv(IDENTITIES_VARIABLE, encryption.new_identity())
    here = world.process()
    with pytest.raises(KeyMissing):
        operation.find(here, "p", "failover")
    (listed,) = operation.listed(here)
    assert "encrypted" in listed["damaged"]
    operation.remove(here, "p")
    assert list(operation.listed(here)) == []


# ---- what is shown and asked ----


def test_nothing_begins_before_the_name_of_the_plan_is_typed(
    antipode: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    antipode("plan", "put", antipode.file())
    types(monkeypatch, "v1")
    assert antipode("plan", "failover", "p") == 4
    assert not antipode.world.b.servers
    for shown in ("group first", "VNF v1 at site-b", "server s-v3", "step pause", "WARNING"):
        assert shown in antipode.err
    types(monkeypatch, "p")
    assert antipode("plan", "failover", "p") == 0
    assert antipode.world.servers_there() == {"s-v1", "s-v2", "s-v3"}


def test_the_preview_says_what_each_vnf_would_do_and_changes_nothing(antipode: Command) -> None:
    antipode("plan", "put", antipode.file())
    planned = antipode.json("plan", "failover", "p", "--plan")
    assert (planned["begins"], planned["in_the_way"]) == (3, [])
    first, second = planned["groups"]
    assert [vnf["outcome"] for vnf in first["vnfs"]] == ["begins", "begins"]
    assert second["on_failure"] == "continue"
    assert all(vnf["recovery_point"] and vnf["does"] for vnf in first["vnfs"])
    assert not antipode.world.b.servers
    assert antipode.json("run", "list", "--plan", "p") == []


def test_what_stands_in_the_way_has_exit_code_3_and_may_be_skipped(antipode: Command) -> None:
    file = antipode.file(PLAN.replace("[v1, v2]", "[nobody, v2]"))
    arguments = ("plan", "failover", "p", "--file", file, "--yes")
    assert antipode(*arguments) == 3
    assert "nobody" in antipode.err
    assert not antipode.world.b.servers
    planned = antipode.json(*arguments[:-1], "--plan", code=3)
    assert planned["groups"][0]["vnfs"][0]["code"] == "not-found"
    assert len(planned["in_the_way"]) == 1
    record = antipode.json(*arguments, "--skip-blocked")
    assert record["left_out"] == 1
    assert antipode.world.servers_there() == {"s-v2", "s-v3"}


def test_a_file_must_have_the_plan_that_is_named(antipode: Command) -> None:
    assert antipode("plan", "failover", "q", "--file", antipode.file(), "--yes") == 2
    assert antipode("plan", "failover", "q", "--yes") == 2


def test_a_detached_plan_is_queued_as_one_run(antipode: Command) -> None:
    record = antipode.json("plan", "failover", "p", "--file", antipode.file(), "--yes", "--detach")
    assert record["state"] == "queued"
    (row,) = antipode.json("run", "list", "--plan", "p")
    assert (row["run"], row["kind"]) == (record["run"], "plan-failover")


def test_runs_are_listed_and_shown_as_a_tree(antipode: Command) -> None:
    fails = antipode.world.b
    fails.before = lambda e: refuse(500, "Nova is broken") if e == "boot s-v3" else None
    file = antipode.file()
    assert antipode("plan", "failover", "p", "--file", file, "--yes") == 1
    listed = antipode.json("run", "list")
    of_plan = antipode.json("run", "list", "--plan", "p")
    assert [row["vnf"] for row in of_plan] == ["plan:p", *(row["vnf"] for row in of_plan[1:])]
    assert sorted(row["vnf"] for row in of_plan[1:]) == ["v1", "v2", "v3"]
    whole = of_plan[0]["run"]
    assert {row["part_of"] for row in of_plan[1:]} == {whole}
    at = [row["run"] for row in listed].index(whole)
    assert [row["run"] for row in listed[at : at + 4]] == [row["run"] for row in of_plan]
    shown = antipode.json("run", "show", whole)
    assert {part["vnf"]: part["state"] for part in shown["parts"]} == {
        "v1": "succeeded",
        "v2": "succeeded",
        "v3": "failed",
    }
    assert shown["failed"] == 1
    assert antipode("run", "list") == 0
    assert f"└ {of_plan[1]['run']}" in antipode.out
    assert antipode("run", "show", whole) == 0
    assert "boots" in antipode.out or "Nova is broken" in antipode.out


def test_the_parts_of_a_migration_are_below_that_of_its_plan(antipode: Command) -> None:
    antipode("plan", "put", antipode.file(PLAN.replace("[v1, v2]", "[v1]")))
    assert antipode("plan", "migrate", "p", "--yes") == 0, antipode.err
    whole = antipode.json("run", "list", "--plan", "p")[0]["run"]
    depths = [part["depth"] for part in antipode.json("run", "show", whole)["parts"]]
    assert depths.count(1) == 2
    assert depths.count(2) == 8


def test_a_precheck_that_is_red_has_exit_code_3(antipode: Command) -> None:
    antipode("plan", "put", antipode.file())
    assert antipode.json("plan", "precheck", "p")["verdict"] in ("green", "yellow")
    antipode("plan", "put", antipode.file(PLAN.replace("[v3]", "[nobody]")))
    record = antipode.json("plan", "precheck", "p", code=3)
    assert record["verdict"] == "red"
    assert [one["verdict"] for one in record["vnfs"] if one["vnf"] == "nobody"] == ["red"]


def test_a_vnf_in_a_failed_plan_has_the_state_of_its_own_run(antipode: Command) -> None:
    world = antipode.world
    world.b.before = lambda e: refuse(500, "Nova is broken") if e == "boot s-v1" else None
    assert antipode("plan", "failover", "p", "--file", antipode.file(), "--yes") == 1
    found = transitions.all_of(world.here, world.here.states.all(), "v1")
    assert found["v1"].name == "error-failing-over"


def test_the_report_of_a_plan_has_those_of_its_vnfs_and_names_what_failed(
    antipode: Command,
) -> None:
    world = antipode.world
    world.here.vnfs.put(vnf_of("v3", rto="1h"))
    world.b.before = lambda e: refuse(500, "Nova is broken") if e == "boot s-v3" else None
    assert antipode("plan", "failover", "p", "--file", antipode.file(), "--yes") == 1
    run = antipode.json("run", "list", "--plan", "p")[0]["run"]
    made = report(world.here, run)
    assert {part.vnf for part in made.parts} == {"v1", "v2", "v3"}
    assert [line for line in made.deviations if line.startswith("VNF v3: failed")]
    assert made.results["succeeded"] == 2
    assert b"plan-failover of plan p: failed" in html(made)

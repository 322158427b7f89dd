# SPDX-License-Identifier: Apache-2.0
"""What the commands `openstack dr …` send is what the REST API understands."""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from antipode_client.osc.v1 import plans, verbs
from pydantic import TypeAdapter

from antipode.api.changes import Change
from antipode.api.plans import GivenPlanRun

ROOT = Path(__file__).parents[3]
DOCUMENT: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text())
PATHS = {
    (method.upper(), re.sub(r"\{\w+\}", "*", path))
    for path, methods in DOCUMENT["paths"].items()
    for method in methods
}
CHANGES: TypeAdapter[Any] = TypeAdapter(Change)
EVERY_OPTION = {
    verbs.Protect: ["--option", "server-snapshot", "--full"],
    verbs.Precheck: ["--to", "site-b"],
    verbs.Verify: ["--recovery-point", "p-1", "--site", "site-b"],
    verbs.DrillStart: ["--to", "site-b", "--recovery-point", "p-1", "--keep", "2h", "--yes"],
    verbs.DrillClean: ["--site", "site-b", "--yes"],
    verbs.Failover: [
        *("--to", "site-b", "--recovery-point", "p-1", "--fence", "try", "--undo-within", "4h"),
        *("--instead-of", "failover-1", "--to-origin", "--store-unchecked", "--newest-heads"),
        *("--lost-vault", "third", "--yes"),
    ],
    verbs.Migrate: ["--to", "site-b", "--option", "replication", "--yes"],
    verbs.Failback: ["--yes"],
    verbs.Fence: ["--site", "site-a", "--lost-vault", "third", "--yes"],
    verbs.Reprotect: ["--old-copy", "remove", "--yes"],
    verbs.Undo: ["--yes"],
    verbs.Commit: ["--yes"],
    verbs.StandingApply: ["--site", "site-b", "--recovery-point", "p-1"],
    verbs.DnsSwitch: ["--recovery-point", "p-1", "--lost-vault", "third", "--yes"],
}
PLANS = (
    plans.PlanPrecheck,
    plans.PlanDrill,
    plans.PlanFailover,
    plans.PlanMigrate,
    plans.PlanFailback,
)


class Called(Exception):
    """A command has called the API."""


class Caught:
    """A client that keeps the first call."""

    def __init__(self) -> None:
        self.call: tuple[str, tuple[str, ...]] = ("", ())
        self.body: Any = None

    def __getattr__(self, name: str) -> Any:
        method = {"get": "GET", "pages": "GET", "text": "GET"}.get(name, name.upper())

        def call(*path: str, body: Any = None, **_: Any) -> Any:
            self.call, self.body = (method, path), body
            raise Called

        return call


def called(kind: type[Any], *arguments: str) -> Caught:
    client = Caught()
    cmd = kind(SimpleNamespace(client_manager=SimpleNamespace(disaster_recovery=client)), None)
    with pytest.raises(Called):
        cmd.take_action(cmd.get_parser("x").parse_args(list(arguments)))
    return client


def is_a_path(call: tuple[str, tuple[str, ...]]) -> bool:
    method, parts = call
    paths = (path.split("/")[2:] for m, path in PATHS if m == method)
    return any(
        len(path) == len(parts)
        and all(there in ("*", part) for there, part in zip(path, parts, strict=True))
        for path in paths
    )


def arguments_of(kind: type[Any]) -> list[str]:
    """The arguments without which a command is refused."""
    cmd = kind(SimpleNamespace(client_manager=None), None)
    parser = cmd.get_parser("x")
    groups = [g for g in parser._mutually_exclusive_groups if g.required]
    taken = [a for a in parser._actions if a.required]
    taken += [next(a for a in g._group_actions if a.dest != "file") for g in groups]
    given: list[str] = []
    for action in taken:
        value = {"file": "x.html"}.get(action.dest, "x")
        given += [*action.option_strings[:1], *([] if action.nargs == 0 else [value])]
    return given


@pytest.mark.parametrize(
    "entry", sorted(entry_points(group="openstack.disaster_recovery.v1")), ids=lambda e: e.name
)
def test_each_command_calls_a_route_that_there_is(entry: Any, tmp_path: Path) -> None:
    arguments = arguments_of(entry.load())
    if entry.name == "dr_policy_set":
        (tmp_path / "gold").write_text("protections: []")
        arguments = ["gold", "--file", str(tmp_path / "gold")]
    assert is_a_path(called(entry.load(), *arguments).call)


@pytest.mark.parametrize("kind", EVERY_OPTION, ids=lambda kind: kind.__name__)
def test_the_api_understands_every_option_of_a_verb(kind: type[Any]) -> None:
    sent = called(kind, "hlr", *EVERY_OPTION[kind]).body["run"]
    CHANGES.validate_json(json.dumps(sent))


def test_every_kind_of_run_has_its_verb() -> None:
    kinds = set(CHANGES.json_schema()["discriminator"]["mapping"])
    assert {kind.kind for kind in EVERY_OPTION} == kinds


@pytest.mark.parametrize("kind", PLANS, ids=lambda kind: kind.__name__)
def test_the_api_understands_every_verb_of_a_plan(kind: type[Any]) -> None:
    more = ["--fence", "try", "--lost-vault", "third"] if kind is plans.PlanFailover else []
    yes = ["--yes"] if kind.is_confirmed else []
    sent = called(kind, "lost", "--to", "site-b", *more, *yes).body
    GivenPlanRun.model_validate_json(json.dumps(sent))

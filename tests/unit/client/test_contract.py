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
from antipode_client.osc.v1 import copies, plans, verbs
from antipode_client.osc.v1.tables import List
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
    verbs.PointDelete: ["p-1", "--yes"],
    copies.StandingDelete: ["--site", "site-b", "--yes"],
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
COMMANDS = sorted(entry_points(group="openstack.disaster_recovery.v1"))
LISTS = [kind for entry in COMMANDS if issubclass(kind := entry.load(), List)]


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
    return any(is_of(path, parts) for m, path in PATHS if m == method)


def is_of(path: str, parts: tuple[str, ...]) -> bool:
    """Whether a path, with a star for each name in it, is made of these parts."""
    own = path.split("/")[2:]
    return len(own) == len(parts) and all(
        there in ("*", part) for there, part in zip(own, parts, strict=True)
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


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda e: e.name)
def test_each_command_calls_a_route_that_there_is(entry: Any, tmp_path: Path) -> None:
    arguments = arguments_of(entry.load())
    if entry.name in ("dr_policy_set", "dr_plan_set"):
        (tmp_path / "gold").write_text("protections: []")
        arguments = ["gold", "--file", str(tmp_path / "gold")]
    assert is_a_path(called(entry.load(), *arguments).call)


@pytest.mark.parametrize("kind", LISTS, ids=lambda kind: kind.__name__)
def test_each_column_of_a_list_is_a_field_of_the_api(kind: type[Any]) -> None:
    method, parts = called(kind, *arguments_of(kind)).call
    lists = [found for _, path in PATHS for found in items_of(method, path, parts)]
    assert any({*kind.columns, *kind.more} <= fields.keys() for fields in lists)


def items_of(method: str, path: str, parts: tuple[str, ...]) -> list[dict[str, Any]]:
    """The fields of the items of the lists that this path has."""
    if (method, path) not in PATHS or not is_of(path, parts):
        return []
    [real] = [p for p in DOCUMENT["paths"] if re.sub(r"\{\w+\}", "*", p) == path]
    answer = DOCUMENT["paths"][real][method.lower()]["responses"]["200"]["content"]
    whole = named(answer["application/json"]["schema"])["properties"]
    lists = [f["items"] for f in whole.values() if f.get("type") == "array"]
    return [named(items)["properties"] for items in lists if "$ref" in items]


def named(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of the document that is referred to."""
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


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
    sent = called(kind, "lost", "--to", "site-b", "--skip-blocked", *more, *yes).body
    GivenPlanRun.model_validate_json(json.dumps(sent))

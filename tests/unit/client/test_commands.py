# SPDX-License-Identifier: Apache-2.0
"""The commands `openstack dr …`: entry points, confirmation, and what is sent."""

from __future__ import annotations

import argparse
import io
from importlib.metadata import EntryPoint, entry_points
from types import SimpleNamespace
from typing import Any

import pytest
from antipode_client.osc import plugin
from antipode_client.osc.v1 import plans, runs, verbs
from antipode_client.osc.v1.spans import seconds
from osc_lib import exceptions
from osc_lib.command import command

COMMANDS = sorted(entry_points(group="openstack.disaster_recovery.v1"))
PREVIEW = {"preview": {"lines": ["db is restored"], "approvals_needed": 0, "details": {}}}
RUN = {"run": {"id": "failover-1", "kind": "failover", "state": "queued", "reason": None}}


class Recorded:
    """A client that keeps what it is asked to send."""

    def __init__(self) -> None:
        self.sent: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def post(self, *path: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        self.sent.append((path, body))
        return PREVIEW if path[-1] == "previews" else RUN


def command_of(kind: type[Any], client: Any, *arguments: str) -> tuple[Any, argparse.Namespace]:
    app = SimpleNamespace(client_manager=SimpleNamespace(disaster_recovery=client))
    found = kind(app, None)
    return found, found.get_parser("x").parse_args(list(arguments))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_extension_has_the_name_of_its_api() -> None:
    [found] = [e for e in entry_points(group="openstack.cli.extension") if "antipode" in e.value]
    assert found.load() is plugin
    assert found.name == plugin.API_NAME == "disaster_recovery"


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_each_command_has_help(entry: EntryPoint) -> None:
    kind = entry.load()
    assert issubclass(kind, command.Command)
    found = kind(SimpleNamespace(client_manager=None), None)
    assert found.get_description()
    assert found.get_parser(entry.name).format_help()


def test_a_plan_is_shown_and_nothing_begins() -> None:
    client = Recorded()
    cmd, asked = command_of(verbs.Failover, client, "hlr", "--to", "site-b", "--plan")
    assert dict(zip(*cmd.take_action(asked), strict=True))["approvals_needed"] == 0
    assert [path for path, _ in client.sent] == [("vnfs", "hlr", "previews")]


def test_without_a_terminal_nothing_begins_that_is_not_confirmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Recorded()
    monkeypatch.setattr("sys.stdin", io.StringIO("hlr\n"))
    cmd, asked = command_of(verbs.Failover, client, "hlr", "--to", "site-b")
    with pytest.raises(exceptions.CommandError):
        cmd.take_action(asked)
    assert [path[-1] for path, _ in client.sent] == ["previews"]


@pytest.mark.parametrize(("typed", "begins"), [("hlr\n", True), ("hl\n", False), ("", False)])
def test_the_name_that_is_typed_decides(
    monkeypatch: pytest.MonkeyPatch, typed: str, begins: bool
) -> None:
    client = Recorded()
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    cmd, asked = command_of(verbs.Failover, client, "hlr", "--to", "site-b")
    if begins:
        cmd.take_action(asked)
        assert client.sent[-1][1]["run"]["confirm"] == "hlr"
    else:
        with pytest.raises(exceptions.CommandError):
            cmd.take_action(asked)
    assert ("vnfs", "hlr", "runs") in [path for path, _ in client.sent] or not begins
    assert len(client.sent) == (2 if begins else 1)


def test_only_what_was_said_is_sent() -> None:
    client = Recorded()
    arguments = ("hlr", "--to", "site-b", "--yes", "--undo-within", "4h", "--lost-vault", "third")
    cmd, asked = command_of(verbs.Failover, client, *arguments)
    cmd.take_action(asked)
    assert client.sent == [
        (
            ("vnfs", "hlr", "runs"),
            {
                "run": {
                    "kind": "failover",
                    "to": "site-b",
                    "undo_within_s": 14400.0,
                    "accept": {"lost_vaults": ["third"]},
                    "confirm": "hlr",
                }
            },
        )
    ]


def test_a_plan_over_many_vnfs_is_confirmed_by_its_own_name() -> None:
    client = Recorded()
    cmd, asked = command_of(plans.PlanFailover, client, "lost", "--to", "site-b", "--yes")
    cmd.take_action(asked)
    path, body = client.sent[0]
    assert path == ("plans", "lost", "runs")
    assert body["run"]["confirm"] == "lost"


def test_a_waited_for_run_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {**RUN["run"], "state": "failed", "reason": "no quota"}
    monkeypatch.setattr("antipode_client.watching.follow", lambda *_: failed)
    cmd, asked = command_of(verbs.Protect, Recorded(), "hlr", "--wait")
    with pytest.raises(exceptions.CommandError, match="no quota"):
        cmd.take_action(asked)


@pytest.mark.parametrize("steps", [[], ["1.1", "1.2"]])
def test_an_answer_without_a_step_needs_one_open_question(steps: list[str]) -> None:
    asked = [{"step": step, "answered_at": None} for step in steps]
    client = SimpleNamespace(get=lambda *_: {"questions": asked})
    cmd, given = command_of(runs.Answer, client, "failover-1", "--yes")
    with pytest.raises(exceptions.CommandError):
        cmd.take_action(given)


@pytest.mark.parametrize(
    ("text", "span"), [("90", 90), ("45m", 2700), ("2h", 7200), ("1.5d", 129600)]
)
def test_a_span_is_read(text: str, span: float) -> None:
    assert seconds(text) == span


@pytest.mark.parametrize("text", ["", "0", "-1h", "h", "1w", "1h30m", "1e3", "٣h", "nan"])
def test_a_wrong_span_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        seconds(text)

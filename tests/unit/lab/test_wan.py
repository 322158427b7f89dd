# SPDX-License-Identifier: Apache-2.0
"""The network of the lab, on a machine that has never had one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import wan
from lab.site import SITES


def test_nothing_is_removed_where_no_program_could_have_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(wan, "exists", lambda site: False)
    wan.down()


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, ...]]:
    """Those of iptables in a site that is there."""
    made: set[tuple[str, ...]] = set()

    def succeeds(*argv: str) -> bool:
        _, _, _, _, action, *rule = argv
        there = tuple(rule) in made
        if action == "-D":
            made.discard(tuple(rule))
        return there

    def run(*argv: str) -> str:
        made.add(argv[argv.index("-A") + 1 :])
        return ""

    monkeypatch.setattr(wan, "exists", lambda site: True)
    monkeypatch.setattr(wan, "_succeeds", succeeds)
    monkeypatch.setattr(wan, "_run", run)
    monkeypatch.setattr(wan, "_enter", lambda site: ("nsenter", "--net=site"))
    return made


def test_an_isolated_site_neither_sends_nor_receives_nor_forwards(
    rules: set[tuple[str, ...]],
) -> None:
    site = SITES["site-a"]
    wan.isolate(site)
    assert {rule[0] for rule in rules} == {"INPUT", "OUTPUT", "FORWARD"}
    assert wan.is_isolated(site) and not wan.link_is_cut(site)
    wan.rejoin(site)
    assert not rules


def test_a_cut_that_was_interrupted_is_seen_completed_and_undone(
    rules: set[tuple[str, ...]],
) -> None:
    site = SITES["site-b"]
    wan.cut_link(site)
    complete = set(rules)
    rules.remove(tuple(wan.LINK_CUT[0]))
    assert wan.link_is_cut(site)
    wan.cut_link(site)
    assert rules == complete
    wan.mend_link(site)
    assert not rules and not wan.link_is_cut(site)


def test_cutting_the_link_leaves_the_sites_own_packets_alone() -> None:
    assert {rule[0] for rule in wan.LINK_CUT} == {"FORWARD"}

# SPDX-License-Identifier: Apache-2.0
"""Packages are installed without starting services, however many processes install at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from lab import debian


@pytest.fixture(autouse=True)
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's policy in a folder of the test."""
    monkeypatch.setattr(debian, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(debian, "LOCK", tmp_path / "lock")
    return tmp_path / "policy-rc.d"


def test_services_are_refused_while_packages_are_installed(policy: Path) -> None:
    seen: list[tuple[str, str, str]] = []

    def run(command: Sequence[str], environment: Mapping[str, str]) -> None:
        seen.append((command[4], policy.read_text(), environment["DEBIAN_FRONTEND"]))

    debian.install(["etcd-server"], run)
    refused = (debian.REFUSAL, "noninteractive")
    assert seen == [("update", *refused), ("install", *refused)]
    assert not policy.exists()


def test_the_machines_own_policy_is_put_back_after_a_failure(policy: Path) -> None:
    policy.write_text("own")

    def run(command: Sequence[str], environment: Mapping[str, str]) -> None:
        raise OSError("no network")

    with pytest.raises(OSError):
        debian.install(["etcd-server"], run)
    assert policy.read_text() == "own"


def test_two_that_install_at_once_refuse_services_until_each_is_done(policy: Path) -> None:
    first_is_in, first_may_end = threading.Event(), threading.Event()
    seen: list[str] = []

    def first() -> None:
        with debian.services_kept_from_starting():
            first_is_in.set()
            assert first_may_end.wait(60)

    def second() -> None:
        assert first_is_in.wait(60)
        first_may_end.set()
        with debian.services_kept_from_starting():
            one.join(60)
            seen.append(policy.read_text())

    one, two = threading.Thread(target=first), threading.Thread(target=second)
    for thread in (one, two):
        thread.start()
    two.join(120)
    assert seen == [debian.REFUSAL]
    assert not policy.exists()

# SPDX-License-Identifier: Apache-2.0
"""The RPO of a VNF: what it would lose now, by the newest valid point of the active copy."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.errors import SiteUnreachable
from antipode.model.rpo import AHEAD_S, Rpo, RpoState, rpo
from antipode.model.state import ProtectedVnf, VnfState
from antipode.operations.inspect import status
from antipode.vault import points
from antipode.vault.directory import DirectoryVault
from antipode.vault.points import Age
from tests.unit import samples

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def active(generation: int = 1, state: VnfState = VnfState.ACTIVE) -> ProtectedVnf:
    return ProtectedVnf(vnf="hlr", active_site="site-a", generation=generation, state=state)


def aged(seconds: float, generation: int = 1) -> Age:
    moment = datetime.fromtimestamp(NOON.timestamp() - seconds, UTC).isoformat()
    return Age(generation, moment, "p")


def found(
    newest: Age | None, state: ProtectedVnf | None = None, target_s: float | None = 900
) -> Rpo:
    return rpo(target_s, state or active(), newest, NOON.timestamp())


def test_the_age_of_the_newest_point_is_compared_with_the_target() -> None:
    assert found(aged(900)) == Rpo(900, 900, RpoState.MET)
    assert found(aged(901)) == Rpo(900, 901, RpoState.EXCEEDED)
    assert found(aged(901), target_s=None) == Rpo(None, 901, RpoState.NO_TARGET)


def test_without_a_point_of_the_active_copy_there_is_no_age() -> None:
    assert found(None) == found(aged(1), active(generation=2)) == Rpo(900, None, RpoState.NO_POINT)


def test_a_failover_clears_the_age_at_once() -> None:
    state = active(state=VnfState.FAILING_OVER)
    assert found(aged(1), state) == Rpo(900, None, RpoState.FAILING_OVER)


def test_a_point_of_the_future_keeps_no_target() -> None:
    assert found(aged(-AHEAD_S)).state is RpoState.MET  # clocks differ a little
    assert found(aged(-AHEAD_S - 1)) == Rpo(900, None, RpoState.UNKNOWN)


def test_a_target_is_a_duration_of_a_minute_or_more() -> None:
    assert samples.vnf(rpo="30m").rpo == 1800
    for wrong in ("59s", "soon", float("inf")):
        with pytest.raises(ValidationError):
            samples.vnf(rpo=wrong)


def test_a_damaged_point_does_not_count_and_a_silent_vault_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(config.load(str(samples.write_config(tmp_path))))
    deployment.vnfs.put(samples.vnf(rpo="30m"))
    now = datetime.now(UTC)
    for minutes in (2, 1):
        moment = datetime.fromtimestamp(now.timestamp() - minutes * 60, UTC)
        name = f"{moment:%Y%m%dT%H%M%SZ}-000000"
        points.commit(deployment.vault, samples.point(name, consistent_at=moment.isoformat()))
    assert status(deployment, "hlr").rpo.state is RpoState.MET
    assert 59 < (status(deployment, "hlr").rpo.age_s or 0) < 110
    damaged = sorted((tmp_path / "vault" / "hlr").glob("*.json"))[-1]
    damaged.write_text(damaged.read_text()[:-50])
    assert 119 < (status(deployment, "hlr").rpo.age_s or 0) < 600

    def silent(*_: object) -> None:
        raise SiteUnreachable("site-b does not answer")

    monkeypatch.setattr(DirectoryVault, "list", silent)
    assert status(deployment, "hlr").rpo == Rpo(1800, None, RpoState.UNKNOWN)

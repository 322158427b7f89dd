# SPDX-License-Identifier: Apache-2.0
"""The alert rules and the metrics, as a real Prometheus reads them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import prometheus_client as prometheus

from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.service.metrics import Metrics
from antipode.service.observer import Observer
from tests.distributed.packages import program

MONITORING = Path(__file__).parents[2] / "monitoring"


def promtool(*arguments: str, given: str = "") -> None:
    done = subprocess.run(
        [program("promtool"), *arguments],
        cwd=MONITORING,
        input=given,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_the_rules_raise_the_alarms_that_they_should_and_no_other() -> None:
    promtool("check", "rules", "antipode.rules.yml")
    promtool("test", "rules", "antipode.rules.test.yml")


def test_what_a_service_shows_is_what_prometheus_reads(tmp_path: Path) -> None:
    settings = {
        "sites": {"site-a": {"cloud": "a"}},
        "vault": {"directory": str(tmp_path / "vault")},
        "database": f"sqlite:///{tmp_path / 'antipode.db'}",
    }
    deployment = Deployment(Config.model_validate(settings))
    metrics = Metrics(deployment, Observer(deployment))
    promtool("check", "metrics", given=prometheus.generate_latest(metrics.registry).decode())

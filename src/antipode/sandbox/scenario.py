# SPDX-License-Identifier: Apache-2.0
"""Scenario files: what is to go wrong at an embedded site, written down."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from antipode import yamlfile
from antipode.model.base import Model
from antipode.sandbox.conditions import Rule
from antipode.sandbox.supervision import Sandbox


class Conditions(Model):
    """A scenario's changes of a site; settings that it does not name stay."""

    latency: float | None = Field(default=None, ge=0)
    clock_skew_s: float | None = None
    store_capacity: int | None = Field(default=None, ge=0)
    backup_block_size: int | None = Field(default=None, ge=512)
    skips_zeros: bool | None = None
    consistent_groups: bool | None = None
    replication_target: str | None = None


class Scenario(Model):
    conditions: Conditions = Conditions()
    faults: list[Rule] = Field(default_factory=list)


def play(sandbox: Sandbox, site: str, path: Path) -> None:
    """Put a site under what a scenario file says, besides what it is under already.

    Raises:
        InvalidInput: the file is wrong; names line and field.
        SandboxError: the site does not run.
    """
    scenario = yamlfile.read(path, Scenario)
    if changes := scenario.conditions.model_dump(exclude_none=True):
        sandbox.ask(site, "PUT", "/conditions", changes)
    for rule in scenario.faults:
        sandbox.ask(site, "POST", "/faults", rule.model_dump(exclude={"id", "struck"}))


def end(sandbox: Sandbox, site: str) -> None:
    """Remove all faults of a site, and what its clock, store and Cinder are under; its latency
    stays.
    """
    sandbox.ask(site, "DELETE", "/faults")
    mended = {
        "clock_skew_s": 0,
        "store_capacity": None,
        "backup_block_size": None,
        "skips_zeros": False,
        "consistent_groups": False,
        "replication_target": None,
    }
    sandbox.ask(site, "PUT", "/conditions", mended)

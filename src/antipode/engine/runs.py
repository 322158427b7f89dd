"""A run: begun, watched by the reaper, and ended in the database whatever happens."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.engine.exclusive import only_run_of, run_under_way
from antipode.engine.logs import run_in_logs
from antipode.engine.reaper import Reaper
from antipode.engine.timeline import Observer, RecordedTimeline
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)


def state_of(run: RunRow, config: Config) -> str:
    """The state of a run as it is: `lost` when it is kept as running and no process of this host is at it.

    Where several hosts share a database this one cannot know, and what is kept is told.
    """
    if run.state != "running" or not config.database.startswith("sqlite:"):
        return run.state
    return "running" if run_under_way(run.vnf, config.state_dir) == run.id else "lost"


@dataclass
class Run:
    """A run under way; `result` is filled by who does the work and kept with the run, also when it fails."""

    id: str
    timeline: RecordedTimeline
    started_at: float
    result: dict[str, Any] = field(default_factory=dict)


@contextmanager
def begin(deployment: Deployment, kind: str, vnf: str, observer: Observer) -> Iterator[Run]:
    """A run of `kind` (protect, failover) for a VNF; it succeeds if the block does.

    Raises:
        Busy: another run of this VNF is under way on this host.
    """
    run_id = f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    with only_run_of(vnf, deployment.config.state_dir, run_id), run_in_logs(run_id):
        started_at = time.time()
        deployment.runs.begin(RunRow(id=run_id, kind=kind, vnf=vnf, state="running", started_at=started_at, result={}))
        LOG.info("run %s begins", run_id)
        with RecordedTimeline(deployment.runs, run_id, observer) as timeline:
            run = Run(run_id, timeline, started_at)
            state, reason = "failed", None
            try:
                with Reaper(deployment.freezes, deployment.connected_sites):
                    yield run
                state = "succeeded"
            except BaseException as error:
                reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
                raise
            finally:
                ended_at = time.time()
                run.result["seconds"] = round(ended_at - started_at, 3)
                deployment.runs.end(run_id, state, ended_at, reason, run.result)
                LOG.info("run %s %s%s", run_id, state, f": {reason}" if reason else "")

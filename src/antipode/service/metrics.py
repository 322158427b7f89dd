# SPDX-License-Identifier: Apache-2.0
"""What the service shows to Prometheus at /metrics.

Names and labels are an interface: alert rules and dashboards rest on them. A label has the name of
a VNF, a site, a vault, or one of a few words.
"""

from __future__ import annotations

import logging
from collections import Counter as Counted
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from antipode import __version__, clock
from antipode.config import MetricsConfig
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.run import states_of
from antipode.errors import AntipodeError
from antipode.model.readiness import Level
from antipode.model.rpo import rpo
from antipode.model.state import ProtectedVnf, VnfState
from antipode.protect.option import OPTIONS, settings_of
from antipode.runs import KINDS, protect, standing_status, transitions
from antipode.service.observer import Observed, Observer
from antipode.service.reachability import Reachability
from antipode.store.tables import FreezeRow, LookRow, ReadinessRow, RunRow

LOG = logging.getLogger(__name__)
RESULTS = ("succeeded", "failed", "aborted")
DURATION_BUCKETS = (10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)
BYTES_BUCKETS = tuple(float(4**power << 20) for power in range(10))
"""1 MiB to 256 GiB."""


class Metrics(Collector):
    """The series of one service.

    What is in the database is read when it is asked for; what is in the vaults is what the observer
    has last seen.
    """

    def __init__(
        self,
        deployment: Deployment,
        observer: Observer,
        sites: Sequence[Reachability] = (),
    ) -> None:
        """
        Args:
            sites: what looks whether each of them answers.
        """
        self._deployment = deployment
        self._observer = observer
        self._sites = sites
        self._waiting = 0
        self.registry = prometheus.CollectorRegistry()
        self._ended = prometheus.Counter(
            "antipode_runs",
            "Runs that this service has ended, by their kind and result.",
            ["kind", "result"],
            registry=self.registry,
        )
        for kind in KINDS.names:
            for result in RESULTS:
                self._ended.labels(kind, result)  # from 0 on: else no rule sees the first
        self._duration = prometheus.Histogram(
            "antipode_protect_duration_seconds",
            "How long protections that succeeded took, from their begin to the recovery point.",
            ["vnf"],
            buckets=DURATION_BUCKETS,
            registry=self.registry,
        )
        self._bytes = prometheus.Histogram(
            "antipode_protect_data_bytes",
            "Bytes that successful protections added to the backup store.",
            ["vnf"],
            buckets=BYTES_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def run_ended(self, row: RunRow) -> None:
        """Count a run that this service has ended."""
        self._ended.labels(row.kind, row.state).inc()
        if row.kind != protect.KIND.name or row.state != "succeeded":
            return
        if row.ended_at is not None:
            self._duration.labels(row.vnf).observe(row.ended_at - row.started_at)
        if (stored := row.result.get("stored_bytes")) is not None:
            self._bytes.labels(row.vnf).observe(stored)

    def waits_for_input(self, runs: int) -> None:
        """How many runs wait for an operator."""
        self._waiting = runs

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are known without a look at the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The series that are made when they are asked for."""
        yield gauge(
            "antipode_build_info", "The version of antipode.", ["version"], [(__version__, 1)]
        )
        yield from self._of_vaults()
        yield gauge(
            "antipode_site_up",
            "Whether a site has answered at the last look.",
            ["site"],
            [(look.site, int(look.is_up)) for look in self._sites if look.is_up is not None],
        )
        try:
            found = list(self._of_database())
        except (SQLAlchemyError, AntipodeError) as error:
            LOG.warning("metrics of the database cannot be read now: %s", error)
            found = []
        yield gauge(
            "antipode_database_up", "Whether the database answers.", [], [(1 if found else 0,)]
        )
        yield from found

    def _of_transitions(self, vnfs: list[Observed]) -> Iterator[Metric]:
        states = {seen.vnf.vnf: seen.state for seen in vnfs}
        found = transitions.all_of(self._deployment, states)
        yield gauge(
            "antipode_vnf_state",
            "The state of a VNF: 1 for the one that it is in.",
            ["vnf", "state"],
            [
                (name, transitions.state_name(state, found.get(name)), 1)
                for name, state in states.items()
            ],
        )

    def _of_vaults(self) -> Iterator[Metric]:
        observer = self._observer
        yield gauge(
            "antipode_vault_up",
            "Whether a vault could be read at the last look.",
            ["place"],
            [(name, int(up)) for name, up in observer.vaults_up.items()],
        )
        yield gauge(
            "antipode_observed_timestamp_seconds",
            "When the vaults were last looked at.",
            [],
            [(observer.looked_at,)] if observer.looked_at else [],
        )

    def _of_pending(self) -> Metric:
        return gauge(
            "antipode_cleanup_pending",
            "Runs of which something is still to be removed, though its time has come.",
            ["vnf", "what"],
            [(vnf, str(what), runs) for (vnf, what), runs in self._observer.pending.items()],
        )

    def _of_database(self) -> Iterator[Metric]:
        deployment = self._deployment
        rows, freezes = deployment.runs.open_bare(), deployment.freezes.open()
        schedules, states = deployment.schedules.all(), deployment.states.all()
        moving = transitions.being_moved(rows)
        moving |= {name for name, s in states.items() if s.state is VnfState.FAILING_OVER}
        # the database may have learned of a failover since the vaults were looked at
        seen = [_at_last(o, states.get(o.vnf.vnf)) for o in self._observer.observed.values()]
        known = deployment.vnfs.names() if self._observer.looked_at else []
        yield gauge(
            "antipode_vnf_unseen",
            "Whether nothing could be seen of a VNF since the service began.",
            ["vnf"],
            [(name, int(name not in self._observer.observed)) for name in known],
        )
        yield from _of_vnfs(seen, moving)
        yield from _of_forecasts(seen, moving)
        yield from self._of_transitions(seen)
        yield self._of_pending()
        if deployment.config.readiness.every is not None:
            sites = deployment.config.sites
            seen_there = [row for row in deployment.readiness.current() if row.site in sites]
            due = [look for look in deployment.readiness.wanted() if look.site in sites]
            yield from _of_readiness(seen_there, due)
        missed = Counted[str]()
        for (vnf, _), row in schedules.items():
            missed[vnf] += row.missed
        yield counter(
            "antipode_missed_intervals",
            "Slots of schedules for which no run was begun.",
            ["vnf"],
            list(missed.items()),
        )
        yield gauge(
            "antipode_schedule_paused",
            "Whether the schedule of a protection is paused.",
            ["vnf", "option"],
            [(*key, int(row.paused_at is not None)) for key, row in schedules.items()],
        )
        yield gauge(
            "antipode_vnf_old_copy_running",
            "Whether members of an old copy of a VNF run at a site where it is not active.",
            ["vnf", "site"],
            [
                (v, site, 1)
                for v, sites in activity.two_copies(deployment).items()
                for site in sites
            ],
        )
        yield from _of_standing(deployment)
        now = deployment.freezes.now()
        states_of_runs = states_of(rows, deployment)
        yield from _of_freezes(freezes, list(deployment.config.sites), now)
        yield gauge(
            "antipode_run_state",
            "Runs that have not ended, by their kind and state.",
            ["kind", "state"],
            [
                (*key, number)
                for key, number in Counted((r.kind, states_of_runs[r.id]) for r in rows).items()
            ],
        )
        now = clock.now()
        yield gauge(
            "antipode_event_delay_seconds",
            "For how long the oldest event has waited for a receiver.",
            ["receiver"],
            [(name, max(now - at, 0)) for name, (_, at) in deployment.events.pending().items()],
        )
        yield gauge(
            "antipode_run_waiting_for_input",
            "Runs that wait for an operator.",
            [],
            [(self._waiting + len(deployment.questions.open()),)],
        )


def _of_standing(deployment: Deployment) -> Iterator[Metric]:
    """The series of standing volumes, as far as a recovery point was applied to them."""
    found = [
        (vnf.vnf, site, there)
        for vnf in deployment.vnfs.all()
        for site, there in standing_status.summary(deployment, vnf).items()
        if "recovery_point" in there
    ]
    yield gauge(
        "antipode_standing_lag_seconds",
        "How much older what standing volumes hold is than the newest recovery point.",
        ["vnf", "site"],
        [(v, s, there["lag_s"]) for v, s, there in found if there["lag_s"] is not None],
    )
    yield gauge(
        "antipode_standing_written_bytes",
        "Bytes that the last apply has written into standing volumes.",
        ["vnf", "site"],
        [(v, s, there["written_bytes"]) for v, s, there in found],
    )
    yield gauge(
        "antipode_standing_size_bytes",
        "Size of all standing volumes of a VNF, as quotas count it.",
        ["vnf", "site"],
        [(v, s, there["size_gib"] << 30) for v, s, there in found if there["size_gib"]],
    )
    yield gauge(
        "antipode_standing_data_bytes",
        "Bytes of standing volumes that are not zeros, which is what thin storage uses.",
        ["vnf", "site"],
        [(v, s, there["data_bytes"]) for v, s, there in found if there["data_bytes"]],
    )
    yield gauge(
        "antipode_standing_foreign_blocks",
        "Blocks that held something else than was known, when all was read for the last apply.",
        ["vnf", "site"],
        [(v, s, there["foreign_blocks"]) for v, s, there in found],
    )


def _at_last(seen: Observed, known: ProtectedVnf | None) -> Observed:
    """What was seen of a VNF, with the later of its two states."""
    if known is None or known.generation < seen.state.generation:
        return seen
    return replace(seen, state=known)


def _of_vnfs(vnfs: list[Observed], moving: set[str]) -> Iterator[Metric]:
    """The series of each VNF; those of one that is failing over say nothing of its former copy."""
    now, valid = clock.now(), []
    for seen in vnfs:
        found = rpo(seen.vnf.rpo, seen.state, seen.newest, now)
        if seen.vnf.vnf not in moving and found.age_s is not None and seen.newest is not None:
            valid.append((seen.vnf.vnf, seen.newest))
    protected = {name for name, _ in valid}
    yield gauge(
        "antipode_recovery_point_timestamp_seconds",
        "The consistent moment of the newest valid recovery point of the active copy.",
        ["vnf", "site", "consistency"],
        [(name, newest.site, newest.consistency, newest.moment) for name, newest in valid],
    )
    yield gauge(
        "antipode_rpo_target_seconds",
        "How old the newest recovery point may become.",
        ["vnf"],
        [(seen.vnf.vnf, seen.vnf.rpo) for seen in vnfs if seen.vnf.rpo is not None],
    )
    yield gauge(
        "antipode_vnf_protection_status",
        "Whether there is a valid recovery point of the active copy.",
        ["vnf"],
        [(seen.vnf.vnf, int(seen.vnf.vnf in protected)) for seen in vnfs],
    )
    yield gauge(
        "antipode_quiesce_window_seconds",
        "How long the last quiesce window lasted.",
        ["vnf"],
        _results([(seen.vnf.vnf, seen.last_protect.get("quiesce_window_s")) for seen in vnfs]),
    )
    yield gauge(
        "antipode_quiesce_budget_seconds",
        "How long a quiesce window should last at most.",
        ["vnf"],
        _results([(seen.vnf.vnf, _budget_s(seen)) for seen in vnfs]),
    )
    yield gauge(
        "antipode_drill_timestamp_seconds",
        "When a drill was last passed, and when one has last failed.",
        ["vnf", "result"],
        [
            (seen.vnf.vnf, result, at)
            for seen in vnfs
            for result, at in (("passed", seen.drilled_at), ("failed", seen.failed_drill_at))
            if at is not None
        ],
    )
    yield gauge(
        "antipode_drill_due_timestamp_seconds",
        "When a drill is to be passed next.",
        ["vnf"],
        _results([(seen.vnf.vnf, seen.drill_due_at) for seen in vnfs]),
    )
    yield gauge(
        "antipode_drill_interval_seconds",
        "How often a drill is to be passed.",
        ["vnf"],
        _results([(seen.vnf.vnf, seen.vnf.drill_every) for seen in vnfs]),
    )
    yield gauge(
        "antipode_last_rto_seconds",
        "How long the last failover or drill took, from its confirmation until all had answered.",
        ["vnf", "kind"],
        [
            (seen.vnf.vnf, kind, seconds)
            for seen in vnfs
            for kind, seconds in (
                ("failover", seen.last_failover.get("rto_s")),
                ("drill", seen.last_drill.get("recovered_s")),
            )
            if seconds is not None
        ],
    )
    yield gauge(
        "antipode_vault_verify_timestamp_seconds",
        "When the content of a recovery point was last found to be what was captured.",
        ["vnf"],
        _results([(seen.vnf.vnf, seen.proven_at) for seen in vnfs]),
    )
    yield gauge(
        "antipode_chain_broken",
        "Whether the last comparison of content has found what was not captured so.",
        ["vnf"],
        [(s.vnf.vnf, int(s.is_broken)) for s in vnfs if s.is_broken is not None],
    )


def _of_forecasts(vnfs: list[Observed], moving: set[str]) -> Iterator[Metric]:
    """How long each VNF would take to be back; nothing of one whose newest point says nothing, or
    whose recovery has begun.
    """
    now = clock.now()
    known = [
        (seen.vnf.vnf, site, found)
        for seen in vnfs
        if seen.newest is not None
        and seen.vnf.vnf not in moving
        and rpo(seen.vnf.rpo, seen.state, seen.newest, now).age_s is not None
        for site, found in seen.newest.forecasts.items()
        if site != seen.state.active_site and site in seen.vnf.sites
    ]
    yield gauge(
        "antipode_forecast_rto_seconds",
        "How long a VNF would take to be back at a site, by what earlier recoveries took.",
        ["vnf", "site"],
        [(vnf, site, f.back_in_s) for vnf, site, f in known if f.back_in_s is not None],
    )
    yield gauge(
        "antipode_forecast_rto_error_seconds",
        "By how much that may be wrong.",
        ["vnf", "site"],
        [(vnf, site, f.error_s) for vnf, site, f in known if f.error_s is not None],
    )
    yield gauge(
        "antipode_rto_target_seconds",
        "How long a recovery may take.",
        ["vnf"],
        _results([(seen.vnf.vnf, seen.vnf.rto) for seen in vnfs]),
    )


def _of_readiness(rows: list[ReadinessRow], due: list[LookRow]) -> Iterator[Metric]:
    """Whether each VNF could be recovered, as it was last seen, and when it is looked next."""
    yield gauge(
        "antipode_failover_ready",
        "Whether a VNF could be recovered at a site, with losses or without.",
        ["vnf", "site"],
        [(row.vnf, row.site, int(row.level != Level.RED)) for row in rows],
    )
    yield gauge(
        "antipode_readiness_issues",
        "Findings that are not as they should be.",
        ["vnf", "site", "level"],
        [
            (row.vnf, row.site, level, sum(f["level"] == level for f in row.findings))
            for row in rows
            for level in (Level.YELLOW, Level.RED)
        ],
    )
    yield gauge(
        "antipode_readiness_timestamp_seconds",
        "When it was last looked whether a VNF could be recovered at a site.",
        ["vnf", "site"],
        [(row.vnf, row.site, row.seen_at) for row in rows],
    )
    yield gauge(
        "antipode_readiness_due_timestamp_seconds",
        "When it is to be looked next, or for the first time.",
        ["vnf", "site"],
        [(look.vnf, look.site, look.due_at) for look in due],
    )


def _results(found: list[tuple[str, float | None]]) -> list[tuple[str | float, ...]]:
    return [(name, value) for name, value in found if value is not None]


def _budget_s(seen: Observed) -> float | None:
    """The shortest freeze budget of the protections of a VNF, if there is one."""
    budgets = [
        OPTIONS.get(p.option).budget_s(settings_of(p))
        for p in seen.vnf.protections
        if p.option in OPTIONS
    ]
    return min((b for b in budgets if b is not None), default=None)


def _of_freezes(rows: list[FreezeRow], sites: list[str], now: float) -> Iterator[Metric]:
    """How many servers may be frozen: a server with a newer row is allowed what that says."""
    until: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row.site, row.server_id
        until[key] = max(until.get(key, 0.0), row.deadline)
    frozen = Counted(site for site, _ in until)
    overdue = Counted(site for (site, _), deadline in until.items() if deadline < now)
    yield gauge(
        "antipode_server_frozen",
        "Servers that may be frozen now.",
        ["site"],
        [(site, frozen[site]) for site in sites],
    )
    yield gauge(
        "antipode_server_frozen_overdue",
        "Servers that may be frozen though their time is over.",
        ["site"],
        [(site, overdue[site]) for site in sites],
    )


Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)
Series = Iterable[tuple[str | float, ...]]
"""For each series the values of its labels, and its own."""


def gauge(name: str, about: str, labels: list[str], series: Series) -> GaugeMetricFamily:
    """A family of gauges."""
    return _filled(GaugeMetricFamily(name, about, labels=labels), series)


def counter(name: str, about: str, labels: list[str], series: Series) -> CounterMetricFamily:
    """A family of counters; its series end in `_total`."""
    return _filled(CounterMetricFamily(name, about, labels=labels), series)


def _filled(family: Family, series: Series) -> Family:
    for *values, number in series:
        family.add_metric([str(v) for v in values], float(number))
    return family


@contextmanager
def served(metrics: Metrics, where: MetricsConfig | None) -> Iterator[None]:
    """Answer to Prometheus while the block runs, if the configuration says where.

    Raises:
        AntipodeError: the address and port cannot be used.
    """
    if where is None:
        yield
        return
    try:
        server, thread = prometheus.start_http_server(
            where.port, str(where.address), registry=metrics.registry
        )
    except OSError as error:
        raise AntipodeError(
            f"metrics cannot be served at {where.address}:{where.port}: {error}. Stop what uses "
            "that port, or change metrics in antipode.yaml"
        ) from error
    LOG.info("metrics are at http://%s:%d/metrics", where.address, server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""The flow that makes a recovery point by option 1: quiesce, snapshot all, unquiesce, back up,
commit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from taskflow import task
from taskflow.patterns import linear_flow

from antipode import __version__
from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.flow_runner import guarded, run_flow
from antipode.engine.run import Run, new_run, point_of, state_of
from antipode.engine.timeline import Observer, RecordedTimeline
from antipode.errors import (
    AntipodeError,
    Busy,
    ClaimLost,
    NotFound,
    PreflightFailed,
    Stopped,
    VaultCorrupt,
)
from antipode.freezes.ledger import Freezes
from antipode.freezes.reaper import thaw_left_by
from antipode.model.capture import BackupSet, SnapshotSet
from antipode.model.point import Manifest
from antipode.model.topology import Topology
from antipode.model.vnf import Vnf
from antipode.protect import checks, remains
from antipode.protect.quiesced_snapshot import window as quiesce
from antipode.runs import history, orphans
from antipode.runs.kind import Kind
from antipode.store.tables import RunRow
from antipode.topology import discovery
from antipode.transfer import cinder_backup
from antipode.vault import PROBE, Vault, points
from antipode.vault.verify import broken_chains, fingerprint

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
COMMIT = "commit the manifest"
"""The step in which the manifest is written."""
SILENCE_S = 30.0
"""How long a service may have given no answer before what could be removed there is left to the
next protection.
"""


@dataclass(frozen=True)
class Protection:
    """What the tasks of one protection work with.

    `point` is the id that the recovery point will have.
    """

    run: Run
    point: str
    vnf: Vnf
    primary: Site
    vault: Vault
    store: Objects | None
    ledger: Freezes
    timeline: RecordedTimeline
    config: Config
    full: bool
    """whether all volumes get new chains"""


def protect(deployment: Deployment, name: str, observer: Observer, *, full: bool = False) -> Json:
    """Make a recovery point of a VNF, if `full` of full backups only; a record of it.

    Raises:
        Busy: another protect or a failover of the VNF is under way, or a failover was not ended.
        AntipodeError: it could not be made; then nothing is frozen, and there is no recovery point.
    """
    with deployment.claims.begin(asked(deployment, name, full=full)) as claim:
        return execute(deployment, claim.run, claim, observer)


def asked(deployment: Deployment, name: str, *, full: bool) -> RunRow:
    """A protection as it is asked for now; neither kept nor begun yet.

    Raises:
        NotFound: the VNF is not known here.
        Busy: a failover of it was not ended.
    """
    vnf = deployment.vnfs.get(name)
    _no_failover(deployment, name)
    return new_run("protect", name, {"full": full, "vnf": vnf.model_dump(mode="json")})


def _no_failover(deployment: Deployment, vnf: str) -> None:
    for run in deployment.runs.open(vnf):
        if run.kind == "failover":
            raise Busy(
                f"{run.id} of {vnf} is {state_of(run, deployment)}, and what runs at the primary "
                "is not protected meanwhile;"
                f" if nobody is at it: antipode run resume {run.id}, or antipode run abort {run.id}"
            )


def _protect(run: Run) -> None:
    if run.claim.number > 1 and (made := _committed(run)) is not None:
        _finish(run, made)
        return
    _no_failover(run.deployment, run.vnf)
    vnf = _definition(run)
    with run.timeline.step("", "connect", vnf.primary):
        primary = run.site(vnf.primary)
    # before anything else that could hang; not waited for until its deadline, as a member that is
    # frozen cannot be frozen in our window
    for dead in {run.id, *dead_runs(run.deployment, run.vnf)}:
        thaw_left_by(run.deployment.freezes, primary, dead)
    with run.timeline.step("", "connect", "vault and backup store"):
        run.deployment.vault, run.deployment.backup_store  # noqa: B018
    run.touches_clouds()
    run.result["recovery_point"] = None
    # Of a try that was killed before all its snapshots were there nothing is kept: a topology that
    # is hours old must not be trusted.
    results = run_flow(protect_flow(_protection(run)), run, anew_without=QuiescedSnapshots.__name__)
    run.result.update(_record(Manifest.model_validate(results["manifest"]), run))


def _finish(run: Run, made: Manifest) -> None:
    """End a run whose process died after its commit.

    Somebody may be recovering from its point already: nothing of it is made again.
    """
    run.cannot_be_aborted()
    with run.timeline.step("", COMMIT, f"{run.vnf}/{made.id}") as step:
        step.result(found=True)
    run.result.update(_record(made, run))
    try:
        run.thaw()
        RemoveSnapshots(_protection(run)).execute()
    except Stopped:
        raise
    except AntipodeError as error:
        LOG.warning(
            "the recovery point is committed, but snapshots of run %s are left: %s", run.id, error
        )


def _protection(run: Run) -> Protection:
    """What a protection needs, connected to."""
    deployment, vnf = run.deployment, _definition(run)
    return Protection(
        run=run,
        point=point_of(run.id),
        vnf=vnf,
        primary=run.site(vnf.primary),
        vault=deployment.vault_under(run.go_on),
        store=deployment.backup_store,
        ledger=deployment.freezes.of(run.id),
        timeline=run.timeline,
        config=deployment.config,
        full=bool(run.request.get("full")),
    )


def _definition(run: Run) -> Vnf:
    return (
        Vnf.model_validate(run.request["vnf"])
        if "vnf" in run.request
        else run.deployment.vnfs.get(run.vnf)
    )


def _take_back(run: Run) -> list[str]:
    """Thaw, and remove the manifest if it was not committed for certain, the backups if there is no
    manifest, and the snapshots.

    What cannot be removed now is left to the next protection of the VNF, and named.
    """
    try:
        run.thaw()
        p = _protection(run)
        p = replace(p, primary=p.primary.impatient(SILENCE_S))
    except ClaimLost:
        raise
    except AntipodeError as error:
        return [_cannot_be_undone(f"what it made at the site of {run.vnf}", error)]
    left: list[str] = []
    for what, remove in (
        (
            f"the manifest of {p.point} and the backups of {run.id} at {p.primary.name}",
            _withdraw_and_remove_backups,
        ),
        (
            f"the snapshots of {run.id} at {p.primary.name}",
            lambda p: remains.remove_snapshots(p.primary, p.run.id, p.timeline),
        ),
    ):
        try:
            remove(p)
        except ClaimLost:
            raise
        except Exception as error:
            # a bug too: what comes after it is to be removed all the same
            left.append(_cannot_be_undone(what, error))
    return left


def _cannot_be_undone(what: str, error: Exception) -> str:
    LOG.error("left to the next protection, as it could not be removed (%s): %s", what, error)
    return f"{what}: {error}"


def _withdraw_and_remove_backups(p: Protection) -> None:
    """The manifest is not there; a write of it that may still arrive is taken back, before the
    backups that it names are removed.
    """
    points.withdraw(
        p.vault, p.vnf.vnf, p.point, any(step.name == COMMIT for step in p.timeline.kept())
    )
    p.vault.delete(f"{PROBE}{p.run.id}")  # of a check that was stopped
    remains.remove_backups(p.primary, p.run.id, p.timeline)


def _committed(run: Run) -> Manifest | None:
    """The recovery point that the run has made: asked for by name, as a listing of Swift may lag
    behind what is there.

    Raises:
        VaultError: nobody knows.
    """
    try:
        return points.read(run.deployment.vault, run.vnf, point_of(run.id))
    except NotFound:
        return None


def _too_late(run: Run) -> str | None:
    if (made := _committed(run)) is None:
        return None
    run.result.update(_record(made, run))
    return f"recovery point {made.id} is committed"


def dead_runs(deployment: Deployment, vnf: str) -> set[str]:
    """The protections of a VNF that ended without success, or were killed, and may have left
    something behind.
    """
    return {run.id for run in orphans.dead_protections(deployment, vnf)}


def protect_flow(protection: Protection) -> Any:
    """The recipe.

    Quiesce, snapshots and unquiesce are one task, so that nothing of the engine comes between a
    freeze and its thaw.
    """
    return linear_flow.Flow(f"protect {protection.vnf.vnf}").add(
        CollectLeftovers(protection),
        Discover(protection),
        CheckBeforeFreezing(protection),
        QuiescedSnapshots(protection),
        BackUp(protection),
        Commit(protection),
        RemoveSnapshots(protection),
    )


class ProtectTask(task.Task):  # type: ignore[misc]
    """A task of a protection."""

    def __init__(self, protection: Protection) -> None:
        super().__init__(name=type(self).__name__)
        self.protection = protection
        self.run = protection.run


class CollectLeftovers(ProtectTask):
    """Removes what protections of the VNF that failed or were killed have left, and prunes the
    history.

    What cannot be removed now is left to the next run.
    """

    @guarded
    def execute(self) -> None:
        p = self.protection
        deployment = p.run.deployment
        try:
            orphans.collect_protections(deployment, p.primary, p.vault, p.timeline, besides=p.run)
        except ClaimLost:
            raise
        except VaultCorrupt as error:
            LOG.warning(
                "what dead runs of %s have left is not removed: a recovery point may need it: %s",
                p.vnf.vnf,
                error,
            )
        except AntipodeError as error:
            LOG.warning(
                "not all that dead runs of %s have left at %s could be removed: %s",
                p.vnf.vnf,
                p.primary.name,
                error,
            )
        history.prune(deployment)


class Discover(ProtectTask):
    default_provides = "topology"

    @guarded
    def execute(self) -> Json:
        p = self.protection
        with p.timeline.step("1.1", "discover servers and volumes", p.vnf.vnf) as step:
            topology = discovery.discover(p.vnf, p.primary)
            sizes = {v.name or v.id: v.size_gib << 30 for v in topology.volumes}
            step.result(
                servers=len(topology.servers), volumes=len(topology.volumes), bytes_of_volumes=sizes
            )
        return topology.model_dump(mode="json")


class CheckBeforeFreezing(ProtectTask):
    @guarded
    def execute(self, topology: Json) -> None:
        p = self.protection
        problems: list[str] = []
        with p.timeline.step("", "check before anything is frozen", p.vnf.vnf):
            try:
                checks.check_protect(p.vnf, Topology.model_validate(topology), p.primary)
            except PreflightFailed as error:
                problems += error.problems
            try:
                p.vault.check(p.run.id)
            except Stopped:
                raise
            except AntipodeError as error:
                problems.append(str(error))
            if p.store is not None and p.config.backup_store is not None:
                try:
                    p.store.listing(
                        p.config.backup_store.container, "antipode-reads-this-container"
                    )
                except NotFound:
                    LOG.info(
                        "backup container %s does not exist yet; Cinder makes it",
                        p.config.backup_store.container,
                    )
                except AntipodeError as error:
                    problems.append(f"the backup store cannot be read: {error}")
            if problems:
                raise PreflightFailed(f"protection of {p.vnf.vnf}", problems)


class QuiescedSnapshots(ProtectTask):
    default_provides = "snapshots"

    @guarded
    def execute(self, topology: Json) -> Json:
        p = self.protection
        found = Topology.model_validate(topology)
        return quiesce.quiesced_snapshots(
            p.primary, found, p.vnf.quiesce, p.run.id, p.ledger, p.timeline
        ).model_dump(mode="json")


class BackUp(ProtectTask):
    default_provides = "backups"

    @guarded
    def execute(self, topology: Json, snapshots: Json) -> Json:
        p = self.protection
        found, taken = Topology.model_validate(topology), SnapshotSet.model_validate(snapshots)
        previous = points.newest_or_none(p.vault, p.vnf.vnf)
        full = _new_chains(p, found, previous)
        slots = p.run.deployment.limits.backups(p.primary.name, p.run.party)
        made = cinder_backup.back_up(
            p.primary,
            found,
            taken,
            previous,
            p.run.id,
            p.timeline,
            full=full,
            limit=p.config.limits.backups,
            slots=slots,
        )
        if p.store is not None:
            with p.timeline.step(
                "1.6", "see that the backups are whole in the store", p.vnf.vnf
            ) as step:
                made = made.model_copy(update={"backups": fingerprint(made.backups, p.store)})
                step.result(
                    bytes=_new_bytes(made), bytes_per_volume=_new_bytes_per_volume(made, found)
                )
        return made.model_dump(mode="json")


class Commit(ProtectTask):
    default_provides = "manifest"

    @guarded
    def execute(self, topology: Json, snapshots: Json, backups: Json) -> Json:
        p = self.protection
        taken, made = SnapshotSet.model_validate(snapshots), BackupSet.model_validate(backups)
        manifest = Manifest(
            id=p.point,
            vnf=p.vnf,
            run=p.run.id,
            consistent_at=taken.consistent_at,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            consistency=taken.consistency,
            quiesce_window=taken.window,
            topology=Topology.model_validate(topology),
            restore=made.restore,
            backups=made.backups,
            made_by=f"antipode {__version__}",
        )
        with p.timeline.step("", COMMIT, f"{p.vnf.vnf}/{p.point}"):
            p.timeline.flush()  # whoever takes back knows that the manifest may be on its way
            p.run.go_on()
            points.commit(p.vault, manifest)
        p.run.cannot_be_aborted()
        return manifest.model_dump(mode="json")


class RemoveSnapshots(ProtectTask):
    """The recovery point is committed: what fails here is a warning, and no failure of the run."""

    @guarded
    def execute(self) -> None:
        p = self.protection
        try:
            primary = p.primary.impatient(SILENCE_S)
            if p.run.claim.number == 1:
                remains.remove_snapshots(primary, p.run.id, p.timeline)
            else:
                # a request of the process before us may have come through late, and have made what
                # the recovery point does not name
                remains.remove_left_by(
                    primary,
                    {p.run.id},
                    points.read(p.vault, p.vnf.vnf, p.point).backups.keys,
                    p.timeline,
                )
        except ClaimLost:
            raise
        except AntipodeError as error:
            LOG.warning(
                "the recovery point is committed, but snapshots of run %s are left at %s: %s",
                p.run.id,
                p.primary.name,
                error,
            )


def _new_chains(p: Protection, topology: Topology, previous: Manifest | None) -> dict[str, str]:
    """The volumes that need a full backup, and why: Cinder calls a backup available whose objects
    the store has lost.
    """
    if p.full:
        return {v.id: "asked for with --full" for v in topology.volumes}
    if p.store is None or previous is None:
        return {}
    with p.timeline.step("1.6", "compare the chains with the backup store", previous.id) as step:
        broken = broken_chains(previous, p.store)
        step.result(broken=len(broken))
    for volume, reason in broken.items():
        LOG.warning(
            "volume %s: %s; recovery points that rest on it cannot be trusted, and a new chain "
            "is begun",
            volume,
            reason,
        )
    return broken


def _record(manifest: Manifest, run: Run) -> Json:
    window = manifest.quiesce_window
    made = BackupSet(restore=manifest.restore, backups=manifest.backups)
    return {
        "vnf": manifest.vnf.vnf,
        "recovery_point": manifest.id,
        "consistency": manifest.consistency,
        "consistent_at": manifest.consistent_at,
        "incremental": manifest.incremental,
        "volumes": len(manifest.restore),
        "stored_bytes": _new_bytes(made),
        "stored_bytes_per_volume": _new_bytes_per_volume(made, manifest.topology),
        "quiesce_window_s": round(window.total_s, 3) if window else None,
        "quiesce_window_per_member_s": {m: round(s, 3) for m, s in window.per_member_s.items()}
        if window
        else {},
        "time_to_point_s": round(datetime.now(UTC).timestamp() - run.started_at, 3),
        "rpo_s": round(
            (datetime.now(UTC) - datetime.fromisoformat(manifest.consistent_at)).total_seconds(), 3
        ),
    }


def _new_bytes_per_volume(made: BackupSet, topology: Topology) -> dict[str, int]:
    """What the newest backup of each volume takes in the store; empty when no store is
    configured.
    """
    newest = [(v.name or v.id, made.backups[made.restore[v.id]].stored) for v in topology.volumes]
    return {volume: stored.bytes for volume, stored in newest if stored is not None}


def _new_bytes(made: BackupSet) -> int | None:
    """What the newest backups of all volumes take in the store; None when no store is
    configured.
    """
    stored = [made.backups[b].stored for b in made.restore.values()]
    return None if None in stored else sum(s.bytes for s in stored if s)


KIND = Kind(
    flow_version=1, do=_protect, take_back=_take_back, too_late=_too_late, takes_back_failures=True
)

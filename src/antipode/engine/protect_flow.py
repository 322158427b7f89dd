"""The flow that makes a recovery point by option 1: quiesce, snapshot all, unquiesce, back up, commit."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from taskflow import task
from taskflow.patterns import linear_flow

from antipode import __version__
from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.engine.flows import guarded, run_flow, undone
from antipode.engine.runs import Run, begin, state_of
from antipode.engine.timeline import Observer, RecordedTimeline
from antipode.errors import AntipodeError, NotFound, PreflightFailed, VaultCorrupt
from antipode.model.manifest import Manifest
from antipode.model.protection import BackupSet, SnapshotSet
from antipode.model.topology import Topology
from antipode.model.vnf import Vnf
from antipode.protect import backup, discover, preflight, quiesce, temporary
from antipode.store.freezes import Freezes
from antipode.vault import Vault, manifests
from antipode.vault.verify import broken_chains, fingerprint

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
Json = dict[str, Any]


@dataclass(frozen=True)
class Protection:
    """What the tasks of one protection work with. `point` is the id that the recovery point will have."""

    run: str
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
        AntipodeError: it could not be made; then nothing is frozen, and there is no recovery point.
    """
    vnf = deployment.vnfs.get(name)
    with begin(deployment, "protect", name, observer) as run:
        with run.timeline.step("", "connect", vnf.primary):
            primary = deployment.site(vnf.primary)
        with run.timeline.step("", "connect", "vault and backup store"):
            vault, store = deployment.vault, deployment.backup_store
        protection = Protection(
            run.id, _point_of(run.id), vnf, primary, vault, store, deployment.freezes, run.timeline, deployment.config, full
        )
        run.result["recovery_point"] = None
        _collect_leftovers(protection, dead_runs(deployment, vnf.vnf))
        results = run_flow(protect_flow(protection), run.id, deployment.config)
        manifest = Manifest.model_validate(results["manifest"])
        run.result.update(_record(manifest, run))
        _remove_temporary(protection)
    return {"run": run.id, **run.result}


def dead_runs(deployment: Deployment, vnf: str) -> set[str]:
    """The protections of a VNF that ended without success or were killed.

    One that is kept as running is dead only if the lock, which is of this host, proves it: not where hosts share a database.
    """
    protections = [run for run in deployment.runs.all(vnf) if run.kind == "protect"]
    return {run.id for run in protections if state_of(run, deployment.config) in ("failed", "lost")}


def protect_flow(protection: Protection) -> Any:
    """The recipe. Quiesce, snapshots and unquiesce are one task, so that nothing of the engine comes between a freeze and its thaw."""
    return linear_flow.Flow(f"protect {protection.vnf.vnf}").add(
        Discover(protection),
        CheckBeforeFreezing(protection),
        QuiescedSnapshots(protection),
        BackUp(protection),
        Commit(protection),
    )


class ProtectTask(task.Task):  # type: ignore[misc]
    """A task of a protection."""

    def __init__(self, protection: Protection) -> None:
        super().__init__()
        self.protection = protection


class Discover(ProtectTask):
    default_provides = "topology"

    @guarded
    def execute(self) -> Json:
        p = self.protection
        with p.timeline.step("1.1", "discover servers and volumes", p.vnf.vnf) as step:
            topology = discover.discover(p.vnf, p.primary)
            step.result(servers=len(topology.servers), volumes=len(topology.volumes))
        return topology.model_dump(mode="json")


class CheckBeforeFreezing(ProtectTask):
    @guarded
    def execute(self, topology: Json) -> None:
        p = self.protection
        problems: list[str] = []
        with p.timeline.step("", "check before anything is frozen", p.vnf.vnf):
            try:
                preflight.check_protect(p.vnf, Topology.model_validate(topology), p.primary)
            except PreflightFailed as error:
                problems += error.problems
            try:
                p.vault.check()
            except AntipodeError as error:
                problems.append(str(error))
            if p.store is not None and p.config.backup_store is not None:
                try:
                    p.store.listing(p.config.backup_store.container, "antipode-reads-this-container")
                except NotFound:
                    LOG.info("backup container %s does not exist yet; Cinder makes it", p.config.backup_store.container)
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
        return quiesce.quiesced_snapshots(p.primary, found, p.vnf.quiesce, p.run, p.ledger, p.timeline).model_dump(mode="json")

    @undone
    def revert(self, **_: Any) -> None:
        p = self.protection
        temporary.remove_snapshots(p.primary, p.run, p.timeline)


class BackUp(ProtectTask):
    default_provides = "backups"

    @guarded
    def execute(self, topology: Json, snapshots: Json) -> Json:
        p = self.protection
        found, taken = Topology.model_validate(topology), SnapshotSet.model_validate(snapshots)
        previous = manifests.newest_or_none(p.vault, p.vnf.vnf)
        full = _new_chains(p, found, previous)
        made = backup.back_up(p.primary, found, taken, previous, p.run, p.timeline, full=full, limit=p.config.limits.backups)
        if p.store is not None:
            with p.timeline.step("1.6", "see that the backups are whole in the store", p.vnf.vnf) as step:
                made = made.model_copy(update={"backups": fingerprint(made.backups, p.store)})
                step.result(bytes=_new_bytes(made), bytes_per_volume=_new_bytes_per_volume(made, found))
        return made.model_dump(mode="json")

    @undone
    def revert(self, **_: Any) -> None:
        p = self.protection
        # asked for by name: a listing of Swift may lag behind what is there
        try:
            manifests.read(p.vault, p.vnf.vnf, p.point)
        except NotFound:
            temporary.remove_backups(p.primary, p.run, p.timeline)
            return
        except VaultCorrupt as error:
            LOG.error("%s", error)
        LOG.error("recovery point %s is in the vault although its run failed; its backups are kept", p.point)


class Commit(ProtectTask):
    default_provides = "manifest"

    @guarded
    def execute(self, topology: Json, snapshots: Json, backups: Json) -> Json:
        p = self.protection
        taken, made = SnapshotSet.model_validate(snapshots), BackupSet.model_validate(backups)
        manifest = Manifest(
            id=p.point,
            vnf=p.vnf,
            run=p.run,
            consistent_at=taken.consistent_at,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            consistency=taken.consistency,
            quiesce_window=taken.window,
            topology=Topology.model_validate(topology),
            restore=made.restore,
            backups=made.backups,
            made_by=f"antipode {__version__}",
        )
        with p.timeline.step("", "commit the manifest", f"{p.vnf.vnf}/{p.point}"):
            manifests.commit(p.vault, manifest)
        return manifest.model_dump(mode="json")

    @undone
    def revert(self, **_: Any) -> None:
        """A write of which nobody knows whether it was done is taken back, before the backups that it names are removed."""
        p = self.protection
        manifests.withdraw(p.vault, p.vnf.vnf, p.point)


def _new_chains(p: Protection, topology: Topology, previous: Manifest | None) -> dict[str, str]:
    """The volumes that need a full backup, and why: Cinder calls a backup available whose objects the store has lost."""
    if p.full:
        return {v.id: "asked for with --full" for v in topology.volumes}
    if p.store is None or previous is None:
        return {}
    with p.timeline.step("1.6", "compare the chains with the backup store", previous.id) as step:
        broken = broken_chains(previous, p.store)
        step.result(broken=len(broken))
    for volume, reason in broken.items():
        LOG.warning("volume %s: %s; recovery points that rest on it cannot be trusted, and a new chain is begun", volume, reason)
    return broken


def _point_of(run: str) -> str:
    """The recovery point that a run makes. It has the name of its run, so that it can be asked for when all that is known is the run."""
    return run.removeprefix("protect-")


def _collect_leftovers(p: Protection, over: Collection[str]) -> None:
    """Remove what runs of this VNF that failed or were killed have left. What cannot be removed now is left to the next run.

    One that was killed just after its commit has made a recovery point, which is kept.
    """
    if not over:
        return
    try:
        temporary.remove_left_by(p.primary, over, _needed_backups(p, over), p.timeline)
    except VaultCorrupt as error:
        LOG.warning("what dead runs of %s have left is not removed: a recovery point may need it: %s", p.vnf.vnf, error)
    except AntipodeError as error:
        LOG.warning("not all that dead runs of %s have left at %s could be removed: %s", p.vnf.vnf, p.primary.name, error)


def _needed_backups(p: Protection, runs: Collection[str]) -> set[str]:
    """What recovery points name: those that the vault lists, and those of these runs, as a listing may lag behind what is there.

    Raises:
        VaultCorrupt: nobody knows what one of them needs.
        NotFound: one that is listed cannot be read.
    """
    listed = manifests.list_ids(p.vault, p.vnf.vnf)
    needed: set[str] = set()
    for point in {*listed, *map(_point_of, runs)}:
        try:
            needed |= set(manifests.read(p.vault, p.vnf.vnf, point).backups)
        except NotFound:
            if point in listed:
                raise
    return needed


def _remove_temporary(p: Protection) -> None:
    """Remove the snapshots. The recovery point is committed: what fails here is a warning, and no failure of the run."""
    try:
        temporary.remove_snapshots(p.primary, p.run, p.timeline)
    except AntipodeError as error:
        LOG.warning("the recovery point is committed, but snapshots of run %s are left at %s: %s", p.run, p.primary.name, error)


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
        "quiesce_window_per_member_s": {m: round(s, 3) for m, s in window.per_member_s.items()} if window else {},
        "time_to_point_s": round(datetime.now(UTC).timestamp() - run.started_at, 3),
        "rpo_s": round((datetime.now(UTC) - datetime.fromisoformat(manifest.consistent_at)).total_seconds(), 3),
    }


def _new_bytes_per_volume(made: BackupSet, topology: Topology) -> dict[str, int]:
    """What the newest backup of each volume takes in the store; empty when no store is configured."""
    newest = [(v.name or v.id, made.backups[made.restore[v.id]].stored) for v in topology.volumes]
    return {volume: stored.bytes for volume, stored in newest if stored is not None}


def _new_bytes(made: BackupSet) -> int | None:
    """What the newest backups of all volumes take in the store; None when no store is configured."""
    stored = [made.backups[b].stored for b in made.restore.values()]
    return None if None in stored else sum(s.bytes for s in stored if s)

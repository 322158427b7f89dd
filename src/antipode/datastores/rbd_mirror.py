# SPDX-License-Identifier: Apache-2.0
"""Ceph block devices that rbd-mirror keeps in step with another cluster, by their journals.

All is done with the command `rbd`, in processes of its own: librbd has been seen to crash while it
promoted an image, and would take antipode with it. Of the two clusters only that of one site is
asked.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import Field

from antipode import processes
from antipode.datastores.promotable import PromotableStorage
from antipode.errors import ResourceFailed, SiteUnreachable, UnexpectedAnswer
from antipode.model.base import Model, Seconds
from antipode.model.datastore import Health, Replica
from antipode.model.topology import Volume
from antipode.processes import OF_CLIENTS

LOG = logging.getLogger(__name__)
AT_ONCE = 8
"""How many commands are run at once."""
COPY_S = 24 * 3600.0
"""How long an image may take to be copied whole."""
OF_CEPH = ("CEPH_ARGS", "CEPH_CONF", "CEPH_KEYRING", "CEPH_LIB")
"""The variables by which Ceph's commands find a cluster."""
LETS_GO_S = 5.0
"""How long rbd-mirror may hold an image that was promoted before its lock is broken: until it sees
the promotion nothing can be written. One that waits for a dead cluster never sees it.
"""
LOOK_S = 0.2
NO_SUCH, BUSY, EXISTS, READ_ONLY = 2, 16, 17, 30
"""Exit codes of `rbd`: errno of Linux."""
_BY_SNAPSHOTS = (
    "mirrored by snapshots: it lists states before their bytes are there, so it needs journals"
)
_DEMOTED = "remote image is not primary"
"""How rbd-mirror describes a replica whose original was demoted."""
Answer = TypeVar("Answer")
Item = TypeVar("Item")
Json = Any


class Settings(Model):
    """A Ceph cluster at one site."""

    command: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = Field(
        default_factory=lambda: ["rbd"]
    )
    """the command, with the options that choose the cluster and the user"""
    pool: Annotated[str, Field(pattern=r"^[^/@\s-][^/@\s]*$")] = "volumes"
    host: Annotated[str, Field(pattern=r"^[^@\s]+@[^#\s]+#\S+$")]
    """the back end of Cinder with the volumes of this pool, as `HOST@BACKEND#POOL`"""
    timeout: Annotated[Seconds, Field(gt=0, le=600)] = 30.0
    """how long a command may take that copies nothing"""


class _Ended(NamedTuple):
    code: int
    out: str
    error: str
    """its last line about what went wrong"""


class RbdMirror(PromotableStorage):
    settings = Settings

    def __init__(self, name: str, site: str, settings: Model) -> None:
        super().__init__(name, site, settings)
        assert isinstance(settings, Settings)
        self._settings = settings

    @property
    def host(self) -> str:
        return self._settings.host

    def image_of(self, volume: Volume) -> str:
        if volume.backend is None or volume.backend.name is None:
            raise ResourceFailed(
                f"{self.label}: how it calls volume {volume.name or volume.id} is not known, as"
                f" Cinder does not say it ({'; '.join(volume.backend.missing)})"
                if volume.backend
                else f"{self.label}: how it calls volume {volume.name or volume.id} is not known"
            )
        return volume.backend.name

    def image_of_managed(self, volume_id: str) -> str:
        return f"volume-{volume_id}"

    def state_of(self, snapshot_id: str) -> str:
        return f"snapshot-{snapshot_id}"

    def problems(self) -> Iterator[str]:
        try:
            if self._mirroring_of_pool["mode"] == "disabled":
                yield (
                    f"{self.label}: mirroring is not enabled for pool {self._settings.pool}; enable"
                    " it: rbd mirror pool enable POOL image"
                )
        except (ResourceFailed, SiteUnreachable) as error:
            yield str(error)

    def receives_not(self) -> Iterator[str]:
        if self._mirroring_of_pool["mode"] != "disabled":  # a problem by itself
            yield from self._receives_not(self._pool_status())

    def incoming(self, images: Collection[str]) -> tuple[list[str], dict[str, Replica]]:
        if self._mirroring_of_pool["mode"] == "disabled":
            return [], {i: _replica(i, None) for i in images}
        status = self._pool_status("--verbose")
        return list(self._receives_not(status)), _replicas(images, status)

    def _receives_not(self, status: Json) -> Iterator[str]:
        # a daemon fetches what the other site has: that at the original site sends nothing
        info = self._mirroring_of_pool
        health = status["summary"].get("daemon_health", "UNKNOWN")
        if info.get("peers") and health not in ("OK", "WARNING"):
            yield (
                f"{self.label}: rbd-mirror is in state {health}; if the other site's monitors"
                " answer, restart it"
            )

    def replicate(self, images: Sequence[str]) -> list[str]:
        def enable(image: str) -> bool:
            mirroring = self._info(image).get("mirroring", {})
            if mirroring.get("state") == "enabled":
                if mirroring.get("mode", "journal") != "journal":
                    raise ResourceFailed(
                        f"{self.label}: image {image} is {_BY_SNAPSHOTS}. Disable its mirroring,"
                        " then prepare the datastore again"
                    )
                return False
            self._do("mirror", "image", "enable", self._spec(image), "journal")
            return True

        enabled = self._for_each(images, enable)
        return [image for image in images if enabled[image]]

    def replicas(self, images: Collection[str]) -> dict[str, Replica]:
        return _replicas(images, self._pool_status("--verbose"))

    def states(self, images: Collection[str]) -> dict[str, set[str]]:
        def listed(image: str) -> set[str]:
            ended = self._run("snap", "ls", self._spec(image), "--format", "json")
            if ended.code == NO_SUCH:
                return set()
            return {snapshot["name"] for snapshot in self._parsed(ended, "snap ls")}

        return self._for_each(images, listed)

    def clone(self, image: str, state: str, clone: str) -> None:
        source = f"{self._spec(image)}@{state}"
        ended = self._run("clone", source, self._spec(clone))
        if ended.code == EXISTS:
            parent = self._info(clone).get("parent", {})
            if (parent.get("image"), parent.get("snapshot")) == (image, state):
                return
            raise ResourceFailed(
                f"{self.label} has an image {clone} that does not rest on {source}; remove it, if"
                " nothing uses it"
            )
        self._must_have_succeeded(ended, f"clone {source} as {clone}")

    def separate(self, image: str) -> None:
        if "parent" in self._info(image):
            self._do("flatten", "--no-progress", self._spec(image), timeout_s=COPY_S)

    def clones_of(self, image: str, states: Collection[str]) -> dict[str, list[str]]:
        def children(state: str) -> list[str]:
            ended = self._run("children", f"{self._spec(image)}@{state}", "--format", "json")
            if ended.code == NO_SUCH:
                return []
            return [child["image"] for child in self._parsed(ended, "children")]

        found = self._for_each(states, children)
        return {state: names for state, names in found.items() if names}

    def named(self, prefix: str) -> list[str]:
        return [i for i in self._asked("ls", self._settings.pool) if i.startswith(prefix)]

    def remove_clone(self, clone: str) -> bool:
        ended = self._run("rm", "--no-progress", self._spec(clone))
        if ended.code == NO_SUCH:
            return False
        self._must_have_succeeded(ended, f"remove image {clone}")
        return True

    def unfit(self, images: Collection[str]) -> dict[str, str]:
        listed = {i["name"]: i for i in self._pool_status("--verbose").get("images", [])}
        return {i: why for i in images if (why := _unfit(listed.get(i))) is not None}

    def promote(self, image: str) -> None:
        if self._mirroring(image).get("primary"):
            return
        ended = self._run("mirror", "image", "promote", self._spec(image))
        if ended.code == BUSY:  # the other cluster has not demoted its own, or is gone
            self._must_not_be_behind(image)
            ended = self._run("mirror", "image", "promote", "--force", self._spec(image))
        self._must_have_succeeded(ended, f"promote image {image}")

    def keep_head(self, image: str, state: str) -> None:
        spec = f"{self._spec(image)}@{state}"
        create = ("snap", "create", "--no-progress", spec)
        ended = self._once_let_go(*create)
        if ended.code == READ_ONLY:
            self._break_locks(image)
            ended = self._once_let_go(*create)
        if ended.code != EXISTS:
            self._must_have_succeeded(ended, f"make snapshot {spec}")
        if self._is_protected(image, state) is False:
            self._do("snap", "protect", spec)

    def _once_let_go(self, *arguments: str) -> _Ended:
        """Do something to an image once rbd-mirror does not hold it as a replica any more."""
        deadline = time.monotonic() + LETS_GO_S
        while True:
            ended = self._run(*arguments)
            if ended.code != READ_ONLY or time.monotonic() > deadline:
                return ended
            time.sleep(LOOK_S)  # nothing at this site tells when

    def _break_locks(self, image: str) -> None:
        """Take a promoted image from rbd-mirror. Ceph takes no write of that process any more, to
        whichever image, so it starts again.
        """
        spec = self._spec(image)
        for lock in self._asked("lock", "ls", spec):
            LOG.warning("%s: the lock of %s on image %s is broken", self.label, lock, image)
            ended = self._run("lock", "rm", spec, lock["id"], lock["locker"])
            if ended.code != NO_SUCH:  # it may have let go
                self._must_have_succeeded(ended, f"break the lock of image {image}")

    def drop_head(self, image: str, state: str) -> None:
        if (is_protected := self._is_protected(image, state)) is None:
            return
        spec = f"{self._spec(image)}@{state}"
        if is_protected:
            self._do("snap", "unprotect", spec)
        self._do("snap", "rm", "--no-progress", spec)

    def demote(self, image: str) -> None:
        if self._mirroring(image).get("primary"):
            self._do("mirror", "image", "demote", self._spec(image))

    def follow(self, image: str) -> None:
        self.demote(image)
        self._do("mirror", "image", "resync", self._spec(image))

    def _must_not_be_behind(self, image: str) -> None:
        """See that force does not make an original of a replica to which a demotion has not come:
        what lies before that is missing. It may be half of an image, as rbd-mirror says the same
        of one whose first synchronisation was interrupted.

        Raises:
            ResourceFailed: the original was demoted, and the replica has not followed it to its
                end.
        """
        listed = {i["name"]: i for i in self._pool_status("--verbose").get("images", [])}
        if str(listed.get(image, {}).get("description") or "") == _DEMOTED:
            raise ResourceFailed(
                f"{self.label}: the original of image {image} was demoted, and what was written"
                " before that has not all arrived. Promote the original again, and wait until the"
                " image follows it; or recover from the recovery point, without --newest-heads"
            )

    def _mirroring(self, image: str) -> Json:
        return self._info(image).get("mirroring", {})

    def _is_protected(self, image: str, state: str) -> bool | None:
        """Whether a snapshot can be cloned; None: there is none."""
        for snapshot in self._asked("snap", "ls", self._spec(image)):
            if snapshot["name"] == state:
                return str(snapshot.get("protected")).lower() == "true"
        return None

    def _spec(self, image: str) -> str:
        return f"{self._settings.pool}/{image}"

    @cached_property
    def _mirroring_of_pool(self) -> Json:
        """The mode and the peers of the pool: settings, which one look at a site asks for once."""
        return self._asked("mirror", "pool", "info", self._settings.pool)

    def _pool_status(self, *options: str) -> Json:
        return self._asked("mirror", "pool", "status", self._settings.pool, *options)

    def _info(self, image: str) -> Json:
        """An image as `rbd info` describes it.

        Raises:
            ResourceFailed: there is none.
        """
        return self._asked("info", self._spec(image))

    def _for_each(self, items: Iterable[Item], ask: Callable[[Item], Answer]) -> dict[Item, Answer]:
        each = list(items)
        if not each:
            return {}
        with ThreadPoolExecutor(min(len(each), AT_ONCE), "rbd") as pool:
            return dict(zip(each, pool.map(ask, each), strict=True))

    def _asked(self, *arguments: str) -> Json:
        ended = self._run(*arguments, "--format", "json")
        self._must_have_succeeded(ended, " ".join(arguments))
        return self._parsed(ended, " ".join(arguments))

    def _do(self, *arguments: str, timeout_s: float | None = None) -> None:
        self._must_have_succeeded(self._run(*arguments, timeout_s=timeout_s), " ".join(arguments))

    def _must_have_succeeded(self, ended: _Ended, wanted: str) -> None:
        if ended.code:
            raise ResourceFailed(
                f"{self.label}: rbd could not {wanted} (exit code {ended.code}): {ended.error}"
            )

    def _parsed(self, ended: _Ended, asked: str) -> Json:
        self._must_have_succeeded(ended, asked)
        try:
            return json.loads(ended.out)
        except ValueError as error:
            raise UnexpectedAnswer(self.site, f"rbd {asked}", "it is no JSON") from error

    def _run(self, *arguments: str, timeout_s: float | None = None) -> _Ended:
        command = [*self._settings.command, *arguments]
        limit = timeout_s or self._settings.timeout
        try:
            ended = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit,
                env=processes.of_this_process((*OF_CLIENTS, *OF_CEPH)),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SiteUnreachable(
                f"{self.label}: `rbd {' '.join(arguments)}` has not ended after {limit:g} s; its"
                " monitors may not answer"
            ) from error
        except OSError as error:
            raise ResourceFailed(
                f"{self.label}: the command {command[0]} cannot be run: {error.strerror}. Install"
                " ceph-common, or correct `command` of the storage in antipode.yaml"
            ) from error
        return _Ended(ended.returncode, ended.stdout, _last_line(ended.stderr))


def _replicas(images: Collection[str], status: Json) -> dict[str, Replica]:
    """Images by the pool's status."""
    listed = {i["name"]: i for i in status.get("images", [])}
    return {i: _replica(i, listed.get(i)) for i in images}


def _replica(image: str, status: Json | None) -> Replica:
    """An image by its entry in the pool's status; None where it is not mirrored."""
    if status is None:
        return Replica(image=image, health=Health.ABSENT, detail="it is not mirrored")
    state, progress = str(status.get("state", "")), str(status.get("description") or "")
    behind = re.search(r'"entries_behind_primary":\s*(\d+)', progress)
    entries = int(behind[1]) if behind else None
    if "snapshot_timestamp" in progress:
        return Replica(image=image, health=Health.BROKEN, detail=_BY_SNAPSHOTS)
    return Replica(
        image=image,
        health=_health(state, progress),
        lag_s=0.0 if entries == 0 else None,
        is_split="split-brain" in progress,
        detail=f"{state}, {entries} journal entries behind" if entries else f"{state}, {progress}",
    )


def _health(state: str, description: str) -> Health:
    daemon, _, activity = state.partition("+")
    if "local image is primary" in description and activity == "stopped":
        return Health.WRITABLE
    if activity == "error":
        return Health.BROKEN
    if activity == "syncing":
        return Health.FIRST_SYNC  # whether it goes on or not: it is no whole copy
    if daemon != "up":
        return Health.STOPPED  # what it did last is known, and not whether it still does
    return Health.REPLICATING if activity == "replaying" else Health.STOPPED


def _unfit(status: Json | None) -> str | None:
    """Why an image must not be promoted; None where it is whole. What a daemon that was started
    again has not looked at yet may be half of an image: nothing at this site tells.
    """
    if status is None:
        return "it is not mirrored"
    state, progress = str(status.get("state", "")), str(status.get("description") or "")
    if "snapshot_timestamp" in progress:
        return _BY_SNAPSHOTS
    is_promoted = progress in ("local image is primary", _DEMOTED)
    is_whole = is_promoted or state.partition("+")[2] == "replaying"
    return None if is_whole else f"it is {state} ({progress}), and may be half of an image"


def _last_line(text: str) -> str:
    """The last line of what a command says of its failure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "it gives no reason"

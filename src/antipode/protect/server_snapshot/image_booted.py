# SPDX-License-Identifier: Apache-2.0
"""The capture of a member that boots from an image: Nova copies its root disk into an image; its
volumes, which that image does not name, are snapshotted in a quiesce window of their own.

Nova copies the disk while the member works, and quiesces it for an instant at the end. It does not
say whether it could (`_live_snapshot`, and not at all where the storage makes the copy), so nothing
better than `volume` is promised of a member that runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from antipode.cloud.api import ApiError, Json
from antipode.errors import AntipodeError, QuiesceFailed, ResourceFailed
from antipode.freezes.unquiesce import THAW_CALL_S, thaw
from antipode.model.capture import Capture
from antipode.model.marks import marks
from antipode.model.steps import Step
from antipode.model.topology import Server, Topology
from antipode.protect.option import Protecting
from antipode.protect.quiesced_snapshot.settings import Quiesce as Window
from antipode.protect.quiesced_snapshot.window import quiesced_snapshots
from antipode.protect.server_snapshot import checks
from antipode.protect.server_snapshot.holdings import Maker, remove_of_server
from antipode.protect.server_snapshot.refusals import cannot_be_frozen
from antipode.protect.server_snapshot.settings import Quiesce
from antipode.protect.server_snapshot.steps import ServerSnapshotSteps as Steps

LOG = logging.getLogger(__name__)
POLL_S = 1.0
"""Between two looks at the image."""
LONGEST_S = 24 * 3600.0
"""For one image; the time it takes depends on the size of the disk."""
CALL_S = 60.0
THAW_LONGEST_S = 60.0
"""How long an unquiesce is tried again here; then it is left to a reaper."""
THAW_PAUSE_S = 0.5
TASK = "OS-EXT-STS:task_state"


class _Refused(ResourceFailed):
    """createImage was refused by nova-api, before nova-compute has heard of it."""


@dataclass(frozen=True)
class ImageBootedCapture:
    """One member of one run, and all that its capture works with."""

    protecting: Protecting
    server: Server
    topology: Topology
    """of this member only"""
    quiesce: Quiesce

    def capture(self) -> Capture:
        """Snapshot the volumes, then make the image and wait until it is active.

        Returns:
            the snapshots and the image. `member` consistency of a member that is off, else
            `volume`: its disks are of different moments.

        Raises:
            QuiesceFailed: the member could not be quiesced for its snapshots, or may still be
                frozen.
            ResourceFailed: a snapshot or the image failed, or took too long, or the member was
                changed meanwhile.

        Of a capture that failed an image and snapshots may be left, for the caller to remove.
        """
        p, server = self.protecting, self.server
        assert server.root_disk is not None  # it boots from an image
        remove_of_server(p.site, Maker(p.run, server.id), p.timeline)
        began = datetime.now(UTC).isoformat()
        volumes = self._snapshots() if server.volumes else None
        image = self._image()
        moment = volumes.consistent_at if volumes else began
        return Capture(
            snapshots=volumes.snapshots if volumes else {},
            images={server.root_disk.id: image},
            consistent_at=moment,
            window=volumes.window if volumes else None,
            consistency="member" if server.is_off else "volume",
            moments={server.name: moment},
        )

    def _snapshots(self) -> Capture:
        p = self.protecting
        window = Window(timeout=self.quiesce.timeout)
        key = f"{p.run}/{self.server.id}"
        return quiesced_snapshots(
            p.site, self.topology, window, marks(p.run, key), p.ledger, p.timeline
        )

    def _image(self) -> str:
        """Have Nova make the image; whatever happens, the member is unquiesced where that can be
        done: Nova leaves it frozen when it fails between the freeze and its end.
        """
        p, server = self.protecting, self.server
        limit_s = min(p.stalls_after_s(max(1, self._gib)), LONGEST_S)
        thaws = p.site.compute.quiesce_available()
        row = None
        with p.timeline.step(Steps.CREATE_IMAGE, server.name) as step:
            self._await_no_task(step, limit_s)
            if thaws:
                row = p.ledger.freezing(p.site.name, server.id, server.name, limit_s)
            try:
                image_id = self._create()
                step.result(image=image_id)
                self._await_image(image_id, step, limit_s)
            except _Refused:
                if row is not None:
                    p.ledger.thawed(row)
                    row = None
                raise
            finally:
                if row is not None:
                    self._end_freeze(row)
            self._await_no_task(step, limit_s)
            self._must_be_as_before()
        return image_id

    @property
    def _gib(self) -> int:
        return self.server.root_disk.size_gib if self.server.root_disk else 0

    @property
    def _label(self) -> str:
        return f"{self.protecting.site.name}: server {self.server.name} ({self.server.id})"

    def _create(self) -> str:
        p, server = self.protecting, self.server
        maker = Maker(p.run, server.id)
        p.go_on()
        try:
            return p.site.compute.create_image(
                server.id, maker.image_name, marks(p.run, f"{p.run} {server.id}"), CALL_S
            )
        except ApiError as error:
            kind = _Refused if error.status < 500 else ResourceFailed
            raise kind(f"{self._label}: no image of it could be made: {error.reason}") from error

    def _await_image(self, image_id: str, step: Step, limit_s: float) -> None:
        images = self.protecting.site.images

        def state() -> str:
            works = self._task() != ""  # asked first: Nova ends its task after the image
            image = images.image(image_id)
            status = "deleted" if image is None else str(image["status"])
            if status not in ("queued", "saving", "active"):
                raise ResourceFailed(
                    f"{self._label}: image {image_id} of it is {status}: Nova could not make it, or"
                    " somebody deleted it; see the log of nova-compute, then protect the VNF again"
                )
            if status != "active" and not works:
                raise ResourceFailed(
                    f"{self._label}: Nova has given up image {image_id} of it, which is {status}, "
                    "as nova-compute does when it restarts. Protect the VNF again"
                )
            return status

        self._await(state, "active", f"image {image_id}", step, limit_s)

    def _await_no_task(self, step: Step, limit_s: float) -> None:
        """Wait until Nova does nothing with the server: a dead process may have an image made."""
        self._await(self._task, "", f"the task of server {self.server.name}", step, limit_s)

    def _await(
        self, look: Callable[[], str], wanted: str, what: str, step: Step, limit_s: float
    ) -> None:
        """Wait for a state.

        Raises:
            ResourceFailed: nothing has changed for `limit_s` seconds.
        """
        seen, since = look(), time.monotonic()
        while seen != wanted:
            step.waits_for(f"{what} is {seen}, to be {wanted or 'over'}")
            self.protecting.go_on()
            if time.monotonic() > since + limit_s:
                raise ResourceFailed(f"{self._label}: {what} has been {seen} for {limit_s:.0f} s")
            threading.Event().wait(POLL_S)
            if (now := look()) != seen:
                seen, since = now, time.monotonic()

    def _task(self) -> str:
        """Nova's task with the server, empty if it has none."""
        return str(self._found().get(TASK) or "")

    def _found(self) -> Json:
        found = self.protecting.site.compute.server(self.server.id)
        if found is None:
            raise ResourceFailed(f"{self._label} is gone; protect the VNF again")
        return found

    def _must_be_as_before(self) -> None:
        wanted = "SHUTOFF" if self.server.is_off else "ACTIVE"
        found = self._found()
        if found["status"] != wanted:
            raise ResourceFailed(
                f"{self._label} is {found['status']} after its capture; it must still be {wanted}"
            )
        if resized := checks.resize_of(self.server, found):
            raise ResourceFailed(f"{self._label} {resized}. Protect the VNF again")
        attached = {a["volumeId"] for a in self.protecting.site.compute.attachments(self.server.id)}
        if changed := sorted(attached ^ {v.id for v in self.server.volumes}):
            raise ResourceFailed(
                f"{self._label} was changed after it was discovered: volumes were attached or"
                f" detached: {', '.join(changed)}. Protect the VNF again"
            )

    def _end_freeze(self, row: str) -> None:
        """Unquiesce, and have a reaper do it from now on if that fails: the row allows for all the
        time that an image may take.
        """
        ledger = self.protecting.ledger
        try:
            self._unquiesce()
        except BaseException:
            ledger.due(row)
            raise
        ledger.thawed(row)

    def _unquiesce(self) -> None:
        """Unquiesce, again and again until it is confirmed or the time for it is over. A server
        that the add-on has quiesced is left to those that asked for it: Nova makes no image of it.

        Raises:
            QuiesceFailed: the member may still be frozen.
        """
        if self._is_quiesced_by_others():
            return
        until = time.monotonic() + THAW_LONGEST_S
        while True:
            try:
                thaw(self.protecting.site, self.server.id)
            except AntipodeError as error:
                if cannot_be_frozen(error):
                    return
                if time.monotonic() > until:
                    raise QuiesceFailed(
                        f"{self._label} may still be frozen: {error}. antipode tries again; or use:"
                        f' POST /servers/{self.server.id}/action {{"unquiesce": null}}'
                    ) from error
            else:
                return
            # A refusal has no state to wait for; nova-compute may need a moment.
            threading.Event().wait(THAW_PAUSE_S)

    def _is_quiesced_by_others(self) -> bool:
        """False where that is unknown: an unquiesce too many is better than none."""
        try:
            freeze = self.protecting.site.compute.freeze_of(self.server.id, THAW_CALL_S)
        except AntipodeError as error:
            LOG.warning("%s: whether it is quiesced is unknown: %s", self._label, error)
            return False
        return freeze is not None

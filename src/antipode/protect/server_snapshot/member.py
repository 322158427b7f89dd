# SPDX-License-Identifier: Apache-2.0
"""The capture of one member: Nova makes an image of the server (createImage), and quiesces it for
that (steps 2.1, 2.2, 2.4).

Nova answers before the snapshots are available and unquiesces the member when none is being created
any more, however long that takes. So the snapshots are awaited with a deadline, and then the member
is unquiesced through the add-on, whatever happened: only this confirms that it is not frozen.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from antipode.cloud.api import ApiError, Json, Urgency
from antipode.cloud.site import Site
from antipode.errors import AntipodeError, QuiesceFailed, ResourceFailed
from antipode.freezes.unquiesce import HANGS_AFTER_S, THAW_CALL_S
from antipode.model.capture import Capture, QuiesceWindow
from antipode.model.marks import marks
from antipode.model.steps import Timeline
from antipode.model.topology import Server
from antipode.protect.option import FreezeLedger
from antipode.protect.server_snapshot import checks
from antipode.protect.server_snapshot.checks import REQUIRED
from antipode.protect.server_snapshot.holdings import Maker, maker_of_image, remove_of_server
from antipode.protect.server_snapshot.refusals import cannot_be_frozen, has_frozen_nothing
from antipode.protect.server_snapshot.settings import Quiesce
from antipode.protect.server_snapshot.steps import ServerSnapshotSteps as Steps
from antipode.protect.uninterrupted import run_uninterrupted

LOG = logging.getLogger(__name__)
THAW_LONGEST_S = 60.0
"""How long an unquiesce is tried again when the member's own time is over already."""
THAW_PAUSE_S = 0.5
POLL_S = 0.2
"""Between two looks at the snapshots."""
NOVA_LOOKS_S = 2.0
"""After which Nova has seen for certain that a snapshot is gone, and has unquiesced."""
UPDATED_EVERY_S = 1.0
"""The precision of the moments at which Nova says that a server was changed."""
LEAST_S = 0.1
"""What a call gets when the time is over: none can be sent without any."""
LEDGER_GRACE_S = 2.0
"""How much later than the capture ends by itself a reaper unquiesces."""


@dataclass(frozen=True)
class MemberCapture:
    """One member of one run, and all that its capture works with."""

    site: Site
    server: Server
    run: str
    quiesce: Quiesce
    ledger: FreezeLedger
    timeline: Timeline

    def capture(self) -> Capture:
        """Make an image of the member and await its snapshots; when this returns or raises, the
        member is not frozen, or the error says so and the ledger has it.

        Returns:
            the snapshots, all available. `member` consistency if Nova had to quiesce the server,
            else `volume`; no window where the add-on is missing, as its end cannot be seen then.

        Raises:
            QuiesceFailed: Nova could not quiesce the member, or it may still be frozen.
            ResourceFailed: a snapshot failed or was not available in time, a quota is short, the
                image is gone, or the member was changed meanwhile.

        Of a capture that failed images and snapshots may be left, for the caller to remove.
        """
        maker = Maker(self.run, self.server.id)
        try:
            return self._capture(maker)
        except _NovaFailed as error:
            if not self._has_image(maker):
                raise
            LOG.warning("%s: an earlier request for its image came late; it is made again", error)
            return self._capture(maker)

    def _has_image(self, maker: Maker) -> bool:
        """Whether an image of this run is there although its request failed: one of a process of
        the run that is dead came through late, and has frozen the member first.
        """
        return any(maker_of_image(image) == maker for image in self.site.images.images())

    def _capture(self, maker: Maker) -> Capture:
        """Remove what an earlier try has made, and capture the member; errors as for `capture`."""
        if remove_of_server(self.site, maker, self.timeline):
            # Nova looks each half second whether the snapshots of the earlier try are made, and
            # unquiesces then. That must not end the freeze that follows, and cannot be seen.
            time.sleep(NOVA_LOOKS_S)
        limited = self.site.compute.quiesce_available()
        changed, looked_at = self._changed_at(), time.monotonic()
        self.site.stay_authorized(self.quiesce.timeout + THAW_LONGEST_S)
        if limited and not self.server.is_off:
            # There is no state to wait for: a change from now on is of another second.
            time.sleep(max(0.0, looked_at + UPDATED_EVERY_S - time.monotonic()))
        freeze = _Freeze(self, maker, limited, changed)
        row = self._announce() if limited else None
        try:
            run_uninterrupted(freeze.run, freeze.note_signal, "server-image")
        finally:
            if row is not None and not freeze.may_be_frozen:
                self.ledger.thawed(row)
            freeze.tell(self.timeline)
        return freeze.result()

    def _changed_at(self) -> str:
        """When Nova, or the add-on, has changed the member last."""
        return str((self.site.compute.server(self.server.id) or {}).get("updated"))

    def _announce(self) -> str:
        lasts_s = self.quiesce.timeout + LEDGER_GRACE_S
        return self.ledger.freezing(self.site.name, self.server.id, self.server.name, lasts_s)


@dataclass
class _Moment:
    """Wall clock for people, monotonic clock for durations."""

    at: datetime
    s: float

    @classmethod
    def now(cls) -> _Moment:
        return cls(datetime.now(UTC), time.monotonic())


class _Interrupted(AntipodeError):
    """Somebody asked the capture to end."""


class _NovaFailed(ResourceFailed):
    """createImage was answered with 500 or more: the member may be frozen."""


class _Freeze:
    """From the call of createImage to the confirmed unquiesce."""

    def __init__(self, member: MemberCapture, maker: Maker, limited: bool, changed: str) -> None:
        """
        Args:
            limited: whether the add-on is there, which ends the freeze.
            changed: when the member was changed last, before it is frozen.
        """
        self._site = member.site
        self._server = member.server
        self._quiesce = member.quiesce
        self._maker = maker
        self._limited = limited
        self._changed = changed
        self._deadline = time.monotonic() + member.quiesce.timeout
        self._asked: _Moment | None = None
        self._answered: _Moment | None = None
        self._available: _Moment | None = None
        self._unquiescing: _Moment | None = None
        self._unquiesced: _Moment | None = None
        self._denied = False
        """createImage was refused before it froze anything, for certain"""
        self._thaw_error: str | None = None
        self._error: BaseException | None = None
        self._signal: str | None = None
        self._image: Json = {}
        self._snapshots: dict[str, str] = {}

    def note_signal(self, name: str) -> None:
        """Have the capture end soon."""
        self._signal = name

    @property
    def may_be_frozen(self) -> bool:
        return self._asked is not None and self._unquiesced is None and not self._denied

    def run(self) -> None:
        """Make the image, await the snapshots, unquiesce. An error is kept for `result`."""
        try:
            self._see_that_it_is_not_frozen()
            before = self._power()
            self._create_image()
            self._await_snapshots()
            self._see_that_it_stayed(before)
        except BaseException as error:
            self._error = error
        finally:
            if self._asked is not None and self._limited and not self._is_quiesced_by_others():
                self._unquiesce()

    def result(self) -> Capture:
        """What was captured, or the error that it ended with; a member that may be frozen is always
        an error where that could be seen.
        """
        if self._signal is not None:
            self._error = KeyboardInterrupt(self._signal)
        if self._limited and self.may_be_frozen:
            raise QuiesceFailed(
                f"{self._label} may still be frozen: {self._thaw_error}. antipode tries again; or "
                f'use: POST /servers/{self._server.id}/action {{"unquiesce": null}}'
            ) from self._error
        if self._error is not None:
            raise self._error
        assert self._asked is not None
        is_quiesced = self._server.is_off or _is_yes(self._image.get(REQUIRED))
        if self._quiesce.required and not is_quiesced:
            raise QuiesceFailed(
                f"{self._label} may have been captured without being quiesced: when it booted, "
                f"image property {REQUIRED} of its root volume was not yes. Boot it again"
            )
        window = None
        if self._unquiesced is not None and is_quiesced and not self._server.is_off:
            frozen_s = round(self._unquiesced.s - self._asked.s, 3)
            window = QuiesceWindow(total_s=frozen_s, per_member_s={self._server.name: frozen_s})
        moment = self._asked.at.isoformat()
        return Capture(
            snapshots=self._snapshots,
            consistent_at=moment,
            window=window,
            consistency="member" if is_quiesced else "volume",
            moments={self._server.name: moment},
        )

    def tell(self, timeline: Timeline) -> None:
        """Put what happened on the timeline, now that the member is not frozen."""
        if self._asked is None:
            return
        now, name = _Moment.now(), self._server.name
        failed = None if self._error is None else str(self._error)
        timeline.past(
            Steps.CREATE_IMAGE,
            name,
            started=self._asked.at,
            ended=(self._answered or self._unquiescing or now).at,
            error=None if self._answered else failed,
            image=self._maker.image_name,
        )
        if self._answered:
            timeline.past(
                Steps.SNAPSHOT,
                name,
                started=self._answered.at,
                ended=(self._available or self._unquiescing or now).at,
                error=None if self._available else failed,
                volumes=len(self._server.volumes),
            )
        if self._unquiescing:
            facts = {} if self.may_be_frozen else {"frozen_s": self._frozen_s(now)}
            timeline.past(
                Steps.UNQUIESCE,
                name,
                started=self._unquiescing.at,
                ended=(self._unquiesced or now).at,
                error=self._thaw_error if self.may_be_frozen else None,
                **facts,
            )

    def _frozen_s(self, now: _Moment) -> float:
        assert self._asked is not None
        return round((self._unquiesced or now).s - self._asked.s, 3)

    @property
    def _label(self) -> str:
        return f"{self._site.name}: server {self._server.name} ({self._server.id})"

    def _see_that_it_is_not_frozen(self) -> None:
        """Somebody who quiesces the member, or makes an image of it, unquiesces it in the middle of
        our capture, and it cannot be seen.
        """
        if self._limited and self._site.compute.freeze_of(self._server.id, self._remaining()):
            raise QuiesceFailed(f"{self._label} is quiesced by somebody else; try again later")
        if under_way := checks.snapshots_under_way(self._site, [self._server]):
            raise ResourceFailed(f"{self._label}: {'; '.join(under_way)}. Try again later")

    def _create_image(self) -> None:
        self._go_on()
        maker = self._maker
        properties = marks(maker.run, f"{maker.run} {maker.server_id}")
        self._asked = _Moment.now()  # before the call: from now on it may be frozen
        try:
            image_id = self._site.compute.create_image(
                self._server.id, maker.image_name, properties, self._remaining()
            )
        except ApiError as error:
            self._denied = has_frozen_nothing(error)
            kind = (
                QuiesceFailed
                if error.status == 409
                else _NovaFailed
                if error.status >= 500
                else ResourceFailed
            )
            raise kind(f"{self._label} could not be captured: {error.reason}") from error
        self._answered = _Moment.now()
        image = self._site.images.image(
            image_id, timeout_s=self._remaining(), urgency=Urgency.WINDOW
        )
        if image is None:
            raise ResourceFailed(
                f"{self._label}: its image {image_id} was deleted by someone else before its "
                "snapshots were known; protect the VNF again"
            )
        self._image = image

    def _await_snapshots(self) -> None:
        """Wait for the snapshots that the image names, and see that they are of the volumes of the
        member.
        """
        listed = self._site.volumes.snapshot_watch.wait_for(
            self._site.images.snapshots_of(self._image),
            timeout_s=self._remaining(),
            interval_s=POLL_S,
            between=self._go_on,
        )
        self._snapshots = {s["volume_id"]: s["id"] for s in listed.values()}
        self._available = _Moment.now()
        names = {v.id: v.name for v in self._server.volumes}
        changes = [
            f"volume {' '.join(filter(None, (names.get(v), f'({v})')))} was {change}"
            for change, volumes in (
                ("attached", set(self._snapshots) - set(names)),
                ("detached", set(names) - set(self._snapshots)),
            )
            for v in sorted(volumes)
        ]
        if changes:
            raise ResourceFailed(
                f"{self._label} was changed after it was discovered: {'; '.join(changes)}. Protect "
                "the VNF again"
            )

    def _power(self) -> tuple[bool, str] | None:
        """Whether a member that is to be off is off, and since when; None of any other."""
        if not self._server.is_off:
            return None
        return self._site.compute.power_of(self._server.id, self._remaining())

    def _see_that_it_stayed(self, before: tuple[bool, str] | None) -> None:
        """A server that is being changed is captured without being quiesced, and so is one that was
        off and is started. The add-on notes each unquiesce as a change of the server before it
        acts: a request that ends the freeze of Nova in the middle is seen by that.
        """
        if before is not None and (not before[0] or self._power() != before):
            raise ResourceFailed(f"{self._label} was off and was started during its capture")
        server = self._site.compute.server(
            self._server.id, timeout_s=self._remaining(), urgency=Urgency.WINDOW
        )
        if server is None:
            raise ResourceFailed(f"{self._label} is gone after its capture; protect the VNF again")
        if resized := checks.resize_of(self._server, server):
            raise ResourceFailed(f"{self._label} {resized}. Protect the VNF again")
        if before is not None:
            return
        if server["status"] != "ACTIVE":
            raise ResourceFailed(
                f"{self._label} is {server['status']} after its capture; it must be ACTIVE"
            )
        if str(server.get("updated")) != self._changed:
            raise ResourceFailed(
                f"{self._label} was changed or unquiesced by another request while its snapshots "
                "were taken. Protect the VNF again"
            )

    def _is_quiesced_by_others(self) -> bool:
        """Whether createImage was refused because somebody has quiesced the member: it is left to
        them.
        """
        if not self._denied:
            return False
        try:
            return self._site.compute.freeze_of(self._server.id, THAW_CALL_S) is not None
        except AntipodeError:
            return False

    def _unquiesce(self) -> None:
        """Unquiesce, again and again until it is confirmed or the time for it is over."""
        until = max(self._deadline, time.monotonic() + THAW_LONGEST_S)
        self._unquiescing = _Moment.now()
        while True:
            try:
                self._site.compute.unquiesce(
                    self._server.id, min(THAW_CALL_S, max(until - time.monotonic(), HANGS_AFTER_S))
                )
            except BaseException as error:
                # Whatever it is, it is tried again, and reported if it stays.
                self._thaw_error = error.reason if isinstance(error, ApiError) else str(error)
                if isinstance(error, ApiError) and 400 <= error.status < 500:
                    # neither frozen nor unquiesced, if that is certain
                    self._denied = self._denied or cannot_be_frozen(error)
                    if self._denied:
                        return
            else:
                self._unquiesced, self._thaw_error = _Moment.now(), None
                return
            if time.monotonic() > until:
                self._denied = False  # whether it is frozen is not known
                return
            # A refusal has no state to wait for; nova-compute may need a moment.
            time.sleep(THAW_PAUSE_S)

    def _remaining(self) -> float:
        return max(self._deadline - time.monotonic(), LEAST_S)

    def _go_on(self) -> None:
        if self._signal is not None:
            raise _Interrupted(f"{self._label}: its capture was interrupted by {self._signal}")
        if time.monotonic() > self._deadline:
            unquiesces = (
                ""
                if self._limited
                else ". Without the quiesce add-on it stays frozen until none of its snapshots is "
                "creating: openstack volume snapshot set --state error ID"
            )
            raise ResourceFailed(
                f"{self._label}: its snapshots were not available within the quiesce timeout of "
                f"{math.ceil(self._quiesce.timeout)} s{unquiesces}"
            )


def _is_yes(value: object) -> bool:
    return str(value or "").lower() in ("yes", "true", "1")

# SPDX-License-Identifier: Apache-2.0
"""Attaches volumes to a helper server of the site by Nova, where this host has no way to the
storage; their bytes go there by SFTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError
from antipode.config import HelperConfig
from antipode.errors import HelperFailed, ResourceFailed
from antipode.mover.guest import Guest, connected
from antipode.mover.release import let_go
from antipode.mover.target import Target

if TYPE_CHECKING:
    from antipode.cloud.site import Site

ATTACHES_S = 120.0
"""How long Nova may take to attach a volume."""
LETS_GO_S = 300.0
"""How long the guest may take to let a disk go."""


class NovaAttached:
    """`Attached` by Nova. Each volume has a connection of its own, which goes with its volume."""

    def __init__(
        self,
        site: Site,
        helper: HelperConfig,
        enter: Callable[[HelperConfig], AbstractContextManager[Guest]] = connected,
    ) -> None:
        """`enter` logs in to the server."""
        self._site, self._helper, self._enter = site, helper, enter
        self._server = str(helper.server)

    @contextmanager
    def __call__(self, volume: str) -> Iterator[Target]:
        """A volume, attached to the helper server while the block runs.

        Raises:
            HelperFailed: the server cannot be used, or the guest does not see the volume.
            ResourceFailed: Nova does not attach it, or does not get it back from the guest.
        """
        with self._enter(self._helper) as guest:  # first: nothing is attached to one that is away
            guest.must_not_have(volume)
            self._begin(volume)
            try:
                self._await(volume)
                with guest.opened(volume) as disk:
                    yield disk
            finally:
                if not let_go(self._site, volume, self._server, LETS_GO_S):
                    raise ResourceFailed(
                        f"volume {volume} is still attached to helper {self._server}: the guest"
                        " does not let it go. Restart the server; the next run looks again"
                    )

    def _begin(self, volume: str) -> None:
        try:
            self._site.compute.attach_volume(self._server, volume)
        except ApiError as error:
            raise ResourceFailed(
                f"volume {volume} cannot be attached to helper {self._server}: {error.reason}"
            ) from error

    def _await(self, volume: str) -> None:
        settled = self._site.volumes.watch.wait_for(
            [volume], wanted=("in-use", "available"), timeout_s=ATTACHES_S
        )[volume]
        if settled["status"] != "in-use":  # it was reserved before Nova had answered
            raise HelperFailed(
                f"Nova could not attach volume {volume} to helper {self._server}: see that it has"
                " room for another disk, and the log of its nova-compute"
            )

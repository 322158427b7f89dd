# SPDX-License-Identifier: Apache-2.0
"""Snapshots that Cinder takes through Nova (os-assisted-volume-snapshots): what a server is
quiesced for, so they are not refused.
"""

from __future__ import annotations

from typing import Any

from nova.api.openstack.compute import assisted_volume_snapshots
from nova.compute import api as compute_api

from nova_quiesce.record import QUIESCED


class AssistedSnapshots(assisted_volume_snapshots.AssistedVolumeSnapshotsController):
    """Nova's own controller, which takes a quiesced server for one without a task."""

    def __init__(self) -> None:
        super().__init__()
        self.compute_api = _ComputeApi()


class _ComputeApi(compute_api.API):
    def _get_bdm_by_volume_id(
        self, context: Any, volume_id: str, expected_attrs: Any = None
    ) -> Any:
        bdm = super()._get_bdm_by_volume_id(context, volume_id, expected_attrs)
        if bdm.instance.task_state == QUIESCED:
            # Only in the copy that nova-compute is sent. libvirt freezes a guest for each such
            # snapshot, and thaws it also when that was refused because it is frozen; to leave the
            # guest as it is, nova-compute must not know of the agent.
            bdm.instance.task_state = None
            bdm.instance.system_metadata = {
                **bdm.instance.system_metadata,
                "image_hw_qemu_guest_agent": "no",
                "image_os_require_quiesce": "no",
            }
            bdm.instance.obj_reset_changes(["task_state", "system_metadata"])
        return bdm

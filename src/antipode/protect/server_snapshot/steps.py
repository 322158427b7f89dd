# SPDX-License-Identifier: Apache-2.0
"""The steps of option 2."""

from __future__ import annotations

from antipode.model.steps import StepName


class ServerSnapshotSteps(StepName):
    CREATE_IMAGE = "2.1", "create server image"
    SNAPSHOT = "2.4", "await the snapshots of the image"
    UNQUIESCE = "2.2", "unquiesce"
    AWAIT_ANSWER = "2.2", "await answer of captured member"
    LOOK_AT_OTHERS = "2.2", "see that the other members answer"
    PAUSE = "2.2", "pause before the next member"
    REMOVE_IMAGES = "2.8", "remove temporary images"

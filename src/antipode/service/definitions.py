# SPDX-License-Identifier: Apache-2.0
"""The VNF files that were added here, for loops that look often: one is read again when it was
replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from antipode.engine.deployment import Deployment
from antipode.model.vnf import Vnf


class Definitions:
    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._vnfs: dict[str, tuple[float, Vnf]] = {}

    def known(self, alone: Callable[[str], AbstractContextManager[None]]) -> Iterator[Vnf]:
        """The VNFs as their files have them now.

        Args:
            alone: a context in which one of them is read, which may keep the errors of it.
        """
        versions = self._deployment.vnfs.versions()
        self._vnfs = {name: known for name, known in self._vnfs.items() if name in versions}
        for name, version in versions.items():
            if name not in self._vnfs or self._vnfs[name][0] != version:
                with alone(name):
                    self._vnfs[name] = version, self._deployment.vnfs.get(name)
            if name in self._vnfs:
                yield self._vnfs[name][1]

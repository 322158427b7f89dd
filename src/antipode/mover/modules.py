# SPDX-License-Identifier: Apache-2.0
"""Ceph's Python modules, which are not on PyPI, found in a folder of the host and alone there.

A folder of a distribution has other packages too, as an old pyOpenSSL: requests would use it where
it finds it, and fail.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

CEPH = ("rados", "rbd")


class CephModules:
    """A finder of these modules (importlib.abc.MetaPathFinder)."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = folders

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, self._folders) if name in CEPH else None


def find_in(folders: Sequence[str]) -> None:
    """Have this process find Ceph's modules in folders, where nothing else has them."""
    sys.meta_path.append(CephModules(folders))

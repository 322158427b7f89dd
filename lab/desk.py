# SPDX-License-Identifier: Apache-2.0
"""An operator's desk: antipode configured for the two sites, and its command line called as an
operator does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from antipode.sandbox import configuration
from lab import clouds, extras, storage
from lab.errors import LabError
from lab.services.operator_rbd import replication_settings
from lab.site import BACKUP_STORE, SITES

EXAMPLE = Path(__file__).parent.parent / "examples" / "canary.yaml"
PROJECT = Path(__file__).parent.parent


STORAGE = "ceph"
"""The storage that replicates between the sites, where they have the extra for it."""


def _storage() -> dict[str, Any]:
    found = {name: replication_settings(site) for name, site in SITES.items()}
    return {
        "driver": "rbd-mirror",
        "sites": {
            name: {"command": [str(s.rbd)], "pool": s.pool, "host": s.backend_host}
            for name, s in found.items()
        },
    }


class Desk:
    """One installation of antipode: a configuration, a database and a vault of its own, in one
    folder.
    """

    def __init__(
        self, folder: Path, vault: str = "antipode-vault", *, has_mover: bool = False
    ) -> None:
        """
        Args:
            has_mover: whether it writes volumes at the sites itself, and reads their changes.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.configuration = folder / "antipode.yaml"
        content = configuration.antipode(
            folder, SITES, BACKUP_STORE.name, backups="volumebackups", vault=vault
        )
        if all(extras.has(site, extras.REPLICATION) for site in SITES.values()):
            content["storages"] = {STORAGE: _storage()}
        if has_mover:
            for name, site in SITES.items():
                content["sites"][name] |= {
                    "mover": storage.mover(site),
                    "changes": storage.changes(site),
                }
        self.configuration.write_text(yaml.safe_dump(content, sort_keys=False))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start `antipode ARGUMENTS` and return the process; `options` as for subprocess.Popen."""
        binaries = Path(sys.executable).parent
        environment = os.environ | {
            # the VNF file's `python -m lab answer` needs the lab's Python
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "OS_CLIENT_CONFIG_FILE": str(clouds.PATH),
            "ANTIPODE_CONFIG": str(self.configuration),
        }
        return subprocess.Popen(
            [str(binaries / "antipode"), *arguments],
            env=environment,
            cwd=PROJECT,
            text=True,
            **options,
        )

    def run(self, *arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
        """Execute `antipode ARGUMENTS` to its end, whatever that is; no standard input."""
        process = self.start(
            *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # lets it thaw what it has frozen
            out, err = process.communicate(timeout=120)
            raise LabError(
                f"antipode {' '.join(arguments)}: not done after {timeout:.0f} s\n{err[-2000:]}"
            ) from None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def ask(self, *arguments: str, timeout: float = 1200) -> Any:
        """Execute `antipode ARGUMENTS -f json`, which must succeed; its decoded output."""
        return json.loads(self._succeed([*arguments, "-f", "json"], timeout))

    def tell(self, *arguments: str, timeout: float = 1200) -> str:
        """Execute `antipode ARGUMENTS`, which must succeed, and return its output."""
        return self._succeed(arguments, timeout)

    def _succeed(self, arguments: Sequence[str], timeout: float) -> str:
        done = self.run(*arguments, timeout=timeout)
        if done.returncode:
            raise LabError(
                f"antipode {' '.join(arguments)}: exit code "
                f"{done.returncode}\n{(done.stdout + done.stderr)[-4000:]}"
            )
        return done.stdout

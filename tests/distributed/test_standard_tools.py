# SPDX-License-Identifier: Apache-2.0
"""The standard tools open a recovery point without antipode, and verify its signature."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import pytest

from antipode.model import point_v2
from antipode.operations.reports import files
from antipode.vault import encryption, points, signing
from antipode.vault.directory import DirectoryVault
from antipode.vault.keys import Keyring
from tests import keys
from tests.distributed.packages import program
from tests.unit import samples
from tests.unit.test_format_2 import full_point

PAGE = Path(__file__).parents[2] / "docs" / "recovery-point.md"


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keyring:
    """The keys of a host with an escrow key."""
    for variable in keys.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    escrow = encryption.new_identity()
    (tmp_path / "escrow.txt").write_text(f"{escrow}\n")
    found = Keyring(tmp_path / "keys", [encryption.recipient_of(escrow)])
    found.prepare()
    return found


def recipe() -> str:
    """The commands of the page, as an operator copies them."""
    section = PAGE.read_text().partition("## Opening one without antipode")[2]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("identities", ["keys/identities.txt", "escrow.txt"])
def test_the_recipe_of_the_page_opens_a_point(
    ring: Keyring, tmp_path: Path, identities: str
) -> None:
    (tmp_path / "vault").mkdir()
    vault, point = DirectoryVault(tmp_path / "vault"), full_point()
    vault.keys = ring
    name = points.commit(vault, point)
    for needed in ("jq", "age"):
        program(needed)
    commands = recipe().replace("20261122T160501Z-3fa9c1.json", str(tmp_path / "vault" / name))
    commands = commands.replace("identities.txt", str(tmp_path / identities))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, capture_output=True, check=True
    )
    secret = json.loads(done.stdout)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert secret["definition"] and set(secret["servers"]) <= {
        server["id"] for server in manifest["found"]["servers"]
    }
    user_data = {s.id: s.user_data for s in point.topology.servers if s.user_data}
    assert user_data == {i: s["user_data"] for i, s in secret["servers"].items() if s["user_data"]}
    assert manifest["id"] == point.id


@pytest.mark.parametrize("kind", [point_v2.POINT_TYPE, files.PAYLOAD_TYPE])
def test_openssl_verifies_the_signature(ring: Keyring, tmp_path: Path, kind: str) -> None:
    """Of a recovery point, and of reports."""
    payload = samples.point().id.encode()
    envelope = json.loads(ring.sign(kind, payload))
    signed = tmp_path / "signed"
    signed.write_bytes(signing.pre_authentication(kind, payload))
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    (public,) = ring.trusted_files()
    command = f"pkeyutl -verify -pubin -inkey {public} -rawin -in {signed}"
    command += f" -sigfile {tmp_path / 'sig'}"
    verify = [program("openssl"), *command.split()]
    assert subprocess.run(verify, capture_output=True).returncode == 0
    signed.write_bytes(signed.read_bytes() + b"!")
    assert subprocess.run(verify, capture_output=True).returncode != 0

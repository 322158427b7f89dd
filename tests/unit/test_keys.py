# SPDX-License-Identifier: Apache-2.0
"""Keys: made at first use, kept from others, rotated without a loss, carried away in a kit."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ruamel.yaml import YAML

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput, KeyMissing, KeyUnusable, PointUntrusted
from antipode.operations import keys as operation
from antipode.operations import kit, site_check
from antipode.operations.kit import Opener, Wanted
from antipode.vault import encryption, keys, points, signing
from antipode.vault.directory import DirectoryVault
from antipode.vault.keys import Keyring
from tests import keys as shared
from tests.unit import samples
from tests.unit.test_format_2 import full_point


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in shared.VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    found = Keyring(tmp_path / "keys")
    found.prepare()
    return found


def vault_of(folder: Path, ring: Keyring) -> DirectoryVault:
    (folder / "vault").mkdir(exist_ok=True)
    vault = DirectoryVault(folder / "vault")
    vault.keys = ring
    return vault


def secret_file(ring: Keyring, name: str) -> Path:
    assert ring.folder is not None
    return ring.folder / name


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_keys_are_made_for_their_owner_only_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = Keyring(tmp_path / "state" / "keys").prepare()
    finally:
        os.umask(before)
    assert {p.name for p in made} == {"signing.pem", "identities.txt"}
    for path in (tmp_path / "state").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_keys_that_are_there_stay(ring: Keyring) -> None:
    before = ring.signing_key().private_bytes_raw(), ring.identities()
    assert ring.prepare() == []
    assert (ring.signing_key().private_bytes_raw(), ring.identities()) == before


def test_processes_that_generate_at_once_use_the_same_keys(tmp_path: Path) -> None:
    rings = [Keyring(tmp_path / "keys") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Keyring.prepare, rings))
    assert len({r.signing_key().private_bytes_raw() for r in rings}) == 1
    number = signing.key_id(rings[0].signing_key().public_key())
    assert number in rings[0].trusted()
    assert len(rings[0].identities()) == 1


@pytest.mark.parametrize("name", ["signing.pem", "identities.txt"])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_file_that_others_may_read_is_refused_and_named(
    ring: Keyring, name: str, mode: int
) -> None:
    path = secret_file(ring, name)
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match=str(path)):
        ring.encrypt(b"x")
        ring.sign("t", b"x")


def test_a_folder_in_which_others_could_put_a_key_is_refused(ring: Keyring) -> None:
    trusted = secret_file(ring, "trusted")
    trusted.chmod(0o777)
    with pytest.raises(KeyUnusable, match=str(trusted)):
        ring.trusted()


@pytest.mark.parametrize("name", ["signing.pem", "identities.txt", "trusted/bad.pem"])
def test_a_file_that_holds_no_key_is_refused_and_named(ring: Keyring, name: str) -> None:
    path = secret_file(ring, name)
    path.write_text("no key\n")
    path.chmod(0o600)
    with pytest.raises(KeyUnusable, match=path.name):
        ring.sign("t", b"x")
        ring.encrypt(b"x")
        ring.trusted()


def test_keys_come_from_the_environment_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, identity = Ed25519PrivateKey.generate(), encryption.new_identity()
    monkeypatch.setenv(keys.SIGNING_VARIABLE, signing.private_pem(key).decode())
    monkeypatch.setenv(keys.IDENTITIES_VARIABLE, identity)
    ring = Keyring(tmp_path / "keys")
    assert ring.prepare() == []
    opened = ring.open_envelope(ring.sign("t", b"payload"), "e", "t")
    assert opened == (b"payload", signing.key_id(key.public_key()))
    assert ring.decrypt(ring.encrypt(b"secret")) == b"secret"
    with pytest.raises(KeyUnusable):
        ring.rotate()
    monkeypatch.setenv(keys.SIGNING_VARIABLE, "no key")
    with pytest.raises(KeyUnusable):
        ring.sign("t", b"x")


def test_what_former_keys_have_made_stays_valid_after_rotations(
    tmp_path: Path, ring: Keyring
) -> None:
    vault = vault_of(tmp_path, ring)
    names = [f"20261122T1{hour}0000Z-000000" for hour in range(3)]
    for name in names:
        points.commit(vault, full_point(id=name))
        ring.rotate()
    signers = {points.find(vault, "hlr", name).signed_by for name in names}
    assert len(signers) == 3
    for name in names:
        assert points.read(vault, "hlr", name) == full_point(id=name)
    assert len(ring.trusted()) == 4


def test_a_process_that_runs_while_keys_are_rotated_reads_and_writes_with_the_new_ones(
    tmp_path: Path, ring: Keyring
) -> None:
    vault = vault_of(tmp_path, ring)
    Keyring(ring.folder).rotate()
    points.commit(vault, samples.point())
    key = signing.key_id(Keyring(ring.folder).signing_key().public_key())
    assert points.find(vault, "hlr").signed_by == key


def test_a_key_that_is_not_trusted_any_more_makes_its_points_refused(
    tmp_path: Path, ring: Keyring
) -> None:
    vault = vault_of(tmp_path, ring)
    points.commit(vault, samples.point())
    number = signing.key_id(ring.signing_key().public_key())
    ring.rotate()
    secret_file(ring, f"trusted/{number}.pem").unlink()
    with pytest.raises(PointUntrusted):
        points.read(vault, "hlr")


# ---------------------------------------------------------------------- first use and lost keys


def test_the_first_protection_makes_the_keys(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "keys")
    vault = vault_of(tmp_path, ring)
    points.prepare_keys(vault, "hlr")
    points.commit(vault, samples.point())
    assert points.read(vault, "hlr") == samples.point()


def test_a_host_without_keys_makes_none_beside_the_points_of_another_host(
    tmp_path: Path, ring: Keyring
) -> None:
    points.commit(vault_of(tmp_path, ring), samples.point())
    other = Keyring(tmp_path / "other")
    with pytest.raises(KeyMissing):
        points.prepare_keys(vault_of(tmp_path, other), "hlr")
    assert not (tmp_path / "other").exists()
    other.take_over(ring.trusted(), ring.identities())
    points.prepare_keys(vault_of(tmp_path, other), "hlr")
    assert points.read(vault_of(tmp_path, other), "hlr") == samples.point()


def test_without_the_identity_a_point_is_read_for_its_chains_and_not_recovered_from(
    tmp_path: Path, ring: Keyring
) -> None:
    vault = vault_of(tmp_path, ring)
    points.commit(vault, full_point())
    secret_file(ring, "identities.txt").unlink()
    found = points.find(vault, "hlr")
    assert found.point.locked
    assert found.point.backups == full_point().backups
    assert all(s.user_data is None for s in found.point.topology.servers)
    with pytest.raises(KeyMissing):
        found.must_be_open()


def test_a_lost_identity_is_replaced_by_the_escrow_key(tmp_path: Path) -> None:
    escrow = encryption.new_identity()
    ring = Keyring(tmp_path / "keys", [encryption.recipient_of(escrow)])
    ring.prepare()
    vault = vault_of(tmp_path, ring)
    points.commit(vault, full_point())
    secret_file(ring, "identities.txt").unlink()
    assert points.read(vault, "hlr").locked
    ring.take_over({}, [escrow])
    assert points.read(vault, "hlr") == full_point()


def test_a_recipient_that_is_none_is_refused_before_anything_is_sealed(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "keys", ["age1nonsense"])
    ring.prepare()
    with pytest.raises(KeyUnusable):
        ring.recipients()


# ------------------------------------------------------------------------------- recovery kit

CLOUDS = """\
clouds:
  a: {auth: {auth_url: 'http://a', username: u, password: geheim, project_name: p}}
  b:
    auth: {auth_url: 'http://b', application_credential_secret: geheim}
    auth_type: v3applicationcredential
  unrelated: {auth: {password: geheim}}
"""


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    (tmp_path / "clouds.yaml").write_text(CLOUDS)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    found = Deployment(config.load(str(samples.write_config(tmp_path))))
    found.keys.prepare()
    found.vnfs.put(samples.vnf())
    yield found


def bare(folder: Path, kit_folder: Path) -> Deployment:
    """A host that has nothing but the kit."""
    folder.mkdir()
    found = YAML().load((kit_folder / kit.CONFIGURATION).read_text())
    found["database"] = f"sqlite:///{folder / 'antipode.db'}"
    YAML().dump(found, folder / "antipode.yaml")
    return Deployment(config.load(str(folder / "antipode.yaml")))


@pytest.mark.parametrize("form", ["clear", "passphrase", "escrow"])
def test_with_nothing_but_the_kit_points_are_read(
    deployment: Deployment, tmp_path: Path, form: str
) -> None:
    escrow, escrow_file = encryption.new_identity(), tmp_path / "escrow.txt"
    escrow_file.write_text(f"# escrow\n{escrow}\n")
    wanted, opener = {
        "clear": (Wanted(tmp_path / "kit"), Opener()),
        "passphrase": (Wanted(tmp_path / "kit", passphrase="open"), Opener("open")),
        "escrow": (
            Wanted(tmp_path / "kit", recipients=[encryption.recipient_of(escrow)]),
            Opener(identity_file=escrow_file),
        ),
    }[form]
    points.commit(deployment.vault, full_point())
    kit.export(deployment, wanted)
    assert kit.missing(deployment) is None
    here = bare(tmp_path / "bare", tmp_path / "kit")
    with pytest.raises(PointUntrusted):
        points.read(here.vault, "hlr")
    if form != "clear":
        with pytest.raises(InvalidInput):
            operation.take_over(here, tmp_path / "kit", Opener())
        for path in (tmp_path / "kit").iterdir():
            assert "AGE-SECRET-KEY" not in path.read_text()
    operation.take_over(here, tmp_path / "kit", opener)
    assert points.read(here.vault, "hlr") == full_point()
    assert here.keys.retired() == ({escrow} if form == "escrow" else set())


def test_a_kit_says_which_identities_are_retired(deployment: Deployment, tmp_path: Path) -> None:
    operation.rotate(deployment, retire=True)
    retired = deployment.keys.retired()
    kit.export(deployment, Wanted(tmp_path / "kit"))
    here = bare(tmp_path / "bare", tmp_path / "kit")
    operation.take_over(here, tmp_path / "kit", Opener())
    assert here.keys.identities() == deployment.keys.identities()
    assert here.keys.retired() == retired != set()


def test_a_kit_is_for_its_owner_only_and_has_no_passwords_unless_asked_for(
    deployment: Deployment, tmp_path: Path
) -> None:
    kit.export(deployment, Wanted(tmp_path / "kit"))
    kit.export(deployment, Wanted(tmp_path / "more", with_passwords=True))
    for folder, has in (("kit", False), ("more", True)):
        text = (tmp_path / folder / kit.CLOUDS).read_text()
        assert ("geheim" in text) is has
        assert "unrelated" not in text
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
        for path in (tmp_path / folder).iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sheet = (tmp_path / "kit" / kit.SHEET).read_text()
    assert "hlr, active at site-a" in sheet
    assert max(map(len, sheet.splitlines())) < 100
    assert len(sheet.splitlines()) < 60


def test_a_kit_has_the_keys_of_dns_updates_only_where_it_has_passwords(
    deployment: Deployment, tmp_path: Path
) -> None:
    key = tmp_path / "tsig.key"
    key.write_text('key "k" { algorithm hmac-sha256; secret "Z2VoZWlt"; };')
    key.chmod(0o600)
    servers = {
        "core": {"rfc2136": {"server": "192.0.2.53", "zone": "a.example", "key_file": str(key)}},
        "edge": {"rfc2136": {"server": "192.0.2.5", "zone": "b.example", "key_variable": "EDGE"}},
        "cloud": {"designate": {"cloud": "b", "zone": "c.example"}},
    }
    fields = deployment.config.model_dump(mode="json") | {"dns": servers}
    deployment.config = config.Config.model_validate(fields)
    kit.export(deployment, Wanted(tmp_path / "kit"))
    kit.export(deployment, Wanted(tmp_path / "more", with_passwords=True))
    for folder, has in (("kit", False), ("more", True)):
        files = {path.name: path.read_text() for path in (tmp_path / folder).iterdir()}
        assert ("dns-core.key" in files) is has
        assert any("Z2VoZWlt" in text for text in files.values()) is has
        known = YAML().load(files[kit.CONFIGURATION])
        assert known["dns"]["core"]["rfc2136"]["key_file"] == str(key)
        assert str(key) in files[kit.SHEET] and "EDGE" in files[kit.SHEET]


def test_a_folder_with_something_in_it_is_left_alone(
    deployment: Deployment, tmp_path: Path
) -> None:
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "letter").touch()
    with pytest.raises(InvalidInput):
        kit.export(deployment, Wanted(tmp_path / "kit"))
    assert [p.name for p in (tmp_path / "kit").iterdir()] == ["letter"]
    assert kit.missing(deployment) is not None


def kit_check(deployment: Deployment) -> Any:
    found = {c.check: c for c in site_check._check_keys(deployment)}
    return found.get("recovery kit")


def test_the_site_check_says_when_there_is_no_kit_of_the_present_keys(
    deployment: Deployment, tmp_path: Path
) -> None:
    assert not kit_check(deployment).ok
    kit.export(deployment, Wanted(tmp_path / "kit"))
    assert kit_check(deployment).ok
    operation.rotate(deployment)
    assert not kit_check(deployment).ok
    assert not kit_check(deployment).needed


def test_the_site_check_names_a_key_file_that_others_may_read(deployment: Deployment) -> None:
    secret_file(deployment.keys, "signing.pem").chmod(0o644)
    (found,) = site_check._check_keys(deployment)
    assert not found.ok
    assert "signing.pem" in found.detail


@pytest.mark.parametrize("content", ["", "no key", "-----BEGIN PUBLIC KEY-----\nx"])
def test_a_file_without_a_key_is_not_imported(
    deployment: Deployment, tmp_path: Path, content: str
) -> None:
    before = list(operation.list_keys(deployment))
    (tmp_path / "file").write_text(content)
    with pytest.raises(InvalidInput):
        operation.take_over(deployment, tmp_path / "file", Opener())
    with pytest.raises(InvalidInput):
        operation.take_over(deployment, tmp_path / "nothing", Opener())
    assert list(operation.list_keys(deployment)) == before


def test_keys_are_listed_without_a_secret(deployment: Deployment) -> None:
    operation.rotate(deployment)
    listed = [tuple(key) for key in operation.list_keys(deployment)]
    assert [does for _, _, does in listed] == [
        "signs and verifies",
        "verifies",
        "encrypts and opens",
        "opens",
    ]
    assert "SECRET" not in str(listed)

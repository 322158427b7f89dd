# SPDX-License-Identifier: Apache-2.0
"""The recovery kit: all that an operator needs who has lost everything else, kept away from both
sites.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from ruamel.yaml import YAML

from antipode import __version__, private
from antipode.cloud import credentials
from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput
from antipode.vault import encryption, signing

Json = dict[str, Any]
SHEET, CONFIGURATION, CLOUDS = "README.txt", "antipode.yaml", "clouds.yaml"
VERIFICATION_KEYS = "verification-keys.pem"
IDENTITIES, SEALED_IDENTITIES = "identities.txt", "identities.age"
LARGEST_BYTES = 1 << 20
_NEEDED_OF_CONFIGURATION = {"sites", "vault", "vaults", "backup_store", "stores", "dns", "keys"}
"""What is copied: the database, the state and the jobboard of a host are lost with it."""


@dataclass(frozen=True)
class Wanted:
    """How a kit is to be written."""

    folder: Path
    passphrase: str | None = None
    """that the identities are encrypted with"""
    recipients: Sequence[str] = ()
    """that the identities are encrypted to, instead"""
    with_passwords: bool = False
    """whether clouds.yaml has the passwords of its entries"""


@dataclass(frozen=True)
class Opener:
    """What opens the identities of a kit where they are encrypted."""

    passphrase: str | None = None
    identity_file: Path | None = None


class Found(NamedTuple):
    """The keys in a kit or a key file."""

    trusted: Mapping[str, Ed25519PublicKey]
    identities: Sequence[str]
    retired: Collection[str]
    """those of the identities that only open"""


def export(deployment: Deployment, wanted: Wanted) -> Json:
    """Write a recovery kit, and note that there is one.

    Raises:
        InvalidInput: the folder has something in it, or clouds.yaml lacks an entry.
        KeyMissing, KeyUnusable: there are no keys, or they are not safe.
    """
    keys, folder = deployment.keys, wanted.folder.expanduser()
    signing_key = signing.key_id(keys.signing_key().public_key())
    identities_name, identities = _identities(
        encryption.file_of(keys.identities(), keys.retired()), wanted
    )
    entries = credentials.entries(_clouds(deployment.config))
    if not wanted.with_passwords:
        entries = {name: without_secrets(entry) for name, entry in entries.items()}
    pems = [signing.public_pem(key).decode() for _, key in sorted(keys.trusted().items())]
    files = {
        CONFIGURATION: _yaml(_configuration(deployment.config)),
        CLOUDS: _yaml({"clouds": entries}),
        VERIFICATION_KEYS: "".join(pems),
        identities_name: identities,
    }
    dns_keys = _dns_keys(deployment.config)
    if wanted.with_passwords:
        files |= {kept: private.secret_in(path) for kept, path in dns_keys.items()}
    files[SHEET] = "\n".join(_sheet(deployment, wanted, identities_name, signing_key)) + "\n"
    _write(folder, files)
    keys.note_export(datetime.now(UTC).isoformat(timespec="seconds"))
    return {
        "kit": str(folder),
        "files": sorted(files),
        "identities": "encrypted" if identities_name == SEALED_IDENTITIES else "in clear",
        "passwords": "included" if wanted.with_passwords else "left out",
        "signing_key": signing_key,
    }


def read(path: Path, opener: Opener) -> Found:
    """The keys of a kit, or of a file with verification keys or identities.

    Raises:
        InvalidInput: there is none, or nothing given opens the identities.
    """
    path = path.expanduser()
    try:
        if path.is_dir():
            trusted = signing.public_keys(_read(path / VERIFICATION_KEYS), VERIFICATION_KEYS)
            return Found(trusted, *_identities_of(path, opener))
        content = _read(path)
        if b"PUBLIC KEY" in content:
            return Found(signing.public_keys(content, str(path)), [], ())
        text = content.decode(errors="replace")
        return Found({}, encryption.identities(text, str(path)), encryption.retired(text))
    except ValueError as error:
        raise InvalidInput(f"{error}; give a recovery kit, or a file of keys") from error


def without_secrets(value: Any) -> Any:
    """An entry of clouds.yaml with its secrets left empty."""
    if isinstance(value, dict):
        return {k: None if _is_secret(k) else without_secrets(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return value


def _is_secret(name: object) -> bool:
    secret = ("password", "secret", "token", "passcode", "private_key")
    return any(part in str(name).lower() for part in secret)


def _identities(clear: str, wanted: Wanted) -> tuple[str, str]:
    """The name of the file of identities, and what is in it."""
    if not clear:
        raise InvalidInput(
            "this host has no identity that opens recovery points; keep a kit of a host that has"
        )
    if wanted.passphrase is not None:
        sealed = encryption.encrypt_with_passphrase(clear.encode(), wanted.passphrase)
        return SEALED_IDENTITIES, sealed
    if wanted.recipients:
        try:
            return SEALED_IDENTITIES, encryption.encrypt(clear.encode(), wanted.recipients)
        except ValueError as error:
            raise InvalidInput(str(error)) from error
    return IDENTITIES, clear


def _identities_of(folder: Path, opener: Opener) -> tuple[list[str], set[str]]:
    """The identities of a kit, and that which opens them; and those of them that are retired."""
    sealed, clear = folder / SEALED_IDENTITIES, folder / IDENTITIES
    given = (
        []
        if opener.identity_file is None
        else encryption.identities(
            _read(opener.identity_file).decode(errors="replace"), str(opener.identity_file)
        )
    )
    text: bytes | None = None
    if clear.exists():
        text = _read(clear)
    elif sealed.exists():
        armored = _read(sealed).decode(errors="replace")
        if opener.passphrase is not None:
            text = encryption.decrypt_with_passphrase(armored, opener.passphrase)
        elif given:
            text = encryption.decrypt(armored, given)
        if text is None:
            raise InvalidInput(
                f"{sealed} is encrypted, and nothing that was given opens it. Give its passphrase"
                " (--passphrase-file) or the escrow key (--identity)",
                resource=f"file {sealed}",
            )
    if text is None:
        return given, set()
    kept = text.decode(errors="replace")
    found = encryption.identities(kept, str(clear))
    # an escrow key is held by others than the hosts: it opens, and signs nothing for them
    retired = encryption.retired(kept) | (set(given) - set(found))
    return list(dict.fromkeys([*found, *given])), retired


def _clouds(config: Config) -> Collection[str]:
    """The entries of clouds.yaml that a configuration names."""
    vaults = [vault.swift for vault in config.all_vaults.values() if vault.swift]
    named = [
        *(site.cloud for site in config.sites.values()),
        *(vault.cloud for vault in vaults),
        *(store.cloud for store in config.all_stores.values()),
        *(there.designate.cloud for there in config.dns.values() if there.designate),
    ]
    return sorted({cloud for cloud in named if cloud})


def _configuration(config: Config) -> Json:
    found: Json = config.model_dump(
        mode="json", exclude_defaults=True, include=_NEEDED_OF_CONFIGURATION
    )
    if "keys" in found:  # their folder is this host's
        found["keys"] = {k: v for k, v in found["keys"].items() if k != "directory"}
    return {k: v for k, v in found.items() if v}


def _dns_keys(config: Config) -> dict[str, Path]:
    """The files of keys that DNS updates are signed with: as a kit names them, and where the
    configuration has them.
    """
    return {
        f"dns-{name}.key": there.rfc2136.key_file
        for name, there in config.dns.items()
        if there.rfc2136 and there.rfc2136.key_file
    }


def _yaml(document: Json) -> str:
    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(document, text)
    return text.getvalue()


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files for their owner only, into a folder that has nothing in it."""
    try:
        private.make_folder(folder)
        if any(folder.iterdir()):
            raise InvalidInput(
                f"{folder} is not empty; name a folder that is, or is not there yet",
                resource=f"folder {folder}",
            )
        for name, content in files.items():
            with open(folder / name, "x", opener=private.opener) as file:
                file.write(content)
    except OSError as error:
        raise InvalidInput(
            f"the recovery kit cannot be written to {folder}: {error.strerror}",
            resource=f"folder {folder}",
        ) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}", resource=f"file {path}"
        ) from error


def _sheet(
    deployment: Deployment, wanted: Wanted, identities: str, signing_key: str
) -> Iterator[str]:
    """The sheet to print: what to do, in order, at three in the morning."""
    config = deployment.config
    yield "RECOVERY KIT OF ANTIPODE"
    yield f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by antipode {__version__}"
    yield f"signing key {signing_key[:16]}"
    yield ""
    yield "Keep it away from both sites. " + (
        "It opens the recovery points: keep it in a safe."
        if identities == IDENTITIES
        else "Its identities are encrypted; keep what opens them elsewhere."
    )
    yield ""
    yield f"Sites:  {', '.join(config.sites)}"
    yield f"Vaults: {', '.join(_vault(n, v) for n, v in config.all_vaults.items())}"
    for line in _vnfs(deployment):
        yield f"VNF:    {line}"
    yield ""
    yield "ON ANY LINUX HOST THAT REACHES THE BACKUP SITE"
    yield ""
    steps = [
        ("Install antipode:", f"pip install antipode=={__version__}"),
        (
            "Copy the configuration and the entries of the clouds:",
            "mkdir -p ~/.config/antipode ~/.config/openstack"
            f"\ncp {CONFIGURATION} ~/.config/antipode/\ncp {CLOUDS} ~/.config/openstack/",
        ),
    ]
    if not wanted.with_passwords:
        steps.append(("Fill in the empty passwords:", f"vi ~/.config/openstack/{CLOUDS}"))
    for kept, path in _dns_keys(config).items():
        steps.append(
            (
                "Put the key of DNS updates where the configuration has it:",
                f"install -D -m 600 {kept} {path}",
            )
            if wanted.with_passwords
            else ("Have the key of DNS updates, which is not in here, in the file:", str(path))
        )
    variables = [t.rfc2136.key_variable for t in config.dns.values() if t.rfc2136]
    for variable in filter(None, variables):
        steps.append(
            (
                "Have the key of DNS updates in the environment:",
                f"read -rs {variable} && export {variable}",
            )
        )
    opening = (
        ""
        if identities == IDENTITIES
        else " --passphrase-file FILE"
        if wanted.passphrase is not None
        else " --identity FILE"
    )
    steps += [
        ("Import the keys, from the folder of this sheet:", f"antipode key import .{opening}"),
        ("See what there is:", "antipode vnf list\nantipode recovery-point list VNF"),
        (
            "See that the VNF is dead or fenced at its former site. Then look at the plan:",
            "antipode failover VNF --to SITE --plan",
        ),
        ("Recover:", "antipode failover VNF --to SITE"),
        ("If it stops, look at the reason, and resume:", "antipode run resume RUN"),
    ]
    for number, (what, command) in enumerate(steps, 1):
        yield f"{number}. {what}"
        yield from (f"     {line}" for line in command.splitlines())
    yield ""
    yield "Files that clouds.yaml names (cacert), and a directory that is a vault, are not in here:"
    yield "have them at the same paths, or change the paths."
    yield "Without antipode: docs/recovery-point.md says how age opens what is encrypted."


def _vault(name: str, settings: Any) -> str:
    if settings.swift is not None:
        return f"{name} (Swift container {settings.swift.container})"
    return f"{name} ({settings.directory or 'S3'})"


def _vnfs(deployment: Deployment) -> Iterator[str]:
    for vnf in deployment.vnfs.all():
        state = deployment.states.find(vnf.vnf)
        active = state.active_site if state is not None else vnf.primary
        yield f"{vnf.vnf}, active at {active}; recovered at {', '.join(vnf.sites)}"


def missing(deployment: Deployment) -> str | None:
    """Why the recovery kit is missing or out of date; None when there is one of the present keys.

    Raises:
        KeyMissing, KeyUnusable: the keys cannot be used.
    """
    keys = deployment.keys
    note = keys.export_note()
    do = "antipode key export DIRECTORY, and keep it away from both sites"
    if note is None:
        return f"none was exported: with this host and its keys every recovery point is lost. {do}"
    if note.signing_key != signing.key_id(keys.signing_key().public_key()):
        return f"the one of {note.at} is older than the present keys. {do}"
    return None


def exported_at(deployment: Deployment) -> str:
    """When the newest kit was exported, RFC 3339; empty when none was."""
    note = deployment.keys.export_note()
    return "" if note is None else note.at

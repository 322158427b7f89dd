# SPDX-License-Identifier: Apache-2.0
"""The keys of this host: files with checked permissions, or variables of the environment.

signing.pem      signs recovery points (Ed25519, PKCS #8); one, replaced by a rotation
trusted/*.pem    verify them; those of former keys stay
identities.txt   open what is encrypted (age), the present one first; former ones stay, and sign
                 no statements once they are retired
exported.json    when the newest recovery kit was exported, and of which signing key
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from antipode import private
from antipode.errors import KeyMissing, KeyUnusable, PointUntrusted
from antipode.model.base import Model
from antipode.vault import encryption, signing
from antipode.vault.signing import Signed

LOG = logging.getLogger(__name__)
SIGNING_KEY, IDENTITIES, TRUSTED = "signing.pem", "identities.txt", "trusted"
EXPORTED = "exported.json"
SIGNING_VARIABLE = "ANTIPODE_SIGNING_KEY"
TRUSTED_VARIABLE = "ANTIPODE_TRUSTED_KEYS"
IDENTITIES_VARIABLE = "ANTIPODE_IDENTITIES"
STATEMENTS = b"antipode: statements about a VNF"
"""The purpose of keys that are derived from identities."""
LARGEST_BYTES = 1 << 20
Content = TypeVar("Content", str, bytes)
Key = TypeVar("Key")


class ExportNote(Model):
    """What is noted of the newest recovery kit."""

    at: str
    signing_key: str


class Keyring:
    """Seals and opens recovery points with the keys of this host.

    Files are read at each use: another process may have rotated the keys. What the environment
    holds counts beside the files, and its signing key instead of theirs.
    """

    def __init__(self, folder: Path | None, recipients: Sequence[str] = ()) -> None:
        """
        Args:
            folder: of the key files; None where there are no keys.
            recipients: others that may open what is encrypted, such as an escrow key.
        """
        self.folder = folder
        self._others = tuple(recipients)

    @property
    def can_sign(self) -> bool:
        """Whether there is a signing key, usable or not."""
        return SIGNING_VARIABLE in os.environ or self._is_there(SIGNING_KEY)

    def prepare(self) -> list[Path]:
        """Generate what is missing, with permissions for this user only; the files that were made.

        Of several processes that do it at once, all use the same keys afterwards.

        Raises:
            KeyUnusable: the folder or a file in it cannot be made, or is not safe.
        """
        made: list[Path] = []
        if not self.can_sign:
            key = Ed25519PrivateKey.generate()
            # trusted first: no point is signed that this host would refuse
            self._trust(key.public_key())
            made += self._create(SIGNING_KEY, signing.private_pem(key))
            self._trust(self.signing_key().public_key())
        # a host with a signing key and other recipients may be meant to open nothing itself
        if not self._has_identities() and (made or not self._others):
            made += self._create(IDENTITIES, f"{encryption.new_identity()}\n".encode())
        return made

    def rotate(self, *, retire: bool = False) -> None:
        """Sign and encrypt with new keys from now on. All that the former ones have signed and
        encrypted stays valid, and can still be opened.

        Args:
            retire: the former identities open only: what they sign counts no more.

        Raises:
            KeyUnusable: the present keys are unusable, or come from the environment: rotate them
                where they are kept.
        """
        for variable in (SIGNING_VARIABLE, IDENTITIES_VARIABLE):
            if variable in os.environ:
                raise KeyUnusable(
                    f"keys come from {variable}: replace them there, and keep the former identity"
                    f" in {IDENTITIES_VARIABLE} and the former key in {TRUSTED_VARIABLE}"
                )
        former = self.identities()
        if self.can_sign:
            self._trust(self.signing_key().public_key())
        key = Ed25519PrivateKey.generate()
        self._trust(key.public_key())
        if former or not self._others:
            retired = self.retired() | (set(former) if retire else set())
            text = encryption.file_of([encryption.new_identity(), *former], retired)
            self._replace(IDENTITIES, text.encode())
        self._replace(SIGNING_KEY, signing.private_pem(key))

    def signing_key(self) -> Ed25519PrivateKey:
        """
        Raises:
            KeyMissing: there is none.
            KeyUnusable: its file may be read by others, or holds something else.
        """
        if (pem := os.environ.get(SIGNING_VARIABLE)) is not None:
            return _valid(signing.private_key, pem.encode(), f"${SIGNING_VARIABLE}")
        if self.folder is None or not self._is_there(SIGNING_KEY):
            raise KeyMissing(
                f"this host has no key to sign recovery points with{self._where()}. Make one:"
                " antipode key generate"
            )
        path = self.folder / SIGNING_KEY
        return _valid(signing.private_key, _read(path, private_to_us=True), f"file {path}")

    def trusted(self) -> dict[str, Ed25519PublicKey]:
        """The verification keys by id.

        Raises:
            KeyUnusable: a file may be written by others, or holds something else.
        """
        found: dict[str, Ed25519PublicKey] = {}
        if (pem := os.environ.get(TRUSTED_VARIABLE)) is not None:
            found |= _valid(signing.public_keys, pem.encode(), f"${TRUSTED_VARIABLE}")
        if (pem := os.environ.get(SIGNING_VARIABLE)) is not None:
            own = _valid(signing.private_key, pem.encode(), f"${SIGNING_VARIABLE}")
            found[signing.key_id(own.public_key())] = own.public_key()
        for path in self.trusted_files():
            pem_bytes = _read(path, private_to_us=False)
            found |= _valid(signing.public_keys, pem_bytes, f"file {path}")
        return found

    def trusted_files(self) -> list[Path]:
        """The files of verification keys.

        Raises:
            KeyUnusable: others could add one.
        """
        if self.folder is None or not (self.folder / TRUSTED).is_dir():
            return []
        for folder in (self.folder, self.folder / TRUSTED):
            _must_be_ours_to_write(folder, folder.stat())
        return sorted((self.folder / TRUSTED).glob("*.pem"))

    def identities(self) -> list[str]:
        """The identities that open what is encrypted, the present one first.

        Raises:
            KeyUnusable: their file may be read by others, or holds something else.
        """
        found: list[str] = []
        for place, text in self._identity_texts():
            found += _valid(encryption.identities, text, place)
        return list(dict.fromkeys(found))

    def retired(self) -> set[str]:
        """Those of the identities that only open: what they sign does not count, as they may be
        known to others.

        Raises:
            KeyUnusable: as `identities`.
        """
        return {i for _, text in self._identity_texts() for i in encryption.retired(text)}

    def _identity_texts(self) -> Iterator[tuple[str, str]]:
        """Each place of identities, and the text there."""
        if (text := os.environ.get(IDENTITIES_VARIABLE)) is not None:
            yield f"${IDENTITIES_VARIABLE}", text
        if self.folder is not None and self._is_there(IDENTITIES):
            path = self.folder / IDENTITIES
            yield f"file {path}", _read(path, private_to_us=True).decode(errors="replace")

    def recipients(self) -> list[str]:
        """Those that can open what is encrypted from now on: the present identity's, and the others
        of the configuration.

        Raises:
            KeyMissing: there are none.
            KeyUnusable: as `identities`.
        """
        for text in self._others:
            _valid(lambda t, _: encryption.recipient(t), text, "keys.recipients")
        own = [encryption.recipient_of(i) for i in self._present()[:1]]
        if not (all_ := list(dict.fromkeys([*own, *self._others]))):
            raise KeyMissing(
                f"this host has no key to encrypt recovery points with{self._where()}. Make one:"
                " antipode key generate"
            )
        return all_

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        """The envelope of a payload. Raises as `signing_key`."""
        return signing.sign(payload_type, payload, self.signing_key())

    def open_envelope(self, document: bytes, name: str, payload_type: str) -> Signed:
        """The payload of an envelope that a trusted key has signed.

        Raises:
            VaultCorrupt: as `signing.open_envelope`.
            KeyUnusable: as `trusted`.
        """
        return signing.open_envelope(document, name, payload_type, self.trusted())

    def sign_statement(self, payload_type: str, payload: bytes) -> bytes:
        """The envelope of a statement about a VNF: signed by the key of this host, which is
        generated if it is missing, and by those that hosts with the same identities share.

        Raises:
            KeyMissing, KeyUnusable: as `signing_key`.
        """
        if not self.can_sign:
            for path in self.prepare():
                LOG.warning("generated %s. Export a new recovery kit: antipode key export", path)
        return signing.sign(payload_type, payload, self.signing_key(), *self._shared())

    def open_statement(self, document: bytes, name: str, payload_type: str) -> bytes:
        """The payload of a statement that a trusted key has signed, or a host that has an identity
        of this one: a host that had nothing but the recovery kit signs with a new key.

        Raises:
            VaultCorrupt: as `signing.open_envelope`.
            KeyMissing: it is signed, and this host has no key at all to judge it by.
            KeyUnusable: as `trusted` and `identities`.
        """
        shared = (key.public_key() for key in self._shared())
        trusted = self.trusted() | {signing.key_id(key): key for key in shared}
        try:
            return signing.open_envelope(document, name, payload_type, trusted).payload
        except PointUntrusted as error:
            if trusted:
                raise
            raise KeyMissing(
                f"{name} is signed, and this host has no keys to judge it by{self._where()}. Import"
                " the recovery kit: antipode key import KIT; or begin with other keys: antipode key"
                " generate"
            ) from error

    def _shared(self) -> list[Ed25519PrivateKey]:
        """Keys for statements, which each host derives that has the same identities."""
        return [signing.derived_key(identity, STATEMENTS) for identity in self._present()]

    def _present(self) -> list[str]:
        """The identities that are not retired."""
        retired = self.retired()
        return [identity for identity in self.identities() if identity not in retired]

    def encrypt(self, plain: bytes) -> str:
        """Armored text that each of the `recipients` can open. Raises as these."""
        return encryption.encrypt(plain, self.recipients())

    def decrypt(self, sealed: str) -> bytes | None:
        """What was encrypted; None when no identity of this host opens it.

        Raises:
            KeyUnusable: as `identities`.
        """
        return encryption.decrypt(sealed, self.identities())

    def take_over(
        self,
        trusted: Mapping[str, Ed25519PublicKey],
        identities: Sequence[str],
        retired: Collection[str] = (),
    ) -> None:
        """Trust the keys, and open with the identities, of another host; ours stay and come first.

        Args:
            retired: those of the identities that only open; here, too, from now on.

        Raises:
            KeyUnusable: as `prepare`.
        """
        for key in trusted.values():
            self._trust(key)
        ours, ours_retired = self.identities(), self.retired()
        all_, all_retired = list(dict.fromkeys([*ours, *identities])), ours_retired | set(retired)
        if (all_, all_retired) != (ours, ours_retired):
            self._replace(IDENTITIES, encryption.file_of(all_, all_retired).encode())

    def note_export(self, at: str) -> None:
        """Note that a recovery kit with the present keys was exported.

        Args:
            at: when, RFC 3339.
        """
        note = {"at": at, "signing_key": signing.key_id(self.signing_key().public_key())}
        self._replace(EXPORTED, json.dumps(note).encode())

    def export_note(self) -> ExportNote | None:
        """When the newest recovery kit was exported, and with which key; None when none was.

        Raises:
            KeyUnusable: the note cannot be read.
        """
        if self.folder is None or not self._is_there(EXPORTED):
            return None
        path = self.folder / EXPORTED
        try:
            return ExportNote.model_validate_json(_read(path, private_to_us=False))
        except ValidationError as error:
            raise KeyUnusable(f"{path} cannot be understood; export a new kit") from error

    def _trust(self, key: Ed25519PublicKey) -> None:
        self._create(f"{TRUSTED}/{signing.key_id(key)}.pem", signing.public_pem(key))

    def _is_there(self, name: str) -> bool:
        return self.folder is not None and (self.folder / name).exists()

    def _has_identities(self) -> bool:
        return IDENTITIES_VARIABLE in os.environ or self._is_there(IDENTITIES)

    def _where(self) -> str:
        return "" if self.folder is None else f" in {self.folder}"

    def _create(self, name: str, content: bytes) -> list[Path]:
        """Make a file of ours unless it is there; the file if this call has made it."""
        with self._written(name, content) as (half, path):
            try:
                os.link(half, path)
            except FileExistsError:
                return []
            return [path]

    def _replace(self, name: str, content: bytes) -> None:
        with self._written(name, content) as (half, path):
            half.rename(path)

    @contextmanager
    def _written(self, name: str, content: bytes) -> Iterator[tuple[Path, Path]]:
        """The content in a file beside the one of this name, which it is to become."""
        if self.folder is None:
            raise KeyMissing("there is no folder for keys on this host")
        path = self.folder / name
        half = path.parent / f".{secrets.token_hex(8)}"
        try:
            private.make_folder(path.parent)
            _must_be_ours_to_write(path.parent, path.parent.stat())
            try:
                with open(half, "xb", opener=private.opener) as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                yield half, path
            finally:
                half.unlink(missing_ok=True)
        except OSError as error:
            raise KeyUnusable(
                f"{path} cannot be written: {error.strerror}", resource=f"file {path}"
            ) from error


NO_KEYS = Keyring(None)
"""Signs nothing and trusts no key."""


def _valid(read: Callable[[Content, str], Key], content: Content, place: str) -> Key:
    """What is read out of a place of keys.

    Raises:
        KeyUnusable: something else is there.
    """
    try:
        return read(content, place)
    except ValueError as error:
        raise KeyUnusable(str(error), resource=place) from error


def _read(path: Path, *, private_to_us: bool) -> bytes:
    """A key file, after a look at its permissions.

    Raises:
        KeyUnusable: others may write it, or read it if it is private.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            _must_be_ours_to_write(path, found)
            mode = stat.S_IMODE(found.st_mode)
            if private_to_us and mode & 0o077:
                raise KeyUnusable(
                    f"key file {path} has mode {mode:04o}: others may read it, and it is not used."
                    f" Run: chmod 600 {path}; if others can have read it, then: antipode key"
                    " rotate",
                    resource=f"file {path}",
                )
            return file.read(LARGEST_BYTES)
    except OSError as error:
        raise KeyUnusable(
            f"key file {path} cannot be read: {error.strerror}", resource=f"file {path}"
        ) from error


def _must_be_ours_to_write(path: Path, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        raise KeyUnusable(
            f"{path} has mode {mode:04o}: others may write it, and with it decide which keys are"
            f" trusted. Run: chmod go-w {path}",
            resource=f"file {path}",
        )
    if found.st_uid not in (0, os.geteuid()) and os.geteuid() != 0:
        raise KeyUnusable(
            f"{path} belongs to user {found.st_uid}, and keys of others are not used. Run:"
            f" chown {os.geteuid()} {path}",
            resource=f"file {path}",
        )

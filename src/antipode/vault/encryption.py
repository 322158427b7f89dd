# SPDX-License-Identifier: Apache-2.0
"""Encryption in the age format (age-encryption.org/v1), armored: `age -d` opens it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import pyrage

RETIRED = "# Retired: these open what is encrypted, and sign no statements."
"""The line of a file of identities after which the retired ones are; a comment for age."""


class Recipient(Protocol):
    """One that can open what is encrypted to it."""


class Identity(Protocol):
    """The secret part of a recipient."""


def recipient(text: str) -> Recipient:
    """A recipient as age-keygen prints it: `age1…`.

    Raises:
        ValueError: it is none.
    """
    try:
        found: Recipient = pyrage.x25519.Recipient.from_str(text)
        return found
    except pyrage.RecipientError as error:
        raise ValueError(
            f"{text[:40]!r} is not a recipient; write one as age-keygen prints it: age1…"
        ) from error


def new_identity() -> str:
    """A new identity in the form of age-keygen."""
    return str(pyrage.x25519.Identity.generate())


def recipient_of(identity: str) -> str:
    """The recipient (`age1…`) of an identity.

    Raises:
        ValueError: it is none.
    """
    return str(_identity(identity).to_public())


def identities(text: str, place: str) -> list[str]:
    """The identities in a file as age-keygen writes it: one a line, `#` begins a comment.

    Args:
        place: where the text comes from, for messages.

    Raises:
        ValueError: a line is none, or there is none.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    for number, line in enumerate(found, 1):
        try:
            _identity(line)
        except ValueError as error:
            raise ValueError(f"entry {number} of {place} is not an identity of age") from error
    if not found:
        raise ValueError(f"{place} holds no identity of age")
    return found


def retired(text: str) -> set[str]:
    """The retired identities in a file of identities that can be read."""
    lines = [line.strip() for line in text.splitlines()]
    after = lines[lines.index(RETIRED) + 1 :] if RETIRED in lines else []
    return {line for line in after if line and not line.startswith("#")}


def file_of(found: Sequence[str], retired: Collection[str]) -> str:
    """The text of a file of identities, as `identities` and `retired` read it."""
    present, former = ([i for i in found if (i in retired) is old] for old in (False, True))
    lines = [*present, *([RETIRED, *former] if former else [])]
    return "".join(f"{line}\n" for line in lines)


def encrypt(plain: bytes, to: Sequence[str]) -> str:
    """The armored text that each of these recipients can open.

    Raises:
        ValueError: one is no recipient, or there is none.
    """
    if not to:
        raise ValueError("there is no recipient to encrypt to")
    sealed: bytes = pyrage.encrypt(plain, [recipient(r) for r in to], armored=True)
    return sealed.decode()


def decrypt(sealed: str, with_: Sequence[str]) -> bytes | None:
    """What was encrypted; None when none of these identities opens it.

    It does not tell damage apart from another's secret: the signature around it does.
    """
    try:
        opened: bytes = pyrage.decrypt(sealed.encode(), [_identity(i) for i in with_])
    except pyrage.DecryptError:
        return None
    return opened


def encrypt_with_passphrase(plain: bytes, passphrase: str) -> str:
    """The armored text that `age -d` opens with a passphrase."""
    sealed: bytes = pyrage.passphrase.encrypt(plain, passphrase, armored=True)
    return sealed.decode()


def decrypt_with_passphrase(sealed: str, passphrase: str) -> bytes | None:
    """What was encrypted; None when the passphrase does not open it."""
    try:
        opened: bytes = pyrage.passphrase.decrypt(sealed.encode(), passphrase)
    except pyrage.DecryptError:
        return None
    return opened


def _identity(text: str) -> pyrage.x25519.Identity:
    try:
        return pyrage.x25519.Identity.from_str(text)
    except pyrage.IdentityError as error:
        raise ValueError("this is not an identity of age (AGE-SECRET-KEY-1…)") from error

# SPDX-License-Identifier: Apache-2.0
"""Signatures of documents: DSSE envelopes with Ed25519.

The envelope and the bytes that are signed are those of the Dead Simple Signing Envelope 1.0.2
(secure-systems-lab/dsse: envelope.md, protocol.md), so that other tools can check one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from antipode.errors import PointUntrusted, VaultCorrupt

MOST_SIGNATURES = 16


class Signed(NamedTuple):
    """A payload whose signature is valid."""

    payload: bytes
    key: str
    """the id of the key that signed it"""


class _Signature(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    keyid: str = Field("", max_length=255)
    sig: str = Field(max_length=1024)


class _Envelope(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    payload: str
    payloadType: str  # noqa: N815, RUF100 - the name in the standard
    signatures: list[_Signature] = Field(min_length=1, max_length=MOST_SIGNATURES)


def key_id(key: Ed25519PublicKey) -> str:
    """Names a key: the SHA-256 of its SubjectPublicKeyInfo, hexadecimal, as in_toto does."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: PAE of protocol.md."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, *keys: Ed25519PrivateKey) -> bytes:
    """The envelope of a payload, with a signature of each key."""
    signed = pre_authentication(payload_type, payload)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [
            {
                "keyid": key_id(key.public_key()),
                "sig": base64.b64encode(key.sign(signed)).decode(),
            }
            for key in keys[:MOST_SIGNATURES]
        ],
    }
    return json.dumps(envelope, indent=1).encode()


def derived_key(secret: str, purpose: bytes) -> Ed25519PrivateKey:
    """The signing key that all holders of a secret derive for one purpose (HKDF-SHA256)."""
    seed = HKDF(hashes.SHA256(), length=32, salt=None, info=purpose).derive(secret.encode())
    return Ed25519PrivateKey.from_private_bytes(seed)


def open_envelope(
    document: bytes, name: str, payload_type: str, trusted: Mapping[str, Ed25519PublicKey]
) -> Signed:
    """The payload of an envelope that one of the trusted keys has signed.

    The id of a key in the envelope is a hint: each trusted key is tried.

    Args:
        name: of the document, for messages.
        payload_type: that the payload must have.
        trusted: by id.

    Raises:
        PointUntrusted: no key that is trusted here has signed it.
        VaultCorrupt: it is no envelope, of another type, or a trusted key is named and its
            signature is wrong: it was changed since.
    """
    envelope, payload = _read(document, name, payload_type)
    signed = pre_authentication(payload_type, payload)
    for signature in envelope.signatures:
        for number, key in trusted.items():
            try:
                key.verify(_decoded(signature.sig, name), signed)
            except InvalidSignature:
                continue
            return Signed(payload, number)
    named = [s.keyid for s in envelope.signatures]
    if known := [n for n in named if n in trusted]:
        raise VaultCorrupt(
            f"{name}: the signature of key {known[0][:16]} is wrong: it was changed or damaged"
            " since it was signed"
        )
    keys = ", ".join(n[:16] or "unnamed" for n in named)
    raise PointUntrusted(
        f"{name} is signed by key {keys}, which is not trusted on this host. If it is a key of"
        " yours, import the recovery kit of the host that made it: antipode key import KIT"
    )


def unverified(document: bytes, name: str, payload_type: str) -> bytes:
    """The payload of an envelope with any signature: to learn what it would need, never to recover.

    Raises:
        VaultCorrupt: it is no envelope, or of another type.
    """
    return _read(document, name, payload_type)[1]


def private_key(pem: bytes, place: str) -> Ed25519PrivateKey:
    """A signing key: PKCS #8 as PEM, not encrypted.

    Args:
        place: where it comes from, for messages.

    Raises:
        ValueError: it is none.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{place} holds no signing key (PEM, PKCS #8, not encrypted)") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"the key in {place} is not of the kind Ed25519")
    return key


def public_keys(pem: bytes, place: str) -> dict[str, Ed25519PublicKey]:
    """Verification keys by id: SubjectPublicKeyInfo as PEM, one after another.

    Raises:
        ValueError: there is none, or something else.
    """
    end = b"-----END PUBLIC KEY-----"
    found: dict[str, Ed25519PublicKey] = {}
    for block in (part for part in pem.split(end) if part.strip()):
        try:
            key = serialization.load_pem_public_key(block + end)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ValueError(f"{place} holds no verification key (PEM)") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError(f"a key in {place} is not of the kind Ed25519")
        found[key_id(key)] = key
    if not found:
        raise ValueError(f"{place} holds no verification key (PEM)")
    return found


def private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _read(document: bytes, name: str, payload_type: str) -> tuple[_Envelope, bytes]:
    try:
        envelope = _Envelope.model_validate(json.loads(document.decode()))
    except (ValueError, RecursionError, ValidationError) as error:
        raise VaultCorrupt(f"{name} is damaged ({type(error).__name__})") from error
    if envelope.payloadType != payload_type:
        raise VaultCorrupt(f"{name} holds {envelope.payloadType[:80]!r}, not {payload_type}")
    return envelope, _decoded(envelope.payload, name)


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise VaultCorrupt(f"{name} is damaged: it is not base64") from error

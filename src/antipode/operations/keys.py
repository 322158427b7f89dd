# SPDX-License-Identifier: Apache-2.0
"""The keys that recovery points are signed and encrypted with: generate, list, rotate, import."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput, KeyMissing
from antipode.operations import kit
from antipode.operations.kit import Opener
from antipode.vault import encryption, signing

Json = dict[str, Any]


class KeyOfHost(NamedTuple):
    """A key that this host uses; no secret is in it."""

    kind: str
    id: str
    does: str
    """what it is used for"""


def generate(deployment: Deployment) -> Json:
    """Generate the keys that are missing; those that are there stay.

    Raises:
        KeyUnusable: a key file is not safe, or cannot be made.
    """
    made = deployment.keys.prepare()
    return {"generated": [str(path) for path in made], **_present(deployment)}


def rotate(deployment: Deployment, *, retire: bool = False) -> Json:
    """Sign and encrypt with new keys from now on; all that was made with the former keys stays
    valid.

    Args:
        retire: the former identities only open from now on; statements that only they have signed
            count no more.

    Raises:
        KeyMissing: there are no keys to replace.
        KeyUnusable: a key file is not safe, or keys come from the environment.
    """
    if not deployment.keys.can_sign:
        raise KeyMissing("this host has no keys to rotate. Make them: antipode key generate")
    deployment.keys.rotate(retire=retire)
    return _present(deployment)


def list_keys(deployment: Deployment) -> Iterator[KeyOfHost]:
    """Every key that this host uses: those that sign and verify, then those that encrypt and open.

    Raises:
        KeyUnusable: a key file is not safe, or holds something else.
    """
    keys = deployment.keys
    present = signing.key_id(keys.signing_key().public_key()) if keys.can_sign else None
    for number in sorted(keys.trusted(), key=lambda n: (n != present, n)):
        does = "signs and verifies" if number == present else "verifies"
        yield KeyOfHost("signature", number, does)
    retired = keys.retired()
    for index, identity in enumerate(keys.identities()):
        does = "encrypts and opens" if index == 0 else "opens"
        does = "opens (retired)" if identity in retired else does
        yield KeyOfHost("encryption", encryption.recipient_of(identity), does)
    for recipient in deployment.config.keys.recipients:
        yield KeyOfHost("encryption", recipient, "encrypts, and another holder opens")


def take_over(deployment: Deployment, path: Path, opener: Opener) -> Json:
    """Trust the verification keys, and open with the identities, of a recovery kit or a key file;
    the keys of this host stay and come first.

    Args:
        path: the folder of a kit, or a file with verification keys or identities.
        opener: opens the identities of the kit where they are encrypted.

    Raises:
        InvalidInput: there is no kit or key, or nothing given opens its identities.
        KeyUnusable: a key file of this host is not safe.
    """
    found = kit.read(path, opener)
    if not (found.trusted or found.identities):
        raise InvalidInput(f"{path} holds no key", resource=f"file {path}")
    deployment.keys.take_over(found.trusted, found.identities, found.retired)
    return {
        "trusted": sorted(found.trusted),
        "opens": [encryption.recipient_of(i) for i in found.identities],
    }


def _present(deployment: Deployment) -> Json:
    keys = deployment.keys
    return {
        "signing_key": signing.key_id(keys.signing_key().public_key()),
        "recipients": keys.recipients(),
        "directory": str(keys.folder),
    }

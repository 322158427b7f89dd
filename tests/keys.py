# SPDX-License-Identifier: Apache-2.0
"""Keys for tests that are not about keys: in the environment, as on hosts that share them."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from antipode.vault import encryption, keys, signing

VARIABLES = (keys.SIGNING_VARIABLE, keys.TRUSTED_VARIABLE, keys.IDENTITIES_VARIABLE)


def share() -> None:
    """Give this process, and those that it starts, one signing key and one identity."""
    key = signing.private_pem(Ed25519PrivateKey.generate()).decode()
    os.environ.setdefault(keys.SIGNING_VARIABLE, key)
    os.environ.setdefault(keys.IDENTITIES_VARIABLE, encryption.new_identity())

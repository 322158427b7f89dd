# SPDX-License-Identifier: Apache-2.0
"""Reads recovery points of format 1: `{"manifest": {...}, "sha256": "..."}`.

The format is described in docs/recovery-point.md. A reader accepts what antipode 0.1 wrote, and
the fields that later versions of format 1 add: `generation`, `option`, `sources`,
`backend_references`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from antipode.errors import VaultCorrupt
from antipode.model.point import RecoveryPoint
from antipode.model.point_v2 import reason
from antipode.model.vnf import from_first_edition

FORMAT = 1
_OF_CHAINS = ("format", "restore", "backups", "backend_references")
LARGEST_BYTES = 512 << 20
"""A larger document is refused before it is parsed."""


def canonical(document: object) -> bytes:
    """The one byte string of a JSON document that checksums are made over."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def is_format_1(document: bytes) -> bool:
    """Whether a document begins like one of format 1; known before it is parsed."""
    beginning = document[:64].lstrip()
    return beginning.startswith(b"{") and beginning[1:].lstrip().startswith(b'"manifest"')


def unseal(document: bytes, name: str) -> tuple[RecoveryPoint, str]:
    """The recovery point in a document, and its checksum.

    Args:
        name: of the document in the vault, for messages.

    Raises:
        VaultCorrupt: the document was changed or damaged since it was written, is of a format
            that this version does not know, or its parts do not fit together.
    """
    if len(document) > LARGEST_BYTES:
        raise VaultCorrupt(f"{name} is damaged: {len(document)} bytes; use another recovery point")
    try:
        sealed = json.loads(document)
        body, checksum = sealed["manifest"], sealed["sha256"]
        intact = set(sealed) == {"manifest", "sha256"} and isinstance(body, dict)
        intact = intact and hashlib.sha256(canonical(body)).hexdigest() == checksum
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VaultCorrupt(
            f"{name} is damaged ({type(error).__name__}); use another recovery point"
        ) from error
    if not intact:
        raise VaultCorrupt(
            f"{name} does not pass its checksum: it was changed or damaged since it was written."
            " Use another recovery point"
        )
    if body.get("format") != FORMAT:
        raise VaultCorrupt(
            f"{name} has format {body.get('format')!r}; this antipode reads format {FORMAT}"
        )
    try:
        return RecoveryPoint.model_validate(_fields(body)), str(checksum)
    except (
        ValidationError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise VaultCorrupt(
            f"{name} passes its checksum but is not valid: {reason(error)}"
        ) from error


def _fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recovery point, from a document of format 1."""
    fields = {k: v for k, v in body.items() if k not in _OF_CHAINS}
    references = dict(body.get("backend_references", {}))
    backups: Mapping[str, Any] = body["backups"]
    chains = {v: _chain(last, backups) for v, last in dict(body["restore"]).items()}
    if idle := sorted(set(backups) - {r["id"] for chain in chains.values() for r in chain}):
        raise ValueError(f"backup {idle[0]} belongs to no volume")
    fields["sources"] = {
        **{
            volume: {
                "kind": "backup-chain",
                "backups": chain,
                "backend_reference": references.pop(volume, None),
            }
            for volume, chain in chains.items()
        },
        **dict(body.get("sources", {})),
    }
    if references:
        raise ValueError(f"volume {min(references)} has a reference and no backup")
    fields["vnf"] = from_first_edition(body["vnf"])
    return fields


def _chain(last: str, backups: Mapping[str, Any]) -> list[Any]:
    """The records from the base to this backup, each checked to be the one that it is named."""
    chain: list[Any] = []
    wanted: str | None = last
    while wanted is not None:
        if len(chain) == len(backups):
            raise ValueError(f"the chain of backup {last} has a cycle")
        record = backups.get(wanted)
        if not isinstance(record, Mapping) or record.get("id") != wanted:
            raise ValueError(f"there is no record of backup {wanted}")
        chain.append(record)
        wanted = record.get("parent_id")
    return chain[::-1]

# SPDX-License-Identifier: Apache-2.0
"""Reports as files, and the signature over them: an in-toto statement with the digests of all of
them, in a DSSE envelope, so that other tools can check it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from antipode import private
from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput, ReportInvalid, VaultError
from antipode.model.report import Report
from antipode.operations.reports import page, paper, report
from antipode.vault import signing

Json = dict[str, Any]
SIGNATURE = ".sig.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:antipode:report:1"
LARGEST = 64 << 20
"""Bytes of a file that is verified."""


def _json(found: Report) -> bytes:
    return found.model_dump_json(indent=1).encode() + b"\n"


FORMS: Mapping[str, Callable[[Report], bytes]] = {
    "json": _json,
    "html": page.html,
    "pdf": paper.pdf,
}


class _Digest(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Subject(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=255)]
    digest: _Digest


class _Predicate(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    run: str
    kind: str
    vnf: str
    state: str
    made_at: str
    made_by: str


class _Statement(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[_Subject], Field(min_length=1, max_length=16)]
    predicateType: Literal["urn:antipode:report:1"]  # noqa: N815, RUF100 - in the standard
    predicate: _Predicate


def write(deployment: Deployment, run: str, folder: Path, forms: Sequence[str] = ()) -> Json:
    """Write the report of a run, and its signature; a record of the files.

    Args:
        forms: keys of `FORMS`; by default all, a PDF only where its package is installed.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it has not ended, the folder cannot be written, or a PDF cannot be made.
        KeyMissing, KeyUnusable: this host has no key to sign with.
    """
    found = report(deployment, run)
    wanted = [form for form in FORMS if form in (forms or installed(FORMS))]
    contents = {f"{run}.{form}": FORMS[form](found) for form in wanted}
    about = found.model_dump(include=set(_Predicate.model_fields))
    return {
        "run": run,
        "state": found.state,
        **write_signed(deployment, run, contents, about, folder),
        "deviations": len(found.deviations),
    }


def write_signed(
    deployment: Deployment,
    name: str,
    contents: Mapping[str, bytes],
    about: Mapping[str, Any],
    folder: Path,
) -> Json:
    """Write files, and one signature over all of them; a record of both.

    Args:
        name: of the signature, without its ending.
        contents: by the names of the files.
        about: what the statement says of them; the fields of a report of a run.

    Raises:
        InvalidInput: the folder cannot be written.
        KeyMissing, KeyUnusable: this host has no key to sign with.
    """
    signing_key = signing.key_id(deployment.keys.signing_key().public_key())
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": n, "digest": {"sha256": d}} for n, d in digests.items()],
        "predicateType": PREDICATE,
        "predicate": dict(about),
    }
    envelope = deployment.keys.sign(PAYLOAD_TYPE, json.dumps(statement).encode())
    folder = folder.expanduser()
    try:
        private.make_folder(folder)
        for file_name, content in {**contents, f"{name}{SIGNATURE}": envelope}.items():
            with open(folder / file_name, "wb", opener=private.opener) as file:
                file.truncate()
                file.write(content)
    except OSError as error:
        raise InvalidInput(
            f"the report cannot be written to {folder}: {error.strerror}",
            resource=f"folder {folder}",
        ) from error
    return {
        "files": [str(folder / file_name) for file_name in contents],
        "signature": str(folder / f"{name}{SIGNATURE}"),
        "signed_by": signing_key,
    }


def verify(deployment: Deployment, path: Path, signature: Path | None = None) -> Json:
    """See that a file of a report is as a key that this host trusts has signed it; a record of it.

    Args:
        signature: its file; by default the one that was written beside it.

    Raises:
        ReportInvalid: it was changed, is not the one that was signed, or no trusted key has signed.
        InvalidInput: a file cannot be read.
        KeyUnusable: the keys of this host cannot be used.
    """
    path = path.expanduser()
    beside = (signature or path.with_suffix(SIGNATURE)).expanduser()
    content, envelope = _read(path), _read(beside)
    try:
        signed = deployment.keys.open_envelope(envelope, str(beside), PAYLOAD_TYPE)
        statement = _Statement.model_validate_json(signed.payload)
    except (VaultError, ValidationError) as error:
        why = "it is no statement about a report" if isinstance(error, ValidationError) else error
        raise ReportInvalid(f"{beside}: {why}", resource=f"file {path}") from error
    digest = hashlib.sha256(content).hexdigest()
    subject = next((s for s in statement.subject if s.digest.sha256 == digest), None)
    if subject is None:
        raise ReportInvalid(
            f"{path} is not what was signed for run {statement.predicate.run}: it was changed, or"
            " is of another report. Ask its author for the original",
            resource=f"file {path}",
        )
    return {
        "file": str(path),
        "valid": True,
        "sha256": digest,
        "signed_by": signed.key,
        **statement.predicate.model_dump(),
    }


def installed(forms: Iterable[str]) -> list[str]:
    """Those forms that can be made here."""
    has_pdf = importlib.util.find_spec("fpdf") is not None
    return [form for form in forms if form != "pdf" or has_pdf]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}", resource=f"file {path}"
        ) from error
    if len(content) > LARGEST:
        raise InvalidInput(f"{path} is too large for a report", resource=f"file {path}")
    return content

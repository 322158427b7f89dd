# SPDX-License-Identifier: Apache-2.0
"""The history of VNFs as files, signed as reports of runs are."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from antipode.engine.deployment import Deployment
from antipode.model.history import History, VnfHistory
from antipode.operations.reports import page, paper
from antipode.operations.reports.files import installed, write_signed

Json = dict[str, Any]
KIND = "history"
"""In the place of the kind of a run, in the signed statement."""


def _json(found: History) -> bytes:
    return found.model_dump_json(indent=1).encode() + b"\n"


def _csv(found: History) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(VnfHistory.model_fields)
    writer.writerows(vnf.model_dump().values() for vnf in found.vnfs)
    return text.getvalue().encode()


FORMS: Mapping[str, Callable[[History], bytes]] = {
    "json": _json,
    "csv": _csv,
    "html": page.history_html,
    "pdf": paper.history_pdf,
}


def write(deployment: Deployment, found: History, folder: Path, forms: Sequence[str] = ()) -> Json:
    """Write a history, and its signature; a record of the files.

    Args:
        forms: keys of `FORMS`; by default all, a PDF only where its package is installed.

    Raises:
        InvalidInput: the folder cannot be written, or a PDF cannot be made.
        KeyMissing, KeyUnusable: this host has no key to sign with.
    """
    name = f"{KIND}-{found.of.replace('/', '-')}-{found.until[:19].replace(':', '')}Z"
    wanted = [form for form in FORMS if form in (forms or installed(FORMS))]
    contents = {f"{name}.{form}": FORMS[form](found) for form in wanted}
    about = {
        "run": name,
        "kind": KIND,
        "vnf": found.of,
        "state": f"{found.since} to {found.until}",
        "made_at": found.made_at,
        "made_by": found.made_by,
    }
    return {"of": found.of, **write_signed(deployment, name, contents, about, folder)}

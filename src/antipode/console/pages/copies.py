# SPDX-License-Identifier: Apache-2.0
"""The data of a VNF at other sites beside its recovery points: volumes that stand, and what its
storage or its application replicates.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.responses import Response

from antipode.console.pages.vnfs import part, vnf_of
from antipode.console.web import Asked, route
from antipode.errors import AntipodeError
from antipode.model.vnf import Vnf
from antipode.operations import datastores, standing
from antipode.operations.inspect import standing_summary


def _show(asked: Asked) -> Response:
    name = vnf_of(asked, "vnf:get")
    known = asked.deployment.vnfs.find(name)
    stands, silent = _standing(asked, known) if known else ([], [])
    copies: list[datastores.CopyStatus] = []
    if known and known.datastores:
        copies, trouble = _or_why(lambda: datastores.status(asked.deployment, name))
        silent += trouble
    return part(
        asked,
        "copies",
        name,
        stands=stands,
        copies=copies,
        trouble=silent,
        progress=standing_summary(asked.deployment, known) if known else {},
        may_remove=bool(stands) and asked.may_run("standing-removal", asked.project_of_vnf(name)),
    )


def _standing(asked: Asked, vnf: Vnf) -> tuple[list[Any], list[str]]:
    """What stands at each site of a VNF at which this host can write, and the sites that do not
    say.
    """
    found: list[Any] = []
    trouble: list[str] = []
    for site in standing.sites_of(asked.deployment, vnf):
        listed = _or_why(partial(standing.volumes, asked.deployment, vnf.vnf, site))
        found += listed[0]
        trouble += listed[1]
    return found, trouble


def _or_why(ask: Callable[[], list[Any]]) -> tuple[list[Any], list[str]]:
    """What is found, or why that is not known now: a site may be lost."""
    try:
        return ask(), []
    except AntipodeError as error:
        return [], [str(error)]


ROUTES = [route("/vnfs/{vnf}/copies", _show, is_long=True)]

# SPDX-License-Identifier: Apache-2.0
"""Has each new recovery point applied to standing volumes, as soon as it is committed."""

from __future__ import annotations

import logging
import threading
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError
from antipode.runs import standing
from antipode.service.queue import enqueue

LOG = logging.getLogger(__name__)
LOOK_S = 5.0
"""Between two looks at the database."""


def follow(deployment: Deployment, stop: threading.Event) -> None:
    """Look until `stop` is set."""
    outage = False
    while not stop.wait(LOOK_S):
        try:
            vnfs = deployment.vnfs.all()
            standing.submit_due(deployment, vnfs, partial(enqueue, deployment))
            outage = False
        except (SQLAlchemyError, AntipodeError) as error:
            if not outage:
                LOG.error("standing volumes cannot be looked at now: %s", error)
            outage = True
        except Exception:
            LOG.exception("standing volumes cannot be looked at; trying again in %.0f s", LOOK_S)

# SPDX-License-Identifier: Apache-2.0
"""Libraries that antipode depends on: those of extras, and parts that are not public interfaces.

They are checked before they are used, so that one that is missing or does not fit is named, and not
found out in a recovery.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

from antipode.errors import AntipodeError, InvalidInput

TASKFLOW, ETCD3GW = ("taskflow", ">=6.5,<6.6"), ("etcd3gw", ">=2.7,<2.8")
"""Packages and the releases that antipode was tested with, as in pyproject.toml."""
FLOWS = (
    "taskflow.persistence.backends.impl_sqlalchemy:SQLAlchemyBackend.get_connection",
    "taskflow.persistence.backends.impl_sqlalchemy:SQLAlchemyBackend.engine",
    "taskflow.persistence.backends.impl_sqlalchemy:Connection.upgrade",
    "taskflow.storage:Storage.set_task_progress",
    "taskflow.storage:Storage.fetch_all",
    "taskflow.engines.action_engine.engine:ActionEngine.storage",
    "taskflow.patterns.graph_flow:Flow._link",
    "taskflow.patterns.graph_flow:Flow._swap",
)
"""What `engine.flows` and `engine.flow_runner` replace in, or need of, TaskFlow."""
BOARD = ("taskflow.jobs.base:JobBoard.find_owner",)
ETCD_BOARD = (
    "taskflow.jobs.backends.impl_etcd:EtcdJobBoard.LOCK_POSTFIX",
    "taskflow.jobs.backends.impl_etcd:EtcdJob.key",
)
ETCD_CLIENT = (
    "etcd3gw:Lease.refresh",
    "etcd3gw:Lease.revoke",
    "etcd3gw:Etcd3Client.transaction",
    "etcd3gw.exceptions:Etcd3Exception",
)
"""What a claim on etcd uses beside TaskFlow's own calls."""

OSLO_MESSAGING = ("oslo.messaging", ">=14,<18")
NOTIFICATIONS = (
    "oslo_messaging.transport:Transport._send_notification",
    "oslo_messaging:get_notification_transport",
)
"""What a receiver of events on a message bus uses: its public notifier hides what is not sent."""


def need(package: str, extra: str, user: str) -> None:
    """See that a package of an extra is installed.

    Args:
        user: the part that needs it, for the message.

    Raises:
        InvalidInput: it is not.
    """
    if find_spec(package) is None:
        raise InvalidInput(
            f"{user} needs the Python package {package}: pip install 'antipode[{extra}]'"
        )


def check(package: tuple[str, str], seams: Iterable[str]) -> None:
    """See that a library has what antipode needs of it.

    Args:
        package: its name and the releases that fit.
        seams: `module:attribute.attribute` of each.

    Raises:
        AntipodeError: it lacks one; names the package, its version, and the releases that fit.
    """
    name, fitting = package
    for seam in seams:
        module, _, path = seam.partition(":")
        try:
            found: object = import_module(module)
            for attribute in path.split("."):
                found = getattr(found, attribute)
        except (ImportError, AttributeError) as error:
            raise AntipodeError(
                f"{name} {version(name)} does not fit this antipode, as it has no {seam}. Install "
                f"one that does: pip install '{name}{fitting}'"
            ) from error

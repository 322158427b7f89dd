# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's way to a database, with one connection object for all writes."""

from __future__ import annotations

from typing import Any

from taskflow.persistence.backends.impl_sqlalchemy import SQLAlchemyBackend


class Backend(SQLAlchemyBackend):  # type: ignore[misc]
    """Keeps its connection object. TaskFlow's own builds its tables, and SQLAlchemy their
    statements, again for every write: a quarter of what a task costs.
    """

    _connection: Any = None

    def get_connection(self) -> Any:
        if self._connection is None:
            self._connection = super().get_connection()
        return self._connection

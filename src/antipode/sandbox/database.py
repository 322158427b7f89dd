# SPDX-License-Identifier: Apache-2.0
"""The resources of a site, in one SQLite file written at each change: a killed site comes back with
all of them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Table:
    """The resources of one kind by id, oldest first; what is kept here is in the file when the call
    returns.
    """

    def __init__(self, connection: sqlite3.Connection, kind: str) -> None:
        self._connection = connection
        self._kind = kind
        rows = connection.execute(
            "SELECT id, content FROM resource WHERE kind = ? ORDER BY rowid", (kind,)
        )
        self._items: dict[str, Json] = {item_id: json.loads(content) for item_id, content in rows}

    def __iter__(self) -> Iterator[Json]:
        return iter(list(self._items.values()))

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._items

    def __getitem__(self, item_id: str) -> Json:
        return self._items[item_id]

    def get(self, item_id: str | None) -> Json | None:
        return self._items.get(item_id) if item_id is not None else None

    def where(self, holds: Callable[[Json], bool]) -> list[Json]:
        return [item for item in self._items.values() if holds(item)]

    def keep(self, item: Json, **changes: Any) -> Json:
        """Write a resource, after these changes to it."""
        item.update(changes)
        self._items[item["id"]] = item
        self._connection.execute(
            "INSERT INTO resource (kind, id, content) VALUES (?, ?, ?) ON CONFLICT (kind, id) DO "
            "UPDATE SET content = excluded.content",
            (self._kind, item["id"], json.dumps(item)),
        )
        return item

    def drop(self, item_id: str) -> None:
        self._items.pop(item_id, None)
        self._connection.execute(
            "DELETE FROM resource WHERE kind = ? AND id = ?", (self._kind, item_id)
        )


class Database:
    def __init__(self, path: Path) -> None:
        # a killed process loses nothing that it has handed to the kernel, and no site outlives its
        # machine: hence no sync
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"
            "CREATE TABLE IF NOT EXISTS resource (kind TEXT, id TEXT, content TEXT, UNIQUE "
            "(kind, id))"
        )

    def table(self, kind: str) -> Table:
        return Table(self._connection, kind)

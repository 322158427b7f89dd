# SPDX-License-Identifier: Apache-2.0
"""The policies that administrators have made and projects choose from."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError
from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from antipode import clock
from antipode.errors import InvalidInput, NotFound
from antipode.model.policy import Policy
from antipode.store.rows import removed
from antipode.store.tables import PolicyRow


class Policies:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, policy: Policy, by: str) -> bool:
        """Keep a policy; whether it is new and did not replace one of the same name."""
        definition = policy.model_dump(mode="json")
        row = PolicyRow(
            name=policy.policy, definition=definition, changed_at=clock.now(), changed_by=by
        )
        with Session(self._engine) as session, session.begin():
            replaced = session.execute(delete(PolicyRow).where(PolicyRow.name == policy.policy))
            session.add(row)
            return not replaced.rowcount  # type: ignore[attr-defined]

    def get(self, name: str) -> Policy:
        """A policy.

        Raises:
            NotFound: there is none of this name.
            InvalidInput: what is stored cannot be read.
        """
        with Session(self._engine) as session:
            row = session.get(PolicyRow, name)
        if row is None:
            raise NotFound(f"there is no policy {name}", resource=f"policy {name}")
        return _read(row)

    def page(self, limit: int, marker: str | None = None) -> Sequence[Policy]:
        """Some policies, in the order of their names; `marker`: the name after which they begin."""
        rows = select(PolicyRow).order_by(PolicyRow.name).limit(limit)
        if marker is not None:
            rows = rows.where(PolicyRow.name > marker)
        with Session(self._engine) as session:
            return [_read(row) for row in session.scalars(rows)]

    def remove(self, name: str) -> bool:
        """Remove a policy; whether there was one."""
        return removed(self._engine, PolicyRow, name)


def _read(row: PolicyRow) -> Policy:
    try:
        return Policy.model_validate(row.definition)
    except ValidationError as error:
        raise InvalidInput(
            f"policy {row.name} cannot be read ({' '.join(str(error).split())}); put it again",
            resource=f"policy {row.name}",
        ) from error

# SPDX-License-Identifier: Apache-2.0
"""Where each VNF is active, as this installation has last read it from the vaults."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, bindparam, select
from sqlalchemy.orm import Session

from antipode import clock
from antipode.model.state import ProtectedVnf
from antipode.store.rows import changing, created
from antipode.store.tables import StateRow

_SOME = select(StateRow.vnf, StateRow.state).where(
    StateRow.vnf.in_(bindparam("vnfs", expanding=True))
)


class States:
    """The last known states. The vaults decide; this is what is shown and gone by without them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def keep(self, state: ProtectedVnf) -> ProtectedVnf:
        """Keep a state that was read from the vaults, unless a later generation is known here: the
        vaults that were read may not have learned of it yet. The later of the two.
        """
        values = {
            "generation": state.generation,
            "state": state.model_dump(mode="json"),
            "read_at": clock.now(),
        }
        # An update that finds no row, before the insert, would be a deadlock in MariaDB.
        row = StateRow(vnf=state.vnf, **values)
        if self.find(state.vnf) is None and created(self._engine, row):
            return state
        # in one statement: of two that write at once, the higher generation stays
        ours = (
            changing(StateRow)
            .where(StateRow.vnf == state.vnf, StateRow.generation <= state.generation)
            .values(values)
        )
        with Session(self._engine) as session, session.begin():
            if session.execute(ours).rowcount:  # type: ignore[attr-defined]
                return state
        return self.find(state.vnf) or state  # None where the VNF was removed just now

    def find(self, vnf: str) -> ProtectedVnf | None:
        """The last known state of a VNF, if one was read here."""
        with Session(self._engine) as session:
            row = session.get(StateRow, vnf)
        return None if row is None else ProtectedVnf.model_validate(row.state)

    def all(self) -> dict[str, ProtectedVnf]:
        """The last known states by VNF."""
        with Session(self._engine) as session:
            rows = session.scalars(select(StateRow)).all()
        return {row.vnf: ProtectedVnf.model_validate(row.state) for row in rows}

    def some(self, vnfs: Sequence[str]) -> dict[str, ProtectedVnf]:
        """The last known states of these VNFs, as far as there are any."""
        with self._engine.connect() as connection:
            rows = connection.execute(_SOME, {"vnfs": list(vnfs)}).all()
        return {vnf: ProtectedVnf.model_validate(state) for vnf, state in rows}

    def forget(self, vnf: str) -> None:
        """Forget the state of a VNF; one that is not known is no error."""
        with Session(self._engine) as session, session.begin():
            if (row := session.get(StateRow, vnf)) is not None:
                session.delete(row)

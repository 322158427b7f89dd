"""The VNF definitions that were added here."""

from __future__ import annotations

import time

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from antipode.errors import NotFound
from antipode.model.vnf import Vnf, from_first_edition
from antipode.store.tables import VnfRow


class Vnfs:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, vnf: Vnf) -> bool:
        """Keep a definition; whether it is new and did not replace one of the same name."""
        with Session(self._engine) as session, session.begin():
            row = session.get(VnfRow, vnf.vnf)
            session.merge(
                VnfRow(name=vnf.vnf, definition=vnf.model_dump(mode="json"), added_at=time.time())
            )
            return row is None

    def get(self, name: str) -> Vnf:
        """The definition of a VNF.

        Raises:
            NotFound: it was never added here.
        """
        with Session(self._engine) as session:
            row = session.get(VnfRow, name)
            known = (
                session.scalars(select(VnfRow.name).order_by(VnfRow.name)).all()
                if row is None
                else []
            )
        if row is None:
            raise NotFound(
                f"VNF {name} is not known here; known: {', '.join(known) or 'none'}; add it "
                "with: antipode vnf add FILE"
            )
        return Vnf.model_validate(from_first_edition(row.definition))

    def find(self, name: str) -> Vnf | None:
        try:
            return self.get(name)
        except NotFound:
            return None

    def all(self) -> list[Vnf]:
        with Session(self._engine) as session:
            return [
                Vnf.model_validate(from_first_edition(r.definition))
                for r in session.scalars(select(VnfRow).order_by(VnfRow.name))
            ]

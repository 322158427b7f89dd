# SPDX-License-Identifier: Apache-2.0
"""Whether VNFs could be recovered, as it was seen: of several hosts, one looks at a time, and what
stays as it was is one row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Engine, Select, Update, and_, delete, func, select
from sqlalchemy.orm import Session

from antipode.model.readiness import Finding, Level, verdict
from antipode.store.rows import changing, created, forget_vnf
from antipode.store.tables import LookRow, ReadinessRow

Json = dict[str, Any]
MOST_KEPT = 500
"""Rows of a VNF and a site that stay, the newest ones."""
_NAME = re.compile(r"\W*[A-Za-z][A-Za-z_-]*\d{0,2}\W*|[^\d]*")
"""A word that stays from look to look: without digits, or with a number at its end, as of db1."""


class Look(NamedTuple):
    """A look that this process has taken."""

    vnf: str
    site: str
    number: int


class Readiness:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def looks(self, site: str) -> dict[str, LookRow]:
        """By VNF, when it is looked next whether it could be recovered at a site."""
        with Session(self._engine) as session:
            rows = session.scalars(select(LookRow).where(LookRow.site == site))
            return {row.vnf: row for row in rows}

    def want(self, vnf: str, site: str, known: LookRow | None, due_at: float) -> None:
        """Have a VNF looked at from now on; nothing changes where another host has done it."""
        if known is None:
            row = LookRow(
                vnf=vnf, site=site, due_at=due_at, not_before=0.0, taken=0, is_wanted=True
            )
            created(self._engine, row)
            return
        self._write(known, {"is_wanted": True, "due_at": due_at, "not_before": 0.0})

    def leave(self, known: LookRow) -> None:
        """Have a VNF not looked at any more; what was seen of it stays in the history."""
        self._write(known, {"is_wanted": False})

    def hasten(self, vnf: str, at: float) -> None:
        """Have a VNF that could not be recovered looked at from a moment on (seconds since the
        epoch), as the reason may be gone.
        """
        red = [row.site for row in self.current(vnf) if row.level == Level.RED]
        later = changing(LookRow).where(LookRow.vnf == vnf, LookRow.site.in_(red))
        if red:
            with Session(self._engine) as session, session.begin():
                session.execute(later.where(LookRow.due_at > at).values(due_at=at))

    def take(self, known: LookRow, until: float) -> Look | None:
        """Take a look from other hosts until a moment; None: another has it."""
        mine = Look(known.vnf, known.site, known.taken + 1)
        return mine if self._write(known, {"taken": mine.number, "not_before": until}) else None

    def hold(self, look: Look, until: float) -> None:
        """Have a look for longer; nothing changes where another host has taken it since."""
        with Session(self._engine) as session, session.begin():
            session.execute(_look(look).values(not_before=until))

    def release(self, look: Look) -> None:
        """Leave a look that was taken to any host."""
        with Session(self._engine) as session, session.begin():
            session.execute(_look(look).values(not_before=0.0))

    def keep(self, look: Look, findings: Sequence[Finding], at: float, due_at: float) -> bool:
        """Keep what a look has seen, and when the next is due, both or neither of them; False:
        another host has taken the look since, or the VNF was removed.

        Args:
            at, due_at: seconds since the epoch.
        """
        level, seen = verdict(findings).value, [f.model_dump(mode="json") for f in findings]
        with Session(self._engine) as session, session.begin():
            done = _look(look).values(due_at=due_at, not_before=0.0)
            if not session.execute(done).rowcount:  # type: ignore[attr-defined]
                return False
            last = session.scalars(_newest_first(look).limit(1)).first()
            if last is not None and _reasons(last.findings) == _reasons(seen):
                last.seen_at, last.looks, last.findings = at, last.looks + 1, seen
                return True
            session.add(
                ReadinessRow(
                    vnf=look.vnf,
                    site=look.site,
                    number=look.number,
                    level=level,
                    before=last.level if last is not None else None,
                    since=at,
                    seen_at=at,
                    looks=1,
                    findings=seen,
                )
            )
        return True

    def wanted(self) -> list[LookRow]:
        """All looks that are made again and again, with the moments at which they are due."""
        with Session(self._engine) as session:
            return list(session.scalars(select(LookRow).where(LookRow.is_wanted)))

    def current(self, vnf: str | None = None) -> list[ReadinessRow]:
        """What was seen last of each VNF, at each site where it could be recovered."""
        newest = (
            select(ReadinessRow.vnf, ReadinessRow.site, func.max(ReadinessRow.number).label("last"))
            .group_by(ReadinessRow.vnf, ReadinessRow.site)
            .subquery()
        )
        of_newest = and_(
            newest.c.vnf == ReadinessRow.vnf,
            newest.c.site == ReadinessRow.site,
            newest.c.last == ReadinessRow.number,
        )
        wanted = and_(
            LookRow.vnf == ReadinessRow.vnf, LookRow.site == ReadinessRow.site, LookRow.is_wanted
        )
        rows = select(ReadinessRow).join(newest, of_newest).join(LookRow, wanted)
        if vnf is not None:
            rows = rows.where(ReadinessRow.vnf == vnf)
        with Session(self._engine) as session:
            return list(session.scalars(rows.order_by(ReadinessRow.vnf, ReadinessRow.site)))

    def history(self, vnf: str | None, most: int) -> list[ReadinessRow]:
        """What was seen, the newest first."""
        rows = select(ReadinessRow).order_by(ReadinessRow.since.desc(), ReadinessRow.number.desc())
        if vnf is not None:
            rows = rows.where(ReadinessRow.vnf == vnf)
        with Session(self._engine) as session:
            return list(session.scalars(rows.limit(most)))

    def changed_since(self, moment: float) -> list[ReadinessRow]:
        """What was seen first after a moment (seconds since the epoch)."""
        with Session(self._engine) as session:
            return list(session.scalars(select(ReadinessRow).where(ReadinessRow.since > moment)))

    def forget(self, vnf: str) -> None:
        """Forget all of a VNF; a host that is looking at it keeps nothing."""
        forget_vnf(self._engine, vnf, LookRow, ReadinessRow)

    def prune(self, before: float, most: int = MOST_KEPT) -> int:
        """Delete what was seen last before a moment, and of each VNF and site all but the newest
        `most`; the newest stays in any case. How many rows.
        """
        rank = func.row_number().over(
            partition_by=(ReadinessRow.vnf, ReadinessRow.site),
            order_by=ReadinessRow.number.desc(),
        )
        key = (ReadinessRow.vnf, ReadinessRow.site, ReadinessRow.number)
        ranked = select(*key, ReadinessRow.seen_at, rank.label("place")).subquery()
        old = (ranked.c.place > most) | ((ranked.c.place > 1) & (ranked.c.seen_at < before))
        with Session(self._engine) as session:
            found = session.execute(
                select(ranked.c.vnf, ranked.c.site, ranked.c.number).where(old)
            ).all()
        for vnf, site, number in found:
            with Session(self._engine) as session, session.begin():
                session.execute(
                    delete(ReadinessRow).where(
                        ReadinessRow.vnf == vnf,
                        ReadinessRow.site == site,
                        ReadinessRow.number == number,
                    )
                )
        return len(found)

    def _write(self, known: LookRow, values: Json) -> bool:
        """Change a row that no host has taken since it was read; whether this process did it."""
        changed = _look(Look(known.vnf, known.site, known.taken)).values(values)
        with Session(self._engine) as session, session.begin():
            return bool(session.execute(changed).rowcount)  # type: ignore[attr-defined]


def _look(look: Look) -> Update:
    return changing(LookRow).where(
        LookRow.vnf == look.vnf, LookRow.site == look.site, LookRow.taken == look.number
    )


def _newest_first(look: Look) -> Select[Any]:
    return (
        select(ReadinessRow)
        .where(ReadinessRow.vnf == look.vnf, ReadinessRow.site == look.site)
        .order_by(ReadinessRow.number.desc())
    )


def _reasons(findings: Sequence[Json]) -> set[tuple[str, str, str]]:
    """That of findings which says whether something has changed: what is not green, without the
    words that have digits and are no names, as ages, ids and amounts change at each look.
    """
    return {
        (f["check"], f["level"], " ".join(filter(_NAME.fullmatch, f["detail"].split())))
        for f in findings
        if f["level"] != Level.GREEN
    }

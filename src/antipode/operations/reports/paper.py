# SPDX-License-Identifier: Apache-2.0
"""A report as a PDF. It has the fonts that every reader of PDFs has: a character that they lack is
written as its escape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from antipode.errors import InvalidInput
from antipode.model.history import History
from antipode.model.report import Report
from antipode.operations.reports.page import figures, foretold, subject, target

LONGEST = 800
"""Characters of one piece of text: a row of a table has to fit on a page."""
_FONT, _SIZE, _LINE = "Helvetica", 9, 4.5


def pdf(report: Report) -> bytes:
    """The document.

    Raises:
        InvalidInput: fpdf2 is not installed.
    """
    title = f"{report.kind} of {subject(report.vnf)}: {report.state}"
    paper = _document(title, report.made_at)
    _run(paper, report, 16)
    made = f"Made at {report.made_at} by {report.made_by} with antipode {report.antipode}."
    _line(paper, made)
    return bytes(paper.output())


def history_pdf(found: History) -> bytes:
    """A history as a document.

    Raises:
        InvalidInput: fpdf2 is not installed.
    """
    title = f"Protection of {found.of}, {found.since} to {found.until}"
    paper = _document(title, found.made_at)
    _heading(paper, title, 16)
    for note in found.notes:
        _line(paper, note)
    for vnf in found.vnfs:
        _heading(paper, f"VNF {vnf.vnf}", 13)
        _table(paper, (1, 4), list(figures(vnf)))
    _line(paper, f"Made at {found.made_at} by {found.made_by} with antipode {found.antipode}.")
    return bytes(paper.output())


def _document(title: str, made_at: str) -> Any:
    """An empty document.

    Raises:
        InvalidInput: fpdf2 is not installed.
    """
    try:
        from fpdf import FPDF
    except ImportError as error:
        raise InvalidInput(
            "a PDF needs the package fpdf2: pip install 'antipode[pdf]', or leave out --form pdf"
        ) from error
    paper = FPDF(orientation="landscape", format="A4")
    paper.set_creation_date(datetime.fromisoformat(made_at))
    paper.set_title(_latin(title))
    paper.set_auto_page_break(auto=True, margin=12)
    paper.add_page()
    return paper


def _run(paper: Any, report: Report, size: int) -> None:
    _heading(paper, f"{report.kind} of {subject(report.vnf)}: {report.state}", size)
    _table(paper, (1, 4), list(_facts(report)))
    _heading(paper, "Deviations", size - 3)
    for line in report.deviations or ["None."]:
        _line(paper, line)
    if report.answers:
        _heading(paper, "Answers", size - 3)
        rows = [
            (a.step, a.question, a.answer or "none", a.by or "", a.at or "") for a in report.answers
        ]
        _table(paper, (2, 5, 2, 2, 3), [("Step", "Question", "Answer", "By", "At"), *rows])
    _heading(paper, "Steps", size - 3)
    steps = [
        (
            s.began_at,
            "" if s.seconds is None else f"{s.seconds:g}",
            f"{s.number} {s.name}".strip(),
            s.resource,
            s.state,
            s.error or ", ".join(f"{k} {v}" for k, v in s.facts.items()),
        )
        for s in report.steps
    ]
    heads = ("Began", "Seconds", "Step", "Resource", "State", "Facts")
    _table(paper, (4, 2, 4, 4, 2, 7), [heads, *steps])
    for part in report.parts:
        _run(paper, part, max(size - 3, 10))


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    content, leaks = report.content, report.leaks
    yield "Run", report.run
    yield "Site", report.site or "none"
    yield "Recovery point", report.recovery_point or "none"
    yield "Began", report.began_at
    yield "Ended", f"{report.ended_at}, after {report.seconds} s"
    yield "Author", report.author or "unknown"
    approvals = "".join(f"; {a.by}, {a.at}" for a in report.approvals)
    yield "Approvals", f"{len(report.approvals)} of {report.approvals_needed} needed{approvals}"
    yield "Executed by", report.executed_by or "unknown"
    confirmed = "".join(f"; {k}: {v}" for k, v in report.confirmed.items())
    yield "Confirmed", (report.confirmed_at or "needs no confirmation") + confirmed
    yield "RPO", target(report.rpo)
    yield "RTO", target(report.rto)
    if report.forecast is not None:
        yield "Forecast", foretold(report.forecast)
    if report.quiesce_window_s is not None:
        yield "Quiesce window", f"{report.quiesce_window_s} s"
    if report.downtime_s is not None:
        yield "Downtime", f"{report.downtime_s} s"
    yield (
        "Content",
        "; ".join([f"{content.equal} of {content.compared} volumes equal", *content.detail])
        if content
        else "not compared",
    )
    yield "Left at the site", "not looked at" if leaks is None else "; ".join(leaks) or "nothing"
    if report.reason:
        yield "Reason", report.reason


def _heading(paper: Any, text: str, size: int) -> None:
    paper.ln(2)
    paper.set_font(_FONT, style="B", size=size)
    paper.multi_cell(0, size * 0.5, _latin(text), new_x="LMARGIN", new_y="NEXT")


def _line(paper: Any, text: str) -> None:
    paper.set_font(_FONT, size=_SIZE)
    paper.multi_cell(0, _LINE, _latin(text), new_x="LMARGIN", new_y="NEXT")


def _table(paper: Any, widths: Sequence[int], rows: Sequence[Sequence[str]]) -> None:
    paper.set_font(_FONT, size=_SIZE)
    with paper.table(
        col_widths=tuple(widths), line_height=_LINE, text_align="LEFT", first_row_as_headings=False
    ) as table:
        for row in rows:
            table.row([_latin(cell) for cell in row])


def _latin(text: str) -> str:
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} … (all of it is in the other forms)"
    return text.encode("latin-1", "backslashreplace").decode("latin-1")
